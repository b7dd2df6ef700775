"""The configuration of a policy: all that it is built from, weights aside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from polysoma.config import decode
from polysoma.data.statistics import Statistics
from polysoma.embodiment import TEXT_LENGTH, ContinuousActions, Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.nn.attention import check_heads
from polysoma.nn.correction import CorrectionConfig
from polysoma.nn.described import MAX_HISTORY
from polysoma.nn.finder import readable, reduced_size
from polysoma.nn.heads import HeadConfig, ReadoutHead
from polysoma.nn.images import ImageConfig
from polysoma.nn.trunk import TransformerConfig, TrunkConfig
from polysoma.nn.words import MOST_WORDS, PLACES
from polysoma.policy.adaptation import Adaptation

Adapters = Literal["linear", "described"]


@dataclass(frozen=True)
class PolicyConfig:
    """All that a policy is built from, weights aside.

    Attributes:
        embodiments: the bodies it knows.
        statistics: body name, then stream name (``"action"`` for actions), to the statistics used for normalisation.
        horizons: body name to how the policy looks at it.
        vocabulary: the words it knows.
        width: of tokens.
        trunk: what the trunk is, and how large.
        heads: attention heads of the block that reads words.
        images: how pictures become tokens.
        head: how real-valued actions are predicted.
        adapters: ``"linear"`` gives every body linear maps of its own from channels to tokens and from readouts to
            actions; ``"described"`` has them written from the channels' descriptions, for bodies whose actions are
            channels (L1 heads).
        waves: frequencies at which linear adapters say each channel of a state a second time, as a sine and a cosine,
            so that what depends on small differences is learnt (:mod:`polysoma.nn.waves`); 0 for none.
        film: rank at which the words scale the tokens of states (:class:`~polysoma.nn.tokenizers.StateTokenizer`), of
            linear adapters; 0 for not at all.
        relative: bodies (:attr:`Embodiment.body`) whose actions are predicted as offsets from the command executed last
            ("delta actions"; openpi does so for joint positions), or at an episode's first frame from the state
            channels of the same names; but channels without a unit, such as how open a gripper is, are predicted as
            they are. Their ``"offset"`` statistics are of ``chunk * A`` channels.
        gated: bodies (:attr:`Embodiment.body`) that are asked for a place and for an offset from the command executed
            last, and learn which of the two counts (:class:`~polysoma.nn.heads.GatedHead`). At an episode's first frame
            the state channels of the same names and units stand in for the command, where all have one. Their
            ``"offset"`` statistics are of ``chunk * A`` channels. With ``"lag"`` statistics, of A channels, their
            offsets also depend on how far joints are behind that command; policies of before have none.
        frames_per_demonstration: that it reads of each demonstration that it is given before it acts (learning in
            context); 0 where it reads no demonstrations.
        readouts: action group (:attr:`Embodiment.body`) to the readouts that its bodies have beside that of actions, by
            name (:meth:`Policy.add_readout`).
        corrections: bodies by name whose answers are corrected by what reward has taught
            (:meth:`Policy.add_correction`).
        adaptation: how the policy differs from a base that it shares weights with; None where it stands alone.
        most_words: how many words of an instruction it reads.
    """

    embodiments: tuple[Embodiment, ...]
    statistics: Mapping[str, Mapping[str, Statistics]]
    vocabulary: tuple[str, ...]
    horizons: Mapping[str, Horizon]
    width: int = 256
    trunk: TrunkConfig = TransformerConfig()  # noqa: RUF009  (frozen)
    heads: int = 4
    images: ImageConfig = ImageConfig()  # noqa: RUF009  (frozen)
    head: HeadConfig = HeadConfig()  # noqa: RUF009  (frozen)
    adapters: Adapters = "linear"
    waves: int = 0
    film: int = 0
    relative: tuple[str, ...] = ()
    gated: tuple[str, ...] = ()
    frames_per_demonstration: int = 0
    readouts: Mapping[str, Mapping[str, ReadoutHead]] = field(default_factory=dict)
    corrections: Mapping[str, CorrectionConfig] = field(default_factory=dict)
    adaptation: Adaptation | None = None
    most_words: int = MOST_WORDS

    def __post_init__(self) -> None:
        if missing := [body.name for body in self.embodiments if body.name not in self.horizons]:
            raise PolysomaError(f"horizons: expected one for each body, there is none for {missing}")
        if self.adapters not in get_args(Adapters):
            raise PolysomaError(f"adapters: expected one of {get_args(Adapters)}, got {self.adapters!r}")
        if self.adapters == "described" and self.head.kind != "l1":
            raise PolysomaError(f"described channels have heads of kind l1, not {self.head.kind!r}")
        if self.adapters == "described" and self.relative:
            raise PolysomaError(f"described channels have absolute actions; relative is {list(self.relative)}")
        if self.gated and (self.adapters == "described" or self.head.kind != "l1"):
            raise PolysomaError(f"gated: expected adapters linear and heads l1, got {self.adapters}, {self.head.kind}")
        if both := sorted(set(self.gated) & set(self.relative)):
            raise PolysomaError(f"expected bodies to be gated or relative, {both} are both")
        self._check_numbers()
        for body in self.embodiments:
            horizon = self.horizons[body.name]
            if self.adapters == "described" and horizon.history > MAX_HISTORY:
                raise PolysomaError(
                    f"{body.name}: described channels have a history of at most {MAX_HISTORY}, got {horizon.history}"
                )
            _check_statistics(body, horizon, self.statistics.get(body.name, {}))
            _check_cameras(body, self.images)

    def _check_numbers(self) -> None:
        names = [body.name for body in self.embodiments]
        if len(set(names)) != len(names):
            raise PolysomaError(f"embodiments: expected different names, got {names}")
        if self.width < 1 or not 0 <= self.frames_per_demonstration <= 10_000:
            raise PolysomaError(
                "expected a width of at least 1 and frames_per_demonstration from 0 to 10,000, "
                f"got {self.width} and {self.frames_per_demonstration}"
            )
        if not 0 <= self.waves <= 16 or (self.waves and self.adapters == "described"):
            raise PolysomaError(f"waves: expected 0 to 16, and 0 for described channels, got {self.waves}")
        if not 0 <= self.film <= 1024 or (self.film and self.adapters == "described"):
            raise PolysomaError(f"film: expected 0 to 1,024, and 0 for described channels, got {self.film}")
        if not 1 <= self.most_words <= TEXT_LENGTH:
            raise PolysomaError(f"most_words: expected 1 to {TEXT_LENGTH}, got {self.most_words}")
        check_heads("heads", self.width, self.heads)
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise PolysomaError("vocabulary: expected words that differ, got some twice")
        if self.adaptation is not None and self.adaptation.words > len(self.vocabulary):
            raise PolysomaError(
                f"adaptation.words: expected at most the vocabulary's {len(self.vocabulary)}, "
                f"got {self.adaptation.words}"
            )

    def to_json(self) -> dict[str, Any]:
        corrections = {body: dataclasses.asdict(correction) for body, correction in self.corrections.items()}
        return {
            "embodiments": [body.to_json() for body in self.embodiments],
            "statistics": {
                body: {name: value.to_json() for name, value in streams.items()}
                for body, streams in self.statistics.items()
            },
            "vocabulary": list(self.vocabulary),
            "horizons": {name: horizon.to_json() for name, horizon in self.horizons.items()},
            "width": self.width,
            "trunk": dataclasses.asdict(self.trunk),
            "heads": self.heads,
            "images": dataclasses.asdict(self.images),
            "head": dataclasses.asdict(self.head),
            "adapters": self.adapters,
            "waves": self.waves,
            "film": self.film,
            "relative": list(self.relative),
            "gated": list(self.gated),
            "shown": self.frames_per_demonstration,
            "readouts": {
                body: {name: dataclasses.asdict(head) for name, head in own.items()}
                for body, own in self.readouts.items()
            },
            **({"corrections": corrections} if corrections else {}),
            "adaptation": None if self.adaptation is None else dataclasses.asdict(self.adaptation),
            "most_words": self.most_words,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PolicyConfig:
        """The inverse of :meth:`to_json`; reads the first format, too.

        Raises:
            PolysomaError: in one line, the key that is missing, unknown or of another type, or what cannot be.
        """
        table = {key: value for key, value in data.items() if key not in BESIDE}
        old = {key: table.pop(key) for key in ("depth",) if key in table}
        try:
            bodies = tuple(Embodiment.from_json(body) for body in _list(table.pop("embodiments", None)))
            statistics = {
                body: {name: Statistics.from_json(value) for name, value in _table(streams).items()}
                for body, streams in _table(table.pop("statistics", None)).items()
            }
            # The first format knew one kind of trunk, and kept horizons in the embodiments.
            if "depth" in old and "trunk" not in table:
                table["trunk"] = {"kind": "transformer", **old, "heads": table.get("heads")}
            if "horizons" not in table:
                horizons = (Horizon.of_old_embodiment(body) or Horizon() for body in data["embodiments"])
                table["horizons"] = {b.name: h.to_json() for b, h in zip(bodies, horizons, strict=True)}
            stored = decode(_Stored, table, "not the configuration of a policy")
            rest = {field.name: getattr(stored, field.name) for field in dataclasses.fields(stored)}
            return PolicyConfig(bodies, statistics, frames_per_demonstration=rest.pop("shown"), **rest)
        except PolysomaError as error:
            raise PolysomaError(str(error).splitlines()[0]) from error


BESIDE = ("format_version", "lineage", "weights_sha256")
"""What ``config.json`` of a checkpoint holds beside the configuration."""


@dataclass(frozen=True)
class _Stored:
    """A configuration in JSON, without what has a form of its own there."""

    vocabulary: tuple[str, ...]
    horizons: Mapping[str, Horizon]
    width: int
    trunk: TrunkConfig
    heads: int
    images: ImageConfig = ImageConfig()  # noqa: RUF009  (frozen)
    head: HeadConfig = HeadConfig()  # noqa: RUF009  (frozen)
    adapters: Adapters = "linear"
    waves: int = 0
    film: int = 0
    relative: tuple[str, ...] = ()
    gated: tuple[str, ...] = ()
    shown: int = 0
    """Files call frames_per_demonstration so."""
    readouts: Mapping[str, Mapping[str, ReadoutHead]] = field(default_factory=dict)
    corrections: Mapping[str, CorrectionConfig] = field(default_factory=dict)
    adaptation: Adaptation | None = None
    most_words: int = PLACES
    """Those that do not say so read no more words than had places of their own."""


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise PolysomaError(f"embodiments: expected a list, got {type(value).__name__}")
    return list(value)


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise PolysomaError(f"statistics: expected tables, got {type(value).__name__}")
    return value


def _check_cameras(body: Embodiment, images: ImageConfig) -> None:
    """Raises PolysomaError where a camera's pictures are too small for the eyes."""
    for stream in body.streams:
        if stream.modality is not Modality.IMAGE or readable(images, *(size := stream.shape[:2])):
            continue
        seen = reduced_size(*size) if images.reduction == "named" else size
        read = "" if seen == size else f", which are reduced to {seen[0]} x {seen[1]}"
        raise PolysomaError(
            f"{body.name}: camera {stream.name!r} has pictures of {size[0]} x {size[1]} pixels{read}; eyes of backbone "
            f"{images.backbone} with reduction {images.reduction} need at least {images.least[0]} x {images.least[1]}"
        )


def _check_statistics(body: Embodiment, horizon: Horizon, statistics: Mapping[str, Statistics]) -> None:
    """Raises PolysomaError where statistics that are there are of another number of channels than the body has."""
    sizes: dict[str, tuple[int, ...]] = {
        s.name: (len(s.channels),) for s in body.recorded if s.modality is Modality.STATE
    }
    if isinstance(body.actions, ContinuousActions):
        every = horizon.chunk * body.actions.size
        sizes |= {"action": (body.actions.size, every), "offset": (every,), "lag": (body.actions.size,)}
    for name, allowed in sizes.items():
        if name in statistics and len(statistics[name].mean) not in allowed:
            raise PolysomaError(
                f"{body.name}: expected statistics of {allowed[0]} channels for {name!r}, got "
                f"{len(statistics[name].mean)}"
            )

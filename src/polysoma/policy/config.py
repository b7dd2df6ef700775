"""The configuration of a policy: all that it is built from, weights aside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from polysoma.data.statistics import Statistics
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.nn.heads import HeadConfig, ReadoutHead, ValueConfig
from polysoma.nn.images import ImageConfig
from polysoma.nn.trunk import TransformerConfig, TrunkConfig
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
        relative: bodies (:attr:`Embodiment.body`) whose actions are predicted as offsets from the command executed last
            ("delta actions"; openpi does so for joint positions), or at an episode's first frame from the state
            channels of the same names; but channels without a unit, such as how open a gripper is, are predicted as
            they are. Their ``"offset"`` statistics are of ``chunk * A`` channels.
        shown: how many frames of each episode it reads that it is shown before it acts (learning in context); 0 where
            it cannot be shown any.
        readouts: action group (:attr:`Embodiment.body`) to the readouts that its bodies have beside that of actions, by
            name (:meth:`Policy.add_readout`).
        adaptation: how the policy differs from a base that it shares weights with; None where it stands alone.
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
    relative: tuple[str, ...] = ()
    shown: int = 0
    readouts: Mapping[str, Mapping[str, ReadoutHead]] = field(default_factory=dict)
    adaptation: Adaptation | None = None

    def __post_init__(self) -> None:
        if missing := [body.name for body in self.embodiments if body.name not in self.horizons]:
            raise PolysomaError(f"horizons: expected one for each body, there is none for {missing}")
        if self.adapters not in get_args(Adapters):
            raise PolysomaError(f"adapters: expected one of {get_args(Adapters)}, got {self.adapters!r}")
        if self.adapters == "described" and self.head.kind != "l1":
            raise PolysomaError(f"described channels have heads of kind l1, not {self.head.kind!r}")
        if self.adapters == "described" and self.relative:
            raise PolysomaError(f"described channels have absolute actions; relative is {list(self.relative)}")

    def to_json(self) -> dict[str, Any]:
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
            "relative": list(self.relative),
            "shown": self.shown,
            "readouts": {
                body: {name: dataclasses.asdict(head) for name, head in own.items()}
                for body, own in self.readouts.items()
            },
            "adaptation": None if self.adaptation is None else dataclasses.asdict(self.adaptation),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PolicyConfig:
        """The inverse of :meth:`to_json`. Raises PolysomaError when a field is missing."""
        try:
            return PolicyConfig(
                embodiments=tuple(Embodiment.from_json(body) for body in data["embodiments"]),
                statistics={
                    body: {name: Statistics.from_json(value) for name, value in streams.items()}
                    for body, streams in data["statistics"].items()
                },
                vocabulary=tuple(data["vocabulary"]),
                horizons=_horizons(data),
                width=int(data["width"]),
                trunk=_trunk(data),
                heads=int(data["heads"]),
                images=ImageConfig(**data.get("images", {})),
                head=HeadConfig(**data.get("head", {})),
                adapters=data.get("adapters", "linear"),
                relative=tuple(data.get("relative", ())),
                shown=int(data.get("shown", 0)),
                readouts={
                    body: {name: ValueConfig(**head) for name, head in own.items()}
                    for body, own in data.get("readouts", {}).items()
                },
                adaptation=None if data.get("adaptation") is None else Adaptation(**data["adaptation"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise PolysomaError(f"not the configuration of a policy: missing or malformed {error}") from error


def _horizons(data: Mapping[str, Any]) -> dict[str, Horizon]:
    if "horizons" in data:
        return {name: Horizon.from_json(horizon) for name, horizon in data["horizons"].items()}
    # The first format kept them in the embodiments.
    return {body["name"]: Horizon.of_old_embodiment(body) or Horizon() for body in data["embodiments"]}


def _trunk(data: Mapping[str, Any]) -> TrunkConfig:
    # The first format knew one kind of trunk.
    return (
        TransformerConfig(**data["trunk"])
        if "trunk" in data
        else TransformerConfig(depth=int(data["depth"]), heads=int(data["heads"]))
    )

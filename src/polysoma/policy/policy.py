"""The policy: tokenizers, one trunk, heads, and the statistics of every body that it knows. It keeps no state.

    windows -> words, frames -> trunk -> readouts -> head -> chunk of actions

A batch is of one embodiment, so nothing is computed for bodies that are not in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.data.statistics import Statistics
from polysoma.data.windows import Shown, Windows, show
from polysoma.embodiment import ContinuousActions, Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.policy.adaptation import Adaptation, LoRALinear, adapt, share, shared_names
from polysoma.policy.described import ChannelReader, DescribedHead
from polysoma.policy.estimator import Estimator
from polysoma.policy.heads import Head, HeadConfig, build_head
from polysoma.policy.images import ImageConfig, ImageTokenizer
from polysoma.policy.memory import Memory, stack
from polysoma.policy.tokenizers import BodyTokenizer, TextTokenizer
from polysoma.policy.trunk import BLOCKED, Trunk, attention_mask

if TYPE_CHECKING:
    from polysoma.acting.agent import Acting, Agent
    from polysoma.acting.retrieval import DemonstrationIndex
    from polysoma.data.episode import Episode


Adapters = Literal["linear", "described"]


@dataclass(frozen=True)
class PolicyConfig:
    """All that a policy is built from, weights aside.

    Attributes:
        embodiments: the bodies it knows.
        statistics: body name, then stream name (``"action"`` for actions), to the statistics used for normalisation.
        vocabulary: the words it knows.
        width, depth, heads: of the trunk.
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
        adaptation: how the policy differs from a base that it shares weights with; None where it stands alone.
    """

    embodiments: tuple[Embodiment, ...]
    statistics: Mapping[str, Mapping[str, Statistics]]
    vocabulary: tuple[str, ...]
    width: int = 256
    depth: int = 4
    heads: int = 4
    images: ImageConfig = ImageConfig()  # noqa: RUF009  (frozen)
    head: HeadConfig = HeadConfig()  # noqa: RUF009  (frozen)
    adapters: Adapters = "linear"
    relative: tuple[str, ...] = ()
    shown: int = 0
    adaptation: Adaptation | None = None

    def __post_init__(self) -> None:
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
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "images": dataclasses.asdict(self.images),
            "head": dataclasses.asdict(self.head),
            "adapters": self.adapters,
            "relative": list(self.relative),
            "shown": self.shown,
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
                width=int(data["width"]),
                depth=int(data["depth"]),
                heads=int(data["heads"]),
                images=ImageConfig(**data.get("images", {})),
                head=HeadConfig(**data.get("head", {})),
                adapters=data.get("adapters", "linear"),
                relative=tuple(data.get("relative", ())),
                shown=int(data.get("shown", 0)),
                adaptation=None if data.get("adaptation") is None else Adaptation(**data["adaptation"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise PolysomaError(f"not the configuration of a policy: missing or malformed {error}") from error


class Policy(nn.Module):
    """One set of weights for many bodies.

    Call :meth:`agent` to drive a body, :meth:`loss` to train, :meth:`predict` for batches.

    Attributes:
        config: all that it was built from.
        shared: names of the parameters and buffers that are those of a base (:meth:`on`).
        adaptations: by the name of a body, the adaptation of these weights that drives it instead (:meth:`driving`).
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        self.shared: frozenset[str] = frozenset()
        self.adaptations: dict[str, Policy] = {}
        own_words = 0 if config.adaptation is None else config.adaptation.words
        self.text = TextTokenizer(config.vocabulary, config.width, config.heads, own_words)
        self.bodies = nn.ModuleDict()
        self.readouts = nn.ParameterDict()
        self.heads = nn.ModuleDict()
        self.estimators = nn.ModuleDict()
        roles = {s.name for body in config.embodiments for s in body.streams if s.modality is Modality.IMAGE}
        self.images = ImageTokenizer(config.images, sorted(roles), config.width) if roles else None
        self.channels = ChannelReader(config.width) if config.adapters == "described" else None
        unknown = sorted(set(config.relative) - {body.body for body in config.embodiments})
        if unknown:
            raise PolysomaError(
                f"relative: unknown bodies {unknown}; expected some of {sorted({b.body for b in config.embodiments})}"
            )
        self._commanded = {b.name: _commanded(b) for b in config.embodiments if b.body in config.relative}
        moving: dict[str, Embodiment] = {}
        for body in config.embodiments:
            statistics = dict(config.statistics.get(body.name, {}))
            reader = self.channels if isinstance(body.actions, ContinuousActions) else None
            tokenizer = BodyTokenizer(body, statistics, config.width, config.images.tokens, reader)
            self.bodies[body.name] = tokenizer
            if body.privileged:
                estimator = Estimator(body.privileged, statistics, tokenizer.per_frame, config.width)
                self.estimators[body.name] = estimator
            if reader is None:
                self.readouts[body.name] = nn.Parameter(torch.randn(body.history, config.width) * 0.02)
            twin = moving.setdefault(body.body, body)
            if twin is body:
                self.heads[body.body] = self._head(body, statistics)
            elif (twin.actions, twin.chunk) != (body.actions, body.chunk):
                raise PolysomaError(
                    f"{twin.name} and {body.name} are the same body {body.body!r}, so their actions must be equal: "
                    + "; ".join(twin.differences(body))
                )
        self.trunk = Trunk(config.width, config.depth, config.heads)
        self.shown = nn.Parameter(torch.randn(config.shown, 1, config.width) * 0.02) if config.shown else None
        self.prompt: nn.Parameter | None = None
        if config.adaptation is not None:
            adapt(self.trunk, config.adaptation)
            if config.adaptation.method == "prompt":
                self.prompt = nn.Parameter(torch.randn(config.adaptation.tokens, config.width) * 0.02)

    def _head(self, body: Embodiment, statistics: Mapping[str, Statistics]) -> Head:
        known = statistics.get("action")
        if self.channels is not None and known is not None and isinstance(body.actions, ContinuousActions):
            return DescribedHead(self.channels, body.actions, body.chunk, known)
        if body.body in self.config.relative:
            known = statistics.get("offset")
            if known is None:
                raise PolysomaError(f"{body.name}: no statistics of the offsets of its actions")
        return build_head(body, known, self.config.width, self.config.head)

    def embodiment(self, name: str) -> Embodiment:
        """The body of this name. Raises PolysomaError that lists the bodies this policy knows."""
        for body in self.config.embodiments:
            if body.name == name:
                return body
        raise PolysomaError(
            f"this policy does not know the body {name!r}; it knows {[b.name for b in self.config.embodiments]}"
        )

    def driving(self, name: str) -> Policy:
        """What drives the body of this name: the adaptation that the checkpoint holds for it, or these weights as they
        are."""
        return self.adaptations.get(name, self)

    def _check_same(self, body: Embodiment) -> None:
        known = self.embodiment(body.name)
        if known != body:
            differences = "; ".join(known.differences(body))
            raise PolysomaError(f"the policy's body {body.name!r} is not the one of this data: {differences}")

    def _tokenizer(self, body: str) -> BodyTokenizer:
        return cast(BodyTokenizer, self.bodies[body])

    def head(self, name: str) -> Head:
        """The head of the body of this name. Raises PolysomaError for an unknown one."""
        return cast(Head, self.heads[self.embodiment(name).body])

    @property
    def device(self) -> torch.device:
        return self.text.position.device

    def _readouts(self, name: str, times: Tensor) -> Tensor:
        """The tokens that ask for the actions at these positions of a window, float32 ``(*times.shape, width)``."""
        head = self.head(name)
        if isinstance(head, DescribedHead):
            return (head.readout() + head.reader.time[times]).float()
        return self.readouts[name][times].float()

    def forward(self, windows: Windows) -> Tensor:
        """What B windows of one embodiment, T frames long, come to: a readout for every frame, ``(B, T, width)``."""
        return self._answer(windows, *self._embed(windows))

    def _embed(self, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of what is told, which of them are true, and tokens of whole windows' frames."""
        told, told_valid, readings = self._told(
            windows.embodiment.name, windows.instructions, windows.goals, windows.shown
        )
        return told, told_valid, self._frames(windows, self._times(windows), readings)

    def _answer(self, windows: Windows, told: Tensor, told_valid: Tensor, frames: Tensor) -> Tensor:
        name, times = windows.embodiment.name, self._times(windows)
        lengths = torch.from_numpy(windows.lengths).to(self.device)
        mask = attention_mask(told_valid, times < lengths[:, None], times, self._tokenizer(name).per_frame)
        tokens = torch.cat([told, frames, self._readouts(name, times)], 1)
        return self.trunk(tokens, mask, times.shape[1])

    def _times(self, windows: Windows) -> Tensor:
        return torch.arange(windows.previous.shape[1], device=self.device).expand(len(windows), -1)

    def _told(
        self,
        name: str,
        instructions: Sequence[str],
        goals: Mapping[str, np.ndarray] | None,
        shown: Shown | None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """What to do: tokens of words, of shown frames and of goal pictures, float32 ``(B, W, width)``, which of them
        are true, and what the words make of streams that are read in their light."""
        ids = self.text.encode(instructions).to(self.device)
        words, valid = self.text(ids), ids != 0
        readings = self._tokenizer(name).read(words, valid, self.images)
        words, valid = self._prompted(words, valid)
        if shown is not None:
            frames, true = self._of_shown(name, shown, readings)
            words, valid = torch.cat([words.float(), frames], 1), torch.cat([valid, true], 1)
        if goals is None:
            return words.float(), valid, readings
        if self.images is None or not self.config.images.goals:
            raise PolysomaError("this policy was not trained to follow goal pictures (images.goals in its recipe)")
        pictures = {camera: torch.from_numpy(array).to(self.device) for camera, array in goals.items()}
        seen = self.images.forward_goals(pictures, readings)
        return torch.cat([words.float(), seen.float()], 1), F.pad(valid, (0, seen.shape[1]), value=True), readings

    def _of_shown(self, name: str, shown: Shown, readings: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens of shown frames, float32 ``(B, F * per_frame, width)``, and which of them are true.

        What was done in a frame stands where the action before it stands otherwise; a frame's place in its episode is
        marked, the order of episodes is not.
        """
        tokenizer = self._tokenizer(name)
        self._check_shown(name)
        assert self.shown is not None
        observations = {stream: torch.from_numpy(array).to(self.device) for stream, array in shown.observations.items()}
        actions = torch.from_numpy(np.ascontiguousarray(shown.actions)).to(self.device)
        places = torch.from_numpy(np.ascontiguousarray(shown.places)).to(self.device)
        tokens = tokenizer(observations, actions, torch.zeros_like(places), readings, self.images).float()
        marks = self.shown[places].expand(-1, -1, tokenizer.per_frame, -1).flatten(1, 2)
        valid = torch.from_numpy(np.ascontiguousarray(shown.valid)).to(self.device)
        return tokens + marks, valid.repeat_interleave(tokenizer.per_frame, 1)

    def _check_shown(self, name: str) -> None:
        if self.shown is None:
            raise PolysomaError("this policy was not trained to be shown episodes (bodies.NAME.shots in its recipe)")
        if self._tokenizer(name).previous is None:
            raise PolysomaError(
                f"{name} does not read its previous action, so it cannot be shown what was done "
                "(previous_action of its embodiment)"
            )

    def check_context(self, body: str, context: Sequence[Episode]) -> None:
        """Whether the policy can be shown these episodes while it drives this body.

        Raises:
            PolysomaError: it was not trained to be shown any, the body does not read its previous action, or an episode
                is of another body.
        """
        if context:
            self._check_shown(body)
        for episode in context:
            if episode.embodiment.name != body:
                raise PolysomaError(f"{body} cannot be shown an episode of {episode.embodiment.name}")
            self._check_same(episode.embodiment)

    def _prompted(self, words: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of words with those of the prompt before them, and which of them are true."""
        if self.prompt is None:
            return words, valid
        before = self.prompt.to(words.dtype).expand(len(words), -1, -1)
        return torch.cat([before, words], 1), F.pad(valid, (len(self.prompt), 0), value=True)

    def _frames(self, windows: Windows, times: Tensor, readings: dict[str, Tensor]) -> Tensor:
        """Tokens of the windows' frames, float32 ``(B, T * per_frame, width)``."""
        body = windows.embodiment
        self._check_same(body)
        observations = {name: torch.from_numpy(array).to(self.device) for name, array in windows.observations.items()}
        previous = torch.from_numpy(windows.previous).to(self.device)
        tokens: Tensor = self._tokenizer(body.name)(observations, previous, times, readings, self.images)
        return tokens.float()

    def loss(self, windows: Windows) -> Tensor:
        """The sum of the losses of all true targets, a float32 scalar (divide by their number for the mean)."""
        return self._action_loss(windows, *self._embed(windows))

    def losses(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """:meth:`loss`, and the mean loss of estimating the body's privileged states: float32 scalars.

        Raises:
            PolysomaError: the body has no privileged states, or the windows do not hold them.
        """
        estimator = self._estimator(windows.embodiment.name)
        missing = sorted(estimator.streams.keys() - windows.observations.keys())
        if missing or windows.spreads is None:
            raise PolysomaError(f"windows of {windows.embodiment.name} hold no privileged {missing} to estimate")
        told, told_valid, frames = self._embed(windows)
        states = {name: torch.from_numpy(windows.observations[name]).to(self.device) for name in estimator.streams}
        spreads = {name: torch.from_numpy(windows.spreads[name]).to(self.device) for name in estimator.streams}
        missed = estimator.losses(frames, _mean(told, told_valid), states, spreads)
        true = self._times(windows) < torch.from_numpy(windows.lengths).to(self.device)[:, None]
        return self._action_loss(windows, told, told_valid, frames), missed[true].mean()

    def _action_loss(self, windows: Windows, told: Tensor, told_valid: Tensor, frames: Tensor) -> Tensor:
        if windows.actions is None or windows.action_valid is None:
            raise PolysomaError("a loss needs windows with targets")
        actions, valid = torch.from_numpy(windows.actions), torch.from_numpy(windows.action_valid)
        readouts = self._answer(windows, told, told_valid, frames)
        targets = actions.to(self.device)
        reference = self._reference(windows)
        if reference is not None:
            targets = targets - reference[:, :, None]
        losses = self.head(windows.embodiment.name).losses(readouts, targets)
        return losses[valid.to(self.device)].sum()

    def _reference(self, windows: Windows) -> Tensor | None:
        """What actions are relative to at every frame, float32 ``(B, T, A)``; None for a body whose actions are not."""
        if windows.embodiment.name not in self._commanded:
            return None
        observations = {name: torch.from_numpy(array).to(self.device) for name, array in windows.observations.items()}
        return self.reference(windows.embodiment.name, observations, torch.from_numpy(windows.previous).to(self.device))

    def reference(self, name: str, observations: Mapping[str, Tensor], previous: Tensor) -> Tensor | None:
        """As :meth:`_reference`, from tensors: streams ``(B, T, *shape)`` and previous actions ``(B, T, A)``."""
        if name not in self._commanded:
            return None
        places, measured = self._commanded[name]
        now = torch.stack([observations[stream][..., column] for stream, column in places], -1)
        return torch.where((previous == 0).all(-1, keepdim=True), now, previous) * measured.to(previous.device)

    def _estimator(self, name: str) -> Estimator:
        if name not in self.estimators:
            raise PolysomaError(f"{name} has no privileged states to estimate")
        return cast(Estimator, self.estimators[name])

    @torch.inference_mode()
    def estimate(self, windows: Windows) -> dict[str, Tensor]:
        """What the policy takes a body's privileged states for: stream name to ``(B, T, size)``, float32, in the
        channels' units. Raises PolysomaError for a body that has none."""
        estimator = self._estimator(windows.embodiment.name)
        with bfloat16(self.device):
            told, told_valid, frames = self._embed(windows)
            found = estimator.estimate(frames, _mean(told, told_valid))
        return {name: state.cpu() for name, state in found.items()}

    @torch.inference_mode()
    def begin(
        self,
        body: str,
        instruction: str,
        goal: Mapping[str, np.ndarray] | None = None,
        context: Sequence[Episode] = (),
        silent: bool = False,
    ) -> Memory:
        """Reads an instruction, looks at a goal and at other episodes, once for all decisions that follow.

        Args:
            body: its name.
            instruction: what to do in words; may be empty where there is a goal.
            goal: None, or camera stream to what it is to see in the end, uint8 of the stream's shape.
            context: episodes of this body that show the task, in any order.
            silent: whether it is not told what was done in them.

        Raises:
            PolysomaError: an unknown body, episodes of another one, or a policy that was not trained to follow goals or
                to be shown episodes.
        """
        history, tokenizer = self.embodiment(body).history, self._tokenizer(body)
        goals = None if goal is None else {camera: picture[None] for camera, picture in goal.items()}
        self.check_context(body, context)
        shown = show(context, max(1, self.config.shown), silent) if context else None
        with bfloat16(self.device):
            told, valid, readings = self._told(body, [instruction], goals, shown)
            mask = told.new_zeros(valid.shape).masked_fill_(~valid, BLOCKED)[:, None, None]
            _, own = self.trunk.extend(told, mask)
        read = {name: reading[0] for name, reading in readings.items()}
        # Without a word, the place of the missing one must not be looked at later either.
        return Memory(instruction, read, own[:, :, 0][..., valid[0], :], history, tokenizer.per_frame)

    @torch.inference_mode()
    def predict(
        self, windows: Windows, memories: Sequence[Memory] | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """The chunk of actions for the last frame of each window: the first of what :meth:`respond` returns."""
        return self.respond(windows, memories, noise)[0]

    @torch.inference_mode()
    def respond(
        self, windows: Windows, memories: Sequence[Memory] | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The chunk of actions for the last frame of each window, and the readout that it was decoded from.

        Args:
            windows: of one embodiment; with memories, only the frames that came since these were last extended.
            memories: one for each window, from :meth:`begin`; the new frames are added to them. None: windows are
                whole.
            noise: what heads that draw start from, standard normal ``(B, *head.noise)``; None draws it anew.

        Returns:
            Actions in the body's units ``(B, chunk, A)``, or log-probabilities ``(B, chunk, names)``; and readouts
            ``(B, width)``. Both float32, on the CPU.
        """
        name = windows.embodiment.name
        if memories is None:
            memories = [self.begin(name, instruction) for instruction in windows.instructions]
        per_frame = self._tokenizer(name).per_frame
        lengths = torch.from_numpy(windows.lengths).to(self.device)[:, None]
        new = torch.arange(windows.previous.shape[1], device=self.device)
        before = torch.tensor([[memory.frames] for memory in memories], device=self.device)
        with bfloat16(self.device):
            readings, past, past_valid = stack(memories)
            # Padding may lie beyond the last position.
            times = (before + new).clamp(max=windows.embodiment.history - 1)
            frames = self._frames(windows, times, readings)
            # What is remembered may be looked at like words: it lies before all that is new.
            mask = attention_mask(past_valid, new < lengths, lengths - 1, per_frame)[:, :, past_valid.shape[1] :]
            readouts = self._readouts(name, before + lengths - 1)
            tokens, own = self.trunk.extend(torch.cat([frames, readouts], 1), mask, past)
            start = None if noise is None else noise[:, None].to(self.device)
            prediction = self.head(name).decode(tokens[:, -1:], start)[:, 0]
            reference = self._reference(windows)
            if reference is not None:
                rows = torch.arange(len(windows), device=self.device)
                prediction = prediction + reference[rows, lengths[:, 0] - 1][:, None]
        for row, (memory, length) in enumerate(zip(memories, windows.lengths, strict=True)):
            memory.extend(own[:, :, row, :, : length * per_frame])
        return prediction.cpu(), tokens[:, -1].float().cpu()

    def grown(
        self,
        embodiments: Sequence[Embodiment],
        statistics: Mapping[str, Mapping[str, Statistics]],
        vocabulary: Sequence[str],
        images: ImageConfig | None = None,
        renewed: Collection[str] = (),
        keep: bool = True,
        relative: Collection[str] = (),
        shown: int = 0,
    ) -> Policy:
        """A policy that also knows these bodies and words, with all the weights that this one has and that still fit.

        Bodies that are known already keep their own statistics. What is new starts at random.

        Args:
            embodiments: bodies to know.
            statistics: those of bodies that are not known.
            vocabulary: words to know.
            images: how pictures become tokens from now on; None leaves that as it is.
            renewed: names of known bodies that may differ from what is known: they are as described here, and keep
                the weights that still fit.
            keep: whether bodies that are not among ``embodiments`` stay known.
            relative: bodies whose actions are relative from now on (:class:`PolicyConfig`); where they were not, the
                head is new.
            shown: frames of each episode that it is to be shown; a policy that reads some already keeps to these.

        Raises:
            PolysomaError: a body of a known name differs from the known one.
        """
        known = {body.name: body for body in self.config.embodiments}
        for body in embodiments:
            if body.name in renewed:
                known[body.name] = body
            elif body.name in known:
                self._check_same(body)
            else:
                known[body.name] = body
        if not keep:
            known = {body.name: body for body in embodiments}
        config = dataclasses.replace(
            self.config,
            embodiments=tuple(known.values()),
            statistics={name: {**statistics.get(name, {}), **self.config.statistics.get(name, {})} for name in known},
            vocabulary=(*self.config.vocabulary, *(w for w in vocabulary if w not in self.config.vocabulary)),
            images=images or self.config.images,
            relative=tuple(sorted({*self.config.relative, *relative} & {body.body for body in known.values()})),
            shown=self.config.shown or shown,
        )
        policy = Policy(config)
        own = policy.state_dict()
        mine = dict(self.state_dict())
        words = mine.pop("text.words.weight")
        own["text.words.weight"][: len(words)] = words
        other = tuple(f"heads.{body}." for body in set(relative) - set(self.config.relative))
        fitting = {
            name: value
            for name, value in mine.items()
            if name in own and own[name].shape == value.shape and not name.startswith(other)
        }
        policy.load_state_dict(own | fitting)
        return policy.train(self.training)

    def on(self, config: PolicyConfig) -> Policy:
        """A policy of this configuration, which has an adaptation, that shares all that it can with this one, its base.
        What it has of its own starts at random."""
        if config.adaptation is None or self.config.adaptation is not None:
            raise PolysomaError("expected the configuration of an adaptation, and a base that stands alone")
        policy = Policy(config)
        names = shared_names(policy.state_dict(), self.state_dict(), config.adaptation.method)
        share(policy, self, names)
        policy.shared = frozenset(names)
        return policy.train(self.training)

    def adapted(
        self,
        adaptation: Adaptation,
        embodiments: Sequence[Embodiment],
        statistics: Mapping[str, Mapping[str, Statistics]],
        vocabulary: Sequence[str],
    ) -> Policy:
        """A policy of these bodies alone that shares this one's weights, which take no more gradients, and has a few of
        its own. Bodies that are known begin with the weights and statistics that they have.

        Args:
            adaptation: which method; its number of words is counted here.
            embodiments: bodies to drive.
            statistics: those of bodies that are not known.
            vocabulary: words to know.

        Raises:
            PolysomaError: this policy is an adaptation itself, or a body of a known name differs from the known one.
        """
        grown = self.grown(embodiments, statistics, vocabulary, keep=False)
        words = len(grown.config.vocabulary) - len(self.config.vocabulary)
        policy = self.on(
            dataclasses.replace(grown.config, adaptation=dataclasses.replace(adaptation, words=words)),
        )
        start = grown.state_dict()
        if words:
            start["text.own.weight"] = start["text.words.weight"][-words:]
        policy.load_own({name: value for name, value in start.items() if name in policy.own()}, partly=True)
        return policy

    def standing_alone(self) -> Policy | None:
        """A policy that does the same with all its weights as its own, low-rank matrices multiplied into the trunk's;
        itself where it adapts no other, None where what it adds is no change of weights (prompts, bottlenecks)."""
        if self.config.adaptation is None:
            return self
        if self.config.adaptation.method in ("prompt", "adapter"):
            return None
        state = dict(self.state_dict())
        with torch.no_grad():
            for name, module in self.named_modules():
                if isinstance(module, LoRALinear):
                    state[f"{name}.weight"] = module.dense()
                    del state[f"{name}.a"], state[f"{name}.b"]
        if "text.own.weight" in state:
            words = "text.words.weight"
            state[words] = torch.cat([state[words], state.pop("text.own.weight")])
        alone = Policy(dataclasses.replace(self.config, adaptation=None))
        alone.load_state_dict(state)
        return alone.train(self.training)

    def own(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, without those of a base."""
        return {name: value for name, value in self.state_dict().items() if name not in self.shared}

    def own_fitting(self, other: Policy) -> dict[str, Tensor]:
        """What :meth:`own` returns as far as another policy, which may know more words, can load it."""
        theirs = other.own()
        mine = {name: value for name, value in self.own().items() if name in theirs}
        words = "text.own.weight"
        if words in mine and len(mine[words]) < len(theirs[words]):
            mine[words] = torch.cat([mine[words], theirs[words][len(mine[words]) :]])
        return {name: value for name, value in mine.items() if value.shape == theirs[name].shape}

    def load_own(self, tensors: Mapping[str, Tensor], partly: bool = False) -> None:
        """Sets what :meth:`own` returns. Raises RuntimeError where names, unless ``partly``, or shapes differ."""
        expected = self.own().keys()
        if tensors.keys() - expected or (not partly and expected - tensors.keys()):
            raise RuntimeError(f"expected tensors {sorted(expected)}, got {sorted(tensors)}")
        self.load_state_dict(tensors, strict=False)

    def train(self, mode: bool = True) -> Policy:
        """Sets the mode of training. What is frozen, or shared with a base, never learns, running statistics
        included."""
        super().train(mode)
        for part in self.children():
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()
        for path, module in self.named_modules():
            if any(f"{path}.{name}" in self.shared for name, _ in module.named_buffers(recurse=False)):
                module.eval()
        return self

    def for_inference(self) -> Policy:
        """Stores the matrices in bfloat16 (what the products run in anyway), freezes, and returns itself."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                module.bfloat16()
        return self.requires_grad_(False).eval()

    def agent(
        self,
        body: str,
        instruction: str | None = None,
        acting: Acting | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        memory: DemonstrationIndex | None = None,
        context: Sequence[Episode] = (),
    ) -> Agent:
        """An :class:`~polysoma.acting.agent.Agent` that drives this body with these weights; ``memory`` holds
        demonstrations that it looks up, ``context`` those that it is shown before it acts.

        The one place where the policy reaches up to what acts with it; the import is here so that there is no circle.
        """
        from polysoma.acting.agent import Acting, Agent
        from polysoma.acting.planner import as_planner
        from polysoma.acting.retrieval import Retrieval

        acting = acting or Acting()
        planner = as_planner(self, acting.temperature)
        if memory is not None:
            planner = Retrieval(planner, memory)
        return Agent(planner, body, instruction, dataclasses.replace(acting, temperature=None), seed, goal, context)

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def describe(self, name: str) -> str:
        """The token table of one body, a line for each group of tokens."""
        body, tokenizer = self.embodiment(name), self._tokenizer(name)
        rows: list[tuple[str, str, str]] = [("words", "one a word", "words")]
        if self.shown is not None and tokenizer.previous is not None:
            rows = [("words", "one a word", "words, what is shown")]
            frames = f"{tokenizer.per_frame} x {len(self.shown)} frames of each"
            rows.append(("episodes that are shown", frames, "words, what is shown"))
        if tokenizer.fused:
            streams = " + ".join(stream.name for stream in body.arrays)
            rows.append((f"frame: {streams} + previous action", f"1 x {body.history} frames", "words, frames so far"))
        else:
            for stream in body.arrays:
                image = stream.modality is Modality.IMAGE
                tokens = self.config.images.tokens if image else getattr(tokenizer.streams[stream.name], "tokens", 1)
                rows.append((f"{stream.name} {stream.shape}", str(tokens), "words, this frame"))
            if tokenizer.previous is not None:
                rows.append(("previous action", str(tokenizer.previous.tokens), "words, this frame"))
        unit = "choices of" if hasattr(body.actions, "names") else "actions of"
        rows.append((f"readout -> {body.chunk} {unit} {body.actions.size}", "1", "words, frames so far, itself"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"{name} at {body.rate_hz:g} Hz (group, tokens, sees):", *lines])

    def __repr__(self) -> str:
        parts = {name: getattr(self, name) for name in ("text", "images", "channels", "bodies", "trunk", "heads")}
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part is not None}
        counts["readouts"] = sum(p.numel() for p in self.readouts.parameters())
        if self.shared:
            counts["own"] = sum(value.numel() for value in self.own().values())
        for name, adaptation in self.adaptations.items():
            counts[f"{name}, adapted"] = sum(value.numel() for value in adaptation.own().values())
        shape = f"width {self.config.width}, depth {self.config.depth}, {self.config.heads} heads"
        lines = [f"Policy: {self.parameter_count():,} parameters, {shape}, {len(self.config.vocabulary)} words"]
        width = max(map(len, counts))
        lines += [f"  {name:<{width}}{count:>12,}" for name, count in counts.items()]
        return "\n".join(lines + [self.describe(body.name) for body in self.config.embodiments])


def _commanded(body: Embodiment) -> tuple[list[tuple[str, int]], Tensor]:
    """For each action channel, the stream and the column of the state channel of the same name, and 1 where the channel
    is relative or 0."""
    if not isinstance(body.actions, ContinuousActions):
        raise PolysomaError(f"{body.name}: choices cannot be relative")
    places = {
        channel.name: (stream.name, column)
        for stream in body.streams
        if stream.modality is Modality.STATE
        for column, channel in enumerate(stream.channels)
    }
    missing = [channel.name for channel in body.actions.channels if channel.name not in places]
    if missing:
        raise PolysomaError(
            f"{body.name}: relative actions need state channels of the same names; there is no {missing}"
        )
    return [places[channel.name] for channel in body.actions.channels], torch.tensor(body.actions.measured).float()


def _mean(tokens: Tensor, valid: Tensor) -> Tensor:
    weight = valid[..., None].to(tokens.dtype)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1)


def bfloat16(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in bfloat16, sums and normalisations in float32."""
    return torch.autocast(device.type, torch.bfloat16)

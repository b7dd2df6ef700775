"""The policy: tokenizers, one trunk, heads, and the statistics of every body that it knows. It keeps no state.

    windows -> words, frames -> trunk -> readouts -> head -> chunk of actions

A batch is of one embodiment, so nothing is computed for bodies that are not in it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.data.statistics import Statistics
from polysoma.data.windows import Windows, show
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.nn import precision
from polysoma.nn.adapters import LoRALinear, adapt
from polysoma.nn.described import ChannelReader, DescribedHead
from polysoma.nn.estimator import Estimator
from polysoma.nn.heads import Head, HeadConfig, ReadoutHead, ValueConfig, build_head
from polysoma.nn.images import ImageConfig, ImageTokenizer
from polysoma.nn.precision import Precision
from polysoma.nn.tokenizers import BodyTokenizer, TextTokenizer
from polysoma.nn.trunk import ReadoutTokens, TaskTokens, TransformerConfig, Trunk, TrunkConfig
from polysoma.policy.adaptation import Adaptation, share, shared_names
from polysoma.policy.inputs import FrameInputs, ShownInputs, TaskInputs, frames_of, task_of
from polysoma.policy.state import PolicyState, readings_of

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


ACTION = "action"
"""The readout that every body has."""


def _key(body: str, readout: str) -> str:
    """What a readout's parameters are called, those for actions as the first format called them."""
    return body if readout == ACTION else f"{body}/{readout}"


class _Embedded(NamedTuple):
    """Tokens of what is to be done, and of frames, ``(B, T, per_frame, width)``."""

    task: TaskTokens
    frames: Tensor

    def summary(self) -> Tensor:
        """The mean of the tokens of each window's task, ``(B, width)``."""
        weight = self.task.valid[..., None].to(self.task.tokens.dtype)
        mean = (self.task.tokens * weight).sum(1) / weight.sum(1).clamp(min=1)
        return mean if self.task.rows is None else mean[self.task.rows]


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
        self._precision: Precision | None = None
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
            statistics, horizon = dict(config.statistics.get(body.name, {})), config.horizons[body.name]
            reader = self.channels if isinstance(body.actions, ContinuousActions) else None
            tokenizer = BodyTokenizer(body, horizon, statistics, config.width, config.images.tokens, reader)
            self.bodies[body.name] = tokenizer
            if body.privileged:
                estimator = Estimator(body.privileged, statistics, tokenizer.per_frame, config.width)
                self.estimators[body.name] = estimator
            if reader is None:
                self.readouts[body.name] = nn.Parameter(torch.randn(horizon.history, config.width) * 0.02)
            twin = moving.setdefault(body.body, body)
            if twin is body:
                self.heads[body.body] = self._head(body, horizon.chunk, statistics)
            elif twin.actions != body.actions:
                raise PolysomaError(
                    f"{twin.name} and {body.name} are the same body {body.body!r}, so their actions must be equal: "
                    + "; ".join(twin.differences(body))
                )
            elif (chunk := config.horizons[twin.name].chunk) != horizon.chunk:
                raise PolysomaError(
                    f"{twin.name} and {body.name} are the same body {body.body!r}, so their chunks must be equal: "
                    f"chunk: {chunk}, not {horizon.chunk}"
                )
        unknown = sorted(set(config.readouts) - {body.body for body in config.embodiments})
        if unknown:
            raise PolysomaError(f"readouts: unknown bodies {unknown}; expected some of {sorted(moving)}")
        for group, readouts in config.readouts.items():
            for name, head in readouts.items():
                self._add_readout(group, name, head)
        self.trunk: Trunk = config.trunk.build(config.width)
        self.shown = nn.Parameter(torch.randn(config.shown, 1, config.width) * 0.02) if config.shown else None
        self.prompt: nn.Parameter | None = None
        if config.adaptation is not None:
            method = config.adaptation.method
            if method == "lora" or method == "adapter":
                adapt(self.trunk, method, config.adaptation.rank)
            if method == "prompt":
                self.prompt = nn.Parameter(torch.randn(config.adaptation.tokens, config.width) * 0.02)

    def _head(self, body: Embodiment, chunk: int, statistics: Mapping[str, Statistics]) -> Head:
        known = statistics.get("action")
        if self.channels is not None and known is not None and isinstance(body.actions, ContinuousActions):
            return DescribedHead(self.channels, body.actions, chunk, known)
        if body.body in self.config.relative:
            known = statistics.get("offset")
            if known is None:
                raise PolysomaError(f"{body.name}: no statistics of the offsets of its actions")
        return build_head(body, chunk, known, self.config.width, self.config.head)

    def embodiment(self, name: str) -> Embodiment:
        """The body of this name. Raises PolysomaError that lists the bodies this policy knows."""
        for body in self.config.embodiments:
            if body.name == name:
                return body
        raise PolysomaError(
            f"this policy does not know the body {name!r}; it knows {[b.name for b in self.config.embodiments]}"
        )

    def horizon(self, name: str) -> Horizon:
        """How this policy looks at the body of this name. Raises PolysomaError as :meth:`embodiment`."""
        return self.config.horizons[self.embodiment(name).name]

    def description(self, name: str) -> dict[str, Any]:
        """What peers are told of a body: plain JSON of its embodiment, with history, chunk and previous_action."""
        return self.embodiment(name).to_json() | self.horizon(name).to_json()

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

    def head(self, name: str, readout: str = ACTION) -> Head:
        """The head of the body of this name for one of its readouts. Raises PolysomaError for an unknown one."""
        group = self.embodiment(name).body
        if (key := _key(group, readout)) not in self.heads:
            known = [ACTION, *self.config.readouts.get(group, ())]
            raise PolysomaError(f"{name} has no readout {readout!r}; it has {', '.join(known)}")
        return cast(Head, self.heads[key])

    @property
    def device(self) -> torch.device:
        return self.text.position.device

    def forward(self, windows: Windows, readouts: Sequence[str] = (ACTION,)) -> dict[str, Tensor]:
        """Readouts of B windows of one embodiment, T frames long: by name, ``(B, T, width)`` each, one for every frame.

        Args:
            windows: the batch.
            readouts: which of the body's (:meth:`add_readout`).
        """
        embedded = self._embed(windows)
        return self._answer(windows.embodiment.name, embedded, self._times(windows), readouts)

    def _embed(self, windows: Windows) -> _Embedded:
        """Tokens of whole windows."""
        self._check_same(windows.embodiment)
        task = task_of(self.text.encode, self.device, windows.instructions, windows.goals, windows.shown)
        return self._embed_inputs(windows.embodiment.name, task, frames_of(windows, self.device))

    def _embed_inputs(self, name: str, task: TaskInputs, frames: FrameInputs) -> _Embedded:
        told, readings = self._told(name, task)
        times = torch.arange(frames.previous.shape[1], device=self.device)[None]
        return _Embedded(told, self._frames(name, frames, times, readings, task.rows))

    def _answer(self, name: str, embedded: _Embedded, times: Tensor, readouts: Sequence[str]) -> dict[str, Tensor]:
        """The readouts of these names that see up to the frames ``times``, int64 ``(B, R)`` or ``(1, R)``: ``(B, R,
        width)`` each."""
        asking = [self._readouts(name, readout, times) for readout in readouts]
        tokens = torch.cat(asking, 1).expand(len(embedded.frames), -1, -1)
        every = ReadoutTokens(tokens, times.repeat(1, len(asking)))
        answers = self.trunk(embedded.task, embedded.frames, every).split(times.shape[1], 1)
        return dict(zip(readouts, answers, strict=True))

    def _readouts(self, name: str, readout: str, times: Tensor) -> Tensor:
        """The tokens that ask at these positions of a window, float32 ``(*times.shape, width)``."""
        head = self.head(name, readout)
        if isinstance(head, DescribedHead):
            return (head.readout() + head.reader.time[times]).float()
        return self.readouts[_key(name, readout)][times].float()

    def _times(self, windows: Windows) -> Tensor:
        return torch.arange(windows.previous.shape[1], device=self.device)[None]

    def _told(self, name: str, task: TaskInputs) -> tuple[TaskTokens, dict[str, Tensor]]:
        """Tokens of what is to be done: of words, of shown frames and of goal pictures, float32; and what the words
        make of streams that are read in their light."""
        words, valid = self.text(task.words), task.words != 0
        readings = self._tokenizer(name).read(words, valid, self.images)
        words, valid = self._prompted(words.float(), valid)
        if task.shown is not None:
            frames, true = self._of_shown(name, task.shown, readings)
            words, valid = torch.cat([words, frames], 1), torch.cat([valid, true], 1)
        if task.goals is not None:
            if self.images is None or not self.config.images.goals:
                raise PolysomaError("this policy was not trained to follow goal pictures (images.goals in its recipe)")
            seen = self.images.forward_goals(task.goals, readings)
            words, valid = torch.cat([words, seen.float()], 1), F.pad(valid, (0, seen.shape[1]), value=True)
        return TaskTokens(words, valid, task.rows), readings

    def _of_shown(self, name: str, shown: ShownInputs, readings: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens of shown frames, float32 ``(I, F * per_frame, width)``, and which of them are true.

        Each frame carries its own action in the slot of the previous one; a frame's place in its episode is marked, the
        order of episodes is not.
        """
        tokenizer = self._tokenizer(name)
        self._check_shown(name)
        assert self.shown is not None
        start = torch.zeros_like(shown.places)
        tokens = tokenizer(shown.observations, shown.actions, start, readings, self.images).float()
        tokens = tokens + self.shown[shown.places]
        return tokens.flatten(1, 2), shown.valid.repeat_interleave(tokenizer.per_frame, 1)

    def _check_shown(self, name: str) -> None:
        if self.shown is None:
            raise PolysomaError("this policy was not trained to be shown episodes (bodies.NAME.shots in its recipe)")
        if self._tokenizer(name).previous is None:
            raise PolysomaError(
                f"{name} does not read its previous action, so it cannot be shown what was done "
                "(bodies.NAME.previous_action in its recipe)"
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

    def _frames(
        self, name: str, frames: FrameInputs, times: Tensor, readings: dict[str, Tensor], rows: Tensor | None = None
    ) -> Tensor:
        """Tokens of frames, float32 ``(B, T, per_frame, width)``."""
        tokenizer = self._tokenizer(name)
        tokens: Tensor = tokenizer(frames.observations, frames.previous, times, readings, self.images, rows)
        return tokens.float()

    def loss(self, windows: Windows) -> Tensor:
        """The sum of the losses of all true targets, a float32 scalar (divide by their number for the mean)."""
        return self._action_loss(windows, self._embed(windows))

    def losses(self, windows: Windows) -> tuple[Tensor, Tensor]:
        """:meth:`loss`, and the mean loss of estimating the body's privileged states: float32 scalars.

        Raises:
            PolysomaError: the body has no privileged states, or the windows do not hold them.
        """
        estimator = self._estimator(windows.embodiment.name)
        missing = sorted(estimator.streams.keys() - windows.observations.keys())
        if missing or windows.spreads is None:
            raise PolysomaError(f"windows of {windows.embodiment.name} hold no privileged {missing} to estimate")
        embedded = self._embed(windows)
        states = {name: torch.from_numpy(windows.observations[name]).to(self.device) for name in estimator.streams}
        spreads = {name: torch.from_numpy(windows.spreads[name]).to(self.device) for name in estimator.streams}
        missed = estimator.losses(embedded.frames, embedded.summary(), states, spreads)
        true = self._times(windows) < torch.from_numpy(windows.lengths).to(self.device)[:, None]
        return self._action_loss(windows, embedded), missed[true].mean()

    def _action_loss(self, windows: Windows, embedded: _Embedded) -> Tensor:
        name = windows.embodiment.name
        if windows.actions is None or windows.action_valid is None:
            raise PolysomaError("a loss needs windows with targets")
        expected = self.horizon(name).chunk
        if windows.actions.shape[2] != expected:
            raise PolysomaError(
                f"{name}: this policy predicts chunks of {expected} actions, the windows have "
                f"targets of {windows.actions.shape[2]}: draw them with its horizon"
            )
        actions, valid = torch.from_numpy(windows.actions), torch.from_numpy(windows.action_valid)
        readouts = self._answer(name, embedded, self._times(windows), (ACTION,))[ACTION]
        targets = actions.to(self.device)
        reference = self._reference(name, frames_of(windows, self.device)) if name in self._commanded else None
        if reference is not None:
            targets = targets - reference[:, :, None]
        losses = self.head(name).losses(readouts, targets)
        return losses[valid.to(self.device)].sum()

    def _reference(self, name: str, frames: FrameInputs) -> Tensor | None:
        """What actions are relative to at every frame, float32 ``(B, T, A)``; None for a body whose actions are not."""
        if name not in self._commanded:
            return None
        places, measured = self._commanded[name]
        now = torch.stack([frames.observations[stream][..., column] for stream, column in places], -1)
        before = frames.previous
        return torch.where(frames.previous_valid[..., None], before, now) * measured.to(before.device)

    def _estimator(self, name: str) -> Estimator:
        if name not in self.estimators:
            raise PolysomaError(f"{name} has no privileged states to estimate")
        return cast(Estimator, self.estimators[name])

    @torch.inference_mode()
    def estimate(self, windows: Windows) -> dict[str, Tensor]:
        """What the policy takes a body's privileged states for: stream name to ``(B, T, size)``, float32, in the
        channels' units. Raises PolysomaError for a body that has none."""
        estimator = self._estimator(windows.embodiment.name)
        with self.autocast():
            embedded = self._embed(windows)
            found = estimator.estimate(embedded.frames, embedded.summary())
        return {name: state.cpu() for name, state in found.items()}

    @torch.inference_mode()
    def begin(
        self,
        body: str,
        instruction: str,
        goal: Mapping[str, np.ndarray] | None = None,
        context: Sequence[Episode] = (),
        silent: bool = False,
    ) -> PolicyState:
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
        goals = None if goal is None else {camera: picture[None] for camera, picture in goal.items()}
        self.check_context(body, context)
        shown = show(context, max(1, self.config.shown), silent) if context else None
        task = task_of(self.text.encode, self.device, [instruction], goals, shown)
        with self.autocast():
            tokens, readings = self._told(body, task)
            (state,) = self.trunk.start(tokens)
        return PolicyState(instruction, readings, state)

    @torch.inference_mode()
    def predict(
        self, windows: Windows, states: Sequence[PolicyState] | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """The chunk of actions for the last frame of each window: the first of what :meth:`respond` returns."""
        return self.respond(windows, states, noise)[0]

    @torch.inference_mode()
    def respond(
        self, windows: Windows, states: Sequence[PolicyState] | None = None, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The chunk of actions for the last frame of each window, and the readout that it was decoded from.

        Args:
            windows: of one embodiment; with states, only the frames that came since these were last extended, equally
                many of each.
            states: one for each window, from :meth:`begin`; the new frames are added to them. None: windows are whole.
            noise: what heads that draw start from, standard normal ``(B, *head.noise)``; None draws it anew.

        Returns:
            Actions in the body's units ``(B, chunk, A)``, or log-probabilities ``(B, chunk, names)``; and readouts
            ``(B, width)``. Both float32, on the CPU.
        """
        name, body = windows.embodiment.name, windows.embodiment
        self._check_same(body)
        frames, new = frames_of(windows, self.device), windows.previous.shape[1]
        last = torch.from_numpy(windows.lengths).to(self.device) - 1
        with self.autocast():
            if states is None:
                task = task_of(self.text.encode, self.device, windows.instructions, windows.goals, windows.shown)
                readouts = self.ask(name, task, frames, last)
            else:
                if (windows.lengths != new).any():
                    raise PolysomaError(f"expected {new} new frames for each state, got {windows.lengths.tolist()}")
                before = torch.tensor([[state.frames] for state in states], device=self.device)
                times = before + torch.arange(new, device=self.device)
                tokens = self._frames(name, frames, times, readings_of(states))
                asking = self._readouts(name, ACTION, times[:, -1:])
                readouts = self.trunk.step([state.trunk for state in states], tokens, asking)
            start = None if noise is None else noise[:, None].to(self.device)
            prediction = self.decode(name, readouts, frames, last, start)
        return prediction.cpu(), readouts[:, 0].float().cpu()

    def ask(self, name: str, task: TaskInputs, frames: FrameInputs, last: Tensor) -> Tensor:
        """The readouts ``(B, 1, width)`` for the actions of a body at the frames ``last``, int64 ``(B,)``, of whole
        windows."""
        return self._answer(name, self._embed_inputs(name, task, frames), last[:, None], (ACTION,))[ACTION]

    def decode(
        self, name: str, readouts: Tensor, frames: FrameInputs, last: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """Chunks of actions of a body, as :meth:`respond` returns them, from readouts ``(B, 1, width)`` at the frames
        ``last``, int64 ``(B,)``."""
        prediction = self.head(name).decode(readouts, noise)[:, 0]
        reference = self._reference(name, frames)
        if reference is None:
            return prediction
        return prediction + reference[torch.arange(len(readouts), device=last.device), last][:, None]

    def add_readout(self, body: str, name: str, head: ReadoutHead) -> None:
        """Gives bodies another readout with a head of its own, random at first. What the others compute stays the same
        bits, as nothing sees a readout.

        Args:
            body: an action group (:attr:`Embodiment.body`), all of whose bodies get a readout.
            name: of the readout, such as ``"value"``; letters, digits and ``_``.
            head: what becomes of it.

        Raises:
            PolysomaError: no body of this group, or a name that is taken.
        """
        if body not in (groups := {known.body for known in self.config.embodiments}):
            raise PolysomaError(f"readout {name!r}: expected a body of {sorted(groups)}, got {body!r}")
        have = self.config.readouts.get(body, {})
        if name == ACTION or name in have or not name.isidentifier():
            raise PolysomaError(f"readout {name!r} of {body}: expected a new name of letters, digits and _")
        config = dataclasses.replace(self.config, readouts={**self.config.readouts, body: {**have, name: head}})
        self._add_readout(body, name, head)
        self.config = config

    def _add_readout(self, group: str, name: str, head: ReadoutHead) -> None:
        for body in self.config.embodiments:
            if body.body == group:
                token = torch.randn(self.horizon(body.name).history, self.config.width, device=self.device) * 0.02
                self.readouts[_key(body.name, name)] = nn.Parameter(token)
        self.heads[_key(group, name)] = head.build(self.config.width).to(self.device)

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
        horizons: Mapping[str, Horizon] | None = None,
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
            horizons: how it looks at bodies from now on; a body without one is looked at as before, or where it is new
                by :meth:`Horizon.default`. Where a known body's changes, the weights that do not fit are new.

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
        looks = {
            body.name: (horizons or {}).get(body.name)
            or self.config.horizons.get(body.name)
            or Horizon.default(body.rate_hz, isinstance(body.actions, DiscreteActions))
            for body in known.values()
        }

        def kept(name: str) -> dict[str, Statistics]:
            # Statistics of offsets are of every place in a chunk.
            same = name in self.config.horizons and self.config.horizons[name].chunk == looks[name].chunk
            own = self.config.statistics.get(name, {})
            return {stream: value for stream, value in own.items() if same or stream != "offset"}

        config = dataclasses.replace(
            self.config,
            embodiments=tuple(known.values()),
            statistics={name: {**statistics.get(name, {}), **kept(name)} for name in known},
            vocabulary=(*self.config.vocabulary, *(w for w in vocabulary if w not in self.config.vocabulary)),
            images=images or self.config.images,
            relative=tuple(sorted({*self.config.relative, *relative} & {body.body for body in known.values()})),
            shown=self.config.shown or shown,
            horizons=looks,
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
        horizons: Mapping[str, Horizon] | None = None,
    ) -> Policy:
        """A policy of these bodies alone that shares this one's weights, which take no more gradients, and has a few of
        its own. Bodies that are known begin with the weights and statistics that they have.

        Args:
            adaptation: which method; its number of words is counted here.
            embodiments: bodies to drive.
            statistics: those of bodies that are not known.
            vocabulary: words to know.
            horizons: as for :meth:`grown`.

        Raises:
            PolysomaError: this policy is an adaptation itself, or a body of a known name differs from the known one.
        """
        grown = self.grown(embodiments, statistics, vocabulary, keep=False, horizons=horizons)
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

    @property
    def precision(self) -> Precision:
        """What it computes products in (:mod:`polysoma.nn.precision`): what it was told, or what suits its device."""
        return self._precision or precision.chosen(self.device)

    def compute_in(self, wanted: str | None) -> Policy:
        """Chooses the precision, as for :func:`polysoma.nn.precision.chosen`, and returns itself."""
        self._precision = None if wanted in (None, "auto") else precision.chosen(self.device, wanted)
        return self

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Products in the policy's precision, for all that calls :meth:`loss`, :meth:`forward` and the like."""
        return precision.autocast(self.device, self.precision)

    def for_inference(self, wanted: str | None = None) -> Policy:
        """Stores the matrices in the precision that it computes in from now on, freezes, and returns itself.

        Args:
            wanted: as for :func:`polysoma.nn.precision.chosen`.
        """
        self._precision = precision.chosen(self.device, wanted)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
                module.to(precision.dtype(self._precision))
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
        body, horizon, tokenizer = self.embodiment(name), self.horizon(name), self._tokenizer(name)
        rows: list[tuple[str, str, str]] = [("words", "one a word", "words")]
        if self.shown is not None and tokenizer.previous is not None:
            rows = [("words", "one a word", "words, what is shown")]
            frames = f"{tokenizer.per_frame} x {len(self.shown)} frames of each"
            rows.append(("episodes that are shown", frames, "words, what is shown"))
        if tokenizer.fused:
            streams = " + ".join(stream.name for stream in body.arrays)
            rows.append(
                (f"frame: {streams} + previous action", f"1 x {horizon.history} frames", "words, frames so far")
            )
        else:
            for stream in body.arrays:
                image = stream.modality is Modality.IMAGE
                tokens = self.config.images.tokens if image else getattr(tokenizer.streams[stream.name], "tokens", 1)
                rows.append((f"{stream.name} {stream.shape}", str(tokens), "words, this frame"))
            if tokenizer.previous is not None:
                rows.append(("previous action", str(tokenizer.previous.tokens), "words, this frame"))
        unit = "choices of" if hasattr(body.actions, "names") else "actions of"
        rows.append((f"readout -> {horizon.chunk} {unit} {body.actions.size}", "1", "words, frames so far, itself"))
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
        shape = f"width {self.config.width}, depth {self.config.trunk.depth}, {self.config.trunk.heads} heads"
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

"""What a policy computes, on tensors: tokenizers, one trunk, heads, and the statistics of every body. It has no state.

    task, frames -> tokens -> trunk -> readouts -> head -> chunk of actions

A batch is of one embodiment, so nothing is computed for bodies that are not in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.data.batch import Demonstrations
from polysoma.data.statistics import Statistics
from polysoma.embodiment import ContinuousActions, Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.nn.adapters import adapt
from polysoma.nn.correction import Correction, CorrectionConfig
from polysoma.nn.described import ChannelReader, DescribedHead
from polysoma.nn.estimator import PrivilegedStateHead
from polysoma.nn.finder import NamedPlaces
from polysoma.nn.flow import Guide
from polysoma.nn.heads import GatedHead, Head, LastCommand, ReadoutHead, build_head
from polysoma.nn.images import ImageTokenizer
from polysoma.nn.named import Modules, Parameters
from polysoma.nn.tokenizers import BodyTokenizer
from polysoma.nn.trunk import ReadoutTokens, TaskTokens, Trunk, Windows
from polysoma.nn.words import TextTokenizer
from polysoma.policy.config import PolicyConfig
from polysoma.policy.inputs import Frames, TaskInputs

ACTION = "action"
"""The readout that every body has."""

Role = Literal["shared", "body", "words", "readout"]
"""What a parameter is for: all bodies, the senses of one body, the table of words, or one body's readouts and heads."""


def _key(body: str, readout: str) -> str:
    """What a readout's parameters are called, those for actions as the first format called them."""
    return body if readout == ACTION else f"{body}/{readout}"


class Embedded(NamedTuple):
    """Tokens of what is to be done, and of frames, ``(B, T, per_frame, width)``; and the places of these in their
    windows, int64 ``(1, T)``."""

    task: TaskTokens
    frames: Tensor
    times: Tensor

    def summary(self) -> Tensor:
        """The mean of the tokens of each window's task, ``(B, width)``."""
        weight = self.task.valid[..., None].to(self.task.tokens.dtype)
        mean = (self.task.tokens * weight).sum(1) / weight.sum(1).clamp(min=1)
        return mean if self.task.rows is None else mean[self.task.rows]


class Network(nn.Module):
    """The modules of a policy, and how they work together.

    Attributes:
        config: all that it was built from.
    """

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        own_words = 0 if config.adaptation is None else config.adaptation.words
        self.text = TextTokenizer(config.vocabulary, config.width, config.heads, own_words, config.most_words)
        self.bodies: Modules[BodyTokenizer] = Modules()
        self.readouts = Parameters()
        self.heads: Modules[Head] = Modules()
        self.estimators: Modules[PrivilegedStateHead] = Modules()
        self.corrections: Modules[Correction] = Modules()
        roles = {s.name for body in config.embodiments for s in body.streams if s.modality is Modality.IMAGE}
        self.images: ImageTokenizer | NamedPlaces | None = None
        if roles and config.images.reduction == "named":
            self.images = NamedPlaces(config.images, sorted(roles), config.width, config.vocabulary)
        elif roles:
            self.images = ImageTokenizer(config.images, sorted(roles), config.width)
        self.channels = ChannelReader(config.width) if config.adapters == "described" else None
        groups = {body.body for body in config.embodiments}
        for key, chosen in (("relative", config.relative), ("gated", config.gated)):
            if unknown := sorted(set(chosen) - groups):
                raise PolysomaError(f"{key}: unknown bodies {unknown}; expected some of {sorted(groups)}")
        self._commanded = {b.name: _commanded(b) for b in config.embodiments if b.body in config.relative}
        self._felt = {b.name: b.felt for b in config.embodiments if b.body in config.gated and b.felt}
        moving: dict[str, Embodiment] = {}
        for body in config.embodiments:
            statistics, horizon = dict(config.statistics.get(body.name, {})), config.horizons[body.name]
            reader = self.channels if isinstance(body.actions, ContinuousActions) else None
            tokens, waves, film = config.images.tokens, config.waves, config.film
            tokenizer = BodyTokenizer(body, horizon, statistics, config.width, tokens, reader, waves, film)
            self.bodies[body.name] = tokenizer
            if body.privileged:
                estimator = PrivilegedStateHead(body.privileged, statistics, tokenizer.per_frame, config.width)
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
        unknown = sorted(set(config.readouts) - groups)
        if unknown:
            raise PolysomaError(f"readouts: unknown bodies {unknown}; expected some of {sorted(moving)}")
        for group, readouts in config.readouts.items():
            for name, head in readouts.items():
                self._add_readout(group, name, head)
        for name, correction in config.corrections.items():
            self._add_correction(name, correction)
        self.trunk: Trunk = config.trunk.build(config.width)
        count = config.frames_per_demonstration
        self.shown = nn.Parameter(torch.randn(count, 1, config.width) * 0.02) if count else None
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
        if body.body in (*self.config.relative, *self.config.gated):
            offsets = statistics.get("offset")
            if offsets is None:
                raise PolysomaError(f"{body.name}: no statistics of the offsets of its actions")
            if body.body in self.config.gated:
                if known is None or not isinstance(body.actions, ContinuousActions):
                    raise PolysomaError(f"{body.name}: a gate needs real-valued actions and their statistics")
                return GatedHead(body.actions, chunk, known, offsets, self.config.width, statistics.get("lag"))
            known = offsets
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

    @property
    def device(self) -> torch.device:
        return self.text.position.device

    def roles(self) -> dict[str, Role]:
        """What every parameter and every stored buffer is for, by name."""
        parts: tuple[tuple[nn.Module | None, Role], ...] = (
            (self.bodies, "body"), (self.estimators, "body"), (self.readouts, "readout"), (self.heads, "readout"),
            (self.corrections, "readout"),
            (self.text.words, "words"), (self.text.own, "words"),
        )  # fmt: skip
        known = {id(module): role for part, role in parts if part is not None for module in (part, *part.modules())}
        found: dict[str, Role] = {}
        for path, module in self.named_modules():
            for name in (*module._parameters, *(set(module._buffers) - module._non_persistent_buffers_set)):
                found[f"{path}.{name}" if path else name] = known.get(id(module), "shared")
        return found

    def names_of(self, *roles: Role) -> frozenset[str]:
        """The names of the parameters and stored buffers that are for one of these."""
        return frozenset(name for name, role in self.roles().items() if role in roles)

    def eyes(self) -> frozenset[str]:
        """The names of the parameters and stored buffers that read pictures."""
        own = [] if self.images is None else self.images.state_dict(keep_vars=True).values()
        numbers = {id(value) for value in own}
        return frozenset(n for n, value in self.state_dict(keep_vars=True).items() if id(value) in numbers)

    def check_same(self, body: Embodiment) -> None:
        """Raises PolysomaError where the body is not the one that is known by its name."""
        known = self.embodiment(body.name)
        if known is not body and known != body:
            differences = "; ".join(known.differences(body))
            raise PolysomaError(f"the policy's body {body.name!r} is not the one of this data: {differences}")

    def head(self, name: str, readout: str = ACTION) -> Head:
        """The head of the body of this name for one of its readouts. Raises PolysomaError for an unknown one."""
        group = self.embodiment(name).body
        try:
            return self.heads[_key(group, readout)]
        except KeyError:
            known = [ACTION, *self.config.readouts.get(group, ())]
            raise PolysomaError(f"{name} has no readout {readout!r}; it has {', '.join(known)}") from None

    def embed(self, name: str, task: TaskInputs, frames: Frames, words: Tensor | None = None) -> Embedded:
        """Tokens of a task and of the frames of whole windows; ``words`` as for :meth:`task_tokens`."""
        tokens, conditioning = self.task_tokens(name, task, words)
        times = torch.arange(frames.previous.shape[1], device=frames.previous.device)[None]
        return Embedded(tokens, self.frames(name, frames, times, conditioning, task.rows), times)

    def answer(self, name: str, embedded: Embedded, times: Tensor, readouts: Sequence[str]) -> dict[str, Tensor]:
        """The readouts of these names that see up to the frames ``times``, int64 ``(B, R)`` or ``(1, R)``: ``(B, R,
        width)`` each."""
        asked = self.windows(name, embedded, times, readouts)
        answers = self.trunk(asked.task, asked.frames, asked.readouts).split(times.shape[1], 1)
        return dict(zip(readouts, answers, strict=True))

    def windows(self, name: str, embedded: Embedded, times: Tensor, readouts: Sequence[str]) -> Windows:
        """What the trunk is given for :meth:`answer`."""
        asking = [self.asking(name, readout, times) for readout in readouts]
        tokens = torch.cat(asking, 1).expand(len(embedded.frames), -1, -1)
        return Windows(embedded.task, embedded.frames, ReadoutTokens(tokens, times.repeat(1, len(asking))))

    def asking(self, name: str, readout: str, times: Tensor) -> Tensor:
        """The tokens that ask at these positions of a window, float32 ``(*times.shape, width)``."""
        if self.channels is not None and isinstance(head := self.head(name, readout), DescribedHead):
            return (head.readout() + head.reader.time[times]).float()
        return self.readouts[_key(name, readout)][times].float()

    def task_tokens(
        self, name: str, task: TaskInputs, words: Tensor | None = None
    ) -> tuple[TaskTokens, dict[str, Tensor]]:
        """Tokens of what is to be done: of words, of shown frames and of goal pictures, float32; and what the words
        make of streams that are read in their light. Where the words were read already, ``words`` are their tokens."""
        words, valid = self.text(task.words) if words is None else words, task.words != 0
        conditioning = self.bodies[name].read(words, task.words, self.images)
        words = words.float()
        if self.prompt is not None:
            before = self.prompt.to(words.dtype).expand(len(words), -1, -1)
            words, valid = torch.cat([before, words], 1), F.pad(valid, (len(self.prompt), 0), value=True)
        if task.demonstrations is not None:
            frames, true = self._of_shown(name, task.demonstrations, conditioning)
            words, valid = torch.cat([words, frames], 1), torch.cat([valid, true], 1)
        if task.goals is not None:
            if not isinstance(self.images, ImageTokenizer) or not self.config.images.goals:
                raise PolysomaError("this policy was not trained to follow goal pictures (images.goals in its recipe)")
            seen = self.images.forward_goals(task.goals, conditioning)
            words, valid = torch.cat([words, seen.float()], 1), F.pad(valid, (0, seen.shape[1]), value=True)
        return TaskTokens(words, valid, task.rows), conditioning

    def _of_shown(self, name: str, shown: Demonstrations, conditioning: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens of shown frames, float32 ``(I, F * per_frame, width)``, and which of them are true.

        Each frame carries its own action in the slot of the previous one; a frame's place in its episode is marked, the
        order of episodes is not.
        """
        tokenizer = self.bodies[name]
        self.check_shown(name)
        assert self.shown is not None
        start = torch.zeros_like(shown.places)
        tokens = tokenizer(shown.observations, shown.actions, start, conditioning, self.images).float()
        tokens = tokens + self.shown[shown.places]
        return tokens.flatten(1, 2), shown.valid.repeat_interleave(tokenizer.per_frame, 1)

    def check_shown(self, name: str) -> None:
        """Raises PolysomaError where this body cannot be shown episodes."""
        if self.shown is None:
            raise PolysomaError("this policy was not trained to be shown episodes (bodies.NAME.shots in its recipe)")
        if self.bodies[name].previous is None:
            raise PolysomaError(
                f"{name} does not read its previous action, so it cannot be shown what was done "
                "(bodies.NAME.previous_action in its recipe)"
            )

    def frames(
        self, name: str, frames: Frames, times: Tensor, conditioning: dict[str, Tensor], rows: Tensor | None = None
    ) -> Tensor:
        """Tokens of frames, float32 ``(B, T, per_frame, width)``."""
        tokenizer = self.bodies[name]
        tokens: Tensor = tokenizer(frames.observations, frames.previous, times, conditioning, self.images, rows)
        return tokens.float()

    def reference(self, name: str, frames: Frames) -> Tensor | None:
        """What actions are relative to at every frame, float32 ``(B, T, A)``; None for a body whose actions are not."""
        if name not in self._commanded:
            return None
        places, measured = self._commanded[name]
        return _before(frames, places) * measured.to(frames.previous.device)

    def last_command(self, name: str, frames: Frames) -> LastCommand:
        """What was done before every frame. Before the first one of an episode that is, for a gated body, where its
        joints are, if its state says that of all that is commanded: so it does not jerk."""
        if name not in self._felt:
            return LastCommand(frames.previous, frames.previous_valid)
        joints, executed = _at(frames, self._felt[name]), frames.previous_valid
        command = torch.where(executed[..., None], frames.previous, joints)
        return LastCommand(command, torch.ones_like(executed), joints, executed)

    def estimator(self, name: str) -> PrivilegedStateHead:
        """What estimates this body's privileged states. Raises PolysomaError where it has none."""
        if name not in self.estimators:
            raise PolysomaError(f"{name} has no privileged states to estimate")
        return self.estimators[name]

    def ask(self, name: str, task: TaskInputs, frames: Frames, last: Tensor) -> Tensor:
        """The readouts ``(B, 1, width)`` for the actions of a body at the frames ``last``, int64 ``(B,)``, of whole
        windows."""
        return self.answer(name, self.embed(name, task, frames), last[:, None], (ACTION,))[ACTION]

    def decode(
        self,
        name: str,
        readouts: Tensor,
        frames: Frames,
        last: Tensor | None = None,
        noise: Tensor | None = None,
        guides: Sequence[Guide] = (),
    ) -> Tensor:
        """Chunks of actions of a body, as :meth:`respond` returns them, from readouts ``(B, 1, width)`` at the frames
        ``last``, int64 ``(B,)``; None where there is one frame each. Guides are for flow heads, and know nothing of
        corrections."""
        rows = None if last is None else (torch.arange(len(readouts), device=last.device), last)
        before = self.last_command(name, frames)
        if rows is not None:
            before = before.at(rows)
        reference = self.reference(name, frames)
        if reference is not None and rows is not None:
            reference = reference[rows][:, None]
        # Heads that draw nothing take none.
        guided: dict[str, Any] = {"guides": [_absolute(guide, reference) for guide in guides]} if guides else {}
        prediction = self.head(name).decode(readouts, noise, before, **guided)[:, 0]
        if name in self.corrections:
            correction = self.correction(name)
            states = {stream: frames.observations[stream] for stream in correction.streams}
            now = {stream: seen[:, 0] if rows is None else seen[rows] for stream, seen in states.items()}
            prediction = correction.apply_to(prediction, correction(correction.look(readouts[:, 0], now)))
        return prediction if reference is None else prediction + reference

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

    def add_correction(self, body: str, config: CorrectionConfig) -> Correction:
        """Gives the body of this name a correction of its answers, zero at first; the body's own until now is replaced.
        What others compute stays the same bits.

        Raises:
            PolysomaError: no body of this name.
        """
        self._add_correction(body, config)
        self.config = dataclasses.replace(self.config, corrections={**self.config.corrections, body: config})
        return self.correction(body)

    def _add_correction(self, body: str, config: CorrectionConfig) -> None:
        known, statistics = self.embodiment(body), self.config.statistics.get(body, {})
        states = {s.name: statistics[s.name] for s in known.arrays if s.modality is Modality.STATE}
        self.corrections[body] = Correction(self.config.width, known.actions, config, states).to(self.device)

    def correction(self, body: str) -> Correction:
        """What corrects this body's answers. Raises PolysomaError where nothing does."""
        if body not in self.corrections:
            raise PolysomaError(f"{body} has no correction")
        return self.corrections[body]

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def _absolute(guide: Guide, reference: Tensor | None) -> Guide:
    """The cost of chunks that are relative to a reference ``(B, 1, A)``; None for chunks that are not."""
    return guide if reference is None else lambda chunks: guide(chunks + reference)


def _before(frames: Frames, places: Sequence[tuple[str, int]]) -> Tensor:
    """The command before every frame, or what these state channels say where there was none: float32 ``(B, T, A)``."""
    return torch.where(frames.previous_valid[..., None], frames.previous, _at(frames, places))


def _at(frames: Frames, places: Sequence[tuple[str, int]]) -> Tensor:
    """What these state channels say at every frame, float32 ``(B, T, A)``."""
    return torch.stack([frames.observations[stream][..., column] for stream, column in places], -1)


def _commanded(body: Embodiment) -> tuple[list[tuple[str, int]], Tensor]:
    """For each action channel, the stream and the column of the state channel of the same name, and 1 where the channel
    is relative or 0."""
    if not isinstance(body.actions, ContinuousActions):
        raise PolysomaError(f"{body.name}: choices cannot be relative")
    places = body.sensed
    missing = [channel.name for channel in body.actions.channels if channel.name not in places]
    if missing:
        raise PolysomaError(
            f"{body.name}: relative actions need state channels of the same names; there is no {missing}"
        )
    return [places[channel.name] for channel in body.actions.channels], torch.tensor(body.actions.measured).float()

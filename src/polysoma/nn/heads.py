"""Heads: readouts to chunks of actions, and the losses that teach them.

A head takes readouts ``(B, R, width)``. Choices among named actions have one head; for real-valued actions a recipe
chooses between regression, bins and flow matching. The first two commit to one answer; flow matching draws from all
that demonstrations did.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.data.statistics import Statistics
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment
from polysoma.errors import PolysomaError, SettingError
from polysoma.nn.flow import Guide, descended, drawn
from polysoma.nn.waves import waves


@dataclass(frozen=True)
class HeadConfig:
    """How real-valued actions are predicted.

    Attributes:
        kind: ``"l1"``, ``"bins"`` or ``"flow"``.
        bins: of each action channel, for ``"bins"``.
        steps: of integration from noise to actions, for ``"flow"``.
        guidance: how far ``"flow"`` goes from an unconditional prediction to that from the observation, and beyond (Ho
            & Salimans 2022, arXiv 2207.12598): 1 is the conditional prediction itself.
        threshold: how ``"flow"`` keeps what it believes in every step within the recorded range of each channel, which
            large guidance leaves (Imagen, Saharia et al. 2022, arXiv 2205.11487, section 2.3): ``"static"`` clips,
            ``"dynamic"`` shrinks a channel's whole chunk towards the middle until it fits.
    """

    kind: Literal["l1", "bins", "flow"] = "l1"
    bins: Annotated[int, within(2, 65_536)] = 256
    steps: Annotated[int, within(1, 10_000)] = 8
    guidance: Annotated[float, within(0, 1000)] = 1.0
    threshold: Literal["none", "static", "dynamic"] = "none"

    def __post_init__(self) -> None:
        if self.kind not in ("l1", "bins", "flow"):
            raise SettingError(f"head: kind must be l1, bins or flow, got {self.kind!r}")
        check(self)


class LastCommand(NamedTuple):
    """The command that a body executed last, at the frames of R readouts.

    Attributes:
        command: in the body's units, float32 ``(B, R, A)``.
        valid: bool ``(B, R)``, False where nothing was done before.
        joints: where the joints are, float32 ``(B, R, A)``; None for bodies whose state does not say so.
        executed: bool ``(B, R)``, False where ``command`` is no command, but ``joints``; None as ``joints``.
    """

    command: Tensor
    valid: Tensor
    joints: Tensor | None = None
    executed: Tensor | None = None

    def at(self, rows: tuple[Tensor, Tensor]) -> LastCommand:
        """What it is at one frame of each window: at windows and frames ``(B,)`` each, of R = 1."""
        joints, executed = (None if value is None else value[rows][:, None] for value in self[2:])
        return LastCommand(self.command[rows][:, None], self.valid[rows][:, None], joints, executed)


class Head(nn.Module):
    """What all heads do."""

    noise: tuple[int, ...] | None = None
    """The shape of what :meth:`decode` draws from for each readout, or None where it draws nothing."""

    def losses(self, readouts: Tensor, actions: Tensor, last: LastCommand | None = None) -> Tensor:
        """The loss of every action of every chunk, float32 ``(B, R, chunk)``.

        Args:
            readouts: ``(B, R, width)``.
            actions: targets, float32 ``(B, R, chunk, A)`` or int64 ``(B, R, chunk)``.
            last: what was commanded last, for heads that continue from there (:class:`GatedHead`).
        """
        raise NotImplementedError

    def decode(self, readouts: Tensor, noise: Tensor | None = None, last: LastCommand | None = None) -> Tensor:
        """Actions in the body's units, float32 ``(B, R, chunk, A)``, or log-probabilities ``(B, R, chunk, names)``.

        Args:
            readouts: ``(B, R, width)``.
            noise: standard normal ``(B, R, *self.noise)`` for heads that draw; None draws it here.
            last: as for :meth:`losses`.
        """
        raise NotImplementedError


class RegressionHead(Head):
    """Regression in units of the body's standard deviations with an L1 loss (ACT, Zhao et al. 2023)."""

    mean: Tensor
    scale: Tensor

    def losses(self, readouts: Tensor, actions: Tensor, last: LastCommand | None = None) -> Tensor:
        return (self._predict(readouts) - (actions - self.mean) / self.scale).abs().mean(-1)

    def decode(self, readouts: Tensor, noise: Tensor | None = None, last: LastCommand | None = None) -> Tensor:
        return self._predict(readouts) * self.scale + self.mean

    def _predict(self, readouts: Tensor) -> Tensor:
        """Normalised actions, float32 ``(B, R, chunk, A)``."""
        raise NotImplementedError


class L1Head(RegressionHead):
    """A linear map of the body's own."""

    def __init__(self, actions: ContinuousActions, chunk: int, statistics: Statistics, width: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.linear = nn.Linear(width, chunk * actions.size)
        self.register_buffer("mean", _rows(statistics.mean, actions), persistent=False)
        self.register_buffer("scale", _rows(statistics.scale, actions), persistent=False)

    def _predict(self, readouts: Tensor) -> Tensor:
        return self.linear(readouts).float().unflatten(-1, (self.chunk, -1))


_SURE = 5.0
"""The logit of the gates of a new head at most: 1 in 150."""


class GatedHead(Head):
    """Two answers and a gate for each action of a chunk: where to be, and how far to go from the command before; an L1
    loss of what the gate makes of them, in standard deviations of the actions.

    A place holds still where a goal is seen; an offset says of a smooth recording, from its very last command, what no
    place says as exactly. Which of them counts is learnt, from the readout, for every step and channel.

    How far joints lag behind the command says how fast they are moving, and no state that holds places says that: so
    offsets also depend on it, by a linear map that is zero at first.

    A new head says the same whatever it is asked: between the mean action and the last command, where their errors are
    least if they are independent. So a smooth recording begins with its last command, and a jerky one with the mean.

    Args:
        actions: A channels.
        chunk: of so many steps.
        statistics: of the actions.
        offsets: of how far they are from the command before the chunk, ``chunk * A`` channels.
        width: of readouts.
        lags: of how far joints are behind the last command, A channels; None, as for bodies whose state does not say so
            and in policies of before, makes offsets of the readout alone.
    """

    mean: Tensor
    scale: Tensor
    offset_mean: Tensor
    offset_scale: Tensor
    lag_mean: Tensor
    lag_scale: Tensor

    def __init__(
        self,
        actions: ContinuousActions,
        chunk: int,
        statistics: Statistics,
        offsets: Statistics,
        width: int,
        lags: Statistics | None = None,
    ) -> None:
        super().__init__()
        self.chunk = chunk
        self.linear = nn.Linear(width, 3 * chunk * actions.size)
        self.register_buffer("mean", _rows(statistics.mean, actions), persistent=False)
        self.register_buffer("scale", _rows(statistics.scale, actions), persistent=False)
        self.register_buffer("offset_mean", _rows(offsets.mean, actions), persistent=False)
        self.register_buffer("offset_scale", _rows(offsets.scale, actions), persistent=False)
        self.lag = None if lags is None else nn.Parameter(torch.zeros(chunk * actions.size, actions.size))
        if lags is not None:
            self.register_buffer("lag_mean", torch.from_numpy(lags.mean), persistent=False)
            self.register_buffer("lag_scale", torch.from_numpy(lags.scale), persistent=False)
        share = 2 * (self.offset_scale / self.scale).log()
        with torch.no_grad():
            nn.init.zeros_(self.linear.weight)
            self.linear.bias.copy_(torch.stack([torch.zeros_like(share)] * 2 + [share.clamp(-_SURE, _SURE)]).flatten())

    def losses(self, readouts: Tensor, actions: Tensor, last: LastCommand | None = None) -> Tensor:
        return ((self.decode(readouts, last=last) - actions) / self.scale).abs().mean(-1)

    def decode(self, readouts: Tensor, noise: Tensor | None = None, last: LastCommand | None = None) -> Tensor:
        assert last is not None
        place, offset, gate = self.linear(readouts).float().unflatten(-1, (3, self.chunk, -1)).unbind(-3)
        place = place * self.scale + self.mean
        if self.lag is not None and last.joints is not None and last.executed is not None:
            lag = (last.command - last.joints - self.lag_mean) / self.lag_scale
            lag = torch.where(last.executed[..., None], lag, 0.0)
            # Not by a product of matrices, which would round to bfloat16.
            offset = offset + (lag[..., None, :] * self.lag.float()).sum(-1).unflatten(-1, (self.chunk, -1))
        onward = last.command[..., None, :] + offset * self.offset_scale + self.offset_mean
        # Where nothing was done before, there is a place alone.
        return torch.where(last.valid[..., None, None], torch.lerp(onward, place, gate.sigmoid()), place)


class BinsHead(Head):
    """Every channel falls into one of equal bins between the least and the greatest recorded value; a cross-entropy
    loss, and the middle of the most probable bin (RT-1, arXiv 2212.06817, section 5.1)."""

    low: Tensor
    width_of_bin: Tensor

    def __init__(self, actions: ContinuousActions, chunk: int, statistics: Statistics, width: int, bins: int) -> None:
        super().__init__()
        self.shape, self.bins = (chunk, actions.size, bins), bins
        self.linear = nn.Linear(width, math.prod(self.shape))
        # A constant channel still needs bins of some width.
        spread = (statistics.high - statistics.low).clip(min=1e-6)
        self.register_buffer("low", _rows(statistics.low, actions), persistent=False)
        self.register_buffer("width_of_bin", _rows(spread / bins, actions), persistent=False)

    def losses(self, readouts: Tensor, actions: Tensor, last: LastCommand | None = None) -> Tensor:
        index = ((actions - self.low) / self.width_of_bin).long().clamp(0, self.bins - 1)
        logits = self._logits(readouts)
        return F.cross_entropy(logits.flatten(0, -2), index.flatten(), reduction="none").view(index.shape).mean(-1)

    def decode(self, readouts: Tensor, noise: Tensor | None = None, last: LastCommand | None = None) -> Tensor:
        return self.low + (self._logits(readouts).argmax(-1) + 0.5) * self.width_of_bin

    def _logits(self, readouts: Tensor) -> Tensor:
        return self.linear(readouts).float().unflatten(-1, self.shape)


class FlowHead(Head):
    """Flow matching (Lipman et al. 2023, arXiv 2210.02747): a velocity field, conditioned on the readout, that carries
    noise to chunks along straight lines; Euler steps at inference.

    A tenth of the readouts is hidden in training, so that the field is also known without an observation and guidance
    can be applied.
    """

    mean: Tensor
    scale: Tensor
    middle: Tensor
    reach: Tensor
    HIDDEN = 0.1
    TIMES = 16

    def __init__(
        self, actions: ContinuousActions, chunk: int, statistics: Statistics, width: int, config: HeadConfig
    ) -> None:
        super().__init__()
        self.config, self.noise = config, (chunk, actions.size)
        size = chunk * actions.size
        self.nothing = nn.Parameter(torch.randn(width) * 0.02)
        self.field = nn.Sequential(
            nn.Linear(width + size + self.TIMES, 2 * width), nn.GELU(),
            nn.Linear(2 * width, 2 * width), nn.GELU(),
            nn.Linear(2 * width, size),
        )  # fmt: skip
        self.register_buffer("mean", _rows(statistics.mean, actions), persistent=False)
        self.register_buffer("scale", _rows(statistics.scale, actions), persistent=False)
        low, high = _rows(statistics.low, actions), _rows(statistics.high, actions)
        self.register_buffer("middle", ((low + high) / 2 - self.mean) / self.scale, persistent=False)
        self.register_buffer("reach", ((high - low) / 2 / self.scale).clamp(min=1e-6), persistent=False)

    def losses(self, readouts: Tensor, actions: Tensor, last: LastCommand | None = None) -> Tensor:
        target = (actions - self.mean) / self.scale
        noise = torch.randn_like(target)
        time = torch.rand(target.shape[:2], device=target.device)[..., None, None]
        hidden = torch.rand(target.shape[:2], device=target.device)[..., None] < self.HIDDEN
        readouts = torch.where(hidden, self.nothing.to(readouts.dtype), readouts)
        velocity = self._velocity(torch.lerp(noise, target, time), time, readouts)
        return (velocity - (target - noise)).square().mean(-1)

    def decode(
        self,
        readouts: Tensor,
        noise: Tensor | None = None,
        last: LastCommand | None = None,
        guides: Sequence[Guide] = (),
    ) -> Tensor:
        """See :class:`Head`; ``guides`` are costs of chunks whose gradients pull what is drawn."""
        assert self.noise is not None
        x = torch.randn(*readouts.shape[:2], *self.noise, device=readouts.device) if noise is None else noise
        nothing = self.nothing.to(readouts.dtype).expand_as(readouts)

        def clean(x: Tensor, time: float) -> Tensor:
            times = torch.full((*x.shape[:2], 1, 1), time, device=x.device)
            velocity = self._velocity(x, times, readouts)
            if self.config.guidance != 1:
                velocity = torch.lerp(self._velocity(x, times, nothing), velocity, self.config.guidance)
            seen = x + (1 - time) * velocity
            if guides:
                pulled = descended((seen * self.scale + self.mean).flatten(0, 1), guides)
                seen = (pulled.view_as(seen) - self.mean) / self.scale
            return self._within(seen)

        steps = self.config.steps
        return drawn(x, [step / steps for step in range(steps + 1)], clean) * self.scale + self.mean

    def _within(self, chunks: Tensor) -> Tensor:
        """Normalised chunks ``(..., chunk, A)`` in the recorded range, where that is wanted."""
        if self.config.threshold == "none":
            return chunks
        parts = (chunks - self.middle) / self.reach
        if self.config.threshold == "static":
            parts = parts.clamp(-1, 1)
        else:
            # The largest of a chunk instead of the paper's percentile of a picture: there are few.
            parts = parts / parts.abs().amax(-2, keepdim=True).clamp(min=1)
        return parts * self.reach + self.middle

    def _velocity(self, x: Tensor, time: Tensor, readouts: Tensor) -> Tensor:
        known = torch.cat([readouts.float(), x.flatten(2), waves(time.flatten(2), self.TIMES // 2)], -1)
        return self.field(known).float().view(x.shape)


class ValueHead(Head):
    """One number for each readout, such as the return that is expected from there on, with a squared error."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def losses(self, readouts: Tensor, actions: Tensor, last: LastCommand | None = None) -> Tensor:
        """Squared errors ``(B, R)`` of numbers float32 ``(B, R)``."""
        return (self.decode(readouts) - actions).square()

    def decode(self, readouts: Tensor, noise: Tensor | None = None, last: LastCommand | None = None) -> Tensor:
        """The numbers, float32 ``(B, R)``."""
        return self.linear(readouts).float().squeeze(-1)


@dataclass(frozen=True)
class ValueConfig:
    """A :class:`ValueHead`."""

    kind: Literal["value"] = "value"

    def build(self, width: int) -> ValueHead:
        """The head for readouts of this width, its weights random."""
        return ValueHead(width)


ReadoutHead = ValueConfig
"""What a readout beside that of actions has for a head: one member for each kind, told apart by ``kind``."""


class CategoricalHead(Head):
    """A chunk of choices among named actions, with a cross-entropy loss."""

    def __init__(self, actions: DiscreteActions, chunk: int, width: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.linear = nn.Linear(width, chunk * actions.size)

    def losses(self, readouts: Tensor, actions: Tensor, last: LastCommand | None = None) -> Tensor:
        logits = self._logits(readouts)
        return F.cross_entropy(logits.flatten(0, 2), actions.flatten(), reduction="none").view(actions.shape)

    def decode(self, readouts: Tensor, noise: Tensor | None = None, last: LastCommand | None = None) -> Tensor:
        return self._logits(readouts).log_softmax(-1)

    def _logits(self, readouts: Tensor) -> Tensor:
        return self.linear(readouts).float().unflatten(-1, (self.chunk, -1))


def _rows(statistic: np.ndarray, actions: ContinuousActions) -> Tensor:
    """``(1, A)`` or ``(chunk, A)``, whichever the statistic is of."""
    return torch.as_tensor(statistic).reshape(-1, actions.size)


def build_head(body: Embodiment, chunk: int, actions: Statistics | None, width: int, config: HeadConfig) -> Head:
    """The head for this body. Statistics of continuous actions are of A channels, or of ``chunk * A`` where every place
    in a chunk has its own. Raises PolysomaError when they are missing."""
    if isinstance(body.actions, DiscreteActions):
        return CategoricalHead(body.actions, chunk, width)
    if actions is None:
        raise PolysomaError(f"{body.name}: no statistics for its actions")
    if config.kind == "bins":
        return BinsHead(body.actions, chunk, actions, width, config.bins)
    if config.kind == "flow":
        return FlowHead(body.actions, chunk, actions, width, config)
    return L1Head(body.actions, chunk, actions, width)

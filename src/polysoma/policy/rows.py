"""What small networks of bodies whose actions are choices have in common: how they see rows of numbers and symbols."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.embodiment import DiscreteActions, Embodiment, Modality, Stream
from polysoma.errors import PolysomaError
from polysoma.policy.small import SmallPolicy

_FILTERS = 16


def check_choices(body: Embodiment) -> None:
    """Raises PolysomaError for actions that are numbers, or a body that senses pictures or nothing."""
    if not isinstance(body.actions, DiscreteActions):
        raise PolysomaError(f"{body.name}: values are of choices; expected discrete actions, got {body.actions}")
    if not body.arrays or (pictures := [s.name for s in body.arrays if s.modality is Modality.IMAGE]):
        raise PolysomaError(f"{body.name}: expected states and symbols to judge by, got pictures {pictures}")


class RowPolicy(SmallPolicy):
    """Sees rows as :func:`polysoma.data.replay.flat` makes them.

    Grids go through one convolution of 16 filters of 3 x 3, as in MinAtar's own DQN (arXiv 1903.03176).

    Args:
        body: whose rows they are.

    Attributes:
        mean, scale: float32 ``(states,)``, by which states are normalised; buffers.
        seen: how many features a row has.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, body: Embodiment) -> None:
        super().__init__()
        self._streams = body.arrays
        states = sum(len(stream.channels) for stream in body.arrays)
        self.register_buffer("mean", torch.zeros(states))
        self.register_buffer("scale", torch.ones(states))
        symbols = {stream.name: _Symbols(stream) for stream in body.arrays if stream.modality is Modality.SYMBOL}
        self.symbols = nn.ModuleDict(symbols)
        self.seen = states + sum(part.size for part in symbols.values())

    def taken(self, array: np.ndarray) -> Tensor:
        """An array as a tensor, where the policy is."""
        return torch.from_numpy(array).to(self.mean.device)

    def features(self, rows: Tensor) -> Tensor:
        """What is seen in rows ``(B, n)``, float32 or uint8: ``(B, seen)``."""
        parts, states = [], []
        sizes = [math.prod(stream.shape) for stream in self._streams]
        for stream, part in zip(self._streams, rows.split(sizes, 1), strict=True):
            if stream.modality is Modality.STATE:
                states.append(part)
            else:
                parts.append(self.symbols[stream.name](part))
        if states:
            parts.append((torch.cat(states, 1) - self.mean) / self.scale)
        return torch.cat(parts, 1)

    def measure(self, rows: np.ndarray) -> None:
        """Takes the statistics of the states among rows ``(N, n)``, that normalise from now on."""
        kinds = [s.modality is Modality.STATE for s in self._streams for _ in range(math.prod(s.shape))]
        states = rows[:, np.array(kinds)].astype(np.float64)
        if states.size:
            deviation = states.std(0)
            self.mean.copy_(torch.from_numpy(states.mean(0)))
            self.scale.copy_(torch.from_numpy(np.where(deviation < 1e-6, 1, deviation)))


class _Symbols(nn.Module):
    """A stream of symbols as features: a 0 or 1 for each value but the first of each id, of grids convolved."""

    which: Tensor
    wanted: Tensor

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        ids = [(place, value) for place, count in enumerate(stream.cardinalities) for value in range(1, count)]
        self.register_buffer("which", torch.tensor([place for place, _ in ids], dtype=torch.long), persistent=False)
        self.register_buffer("wanted", torch.tensor([value for _, value in ids]), persistent=False)
        self.shape = stream.shape
        self.binary = set(stream.cardinalities) == {2}
        self.near: nn.Conv2d | None = None
        self.size = math.prod(stream.shape[:-1]) * len(ids)
        if len(stream.shape) == 3 and min(stream.shape[:2]) >= 3:
            self.near = nn.Conv2d(len(ids), _FILTERS, 3)
            self.size = _FILTERS * (stream.shape[0] - 2) * (stream.shape[1] - 2)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows ``(B, n)`` to features ``(B, size)``."""
        grid = rows.unflatten(1, self.shape)
        held = (grid if self.binary else grid[..., self.which] == self.wanted).float()
        if self.near is not None:
            held = torch.relu(self.near(held.movedim(-1, 1)))
        return held.flatten(1)

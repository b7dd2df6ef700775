"""Values of choices: a small network that says what each choice of one body is worth, and drives it by the best one.

It is what DQN makes (:mod:`polysoma.learning.methods.dqn`), of bodies that sense numbers and symbols and whose actions
are choices. Its checkpoint is a folder like any other, and its planner
(:class:`polysoma.acting.values.ValuePlanner`) is accepted wherever a planner is. It reads no words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.embodiment import DiscreteActions, Embodiment, Modality, Stream
from polysoma.errors import PolysomaError
from polysoma.policy import small
from polysoma.policy.small import SmallPolicy

KIND = "values"
"""What ``config.json`` calls such a checkpoint."""
_FILTERS = 16


@dataclass(frozen=True)
class ValueConfig:
    """What such a policy is.

    Attributes:
        embodiment: the one body that it drives.
        width: of the hidden layer.
        dueling: whether the value of a state and the advantages of choices are apart (Wang et al. 2016, arXiv
            1511.06581).

    Raises:
        PolysomaError: actions that are numbers, or a body that senses pictures or nothing.
    """

    embodiment: Embodiment
    width: Annotated[int, within(1, 65_536)] = 128
    dueling: bool = True

    def __post_init__(self) -> None:
        check(self)
        body = self.embodiment
        if not isinstance(body.actions, DiscreteActions):
            raise PolysomaError(f"{body.name}: values are of choices; expected discrete actions, got {body.actions}")
        if not body.arrays or (pictures := [s.name for s in body.arrays if s.modality is Modality.IMAGE]):
            raise PolysomaError(f"{body.name}: expected states and symbols to judge by, got pictures {pictures}")

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        return {"kind": KIND, "embodiment": self.embodiment.to_json(), "width": self.width, "dueling": self.dueling}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ValueConfig:
        """The inverse of :meth:`to_json`. Raises PolysomaError, in one line."""
        body, stored = small.stored_beside_body(data, _Stored, "values of choices")
        return ValueConfig(body, stored.width, stored.dueling)


@dataclass(frozen=True)
class _Stored:
    """A configuration in JSON, without the embodiment."""

    width: int = 128
    dueling: bool = True


class ValuePolicy(SmallPolicy):
    """Values of one body's choices, from rows as :func:`polysoma.data.replay.flat` makes them.

    Grids go through one convolution of 16 filters of 3 x 3, as in MinAtar's own DQN (arXiv 1903.03176); all goes into
    one hidden layer.

    Attributes:
        config: what it is.
    """

    mean: Tensor
    scale: Tensor
    config: ValueConfig

    def __init__(self, config: ValueConfig) -> None:
        super().__init__()
        self.config = config
        streams, choices = config.embodiment.arrays, config.embodiment.actions.size
        states = sum(len(stream.channels) for stream in streams)
        self.register_buffer("mean", torch.zeros(states))
        self.register_buffer("scale", torch.ones(states))
        symbols = {stream.name: _Symbols(stream) for stream in streams if stream.modality is Modality.SYMBOL}
        self.symbols = nn.ModuleDict(symbols)
        seen = states + sum(part.size for part in symbols.values())
        self.hidden = nn.Linear(seen, config.width)
        self.advantage = nn.Linear(config.width, choices)
        self.value = nn.Linear(config.width, 1) if config.dueling else None

    def forward(self, rows: Tensor) -> Tensor:
        """The value of each choice, ``(B, choices)``, of rows ``(B, n)``, float32 or uint8."""
        parts, states = [], []
        sizes = [math.prod(stream.shape) for stream in self.config.embodiment.arrays]
        for stream, part in zip(self.config.embodiment.arrays, rows.split(sizes, 1), strict=True):
            if stream.modality is Modality.STATE:
                states.append(part)
            else:
                parts.append(self.symbols[stream.name](part))
        if states:
            parts.append((torch.cat(states, 1) - self.mean) / self.scale)
        hidden = torch.relu(self.hidden(torch.cat(parts, 1)))
        advantage: Tensor = self.advantage(hidden)
        if self.value is None:
            return advantage
        return self.value(hidden) + advantage - advantage.mean(1, keepdim=True)

    def measure(self, rows: np.ndarray) -> None:
        """Takes the statistics of the states among rows ``(N, n)``, that normalise from now on."""
        kinds = [s.modality is Modality.STATE for s in self.config.embodiment.arrays for _ in range(math.prod(s.shape))]
        states = rows[:, np.array(kinds)].astype(np.float64)
        if states.size:
            deviation = states.std(0)
            self.mean.copy_(torch.from_numpy(states.mean(0)))
            self.scale.copy_(torch.from_numpy(np.where(deviation < 1e-6, 1, deviation)))

    @torch.no_grad()
    def decide(self, rows: np.ndarray) -> np.ndarray:
        """The best choices, int64 ``(B,)``, for rows ``(B, n)``."""
        found: np.ndarray = self(torch.from_numpy(rows)).argmax(1).numpy()
        return found


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


def load(path: str | Path) -> ValuePolicy:
    """Loads such a policy for use, frozen.

    Raises:
        PolysomaError: there is no checkpoint, it is of another kind, or its weights are damaged or do not fit.
    """
    return small.load(path, KIND, "values of choices (polysoma skills play)", ValueConfig.from_json, ValuePolicy)

"""Corrections: what reward teaches beside a head that stays as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.data.statistics import Statistics
from polysoma.embodiment import ContinuousActions, DiscreteActions, Observation
from polysoma.nn.perceptrons import perceptron
from polysoma.nn.tokenizers import SLOWEST, STATE_CLIP
from polysoma.nn.waves import waves


@dataclass(frozen=True)
class CorrectionConfig:
    """A :class:`Correction`: the width and the number of its hidden layers; and frequencies of waves in which it sees
    the body's states beside the readout, 0 for the readout alone."""

    width: Annotated[int, within(1, 65_536)] = 64
    depth: Annotated[int, within(0, 16)] = 2
    waves: Annotated[int, within(0, 16)] = 0

    def __post_init__(self) -> None:
        check(self)


def half_range(actions: ContinuousActions | DiscreteActions) -> np.ndarray:
    """Half of the range of each action channel, float32 ``(A,)``, 1 where it has no limits; of choices 1."""
    if isinstance(actions, DiscreteActions):
        return np.ones(1, np.float32)
    half = actions.half
    return np.where(np.isfinite(half), half, 1).astype(np.float32)


class Correction(nn.Module):
    """A perceptron from the readout that a head decodes to what is added to its answer (a residual policy, Silver et
    al. 2018, arXiv 1812.06298). It begins as zero. With waves it also sees the body's states, normalised, by
    themselves and as sines and cosines: readouts keep of them what imitation needed.

    Numbers are moved by one offset for each channel, the same for the whole chunk, in parts of half the range; choices
    by one change of each name's log-probability.

    Args:
        readout: width of readouts.
        actions: of the body.
        config: its size.
        states: statistics of the body's state streams, by name.

    Attributes:
        seen: how many numbers it sees.
        streams: whose states are among them.
    """

    unit: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        readout: int,
        actions: ContinuousActions | DiscreteActions,
        config: CorrectionConfig,
        states: Mapping[str, Statistics],
    ) -> None:
        super().__init__()
        known = states if config.waves else {}
        self.streams, self._waves = tuple(known), config.waves
        for name in ("mean", "scale"):
            parts = [np.empty(0, np.float32), *(getattr(one, name) for one in known.values())]
            self.register_buffer(name, torch.as_tensor(np.concatenate(parts)), persistent=False)
        self.seen = readout + (1 + 2 * config.waves) * len(self.mean)
        self.net = perceptron(self.seen, actions.size, config.width, config.depth)
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)
        self.choices = isinstance(actions, DiscreteActions)
        self.register_buffer("unit", torch.from_numpy(half_range(actions)), persistent=False)

    def look(self, readouts: Tensor, observations: Mapping[str, Tensor]) -> Tensor:
        """What it sees, float32 ``(..., seen)``, of readouts ``(..., width)`` and of observations, by stream
        ``(..., *shape)``."""
        if not self.streams:
            return readouts.float()
        state = torch.cat([observations[name].float() for name in self.streams], -1)
        state = ((state - self.mean) / self.scale).clamp(-STATE_CLIP, STATE_CLIP)
        return torch.cat([readouts.float(), state, waves(state, self._waves, SLOWEST)], -1)

    @torch.no_grad()
    def look_at(self, readouts: np.ndarray, observations: Sequence[Observation]) -> np.ndarray:
        """The same for L readouts ``(L, width)`` and as many observations."""
        device = self.mean.device
        streams = {n: torch.from_numpy(np.stack([seen[n] for seen in observations])).to(device) for n in self.streams}
        found: np.ndarray = self.look(torch.from_numpy(readouts).to(device), streams).cpu().numpy()
        return found

    @torch.no_grad()
    def changes(self, seen: np.ndarray) -> np.ndarray:
        """:meth:`forward` of arrays, as :meth:`look_at` makes them: float32 ``(L, A)`` or ``(L, names)``."""
        found: np.ndarray = self(torch.from_numpy(seen).to(self.mean.device)).cpu().numpy()
        return found

    def forward(self, seen: Tensor) -> Tensor:
        """What is added, float32: what it sees, ``(..., seen)``, to ``(..., A)`` or ``(..., names)``."""
        changed: Tensor = self.net(seen).float()
        return changed

    def apply_to(self, prediction: Tensor, changes: Tensor) -> Tensor:
        """Chunks with their corrections: ``(B, chunk, A)`` in the body's units or log-probabilities ``(B, chunk,
        names)``, and changes ``(B, A)`` or ``(B, names)``."""
        if self.choices:
            return (prediction + changes[:, None]).log_softmax(-1)
        return prediction + self.unit * changes[:, None]

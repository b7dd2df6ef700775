"""Corrections: what reward teaches beside a head that stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.embodiment import ContinuousActions, DiscreteActions
from polysoma.nn.perceptrons import perceptron


@dataclass(frozen=True)
class CorrectionConfig:
    """A :class:`Correction`: the width and the number of its hidden layers."""

    width: Annotated[int, within(1, 65_536)] = 64
    depth: Annotated[int, within(0, 16)] = 2

    def __post_init__(self) -> None:
        check(self)


def half_range(actions: ContinuousActions | DiscreteActions) -> np.ndarray:
    """Half of the range of each action channel, float32 ``(A,)``, 1 where it has no limits; of choices 1."""
    if isinstance(actions, DiscreteActions):
        return np.ones(1, np.float32)
    half = (actions.high - actions.low) / 2
    return np.where(np.isfinite(half), half, 1).astype(np.float32)


class Correction(nn.Module):
    """A perceptron from the readout that a head decodes to what is added to its answer (a residual policy, Silver et
    al. 2018, arXiv 1812.06298). It begins as zero.

    Numbers are moved by one offset for each channel, the same for the whole chunk, in parts of half the range; choices
    by one change of each name's log-probability.

    Args:
        readout: width of readouts.
        actions: of the body.
        config: its size.
    """

    unit: Tensor

    def __init__(self, readout: int, actions: ContinuousActions | DiscreteActions, config: CorrectionConfig) -> None:
        super().__init__()
        self.net = perceptron(readout, actions.size, config.width, config.depth)
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)
        self.choices = isinstance(actions, DiscreteActions)
        self.register_buffer("unit", torch.from_numpy(half_range(actions)), persistent=False)

    def forward(self, readouts: Tensor) -> Tensor:
        """What is added, float32: readouts ``(..., width)`` to ``(..., A)`` or ``(..., names)``."""
        changed: Tensor = self.net(readouts).float()
        return changed

    def apply_to(self, prediction: Tensor, changes: Tensor) -> Tensor:
        """Chunks with their corrections: ``(B, chunk, A)`` in the body's units or log-probabilities ``(B, chunk,
        names)``, and changes ``(B, A)`` or ``(B, names)``."""
        if self.choices:
            return (prediction + changes[:, None]).log_softmax(-1)
        return prediction + self.unit * changes[:, None]

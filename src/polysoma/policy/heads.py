"""Heads: a readout's vector to a chunk of actions, and the loss that teaches it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.data.statistics import Statistics
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment
from polysoma.errors import PolysomaError


class ContinuousHead(nn.Module):
    """A chunk of real-valued actions, regressed in units of the body's standard deviations with an L1 loss."""

    mean: Tensor
    scale: Tensor

    def __init__(self, actions: ContinuousActions, chunk: int, statistics: Statistics, width: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.linear = nn.Linear(width, chunk * actions.size)
        self.register_buffer("mean", torch.as_tensor(statistics.mean), persistent=False)
        self.register_buffer("scale", torch.as_tensor(statistics.scale), persistent=False)

    def forward(self, readouts: Tensor) -> Tensor:
        """``(B, R, width)`` to normalised actions, float32 ``(B, R, chunk, A)``."""
        return self.linear(readouts).float().unflatten(-1, (self.chunk, -1))

    def losses(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """The error of every action of every chunk: ``(B, R, chunk)``."""
        return (prediction - (actions - self.mean) / self.scale).abs().mean(-1)

    def decode(self, prediction: Tensor) -> Tensor:
        """Normalised actions back to the body's units."""
        return prediction * self.scale + self.mean


class CategoricalHead(nn.Module):
    """A chunk of choices among named actions, with a cross-entropy loss."""

    def __init__(self, actions: DiscreteActions, chunk: int, width: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.linear = nn.Linear(width, chunk * actions.size)

    def forward(self, readouts: Tensor) -> Tensor:
        """``(B, R, width)`` to logits, float32 ``(B, R, chunk, names)``."""
        return self.linear(readouts).float().unflatten(-1, (self.chunk, -1))

    def losses(self, prediction: Tensor, actions: Tensor) -> Tensor:
        """The cross-entropy of every choice: ``(B, R, chunk)``."""
        return F.cross_entropy(prediction.flatten(0, 2), actions.flatten(), reduction="none").view(actions.shape)

    def decode(self, prediction: Tensor) -> Tensor:
        """Logits to log-probabilities."""
        return prediction.log_softmax(-1)


def build_head(body: Embodiment, statistics: dict[str, Statistics], width: int) -> ContinuousHead | CategoricalHead:
    """The head for this body's actions. Raises PolysomaError when the statistics of its actions are missing."""
    if isinstance(body.actions, DiscreteActions):
        return CategoricalHead(body.actions, body.chunk, width)
    if "action" not in statistics:
        raise PolysomaError(f"{body.name}: no statistics for its actions")
    return ContinuousHead(body.actions, body.chunk, statistics["action"], width)

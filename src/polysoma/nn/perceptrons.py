"""Small perceptrons for bodies that sense numbers: what learning from logs needs, in minutes of one core."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn


def perceptron(inputs: int, outputs: int, width: int = 256, depth: int = 2) -> nn.Sequential:
    """``depth`` hidden layers of ``width`` (linear, layer norm, GELU) and a linear one: ``(..., inputs)`` to
    ``(..., outputs)``. Layer norm keeps values of offline learning from running away (Ball et al. 2023, arXiv
    2302.02948)."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class Twins(nn.Module):
    """Two perceptrons that see the same and begin differently, so that their minimum does not overestimate (Fujimoto
    et al. 2018, arXiv 1802.09477).

    Args:
        inputs: numbers in all parts together.
        outputs: of each.
        width, depth: as of :func:`perceptron`.
    """

    def __init__(self, inputs: int, outputs: int = 1, width: int = 256, depth: int = 2) -> None:
        super().__init__()
        self.both = nn.ModuleList(perceptron(inputs, outputs, width, depth) for _ in range(2))

    def forward(self, *parts: Tensor) -> Tensor:
        """Parts ``(..., n)``, together the inputs, to ``(2, ...)`` for one output, else ``(2, ..., outputs)``."""
        joined = torch.cat(parts, -1)
        values = torch.stack([one(joined) for one in self.both])
        return values.squeeze(-1) if values.shape[-1] == 1 else values


Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(module: Module) -> Module:
    """Another one of the same weights, which never learns: a target network."""
    import copy

    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Moves a target network towards what it follows by a part ``rate`` of the way."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)

"""Small perceptrons for bodies that sense numbers: what learning from logs needs, in minutes of one core."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

_ROOT_HALF = np.float32(math.sqrt(0.5))


def perceptron(inputs: int, outputs: int, width: int = 256, depth: int = 2) -> nn.Sequential:
    """``depth`` hidden layers of ``width`` (linear, layer norm, GELU) and a linear one: ``(..., inputs)`` to
    ``(..., outputs)``. Layer norm keeps values of offline learning from running away (Ball et al. 2023, arXiv
    2302.02948)."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(inputs, width), nn.LayerNorm(width), nn.GELU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class ResidualPerceptron(nn.Module):
    """What adds up ``depth`` blocks of ``width`` (layer norm, linear, GELU, linear) between two linear layers.

    Args:
        inputs, outputs: numbers that go in and come out.
        width, depth: of the blocks.
    """

    def __init__(self, inputs: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.into = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def blocked(self, x: Tensor) -> Tensor:
        """``(B, inputs)`` to ``(B, outputs)``."""
        y: Tensor = self.into(x)
        for block in self.blocks:
            y = y + block(y)
        found: Tensor = self.out(y)
        return found


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


class InNumpy:
    """Perceptrons of :func:`perceptron` that see the same and no longer learn, computed in numpy: of a few rows a
    quarter of the time that torch takes, most of which goes into calls.

    Args:
        networks: K perceptrons of one size. Their weights are copied.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        layers = [list(one.modules()) for one in networks]
        linear = [[layer for layer in one if isinstance(layer, nn.Linear)] for one in layers]
        norms = [[layer for layer in one if isinstance(layer, nn.LayerNorm)] for one in layers]
        self._epsilon = np.float32(norms[0][0].eps)
        weights = [_stacked([each.weight for each in layer]).swapaxes(1, 2) for layer in zip(*linear, strict=True)]
        biases = [_stacked([each.bias for each in layer])[:, None] for layer in zip(*linear, strict=True)]
        gains = [_stacked([each.weight for each in layer])[:, None] for layer in zip(*norms, strict=True)]
        shifts = [_stacked([each.bias for each in layer])[:, None] for layer in zip(*norms, strict=True)]
        # The half of GELU stands in the weights that follow.
        weights = [weights[0], *(weight / 2 for weight in weights[1:])]
        # Layer norm takes away the mean: that of what a linear layer gives is linear, too, so it is taken away before.
        for each in (*weights[:-1], *biases[:-1]):
            each -= each.mean(-1, keepdims=True)
        root = np.float32(np.sqrt(weights[0].shape[-1]))
        ready = [np.ascontiguousarray(weight) for weight in weights]
        self._hidden = [
            (weight, bias, gain * root, shift)
            for weight, bias, gain, shift in zip(ready[:-1], biases[:-1], gains, shifts, strict=True)
        ]
        self._last = ready[-1], biases[-1]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Rows float32 ``(N, inputs)`` to ``(K, N, outputs)``."""
        for weight, bias, gain, shift in self._hidden:
            rows = rows @ weight
            rows += bias
            squares = np.vecdot(rows, rows) + self._epsilon * np.float32(rows.shape[-1])
            rows *= (1 / np.sqrt(squares))[..., None]
            rows *= gain
            rows += shift
            opened = rows * _ROOT_HALF
            torch.from_numpy(opened).erf_()
            opened += 1
            rows *= opened
        weight, bias = self._last
        done: np.ndarray = rows @ weight + bias
        return done


def _stacked(tensors: Sequence[Tensor]) -> np.ndarray:
    """Tensors of one shape, a copy ``(K, ...)``."""
    return torch.stack(list(tensors)).detach().float().numpy()


Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(module: Module) -> Module:
    """Another one of the same weights, which never learns: a target network."""
    import copy

    return copy.deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(target: nn.Module, source: nn.Module, rate: float) -> None:
    """Moves a target network towards what it follows by a part ``rate`` of the way."""
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), rate)

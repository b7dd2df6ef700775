"""Modules that adapt a trunk by a few parameters beside its own, which stay as they are."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.nn.attention import RowsLinear

_ALPHA = 2.0


class LoRALinear(RowsLinear):
    """A linear map plus one of low rank that begins as zero: ``W + B A``, where the inner width is the rank.

    The second one is scaled by 2, as is usual (``alpha = 2 * rank``).

    Attributes:
        fused: None, or the one matrix that does the same (:meth:`fuse`).
    """

    fused: Tensor | None

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("fused", None, persistent=False)
        self.a = nn.Parameter(torch.randn(rank, inputs) / math.sqrt(inputs))
        self.b = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        if self.fused is not None:
            return F.linear(x, self.fused[first:], self.bias[first:])
        return super().forward(x, first) + _ALPHA * F.linear(F.linear(x, self.a), self.b[first:])

    def dense(self) -> Tensor:
        """The one matrix that does the same."""
        return self.weight + _ALPHA * self.b @ self.a

    @torch.no_grad()
    def fuse(self) -> None:
        """Multiplies by that one matrix from now on, until weights are loaded. What is stored stays of low rank."""
        if self.fused is None:
            self.fused = self.dense()

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.fused = None
        super()._load_from_state_dict(*arguments)


class BottleneckLinear(nn.Linear):
    """A linear map, and after it a narrow perceptron around which its result also goes, and which begins as zero."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(inputs, outputs)
        self.narrow = nn.Linear(outputs, rank)
        self.wide = nn.Linear(rank, outputs)
        nn.init.zeros_(self.wide.weight)
        nn.init.zeros_(self.wide.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + self.wide(F.relu(self.narrow(y)))


def adapt(trunk: nn.Module, kind: Literal["lora", "adapter"], rank: int) -> None:
    """Replaces linear maps in the blocks of a trunk by ones with low-rank matrices or bottlenecks of this width.

    Low-rank matrices go beside every map, bottlenecks after each attention and each perceptron.
    """
    module, places = {
        "lora": (LoRALinear, ("qkv", "out", "up", "down")),
        "adapter": (BottleneckLinear, ("out", "down")),
    }[kind]
    for block in trunk.get_submodule("blocks").children():
        for place in places:
            old = block.get_submodule(place)
            assert isinstance(old, nn.Linear)
            setattr(block, place, module(old.in_features, old.out_features, rank))

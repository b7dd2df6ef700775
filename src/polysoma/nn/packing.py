"""Packing: the true tokens of padded sequences side by side, for all that is done to each token by itself.

Instructions and windows of one batch are of different lengths, so a third or a half of a padded batch can be padding.
Attention needs sequences; normalisations, linear maps and perceptrons do not, and they are what costs. Numbers of rows
are rounded up: a library that compiles a product for each new shape (oneDNN in bfloat16) would otherwise compile for
longer than it computes.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

_WORTHWHILE = 0.95
"""The share of true places above which padding costs less than packing."""
_STEP = 32


def rounded(count: int) -> int:
    """A number, or one that is larger by up to a sixteenth or by 31: few different ones, however many there are."""
    step = max(_STEP, 1 << count.bit_length() >> 5)
    return -(-count // step) * step


class Packing(NamedTuple):
    """Where the true tokens of B padded sequences of N places lie.

    Padding must be what nothing true looks at, so that its gradients are zero: they are not added up.

    Attributes:
        rows: int64 ``(P,)``, the place that each packed token is of, counted through all sequences. The last ones may
            be of padding, to round P up.
        places: int64 ``(B * N,)``, the packed token at each place; at padding, one of padding.
        shape: B and N.
    """

    rows: Tensor
    places: Tensor
    shape: tuple[int, int]

    @staticmethod
    def of(valid: Tensor) -> Packing:
        """Of the places, bool ``(B, N)``, that are true."""
        flat = valid.flatten()
        rows, padding = flat.nonzero()[:, 0], (~flat).nonzero()[:, 0]
        places = flat.cumsum(0) - 1
        if len(padding):
            places = torch.where(flat, places, len(rows))
            rows = torch.cat([rows, padding[:1].expand(rounded(len(rows) + 1) - len(rows))])
        return Packing(rows, places, (valid.shape[0], valid.shape[1]))

    @staticmethod
    def where_worthwhile(valid: Tensor) -> Packing | None:
        """:meth:`of` places where gradients are computed and enough of them is padding; None elsewhere. Acting, and
        the graphs that are made of it, has next to no padding."""
        if not torch.is_grad_enabled() or float(valid.float().mean()) > _WORTHWHILE:
            return None
        return Packing.of(valid)

    def beside(self, other: Packing) -> Packing:
        """Of sequences of which each is one of these and then one of the others; packed, all of these come first."""
        (batch, own), (_, others) = self.shape, other.shape
        both = own + others
        rows = self.rows // own * both + self.rows % own
        further = other.rows // others * both + own + other.rows % others
        places = torch.cat([self.places.view(batch, own), other.places.view(batch, others) + len(self.rows)], 1)
        return Packing(torch.cat([rows, further]), places.flatten(), (batch, both))

    def pack(self, x: Tensor) -> Tensor:
        """``(B, N, ...)`` to ``(P, ...)``."""
        return cast(Tensor, _Gather.apply(x.flatten(0, 1), self.rows, self.places))

    def unpack(self, x: Tensor) -> Tensor:
        """``(P, ...)`` to ``(B, N, ...)``; what stands at padding is of no use, and finite."""
        return cast(Tensor, _Gather.apply(x, self.places, self.rows)).unflatten(0, self.shape)


class _Gather(torch.autograd.Function):
    """Rows of a tensor; the way back gathers, too, where the usual one would add up row by row."""

    @staticmethod
    def forward(context: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        context.save_for_backward(there, back)
        return x.index_select(0, there)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        there, back = context.saved_tensors
        return cast(Tensor, _Gather.apply(gradient.contiguous(), back, there)), None, None

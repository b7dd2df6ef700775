"""Numbers as sines and cosines."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def waves(x: Tensor, count: int, slowest: float = math.pi / 2) -> Tensor:
    """Sines, then cosines, of each number at ``count`` frequencies, each twice the one before: what depends on small
    differences is a smooth map of them (Fourier features, Tancik et al. 2020, arXiv 2006.10739).

    Args:
        x: ``(..., n)``.
        count: frequencies.
        slowest: the first one, radians for each unit of x.

    Returns:
        ``(..., 2 * n * count)``.
    """
    phases = (x[..., None] * (slowest * 2.0 ** torch.arange(count, device=x.device))).flatten(-2)
    return torch.cat([phases.sin(), phases.cos()], -1)

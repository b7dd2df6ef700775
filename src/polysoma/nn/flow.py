"""Drawing by flow matching (Lipman et al. 2023, arXiv 2210.02747): noise is taken away along straight lines.

Ways (:mod:`polysoma.nn.paths`) and chunks of actions (:class:`~polysoma.nn.heads.FlowHead`) are drawn so. In every step
a network says what is believed to be behind the noise, and that may be changed: pulled down costs by their gradients
(Diffuser, Janner et al. 2022, arXiv 2205.09991, section 3.2), or kept within bounds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Guide = Callable[[Tensor], Tensor]
"""The cost of ways ``(N, H, places)`` or of chunks of actions ``(N, chunk, A)``, in their units: ``(N,)``, with a
gradient. Draws descend it; half the square of how far something is wrong moves them about that far in one step."""


def drawn(noise: Tensor, times: Sequence[float], clean: Callable[[Tensor, float], Tensor]) -> Tensor:
    """What becomes of noise.

    Args:
        noise: standard normal, of any shape.
        times: rising from 0, noise, to 1.
        clean: of what is still noisy, and its time: what is behind the noise. Its last answer is what is drawn.
    """
    x = noise
    for time, after in itertools.pairwise(times):
        x = torch.lerp(x, clean(x, time), (after - time) / (1 - time))
    return x


def descended(draws: Tensor, guides: Sequence[Guide]) -> Tensor:
    """Draws ``(N, ...)``, in their units, one step down the gradients of their costs."""
    with torch.inference_mode(False), torch.enable_grad():
        moved = draws.clone().requires_grad_(True)
        cost = torch.stack([guide(moved).sum() for guide in guides]).sum()
        (gradient,) = torch.autograd.grad(cost, moved)
    return draws - gradient

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

from polysoma.errors import PolysomaError

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


def cost_of(guide: Guide, draws: Tensor) -> Tensor:
    """What a guide says of draws ``(N, ...)``: ``(N,)``. Raises PolysomaError where it says something else, or what is
    not a number, of which no draw would be the best."""
    cost = guide(draws)
    if cost.shape != draws.shape[:1] or cost.isnan().any():
        name = getattr(guide, "__name__", type(guide).__name__)
        got = "NaN" if cost.shape == draws.shape[:1] else f"shape {tuple(cost.shape)}"
        raise PolysomaError(f"guide {name}: expected {len(draws)} costs, one for each that is drawn, got {got}")
    return cost


def descended(draws: Tensor, guides: Sequence[Guide]) -> Tensor:
    """Draws ``(N, ...)``, in their units, one step down the gradients of their costs. Raises PolysomaError as
    :func:`cost_of`, and where the gradient is not a number."""
    with torch.inference_mode(False), torch.enable_grad():
        moved = draws.clone().requires_grad_(True)
        cost = torch.stack([cost_of(guide, moved).sum() for guide in guides]).sum()
        (gradient,) = torch.autograd.grad(cost, moved)
    if gradient.isnan().any():
        names = [getattr(guide, "__name__", type(guide).__name__) for guide in guides]
        raise PolysomaError(f"guides {names}: the gradient of their costs is not a number")
    return draws - gradient

"""Curves that are bounded and odd, with coefficients that a small network makes of a context.

Up to their peak they have one inflection, at 0. They are for grey boxes: where the shape of a force is known and its
size is not, such as friction, slip and
saturation. Everything is written for NumPy arrays and torch tensors alike (``xp`` is the module that computes), so that
what is learnt by torch is planned with in NumPy.

Each curve is given for amounts from 0 on; its value for a direction is the curve of the amount, times the direction,
which makes it odd.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

Curve = Literal["brush", "exptanh", "integrated"]

HIDDEN, BINS = 8, 8
_HALF = 0.15
"""The amount that is halfway between 0 and without end, for the integrated curve."""

Numbers = Mapping[str, Any]
"""Parameters by name, arrays or tensors."""


def coefficients(xp: Any, numbers: Numbers, name: str, context: Any) -> Any:
    """What a network with one hidden layer makes of contexts ``(..., c)``: ``(..., k)``."""
    hidden = xp.tanh(context @ numbers[f"{name}.in"] + numbers[f"{name}.shift"])
    return hidden @ numbers[f"{name}.out"] + numbers[f"{name}.base"]


def brush(xp: Any, amount: Any, found: Any) -> Any:
    """The brush model of a tire (Fiala 1954; Pacejka 2012, section 3.2), relative to friction times load.

    Args:
        xp: numpy or torch.
        amount: ``(...)``.
        found: ``(..., 2)``, logarithms of the stiffness and of the bound.
    """
    stiffness, bound = xp.exp(found[..., 0]), xp.exp(found[..., 1])
    part = xp.clip(stiffness * amount / (3 * bound), 0.0, 1.0)
    return bound * part * (3 - 3 * part + part * part)


def exptanh(xp: Any, amount: Any, found: Any) -> Any:
    """``a exp(-b z) tanh(c z)``, a closed form that rises once and may fall behind its peak (the family of Djeumou et
    al. 2023, arXiv 2306.06330, without its offsets).

    Args:
        xp: numpy or torch.
        amount: ``(...)``.
        found: ``(..., 3)``, logarithms of a, b and c.
    """
    a, b, c = (xp.exp(found[..., i]) for i in range(3))
    return a * xp.exp(-b * amount) * xp.tanh(c * amount)


def integrated(xp: Any, amount: Any, found: Any) -> Any:
    """A slope and a second derivative, integrated twice. The second derivative is never positive, so that the curve is
    concave by construction in ``u = z / (z + 0.15)``, which also bounds it; it is constant in each of 8 parts of u, for
    which the integrals are polynomials.

    Args:
        xp: numpy or torch.
        amount: ``(...)``.
        found: ``(..., 9)``, logarithms of the slope at 0 and of the second derivatives, sign reversed.
    """
    u = amount / (amount + _HALF)
    beyond = xp.stack([u - place / BINS for place in range(BINS)], -1)
    below = xp.clip(beyond, 0.0, 1 / BINS)
    return u * xp.exp(found[..., 0]) - (xp.exp(found[..., 1:]) * below * (beyond - below / 2)).sum(-1)


FUNCTIONS = {"brush": brush, "exptanh": exptanh, "integrated": integrated}
STARTS: dict[str, list[float]] = {
    # Stiffness 10 and a bound of 1; a peak of about 1; 1.5 u - 0.7 u^2.
    "brush": [2.3, 0.0],
    "exptanh": [0.0, -1.0, 2.1],
    "integrated": [0.4] + [0.34] * BINS,
}
"""The first coefficients, whatever the context."""


def new_numbers(name: str, curve: Curve, context: int) -> dict[str, nn.Parameter]:
    """First parameters of a curve. The brush model has no network: its two coefficients are the same everywhere.

    Args:
        name: they begin with it.
        curve: which one.
        context: numbers that coefficients depend on.
    """
    base = nn.Parameter(torch.tensor(STARTS[curve]))
    if curve == "brush":
        return {f"{name}.base": base}
    return {
        f"{name}.in": nn.Parameter(torch.randn(context, HIDDEN) / context**0.5),
        f"{name}.shift": nn.Parameter(torch.zeros(HIDDEN)),
        f"{name}.out": nn.Parameter(torch.zeros(HIDDEN, len(base))),
        f"{name}.base": base,
    }


def value(xp: Any, numbers: Numbers, name: str, curve: Curve, amount: Any, context: Any) -> Any:
    """The curve of amounts ``(...)`` in contexts ``(..., c)``, ``(...)``."""
    base = numbers[f"{name}.base"]
    found = base if curve == "brush" else coefficients(xp, numbers, name, context)
    return FUNCTIONS[curve](xp, amount, found)


def as_arrays(numbers: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters as float64 arrays, to compute with NumPy."""
    return {name: tensor.detach().cpu().double().numpy() for name, tensor in numbers.items()}

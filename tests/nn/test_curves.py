"""Curves of a known shape: whatever their coefficients are, and alike in NumPy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from polysoma.nn.curves import FUNCTIONS, STARTS, Curve, as_arrays, new_numbers, value

SHAPES: tuple[Curve, ...] = ("brush", "exptanh", "integrated")


def some_coefficients(curve: Curve) -> np.ndarray:
    """Of 200 curves, far from the first ones."""
    start = np.array(STARTS[curve])
    return start + np.random.default_rng(0).normal(0, 1, (200, len(start)))


@pytest.mark.parametrize("curve", SHAPES)
def test_a_curve_begins_at_nothing_rises_and_has_a_bound(curve: Curve) -> None:
    amounts = np.concatenate([np.linspace(0, 3, 3001), [1e6]])
    found = some_coefficients(curve)[:, None]
    curves = FUNCTIONS[curve](np, amounts, found)
    np.testing.assert_allclose(curves[:, 0], 0, atol=1e-12)
    assert (FUNCTIONS[curve](np, np.array([1e-5]), found) > 0).all()
    bound = np.exp(found).sum(-1)
    assert (np.abs(curves) <= bound + 1e-9).all()
    # It rises to one peak, and never turns up again behind it.
    rising = np.diff(curves[:, :-1]) > 1e-12
    assert ((np.diff(rising.astype(int)) > 0).sum(1) == 0).all()


def test_the_integrated_curve_is_the_second_derivative_that_it_was_given_integrated_twice() -> None:
    """And therefore concave where halves are as far apart as they are in u = z / (z + 0.15)."""
    u = np.linspace(0, 0.999, 40_000)
    for found in some_coefficients("integrated")[:20]:
        curve = FUNCTIONS["integrated"](np, 0.15 * u / (1 - u), found)
        second = -np.exp(found[1:])[np.minimum((u * 8).astype(int), 7)]
        step = u[1] - u[0]
        slope = np.exp(found[0]) + np.cumsum(second) * step
        np.testing.assert_allclose(curve, np.cumsum(slope) * step, atol=2e-3 * np.exp(found).max())
        assert np.diff(curve, 2).max() < 1e-12


@pytest.mark.parametrize("curve", SHAPES)
def test_numpy_computes_what_torch_does(curve: Curve) -> None:
    torch.manual_seed(0)
    numbers = new_numbers("tire", curve, 2)
    for parameter in numbers.values():
        parameter.data += 0.3 * torch.randn_like(parameter)
    amounts, contexts = torch.rand(50), torch.randn(50, 2)
    learnt = value(torch, numbers, "tire", curve, amounts, contexts)
    planned = value(np, as_arrays(numbers), "tire", curve, amounts.double().numpy(), contexts.double().numpy())
    np.testing.assert_allclose(learnt.detach().numpy(), planned, atol=1e-4)
    if curve != "brush":
        assert numbers["tire.in"].shape == (2, 8)


def test_the_brush_model_slides_where_its_bound_is_reached() -> None:
    found = np.log([12.0, 0.9])
    sliding = FUNCTIONS["brush"](np, np.array([3 * 0.9 / 12, 1.0]), found)
    np.testing.assert_allclose(sliding, 0.9)
    assert FUNCTIONS["brush"](np, np.array([1e-4]), found)[0] == pytest.approx(12e-4, rel=1e-2)

"""Symbols as bits: read and written, drawn, and moved as choices moved them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from polysoma.nn.symbols import Grid, Symbols

WIDE, SMALL = Grid(20, (3, 2)), Grid(1, (4,))
"""Cells are joined in the first one, bits in the second."""


def drawn_ids(count: int, generator: torch.Generator) -> Tensor:
    """Of both grids, ``(count, 41)``."""
    parts = [torch.randint(3, (count, 20), generator=generator), torch.randint(2, (count, 20), generator=generator)]
    compass = torch.randint(4, (count, 1), generator=generator)
    return torch.cat([torch.stack(parts, -1).flatten(1), compass], 1)


def turned(ids: Tensor) -> Tensor:
    """The cells go on by one, the compass by one."""
    return torch.cat([ids[:, :40].roll(2, 1), (ids[:, 40:] + 1) % 4], 1)


def test_ids_are_bits_and_bits_ids() -> None:
    symbols, ids = Symbols((WIDE, SMALL), 2), drawn_ids(30, torch.Generator().manual_seed(0))
    bits = symbols.seen(ids)
    assert bits.shape == (30, symbols.bits) == (30, 20 * 5 + 4)
    assert (bits.sum(1) == 41).all() and torch.equal(symbols.ids(bits), ids)
    assert torch.equal(symbols.ids(0.8 * bits + 0.1), ids)
    assert Symbols((), 2).seen(ids[:, :0]).shape == (30, 0)


def test_what_choices_did_is_known_and_what_was_never_chosen_stands_still() -> None:
    generator = torch.Generator().manual_seed(1)
    symbols, ids = Symbols((WIDE, SMALL), 3), drawn_ids(400, generator)
    choice = torch.randint(2, (400,), generator=generator)
    after = torch.where(choice[:, None] == 0, ids, turned(ids))
    shown = torch.tensor([2, 1])
    after[choice == 1, :2] = shown
    symbols.fit(symbols.seen(ids), one_hot(choice, 3).float(), symbols.seen(after))
    fresh = drawn_ids(50, generator)
    came = turned(fresh)
    came[:, :2] = shown
    for number, aim in enumerate((fresh, came, fresh)):
        taken = symbols.seen(fresh), one_hot(torch.full((50,), number), 3).float()
        chances = symbols.following(*taken, torch.zeros(50, symbols.bits))
        assert torch.equal(symbols.ids(chances), aim)
        assert (chances - symbols.seen(aim)).abs().mean() < 0.01
        # What is taken from other cells needs no learning; what no other cell showed does.
        changed = symbols.following(*taken, torch.ones(50, symbols.bits)) != chances
        assert changed[:, :5].all() and bool(changed[:, 5:100].any()) == (number != 1)


def test_each_id_is_drawn_in_proportion_and_small_chances_never() -> None:
    symbols = Symbols((Grid(1, (4, 2)),), 1)
    chances = torch.tensor([0.6, 0.398, 0.002, -0.1, 0.25, 0.75]).repeat(20_000, 1).requires_grad_()
    drawn = symbols.settled(chances, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        drawn.detach().mean(0), torch.tensor([0.6, 0.4, 0.0, 0.0, 0.25, 0.75]), atol=0.02, rtol=0
    )
    assert ((drawn.detach() == 0) | (drawn.detach() - 1).abs().lt(1e-6)).all()
    (drawn * torch.arange(6.0)).sum().backward()
    assert chances.grad is not None and torch.equal(chances.grad[0], torch.arange(6.0))
    assert symbols.settled(chances[:1].detach(), None).tolist() == [[1, 0, 0, 0, 0, 1]]


@pytest.mark.parametrize("choices", [1, 3])
def test_without_choices_actions_move_nothing_by_themselves(choices: int) -> None:
    symbols, ids = Symbols((WIDE,), choices), drawn_ids(4, torch.Generator().manual_seed(0))[:, :40]
    bits = symbols.seen(ids)
    assert torch.equal(symbols.following(bits, torch.rand(4, 3), torch.zeros_like(bits)), bits)

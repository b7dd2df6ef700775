"""How deep and how long scores fell."""

from __future__ import annotations

import pytest

from polysoma.errors import PolysomaError
from polysoma.learning.dip import dip_of


def test_a_dip_lasts_until_the_score_is_back() -> None:
    found = dip_of([0, 10, 20, 30, 40], [6, 4, 3, 5, 9], floor=2)
    # From 5 to 9 between 30 and 40, a quarter of the way is 6.
    assert (found.before, found.depth, found.share, found.final) == (6, 3, 0.75, 7)
    assert found.length == pytest.approx(32.5) and found.recovered


def test_a_dip_may_begin_later_or_never_end() -> None:
    # From 8 to 5 between 10 and 20, two thirds of the way are 6.
    assert dip_of([0, 10, 20, 30], [6, 8, 5, 5.5]).length == pytest.approx(30 - 50 / 3)
    assert not dip_of([0, 10, 20, 30], [6, 8, 5, 5.5]).recovered
    whole = dip_of([0, 10], [6, 6])
    assert (whole.depth, whole.length, whole.recovered) == (0, 0, True)
    # What is no better than the floor has nothing to lose.
    assert dip_of([0, 10], [1, 0], floor=2).share == 0


@pytest.mark.parametrize(("steps", "scores"), [([0], [1]), ([0, 0], [1, 2]), ([0, 1], [1, 2, 3])])
def test_a_curve_has_scores_at_increasing_steps(steps: list[float], scores: list[float]) -> None:
    with pytest.raises(PolysomaError, match="increasing steps"):
        dip_of(steps, scores)

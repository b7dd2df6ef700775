"""Bodies and the processes that compute them."""

from __future__ import annotations

import pytest

from conftest import make_policy
from polysoma.data.mixture import Source
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.placement import costs_of, placed

LARGE = 1e10
"""Beside this, what every body costs is little; beside SMALL it is nearly all."""
SMALL = 1e6


@pytest.mark.parametrize("processes", [2, 3, 5])
@pytest.mark.parametrize("unit", [LARGE, SMALL])
def test_no_process_has_much_more_to_do_than_another(processes: int, unit: float) -> None:
    costs = {f"body-{number}": unit * (1 + number * 7 % 11) for number in range(40)}
    places = placed(costs, dict.fromkeys(costs, 9), processes)
    assert set(places.values()) == set(range(processes))
    counts = [sum(place == process for place in places.values()) for process in range(processes)]
    loads = [sum(cost for name, cost in costs.items() if places[name] == process) for process in range(processes)]
    if unit == LARGE:
        assert max(loads) <= 1.1 * sum(loads) / processes
    else:
        assert max(counts) - min(counts) <= 1


def test_a_body_that_is_too_much_for_one_is_shared() -> None:
    costs = {"small": 1 * SMALL, "large": LARGE, "other": 2 * SMALL}
    assert placed(costs, {"small": 1, "large": 2, "other": 8}, 2) == {"large": None, "other": 0, "small": 1}
    # One window cannot be.
    alone = placed(costs, {"small": 1, "large": 1, "other": 8}, 2)
    assert alone["small"] == alone["other"] == 1 - alone["large"]  # type: ignore[operator]
    assert placed({"alone": LARGE}, {"alone": 8}, 2) == {"alone": None}
    assert placed({"a": LARGE, "b": LARGE}, {"a": 8, "b": 8}, 2) == {"a": 0, "b": 1}


def test_all_is_shared_where_bodies_do_not_come_out_even() -> None:
    costs = {"a": 4 * LARGE, "b": 3.5 * LARGE, "c": 2.5 * LARGE}
    assert set(placed(costs, dict.fromkeys(costs, 8), 2).values()) == {None}
    # Small ones cost the same wherever they are.
    few = {name: cost * SMALL / LARGE for name, cost in costs.items()}
    assert None not in placed(few, dict.fromkeys(few, 8), 2).values()


def test_costs_grow_with_windows_and_are_the_same_every_time(sources: dict[str, Source]) -> None:
    policy = make_policy(sources)
    some = [sources["arm"], sources["grid"]]
    few, many = ({name: BodyRecipe(batch=batch) for name in ("arm", "grid")} for batch in (8, 80))
    costs = costs_of(policy, some, few)
    assert costs == costs_of(policy, some, few) and costs["grid"] > costs["arm"] > 0
    assert all(cost > costs[name] for name, cost in costs_of(policy, some, many).items())

"""Bodies and the processes that compute them."""

from __future__ import annotations

import pytest

from conftest import make_policy
from polysoma.data.mixture import Source
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.placement import costs_of, placed


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_no_process_has_much_more_to_do_than_another(processes: int) -> None:
    costs = {f"body-{number}": float(1 + number * 7 % 11) for number in range(40)}
    places = placed(costs, dict.fromkeys(costs, 9), processes)
    loads = [sum(cost for name, cost in costs.items() if places[name] == process) for process in range(processes)]
    assert sum(loads) == sum(costs.values())
    # No process could give away even its cheapest body without doing less than another one.
    assert max(loads) - min(loads) <= max(costs.values())
    assert max(loads) <= 1.1 * sum(loads) / processes


def test_a_body_that_is_too_much_for_one_is_shared() -> None:
    costs = {"small": 1.0, "large": 9.0, "other": 1.0}
    assert placed(costs, {"small": 1, "large": 2, "other": 8}, 2) == {"large": None, "other": 0, "small": 1}
    # One window cannot be.
    assert placed(costs, {"small": 1, "large": 1, "other": 8}, 2) == {"large": 0, "other": 1, "small": 1}
    assert placed({"alone": 1.0}, {"alone": 8}, 2) == {"alone": None}
    assert placed({"a": 1.0, "b": 1.0}, {"a": 8, "b": 8}, 2) == {"a": 0, "b": 1}


def test_costs_grow_with_windows_and_are_the_same_every_time(sources: dict[str, Source]) -> None:
    policy = make_policy(sources)
    some = [sources["arm"], sources["grid"]]
    few, many = ({name: BodyRecipe(batch=batch) for name in ("arm", "grid")} for batch in (8, 80))
    costs = costs_of(policy, some, few)
    assert costs == costs_of(policy, some, few) and costs["grid"] > costs["arm"] > 0
    assert all(cost > costs[name] for name, cost in costs_of(policy, some, many).items())

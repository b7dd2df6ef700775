"""Where a round's effort goes."""

from __future__ import annotations

import math

import pytest

from polysoma.learning import allocation
from polysoma.learning.allocation import Evidence, apportioned, efforts, in_turn, learning_seconds, windows
from polysoma.learning.bodies import BodyRecipe


def test_effort_goes_where_success_is_lowest() -> None:
    effort = efforts({"a/solved": Evidence(20, 20), "a/half": Evidence(10, 20), "a/failing": Evidence(0, 20)})
    assert effort["a/solved"] < effort["a/half"] < effort["a/failing"]
    assert effort["a/half"] == pytest.approx(1, abs=0.15)


def test_no_task_starves_and_none_takes_all() -> None:
    solved = {f"a/{n}": Evidence(50, 50) for n in range(30)}
    effort = efforts({**solved, "a/hopeless": Evidence(0, 50)})
    assert effort["a/hopeless"] == allocation.MOST
    assert all(effort[task] >= 1 / allocation.MOST for task in solved)
    assert sum(effort.values()) == pytest.approx(31), "so bounds are of the mean, whatever they cut off"


def test_what_is_unknown_lies_between() -> None:
    effort = efforts({"a/known": Evidence(9, 10), "a/unknown": Evidence(), "a/failing": Evidence(0, 10)})
    assert effort["a/known"] < effort["a/unknown"] < effort["a/failing"]


def test_evidence_fades_and_stays_where_nothing_was_tried() -> None:
    old = Evidence(8, 8)
    assert old.after(0, 0) == old
    assert old.after(0, 4).rate < 0.6 < old.rate


@pytest.mark.parametrize("total", [0, 1, 7, 100])
@pytest.mark.parametrize("least", [0, 2])
def test_shares_are_whole_numbers_in_proportion(total: int, least: int) -> None:
    weights = {"a": 3.0, "b": 1.0, "c": 0.5}
    counts = apportioned(total, weights, least)
    assert list(counts) == list(weights) and sum(counts.values()) == max(total, 3 * least)
    assert counts["a"] >= counts["b"] >= counts["c"] >= least
    for name, weight in weights.items():
        assert abs(counts[name] - least - max(0, total - 3 * least) * weight / 4.5) < 1


def test_whatever_stops_on_the_way_had_its_share_of_each() -> None:
    counts = {"often": 12, "never": 0, "seldom": 3}
    order = in_turn(counts)
    assert {name: order.count(name) for name in counts} == counts
    for end in (5, 10):
        assert order[:end].count("seldom") == end // 5


def test_windows_follow_need_and_stay_as_many() -> None:
    bodies = {"hard": BodyRecipe(batch=64), "easy": BodyRecipe(batch=64), "shown": BodyRecipe(batch=32)}
    found = windows(bodies, {"hard/one": 1.8, "hard/two": 1.4, "easy/one": 0.4})
    assert found["hard"].batch > found["shown"].batch * 2 > found["easy"].batch
    assert sum(how.batch for how in found.values()) == pytest.approx(160, abs=2)
    assert found["hard"].weight == pytest.approx(math.sqrt(found["hard"].batch / 64), rel=0.02)
    # Bounds hold where most windows are of bodies that need few: with as many in all, the others had thrice as many.
    bodies = {"large": BodyRecipe(batch=256), "small": BodyRecipe(batch=16), "other": BodyRecipe(batch=16)}
    found = windows(bodies, {"large/one": 0.4, "small/one": 3.0, "other/one": 2.0})
    assert found["small"].batch == found["other"].batch == 16 * allocation.MOST_WINDOWS
    assert sum(how.batch for how in found.values()) == 288
    few = windows({"hard": BodyRecipe(batch=300), "easy": BodyRecipe(batch=2)}, {"hard/one": 1.0, "easy/one": 0.01})
    assert few["easy"].batch == 2, "small batches become no smaller"


def test_learning_leaves_the_time_that_playing_took() -> None:
    assert learning_seconds(100, 120, 10) == 100 - allocation.CAREFUL * 10
    assert learning_seconds(100, 120, 1000) == 100 - allocation.PLAYING * 120, "at most its share"
    assert learning_seconds(5, 120, 1000) == 0


def test_bodies_of_few_or_short_tasks_get_more_demonstrations() -> None:
    kept, recorded = (
        {"a/x": 10, "a/y": 10, "b/x": 10, "c/x": 10, "d/x": 0},
        {"a/x": 100, "a/y": 300, "b/x": 1000, "c/x": 10},
    )
    more = allocation.missing(kept, recorded | {"d/x": 0}, 600, most=90)
    # 40 frames of both tasks of a together; b has more than is asked for, c has the bound, d no demonstration at all.
    assert more == {"a/x": 5, "a/y": 5, "c/x": 90}
    assert allocation.missing({}, {}, 600, 90) == {}

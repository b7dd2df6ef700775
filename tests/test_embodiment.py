from __future__ import annotations

import json

import numpy as np
import pytest

from conftest import ARM, GRID, observe
from polysoma import simulators
from polysoma.embodiment import Channel, Embodiment, Modality, Stream, channels
from polysoma.errors import PolysomaError
from polysoma.task import Task, body_of

EVERY_BODY = [ARM, GRID, *simulators.embodiments().values()]


@pytest.mark.parametrize("body", EVERY_BODY, ids=lambda body: body.name)
def test_json_round_trip_is_exact(body: Embodiment) -> None:
    text = json.dumps(body.to_json(), allow_nan=False)
    assert Embodiment.from_json(json.loads(text)) == body


def test_is_frozen() -> None:
    with pytest.raises(AttributeError):
        ARM.name = "leg"  # type: ignore[misc]


def test_wrong_shape_lists_both_sides() -> None:
    with pytest.raises(PolysomaError, match=r"float32 of shape \(3,\) \(x, y, z\), got float64 of shape \(2,\)"):
        ARM.check_observation({"state": np.zeros(2), "instruction": "go"})


def test_wrong_stream_names_list_both_sides() -> None:
    with pytest.raises(PolysomaError, match=r"\['instruction', 'state'\], got \['instruction', 'joints'\]"):
        ARM.check_observation({"joints": np.zeros(3), "instruction": "go"})


def test_wrong_dtype_and_text_are_refused() -> None:
    with pytest.raises(PolysomaError, match="expected float32"):
        ARM.check_observation({"state": np.zeros(3, np.int64), "instruction": "go"})
    with pytest.raises(PolysomaError, match="expected a string, got int"):
        ARM.check_observation({"state": np.zeros(3), "instruction": 3})


def test_nan_names_the_channel() -> None:
    with pytest.raises(PolysomaError, match=r"not a finite number in \['y'\]"):
        ARM.check_observation({"state": np.array([0, np.nan, 0]), "instruction": "go"})


def test_symbols_above_their_cardinality_are_refused() -> None:
    observation = observe(GRID)
    observation["heading"] = np.array([4], np.uint8)
    with pytest.raises(PolysomaError, match="below"):
        GRID.check_observation(observation)


def test_actions_are_clipped_or_refused() -> None:
    np.testing.assert_array_equal(ARM.check_action([3.0, -0.5]), np.array([1.0, -0.5], np.float32))
    with pytest.raises(PolysomaError, match=r"finite number in \['dx'\]"):
        ARM.check_action([np.nan, 0.0])
    with pytest.raises(PolysomaError, match=r"2 numbers \['dx', 'dy'\]"):
        ARM.check_action([0.0, 0.0, 0.0])
    assert GRID.check_action(2) == 2
    for bad in (3, -1, 1.0):
        with pytest.raises(PolysomaError, match=r"index 0\.\.2 \(left, right, forward\)"):
            GRID.check_action(bad)


@pytest.mark.parametrize("body", EVERY_BODY, ids=lambda body: body.name)
def test_action_spaces_make_actions(body: Embodiment) -> None:
    actions, twin = body.actions, np.random.default_rng(7)
    rng = np.random.default_rng(7)
    for _ in range(20):
        drawn = actions.sample(rng)
        np.testing.assert_array_equal(drawn, actions.sample(twin))
        # Within its limits an action is left as it is.
        checked = actions.check("here", drawn)
        np.testing.assert_array_equal(checked, drawn)
        assert checked.dtype == drawn.dtype == actions.dtype and checked.shape == actions.none().shape
    assert actions.none().dtype == actions.dtype


def test_no_action_is_zeros_or_the_index_after_the_last() -> None:
    np.testing.assert_array_equal(ARM.actions.none(), np.zeros(2, np.float32))
    assert GRID.actions.none() == len(GRID.actions.names)  # type: ignore[union-attr]
    with pytest.raises(PolysomaError, match=r"here: expected an index 0\.\.2"):
        GRID.actions.check("here", GRID.actions.none())


def test_tasks_have_a_body_and_a_name() -> None:
    for name in simulators.match_tasks("*"):
        task = Task.parse(name)
        assert str(task) == name and task.body == body_of(name) and name in simulators.tasks_of(task.body)
    assert Task.parse("arm/shelf/one") == Task("arm", "shelf/one")
    for bad in ("arm", "arm/", "/one", ""):
        with pytest.raises(PolysomaError, match=f"expected the full name of a task, body/name, got {bad!r}"):
            Task.parse(bad)


def test_differences_are_named() -> None:
    import dataclasses

    other = dataclasses.replace(ARM, rate_hz=20, actions=GRID.actions)
    assert ARM.differences(ARM) == []
    assert ARM.differences(other) == [
        "rate_hz: 10, not 20",
        "actions: dx in [-1, 1] m/s, dy in [-1, 1] m/s, not one of left, right, forward",
    ]
    assert "streams: ['state', 'instruction'], not ['view', 'heading', 'instruction']" in ARM.differences(GRID)


def test_inconsistent_descriptions_are_refused() -> None:
    with pytest.raises(PolysomaError, match="one named channel for each value"):
        Stream("state", Modality.STATE, (2,), channels("x"))
    with pytest.raises(PolysomaError, match="must differ"):
        Stream("state", Modality.STATE, (2,), (Channel("x"), Channel("x")))
    with pytest.raises(PolysomaError, match="not the description of an embodiment"):
        Embodiment.from_json({"name": "arm"})


@pytest.mark.parametrize("body", EVERY_BODY, ids=lambda body: body.name)
def test_spaces_describe_what_checks_accept(body: Embodiment) -> None:
    space = body.observation_space()
    space.seed(0)
    sample = space.sample()
    body.check_observation({name: sample[name] for name in sample})
    body.action_space().seed(0)
    body.check_action(body.action_space().sample())

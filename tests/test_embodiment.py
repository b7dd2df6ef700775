from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest

from conftest import ARM, GRID, SEEN_ARM, observe
from polysoma import simulators
from polysoma.data.description import read_schema
from polysoma.embodiment import Channel, ContinuousActions, Embodiment, Modality, Stream, channels
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
    several = np.stack([actions.sample(rng) for _ in range(3)])
    np.testing.assert_array_equal(body.check_actions(several), [body.check_action(action) for action in several])


def test_no_action_is_zeros_or_the_index_after_the_last() -> None:
    np.testing.assert_array_equal(ARM.actions.none(), np.zeros(2, np.float32))
    assert GRID.actions.none() == len(GRID.actions.names)  # type: ignore[union-attr]
    with pytest.raises(PolysomaError, match=r"here: expected an index 0\.\.2"):
        GRID.actions.check("here", GRID.actions.none())


def test_one_of_several_actions_is_wrong() -> None:
    np.testing.assert_array_equal(ARM.check_actions([[0, 9], [-9, 0]]), ARM.check_actions([[0, 1], [-1, 0]]))
    with pytest.raises(PolysomaError, match=r"action of arm: not a finite number in \['dy'\]"):
        ARM.check_actions([[0.0, 0.0], [0.0, np.nan]])
    for bad in ([0.0, 0.0], [[0.0]], [["a", "b"]]):
        with pytest.raises(PolysomaError, match=r"action of arm: expected 2 numbers"):
            ARM.check_actions(bad)
    for index in (-1, 3):
        with pytest.raises(PolysomaError, match=r"action of grid: expected an index 0\.\.2"):
            GRID.check_actions([0, index])


def test_tasks_have_a_body_and_a_name() -> None:
    for name in simulators.match_tasks("*"):
        task = Task.parse(name)
        assert str(task) == name and task.body == body_of(name) and name in simulators.tasks_of(task.body)
    assert Task.parse("arm/shelf/one") == Task("arm", "shelf/one")
    for bad in ("arm", "arm/", "/one", ""):
        with pytest.raises(PolysomaError, match=f"expected the full name of a task, body/name, got {bad!r}"):
            Task.parse(bad)


def test_differences_are_named() -> None:
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


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (math.nan, 1),
        (-1, math.nan),
        (1, -1),
        (math.inf, math.inf),
        (-math.inf, -math.inf),
        (1e39, 1e40),
        (-1e40, -1e39),
    ],
)
def test_limits_that_would_make_actions_nan_or_infinite_are_refused(low: float, high: float, tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match="'dx': expected numbers with low <= high as limits"):
        Channel("dx", "m", low, high)
    told = ARM.to_json()
    told["actions"]["channels"][0] |= {"low": low, "high": high}
    with pytest.raises(PolysomaError, match=r"actions: channels\.0.*'dx': expected numbers with low <= high"):
        Embodiment.from_json(told)
    file = tmp_path / "embodiment.toml"
    limits = f"low = {low}, high = {high}"
    file.write_text(
        'name = "arm"\nrate_hz = 10\n[streams.state]\ncolumn = "s"\nchannels = [{ name = "x" }]\n'
        f'[actions]\ncolumn = "a"\nchannels = [{{ name = "dx", {limits} }}]\n'
    )
    with pytest.raises(PolysomaError, match="'dx': expected numbers with low <= high as limits"):
        read_schema(file)


def test_numbers_are_checked_as_float32() -> None:
    seen = {"state": np.array([0, 1e39, 0]), "instruction": "go"}
    with pytest.raises(PolysomaError, match=r"not a finite number in \['y'\]"):
        ARM.check_observation(seen)
    free = dataclasses.replace(ARM, actions=ContinuousActions(channels("dx dy")))
    with pytest.raises(PolysomaError, match=r"not a finite number in \['dy'\]"):
        free.check_action(np.array([0.0, -1e39]))
    with pytest.raises(PolysomaError, match=r"no limits of \['dx', 'dy'\]"):
        free.actions.sample(np.random.default_rng(0))


def test_pictures_are_not_taken_modulo_256() -> None:
    seen = {"tip": np.zeros(2, np.float32), "front": np.full((24, 32, 3), 255), "instruction": "go"}
    assert SEEN_ARM.check_observation(seen)["front"].max() == 255
    for value in (300, -1):
        with pytest.raises(PolysomaError, match="'front': expected values from 0 to 255"):
            SEEN_ARM.check_observation({**seen, "front": np.full((24, 32, 3), value)})


def test_instructions_of_any_language_are_in_the_space() -> None:
    space = ARM.observation_space()
    for text in ("halte das Pendel über Kopf 🙂", "飞到红色的环", ""):
        seen = ARM.check_observation({"state": np.zeros(3, np.float32), "instruction": text})
        assert space.contains(seen)
    with pytest.raises(PolysomaError, match="up to 4096 characters, got 5,000"):
        ARM.check_observation({"state": np.zeros(3, np.float32), "instruction": "x" * 5000})


@pytest.mark.parametrize(
    ("modality", "shape", "sizes"),
    [("image", (10**6, 10**6, 3), ()), ("image", (0, 4, 3), ()), ("symbol", (2,), (3, 300)), ("symbol", (2,), (3, 0)),
     ("state", (0,), ()), ("text", (3,), ())],
)  # fmt: skip
def test_streams_that_nobody_can_hold_are_refused(
    modality: str, shape: tuple[int, ...], sizes: tuple[int, ...]
) -> None:
    with pytest.raises(PolysomaError, match="stream 'x'"):
        Stream("x", Modality(modality), shape, cardinalities=sizes)

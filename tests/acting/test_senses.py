"""What a robot sends, under its own names and in its own sizes, as the streams that a policy was trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import GRID, SEEN_ARM, observe
from make_lerobot import write_v3
from planners import Recording
from polysoma.acting.agent import Agent
from polysoma.acting.planner import TaskPrompt
from polysoma.acting.senses import observed
from polysoma.data.foreign import Foreign
from polysoma.data.formats import open_reader
from polysoma.data.schema import schema_of
from polysoma.embodiment import Modality, Stream
from polysoma.errors import PolysomaError

PICTURE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
TIP = np.float32([0.5, -0.5])
SENT = {"tip": TIP, "front": PICTURE, "instruction": "go"}
EQUAL = [
    {"observation.state": TIP, "observation.images.front": PICTURE, "task": "go"},
    {"observation/tip": TIP, "observation/front": PICTURE, "prompt": "go"},
    {"x": 0.5, "front": PICTURE, "y": -0.5, "instruction": "go"},
    {"tip": TIP, "observation.front": PICTURE.astype(np.int64), "observation/instruction": "go"},
]
STATE = dataclasses.replace(SEEN_ARM.streams[0], name="state")


@pytest.mark.parametrize("given", EQUAL)
def test_streams_have_the_names_of_data_sets_and_of_robots(given: dict[str, Any]) -> None:
    body = SEEN_ARM
    if "observation.state" in given:
        body = dataclasses.replace(body, streams=(STATE, *body.streams[1:]), privileged=())
    found = body.check_observation(observed(body, given))
    wanted = {"state" if name == "tip" and body is not SEEN_ARM else name: value for name, value in SENT.items()}
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_columns_of_one_name_are_told_apart() -> None:
    both = (STATE, Stream("state_image", Modality.IMAGE, (24, 32, 3)), SEEN_ARM.streams[-1])
    body = dataclasses.replace(SEEN_ARM, streams=both, privileged=())
    found = observed(body, {"observation.images.state": PICTURE, "observation.state": TIP, "task": "go"})
    assert found["state_image"].shape == PICTURE.shape and found["state"] is TIP
    # A grid of symbols has three axes, as a picture has.
    sent = observe(GRID)
    assert set(observed(GRID, {f"observation.{name}": sent[name] for name in ("view", "heading")})) == {
        "view",
        "heading",
    }


@pytest.mark.parametrize("size", [(16, 16), (20, 12), (48, 64)])
def test_a_frame_of_the_robot_becomes_what_training_saw(tmp_path: Path, size: tuple[int, int]) -> None:
    reader = open_reader(write_v3(tmp_path / "set", kind="image"))
    schema = schema_of(reader)
    streams = [Stream(s.name, s.modality, (*size, 3)) if s.shape[2:] == (3,) else s for s in schema.embodiment.streams]
    body = dataclasses.replace(schema.embodiment, streams=tuple(streams))
    trained = Foreign(reader, dataclasses.replace(schema, embodiment=body)).episode(0)
    frames = reader.read(0, ["observation.state", "observation.images.front"])
    planner = Recording(chunk=1)
    agent = Agent(planner, body, "go")
    for step in range(len(trained)):
        agent.act({name: values[step] for name, values in frames.items()})
    seen = [observation for kind, observation in planner.sessions[0].told if kind == "plan"]
    for name in ("state", "front"):
        np.testing.assert_array_equal([observation[name] for observation in seen], trained.observations[name])


def test_what_is_resized_is_the_agent_s_own() -> None:
    planner = Recording(chunk=1)
    agent = Agent(planner, SEEN_ARM, "go")
    frame = np.repeat(np.repeat(PICTURE, 2, 0), 2, 1)
    agent.act({"tip": TIP, "front": frame})
    frame[:] = 0
    agent.act({"tip": TIP, "front": PICTURE})
    first, second = (observation["front"] for kind, observation in planner.sessions[0].told if kind == "plan")
    assert first.shape == second.shape == PICTURE.shape and first.any()
    assert np.abs(first.astype(float) - PICTURE).mean() < np.abs(np.roll(first, 8, 1).astype(float) - PICTURE).mean()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"front": PICTURE.transpose(2, 0, 1)},
            r"got uint8 of shape \(3, 24, 32\); its colours come first: use \.transp",
        ),
        ({"front": PICTURE / 255}, r"of shape \(height, width, 3\), got float64 .*; send whole numbers from 0 to 255"),
        ({"front": PICTURE[..., :1]}, r"camera 'front': expected a picture, uint8 .* got uint8 of shape \(24, 32, 1\)"),
        ({"front": PICTURE[None]}, r"got uint8 of shape \(1, 24, 32, 3\)$"),
        ({"front": PICTURE[:0]}, r"got uint8 of shape \(0, 32, 3\)"),
        ({"front": "front.png"}, "expected a picture"),
        ({"front": np.zeros((10**6, 1, 3), np.uint8)}, r"at most 8,192 pixels a side, got \(1000000, 1, 3\)"),
        ({"front": PICTURE.astype(np.int64) - 1}, "expected values from 0 to 255, got -1 to 254"),
        ({"front": [[1], [1, 2]]}, "expected arrays of numbers"),
        ({"observation.tip": TIP}, r"\['tip'\] came under two names"),
        ({"observation.images.tip": TIP}, r"expected the streams .*'observation.images.tip'"),
        ({"observation.images.top": PICTURE}, r"expected the streams .*'observation.images.top'"),
        ({"task": "go", "prompt": "go"}, r"\['instruction'\] came under two names"),
    ],
)
def test_what_is_wrong_is_one_line(change: dict[Any, Any], problem: str) -> None:
    agent = Agent(Recording(), SEEN_ARM, "go")
    with pytest.raises(PolysomaError, match=problem) as told:
        agent.act({"tip": TIP, "front": PICTURE} | change)
    assert "\n" not in str(told.value)


def test_channels_that_are_missing_are_named() -> None:
    agent = Agent(Recording(), SEEN_ARM, "go")
    with pytest.raises(PolysomaError, match=r"stream 'tip': expected a number for each channel, y did not come"):
        agent.act({"x": 1.0, "front": PICTURE})
    with pytest.raises(PolysomaError, match="expected the streams"):
        agent.act({"x": 1.0, "y": 1.0, "z": 1.0, "front": PICTURE})
    assert agent.act({"x": 1, "y": 1, "front": PICTURE}).shape == (2,)


def test_goal_pictures_have_any_size() -> None:
    large = np.repeat(np.repeat(PICTURE, 3, 0), 3, 1)
    goal = TaskPrompt(SEEN_ARM, goal={"front": large}).goal
    assert goal is not None and goal["front"].shape == PICTURE.shape

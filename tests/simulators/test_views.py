"""Bodies seen through their cameras."""

from __future__ import annotations

import dataclasses
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checksums import checksum

from conftest import ROOT
from polysoma import simulators
from polysoma.embodiment import Modality
from polysoma.errors import PolysomaError
from polysoma.simulators import aloha, drone, metaworld, rover
from polysoma.simulators.environment import Environment
from polysoma.simulators.navigation import WALL_HALF_THICKNESS
from polysoma.simulators.views import pixel_view

mujoco = pytest.importorskip("mujoco")
pytest.importorskip("metaworld")
pytest.importorskip("minigrid")

TASKS = [
    "metaworld-pixels/drawer-open-v3",
    "metaworld-pixels-128/drawer-open-v3",
    "aloha-pixels/transfer-cube",
    "aloha-wrists/insertion",
    "rover-pixels/pillar",
    "rover-overview/maze",
    "drone-pixels/ring",
    "drone-chase/ring",
    "babyai-pixels/GoToRedBall",
]


def cameras_of(environment: Environment) -> list[str]:
    return [stream.name for stream in environment.embodiment.streams if stream.modality is Modality.IMAGE]


@pytest.mark.parametrize("task", TASKS)
def test_a_body_seen_through_cameras_plays_the_same_episode(task: str) -> None:
    seen = simulators.make(task)
    state = simulators.make(f"{seen.embodiment.body}/{task.partition('/')[2]}")
    observations = [environment.reset(seed=9)[0] for environment in (seen, state)]
    start = observations[0]
    for _ in range(5):
        seen.embodiment.check_observation(observations[0])
        assert observations[0]["instruction"] == observations[1]["instruction"]
        for stream in seen.embodiment.privileged:
            np.testing.assert_array_equal(seen.privileged()[stream.name], observations[1][stream.name])
        action = seen.expert_action()
        np.testing.assert_array_equal(action, state.expert_action())
        steps = [environment.step(action) for environment in (seen, state)]
        observations = [step[0] for step in steps]
        assert steps[0][1:4] == steps[1][1:4]
    cameras = cameras_of(seen)
    side = 128 if "128" in task or "wrists" in task else 96
    assert all(start[camera].shape == (side, side, 3) for camera in cameras)
    assert cameras and all(start[camera].std() > 5 for camera in cameras)
    assert any(not np.array_equal(start[camera], observations[0][camera]) for camera in cameras)
    assert seen.embodiment.body == state.embodiment.name != seen.embodiment.name
    seen.close()


def test_proprioception_is_the_part_of_the_state_that_it_names() -> None:
    seen, state = simulators.make("metaworld-pixels/reach-v3"), simulators.make("metaworld/reach-v3")
    expected = state.reset(seed=3)[0]["state"][:4]
    np.testing.assert_array_equal(seen.reset(seed=3)[0]["proprioception"], expected)
    assert {channel.name for channel in seen.embodiment.stream("proprioception").channels} == {
        "hand_x", "hand_y", "hand_z", "gripper_opening"
    }  # fmt: skip
    seen.close()


def test_pictures_depend_on_the_seed_alone() -> None:
    code = f"from checksums import checksum; print(*map(checksum, {TASKS[::-1]}))"
    told = dict(os.environ, PYTHONPATH=os.pathsep.join([os.path.dirname(__file__), *sys.path]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=told)
    assert done.stdout.split() == [str(checksum(task)) for task in TASKS[::-1]]


def move_coloured(inner: Any) -> None:
    """Takes away the ring or the pillar that the instruction names."""
    model, data, _ = inner._scene()
    named = [word for word in inner._now()["instruction"].split() if word in rover.COLORS]
    thing = model.body(f"{named[0]}_{'ring' if inner.task.startswith('drone') else 'pillar'}")
    data.mocap_pos[thing.mocapid[0]] += (0, 0, -20)
    mujoco.mj_forward(model, data)


def move_cube(inner: Any) -> None:
    inner._data.qpos[16:18] += 0.03
    mujoco.mj_forward(inner._model, inner._data)


def move_goal(inner: Any) -> None:
    model, data, _ = inner._scene()
    model.site("goal").pos[:] += (0, 0.05, 0.05)
    mujoco.mj_forward(model, data)


def put_ball(inner: Any) -> None:
    from minigrid.core.world_object import Ball

    inner._simulation.grid.set(*inner._simulation.front_pos, Ball("purple"))


@pytest.mark.parametrize(
    ("task", "camera", "change"),
    [
        ("metaworld-pixels/reach-v3", "corner", move_goal),
        ("aloha-pixels/transfer-cube", "top", move_cube),
        ("rover-overview/pillar", "overview", move_coloured),
        ("rover-overview/maze", "overview", move_coloured),
        ("drone-chase/ring", "chase", move_coloured),
        ("babyai-pixels/GoToRedBall", "view", put_ball),
    ],
)
def test_pictures_show_what_the_task_is_about(task: str, camera: str, change: Callable[[Any], None]) -> None:
    environment = simulators.make(task)
    inner = environment._inner  # type: ignore[attr-defined]
    for seed in range(8):
        before = environment.reset(seed=seed)[0][camera].astype(int)
        change(inner)
        after = inner.camera_frame(camera, len(before)).astype(int)
        assert (np.abs(after - before).max(-1) > 8).sum() >= 6, seed
    environment.close()


def test_the_rover_does_not_look_through_a_wall_that_it_touches() -> None:
    environment = rover.FAMILY.make("rover/maze")
    environment.reset(seed=0)
    model, data, _ = environment._scene()  # type: ignore[attr-defined]
    wall = rover.HALF_ARENA - WALL_HALF_THICKNESS
    data.qpos[:7] = wall - rover.CHASSIS_RADIUS, 0, rover.WHEEL_RADIUS, 1, 0, 0, 0
    mujoco.mj_forward(model, data)
    lower = environment.camera_frame("front", 96)[60:]
    assert lower.std(axis=(0, 1)).max() == 0 and lower.max() < 150
    environment.close()


class Still(Environment):
    """Each of its cameras sees one shade of grey, people see nothing."""

    embodiment, max_steps = drone.EMBODIMENT, 5

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task

    def render_frame(self, size: int = 240) -> np.ndarray:
        return np.zeros((size, size, 3), np.uint8)

    def camera_frame(self, camera: str, size: int) -> np.ndarray:
        return np.full((size, size, 3), 50 + int(camera[-1]), np.uint8)

    def remaining(self) -> float:
        return 2.5


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_a_picture_for_people_has_room_for_all_cameras(count: int) -> None:
    family = dataclasses.replace(drone.FAMILY, build=Still)
    seen = pixel_view(family, [f"eye_{number}" for number in range(count)], name="eyes").make("drone-eyes/hover")
    seen.reset(seed=0)
    side = 240 // max(3, count)
    expected = np.zeros((240, 240), np.uint8)
    for number in range(count):
        expected[-side:, number * side : (number + 1) * side] = 50 + number
    np.testing.assert_array_equal(seen.render_frame(240)[..., 0], expected)


def test_how_far_it_still_is_does_not_depend_on_who_looks() -> None:
    family = dataclasses.replace(drone.FAMILY, build=Still)
    seen = pixel_view(family, ("eye_0",)).make("drone-pixels/hover")
    seen.reset(seed=0)
    assert seen.remaining() == 2.5


def test_an_unknown_camera_is_named() -> None:
    for family in (aloha.FAMILY, metaworld.FAMILY, rover.FAMILY, drone.FAMILY):
        seen = pixel_view(family, ("nose",), name="nosy")
        with pytest.raises(PolysomaError, match="no camera 'nose'; the model has"):
            seen.make(seen.tasks[0]).reset(seed=0)


def test_an_unknown_channel_is_named() -> None:
    with pytest.raises(PolysomaError, match=r"no state channels \['yaww'\]"):
        pixel_view(drone.FAMILY, ("front",), ("position_x", "yaww"))


def test_the_example_has_cameras_of_its_own() -> None:
    example = ROOT / "examples" / "rover_cameras.py"
    assert len(example.read_text().splitlines()) <= 10
    seen = runpy.run_path(str(example))["FAMILY"].make("rover-both/pillar")
    observation, _ = seen.reset(seed=0)
    assert cameras_of(seen) == ["front", "overview"] and seen.embodiment.body == "rover"
    assert all(observation[camera].shape == (128, 128, 3) for camera in cameras_of(seen))
    seen.close()


def test_both_hands_of_aloha_see() -> None:
    seen = simulators.make("aloha-wrists/transfer-cube")
    assert cameras_of(seen) == ["top", "left_wrist", "right_wrist"] and seen.embodiment.body == "aloha"

    def red(picture: np.ndarray) -> float:
        return float(((picture[..., 0] > 150) & (picture[..., 1] < 90)).mean())

    observation, _ = seen.reset(seed=0)
    assert all(observation[camera].shape == (128, 128, 3) for camera in cameras_of(seen))
    assert red(observation["left_wrist"]) == red(observation["right_wrist"]) == 0 < red(observation["top"])
    done = False
    while not done:
        observation, _, terminated, truncated, info = seen.step(seen.expert_action())
        done = terminated or truncated
    # The cube is between both hands; fingers hide a part of it.
    assert info["success"] and min(red(observation["left_wrist"]), red(observation["right_wrist"])) > 0.01
    seen.close()

"""Gymnasium's MuJoCo bodies and bodies seen through their cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polysoma import simulators
from polysoma.embodiment import ContinuousActions, Modality
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import mean_interval
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from polysoma.simulators import gym_mujoco

pytest.importorskip("mujoco")


@pytest.mark.parametrize("family", gym_mujoco.FAMILIES, ids=lambda family: family.embodiment.name)
def test_the_expert_is_far_better_than_random_and_repeats(family: simulators.Family) -> None:
    environment = family.make(family.tasks[0])
    actions = environment.embodiment.actions
    assert isinstance(actions, ContinuousActions)

    def play(expert: bool, steps: int = 200) -> tuple[float, np.ndarray]:
        rng = np.random.default_rng(0)
        observation, _ = environment.reset(seed=5)
        total = 0.0
        for _ in range(min(steps, environment.max_steps)):
            environment.embodiment.check_observation(observation)
            action = environment.expert_action() if expert else rng.uniform(actions.low, actions.high)
            assert not expert or environment.action_space.contains(action)
            observation, reward, terminated, truncated, info = environment.step(action)
            total += reward
            if terminated or truncated:
                break
            assert not info["success"]
        return total, observation["state"]

    by_expert, last = play(True)
    by_chance, _ = play(False)
    again, last_again = play(True)
    assert by_expert > by_chance + 10
    assert by_expert == again
    np.testing.assert_array_equal(last, last_again)


def test_the_walker_walks_with_the_noise_of_its_demonstrations(tmp_path: Path) -> None:
    recorded = record(["walker2d/walk"], 3, tmp_path, Behaviour(noise=None), seed=300_000)
    assert recorded.kept["walker2d/walk"] == 3


def test_success_is_known_at_the_end() -> None:
    environment = simulators.make("inverted-pendulum/balance")
    environment.reset(seed=0)
    outcomes = []
    over = False
    while not over:
        _, _, terminated, truncated, info = environment.step(environment.expert_action())
        over = terminated or truncated
        outcomes.append(info["success"])
    assert outcomes == [False] * 999 + [True]


def test_returns_are_reported_and_normalised() -> None:
    result = evaluate("expert", ["inverted-pendulum/balance", "reacher/reach"], 3, 3000)
    data = result.to_json()["tasks"]["inverted-pendulum/balance"]
    assert data["return"] == 1000.0 and data["return_interval"] == [1000.0, 1000.0]
    assert data["expert_normalised"] == pytest.approx(1.0, abs=0.01)
    low, high = result.to_json()["tasks"]["reacher/reach"]["return_interval"]
    assert low < high < 0


def test_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    low, high = mean_interval(values)
    assert low < 3.0 < high and 0.15 < high - low < 0.25
    with pytest.raises(PolysomaError, match="at least one value"):
        mean_interval([])


PIXEL_TASKS = [
    "metaworld-pixels/drawer-open-v3",
    "aloha-pixels/transfer-cube",
    "rover-pixels/pillar",
    "drone-pixels/ring",
    "babyai-pixels/GoToRedBall",
]


@pytest.mark.parametrize("task", PIXEL_TASKS)
def test_a_body_seen_through_cameras_plays_the_same_episode(task: str) -> None:
    pytest.importorskip("metaworld")
    seen = simulators.make(task)
    state = simulators.make(task.replace("-pixels", ""))
    observations = [environment.reset(seed=9)[0] for environment in (seen, state)]
    start = observations[0]
    for _ in range(5):
        seen.embodiment.check_observation(observations[0])
        assert observations[0]["instruction"] == observations[1]["instruction"]
        action = seen.expert_action()
        np.testing.assert_array_equal(action, state.expert_action())
        steps = [environment.step(action) for environment in (seen, state)]
        observations = [step[0] for step in steps]
        assert steps[0][1:4] == steps[1][1:4]
    cameras = [stream.name for stream in seen.embodiment.streams if stream.modality is Modality.IMAGE]
    assert cameras and all(start[camera].std() > 5 for camera in cameras)
    assert any(not np.array_equal(start[camera], observations[0][camera]) for camera in cameras)
    assert seen.embodiment.body == state.embodiment.name
    seen.close()


def test_proprioception_is_the_part_of_the_state_that_it_names() -> None:
    pytest.importorskip("metaworld")
    seen, state = simulators.make("metaworld-pixels/reach-v3"), simulators.make("metaworld/reach-v3")
    expected = state.reset(seed=3)[0]["state"][:4]
    np.testing.assert_array_equal(seen.reset(seed=3)[0]["proprioception"], expected)
    assert {channel.name for channel in seen.embodiment.stream("proprioception").channels} == {
        "hand_x", "hand_y", "hand_z", "gripper_opening"
    }  # fmt: skip
    seen.close()

"""Gymnasium's MuJoCo bodies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polysoma import simulators
from polysoma.embodiment import ContinuousActions
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

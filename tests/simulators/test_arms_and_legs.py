"""ALOHA, the quadruped, Fetch and the point mazes: their interface, repeatability and experts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from polysoma import simulators
from polysoma.embodiment import ContinuousActions, Embodiment
from polysoma.errors import PolysomaError
from polysoma.simulators import aloha, fetch, pointmaze, quadruped
from polysoma.simulators.environment import MODELS, Environment, Family

FAMILIES = [aloha.FAMILY, fetch.FAMILY, pointmaze.FAMILY, *quadruped.FAMILIES]
TASKS = [task for family in FAMILIES for task in family.tasks]


@pytest.fixture(scope="module", params=TASKS)
def environment(request: pytest.FixtureRequest) -> Environment:
    pytest.importorskip("mujoco")
    return simulators.make(request.param)


def play(environment: Environment, seed: int, noise: float = 0.0) -> tuple[np.ndarray, bool]:
    """All states of one expert episode, and whether it succeeded."""
    actions = environment.embodiment.actions
    assert isinstance(actions, ContinuousActions)
    half = noise * (actions.high - actions.low) / 2
    rng = np.random.default_rng(seed)
    observation, info = environment.reset(seed=seed)
    assert info == {"success": False}
    states, over = [observation["state"]], False
    while not over:
        assert environment.observation_space.contains(environment.embodiment.check_observation(observation))
        action = environment.expert_action()
        assert environment.action_space.contains(action)
        shaken = action + half * rng.standard_normal(actions.size) * (rng.random() < 0.5)
        action = np.clip(shaken, actions.low, actions.high).astype(np.float32)
        observation, reward, terminated, truncated, info = environment.step(action)
        states.append(observation["state"])
        over = terminated or truncated
        assert reward == float(info["success"]) and len(states) <= environment.max_steps + 1
    return np.array(states), bool(info["success"])


def test_the_expert_succeeds_with_and_without_noise(environment: Environment) -> None:
    # The quadruped's trot is too slow for some commands.
    needed = 3 if environment.task in ("go1/velocity", "go2/velocity") else 4
    assert sum(play(environment, seed)[1] for seed in range(4)) >= needed
    assert sum(play(environment, seed, environment.expert_noise)[1] for seed in range(4, 8)) >= 3


def test_the_same_seed_gives_the_same_episode(environment: Environment) -> None:
    first, _ = play(environment, 11)
    play(environment, 12)
    for again in (environment, simulators.make(environment.task)):
        np.testing.assert_array_equal(play(again, 11)[0], first)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.embodiment.name)
def test_bodies_are_described_and_unknown_tasks_refused(family: Family) -> None:
    assert Embodiment.from_json(family.embodiment.to_json()) == family.embodiment
    with pytest.raises(PolysomaError, match=family.tasks[0]):
        family.make(f"{family.embodiment.name}/dance")


@pytest.mark.parametrize("robot", ["go1", "go2"])
def test_the_quadruped_is_told_in_words_or_numbers(robot: str) -> None:
    numbers, words = (simulators.make(f"{robot}/{task}") for task in ("velocity", "words"))
    spoken = {words.reset(seed=seed)[0]["instruction"] for seed in range(40)}
    assert {"walk forward", "turn to the left", "stand still"} <= spoken
    assert not words.reset(seed=0)[0]["state"][-3:].any()
    assert numbers.reset(seed=0)[0]["state"][-3:].any()


@pytest.mark.parametrize("task", ["go1/velocity", "go2/velocity", "aloha/insertion"])
def test_models_are_found_in_folders_of_any_name(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, expected = task.partition("/")[0], play_some(simulators.make(task))
    models = tmp_path / """R&D &amp; "so" <on> it's é"""
    shutil.copytree(MODELS / body, models / body)
    monkeypatch.setattr(aloha if body == "aloha" else quadruped, "MODELS", models)
    np.testing.assert_array_equal(play_some(simulators.make(task)), expected)


def play_some(environment: Environment) -> np.ndarray:
    """States of the first steps of an expert."""
    states = [environment.reset(seed=3)[0]["state"]]
    states += [environment.step(environment.expert_action())[0]["state"] for _ in range(4)]
    return np.array(states)


def test_a_fallen_quadruped_fails() -> None:
    environment = simulators.make("go1/velocity")
    environment.reset(seed=0)
    actions = environment.embodiment.actions
    assert isinstance(actions, ContinuousActions)
    for _ in range(environment.max_steps):
        _, _, terminated, truncated, info = environment.step(actions.high)
        if terminated or truncated:
            break
    assert terminated and not info["success"]


def test_letting_go_of_the_cube_is_no_transfer() -> None:
    environment = simulators.make("aloha/transfer-cube")
    environment.reset(seed=0)
    for _ in range(environment.max_steps):
        action = environment.expert_action()
        assert isinstance(action, np.ndarray)
        action[6] = 1.0
        _, _, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            break
    assert truncated and not info["success"]


def test_the_cube_is_pushed_on_the_table_and_lifted_off_it() -> None:
    for task, lifted in (("fetch/push", False), ("fetch/pick-and-place", True)):
        environment = simulators.make(task)
        heights = [play(environment, seed)[0][:, 12].max() for seed in range(6)]
        assert (max(heights) > 0.5) == lifted

"""The games of MinAtar: repeatable, scored, and as the package plays them."""

from __future__ import annotations

import numpy as np
import pytest

from polysoma import simulators
from polysoma.errors import PolysomaError
from polysoma.simulators.minatar import GAMES, MAX_STEPS, TASKS, MinAtar


def played(game: MinAtar, seed: int, steps: int = MAX_STEPS) -> tuple[list[float], np.ndarray, bool]:
    """Rewards of random actions, the last grid, and whether the episode succeeded."""
    rng, rewards = np.random.default_rng(seed), []
    observation, info = game.reset(seed=seed)
    for _ in range(steps):
        observation, reward, terminated, truncated, info = game.step(int(rng.integers(6)))
        rewards.append(reward)
        if terminated or truncated:
            break
    return rewards, observation["grid"], info["success"]


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_is_the_same_game(task: str) -> None:
    game, other = MinAtar(task), MinAtar(task)
    first = played(game, 3, 300)
    played(game, 4, 100)
    for again in (played(game, 3, 300), played(other, 3, 300)):
        assert again[0] == first[0]
        np.testing.assert_array_equal(again[1], first[1])
    assert not np.array_equal(played(game, 4, 300)[1], first[1])


@pytest.mark.parametrize("task", TASKS)
def test_what_is_sensed_is_of_the_body_and_differs_from_game_to_game(task: str) -> None:
    game = MinAtar(task)
    observation, _ = game.reset(seed=0)
    checked = game.embodiment.check_observation(observation)
    assert checked["grid"].any() and not checked["grid"][..., len(game._simulation.channels) :].any()
    assert game.render_frame(64).shape == (64, 64, 3) and len(np.unique(game.render_frame(64))) > 2
    others = [MinAtar(other).reset(seed=0)[0]["instruction"] for other in TASKS if other != task]
    assert checked["instruction"] not in others


@pytest.mark.parametrize("task", TASKS)
def test_a_moment_can_be_gone_back_to(task: str) -> None:
    game, other = MinAtar(task), MinAtar(task)
    played(game, 1, 20)
    saved = game.get_state()
    actions = np.random.default_rng(2).integers(6, size=60)
    truth = [game.step(action) for action in actions]
    for again in (game, other):
        again.set_state(saved)
        for action, (grid, *rest) in zip(actions, truth, strict=True):
            found, *ended = again.step(action)
            np.testing.assert_array_equal(found["grid"], grid["grid"])
            assert ended == rest
    with pytest.raises(PolysomaError, match="expected a state of this task"):
        MinAtar(next(name for name in TASKS if name != task)).set_state(saved)


def test_success_is_a_score_that_is_known_when_the_game_is_lost() -> None:
    game = MinAtar("minatar/breakout")
    game.reset(seed=0)
    score, lost = 0.0, False
    while not lost:
        # Well, until the score is high enough; then it lets the ball fall.
        action = game.expert_action() if score < GAMES["breakout"].enough else 1
        _, reward, lost, _, info = game.step(action)
        score += reward
        assert info["success"] == lost
    assert not played(game, 0)[2]


@pytest.mark.parametrize("task", TASKS)
def test_experts_score_what_random_actions_do_not(task: str) -> None:
    game, frames = MinAtar(task), 200
    expert, random = [], []
    for seed in range(6):
        random.append(sum(played(game, seed, frames)[0]))
        game.reset(seed=seed)
        score = 0.0
        for _ in range(frames):
            _, reward, terminated, _, _ = game.step(game.expert_action())
            score += reward
            if terminated:
                break
        expert.append(score)
    # Over these ten seeds means were 5 (freeway) to 30, and those of random actions 0 to 2.5.
    assert np.mean(expert) > 3 + 2 * np.mean(random)
    assert np.mean(np.array(expert) > np.array(random)) >= 0.8


@pytest.mark.parametrize("task", TASKS)
def test_to_ask_the_expert_changes_nothing(task: str) -> None:
    game, other = MinAtar(task), MinAtar(task)
    actions = np.random.default_rng(0).integers(6, size=80)
    for each in (game, other):
        each.reset(seed=5)
    for action in actions:
        assert game.expert_action() == game.expert_action()
        seen, *rest = game.step(action)
        expected, *ended = other.step(action)
        np.testing.assert_array_equal(seen["grid"], expected["grid"])
        assert rest == ended
        if rest[1]:
            break


def test_freeway_is_cut_where_it_ends() -> None:
    rewards, _, success = played(MinAtar("minatar/freeway"), 0)
    assert len(rewards) == MAX_STEPS and not success


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PolysomaError, match=r"need minatar.*polysoma\[games\]"):
        simulators.check_installed(["minatar/breakout"])

"""The games of MinAtar: repeatable, scored, and as the package plays them."""

from __future__ import annotations

import numpy as np
import pytest

from polysoma import simulators
from polysoma.errors import PolysomaError
from polysoma.simulators.environment import ExpertFailed
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
    # The paddle goes to where the ball will be: down the trail.
    game.reset(seed=0)
    score, info, lost = 0.0, {"success": False}, False
    while not lost:
        assert not info["success"]
        simulation = game._simulation
        # Only the last column of the ball's way counts, and chasing the ball itself is good enough to score.
        ahead = simulation.ball_x + (1 if simulation.ball_dir in (1, 2) else -1)
        aim = float(np.clip(ahead, 0, 9)) - simulation.pos
        _, reward, terminated, truncated, info = game.step(1 if aim < 0 else 3 if aim > 0 else 0)
        score, lost = score + reward, terminated or truncated
    assert score > 2 and info["success"] == (score >= GAMES["breakout"].enough)
    assert not played(game, 0)[2]


def test_freeway_is_cut_where_it_ends() -> None:
    rewards, _, success = played(MinAtar("minatar/freeway"), 0)
    assert len(rewards) == MAX_STEPS and not success


def test_there_is_no_expert_and_the_message_says_what_to_do() -> None:
    game = MinAtar(TASKS[0])
    game.reset(seed=0)
    with pytest.raises(ExpertFailed, match="record --policy"):
        game.expert_action()


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PolysomaError, match=r"need minatar.*polysoma\[games\]"):
        simulators.check_installed(["minatar/breakout"])

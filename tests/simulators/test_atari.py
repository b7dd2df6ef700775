"""The games of Atari: repeatable, scored, and as their console plays them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from polysoma import simulators
from polysoma.errors import PolysomaError
from polysoma.simulators.atari import GAMES, HELD, MAX_STEPS, PIXELS, TASKS, Atari

ale_py = pytest.importorskip("ale_py", reason="Atari's games need pip install 'polysoma[games]'")


def played(game: Atari, seed: int, steps: int) -> tuple[list[float], np.ndarray]:
    """Rewards of random actions and the last picture."""
    rng, rewards = np.random.default_rng(seed), []
    observation, _ = game.reset(seed=seed)
    for _ in range(steps):
        observation, reward, *_ = game.step(int(rng.integers(18)))
        rewards.append(reward)
    return rewards, observation["screen"]


def score(game: Atari, seed: int, steps: int, rng: np.random.Generator | None = None) -> float:
    """The sum of rewards, by the expert or, given a generator, at random."""
    game.reset(seed=seed)
    total = 0.0
    for _ in range(steps):
        _, reward, terminated, _, _ = game.step(game.expert_action() if rng is None else int(rng.integers(18)))
        total += reward
        if terminated:
            break
    return total


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_is_the_same_game(task: str) -> None:
    game, other = Atari(task), Atari(task)
    first = played(game, 3, 60)
    played(game, 4, 30)
    for again in (played(game, 3, 60), played(other, 3, 60)):
        assert again[0] == first[0]
        np.testing.assert_array_equal(again[1], first[1])
    assert not np.array_equal(played(game, 4, 60)[1], first[1])


def test_choices_are_the_consoles_own_by_its_names() -> None:
    console = Atari(TASKS[0])._console
    names = tuple(choice.name.lower() for choice in console.getLegalActionSet())
    assert Atari.embodiment.actions.names == names  # type: ignore[union-attr]
    assert [choice.value for choice in console.getLegalActionSet()] == list(range(len(names)))


class Watched:
    """A console that keeps what it was told and what it showed, frame by frame."""

    def __init__(self, console: Any) -> None:
        self.console = console
        self.choices: list[int] = []
        self.frames: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.console, name)

    def act(self, choice: int) -> float:
        points = self.console.act(choice)
        self.choices.append(choice)
        self.frames.append(self.console.getScreenRGB())
        return float(points)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_sensed_is_of_the_body_and_of_the_last_two_frames(task: str) -> None:
    game = Atari(task)
    game.reset(seed=0)
    game._console = console = Watched(game._console)
    observation, *_ = game.step(3)
    assert len(console.frames) == HELD
    area = Image.fromarray(np.maximum(*console.frames[-2:])).resize((PIXELS, PIXELS), Image.Resampling.BOX)
    np.testing.assert_array_equal(game.embodiment.check_observation(observation)["screen"], np.asarray(area))
    assert len(np.unique(observation["screen"])) > 5
    assert game.render_frame(64).shape == (64, 64, 3)


def test_in_one_frame_of_four_the_choice_before_stays() -> None:
    game = Atari("atari/freeway")
    game.reset(seed=0)
    game._console = console = Watched(game._console)
    asked = [1 + number % 17 for number in range(300)]  # each differs from the one before
    for choice in asked:
        game.step(choice)
    done = np.array([0, *console.choices])
    first, before = done[1::HELD], done[:-1:HELD]
    assert ((first == asked) | (first == before)).all()
    assert 0.17 < np.mean(first != asked) < 0.33
    assert np.mean(done[HELD::HELD] == asked) > 0.98


@pytest.mark.parametrize("task", TASKS)
def test_a_moment_can_be_gone_back_to(task: str) -> None:
    game, other = Atari(task), Atari(task)
    played(game, 1, 40)
    saved = game.get_state()
    actions = np.random.default_rng(2).integers(18, size=60)
    truth = [(game.expert_action(), *game.step(action)) for action in actions]
    played(other, 9, 7)
    for again in (game, other):
        again.set_state(saved)
        for action, (asked, seen, *rest) in zip(actions, truth, strict=True):
            assert again.expert_action() == asked
            found, *ended = again.step(action)
            np.testing.assert_array_equal(found["screen"], seen["screen"])
            assert ended == rest
    with pytest.raises(PolysomaError, match="expected a state of this task"):
        Atari(next(name for name in TASKS if name != task)).set_state(saved)


def test_success_is_a_score_that_is_known_where_the_game_is_over() -> None:
    game = Atari("atari/pong")
    rng = np.random.default_rng(0)
    for known, way in ((True, lambda: game.expert_action()), (False, lambda: int(rng.integers(18)))):
        game.reset(seed=0)
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, info = game.step(way())
            total, over = total + reward, terminated or truncated
            assert info["success"] == (over and total >= GAMES["pong"].enough)
        assert info["success"] == known and game._steps <= MAX_STEPS


@pytest.mark.parametrize(
    ("task", "steps", "more"), [("pong", 500, 4), ("boxing", 800, 8), ("breakout", 400, 5), ("freeway", 500, 4)]
)
def test_experts_score_what_random_actions_do_not(task: str, steps: int, more: float) -> None:
    game, rng = Atari(f"atari/{task}"), np.random.default_rng(0)
    expert, random = (np.array([score(game, seed, steps, who) for seed in range(2)]) for who in (None, rng))
    assert expert.mean() > random.mean() + more, (expert, random)


def test_choices_that_there_are_not_do_not_end_the_process() -> None:
    game = Atari("atari/pong")
    game.reset(seed=0)
    for choice in (18, -1):
        with pytest.raises(PolysomaError, match=r"expected an index 0\.\.17"):
            game.step(choice)


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PolysomaError, match=r"need ale_py.*polysoma\[games\]"):
        simulators.check_installed(["atari/pong"])

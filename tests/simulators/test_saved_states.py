"""Every body: a moment of an episode is saved and gone back to, and where there are other goals, an episode goes on."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from conftest import need
from polysoma import simulators
from polysoma.errors import PolysomaError
from polysoma.simulators.environment import Environment
from polysoma.simulators.wrapped import wrapped

pytest.importorskip("metaworld")
pytest.importorskip("minigrid")
pytest.importorskip("minatar")
pytest.importorskip("gymnasium_robotics")

PENDULUM = wrapped("Pendulum-v1", "pendulum", "swing up", expert=lambda seen: [float(np.clip(seen[2], -2, 2))])

# One task of each body (the SO-101's pictures are small here), some cameras, and tasks that keep something apart.
BODIES = {name for name, body in simulators.embodiments().items() if name == body.body} - {"so101"}
TASKS = [
    *(simulators.tasks_of(name)[0] for name in sorted(BODIES)),
    *("drone-pixels/ring", "aloha-pixels/insertion", "babyai-pixels/BossLevel", "so101-small/stack"),
    *("metaworld/reach-v3", "metaworld/peg-insert-side-v3", "fetch/pick-and-place", "rover/maze", "go2/words"),
    "pendulum/task",
]


def make(task: str) -> Environment:
    return PENDULUM.make(task) if task == "pendulum/task" else simulators.make(task)


def play(environment: Environment, actions: list[Any]) -> list[Any]:
    """Observation, reward, ends and success of each action. The expert is asked as well: it may remember."""
    steps = []
    for action in actions:
        asked = environment.expert_action()
        observation, reward, terminated, truncated, info = environment.step(action)
        steps.append(({**observation}, asked, reward, terminated, truncated, info["success"]))
    return steps


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", TASKS)
def test_what_follows_a_moment_is_the_same_bit_by_bit(task: str) -> None:
    need(task)
    environment, other = make(task), make(task)
    for one in (environment, other):
        one.reset(seed=3)
        for _ in range(5):
            seen, *_ = one.step(one.expert_action())
    saved = environment.get_state()
    actions = [environment.expert_action()]
    play(environment, actions)
    actions += [environment.action_space.sample() for _ in range(4)]
    truth = play(other, actions)  # an episode that nobody saved
    for one in (environment, other):
        one.reset(seed=8)
        now = one.set_state(saved)
        np.testing.assert_equal(now, seen)
        np.testing.assert_equal(play(one, actions), truth)
        assert one.max_steps == environment.max_steps
    environment.close()
    other.close()


def test_the_marker_of_a_goal_goes_back_with_it() -> None:
    environment = simulators.make("pointmaze/medium")
    environment.reset(seed=3)
    saved = environment.get_state()
    environment.reset(seed=8)
    goal = environment.set_state(saved)["state"][4:]
    environment.step(np.zeros(2, np.float32))
    model, data, _ = environment._scene()  # type: ignore[attr-defined]
    np.testing.assert_allclose(data.site_xpos[model.site("target").id][:2], goal, atol=1e-6)
    environment.close()


def test_what_cannot_be_saved_says_so() -> None:
    class Generated(gymnasium.Wrapper[Any, Any, Any, Any]):
        """Holds what Python cannot copy."""

        def reset(self, **options: Any) -> Any:
            self.numbers = (number for number in range(3))
            return super().reset(**options)

    family = wrapped(lambda: Generated(gymnasium.make("Pendulum-v1")), "generated", "swing up")
    environment = family.make("generated/task")
    environment.reset(seed=0)
    with pytest.raises(PolysomaError, match="generated/task: what cannot be copied cannot be saved"):
        environment.get_state()


def test_pictures_change_nothing_of_what_follows() -> None:
    filmed, other = (simulators.make("fetch/pick-and-place") for _ in range(2))
    for one in (filmed, other):
        one.reset(seed=1)
    for _ in range(12):
        filmed._scene()  # type: ignore[attr-defined]
        np.testing.assert_equal(filmed.step(filmed.expert_action())[0], other.step(other.expert_action())[0])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "task", ["pointmaze/umaze", "fetch/reach", "drone/hover", "rover/pillar", "rover/maze", "metaworld/pick-place-v3"]
)
def test_the_expert_goes_on_to_other_goals(task: str) -> None:
    environment = simulators.make(task)
    start, _ = environment.reset(seed=0)
    reached = 0
    for _ in range(environment.max_steps):
        observation, _, terminated, _, info = environment.step(environment.expert_action())
        if info["success"]:
            reached += 1
            if reached == 2:
                break
            before = observation["state"]
            seen = environment.new_goal()
            assert seen is not None and seen["instruction"] == start["instruction"]
            assert not np.array_equal(seen["state"], before)
            saved = environment.get_state()
            np.testing.assert_equal(environment.set_state(saved), seen)
        else:
            assert not terminated
    assert reached == 2, "both goals"


def test_tasks_with_one_goal_have_no_other() -> None:
    for task in ("drone/ring", "metaworld/drawer-open-v3"):
        environment = simulators.make(task)
        environment.reset(seed=0)
        assert environment.new_goal() is None

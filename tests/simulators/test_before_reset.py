"""Every body: before the first reset there is no episode, and all that needs one says so in the same words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conftest import need
from make_puck import Table
from polysoma import simulators
from polysoma.errors import PolysomaError
from polysoma.simulators.environment import Environment
from polysoma.simulators.wrapped import wrapped

pytest.importorskip("metaworld")
pytest.importorskip("minigrid")
pytest.importorskip("minatar")
pytest.importorskip("gymnasium_robotics")

PENDULUM = wrapped("Pendulum-v1", "pendulum", "swing up", expert=lambda seen: [float(np.clip(seen[2], -2, 2))])
ASKED: dict[str, Callable[[Environment], Any]] = {
    "step": lambda environment: environment.step(environment.action_space.sample()),
    "render_frame": lambda environment: environment.render(),
    "expert_action": lambda environment: environment.expert_action(),
    "get_state": lambda environment: environment.get_state(),
}
OWN: dict[str, Callable[[Environment], Any]] = {
    "camera_frame": lambda environment: environment.camera_frame("overview", 32),
    "new_goal": lambda environment: environment.new_goal(),
    "remaining": lambda environment: environment.remaining(),
    "push": lambda environment: environment.push((0.5, 0.5), (1.0, 0.0)),
}


def refused(environment: Environment, asked: dict[str, Callable[[Environment], Any]]) -> None:
    environment.render_mode = "rgb_array"
    for name, ask in asked.items():
        with pytest.raises(PolysomaError, match=f"^{environment.task}: call reset first; .*no {name}$"):
            ask(environment)
    environment.close()


@pytest.mark.parametrize("body", simulators.embodiments())
def test_no_body_acts_before_it_is_reset(body: str) -> None:
    task = simulators.tasks_of(body)[0]
    need(task)
    refused(simulators.make(task), ASKED)


def test_environments_of_others_and_all_that_needs_an_episode() -> None:
    refused(PENDULUM.make("pendulum/task"), ASKED)
    need("rover/maze")
    refused(simulators.make("rover/maze"), OWN)
    need("aloha-pixels/insertion")
    refused(simulators.make("aloha-pixels/insertion"), {"privileged": lambda environment: environment.privileged()})


@pytest.mark.parametrize(
    "task", ["drone/hover", "drone-pixels/hover", "rover/maze", "minatar/breakout", "pendulum/task"]
)
def test_a_moment_can_be_gone_to_before_the_first_reset(task: str) -> None:
    need(task)
    first, fresh = (PENDULUM.make(task) if task == "pendulum/task" else simulators.make(task) for _ in range(2))
    first.reset(seed=3)
    action = first.expert_action()
    seen, *_ = first.step(action)
    saved = first.get_state()
    np.testing.assert_equal(fresh.set_state(saved), seen)
    np.testing.assert_equal(fresh.step(action)[:3], first.step(action)[:3])
    first.close()
    fresh.close()


def test_after_a_reset_it_goes_on() -> None:
    class Own(Table):
        """Asks itself while it begins."""

        def reset(self, **options: Any) -> Any:
            assert self.remaining() == 3
            return super().reset(**options)

        def remaining(self) -> float:
            """See Environment."""
            return 3

    table = Own("puck/go")
    with pytest.raises(PolysomaError, match="puck/go: call reset first"):
        table.remaining()
    table.reset(seed=0)
    assert table.remaining() == 3 and not table.step(np.zeros(2, np.float32))[2]

"""Steps from one command to the next are bounded, whatever a planner plans."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import GRID
from make_servo import SERVO
from planners import Recording, Replaces
from polysoma.acting.agent import Acting, Agent
from polysoma.acting.guards import Guarded
from polysoma.acting.planner import Planner
from polysoma.acting.realtime import RealTimeAgent
from polysoma.acting.steps import Bounded
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError

HERE = {"elbow": 0.5, "wrist": -1.0, "speed": 7.0}


def observation() -> Observation:
    picture = np.zeros((4, 4, 3), np.uint8)
    joints = np.array(list(HERE.values()), np.float32)
    return {"joints": joints, "front": picture, "side": picture, "instruction": "open"}


def agent(planner: Planner, execute: int = 4) -> Agent:
    return Agent(planner, SERVO, "open", Acting(execute=execute))


def goes_to(wrist: float, elbow: float = 0.0) -> Recording:
    return Recording(4, lambda session: np.array([wrist, elbow], np.float32))


def test_the_way_begins_at_the_joints_and_goes_in_steps() -> None:
    driver = agent(Bounded(goes_to(2.0), {"wrist": 1.0, "elbow": 0.2}))
    done = np.stack([driver.act(observation()) for _ in range(6)])
    # In the order of the action's channels; the joints stand in another one.
    np.testing.assert_allclose(done[:, 0], [0, 1, 2, 2, 2, 2], atol=1e-6)
    np.testing.assert_allclose(done[:, 1], [0.3, 0.1, 0, 0, 0, 0], atol=1e-6)


def test_channels_without_a_step_are_free() -> None:
    driver = agent(Bounded(goes_to(2.0, -5.0), {"wrist": 0.5}))
    np.testing.assert_allclose(driver.act(observation()), [-0.5, -5])


def test_a_plan_begins_where_somebody_else_has_moved_the_body() -> None:
    driver = agent(Bounded(goes_to(2.0), {"wrist": 0.5}), execute=1)
    driver.act(observation())
    driver.executed(np.array([-3.0, 0.0], np.float32))
    np.testing.assert_allclose(driver.act(observation())[0], -2.5)
    # A new episode begins at the joints again.
    driver.reset()
    np.testing.assert_allclose(driver.act(observation())[0], -0.5)


def test_what_a_guard_does_is_left_alone_and_a_guard_around_sees_bounded_plans() -> None:
    stop = np.array([[9.0, 0.0]], np.float32)
    inside = agent(Bounded(Guarded(goes_to(0.0), Replaces(stop)), {"wrist": 0.1}))
    np.testing.assert_array_equal(inside.act(observation()), stop[0])
    around = agent(Guarded(Bounded(goes_to(2.0), {"wrist": 0.1}), Replaces(stop, allowed=1)), execute=1)
    np.testing.assert_allclose(around.act(observation())[0], -0.9)


def test_it_bounds_plans_in_real_time() -> None:
    with RealTimeAgent(Bounded(goes_to(2.0), {"wrist": 0.5}), SERVO, "open", blend=0, latency=0) as driver:
        done = [float(driver.act(observation())[0]) for _ in range(4)]
    np.testing.assert_allclose(done, [-0.5, 0, 0.5, 1])


def test_mistakes_are_said() -> None:
    with pytest.raises(PolysomaError, match=r"positive numbers, got \{'wrist': 0\}"):
        Bounded(goes_to(0), {"wrist": 0})
    with pytest.raises(PolysomaError, match=r"no action channels \['knee'\]; it has \['wrist', 'elbow'\]"):
        agent(Bounded(goes_to(0), {"knee": 1}))
    with pytest.raises(PolysomaError, match="no action channels"):
        Agent(Bounded(Recording(1), {"wrist": 1}), GRID, "go")
    failing = agent(Bounded(Recording(4, lambda _: np.full(2, np.nan)), {"wrist": 1}))
    with pytest.raises(PolysomaError, match="not a finite number"):
        failing.act(observation())

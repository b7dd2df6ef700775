"""A random push wherever a body stands still."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from make_pocket import DOORS, POINT
from planners import Recording
from polysoma.acting.planner import Plan, Session, TaskPrompt
from polysoma.acting.pushing import Pushed
from polysoma.embodiment import ContinuousActions, Modality, Stream, channels
from polysoma.errors import PolysomaError


def planned(planner: Pushed, session: Session, x: float) -> Plan:
    (plan,) = planner.plan([session], [{"state": np.array([x, 1], np.float32), "instruction": "go"}])
    assert isinstance(plan, Plan)
    return plan


def test_who_stands_still_is_pushed_for_a_while() -> None:
    planner = Pushed(Recording(chunk=3), patience=4, hold=2)
    session = planner.start(TaskPrompt(POINT, "go"), 1)
    plans = [planned(planner, session, 0.01 * (step % 2)) for step in range(12)]
    # Four plans tell nothing yet, the fifth does; then it begins anew, from where the first push led.
    sources = ["recording"] * 4 + ["push"] * 2 + ["recording"] * 3 + ["push"] * 2 + ["recording"]
    assert [plan.source for plan in plans] == sources
    pushes = [plan.actions for plan in plans if plan.source == "push"]
    assert pushes[0].shape == (3, 1) and (pushes[0] == pushes[0][0]).all() and (pushes[0] == pushes[1]).all()
    assert 0 < abs(pushes[0][0, 0]) <= 0.2 and (pushes[2] != pushes[0]).all()


def test_who_moves_is_not_pushed() -> None:
    planner = Pushed(Recording(), patience=4, hold=2)
    session = planner.start(TaskPrompt(POINT, "go"), 1)
    assert {planned(planner, session, 0.02 * step).source for step in range(12)} == {"recording"}


def test_pushes_are_those_of_the_episodes_seed() -> None:
    planner = Pushed(Recording(), patience=1, hold=1)
    sessions = [planner.start(TaskPrompt(POINT, "go"), seed) for seed in (1, 2, 1)]
    seen = [{"state": np.zeros(2, np.float32), "instruction": "go"}] * 3
    planner.plan(sessions, seen)
    first, other, again = (plan.actions[0, 0] for plan in planner.plan(sessions, seen) if isinstance(plan, Plan))
    assert first == again != other


def test_bodies_that_cannot_be_pushed_are_told() -> None:
    speeds = Stream("state", Modality.STATE, (1,), channels("v", "m/s"))
    for body, told in (
        (DOORS, "doors: pushes are for bodies that are moved by numbers"),
        (dataclasses.replace(POINT, actions=ContinuousActions(channels("dx"))), "there are no limits of"),
        (dataclasses.replace(POINT, streams=(speeds,)), "point senses nothing in m or rad"),
    ):
        with pytest.raises(PolysomaError, match=told):
            Pushed(Recording()).start(TaskPrompt(body, "go"), 0)

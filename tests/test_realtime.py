"""Acting on time: the scheduler by itself, and with a policy in a thread."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from conftest import ARM, observe
from polysoma.errors import PolysomaError
from polysoma.policy import realtime
from polysoma.policy.policy import Policy
from polysoma.policy.realtime import RealTimeAgent, Scheduler, Source


def chunk(first: float, count: int = 8) -> np.ndarray:
    return (first + np.arange(count, dtype=np.float32))[:, None]


def test_a_plan_is_executed_in_its_order() -> None:
    scheduler = Scheduler(blend=0)
    scheduler.answered(0, 0, chunk(10))
    assert [float(scheduler.action(tick)[0][0]) for tick in range(8)] == [10, 11, 12, 13, 14, 15, 16, 17]


def test_a_late_plan_begins_where_it_is_due() -> None:
    scheduler = Scheduler(blend=0)
    scheduler.answered(0, 0, chunk(0))
    for tick in range(5):
        scheduler.action(tick)
    # Asked with the observation of tick 2, it comes before tick 5: its first three actions are past.
    scheduler.answered(2, 5, chunk(100))
    assert float(scheduler.action(5)[0][0]) == 103
    assert scheduler.left(6) == 4


def test_the_seam_is_blended() -> None:
    scheduler = Scheduler(blend=3)
    scheduler.answered(0, 0, np.zeros((8, 1), np.float32))
    scheduler.action(0)
    scheduler.answered(0, 1, np.ones((8, 1), np.float32))
    assert [float(scheduler.action(tick)[0][0]) for tick in range(1, 6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_without_a_plan_the_body_holds_and_then_stops() -> None:
    scheduler = Scheduler(blend=0, patience=2, stop=np.array([-1.0], np.float32))
    scheduler.answered(0, 0, chunk(5, 2))
    found = [scheduler.action(tick) for tick in range(6)]
    assert [source for _, source in found] == [Source.PLAN] * 2 + [Source.HELD] * 2 + [Source.STOPPED] * 2
    assert [float(action[0]) for action, _ in found] == [5, 6, 6, 6, -1, -1]
    assert (scheduler.ticks.all, scheduler.ticks.held, scheduler.ticks.stopped) == (6, 2, 2)
    # It starts again, from the stop, when a plan comes.
    scheduler.answered(6, 6, chunk(3))
    assert scheduler.action(6)[1] is Source.PLAN


def test_a_policy_of_two_periods_never_misses_a_tick() -> None:
    """10,000 ticks, a policy that takes two and a jitter of up to two more, chunks of eight."""
    rng = np.random.default_rng(0)
    scheduler = Scheduler()
    scheduler.answered(0, 0, chunk(0))
    asked, due = 0, 2
    for tick in range(10_000):
        if tick == due:
            scheduler.answered(asked, tick, chunk(tick))
            asked, due = tick, tick + 2 + int(rng.integers(3))
        scheduler.action(tick)
    assert scheduler.ticks.held == 0 and scheduler.ticks.stopped == 0


def test_before_the_first_plan_there_is_nothing() -> None:
    with pytest.raises(PolysomaError, match="no plan yet"):
        Scheduler().action(0)
    with pytest.raises(PolysomaError, match="at least 0 ticks"):
        Scheduler(blend=-1)


def test_the_agent_does_not_wait_for_a_slow_policy(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    original, hold = realtime.plan_together, threading.Event()

    def held(*arguments: Any) -> Any:
        assert hold.wait(60), "somebody waited"
        return original(*arguments)

    with RealTimeAgent(policy, "arm", patience=1, stop=np.zeros(2)) as agent:
        first, source = agent.act(observe(ARM))
        assert source is Source.PLAN and (np.abs(first) <= 1).all()
        # The plan that was asked for with the next observation comes; every later one is held back.
        monkeypatch.setattr(realtime, "plan_together", held)
        # Whoever waited for the policy in here would wait until it gives up.
        try:
            sources = [agent.act(observe(ARM, step))[1] for step in range(40)]
            assert sources[-1] is Source.STOPPED, "the policy does not answer, so the body was stopped"
        finally:
            hold.set()
        agent.reset("do two")
        assert agent.act(observe(ARM))[1] is Source.PLAN and agent.scheduler.ticks.all == 1


def test_bodies_that_cannot(policy: Policy) -> None:
    with pytest.raises(PolysomaError, match="continuous actions and a history of one frame"):
        RealTimeAgent(policy, "grid")

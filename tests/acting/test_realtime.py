"""Acting on time: the scheduler by itself, and with a policy in a thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from conftest import ARM, observe
from planners import Forbids, Recording, Replaces
from polysoma.acting.agent import Acting, plan_together
from polysoma.acting.bound import ActionSource
from polysoma.acting.guards import Guarded, Stopped
from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt, known_embodiments
from polysoma.acting.policy_planner import PolicyPlanner
from polysoma.acting.realtime import RealTime, RealTimeAgent, Scheduler
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.policy.policy import Policy


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
    assert [source for _, source in found] == [ActionSource.PLAN] * 2 + [ActionSource.HELD] * 2 + [
        ActionSource.STOPPED
    ] * 2
    assert [float(action[0]) for action, _ in found] == [5, 6, 6, 6, -1, -1]
    assert (scheduler.ticks.all, scheduler.ticks.held, scheduler.ticks.stopped) == (6, 2, 2)
    # It starts again, from the stop, when a plan comes.
    scheduler.answered(6, 6, chunk(3))
    assert scheduler.action(6)[1] is ActionSource.PLAN


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


class Held:
    """A planner whose answers come when they are let go."""

    def __init__(self, planner: Planner) -> None:
        self.planner, self.free = planner, threading.Event()
        self.embodiments = known_embodiments(planner)
        self.free.set()

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        return self.planner.start(prompt, seed)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        assert self.free.wait(60)
        return self.planner.plan(sessions, observations)


class Unreachable(Held):
    """A planner whose questions may fail as a whole, as those to another machine do."""

    lost = False

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        if self.lost:
            raise PolysomaError("the other end is gone")
        return super().plan(sessions, observations)


def test_the_agent_does_not_wait_for_a_slow_planner(policy: Policy) -> None:
    planner = Held(PolicyPlanner(policy))
    with RealTimeAgent(planner, "arm", patience=1, stop=np.zeros(2)) as agent:
        first = agent.act(observe(ARM))
        assert agent.source is ActionSource.PLAN and agent.asked and (np.abs(first) <= 1).all()
        planner.free.clear()
        # Nothing answers any more, and still every tick returns: the rest of the plan, the last action, a stop.
        sources = []
        for step in range(8):
            agent.act(observe(ARM, step))
            sources.append(agent.source)
            assert not agent.asked
        assert sources == [ActionSource.PLAN] * 3 + [ActionSource.HELD] + [ActionSource.STOPPED] * 4
        planner.free.set()
        while not agent.asked:
            agent.act(observe(ARM))
        agent.reset("do two")
        agent.act(observe(ARM))
        assert agent.source is ActionSource.PLAN and agent.scheduler.ticks.all == 1


def test_a_latency_in_ticks_is_the_same_everywhere(policy: Policy) -> None:
    def actions(latency: int) -> list[float]:
        with RealTime(blend=0, latency=latency).agent(policy, "arm", instruction="do one") as agent:
            return [float(agent.act(observe(ARM, step))[0]) for step in range(6)]

    late = actions(2)
    assert late == actions(2)
    ask = policy.agent("arm", "do one", Acting(execute=1))
    plans = [plan_together([ask], [observe(ARM, step)])[0] for step in range(6)]
    # Tick 0 waits. The plan asked for at tick 1 comes at tick 3, that of tick 3 at tick 5.
    expected = [plans[0][0], plans[0][1], plans[0][2], plans[1][2], plans[1][3], plans[3][2]]  # type: ignore[index]
    assert late == pytest.approx([float(action[0]) for action in expected], abs=1e-6)


@pytest.mark.parametrize("latency", [None, 1])
def test_after_a_planner_that_failed_it_is_asked_again(policy: Policy, latency: int | None) -> None:
    planner = Unreachable(PolicyPlanner(policy))
    with RealTimeAgent(planner, "arm", "do one", latency=latency) as agent:
        first = agent.act(observe(ARM))
        planner.lost = True
        failure: PolysomaError | None = None
        while failure is None:  # Its answer comes when it comes.
            try:
                agent.act(observe(ARM))
            except PolysomaError as error:
                failure = error
        assert str(failure) == "the other end is gone"
        planner.lost = False
        while not agent.asked:
            agent.act(observe(ARM))
        agent.reset()
        np.testing.assert_array_equal(agent.act(observe(ARM)), first)
        # An episode also ends while the question is still open.
        planner.lost = True
        agent.act(observe(ARM, 1))


def test_frames_and_actions_between_two_questions_reach_the_session() -> None:
    planner = Recording(chunk=4)
    body = ARM
    with RealTimeAgent(planner, body, "go", blend=0, latency=2) as agent:
        for step in range(6):
            agent.act(observe(ARM, step))
        agent.act(observe(ARM, 6))
        session = planner.sessions[0]
        before = len(session.told)
        # What came since the last question is not lost when the episode ends.
        agent.ended(observe(ARM, 7))
        assert [kind for kind, _ in session.told[before:]] == ["executed", "observed", "executed", "ended"]
    kinds = [kind for kind, _ in session.told[:before]]
    # Ticks 0, 1, 3 and 5 ask; what happened at ticks 2 and 4 is told before.
    assert kinds == ["plan", "executed", "plan", "executed", "observed", "executed", "plan", "executed", "observed",
                     "executed", "plan"]  # fmt: skip


def test_a_plan_that_comes_at_once_is_executed_at_once() -> None:
    """Without any latency every tick asks, and executes the first action of its own plan."""
    planner = Recording(action=lambda session: np.full(2, len(session.told) / 100))  # type: ignore[attr-defined]
    with RealTime(blend=0, latency=0).agent(planner, ARM, instruction="go") as agent:
        actions = [float(agent.act(observe(ARM, step))[0]) for step in range(4)]
    kinds = [kind for kind, _ in planner.sessions[0].told]
    assert kinds == ["plan", *["executed", "plan"] * 3]
    assert actions == pytest.approx([0.01, 0.03, 0.05, 0.07])


def test_what_a_guard_puts_in_the_place_of_a_plan_is_not_blended() -> None:
    planner = Guarded(
        Recording(chunk=6, action=lambda _: np.ones(2)), Replaces(np.zeros((6, 2), np.float32), allowed=1)
    )
    with RealTimeAgent(planner, ARM, "go", blend=4, latency=1) as agent:
        actions = [float(agent.act(observe(ARM, step))[0]) for step in range(5)]
    # The plan of tick 1, the first that was replaced, comes at tick 2.
    assert actions == [1, 1, 0, 0, 0]


def test_plans_that_come_too_late_to_be_executed_are_refused() -> None:
    with pytest.raises(PolysomaError, match="3 ticks after it was asked for, so it must have more than 3 actions, got"):
        RealTimeAgent(Recording(chunk=3), ARM, "go", latency=3)
    planner = Recording(chunk=1)
    with pytest.raises(PolysomaError, match="more than 1 actions, got 1"):
        RealTimeAgent(planner, ARM, "go")
    assert planner.sessions[0].closed


def test_a_mistake_in_a_planner_is_not_swallowed_when_an_episode_ends() -> None:
    # Its list is too short for the second plan.
    planner = Recording(chunk=4, action=lambda session: [np.zeros(2)][len(session.told) - 1])  # type: ignore[attr-defined]
    agent = RealTimeAgent(planner, ARM, "go", latency=1)
    agent.act(observe(ARM))
    agent.act(observe(ARM))
    with pytest.raises(IndexError):
        agent.close()


def test_a_guard_that_stops_is_obeyed_at_once(policy: Policy) -> None:
    guarded = Guarded(policy, Forbids(np.float32(0.0)))
    with RealTimeAgent(guarded, "arm", stop=np.array([0.5, 0.5]), latency=1) as agent:
        np.testing.assert_array_equal(agent.act(observe(ARM)), [0.5, 0.5])
        assert agent.source is ActionSource.STOPPED
    with RealTimeAgent(guarded, "arm", latency=1) as agent, pytest.raises(Stopped):
        agent.act(observe(ARM))


def test_bodies_that_cannot(policy: Policy) -> None:
    with pytest.raises(PolysomaError, match="expected continuous actions, those of grid are choices"):
        RealTimeAgent(policy, "grid")

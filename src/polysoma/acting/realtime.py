"""Acting on time: a new plan is computed while the old one is executed.

A planner that takes longer than a control period would stall its body at every plan. Here the question goes to a thread
of its own; its answer is about a moment that has passed, so its first actions, as many as there were ticks meanwhile,
are skipped, and the next few are blended with what was planned before (delay compensation; compare Black et al. 2025,
arXiv 2506.07339, which inpaints where this blends).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from polysoma.acting.bound import ActionSource, BoundPlanner
from polysoma.acting.guards import Stopped
from polysoma.acting.limits import Limited, Limits
from polysoma.acting.planner import GUARD, Plan, Planner, within_limits
from polysoma.data.episode import Episode
from polysoma.embodiment import ContinuousActions, Embodiment, Observation
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.policy.policy import Policy


@dataclass(frozen=True)
class RealTime:
    """How plans become actions on time; for evaluations, in the place of :class:`~polysoma.acting.agent.Acting`.

    Attributes:
        blend, patience: see :class:`Scheduler`.
        stop: the action that stops the body, one number a channel; None holds the last action for ever.
        latency: ticks after which an answer arrives, whatever it takes here, so that simulated episodes are the same
            everywhere; None takes it when it is there.
        limits: kept last, after ``stop`` too (:mod:`polysoma.acting.limits`); None for the body's own alone.
    """

    blend: int = 4
    patience: int = 10
    stop: tuple[float, ...] | None = None
    latency: int | None = None
    limits: Limits | None = None

    def agent(self, planner: Planner | Policy, body: str | Embodiment, **prompt: Any) -> RealTimeAgent:
        """An agent that acts like this; further arguments as those of
        :class:`~polysoma.acting.bound.BoundPlanner`."""
        planner = planner if self.limits is None else Limited(planner, self.limits)
        stop = None if self.stop is None else np.array(self.stop, np.float32)
        return RealTimeAgent(
            planner, body, blend=self.blend, patience=self.patience, stop=stop, latency=self.latency, **prompt
        )


@dataclass
class Ticks:
    """Counts of control ticks: all, those that held the last action, and those after which the body was stopped."""

    all: int = 0
    held: int = 0
    stopped: int = 0


class Scheduler:
    """Which action is for which tick. It knows ticks, not seconds, and nothing of threads.

    Args:
        blend: ticks over which a new plan takes over from the old one; 0 switches at once.
        patience: ticks for which the last action is held when the plan has run out; then comes ``stop``.
        stop: the action that stops the body, float32 ``(A,)``; None holds the last action for ever.
    """

    def __init__(self, blend: int = 4, patience: int = 10, stop: np.ndarray | None = None) -> None:
        if blend < 0 or patience < 0:
            raise PolysomaError(f"blend and patience must be at least 0 ticks, got {blend} and {patience}")
        self.blend, self.patience, self.stop = blend, patience, stop
        self.ticks = Ticks()
        self._planned: dict[int, np.ndarray] = {}
        self._last: np.ndarray | None = None
        self._missing = 0

    def answered(self, asked: int, now: int, chunk: np.ndarray, blend: bool = True) -> None:
        """Takes a plan over.

        Args:
            asked: the tick whose observation the plan is for.
            now: the next tick to come; what the plan says of earlier ones is void.
            chunk: ``(chunk, A)``, for the ticks ``asked, asked + 1, ...``.
            blend: False where the new plan must be executed as it is.
        """
        old = self._planned
        self._planned = {}
        for tick in range(max(asked, now), asked + len(chunk)):
            new = chunk[tick - asked]
            # Without an old plan the last action is what the body comes from.
            before = old.get(tick, self._last)
            share = (tick - now + 1) / (self.blend + 1)
            if blend and before is not None and share < 1:
                new = ((1 - share) * before + share * new).astype(np.float32)
            self._planned[tick] = new

    def action(self, tick: int) -> tuple[np.ndarray, ActionSource]:
        """The action for this tick. Raises PolysomaError before the first plan."""
        self.ticks.all += 1
        planned = self._planned.pop(tick, None)
        if planned is not None:
            self._missing, self._last = 0, planned
            return planned, ActionSource.PLAN
        if self._last is None:
            raise PolysomaError("there is no plan yet: the first one must be waited for")
        self._missing += 1
        if self.stop is not None and self._missing > self.patience:
            self.ticks.stopped += 1
            self._last = self.stop
            return self.stop, ActionSource.STOPPED
        self.ticks.held += 1
        return self._last, ActionSource.HELD

    def halt(self) -> None:
        """Forgets the plan: the next action is ``stop``. Raises PolysomaError where there is none."""
        if self.stop is None:
            raise PolysomaError("there is no action that stops this body: give one as stop")
        self._planned.clear()
        self._last, self._missing = self.stop, self.patience

    def left(self, tick: int) -> int:
        """How many ticks from this one on are planned."""
        return sum(planned >= tick for planned in self._planned)


class RealTimeAgent(BoundPlanner):
    """Drives one body without ever waiting for the planner, but for the first plan.

    Call :meth:`act` once a control period: it returns at once; ``source`` says where the action came from. Close it, or
    use it in a ``with`` statement.

    Args:
        planner: what plans, or a policy.
        body: as of :class:`~polysoma.acting.bound.BoundPlanner`; its actions are numbers.
        blend, patience, stop: see :class:`Scheduler`.
        latency: see :class:`RealTime`.
        others: see :class:`~polysoma.acting.bound.BoundPlanner`.

    Raises:
        PolysomaError: the body has another kind of actions, plans are too short to arrive in time, or as
            :class:`~polysoma.acting.bound.BoundPlanner`.
    """

    def __init__(
        self,
        planner: Planner | Policy,
        body: str | Embodiment | None = None,
        instruction: str | None = None,
        blend: int = 4,
        patience: int = 10,
        stop: np.ndarray | None = None,
        latency: int | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        demonstrations: Sequence[Episode] = (),
        observation_only: bool = False,
        expert: Callable[[], Any] | None = None,
    ) -> None:
        if latency is not None and latency < 0:
            raise PolysomaError(f"latency must be at least 0 ticks, got {latency}")
        self._blend, self._patience, self._stop, self._latency = blend, patience, stop, latency
        self._thread = ThreadPoolExecutor(1, "planner")
        self._answer: Future[list[Plan | PolysomaError]] | None = None
        super().__init__(planner, body, instruction, seed, goal, demonstrations, observation_only, expert)

    def _settle(self) -> None:
        answer, self._answer = self._answer, None
        error = None if answer is None else answer.exception()
        if error is not None and not isinstance(error, PolysomaError):
            raise error

    def _started(self) -> None:
        """``scheduler.ticks`` starts from 0."""
        if not isinstance(self.body.actions, ContinuousActions):
            raise PolysomaError(
                f"acting in real time blends numbers: expected continuous actions, those of {self.body.name} are "
                "choices"
            )
        late = 1 if self._latency is None else self._latency
        if self.session.chunk <= late:
            raise PolysomaError(
                f"acting in real time: a plan for {self.body.name} arrives {late} ticks after it was asked for, so it "
                f"must have more than {late} actions, got {self.session.chunk}"
            )
        stop = None if self._stop is None else self.body.check_action(self._stop)
        self.scheduler = Scheduler(self._blend, self._patience, stop)
        self._tick = self._asked_at = 0
        self._untold: list[tuple[np.ndarray | None, Observation]] = []

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """The action for this control period, float32 ``(A,)`` within the limits.

        Raises:
            PolysomaError: the observation is not one of this body, or there is no plan; the next call asks again. A
                guard that stops the body is obeyed with the ``stop`` action where there is one.
        """
        began = time.perf_counter()
        checked = self.checked(observation)
        # The session belongs to the planner's thread while it is asked, so it is told later.
        self._untold.append((self._executed, checked))
        self._executed, self.asked = None, False
        if self._answer is None:
            self._ask()
        if self._tick == 0 or self._arrived():
            self._take_over()
            # Nothing is untold where the plan came in the tick in which it was asked for.
            if self._tick > 0 and self._untold:
                self._ask()
        action, self.source = self.scheduler.action(self._tick)
        (self._executed,) = self.limited(action[None], checked)
        self._tick += 1
        self.timing.add(time.perf_counter() - began)
        # A copy, as the last action may be held, whatever its new owner does with it.
        return self._executed.copy()

    def ended(self, observation: Mapping[str, Any]) -> None:
        """See :meth:`~polysoma.acting.bound.BoundPlanner.ended`. The session is told first what it was not yet."""
        self._settle()
        self._tell(self._untold)
        self._untold = []
        self.tell_executed()
        super().ended(observation)

    def close(self) -> None:
        """Ends the episode and the planner's thread."""
        try:
            super().close()
        finally:
            self._thread.shutdown()

    def __enter__(self) -> RealTimeAgent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self) -> None:
        """Tells the session what happened since it was asked last, and asks for a plan from the present observation."""
        executed, now = self._untold.pop()
        self._tell(self._untold)
        if executed is not None:
            self.session.executed(executed)
        self._untold, self._asked_at = [], self._tick
        self._answer = self._thread.submit(self.planner.plan, [self.session], [now])
        if self._latency is not None:
            self._answer.exception()

    def _tell(self, what: Sequence[tuple[np.ndarray | None, Observation]]) -> None:
        """Tells the session what was executed before observations from which no plan is asked, and these."""
        for executed, seen in what:
            if executed is not None:
                self.session.executed(executed)
            self.session.observed(seen)

    def _arrived(self) -> bool:
        assert self._answer is not None
        return self._answer.done() if self._latency is None else self._tick - self._asked_at >= self._latency

    def _take_over(self) -> None:
        assert self._answer is not None
        answer, self._answer = self._answer, None
        (plan,) = answer.result()
        if isinstance(plan, Stopped) and self.scheduler.stop is not None:
            self.scheduler.halt()
        elif isinstance(plan, PolysomaError):
            raise plan
        else:
            actions = within_limits(self.body, plan.actions)
            self.scheduler.answered(self._asked_at, self._tick, actions, blend=plan.source != GUARD)
            self.plan, self.asked = plan, True

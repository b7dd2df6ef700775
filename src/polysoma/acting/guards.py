"""Guards: what judges a plan before it moves anything.

A guard allows a plan, replaces its actions or stops the body. :class:`Guarded` puts one between a planner and whoever
executes its plans, and is a planner itself::

    planner = Guarded(Retrieval(policy, index), guard)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from polysoma.acting.planner import (
    GUARD,
    NoPlan,
    Plan,
    Planner,
    Session,
    TaskPrompt,
    WrappedSession,
    Wrapper,
    as_planner,
    within_limits,
)
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.policy.policy import Policy


class Stopped(NoPlan):
    """A guard stopped the body. ``risk`` is its estimate, 0 to 1."""

    def __init__(self, reason: str, risk: float) -> None:
        super().__init__(reason)
        self.risk = risk


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a guard says of a plan; made by :meth:`allow`, :meth:`replace` or :meth:`stop`.

    Attributes:
        decision: what is to be done.
        risk: the guard's estimate that the plan as it came does harm, 0 to 1.
        actions: what is executed instead, float32 ``(n, A)`` or int64 ``(n,)``, n as it likes; for ``"replace"``.
        reason: in words, for logs and errors.
        alarm: which alarms it raises, in words; empty for none.
    """

    decision: Literal["allow", "replace", "stop"]
    risk: float
    actions: np.ndarray | None = None
    reason: str = ""
    alarm: str = ""

    @staticmethod
    def allow(risk: float = 0.0, alarm: str = "") -> Verdict:
        """Executes the plan."""
        return Verdict("allow", risk, alarm=alarm)

    @staticmethod
    def replace(actions: np.ndarray, risk: float = 1.0, reason: str = "", alarm: str = "") -> Verdict:
        """Executes these actions instead, the first ones at least: an agent may ask again before all are executed.
        They are not averaged or blended with other plans."""
        return Verdict("replace", risk, actions, reason, alarm)

    @staticmethod
    def stop(risk: float = 1.0, reason: str = "") -> Verdict:
        """Executes nothing: whoever drives gets :class:`Stopped`."""
        return Verdict("stop", risk, None, reason)


class Guard(Protocol):
    """Judges plans. It keeps no state of an episode, so that one guard serves many."""

    def judge(self, observation: Observation, plan: Plan) -> Verdict:
        """Whether the plan may be executed after this observation.

        Args:
            observation: checked.
            plan: its actions are within the body's limits already. An agent may execute only the first of them before
                it asks again, or average or blend them with those of earlier plans that were allowed.
        """
        ...


@dataclass(frozen=True, eq=False)
class Guarded(Wrapper):
    """A planner whose every plan a guard judges before anybody gets it.

    What a guard did in one episode is counted in ``session.interventions``.

    Args:
        planner: a planner, or a policy.
        guard: judges.
        body: the name of the body whose plans it judges; None for all.
        span: how many of a plan's first actions it judges. Plans end there, so that nothing is executed that nobody
            judged; None for a guard that judges whole plans.
    """

    planner: Planner
    guard: Guard
    body: str | None
    span: int | None

    def __init__(
        self, planner: Planner | Policy, guard: Guard, body: str | None = None, span: int | None = None
    ) -> None:
        object.__setattr__(self, "planner", as_planner(planner))
        object.__setattr__(self, "guard", guard)
        object.__setattr__(self, "body", body)
        object.__setattr__(self, "span", span)

    def start(self, prompt: TaskPrompt, seed: int) -> WrappedSession:
        """See :meth:`Planner.start`."""
        session = WrappedSession(self.planner.start(prompt, seed))
        if self.span is not None and self._judges(session):
            session.chunk = min(session.chunk, self.span)
        return session

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`Planner.plan`."""
        inner = [_own(session).inner for session in sessions]
        plans = self.planner.plan(inner, observations)
        return [
            plan
            if isinstance(plan, PolysomaError) or not self._judges(session)
            else self._judged(_own(session), observation, plan)
            for session, observation, plan in zip(sessions, observations, plans, strict=True)
        ]

    def _judges(self, session: Session) -> bool:
        return self.body in (None, session.prompt.body.name)

    def _judged(self, session: WrappedSession, observation: Observation, plan: Plan) -> Plan | PolysomaError:
        body, counts = session.prompt.body, session.interventions
        plan = plan if self.span is None else plan.first(self.span)
        try:
            seen = dataclasses.replace(plan, actions=within_limits(body, plan.actions))
            verdict = self.guard.judge(observation, seen)
            counts.judged += 1
            counts.alarms += bool(verdict.alarm)
            if verdict.decision == "stop":
                counts.stopped += 1
                return Stopped(f"{body.name} was stopped: {verdict.reason or f'risk {verdict.risk:.2f}'}", verdict.risk)
            if verdict.decision == "replace":
                counts.replaced += 1
                if verdict.actions is None:
                    return PolysomaError(f"{type(self.guard).__name__} replaces a plan of {body.name} by no actions")
                # The policy's readout and probabilities are not those of the new actions.
                actions = within_limits(body, verdict.actions)
                return Plan(actions, GUARD, risk=verdict.risk, alarm=verdict.alarm, replaced=seen.actions)
        except PolysomaError as error:
            return error
        except Exception as error:
            # What cannot judge one plan does not stop the other bodies of a batch.
            failed = PolysomaError(f"{type(self.guard).__name__} failed to judge a plan of {body.name}: {error!r}")
            failed.__cause__ = error
            return failed
        # What a guard further inside said stays.
        alarm = f"{plan.alarm} {verdict.alarm}".strip()
        return dataclasses.replace(plan, risk=max(verdict.risk, plan.risk or 0.0), alarm=alarm)


def _own(session: Session) -> WrappedSession:
    assert isinstance(session, WrappedSession)
    return session

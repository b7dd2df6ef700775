"""Small planners and guards that the tests share, and what tests send to worker processes: these import nothing else
of the tests, which takes seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polysoma.acting.guards import Verdict
from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt
from polysoma.embodiment import Embodiment, Observation
from polysoma.errors import PolysomaError


class RecordingSession(Session):
    """Remembers all that it is told: ``("plan" | "observed" | "executed" | "ended", what)``."""

    def __init__(self, prompt: TaskPrompt, chunk: int, seed: int) -> None:
        super().__init__(prompt, chunk)
        self.seed = seed
        self.told: list[tuple[str, Any]] = []
        self.closed = False

    def observed(self, observation: Observation) -> None:
        self.told.append(("observed", observation))

    def executed(self, action: np.ndarray) -> None:
        self.told.append(("executed", action))

    def ended(self, observation: Observation) -> None:
        self.told.append(("ended", observation))

    def close(self) -> None:
        self.closed = True


class Recording:
    """Plans the same actions again and again, and keeps its sessions.

    Args:
        chunk: actions in a plan.
        action: of a body; zeros, or the first choice, by default.
        fails: which sessions, by their seed, get an error.
    """

    def __init__(
        self, chunk: int = 1, action: Callable[[Session], Any] | None = None, fails: Sequence[int] = ()
    ) -> None:
        self.chunk, self.action, self.fails = chunk, action or _nothing, fails
        self.sessions: list[RecordingSession] = []
        self.batches: list[int] = []

    def start(self, prompt: TaskPrompt, seed: int) -> RecordingSession:
        self.sessions.append(RecordingSession(prompt, self.chunk, seed))
        return self.sessions[-1]

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        self.batches.append(len(sessions))
        plans: list[Plan | PolysomaError] = []
        for session, observation in zip(sessions, observations, strict=True):
            assert isinstance(session, RecordingSession)
            session.told.append(("plan", observation))
            if session.seed in self.fails:
                plans.append(PolysomaError(f"session {session.seed} fails"))
            else:
                plans.append(Plan(np.stack([self.action(session)] * self.chunk), "recording"))
        return plans


class Known:
    """A planner that says which bodies it knows."""

    def __init__(self, planner: Planner, embodiments: tuple[Embodiment, ...]) -> None:
        self.embodiments, self.start, self.plan = embodiments, planner.start, planner.plan


def _nothing(session: Session) -> np.ndarray:
    return np.zeros_like(session.prompt.body.actions.none())


def mistaken() -> Any:
    raise ZeroDivisionError("of a driver")


@dataclass(frozen=True)
class HoverGuard:
    """Allows everything, with a risk."""

    def judge(self, observation: Observation, plan: Plan) -> Verdict:
        return Verdict.allow(0.1)


@dataclass(frozen=True)
class Forbids:
    """Stops plans whose first action is above a limit."""

    limit: np.float32

    def judge(self, observation: Observation, plan: Plan) -> Verdict:
        risk = float(np.abs(plan.actions[0]).max())
        return Verdict.stop(risk, "too far") if risk > self.limit else Verdict.allow(risk)


@dataclass
class Replaces:
    """Puts these actions in the place of every plan, or of every plan but the first ``allowed``."""

    actions: np.ndarray
    allowed: int = 0

    def judge(self, observation: Observation, plan: Plan) -> Verdict:
        self.allowed -= 1
        return Verdict.allow() if self.allowed >= 0 else Verdict.replace(self.actions, 0.9)

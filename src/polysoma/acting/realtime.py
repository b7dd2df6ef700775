"""Acting on time: a new chunk is computed while the old one is executed.

A policy that takes longer than a control period would stall its body at every chunk. Here the question goes to a thread
of its own; its answer is about a moment that has passed, so its first actions, as many as there were ticks meanwhile,
are skipped, and the next few are blended with what was planned before (delay compensation; compare Black et al. 2025,
arXiv 2506.07339, which inpaints where this blends).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from polysoma.acting.agent import Acting, Agent, plan_together
from polysoma.embodiment import ContinuousActions
from polysoma.errors import PolysomaError
from polysoma.policy.policy import Policy


class Source(enum.StrEnum):
    """Where an action came from."""

    PLAN = "plan"
    HELD = "held"
    """The plan had run out: the last action again."""
    STOPPED = "stopped"
    """Nothing had come for too long."""


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

    def answered(self, asked: int, now: int, chunk: np.ndarray) -> None:
        """Takes a plan over.

        Args:
            asked: the tick whose observation the plan is for.
            now: the next tick to come; what the plan says of earlier ones is void.
            chunk: ``(chunk, A)``, for the ticks ``asked, asked + 1, ...``.
        """
        old = self._planned
        self._planned = {}
        for tick in range(max(asked, now), asked + len(chunk)):
            new = chunk[tick - asked]
            # Without an old plan the last action is what the body comes from.
            before = old.get(tick, self._last)
            share = (tick - now + 1) / (self.blend + 1)
            if before is not None and share < 1:
                new = ((1 - share) * before + share * new).astype(np.float32)
            self._planned[tick] = new

    def action(self, tick: int) -> tuple[np.ndarray, Source]:
        """The action for this tick. Raises PolysomaError before the first plan."""
        self.ticks.all += 1
        planned = self._planned.pop(tick, None)
        if planned is not None:
            self._missing, self._last = 0, planned
            return planned, Source.PLAN
        if self._last is None:
            raise PolysomaError("there is no plan yet: the first one must be waited for")
        self._missing += 1
        if self.stop is not None and self._missing > self.patience:
            self.ticks.stopped += 1
            self._last = self.stop
            return self.stop, Source.STOPPED
        self.ticks.held += 1
        return self._last, Source.HELD

    def left(self, tick: int) -> int:
        """How many ticks from this one on are planned."""
        return sum(planned >= tick for planned in self._planned)


class RealTimeAgent:
    """Drives one body without ever waiting for the policy, but for the first chunk.

    Call :meth:`act` once a control period: it returns at once. Close it, or use it in a ``with`` statement.

    Args:
        policy: whose weights.
        body: name of an embodiment with continuous actions and a history of one frame; what a longer history would
            have seen between two questions is not there.
        instruction: see :class:`~polysoma.acting.agent.Agent`.
        blend, patience, stop: see :class:`Scheduler`.

    Raises:
        PolysomaError: the body has another kind of actions or of history.
    """

    def __init__(
        self,
        policy: Policy,
        body: str,
        instruction: str | None = None,
        blend: int = 4,
        patience: int = 10,
        stop: np.ndarray | None = None,
    ) -> None:
        known = policy.embodiment(body)
        if not isinstance(known.actions, ContinuousActions) or known.history > 1:
            raise PolysomaError(f"{body}: acting in real time is for continuous actions and a history of one frame")
        if stop is not None:
            stop = known.check_action(stop)
        self.body = known
        self._agent = Agent(policy, body, instruction, Acting(execute=known.chunk))
        self._settings = blend, patience, stop
        self._thread = ThreadPoolExecutor(1, "policy")
        self._asked: Future[list[np.ndarray | PolysomaError]] | None = None
        self.reset(instruction)

    def reset(self, instruction: str | None = None) -> None:
        """Begins a new episode; ``scheduler.ticks`` starts from 0."""
        if self._asked is not None:
            self._asked.result()
        self.scheduler = Scheduler(*self._settings)
        self._agent.reset(instruction)
        self._tick = 0
        self._asked = None
        self._asked_at = 0
        self._executed: np.ndarray | None = None

    def act(self, observation: Mapping[str, Any]) -> tuple[np.ndarray, Source]:
        """The action for this control period, float32 ``(A,)`` within the limits, and where it came from.

        Raises:
            PolysomaError: the observation is not one of this body, or the policy predicted what is not finite.
        """
        checked = self._agent.checked(observation)
        if self._asked is None:
            self._ask(checked)
        assert self._asked is not None
        if self._tick == 0 or self._asked.done():
            (plan,) = self._asked.result()
            if isinstance(plan, PolysomaError):
                self._asked = None
                raise plan
            self.scheduler.answered(self._asked_at, self._tick, plan)
            self._asked = None
            if self._tick > 0:
                self._ask(checked)
        action, source = self.scheduler.action(self._tick)
        self._executed = action
        self._tick += 1
        return action, source

    def close(self) -> None:
        """Ends the policy's thread."""
        self._thread.shutdown()

    def __enter__(self) -> RealTimeAgent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, observation: Mapping[str, Any]) -> None:
        if self._executed is not None:
            self._agent.executed(self._executed)
        self._asked_at = self._tick
        self._asked = self._thread.submit(plan_together, [self._agent], [observation])

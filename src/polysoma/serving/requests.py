"""What a request says beside what the robot senses, and what that means for the agent of its body
(:mod:`polysoma.serving.server` lists the keys)."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polysoma.acting.agent import Agent
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError

_STEP = "step"
_OPTIONS = ("adapter", "embodiment", "executed", "executed_action", "deadline_ms", "reset", _STEP)
_MOST_STEPS = 2**53


@dataclass
class Driven:
    """A body that a connection drives.

    Attributes:
        agent: plans for it.
        step: of the last observation.
        start, length: the step that the first action of the last chunk is for, and how many it has; 0 before there is
            one.
        limited: how many actions limits changed in this episode, of all that were answered.
    """

    agent: Agent
    step: int = 0
    start: int = 0
    length: int = 0
    limited: int = 0

    def begin(self, request: Mapping[str, Any]) -> None:
        """The first request of an episode."""
        self.step, self.length, self.limited = self._asked_step(request) or 0, 0, 0

    def tell(self, request: Mapping[str, Any]) -> None:
        """Tells the agent what was executed of the last chunk, and counts the steps.

        Raises:
            PolysomaError: the chunk has no such action, or the step is one of the past.
        """
        step, count = self._asked_step(request), whole(request, "executed")
        if step is not None and step < self.step:
            raise PolysomaError(
                f"step: expected at least that of the last request, {self.step}, got {step}; a new episode begins with "
                "reset"
            )
        if "executed_action" in request:
            gone = count if count is not None or step is None else step - self.start
            if gone and self.length:
                self.agent.executed_beside_plan(gone, request["executed_action"])
            else:
                self.agent.executed(request["executed_action"])
        elif count is not None:
            self.agent.executed_of_plan(count)
        elif step is not None and self.length:
            # When a chunk has run out, its last action holds.
            self.agent.executed_of_plan(min(step - self.start, self.length))
        self.step = self.start + (self.length if count is None else count) if step is None else step

    def answered(self, actions: np.ndarray) -> None:
        """The next chunk: its first action is for the step that was observed."""
        self.start, self.length = self.step, len(actions)

    def newly_limited(self) -> int | None:
        """How many actions limits changed since this was asked last; None where the body has none."""
        limiter = self.agent.session.limiter
        if limiter is None:
            return None
        before, self.limited = self.limited, limiter.counts.changed
        return self.limited - before

    def guarded(self) -> dict[str, Any] | None:
        """What a guard said of the last plan: its ``risk``, ``alarm`` in words, and the actions that were ``replaced``
        where some were; None where nobody judged."""
        plan = self.agent.plan
        if plan is None or plan.risk is None:
            return None
        said: dict[str, Any] = {"risk": plan.risk, "alarm": plan.alarm}
        return said if plan.replaced is None else said | {"replaced": plan.replaced}

    def _asked_step(self, request: Mapping[str, Any]) -> int | None:
        return None if _STEP in _sensed(self.agent.body) else whole(request, _STEP)


def observation(body: Embodiment, request: Mapping[str, Any]) -> dict[str, Any]:
    """What the robot senses, and what it is told to do, by the names in the request."""
    sensed = {_STEP} & _sensed(body)
    return {key: value for key, value in request.items() if key not in _OPTIONS or key in sensed}


def number(request: Mapping[str, Any], key: str, default: float) -> float:
    """A number of a request. Raises PolysomaError when it is none of at least 0."""
    value = request.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) >= 0:
        raise PolysomaError(f"{key}: expected a number of at least 0, got {value!r:.200}")
    return float(value)


def whole(request: Mapping[str, Any], key: str) -> int | None:
    """A count of a request, None where it is left out. Raises PolysomaError when it is none."""
    if request.get(key) is None:
        return None
    value = number(request, key, 0)
    if value % 1 != 0 or value > _MOST_STEPS:
        raise PolysomaError(f"{key}: expected a whole number, got {value}")
    return int(value)


def _sensed(body: Embodiment) -> set[str]:
    return {stream.name for stream in body.streams}

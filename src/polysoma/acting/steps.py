"""Bounded steps: no command is further from the one before it than a body may go in one step.

What imitates demonstrations can begin a plan far from where the last one ended; the body would jerk. Demonstrations say
how far commands go (:attr:`polysoma.evaluation.open_loop.OpenLoop.steps`)::

    planner = Bounded(policy, {"shoulder_pan.pos": 3.0, "elbow_flex.pos": 3.0})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from polysoma.acting.planner import (
    GUARD,
    Plan,
    Planner,
    Session,
    TaskPrompt,
    WrappedSession,
    Wrapper,
    as_planner,
    within_limits,
)
from polysoma.embodiment import ContinuousActions, Embodiment, Observation
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.policy.policy import Policy


class Bounded(Wrapper):
    """A planner whose commands go from one to the next in steps of a body's own size.

    The first command of a plan is bounded by the one that was executed last. At the start of an episode it is bounded
    by where the joints are, of channels that the state holds under the same name and unit; others are free there. The
    plans of a guard further inside are left as they are.

    Args:
        planner: a planner, or a policy.
        steps: by the names of action channels, how far a command may be from the one before it, in the channel's unit;
            channels that are not named are free.

    Raises:
        PolysomaError: a step is not a positive number.
    """

    def __init__(self, planner: Planner | Policy, steps: Mapping[str, float]) -> None:
        if wrong := {name: step for name, step in steps.items() if not step > 0}:
            raise PolysomaError(f"steps: expected positive numbers, got {wrong}")
        self.planner, self.steps = as_planner(planner), dict(steps)

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`Planner.start`. Raises PolysomaError where the body's actions are choices, or it has no channel of
        a step's name."""
        kind = prompt.body.actions
        names = [channel.name for channel in kind.channels] if isinstance(kind, ContinuousActions) else []
        if unknown := sorted(self.steps.keys() - set(names)):
            raise PolysomaError(f"{prompt.body.name} has no action channels {unknown}; it has {names}")
        far = np.array([self.steps.get(name, np.inf) for name in names], np.float32)
        return _Session(self.planner.start(prompt, seed), far)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`Planner.plan`."""
        own = [session for session in sessions if isinstance(session, _Session)]
        plans = self.planner.plan([session.inner for session in own], observations)
        return [
            plan if isinstance(plan, PolysomaError) or plan.source == GUARD else session.bounded(plan, observation)
            for session, plan, observation in zip(own, plans, observations, strict=True)
        ]


class _Session(WrappedSession):
    """Remembers what was executed last.

    Args:
        inner: the planner's own session.
        far: how far each channel goes in a step, float32 ``(A,)``.
    """

    def __init__(self, inner: Session, far: np.ndarray) -> None:
        super().__init__(inner)
        self._far = far
        self._last: np.ndarray | None = None

    def executed(self, action: np.ndarray) -> None:
        """See :class:`Session`."""
        self._last = action
        super().executed(action)

    def bounded(self, plan: Plan, observation: Observation) -> Plan | PolysomaError:
        """The plan with no step beyond what the body may do, or what is wrong with it."""
        body = self.prompt.body
        try:
            actions = within_limits(body, plan.actions)
        except PolysomaError as error:
            return error
        before = sensed(body, observation) if self._last is None else self._last
        for place, action in enumerate(actions):
            # What is not known bounds nothing.
            free = np.isnan(before)
            kept = np.clip(action, before - self._far, before + self._far)
            actions[place] = before = np.where(free, action, kept).astype(np.float32)
        return dataclasses.replace(plan, actions=actions, others=None)


def sensed(body: Embodiment, observation: Observation) -> np.ndarray:
    """Where the body is, in its action channels, float32 ``(A,)``; NaN where its state does not say so."""
    assert isinstance(body.actions, ContinuousActions)
    found = np.full(body.actions.size, np.nan, np.float32)
    for place, channel in enumerate(body.actions.channels):
        if channel.name in body.positions:
            stream, at = body.positions[channel.name]
            found[place] = observation[stream][at]
    return found

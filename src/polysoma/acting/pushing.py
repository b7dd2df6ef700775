"""Pushing: a random action that is held for a while, wherever a body has stood still. Nothing is learnt for it.

A policy that was made from demonstrations lacks above all how to get away from where it is stuck. So this is what
learning from reward is compared with (:mod:`polysoma.evaluation.controls`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt, WrappedSession, Wrapper
from polysoma.embodiment import ContinuousActions, Observation
from polysoma.errors import PolysomaError

_PLACES = ("m", "rad")
"""Units of the channels that say where a body is."""


class Pushed(Wrapper):
    """Where what a body senses in metres and radians has hardly changed for some plans, a random action for some more.

    Args:
        planner: drives bodies that are moved by numbers within limits, and sense metres or radians.
        patience: plans after which a body stands still.
        hold: plans for which an action is held.
        still: metres or radians within which it stands still.
    """

    def __init__(self, planner: Planner, patience: int = 12, hold: int = 12, still: float = 0.05) -> None:
        self.planner, self.patience, self.hold, self.still = planner, patience, hold, still

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`~polysoma.acting.planner.Planner.start`. Raises PolysomaError for bodies that it is not for."""
        body = prompt.body
        if not isinstance(body.actions, ContinuousActions):
            raise PolysomaError(f"{body.name}: pushes are for bodies that are moved by numbers, this one makes choices")
        body.actions.check_limited(f"{body.name}: pushes are actions that are drawn at random")
        places = [
            (stream.name, row)
            for stream in body.arrays
            for row, channel in enumerate(stream.channels)
            if channel.unit in _PLACES
        ]
        if not places:
            raise PolysomaError(f"{body.name} senses nothing in m or rad that says whether it stands still")
        return _Session(self.planner.start(prompt, seed), places, seed)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`."""
        inner = [session.inner for session in sessions if isinstance(session, _Session)]
        plans = self.planner.plan(inner, observations)
        return [self._one(*all_of) for all_of in zip(sessions, observations, plans, strict=True)]

    def _one(self, session: Session, seen: Observation, plan: Plan | PolysomaError) -> Plan | PolysomaError:
        assert isinstance(session, _Session)
        if isinstance(plan, PolysomaError):
            return plan
        session.seen.append(np.array([seen[stream][row] for stream, row in session.places]))
        recent = np.stack(session.seen[-self.patience :])
        if not session.left and len(session.seen) > self.patience and np.ptp(recent, 0).max() < self.still:
            session.push, session.left = session.prompt.body.actions.sample(session.rng), self.hold
            session.seen.clear()
        if not session.left:
            return plan
        session.left -= 1
        return Plan(np.repeat(session.push[None], len(plan), 0), "push", plan.readout)


class _Session(WrappedSession):
    """Where a body was, and the push that is left."""

    def __init__(self, inner: Session, places: list[tuple[str, int]], seed: int) -> None:
        super().__init__(inner)
        self.places, self.rng = places, np.random.default_rng([seed, 91])
        self.seen: list[np.ndarray] = []
        self.push, self.left = np.zeros(0, np.float32), 0

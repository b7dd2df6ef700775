"""Leading a planner along a way: it is shown the next place instead of the goal that the body observes.

What finds the way (a graph of logs, drawn paths) is a subclass; the planner inside is any that reads its goal from the
observation: a skill policy, a transformer, a scripted one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from polysoma.acting.planner import (
    NoPlan,
    Plan,
    Planner,
    Session,
    TaskPrompt,
    WrappedSession,
    Wrapper,
    known_embodiments,
)
from polysoma.embodiment import Embodiment, Modality, Observation
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.acting.zones import Boxes

_BRAKING = 0.15
"""Seconds within which a body that comes to a zone at its present speed is to brake."""


class Way(Protocol):
    """What leads through one episode."""

    def next(self, here: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Where to go first on the way from one place to another, float64 ``(places,)`` all. Raises NoPlan where no
        way is known."""
        ...


class Leading(Wrapper):
    """Shows a planner the next place on the way instead of the goal.

    Args:
        planner: reads the goal from the body's observation.
        body: that it drives.
        place: names of the channels that say where the body is.
        goal: names of the channels that say where ``place`` is to be, in the same order.

    Attributes:
        boxes: zones that the body is led out of and brakes before, or None. A subclass sets it whose ways avoid them.

    Raises:
        PolysomaError: the body has no such channels, the planner does not know the body, or there are not as many of
            both.
    """

    boxes: Boxes | None = None

    def __init__(self, planner: Planner, body: Embodiment, place: Sequence[str], goal: Sequence[str]) -> None:
        self.planner, self.body = planner, body
        if len(goal) != len(place):
            raise PolysomaError(f"goal: expected a channel for each of {list(place)}, got {list(goal)}")
        known = {one.name: one for one in known_embodiments(planner)}
        if known and body.name not in known:
            raise PolysomaError(f"the way is one of {body.name}, the planner drives {list(known)}")
        # Observations are as the planner knows the body: its channels may stand elsewhere than in the logs of the way.
        driven = known.get(body.name, body)
        self._here = [channel_of(driven, name) for name in place]
        self._goal = [channel_of(driven, name) for name in goal]

    def way(self, seed: int) -> Way:
        """What leads through a new episode; ``seed`` is of all that is drawn."""
        raise NotImplementedError

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`~polysoma.acting.planner.Planner.start`. Raises PolysomaError for another body."""
        if prompt.body.name != self.body.name:
            raise PolysomaError(f"the way is one of {self.body.name}, the body is {prompt.body.name}")
        return _Session(self.planner.start(prompt, seed), self, self.way(seed))

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`."""
        found: list[Plan | PolysomaError | None] = [None] * len(sessions)
        asking: list[tuple[int, Session, Observation]] = []
        for row, (session, seen) in enumerate(zip(sessions, observations, strict=True)):
            assert isinstance(session, _Session)
            try:
                asking.append((row, session.inner, session.nearer(seen)))
            except NoPlan as lost:
                found[row] = lost
        plans = self.planner.plan([one for _, one, _ in asking], [seen for *_, seen in asking]) if asking else []
        for (row, *_), plan in zip(asking, plans, strict=True):
            found[row] = plan
        return [one for one in found if one is not None]

    def whereabouts(self, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Where the body is and is to be, float64 ``(places,)`` each."""
        here, goal = ([observation[stream][row] for stream, row in rows] for rows in (self._here, self._goal))
        return np.array(here, np.float64), np.array(goal, np.float64)

    def towards(self, observation: Observation, place: np.ndarray) -> Observation:
        """An observation whose goal is this place ``(places,)``."""
        changed = {**observation, **{stream: observation[stream].copy() for stream, _ in self._goal}}
        for (stream, row), value in zip(self._goal, place, strict=True):
            changed[stream][row] = value
        return changed


class _Session(WrappedSession):
    """An episode of the planner inside, which sees near goals alone."""

    def __init__(self, inner: Session, leading: Leading, way: Way) -> None:
        super().__init__(inner)
        self.way, self._leading = way, leading
        self._before: np.ndarray | None = None
        self._free: np.ndarray | None = None

    def nearer(self, observation: Observation) -> Observation:
        """An observation whose goal is the next place on the way. Raises NoPlan where there is none."""
        here, goal = self._leading.whereabouts(observation)
        before, self._before = self._before, here
        place = self.way.next(here, goal)
        if (boxes := self._leading.boxes) is not None:
            moved = np.zeros_like(here) if before is None else here - before
            place = self._steered(boxes, here, moved, place)
        return self._leading.towards(observation, place)

    def _steered(self, boxes: Boxes, here: np.ndarray, moved: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The next place for a body that moved so since the last observation: back to where it came from where it is in
        a zone, and backwards where it would soon be in one."""
        if not boxes.inside(here, boxes.margin):
            self._free = here
        if boxes.inside(here):
            return place if self._free is None else self._free
        ahead = moved * (_BRAKING * self._leading.body.rate_hz)
        return here - ahead if boxes.crossed(here, here + ahead) else place

    def observed(self, observation: Observation) -> None:
        # Where no way is known any more, the next plan says so.
        with contextlib.suppress(NoPlan):
            observation = self.nearer(observation)
        self.inner.observed(observation)


def channel_of(body: Embodiment, name: str) -> tuple[str, int]:
    """The stream of a channel and its row there. Raises PolysomaError where there is none."""
    for stream in body.arrays:
        for row, channel in enumerate(stream.channels):
            if channel.name == name and stream.modality is Modality.STATE:
                return stream.name, row
    raise PolysomaError(f"{body.name} has no channel {name!r}")

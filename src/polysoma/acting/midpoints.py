"""Midpoints: the way to a far goal by halves, in the space of HILP's representation.

The next goal is the place of the logs that is about as far from here as from the goal, and as near to both as can be;
then the one halfway to that, and so on (Park et al. 2024, arXiv 2402.15567, section 5.2). Unlike the graph of the logs
(:mod:`polysoma.acting.graph`), it believes the distances of the representation, and asks no log how to move.
"""

from __future__ import annotations

import numpy as np

from polysoma.acting.leading import Leading
from polysoma.acting.planner import Planner
from polysoma.data.dataset import Dataset
from polysoma.data.replay import Replay
from polysoma.policy.skills import SkillPolicy, space_of


class MidpointSearch(Leading):
    """Shows a planner a place on the way instead of the goal.

    Args:
        planner: reads the goal from the body's observation.
        policy: of skills (``skills learn --method hilp``), whose representation says how far places are.
        replay: logs of the same body, among whose places the next goal is looked for.
        halves: how often the way is halved.
        near: steps of the representation; what is no farther is not halved.
        states: places that are looked through, drawn from the logs.
        best: places whose mean is the middle; the one nearest to that in the representation is shown.
        seed: of the draw.

    Attributes:
        places: that are looked through, float64 ``(N, places)``.

    Raises:
        PolysomaError: as :func:`~polysoma.policy.skills.space_of` or :class:`~polysoma.acting.leading.Leading`.
    """

    def __init__(
        self,
        planner: Planner,
        policy: SkillPolicy,
        replay: Replay,
        halves: int = 3,
        near: float = 10.0,
        states: int = 10_000,
        best: int = 50,
        seed: int = 0,
    ) -> None:
        config = policy.config
        self._represent = space_of(policy, replay.embodiment)
        super().__init__(planner, config.embodiment, config.place, config.goal)
        self.halves, self.near, self.best = halves, near, best
        rows = np.random.default_rng(seed).permutation(len(replay.states))[:states]
        self.places: np.ndarray = replay.states[rows][:, config.rows(config.place)].astype(np.float64)
        self._phi = self._represent(self.places)

    def way(self, seed: int) -> MidpointSearch:
        """See :class:`~polysoma.acting.leading.Leading`: nothing of an episode is remembered."""
        return self

    def next(self, here: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """See :class:`~polysoma.acting.leading.Way`."""
        start, end = self._represent(np.stack([here, goal]))
        from_here, place = np.linalg.norm(self._phi - start, axis=1), np.asarray(goal, np.float64)
        for _ in range(self.halves):
            if np.linalg.norm(end - start) <= self.near:
                break
            farther = np.maximum(from_here, np.linalg.norm(self._phi - end, axis=1))
            few = np.argpartition(farther, min(self.best, len(farther) - 1))[: self.best]
            middle = self._phi[few].mean(0)
            nearest = few[int(np.linalg.norm(self._phi[few] - middle, axis=1).argmin())]
            place, end = self.places[nearest], middle
        return place


def halving(planner: Planner, policy: SkillPolicy, logs: Dataset) -> MidpointSearch:
    """A planner that is shown midpoints among the places of logs. Raises as :class:`MidpointSearch`."""
    return MidpointSearch(planner, policy, Replay([logs]))

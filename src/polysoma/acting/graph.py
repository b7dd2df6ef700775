"""Search over a graph of what logs did: the way to a far goal, as a chain of near ones.

Places that logs visited are the nodes, and moves that they made are the edges. A goal-conditioned policy that only
knows near goals is shown the next place on the shortest way instead of the far one (Savinov et al. 2018, arXiv
1803.00653; Eysenbach et al. 2019, arXiv 1906.05253). The planner inside is any that reads its goal from the
observation: a skill policy, a transformer, a scripted one.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Sequence

import numpy as np

from polysoma.acting.leading import Leading
from polysoma.acting.planner import NoPlan, Planner
from polysoma.acting.zones import Boxes, Zones
from polysoma.data.dataset import Dataset
from polysoma.data.replay import Replay
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.policy.skills import goals_of

_CELLS = 20
"""Cells along the widest channel of places, where no size is given."""
_AHEAD = 2.5
"""Cells to the next subgoal, where no distance is given."""


_CANDIDATES = 8
"""Nodes near a goal at which a way may end."""


class DataGraph:
    """Places and the moves between them.

    Args:
        replay: logs of one body, with or without rewards.
        place: names of the channels that say where the body is, all of one unit.
        cell: the side of a node's cell in that unit; None for a part of the widest channel's range.
        seen: how often a move must have been made to count: one that was made once may be an accident.
        zones: None, or where no way leads: moves that touch them are none.

    Attributes:
        embodiment: the body.
        place: as given.
        cell: as used.
        nodes: float64 ``(K, places)``, the mean of the places in each cell.

    Raises:
        PolysomaError: no such channels, a cell that is not above 0, or no move that was made so often.
    """

    def __init__(
        self,
        replay: Replay,
        place: Sequence[str],
        cell: float | None = None,
        seen: int = 3,
        zones: Zones | None = None,
    ) -> None:
        self.embodiment, self.place = replay.embodiment, tuple(place)
        places = replay.states[:, _rows(replay.embodiment, place)].astype(np.float64)
        self.cell = float(np.ptp(places, axis=0).max()) / _CELLS if cell is None else cell
        if not (self.cell > 0 and np.isfinite(self.cell)):
            raise PolysomaError(f"cell: expected a size above 0, got {self.cell}")
        cells = np.floor(places / self.cell).astype(np.int64)
        _, of_row, counts = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
        of_row = of_row.reshape(-1)
        self.nodes = np.zeros((len(counts), places.shape[1]))
        np.add.at(self.nodes, of_row, places)
        self.nodes /= counts[:, None]
        # Frame by frame, whatever a step of the replay spans: a longer one may lead around a corner.
        row = np.arange(len(places) - 1)
        row = row[(row < replay.last[row]) & (of_row[row] != of_row[row + 1])]
        moves, times = np.unique(of_row[row] * len(counts) + of_row[row + 1], return_counts=True)
        moves = moves[times >= seen]
        if not len(moves):
            raise PolysomaError(
                f"no move between cells of {self.cell:.3g} was made {seen} times: give larger cells, or more data"
            )
        self._boxes: Boxes | None = None if zones is None else zones.boxes(self.place)
        if self._boxes is not None:
            ends = (self.nodes[moves // len(counts)], self.nodes[moves % len(counts)])
            moves = moves[~self._boxes.crossed(*ends, self._boxes.margin)]
        self._before: list[list[tuple[int, float]]] = [[] for _ in counts]
        for start, end in zip((moves // len(counts)).tolist(), (moves % len(counts)).tolist(), strict=True):
            length = float(np.linalg.norm(self.nodes[start] - self.nodes[end]))
            self._before[end].append((start, length))
        # A goal is a place that moves lead to.
        self._entered = np.zeros(len(counts), bool)
        self._entered[moves % len(counts)] = True
        self._ways = functools.lru_cache(maxsize=4096)(self._ways_to)

    def distance(self, place: np.ndarray, goal: np.ndarray) -> float:
        """The length of the shortest known way from one place ``(places,)`` to another: to a node near by, along the
        nodes, and on to the goal."""
        node, end = self.ends(place, goal)
        if node == end:
            return float(np.linalg.norm(place - goal))
        outside = np.linalg.norm(self.nodes[node] - place) + np.linalg.norm(self.nodes[end] - goal)
        return float(self._ways(end)[0][node] + outside)

    def subgoal(self, place: np.ndarray, goal: np.ndarray, ahead: float) -> np.ndarray:
        """Where to go first, float64 ``(places,)``: the node at least ``ahead`` along the way to the goal, or the goal
        itself where it is nearer. With zones, the last place on this part of the way that one can go to straight.

        Raises:
            NoPlan: every known way touches a zone.
        """
        node, end = self.ends(place, goal)
        following, here, gone = self._ways(end)[1], place, 0.0
        passed = []
        while node != end:
            gone += float(np.linalg.norm(self.nodes[node] - here))
            passed.append(self.nodes[node])
            if gone >= ahead:
                break
            here, node = self.nodes[node], int(following[node])
        else:
            passed.append(np.asarray(goal, np.float64))
        if self._boxes is not None:
            free = np.flatnonzero(self._boxes.free(place, np.stack(passed)))
            return passed[int(free[-1]) if len(free) else 0]
        return passed[-1]

    def ends(self, place: np.ndarray, goal: np.ndarray) -> tuple[int, int]:
        """The nodes at which the way from a place to a goal begins and ends: those nearest to both between which a way
        is known. The very nearest may lie where the logs hardly were, and from where they never came on."""
        to_place, to_goal = (np.linalg.norm(self.nodes - where, axis=1) for where in (place, goal))
        best, found = np.inf, (0, 0)
        for end in np.argsort(np.where(self._entered, to_goal, np.inf))[:_CANDIDATES].tolist():
            away = np.where(np.isfinite(self._ways(end)[0]), to_place, np.inf)
            if self._boxes is not None:
                away = np.where(self._boxes.free(place, self.nodes), away, np.inf)
            node = int(away.argmin())
            if away[node] + to_goal[end] < best:
                best, found = away[node] + to_goal[end], (node, end)
        if self._boxes is not None and (np.isinf(best) or self._boxes.inside(goal)):
            raise NoPlan(f"{self.embodiment.name}: every known way to the goal touches a zone that is to be avoided")
        return found

    def _ways_to(self, goal: int) -> tuple[np.ndarray, np.ndarray]:
        """From each node, the length of the shortest way to a node and the next node on it (Dijkstra 1959)."""
        lengths, following = np.full(len(self.nodes), np.inf), np.full(len(self.nodes), goal)
        lengths[goal] = 0
        waiting = [(0.0, goal)]
        while waiting:
            length, node = heapq.heappop(waiting)
            if length > lengths[node]:
                continue
            for start, own in self._before[node]:
                if length + own < lengths[start]:
                    lengths[start], following[start] = length + own, node
                    heapq.heappush(waiting, (length + own, start))
        return lengths, following


class GraphSearch(Leading):
    """Shows a planner the next place on the way over a graph instead of the goal.

    Args:
        planner: reads the goal from the body's observation.
        graph: of logs of the same body.
        goal: names of the channels that say where the graph's places are to be, in their order.
        ahead: how far the next place is, in the places' unit; None for two and a half cells.

    Raises:
        PolysomaError: as :class:`~polysoma.acting.leading.Leading`.
    """

    def __init__(self, planner: Planner, graph: DataGraph, goal: Sequence[str], ahead: float | None = None) -> None:
        super().__init__(planner, graph.embodiment, graph.place, goal)
        self.graph = graph
        self.ahead = _AHEAD * graph.cell if ahead is None else ahead

    def way(self, seed: int) -> GraphSearch:
        """See :class:`~polysoma.acting.leading.Leading`: the graph remembers nothing of an episode."""
        return self

    def next(self, here: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """See :class:`~polysoma.acting.leading.Way`."""
        return self.graph.subgoal(here, goal, self.ahead)


def searching(planner: Planner, logs: Dataset, cell: float = 0.0, zones: Zones | None = None) -> GraphSearch:
    """A planner that searches a graph of logs for the way to the goal that the body observes.

    Args:
        planner: see :class:`GraphSearch`.
        logs: of the body, whose channels ``goal_x`` say where ``x`` is to be.
        cell: see :class:`DataGraph`; 0 for a part of the range.
        zones: see :class:`DataGraph`.

    Raises:
        PolysomaError: the body has no such channels, or as :class:`DataGraph` and :class:`GraphSearch`.
    """
    place, goal = goals_of(logs.embodiment)
    if not place:
        raise PolysomaError(f"{logs.embodiment.name} observes no goal: no channel goal_NAME says where NAME is to be")
    return GraphSearch(planner, DataGraph(Replay([logs]), place, cell or None, zones=zones), goal)


def _rows(body: Embodiment, names: Sequence[str]) -> list[int]:
    """Where channels stand among all numbers of a body. Raises PolysomaError where there is no such channel."""
    every = [channel.name for stream in body.arrays for channel in stream.channels]
    if not names or (unknown := [name for name in names if name not in every]):
        raise PolysomaError(
            f"place: {body.name} has no channels {unknown if names else '(none named)'}; it has {every}"
        )
    return [every.index(name) for name in names]

"""Search over a graph of where logs were: the way to a far goal, as a chain of near ones.

Places that logs visited are the nodes. What joins them are :class:`Edges`: moves that the logs made (:class:`Moves`),
or the distances of a representation (:class:`Near`). A goal-conditioned policy that only knows near goals is shown the
next place on the shortest way instead of the far one (Savinov et al. 2018, arXiv 1803.00653; Eysenbach et al. 2019,
arXiv 1906.05253). The planner inside is any that reads its goal from the observation: a skill policy, a transformer, a
scripted one.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from polysoma.acting.leading import Leading
from polysoma.acting.planner import NoPlan, Planner
from polysoma.acting.zones import Boxes, Zones
from polysoma.data.dataset import Dataset
from polysoma.data.replay import Replay
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.policy.skills import SkillPolicy, goals_of, space_of

_CELLS = 20
"""Cells along the widest channel of places, where no size is given."""
_AHEAD = 2.5
"""Cells to the next subgoal, where no distance is given."""


_CANDIDATES = 8
"""Nodes near a goal at which a way may end."""


Represent = Callable[[np.ndarray], np.ndarray]
"""From places ``(N, places)`` to where they are in a space in which distances are times, ``(N, n)``, such as
:func:`~polysoma.policy.skills.space_of` makes."""


@dataclass(frozen=True)
class Visits:
    """Where logs were, in cells.

    Attributes:
        nodes: float64 ``(K, places)``, the mean of the places in each cell.
        cell: the side of a cell.
        moves: int64 ``(M, 2)``, the nodes between which logs went from one frame to the next.
        times: int64 ``(M,)``, how often.
    """

    nodes: np.ndarray
    cell: float
    moves: np.ndarray
    times: np.ndarray

    def straight(self, pairs: np.ndarray) -> np.ndarray:
        """The straight lines between pairs of nodes ``(E, 2)``, in the places' unit, ``(E,)``."""
        found: np.ndarray = np.linalg.norm(self.nodes[pairs[:, 0]] - self.nodes[pairs[:, 1]], axis=1)
        return found


class Edges(Protocol):
    """What joins the nodes of a graph."""

    def join(self, visits: Visits) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of nodes that one can go between, from the first to the second, int64 ``(E, 2)``, and how long
        that is in the places' unit, float64 ``(E,)``. Raises PolysomaError where logs are too few."""
        ...


@dataclass(frozen=True)
class Moves:
    """Moves that logs made, as long as straight lines.

    Attributes:
        seen: how often a move must have been made to count: one that was made once may be an accident.
    """

    seen: int = 3

    def join(self, visits: Visits) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Edges`."""
        pairs = visits.moves[visits.times >= self.seen]
        if not len(pairs):
            raise PolysomaError(
                f"no move between cells of {visits.cell:.3g} was made {self.seen} times: give larger cells, or more "
                "data"
            )
        return pairs, visits.straight(pairs)


@dataclass(frozen=True)
class Near:
    """Places that are near in a space in which distances are times, both ways, whatever logs did between them
    (Eysenbach et al. 2019, arXiv 1906.05253, with the distances of a value).

    Times become lengths by the pace of the logs: the median, over their moves, of places over times.

    Attributes:
        represent: the space.
        cells: how long an edge is at most, in sides of cells. Distances of far places are hardly to be trusted.
    """

    represent: Represent
    cells: float = 2.0

    @staticmethod
    def of(policy: SkillPolicy, body: Embodiment) -> Near:
        """Edges by the representation of a policy (``skills learn --method hilp``) for logs of a body. Raises
        PolysomaError as :func:`~polysoma.policy.skills.space_of`, or where it represents other places than goals."""
        represent = space_of(policy, body)
        if policy.config.place != (place := goals_of(body)[0]):
            raise PolysomaError(f"edges: expected a representation of {list(place)}, got {list(policy.config.place)}")
        return Near(represent)

    def join(self, visits: Visits) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Edges`."""
        pairs = visits.moves
        if not len(pairs):
            raise PolysomaError(
                f"no move between cells of {visits.cell:.3g} says how fast one goes: give smaller cells"
            )
        where, limit = np.asarray(self.represent(visits.nodes), np.float64), self.cells * visits.cell
        times = np.linalg.norm(where[pairs[:, 0]] - where[pairs[:, 1]], axis=1)
        pace = float(np.median(visits.straight(pairs) / np.maximum(times, 1e-12)))
        joined, lengths = [], []
        # Node by node: all pairs at once would not fit into memory where there are many.
        for node in range(len(where)):
            line = np.linalg.norm(visits.nodes - visits.nodes[node], axis=1)
            # No way is shorter than the straight line.
            way = np.maximum(pace * np.linalg.norm(where - where[node], axis=1), line)
            way[node] = np.inf
            near = np.flatnonzero(way <= limit)
            joined.append(np.stack([np.full(len(near), node), near], 1))
            lengths.append(way[near])
        return np.concatenate(joined), np.concatenate(lengths)


class DataGraph:
    """Places that logs visited, and ways between them.

    Args:
        replay: logs of one body, with or without rewards.
        place: names of the channels that say where the body is, all of one unit.
        cell: the side of a node's cell in that unit; None for a part of the widest channel's range.
        edges: what joins the nodes; None for :class:`Moves`.
        zones: None, or where no way leads: edges that touch them are none.

    Attributes:
        embodiment: the body.
        place: as given.
        cell: as used.
        nodes: float64 ``(K, places)``, the mean of the places in each cell.
        boxes: the zones among its places, or None.

    Raises:
        PolysomaError: no such channels, a cell that is not above 0, or no edge.
    """

    def __init__(
        self,
        replay: Replay,
        place: Sequence[str],
        cell: float | None = None,
        edges: Edges | None = None,
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
        made, times = np.unique(of_row[row] * len(counts) + of_row[row + 1], return_counts=True)
        moves = np.stack([made // len(counts), made % len(counts)], 1)
        pairs, lengths = (edges or Moves()).join(Visits(self.nodes, self.cell, moves, times))
        self.boxes: Boxes | None = None if zones is None else zones.boxes(self.place)
        if self.boxes is not None:
            free = ~self.boxes.crossed(self.nodes[pairs[:, 0]], self.nodes[pairs[:, 1]], self.boxes.margin)
            pairs, lengths = pairs[free], lengths[free]
        self._before: list[list[tuple[int, float]]] = [[] for _ in counts]
        for (start, end), length in zip(pairs.tolist(), lengths.tolist(), strict=True):
            self._before[end].append((start, length))
        # A goal is a place that edges lead to.
        self._entered = np.zeros(len(counts), bool)
        self._entered[pairs[:, 1]] = True
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
        if self.boxes is not None:
            free = np.flatnonzero(self.boxes.free(place, np.stack(passed)))
            return passed[int(free[-1]) if len(free) else 0]
        return passed[-1]

    def ends(self, place: np.ndarray, goal: np.ndarray) -> tuple[int, int]:
        """The nodes at which the way from a place to a goal begins and ends: those nearest to both between which a way
        is known. The very nearest may lie where the logs hardly were, and from where they never came on."""
        to_place, to_goal = (np.linalg.norm(self.nodes - where, axis=1) for where in (place, goal))
        best, found = np.inf, (0, 0)
        for end in np.argsort(np.where(self._entered, to_goal, np.inf))[:_CANDIDATES].tolist():
            away = np.where(np.isfinite(self._ways(end)[0]), to_place, np.inf)
            if self.boxes is not None:
                away = np.where(self.boxes.free(place, self.nodes), away, np.inf)
            node = int(away.argmin())
            if away[node] + to_goal[end] < best:
                best, found = away[node] + to_goal[end], (node, end)
        if self.boxes is not None and (np.isinf(best) or self.boxes.inside(goal)):
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
        self.graph, self.boxes = graph, graph.boxes
        self.ahead = _AHEAD * graph.cell if ahead is None else ahead

    def way(self, seed: int) -> GraphSearch:
        """See :class:`~polysoma.acting.leading.Leading`: the graph remembers nothing of an episode."""
        return self

    def next(self, here: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """See :class:`~polysoma.acting.leading.Way`."""
        return self.graph.subgoal(here, goal, self.ahead)


def searching(
    planner: Planner, logs: Dataset, cell: float = 0.0, zones: Zones | None = None, edges: Edges | None = None
) -> GraphSearch:
    """A planner that searches a graph of logs for the way to the goal that the body observes.

    Args:
        planner: see :class:`GraphSearch`.
        logs: of the body, whose channels ``goal_x`` say where ``x`` is to be.
        cell: see :class:`DataGraph`; 0 for a part of the range.
        zones, edges: see :class:`DataGraph`.

    Raises:
        PolysomaError: the body has no such channels, or as :class:`DataGraph` and :class:`GraphSearch`.
    """
    place, goal = goals_of(logs.embodiment)
    if not place:
        raise PolysomaError(f"{logs.embodiment.name} observes no goal: no channel goal_NAME says where NAME is to be")
    return GraphSearch(planner, DataGraph(Replay([logs]), place, cell or None, edges, zones), goal)


def _rows(body: Embodiment, names: Sequence[str]) -> list[int]:
    """Where channels stand among all numbers of a body. Raises PolysomaError where there is no such channel."""
    every = [channel.name for stream in body.arrays for channel in stream.channels]
    if not names or (unknown := [name for name in names if name not in every]):
        raise PolysomaError(
            f"place: {body.name} has no channels {unknown if names else '(none named)'}; it has {every}"
        )
    return [every.index(name) for name in names]

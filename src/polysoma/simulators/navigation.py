"""Walls and boxes on the ground, and the way around them: what the rover's arena is made of, and its expert's field."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

HALF_ARENA = 3.0
WALL_HALF_THICKNESS = 0.04
REACH = 0.33
MAZE_CELLS = 4
MAZE_CELL = 2 * HALF_ARENA / MAZE_CELLS
MAZE_SEED = 0

GRID_SPACING = 0.1
COMFORT_CLEARANCE = 0.5
TIGHT_CLEARANCE = 0.21
BLOCKED_CLEARANCE = 0.1
TIGHT_COST = 300.0
TIGHT_WAY = 6.0
"""What a metre of a tight place counts where the way is measured."""
LOOKAHEAD = 0.45
_FAR = 1e6


@dataclass(frozen=True)
class Blocks:
    """Upright rectangular blocks on the ground, each turned by its own yaw.

    Attributes:
        centers: float64 ``(n, 2)``, m.
        half_sizes: float64 ``(n, 2)``, m.
        yaws: float64 ``(n,)``, rad.
    """

    centers: np.ndarray
    half_sizes: np.ndarray
    yaws: np.ndarray

    @functools.cached_property
    def _axes(self) -> np.ndarray:
        cos, sin = np.cos(self.yaws), np.sin(self.yaws)
        return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)

    def __add__(self, other: Blocks) -> Blocks:
        return Blocks(
            np.concatenate([self.centers, other.centers]),
            np.concatenate([self.half_sizes, other.half_sizes]),
            np.concatenate([self.yaws, other.yaws]),
        )

    def clearance(self, points: np.ndarray) -> np.ndarray:
        """Distance (m) from each point ``(..., 2)`` to the nearest block; 0 inside. Shape ``(...)``."""
        local = np.einsum("nab,...nb->...na", self._axes, points[..., None, :] - self.centers)
        outside = np.maximum(np.abs(local) - self.half_sizes, 0)
        return np.sqrt((outside**2).sum(-1)).min(-1)

    def ranges(self, origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Distance (m) along each unit vector ``(r, 2)`` from ``origin`` to the first block, infinity without one.

        The slab method (Kay and Kajiya 1986) for all rays and blocks at once. Shape ``(r,)``.
        """
        start = np.matmul(self._axes, (origin - self.centers)[:, :, None])[:, :, 0]
        slope = np.matmul(self._axes, directions.T)
        slope[np.abs(slope) < 1e-9] = 1e-9
        inverse = 1 / slope
        middle = -start[:, :, None] * inverse
        reach = self.half_sizes[:, :, None] * np.abs(inverse)
        enter = (middle - reach).max(1)
        leave = (middle + reach).min(1)
        missed = (enter > leave) | (leave < 0)
        return np.where(missed, np.inf, np.maximum(enter, 0)).min(0)


def _walls(rectangles: list[tuple[float, float, float, float]]) -> Blocks:
    array = np.array(rectangles, float)
    return Blocks(array[:, :2], array[:, 2:], np.zeros(len(array)))


def arena_walls() -> Blocks:
    """The four outer walls; their inner faces are at +-(3 - 0.04) m."""
    h, t = HALF_ARENA, WALL_HALF_THICKNESS
    return _walls([(0, h, h + t, t), (0, -h, h + t, t), (h, 0, t, h + t), (-h, 0, t, h + t)])


def maze_walls(seed: int = MAZE_SEED) -> Blocks:
    """The inner walls of a perfect maze, carved by a randomised depth-first search (a recursive backtracker)."""
    rng = np.random.default_rng(seed)
    cells, t = MAZE_CELLS, WALL_HALF_THICKNESS
    passages: set[frozenset[tuple[int, int]]] = set()
    seen, stack = {(0, 0)}, [(0, 0)]
    while stack:
        x, y = stack[-1]
        around = [(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)]
        fresh = [c for c in around if 0 <= c[0] < cells and 0 <= c[1] < cells and c not in seen]
        if not fresh:
            stack.pop()
            continue
        cell = fresh[int(rng.integers(len(fresh)))]
        passages.add(frozenset(((x, y), cell)))
        seen.add(cell)
        stack.append(cell)
    rectangles = []
    for x in range(cells):
        for y in range(cells):
            east, north = -HALF_ARENA + (x + 1) * MAZE_CELL, -HALF_ARENA + (y + 1) * MAZE_CELL
            if x < cells - 1 and frozenset(((x, y), (x + 1, y))) not in passages:
                rectangles.append((east, north - MAZE_CELL / 2, t, MAZE_CELL / 2 + t))
            if y < cells - 1 and frozenset(((x, y), (x, y + 1))) not in passages:
                rectangles.append((east - MAZE_CELL / 2, north, MAZE_CELL / 2 + t, t))
    return _walls(rectangles)


class NavigationField:
    """The cost-to-go to one goal from everywhere, and the direction that descends it.

    A* from every start at once: the optimal cost-to-go solves the eikonal equation ``|grad T| = cost``, here on a grid
    of 0.1 m with Godunov's upwind scheme (Zhao 2005, "A fast sweeping method for eikonal equations"). The cost of a
    metre is 1 in the open, grows near blocks and is very high where the rover would touch a block or reach a wrong
    pillar. Unlike a path planned once from the start, the direction depends on the present position only, so it can be
    asked anywhere and imitated from a single observation; unlike a search over grid edges, it is not bound to
    multiples of 45 degrees.
    """

    def __init__(self, blocks: Blocks, goal: np.ndarray, avoid: np.ndarray) -> None:
        cells = round(2 * HALF_ARENA / GRID_SPACING)
        axis = -HALF_ARENA + GRID_SPACING * (np.arange(cells) + 0.5)
        points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
        clearance = blocks.clearance(points)
        blocked = clearance < BLOCKED_CLEARANCE
        # A wrong pillar ends the episode at REACH, a block merely scrapes the chassis: keep equally clear of both.
        for pillar in avoid:
            to_pillar = np.linalg.norm(points - pillar, axis=-1)
            clearance = np.minimum(clearance, np.maximum(to_pillar - (REACH - BLOCKED_CLEARANCE), 0))
        cost = 1 + 15 * np.maximum(COMFORT_CLEARANCE - clearance, 0) ** 2
        cost[clearance < TIGHT_CLEARANCE] = TIGHT_COST
        cost[blocked] = np.inf
        self.goal = goal
        self._cost, self._to_goal = cost, np.linalg.norm(points - goal, axis=-1)
        self._cost_to_go = _solve_eikonal(cost, self._to_goal)
        self._directions = _descent(self._cost_to_go)

    def cost_to_go(self, position: np.ndarray) -> float:
        """The cost (m in the open) from the grid cell at this position; infinite or above 60 m when there is no way."""
        return float(self._cost_to_go[_cell(position[0]), _cell(position[1])])

    def way(self, position: np.ndarray) -> float:
        """The way that is left (m in the open) from the grid cell at this position. Unlike :meth:`cost_to_go` it grows
        by less than a metre from cell to cell, in tight places as well; only inside of a block it is infinite."""
        return float(self._ways[_cell(position[0]), _cell(position[1])])

    @functools.cached_property
    def _ways(self) -> np.ndarray:
        tight = self._cost == TIGHT_COST
        return _solve_eikonal(np.where(tight, TIGHT_WAY, self._cost), self._to_goal)

    def target(self, position: np.ndarray) -> tuple[float, float]:
        """The point (m) where one arrives from this position by descending the field for 0.45 m."""
        x, y = float(position[0]), float(position[1])
        goal_x, goal_y = float(self.goal[0]), float(self.goal[1])
        step = 0.075
        for _ in range(round(LOOKAHEAD / step)):
            if math.hypot(goal_x - x, goal_y - y) < REACH:
                return goal_x, goal_y
            dx, dy = self._direction(x, y)
            x, y = x + step * dx, y + step * dy
        return x, y

    def _direction(self, x: float, y: float) -> tuple[float, float]:
        last = len(self._directions) - 2
        u = (x + HALF_ARENA) / GRID_SPACING - 0.5
        v = (y + HALF_ARENA) / GRID_SPACING - 0.5
        i, j = min(max(int(u), 0), last), min(max(int(v), 0), last)
        u, v = min(max(u - i, 0.0), 1.0), min(max(v - j, 0.0), 1.0)
        (ax, ay), (bx, by) = self._directions[i][j], self._directions[i][j + 1]
        (cx, cy), (dx, dy) = self._directions[i + 1][j], self._directions[i + 1][j + 1]
        x = (1 - u) * ((1 - v) * ax + v * bx) + u * ((1 - v) * cx + v * dx)
        y = (1 - u) * ((1 - v) * ay + v * by) + u * ((1 - v) * cy + v * dy)
        length = math.hypot(x, y)
        # Opposite directions cancel on a ridge between two equally good ways: there, take one of them.
        return (x / length, y / length) if length > 0.2 else self._directions[i + (u > 0.5)][j + (v > 0.5)]


def _cell(coordinate: float) -> int:
    cells = round(2 * HALF_ARENA / GRID_SPACING)
    return min(max(int((coordinate + HALF_ARENA) / GRID_SPACING), 0), cells - 1)


def _solve_eikonal(cost: np.ndarray, to_goal: np.ndarray) -> np.ndarray:
    source = to_goal < 2.5 * GRID_SPACING
    step = np.where(np.isfinite(cost), cost, 0) * GRID_SPACING
    blocked = ~np.isfinite(cost)
    values = np.full(np.add(cost.shape, 2), _FAR)
    inner = values[1:-1, 1:-1]
    inner[source] = to_goal[source]
    frozen = source | blocked
    for iteration in range(4 * sum(cost.shape)):
        a = np.minimum(values[:-2, 1:-1], values[2:, 1:-1])
        b = np.minimum(values[1:-1, :-2], values[1:-1, 2:])
        one_sided = np.minimum(a, b) + step
        two_sided = 0.5 * (a + b + np.sqrt(np.maximum(2 * step * step - (a - b) ** 2, 0)))
        update = np.where(np.abs(a - b) >= step, one_sided, two_sided)
        update = np.where(frozen, inner, np.minimum(update, inner))
        if iteration % 8 == 0 and np.array_equal(update, inner):
            break
        inner[...] = update
    return np.where(inner >= _FAR, np.inf, inner)


def _descent(cost_to_go: np.ndarray) -> list[list[tuple[float, float]]]:
    """Unit vectors down the upwind gradient, as lists because they are read one by one.

    The cost-to-go of a blocked cell is infinite, so from the rim of a block they lead to the nearest way out; deep
    inside a block, where the rover cannot be, they are zero.
    """
    padded = np.pad(np.where(np.isfinite(cost_to_go), cost_to_go, _FAR), 1, constant_values=_FAR)
    middle = padded[1:-1, 1:-1]
    components = []
    for before, after in ((padded[:-2, 1:-1], padded[2:, 1:-1]), (padded[1:-1, :-2], padded[1:-1, 2:])):
        descent = np.maximum(middle - np.minimum(before, after), 0)
        components.append(np.where(before < after, -descent, descent))
    vectors = np.stack(components, -1)
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return [[(float(x), float(y)) for x, y in row] for row in vectors]

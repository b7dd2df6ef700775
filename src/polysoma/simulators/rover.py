"""A differential-drive rover that finds coloured pillars among boxes or in a maze, with a navigation expert.

The rover is a round robot with two driven wheels, simulated by MuJoCo at 200 Hz and controlled at 20 Hz.

Tasks, each 6 m x 6 m and walled in:

* ``rover/pillar``: "drive to the red pillar". Three pillars of different colours stand among ten boxes; boxes, pillars,
  start and heading are new in every episode.
* ``rover/maze``: "find the red pillar in the maze". The plan of the maze is one fixed perfect maze of 4 x 4 cells, so
  it can be learnt; start, heading and the cells of the three pillars are new in every episode.

An episode succeeds when the rover's centre comes within 0.33 m of the named pillar and fails when it comes that near to
another pillar or falls over.

Observation, stream ``"state"``, float32, in this order:

* ``x``, ``y`` (m, world frame), ``cos_yaw``, ``sin_yaw``, ``forward_speed`` (m/s), ``yaw_rate`` (rad/s);
* ``lidar_0`` ... ``lidar_31``: ranges (m) from the centre of the rover to boxes and walls, cut at 4 m. Ray ``i`` points
  ``i / 32`` of a turn counterclockwise from straight ahead;
* ``red_0`` ... ``red_23``, then green, blue and yellow: nearness ``1 / (1 + range in m)`` of the pillar of this colour,
  as seen from a mast that looks over boxes and walls. Ray ``i`` points ``i / 24`` of a turn counterclockwise from
  straight ahead; a pillar between two rays is shared between them linearly, so its bearing is not lost to the raster.
  All zeros where this colour is absent.

Action, float32 ``(2,)``: ``left_wheel`` and ``right_wheel`` speed as a fraction in [-1, 1] of 20 rad/s, which is
1.2 m/s at the rim of a wheel.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from polysoma.embodiment import (
    INSTRUCTION,
    Channel,
    ContinuousActions,
    Embodiment,
    Modality,
    Observation,
    Stream,
    channels,
)
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Family, MujocoEnvironment
from polysoma.simulators.views import seen

TASKS: tuple[str, ...] = ("rover/pillar", "rover/maze")
INSTRUCTIONS = {
    "rover/pillar": "drive to the {color} pillar",
    "rover/maze": "find the {color} pillar in the maze",
}
COLORS = {
    "red": (0.86, 0.16, 0.14),
    "green": (0.16, 0.65, 0.27),
    "blue": (0.14, 0.36, 0.85),
    "yellow": (0.97, 0.78, 0.12),
}

LIDAR_RAYS = 32
LIDAR_RANGE = 4.0
COLOR_RAYS = 24

HALF_ARENA = 3.0
WALL_HALF_THICKNESS = 0.04
BOX_HALF_SIZES = ((0.16, 0.16), (0.18, 0.26), (0.20, 0.20), (0.22, 0.34), (0.16, 0.30),
                  (0.24, 0.24), (0.18, 0.18), (0.28, 0.20), (0.20, 0.32), (0.26, 0.26))  # fmt: skip
BOX_GAP = 0.65
PILLARS = 3
PILLAR_RADIUS = 0.12
REACH = 0.33
MIN_PILLAR_DISTANCE = 1.3
MIN_PATH_COST = 1.8

MAZE_CELLS = 4
MAZE_CELL = 2 * HALF_ARENA / MAZE_CELLS
MAZE_SEED = 0

CHASSIS_RADIUS = 0.16
WHEEL_RADIUS = 0.06
HALF_TRACK = 0.11
MAX_WHEEL_SPEED = 20.0
PHYSICS_STEPS = 10

GRID_SPACING = 0.1
COMFORT_CLEARANCE = 0.5
TIGHT_CLEARANCE = 0.21
BLOCKED_CLEARANCE = 0.1
TIGHT_COST = 300.0
IMPASSABLE_COST = 60.0
LOOKAHEAD = 0.45
CRUISE_SPEED = 0.9

_FAR = 1e6


def _color_rays(color: str) -> tuple[Channel, ...]:
    return channels(" ".join(f"{color}_{i}" for i in range(COLOR_RAYS)), "1", 0, 1, group=color)


EMBODIMENT = Embodiment(
    name="rover",
    streams=(
        Stream(
            "state",
            Modality.STATE,
            (6 + LIDAR_RAYS + COLOR_RAYS * len(COLORS),),
            (
                *channels("x y", "m", -HALF_ARENA, HALF_ARENA, "odometry"),
                *channels("cos_yaw sin_yaw", "1", -1, 1, "odometry"),
                *channels("forward_speed", "m/s", group="odometry"),
                *channels("yaw_rate", "rad/s", group="odometry"),
                *channels(" ".join(f"lidar_{i}" for i in range(LIDAR_RAYS)), "m", 0, LIDAR_RANGE, "lidar"),
                *(c for color in COLORS for c in _color_rays(color)),
            ),
        ),
        Stream(INSTRUCTION, Modality.TEXT),
    ),
    actions=ContinuousActions(channels("left_wheel right_wheel", "1", -1, 1)),
    rate_hz=20,
)


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
        self._cost_to_go = _solve_eikonal(cost, np.linalg.norm(points - goal, axis=-1))
        self._directions = _descent(self._cost_to_go)

    def cost_to_go(self, position: np.ndarray) -> float:
        """The cost (m in the open) from the grid cell at this position; infinite or above 60 m when there is no way."""
        return float(self._cost_to_go[_cell(position[0]), _cell(position[1])])

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


class RoverEnvironment(MujocoEnvironment):
    """One of the rover's tasks; the module's docstring says what it senses, moves and must do.

    The expert descends a :class:`NavigationField` by pure pursuit (Coulter 1992). It knows the whole plan, but acts on
    the present pose and velocity only. The model is built once; an episode only places boxes and pillars.

    Raises:
        ImportError: mujoco is not installed.
    """

    embodiment = EMBODIMENT
    expert_noise = 0.3

    def __init__(self, task: str) -> None:
        import mujoco

        super().__init__()
        self.task = task
        self.max_steps = 400 if task == "rover/pillar" else 600
        self._mujoco: Any = mujoco
        self._boxes = len(BOX_HALF_SIZES) if task == "rover/pillar" else 0
        self._walls = arena_walls() if task == "rover/pillar" else arena_walls() + maze_walls()
        self._model = mujoco.MjModel.from_xml_string(_mjcf(self._walls, self._boxes))
        self._data = mujoco.MjData(self._model)
        angles = np.arange(LIDAR_RAYS) * 2 * np.pi / LIDAR_RAYS
        self._ray_directions = np.exp(1j * angles)
        self._blocks = self._walls
        self._pillars: dict[str, np.ndarray] = {}
        self._target_color = ""
        self._field: NavigationField | None = None
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        start = None
        while start is None:
            start = self._draw_layout()
        x, y, yaw = start
        data = self._data
        self._mujoco.mj_resetData(self._model, data)
        data.qpos[:7] = [x, y, WHEEL_RADIUS, math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]
        for i, position in enumerate(self._blocks.centers[len(self._walls.centers) :]):
            box_yaw = self._blocks.yaws[len(self._walls.centers) + i]
            data.mocap_pos[i, :2] = position
            data.mocap_quat[i] = [math.cos(box_yaw / 2), 0, 0, math.sin(box_yaw / 2)]
        for i, color in enumerate(COLORS):
            data.mocap_pos[self._boxes + i] = [*self._pillars[color], 0] if color in self._pillars else [0, 0, -1]
        self._mujoco.mj_forward(self._model, data)
        self._steps = 0
        return self._observe(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._data.ctrl[:] = MAX_WHEEL_SPEED * self.embodiment.check_action(action)
        self._mujoco.mj_step(self._model, self._data, PHYSICS_STEPS)
        self._steps += 1
        x, y = self._data.qpos[:2]
        reached = [color for color, p in self._pillars.items() if math.hypot(p[0] - x, p[1] - y) < REACH]
        success = reached == [self._target_color]
        fallen = 1 - 2 * float(self._data.qpos[4] ** 2 + self._data.qpos[5] ** 2) < 0.5
        terminated = bool(reached) or fallen
        truncated = not terminated and self._steps >= self.max_steps
        return self._observe(), float(success), terminated, truncated, {"success": success}

    def expert_action(self) -> np.ndarray:
        """Pure pursuit of the point 0.45 m down the navigation field, float32 ``(2,)``, smooth in the state."""
        if self._field is None:
            raise PolysomaError(f"{self.task}: reset before asking the expert")
        x, y, yaw, _, yaw_rate = self._pose()
        target_x, target_y = self._field.target(np.array([x, y]))
        bearing = math.atan2(target_y - y, target_x - x) - yaw
        # With the target behind, either side is right: go on turning to the side of the present yaw rate, left at rest.
        split = math.pi + 0.5 * math.tanh(2 * yaw_rate + 0.5)
        bearing = (bearing + 2 * math.pi - split) % (2 * math.pi) + split - 2 * math.pi
        forward = CRUISE_SPEED * max(math.cos(bearing), 0.0) ** 2
        turn = 3.5 * math.tanh(1.2 * bearing)
        wheels = np.array([forward - turn * HALF_TRACK, forward + turn * HALF_TRACK]) / WHEEL_RADIUS / MAX_WHEEL_SPEED
        return np.clip(wheels, -1, 1).astype(np.float32)

    def _scene(self) -> tuple[Any, Any, Any]:
        return self._model, self._data, "overview"

    def _pose(self) -> tuple[float, float, float, float, float]:
        """x and y (m), yaw (rad), forward speed (m/s), yaw rate (rad/s)."""
        x, y, _, qw, qx, qy, qz = self._data.qpos[:7].tolist()
        vx, vy, _, _, _, yaw_rate = self._data.qvel[:6].tolist()
        yaw = math.atan2(2 * (qw * qz + qx * qy), 1 - 2 * (qy * qy + qz * qz))
        return x, y, yaw, vx * math.cos(yaw) + vy * math.sin(yaw), yaw_rate

    def _observe(self) -> Observation:
        x, y, yaw, speed, yaw_rate = self._pose()
        state = np.zeros(6 + LIDAR_RAYS + COLOR_RAYS * len(COLORS), np.float32)
        state[:6] = x, y, math.cos(yaw), math.sin(yaw), speed, yaw_rate
        turned = self._ray_directions * complex(math.cos(yaw), math.sin(yaw))
        ranges = self._blocks.ranges(np.array([x, y]), np.stack([turned.real, turned.imag], -1))
        state[6 : 6 + LIDAR_RAYS] = np.minimum(ranges, LIDAR_RANGE)
        for i, color in enumerate(COLORS):
            if color not in self._pillars:
                continue
            dx, dy = self._pillars[color] - (x, y)
            position = ((math.atan2(dy, dx) - yaw) / (2 * math.pi) % 1) * COLOR_RAYS
            ray, share = int(position), position - int(position)
            nearness = 1 / (1 + math.hypot(dx, dy))
            first = 6 + LIDAR_RAYS + COLOR_RAYS * i
            state[first + ray % COLOR_RAYS] = (1 - share) * nearness
            state[first + (ray + 1) % COLOR_RAYS] = share * nearness
        return {"state": state, INSTRUCTION: INSTRUCTIONS[self.task].format(color=self._target_color)}

    def _draw_layout(self) -> tuple[float, float, float] | None:
        """Draw boxes, pillars and target; the start as x, y (m) and yaw (rad), or None for a layout to reject."""
        rng = self.np_random
        colors = [str(color) for color in rng.permutation(list(COLORS))[:PILLARS]]
        if self.task == "rover/pillar":
            centers = self._draw_box_centers()
            yaws = rng.uniform(-np.pi, np.pi, self._boxes)
            self._blocks = self._walls + Blocks(centers, np.array(BOX_HALF_SIZES), yaws)
            *pillars, start = (rng.uniform(-2.5, 2.5, 2) for _ in range(PILLARS + 1))
            if self._blocks.clearance(np.array([*pillars, start])).min() < 0.4:
                return None
        else:
            cells = rng.permutation(MAZE_CELLS**2)[: PILLARS + 1]
            centers = np.stack(np.divmod(cells, MAZE_CELLS), -1) * MAZE_CELL + MAZE_CELL / 2 - HALF_ARENA
            *pillars, start = centers
            start = start + rng.uniform(-0.25, 0.25, 2)
        everything = np.array([*pillars, start])
        distances = np.linalg.norm(everything[:, None] - everything, axis=-1) + 9 * np.eye(len(everything))
        apart = MIN_PILLAR_DISTANCE if self.task == "rover/pillar" else 0.9
        if distances.min() < apart:
            return None
        self._pillars = dict(zip(colors, pillars, strict=True))
        self._target_color = colors[0]
        self._field = NavigationField(self._blocks, pillars[0], np.array(pillars[1:]))
        if not MIN_PATH_COST < self._field.cost_to_go(start) < IMPASSABLE_COST:
            return None
        return float(start[0]), float(start[1]), float(rng.uniform(-np.pi, np.pi))

    def _draw_box_centers(self) -> np.ndarray:
        radii = np.linalg.norm(BOX_HALF_SIZES, axis=-1)
        while True:
            centers: list[np.ndarray] = []
            for radius in radii:
                for _ in range(20):
                    center = self.np_random.uniform(-2.6, 2.6, 2)
                    gaps = [math.dist(center, other) - radius - r for other, r in zip(centers, radii, strict=False)]
                    if min(gaps, default=BOX_GAP) >= BOX_GAP:
                        centers.append(center)
                        break
                else:
                    break
            if len(centers) == len(radii):
                return np.array(centers)


def _mjcf(walls: Blocks, boxes: int) -> str:
    """The MuJoCo model. Boxes and pillars are mocap bodies, so that an episode can place them without a new model.

    Geom groups: 0 boxes and walls (what the lidar sees), 1 rover and floor, 2 pillars.
    """
    wall_geoms = "".join(
        f'<geom type="box" pos="{x} {y} .15" size="{a} {b} .15" rgba=".72 .66 .58 1"/>'
        for (x, y), (a, b) in zip(walls.centers, walls.half_sizes, strict=True)
    )
    box_bodies = "".join(
        f'<body mocap="true" pos="{i} 0 0">'
        f'<geom type="box" pos="0 0 .15" size="{a} {b} .15" rgba=".62 .45 .30 1"/></body>'
        for i, (a, b) in enumerate(BOX_HALF_SIZES[:boxes])
    )
    pillar_bodies = "".join(
        f'<body mocap="true" pos="{i} 1 0"><geom type="cylinder" pos="0 0 .4" size="{PILLAR_RADIUS} .4" group="2" '
        f'rgba="{r} {g} {b} 1" contype="0" conaffinity="0"/></body>'
        for i, (r, g, b) in enumerate(COLORS.values())
    )
    wheels = "".join(
        f'<body pos="0 {side * HALF_TRACK} 0"><joint name="{name}" axis="0 1 0" damping=".01"/>'
        f'<geom type="cylinder" size="{WHEEL_RADIUS} .015" zaxis="0 1 0" mass=".2" friction="1.2 .01 .001" group="1" '
        f'rgba=".12 .12 .13 1"/></body>'
        for name, side in (("left", 1), ("right", -1))
    )
    casters = "".join(
        f'<geom type="sphere" size=".02" pos="{x} 0 -.038" mass=".05" group="1" '
        f'friction=".001 .001 .001" priority="1"/>'
        for x in (-0.12, 0.12)
    )
    motors = "".join(
        f'<velocity joint="{name}" kv=".3" ctrlrange="{-MAX_WHEEL_SPEED} {MAX_WHEEL_SPEED}"/>'
        for name in ("left", "right")
    )
    return f"""
<mujoco model="rover">
  <option timestep=".005" integrator="implicitfast"/>
  <visual>
    <global offwidth="1024" offheight="1024"/>
    <headlight ambient=".35 .35 .35" diffuse=".35 .35 .35" specular="0 0 0"/>
    <quality shadowsize="1024" offsamples="4"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".82 .88 .94" rgb2=".95 .97 1" width="64" height="64"/>
    <texture name="floor" type="2d" builtin="checker" rgb1=".80 .82 .83" rgb2=".74 .76 .78" width="128" height="128"/>
    <material name="floor" texture="floor" texrepeat="5 5"/>
  </asset>
  <worldbody>
    <light pos="2 -2 6" dir="-.3 .3 -1" directional="true" diffuse=".5 .5 .5" specular="0 0 0"/>
    <camera name="overview" pos="0 -5.6 7.4" xyaxes="1 0 0 0 .8 .6" fovy="42"/>
    <geom type="plane" size="3.1 3.1 .1" material="floor" group="1"/>
    {wall_geoms}{box_bodies}{pillar_bodies}
    <body pos="0 0 {WHEEL_RADIUS}">
      <freejoint/>
      <camera name="front" pos=".1 0 .25" xyaxes="0 -1 0 .2 0 1" fovy="90"/>
      <geom type="cylinder" pos="0 0 .025" size="{CHASSIS_RADIUS} .03" mass="2" friction=".1 .001 .001" priority="1"
            group="1" rgba=".93 .94 .95 1"/>
      <geom type="box" pos=".09 0 .065" size=".055 .03 .012" contype="0" conaffinity="0" mass="0" group="1"
            rgba=".95 .45 .10 1"/>
      <geom type="cylinder" pos="-.04 0 .2" size=".012 .15" contype="0" conaffinity="0" mass="0" group="1"
            rgba=".2 .2 .22 1"/>
      <geom type="sphere" pos="-.04 0 .36" size=".035" contype="0" conaffinity="0" mass="0" group="1"
            rgba=".2 .2 .22 1"/>
      {casters}{wheels}
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""


FAMILY = Family(EMBODIMENT, TASKS, ("mujoco",), RoverEnvironment, horizon=Horizon(chunk=8))

PIXELS = seen(FAMILY, ("front",), ("x", "y", "cos_yaw", "sin_yaw", "forward_speed", "yaw_rate"))
"""A camera that looks ahead, and odometry."""

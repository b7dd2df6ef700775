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

import math
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
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Family, MujocoEnvironment
from polysoma.simulators.navigation import (
    HALF_ARENA,
    MAZE_CELL,
    MAZE_CELLS,
    REACH,
    Blocks,
    NavigationField,
    arena_walls,
    maze_walls,
)
from polysoma.simulators.views import pixel_view

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

BOX_HALF_SIZES = ((0.16, 0.16), (0.18, 0.26), (0.20, 0.20), (0.22, 0.34), (0.16, 0.30),
                  (0.24, 0.24), (0.18, 0.18), (0.28, 0.20), (0.20, 0.32), (0.26, 0.26))  # fmt: skip
BOX_GAP = 0.65
PILLARS = 3
PILLAR_RADIUS = 0.12
MIN_PILLAR_DISTANCE = 1.3
MIN_PILLAR_CLEARANCE = 0.4
MIN_PATH_COST = 1.8

CHASSIS_RADIUS = 0.16
WHEEL_RADIUS = 0.06
HALF_TRACK = 0.11
MAX_WHEEL_SPEED = 20.0
PHYSICS_STEPS = 10

IMPASSABLE_COST = 60.0
CRUISE_SPEED = 0.9
_GOAL_DRAWS = 60


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


class RoverEnvironment(MujocoEnvironment):
    """One of the rover's tasks; the module's docstring says what it senses, moves and must do.

    The expert descends a :class:`NavigationField` by pure pursuit (Coulter 1992). It knows the whole plan, but acts on
    the present pose and velocity only. The model is built once; an episode only places boxes and pillars.

    Raises:
        ImportError: mujoco is not installed.
    """

    embodiment = EMBODIMENT
    expert_noise = 0.3
    remembered = ("_blocks", "_pillars", "_target_color", "_field", "_steps")

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
        self._stand_pillars()
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

    def new_goal(self) -> Observation | None:
        """The named pillar elsewhere, as far from all else as in a new episode. None where many draws found no place to
        which a way leads from here, as in a part of the maze that another pillar closes. See
        :class:`~polysoma.simulators.environment.Environment`."""
        place = self._data.qpos[:2].copy()
        others = [pillar for color, pillar in self._pillars.items() if color != self._target_color]
        for _ in range(_GOAL_DRAWS):
            pillar = self._draw_place()
            if self._blocks.clearance(pillar) < MIN_PILLAR_CLEARANCE:
                continue
            field = self._way([pillar, *others], place)
            if field is not None:
                self._field, self._pillars = field, {**self._pillars, self._target_color: pillar}
                self._stand_pillars()
                # A picture shows bodies where they were computed to be.
                self._mujoco.mj_kinematics(self._model, self._data)
                return self._observe()
        return None

    def remaining(self) -> float | None:
        """The length of the expert's way: metres, and up to six times as many near what stands around."""
        if self._field is None:
            return None
        return min(self._field.way(self._data.qpos[:2]), IMPASSABLE_COST)

    def expert_action(self) -> np.ndarray:
        """Pure pursuit of the point 0.45 m down the navigation field, float32 ``(2,)``, smooth in the state."""
        assert self._field is not None
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

    def _now(self) -> Observation:
        return self._observe()

    def _stand_pillars(self) -> None:
        for i, color in enumerate(COLORS):
            there = color in self._pillars
            self._data.mocap_pos[self._boxes + i] = [*self._pillars[color], 0] if there else [0, 0, -1]

    def _draw_place(self) -> np.ndarray:
        """Where a pillar may stand, ``(2,)`` in m; among boxes it must be clear of them."""
        if self.task == "rover/pillar":
            return self.np_random.uniform(-2.5, 2.5, 2)
        return _middle(self.np_random.integers(MAZE_CELLS**2))

    def _way(self, pillars: list[np.ndarray], start: np.ndarray) -> NavigationField | None:
        """The field toward the first of the pillars, ``(2,)`` each; None where they or the start are too near one
        another, or where it is too near or cannot be reached."""
        everything = np.array([*pillars, start])
        distances = np.linalg.norm(everything[:, None] - everything, axis=-1) + 9 * np.eye(len(everything))
        if distances.min() < (MIN_PILLAR_DISTANCE if self.task == "rover/pillar" else 0.9):
            return None
        field = NavigationField(self._blocks, pillars[0], np.array(pillars[1:]))
        return field if MIN_PATH_COST < field.cost_to_go(start) < IMPASSABLE_COST else None

    def _draw_layout(self) -> tuple[float, float, float] | None:
        """Draw boxes, pillars and target; the start as x, y (m) and yaw (rad), or None for a layout to reject."""
        rng = self.np_random
        colors = [str(color) for color in rng.permutation(list(COLORS))[:PILLARS]]
        if self.task == "rover/pillar":
            centers = self._draw_box_centers()
            yaws = rng.uniform(-np.pi, np.pi, self._boxes)
            self._blocks = self._walls + Blocks(centers, np.array(BOX_HALF_SIZES), yaws)
            *pillars, start = (self._draw_place() for _ in range(PILLARS + 1))
            if self._blocks.clearance(np.array([*pillars, start])).min() < MIN_PILLAR_CLEARANCE:
                return None
        else:
            *pillars, start = _middle(rng.permutation(MAZE_CELLS**2)[: PILLARS + 1])
            start = start + rng.uniform(-0.25, 0.25, 2)
        self._field = self._way(pillars, start)
        if self._field is None:
            return None
        self._pillars = dict(zip(colors, pillars, strict=True))
        self._target_color = colors[0]
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


def _middle(cells: Any) -> np.ndarray:
    """The middles (m) of the maze's cells of these numbers ``(...)``: ``(..., 2)``."""
    return np.stack(np.divmod(cells, MAZE_CELLS), -1) * MAZE_CELL + MAZE_CELL / 2 - HALF_ARENA


def _mjcf(walls: Blocks, boxes: int) -> str:
    """The MuJoCo model. Boxes and pillars are mocap bodies, so that an episode can place them without a new model.
    The front camera comes as near to a wall as 6 cm, so what is nearer than that must be drawn, too.

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
        f'<body name="{color}_pillar" mocap="true" pos="{i} 1 0"><geom type="cylinder" pos="0 0 .4" '
        f'size="{PILLAR_RADIUS} .4" group="2" rgba="{r} {g} {b} 1" contype="0" conaffinity="0"/></body>'
        for i, (color, (r, g, b)) in enumerate(COLORS.items())
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
    <map znear=".002"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".82 .88 .94" rgb2=".95 .97 1" width="64" height="64"/>
    <texture name="floor" type="2d" builtin="checker" rgb1=".80 .82 .83" rgb2=".74 .76 .78" width="128" height="128"/>
    <material name="floor" texture="floor" texrepeat="5 5"/>
  </asset>
  <worldbody>
    <light pos="2 -2 6" dir="-.3 .3 -1" directional="true" diffuse=".5 .5 .5" specular="0 0 0"/>
    <camera name="overview" pos="0 -5.6 7.4" xyaxes="1 0 0 0 .8 .6" fovy="42"/>
    <geom type="plane" size="3.1 3.1 1" material="floor" group="1"/>
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

_ODOMETRY = ("x", "y", "cos_yaw", "sin_yaw", "forward_speed", "yaw_rate")

PIXELS = pixel_view(FAMILY, ("front",), _ODOMETRY)
"""A camera that looks ahead, and odometry. A pillar that is not ahead must be looked for."""

OVERVIEW = pixel_view(FAMILY, ("overview",), _ODOMETRY, name="overview")
"""A camera above the arena that shows all of it, and odometry."""

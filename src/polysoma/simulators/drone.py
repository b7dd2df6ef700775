"""A quadrotor that hovers, flies through waypoints, and flies through the ring that its instruction names.

The body weighs half a kilogram, has four motors in X layout, and is simulated by MuJoCo at 500 Hz. A policy commands
collective thrust and body rates at 50 Hz, the interface of most racing flight controllers; a rate loop at 500 Hz turns
them into motor forces.

Everything that a decision needs is in one observation: vectors are given in the heading frame (the world frame turned
about the vertical by the yaw angle, x to the front, y to the left, z up), so the same manoeuvre looks the same wherever
it is flown. The expert reads nothing but this observation and its instruction, and is a continuous function of them as
long as the side of the named ring does not change: a policy that imitates it can be as good as the expert.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from polysoma.embodiment import (
    INSTRUCTION,
    Observation,
)
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.simulators.drone_body import (
    CEILING,
    CHANNELS,
    CONTROL_HZ,
    EMBODIMENT,
    FLOOR,
    GRAVITY,
    HOVER_RADIUS,
    HOVER_SECONDS,
    LARGE,
    MAX_STEPS,
    PHYSICS_HZ,
    RING_COLOURS,
    RING_PHRASES,
    RING_RADIUS,
    ROOM,
    SLICES,
    SMALL,
    TASKS,
    WAYPOINT_RADIUS,
    WAYPOINTS,
    Frame,
)
from polysoma.simulators.drone_expert import expert
from polysoma.simulators.environment import Family, MujocoEnvironment
from polysoma.simulators.views import pixel_view
from polysoma.task import Task

_YAW_TORQUE_PER_FORCE = 0.02
_GUST_SECONDS, _GUST_FRACTION = 1.0, 0.3

_CHASE = 10.0, -55.0
"""Metres from the drone to the camera that flies behind and above it, and where that looks, in degrees: so high that it
shows the whole room in front of the drone and most of what is behind it."""


def _torus(radius: float, tube: float, around: int = 40, across: int = 10) -> str:
    """Vertices and faces of a ring about the x axis, as attributes of an MJCF mesh."""
    vertices, faces = [], []
    for i in range(around):
        for j in range(across):
            a, b = 2 * math.pi * i / around, 2 * math.pi * j / across
            distance = radius + tube * math.cos(b)
            vertices += [tube * math.sin(b), distance * math.cos(a), distance * math.sin(a)]
            here, right = i * across + j, ((i + 1) % around) * across + j
            up, diagonal = i * across + (j + 1) % across, ((i + 1) % around) * across + (j + 1) % across
            faces += [here, diagonal, right, here, up, diagonal]
    return f'vertex="{" ".join(f"{v:.5f}" for v in vertices)}" face="{" ".join(map(str, faces))}"'


_RING_RGBA = {"red": ".9 .12 .1 1", "green": ".1 .75 .2 1", "blue": ".12 .3 .95 1"}


def _markers(goal: str) -> str:
    """The bodies that show the goals of a task. They are moved by hand and touch nothing."""
    if goal == "ring":
        return "".join(
            f'<body name="{c}_ring" mocap="true"><geom type="mesh" mesh="ring" rgba="{_RING_RGBA[c]}"/></body>'
            for c in RING_COLOURS
        )
    if goal == "hover":
        return '<body name="target" mocap="true"><geom type="sphere" size=".08" rgba="1 .55 .05 .75"/></body>'
    return "".join(
        f'<body name="waypoint{i}" mocap="true"><geom name="waypoint{i}" type="sphere" size=".1"/></body>'
        for i in range(WAYPOINTS)
    )


def _mjcf(frame: Frame, goal: str) -> str:
    size = frame.arm / SMALL.arm
    arms = "".join(
        f'<geom type="capsule" fromto="0 0 0 {x} {y} 0" size=".01" rgba=".15 .15 .17 1"/>'
        f'<geom type="cylinder" pos="{x} {y} .008" size="{0.012 * size} .014" rgba=".3 .3 .32 1"/>'
        f'<geom type="cylinder" pos="{x} {y} .024" size="{0.066 * size} .002" '
        f'rgba="{".95 .35 .1 .55" if x > 0 else ".85 .9 1 .5"}"/>'
        f'<site name="motor{i}" pos="{x} {y} 0" rgba="0 0 0 0"/>'
        for i, (x, y, _) in enumerate(frame.motors)
    )
    motors = "".join(
        f'<motor site="motor{i}" ctrllimited="true" ctrlrange="0 {frame.motor_force}" '
        f'gear="0 0 1 0 0 {sense * _YAW_TORQUE_PER_FORCE}"/>'
        for i, (_, _, sense) in enumerate(frame.motors)
    )
    return f"""<mujoco model="drone">
  <option timestep="{1 / PHYSICS_HZ}" gravity="0 0 -{GRAVITY}"><flag contact="disable"/></option>
  <visual>
    <headlight ambient=".35 .35 .38" diffuse=".3 .3 .3" specular=".1 .1 .1"/>
    <map znear=".01" zfar="60"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".33 .56 .85" rgb2=".9 .94 .98" width="256" height="256"/>
    <texture name="ground" type="2d" builtin="checker" rgb1=".36 .42 .4" rgb2=".46 .52 .49" width="128" height="128"/>
    <material name="ground" texture="ground" texrepeat="1 1" texuniform="true" specular=".1"/>
    <mesh name="ring" {_torus(RING_RADIUS + 0.035, 0.035)}/>
  </asset>
  <worldbody>
    <light pos="2 -2 8" dir="-.25 .25 -1" directional="true" diffuse=".65 .63 .6" specular=".2 .2 .2"/>
    <geom name="ground" type="plane" size="30 30 1" material="ground"/>
    {_markers(goal)}
    <body name="shadow" mocap="true"><geom type="cylinder" size=".13 .001" rgba="0 0 0 .45"/></body>
    <body name="drone" pos="0 0 1">
      <freejoint/>
      <inertial pos="0 0 0" mass="{frame.mass}" diaginertia="{" ".join(map(str, frame.inertia))}"/>
      <geom type="box" size="{0.05 * size} {0.035 * size} .018" rgba=".12 .12 .14 1"/>
      <geom type="ellipsoid" pos="0 0 .018" size="{0.05 * size} {0.032 * size} .018" rgba=".95 .95 .97 1"/>
      <geom type="sphere" pos="{0.052 * size} 0 0" size=".014" rgba=".95 .35 .1 1"/>
      <camera name="front" pos="{0.08 * size} 0 .01" xyaxes="0 -1 0 .1 0 1" fovy="100"/>
      {arms}
    </body>
  </worldbody>
  <actuator>{motors}</actuator>
</mujoco>"""


class DroneEnvironment(MujocoEnvironment):
    """One task of the drone.

    ``step`` takes a float32 action of shape ``(4,)`` (see ``EMBODIMENT``). The reward is 1 at success and 0 otherwise.
    An episode also ends, without success, when the drone touches the ground, leaves the room, turns upside down or
    passes through a ring that was not named.

    Args:
        task: one of ``TASKS``.
        frame: which drone.
        wind: mean horizontal wind speed in m/s. Each episode draws its own direction and gusts from its seed.

    Raises:
        PolysomaError: a wind that is negative or not finite.
    """

    expert_noise = 0.25
    mesh_cell = 0.0
    remembered = (
        *("_targets", "_reached", "_rings", "_normals", "_named", "_instruction", "_state"),
        *("_steps", "_steps_inside", "_mean_wind", "_gust"),
    )

    def __init__(self, task: str, frame: Frame = SMALL, wind: float = 0.0) -> None:
        self.embodiment = EMBODIMENT if frame is SMALL else frame.embodiment()
        if not (math.isfinite(wind) and wind >= 0):
            raise PolysomaError(f"wind must be a speed in m/s, 0 or more, got {wind!r}")
        super().__init__()
        import mujoco

        self._mujoco = mujoco
        self.task = task
        self.frame = frame
        self.goal = Task.parse(task).name
        self.max_steps = MAX_STEPS[self.goal]
        self.wind = float(wind)
        self.model = mujoco.MjModel.from_xml_string(_mjcf(frame, self.goal))
        self.data = mujoco.MjData(self.model)
        self._body = self.model.body("drone").id
        self._shadow = self.model.body("shadow").mocapid[0]
        self._goals = slice(0, self._shadow)
        self._weight = frame.mass * GRAVITY
        x, y, sense = np.array(frame.motors, float).T
        mixer = np.linalg.inv(np.stack([np.ones(4), y, -x, sense * _YAW_TORQUE_PER_FORCE]))
        self._thrust_to_motors = mixer[:, 0]
        self._rates_to_motors = mixer[:, 1:] * (np.array(frame.inertia) * frame.gains)
        self._targets = np.zeros((0, 3))
        self._rings = np.zeros((len(RING_COLOURS), 3))
        self._normals = np.zeros((len(RING_COLOURS), 3))
        self._named = 0
        self._instruction = ""
        self._state = np.zeros(len(CHANNELS), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        super().reset(seed=seed)
        self._mujoco.mj_resetData(self.model, self.data)
        self._steps = self._steps_inside = self._reached = 0
        draw = self.np_random
        if self.goal == "hover":
            self._instruction = "hover at the target"
            self._draw_targets(1)
        elif self.goal == "waypoints":
            self._instruction = "fly through the waypoints"
            self._draw_targets(WAYPOINTS)
        position = draw.uniform([-2, -2, 0.7], [2, 2, 2.0])
        if self.goal == "ring":
            self._place_rings(draw, position)
        yaw = draw.uniform(-math.pi, math.pi)
        self.data.qpos[:3] = position
        self.data.qpos[3:7] = math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)
        self.data.qvel[:3] = draw.uniform(-0.5, 0.5, 3)
        direction = draw.uniform(-math.pi, math.pi)
        self._mean_wind = self.wind * np.array([math.cos(direction), math.sin(direction), 0.0])
        self._gust = np.zeros(3)
        self._show_goals()
        self._observe()
        return self._observation(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One control step (20 ms). Raises PolysomaError for an action of a wrong shape or one that is not finite."""
        command = self.embodiment.check_action(action).astype(float)
        before = self.data.qpos[:3].copy()
        self._fly(command)
        self._steps += 1
        success, failed = self._judge(before, self.data.qpos[:3])
        self._observe()
        failed = failed or self._crashed()
        success = success and not failed
        truncated = self._steps >= self.max_steps and not (success or failed)
        return self._observation(), float(success), success or failed, truncated, {"success": success}

    def new_goal(self) -> Observation | None:
        """See :class:`~polysoma.simulators.environment.Environment`: another place to hover at, or other waypoints."""
        if self.goal == "ring":
            return None
        self._steps_inside = self._reached = 0
        self._draw_targets(len(self._targets))
        self._show_goals()
        return self._now()

    def expert_action(self) -> np.ndarray:
        """What :func:`expert` does in the present observation: float32 of shape ``(4,)``."""
        return expert(self._state, self._instruction, self.frame)

    def _scene(self) -> tuple[Any, Any, Any]:
        cosine, sine = self._state[SLICES["heading"]]
        position = self.data.qpos[:3]
        view = self._mujoco.MjvCamera()
        view.distance, view.elevation = 2.4, -27.0
        view.azimuth = math.degrees(math.atan2(sine, cosine))
        view.lookat[:] = position + np.array([0.4 * cosine, 0.4 * sine, -0.2])
        self.data.mocap_pos[self._shadow] = position[0], position[1], 0.002
        # Positions of bodies and lights are otherwise those before the last physics step.
        self._mujoco.mj_kinematics(self.model, self.data)
        self._mujoco.mj_camlight(self.model, self.data)
        return self.model, self.data, view

    def _view(self, camera: str) -> Any:
        if camera != "chase":
            return camera
        _, _, view = self._scene()
        view.distance, view.elevation = _CHASE
        view.lookat[:] = self.data.qpos[:3]
        return view

    def _draw_targets(self, count: int) -> None:
        self._targets = self.np_random.uniform([-1.8, -1.8, 0.6], [1.8, 1.8, 2.2], (count, 3))

    def _now(self) -> Observation:
        self._show_goals()
        self._observe()
        return self._observation()

    def _place_rings(self, draw: np.random.Generator, start: np.ndarray) -> None:
        """Rings so far apart that the way in front of one never lies in another.

        They may face anywhere: starts beside a ring and close to it are what teaches an imitation to choose a side.
        """
        while True:
            self._rings = draw.uniform([-2.4, -2.4, 1.0], [2.4, 2.4, 1.8], (len(RING_COLOURS), 3))
            gaps = [np.linalg.norm((self._rings[i] - self._rings[j])[:2]) for i in range(3) for j in range(i)]
            if min(gaps) > 2.2 and np.linalg.norm((self._rings - start)[:, :2], axis=1).min() > 0.6:
                break
        angles = draw.uniform(-math.pi, math.pi, len(RING_COLOURS))
        self._normals = np.stack([np.cos(angles), np.sin(angles), np.zeros(len(RING_COLOURS))], axis=1)
        self._named = int(draw.integers(len(RING_COLOURS)))
        phrase = RING_PHRASES[draw.integers(len(RING_PHRASES))]
        self._instruction = phrase.format(RING_COLOURS[self._named])

    def _fly(self, command: np.ndarray) -> None:
        """Track thrust and body rates for one control step, in the wind."""
        data, step = self.data, self._mujoco.mj_step
        if self.wind:
            keep = math.exp(-1 / (CONTROL_HZ * _GUST_SECONDS))
            spread = _GUST_FRACTION * self.wind * math.sqrt(1 - keep * keep)
            self._gust = keep * self._gust + spread * self.np_random.standard_normal(3)
        # The air drag changes little within a control step, so that it is computed once for each.
        air = self.frame.drag * (self._mean_wind + self._gust - data.qvel[:3])
        data.xfrc_applied[self._body, :3] = air + (self._force if self._pushed == self._body else 0.0)
        gains = self._rates_to_motors
        wanted = self._thrust_to_motors * ((1 + command[0]) * self._weight) + gains @ (command[1:] * self.frame.rates)
        for _ in range(PHYSICS_HZ // CONTROL_HZ):
            data.ctrl[:] = wanted - gains @ data.qvel[3:6]
            step(self.model, data)

    def _judge(self, before: np.ndarray, after: np.ndarray) -> tuple[bool, bool]:
        """Whether the task has just succeeded or failed for good."""
        if self.goal == "ring":
            for i in range(len(RING_COLOURS)):
                if _passed(before - self._rings[i], after - self._rings[i], self._normals[i]):
                    return i == self._named, i != self._named
            return False, False
        distance = float(np.linalg.norm(self._targets[self._reached] - after))
        if self.goal == "hover":
            self._steps_inside = self._steps_inside + 1 if distance < HOVER_RADIUS else 0
            return self._steps_inside >= HOVER_SECONDS * CONTROL_HZ, False
        if distance < WAYPOINT_RADIUS:
            if self._reached == WAYPOINTS - 1:
                return True, False
            self._reached += 1
            self._show_goals()
        return False, False

    def _crashed(self) -> bool:
        x, y, z = self.data.qpos[:3]
        return bool(z < FLOOR or z > CEILING or max(abs(x), abs(y)) > ROOM or self._state[SLICES["up"]][2] < 0)

    def _observe(self) -> None:
        """Compute the state of the present observation."""
        qpos, qvel = self.data.qpos, self.data.qvel
        position = qpos[:3]
        w, x, y, z = qpos[3:7] / math.sqrt(float(qpos[3:7] @ qpos[3:7]))
        yaw = math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
        c, s = math.cos(yaw), math.sin(yaw)
        to_heading = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        state = np.zeros(len(CHANNELS))
        state[SLICES["position"]] = position
        state[SLICES["velocity"]] = to_heading @ qvel[:3]
        state[SLICES["up"]] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
        state[SLICES["heading"]] = c, s
        state[SLICES["angular_velocity"]] = qvel[3:6]
        if self.goal == "ring":
            away = position - self._rings
            sides = np.where((away * self._normals).sum(1) < 0, -1.0, 1.0)
            normals = (sides[:, None] * self._normals) @ to_heading.T
            centres = -away @ to_heading.T
            for i, colour in enumerate(RING_COLOURS):
                state[SLICES[f"{colour}_centre"]] = centres[i]
                state[SLICES[f"{colour}_normal"]] = normals[i, :2]
        else:
            following = min(self._reached + 1, len(self._targets) - 1)
            state[SLICES["target"]] = to_heading @ (self._targets[self._reached] - position)
            state[SLICES["next_target"]] = to_heading @ (self._targets[following] - position)
        self._state = state.astype(np.float32)

    def _observation(self) -> Observation:
        return {"state": self._state.copy(), INSTRUCTION: self._instruction}

    def _show_goals(self) -> None:
        """Put the markers where the goals are; a waypoint fades once it is reached."""
        if self.goal != "ring":
            self.data.mocap_pos[self._goals] = self._targets
        else:
            angles = np.arctan2(self._normals[:, 1], self._normals[:, 0])
            turns = np.stack([np.cos(angles / 2), 0 * angles, 0 * angles, np.sin(angles / 2)], axis=1)
            self.data.mocap_pos[self._goals] = self._rings
            self.data.mocap_quat[self._goals] = turns
        if self.goal == "waypoints":
            for i in range(WAYPOINTS):
                rgba = (0.5, 0.5, 0.5, 0.25) if i < self._reached else (1.0, 0.85, 0.2, 0.55)
                self.model.geom(f"waypoint{i}").rgba[:] = (1.0, 0.35, 0.05, 0.95) if i == self._reached else rgba


def _passed(before: np.ndarray, after: np.ndarray, normal: np.ndarray) -> bool:
    """Whether the straight way between two points, relative to a ring's centre, leads through the ring."""
    start, end = float(before @ normal), float(after @ normal)
    if (start < 0) == (end < 0):
        return False
    crossing = before + (after - before) * (start / (start - end))
    return float(np.linalg.norm(crossing)) < RING_RADIUS


_HORIZON = Horizon(chunk=8)

FAMILY = Family(EMBODIMENT, TASKS, ("mujoco",), DroneEnvironment, horizon=_HORIZON)

LARGE_FAMILY = Family(
    LARGE.embodiment(),
    tuple(f"{LARGE.name}/{goal}" for goal in MAX_STEPS),
    ("mujoco",),
    functools.partial(DroneEnvironment, frame=LARGE),
    horizon=_HORIZON,
)
"""The same tasks for the large drone, which the shipped policy does not know: for transfer."""

_SENSED = [c.name for c in CHANNELS if c.group in ("motion", "targets")]

PIXELS = pixel_view(FAMILY, ("front",), _SENSED)
"""A camera that looks ahead, the drone's own motion and its targets: rings must be seen, and first be looked for."""

CHASE = pixel_view(FAMILY, ("chase", "front"), _SENSED, name="chase")
"""With a second camera, behind and above the drone: it shows where the rings are, the other one how high."""

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

import dataclasses
import functools
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
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Family, MujocoEnvironment
from polysoma.simulators.views import seen
from polysoma.task import Task

TASKS: tuple[str, ...] = ("drone/hover", "drone/waypoints", "drone/ring")

GRAVITY = 9.81
CONTROL_HZ = 50
PHYSICS_HZ = 500
"""Body rates (rad/s) that an action of 1 means: roll, pitch, yaw."""

HOVER_RADIUS, HOVER_SECONDS = 0.15, 1.0
WAYPOINT_RADIUS, WAYPOINTS = 0.2, 4
RING_RADIUS = 0.4
RING_COLOURS = ("red", "green", "blue")
RING_PHRASES = ("fly to the {} ring", "fly through the {} ring", "go through the {} ring")
ROOM = 4.0
"""Half the side of the cube-like room (m); the drone must stay inside and below CEILING."""
CEILING = 3.5
FLOOR = 0.06

_MAX_STEPS = {"hover": 500, "waypoints": 600, "ring": 600}


def _vector(name: str, unit: str = "m", axes: str = "xyz", limit: float = math.inf) -> tuple[Channel, ...]:
    return channels(" ".join(f"{name}_{axis}" for axis in axes), unit, -limit, limit)


_BLOCKS: dict[str, tuple[Channel, ...]] = {
    "position": _vector("position"),
    "velocity": _vector("velocity", "m/s"),
    "up": _vector("up", "1", limit=1.001),
    "heading": channels("heading_cos heading_sin", "1", -1.001, 1.001),
    "angular_velocity": _vector("angular_velocity", "rad/s"),
    "target": _vector("target"),
    "next_target": _vector("next_target"),
}
for _colour in RING_COLOURS:
    _BLOCKS[f"{_colour}_centre"] = _vector(f"{_colour}_ring")
    _BLOCKS[f"{_colour}_normal"] = _vector(f"{_colour}_ring_normal", "1", "xy", limit=1.001)


def _group(block: str) -> str:
    """What a policy may attend to as one thing: the drone's own motion, its targets, each ring."""
    if block in ("target", "next_target"):
        return "targets"
    return f"{block.split('_')[0]}_ring" if block.split("_")[0] in RING_COLOURS else "motion"


_CHANNELS = tuple(
    dataclasses.replace(channel, group=_group(name)) for name, block in _BLOCKS.items() for channel in block
)
_ENDS = np.cumsum([len(block) for block in _BLOCKS.values()]).tolist()
_SLICES = {name: slice(end - len(block), end) for (name, block), end in zip(_BLOCKS.items(), _ENDS, strict=True)}


@dataclasses.dataclass(frozen=True)
class Frame:
    """What one drone is built like.

    Attributes:
        name: of the embodiment.
        mass: kg.
        arm: metres from the middle to a motor, along x and along y.
        inertia: kg m^2 about x, y and z.
        motor_force: N, the most that one motor lifts.
        rates: rad/s about x, y and z that an action of 1 asks for.
        gains: 1/s of the loops that track rates.
        drag: of the rotors in N s/m, linear in the air speed, as measured by Faessler et al. 2018.
    """

    name: str
    mass: float
    arm: float
    inertia: tuple[float, float, float]
    motor_force: float
    rates: tuple[float, float, float]
    gains: tuple[float, float, float]
    drag: float

    @property
    def motors(self) -> tuple[tuple[float, float, int], ...]:
        """x, y and the sense of the reaction torque of each motor, in the order of the actuators."""
        arm = self.arm
        return ((arm, -arm, 1), (-arm, -arm, -1), (-arm, arm, 1), (arm, arm, -1))

    def embodiment(self) -> Embodiment:
        """What this drone senses and moves."""
        rates = zip(("roll_rate", "pitch_rate", "yaw_rate"), self.rates, strict=True)
        return Embodiment(
            name=self.name,
            streams=(
                Stream("state", Modality.STATE, (len(_CHANNELS),), _CHANNELS),
                Stream(INSTRUCTION, Modality.TEXT),
            ),
            actions=ContinuousActions(
                (
                    Channel("thrust", "weight - 1", -1.0, 1.0),
                    *(Channel(name, f"{rate:g} rad/s", -1.0, 1.0) for name, rate in rates),
                )
            ),
            rate_hz=CONTROL_HZ,
        )


SMALL = Frame("drone", 0.5, 0.1, (0.0011, 0.0012, 0.0019), 3.0, (6.0, 6.0, 2.0), (40.0, 40.0, 15.0), 0.08)
LARGE = Frame("drone-large", 1.3, 0.2, (0.0115, 0.0125, 0.0198), 6.5, (3.5, 3.5, 1.2), (20.0, 20.0, 8.0), 0.25)
"""A drone of more than twice the mass with arms twice as long: it turns more slowly and its actions mean less."""

EMBODIMENT = SMALL.embodiment()
"""State: ``position`` in the world (m, z = 0 on the ground); ``velocity`` in the heading frame (m/s); ``up``, the
vertical seen from the body; ``heading``, cosine and sine of the yaw; ``angular_velocity`` of the body (rad/s);
``target`` and ``next_target``, the hover point or the present waypoint and the one after it (the same where there is
none), relative to the drone in the heading frame (m), zero in the ring task; for each ring its centre relative to the
drone in the heading frame (m) and its unit normal, of its two directions the one that points to the drone's side, zero
in the other tasks.

Action: ``thrust`` in multiples of the weight, minus one (-1: no thrust, 0: hovers, 1: twice the weight), and body rates
as fractions of 6, 6 and 2 rad/s (of the large drone: 3.5, 3.5 and 1.2)."""


# The drone -----------------------------------------------------------------------------------------------------------

_YAW_TORQUE_PER_FORCE = 0.02
_GUST_SECONDS, _GUST_FRACTION = 1.0, 0.3


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
    <geom name="ground" type="plane" size="30 30 .1" material="ground"/>
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
        self.max_steps = _MAX_STEPS[self.goal]
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
        self._state = np.zeros(len(_CHANNELS), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict]:
        super().reset(seed=seed)
        self._mujoco.mj_resetData(self.model, self.data)
        self._steps = self._steps_inside = self._reached = 0
        draw = self.np_random
        if self.goal == "hover":
            self._instruction = "hover at the target"
            self._targets = draw.uniform([-1.8, -1.8, 0.6], [1.8, 1.8, 2.2], (1, 3))
        elif self.goal == "waypoints":
            self._instruction = "fly through the waypoints"
            self._targets = draw.uniform([-1.8, -1.8, 0.6], [1.8, 1.8, 2.2], (WAYPOINTS, 3))
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

    def expert_action(self) -> np.ndarray:
        """What :func:`expert` does in the present observation: float32 of shape ``(4,)``."""
        return expert(self._state, self._instruction, self.frame)

    def _scene(self) -> tuple[Any, Any, Any]:
        cosine, sine = self._state[_SLICES["heading"]]
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
        return bool(z < FLOOR or z > CEILING or max(abs(x), abs(y)) > ROOM or self._state[_SLICES["up"]][2] < 0)

    def _observe(self) -> None:
        """Compute the state of the present observation."""
        qpos, qvel = self.data.qpos, self.data.qvel
        position = qpos[:3]
        w, x, y, z = qpos[3:7] / math.sqrt(float(qpos[3:7] @ qpos[3:7]))
        yaw = math.atan2(2 * (x * y + w * z), 1 - 2 * (y * y + z * z))
        c, s = math.cos(yaw), math.sin(yaw)
        to_heading = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        state = np.zeros(len(_CHANNELS))
        state[_SLICES["position"]] = position
        state[_SLICES["velocity"]] = to_heading @ qvel[:3]
        state[_SLICES["up"]] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
        state[_SLICES["heading"]] = c, s
        state[_SLICES["angular_velocity"]] = qvel[3:6]
        if self.goal == "ring":
            away = position - self._rings
            sides = np.where((away * self._normals).sum(1) < 0, -1.0, 1.0)
            normals = (sides[:, None] * self._normals) @ to_heading.T
            centres = -away @ to_heading.T
            for i, colour in enumerate(RING_COLOURS):
                state[_SLICES[f"{colour}_centre"]] = centres[i]
                state[_SLICES[f"{colour}_normal"]] = normals[i, :2]
        else:
            following = min(self._reached + 1, len(self._targets) - 1)
            state[_SLICES["target"]] = to_heading @ (self._targets[self._reached] - position)
            state[_SLICES["next_target"]] = to_heading @ (self._targets[following] - position)
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


# The expert ----------------------------------------------------------------------------------------------------------

_POSITION_GAIN = 1.8
_VELOCITY_GAIN = 3.5
_TILT_GAIN = 8.0
_TOP_SPEED = 2.0
_TOP_ACCELERATION = 5.0
_YAW_GAIN = 1.5
_STANDOFF = 0.8
_ALIGNED = 0.32
_RING_SPEED = 1.2
_AVOID_SPEED = 3.0
_AVOID_RADIUS = 0.7


def expert(state: np.ndarray, instruction: str, frame: Frame = SMALL) -> np.ndarray:
    """A cascaded controller: position error to velocity, velocity error to acceleration, acceleration to tilt.

    Thrust and tilt follow Lee, Leok and McClamroch 2010 ("Geometric tracking control of a quadrotor UAV on SE(3)") and
    Mellinger and Kumar 2011: the wanted force is projected on the body's axis, and the tilt error is the cross product
    of the wanted and the present direction of that axis. The limits on speed and acceleration are smooth, and the yaw
    slowly turns the nose to the goal.

    Args:
        state: the stream ``"state"`` of one observation, shape ``(35,)``.
        instruction: its text; only a ring's colour matters.
        frame: which drone.

    Returns:
        float32 of shape ``(4,)``, within -1..1.
    """
    part = {name: state[where].astype(float) for name, where in _SLICES.items()}
    colour = next((c for c in RING_COLOURS if c in instruction.split()), None)
    if colour is None:
        goal = part["target"]
        velocity = _limited(_POSITION_GAIN * goal, _TOP_SPEED)
    else:
        goal = part[f"{colour}_centre"]
        velocity = _ring_velocity(goal, part[f"{colour}_normal"])
        for other in RING_COLOURS:
            if other != colour:
                velocity = velocity + _avoid(part[f"{other}_centre"])
    force = _limited(_VELOCITY_GAIN * (velocity - part["velocity"]), _TOP_ACCELERATION)
    force[2] += GRAVITY
    x, y, z = _to_body(force, part["up"])
    length = math.sqrt(x * x + y * y + z * z)
    yaw_rate = _YAW_GAIN * goal[1] / math.sqrt(goal[0] ** 2 + goal[1] ** 2 + 0.5**2)
    rates = np.array([-_TILT_GAIN * y / length, _TILT_GAIN * x / length, yaw_rate]) / frame.rates
    return np.clip(np.array([z / GRAVITY - 1, *rates]), -1, 1).astype(np.float32)


def _limited(vector: np.ndarray, most: float) -> np.ndarray:
    """The vector made shorter than `most`, smoothly, in its direction."""
    return vector / math.sqrt(1 + float(vector @ vector) / most**2)


def _ring_velocity(centre: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Line up at a distance in front of the ring, then through it; how well it is lined up blends the two."""
    axis = np.array([normal[0], normal[1], 0.0])
    ahead = -float(centre @ axis)
    offset = centre + ahead * axis
    # Nearly 1 within most of the disc: an imitation that is a little off must not wait in front of the ring for ever.
    aligned = 1 / (1 + (float(offset @ offset) / _ALIGNED**2) ** 2)
    # Beside the ring both of its sides are as good: there the standoff shrinks, so that changing sides is no jump.
    standoff = _STANDOFF * math.tanh(ahead / 0.3)
    line_up = _limited(_POSITION_GAIN * (offset + (standoff - ahead) * axis), _TOP_SPEED)
    through = _POSITION_GAIN * offset - _RING_SPEED * axis
    return (1 - aligned) * line_up + aligned * through


def _avoid(centre: np.ndarray) -> np.ndarray:
    """Away from a ring that was not named; the upward part decides between the ways around it."""
    away = -centre
    away[2] += 0.3
    near = math.exp(-float(centre @ centre) / _AVOID_RADIUS**2)
    return _AVOID_SPEED * near * away / math.sqrt(float(away @ away) + 0.01)


def _to_body(vector: np.ndarray, up: np.ndarray) -> tuple[float, float, float]:
    """Turn a vector from the heading frame to the body frame, given the vertical in the body frame."""
    sin_pitch = -min(1.0, max(-1.0, float(up[0])))
    cos_pitch = math.sqrt(1 - sin_pitch * sin_pitch)
    roll = math.atan2(float(up[1]), float(up[2]))
    c, s = math.cos(roll), math.sin(roll)
    x, y, z = (float(value) for value in vector)
    forward, down = cos_pitch * x - sin_pitch * z, sin_pitch * x + cos_pitch * z
    return forward, c * y + s * down, -s * y + c * down


_HORIZON = Horizon(chunk=8)

FAMILY = Family(EMBODIMENT, TASKS, ("mujoco",), DroneEnvironment, horizon=_HORIZON)

LARGE_FAMILY = Family(
    LARGE.embodiment(),
    tuple(f"{LARGE.name}/{goal}" for goal in _MAX_STEPS),
    ("mujoco",),
    functools.partial(DroneEnvironment, frame=LARGE),
    horizon=_HORIZON,
)
"""The same tasks for the large drone, which the shipped policy does not know: for transfer."""

PIXELS = seen(FAMILY, ("front",), [c.name for c in _CHANNELS if c.group in ("motion", "targets")])
"""A camera that looks ahead, the drone's own motion and its targets: rings must be seen."""

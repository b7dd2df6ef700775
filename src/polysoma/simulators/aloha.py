"""ALOHA (Zhao et al. 2023, arXiv 2304.13705): two ViperX arms that hand over a cube, or put a peg into a socket.

The models are those of gym-aloha, whose own environment draws three large pictures at every step.
Tasks, start poses and success are its own: the cube is held by the left gripper above the table, or the peg touches the
pin at the bottom of the socket. The experts decide from the present state and the last command alone, so they can be
asked anywhere: they move the commanded grippers toward what the situation asks for, by inverse kinematics.
"""

from __future__ import annotations

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
from polysoma.simulators.environment import MODELS, Family, MujocoEnvironment
from polysoma.simulators.views import pixel_view
from polysoma.task import Task

SIDES = ("left", "right")
_FILES = {"transfer-cube": "bimanual_viperx_transfer_cube.xml", "insertion": "bimanual_viperx_insertion.xml"}
_INSTRUCTIONS = {
    "transfer-cube": "pick up the cube with the right arm and hand it to the left arm",
    "insertion": "put the peg into the socket",
}

PHYSICS_STEPS = 10
EPISODE_STEPS = 300
_START = np.array([0, -0.96, 1.16, 0, -0.3, 0, 0.02239, -0.02239] * 2)
_OPEN, _CLOSED = 0.058, 0.01844
"""Metres of a finger from the gripper's middle that the gripper values 1 and 0 stand for."""

_LIMITS = {
    "waist": (-3.14158, 3.14158),
    "shoulder": (-1.85005, 1.25664),
    "elbow": (-1.76278, 1.6057),
    "forearm_roll": (-3.14158, 3.14158),
    "wrist_angle": (-1.8675, 2.23402),
    "wrist_rotate": (-3.14158, 3.14158),
}


def _arm(side: str) -> tuple[Channel, ...]:
    joints = [Channel(f"{side}_{name}", "rad", low, high, f"{side}_arm") for name, (low, high) in _LIMITS.items()]
    return (*joints, Channel(f"{side}_gripper", "1", 0.0, 1.0, f"{side}_arm"))


def _pose(name: str) -> tuple[Channel, ...]:
    place = channels(f"{name}_x {name}_y {name}_z", "m", -2, 2, group=name)
    return (*place, *channels(" ".join(f"{name}_q{axis}" for axis in "wxyz"), "1", -1, 1, group=name))


_STATE = (*_arm("left"), *_arm("right"), *_pose("object"), *_pose("second_object"))

EMBODIMENT = Embodiment(
    name="aloha",
    streams=(Stream("state", Modality.STATE, (len(_STATE),), _STATE), Stream(INSTRUCTION, Modality.TEXT)),
    actions=ContinuousActions((*_arm("left"), *_arm("right"))),
    rate_hz=50.0,
)
"""Two arms of six joints with a gripper each, and what they handle: the cube, or the peg and the socket (a missing
object is all zeros). Actions are joint angles and grippers, 0 closed and 1 open. The joints lag behind what they are
told, and a hand that closes looks like one that opens: only the last command tells which."""

TASKS = tuple(f"aloha/{name}" for name in _FILES)


_Wanted = tuple[np.ndarray, np.ndarray, float]
"""Where an arm's fingertips should be, how its gripper should be turned, and how open it should be."""


class Aloha(MujocoEnvironment):
    """What both tasks share: ``state`` float32 ``(28,)``, actions float32 ``(14,)``, reward 1 at success."""

    embodiment = EMBODIMENT
    max_steps = EPISODE_STEPS
    remembered = ("_steps",)

    def __init__(self, task: str) -> None:
        super().__init__()
        import mujoco

        self.task = task
        self._mujoco = mujoco
        name = Task.parse(task).name
        self._model = mujoco.MjModel.from_xml_path(str(MODELS / "aloha" / _FILES[name]))
        self._data = mujoco.MjData(self._model)
        self._instruction = _INSTRUCTIONS[name]
        self._arms = {side: _Arm(mujoco, self._model, side) for side in SIDES}
        self._grips: dict[str, _Grip] = {}
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new episode. See :class:`Environment`."""
        super().reset(seed=seed)
        self._mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:16] = _START
        self._data.ctrl[:] = _START
        for slot, pose in enumerate(self._draw()):
            self._data.qpos[16 + 7 * slot : 23 + 7 * slot] = [*pose, 1, 0, 0, 0]
        self._mujoco.mj_forward(self._model, self._data)
        self._steps = 0
        return self._observe(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step of 1/50 s. See :class:`Environment`."""
        values = self.embodiment.check_action(action).astype(np.float64).reshape(2, 7)
        finger = _CLOSED + values[:, 6] * (_OPEN - _CLOSED)
        self._data.ctrl[:] = np.concatenate([values[:, :6], finger[:, None], -finger[:, None]], 1).ravel()
        self._mujoco.mj_step(self._model, self._data, PHYSICS_STEPS)
        self._steps += 1
        success = self._success(self._touching())
        truncated = not success and self._steps >= self.max_steps
        return self._observe(), float(success), success, truncated, {"success": success}

    def expert_action(self) -> np.ndarray:
        """The next command: float32 ``(14,)``."""
        self._grips = {side: _Grip(arm, self._data.qpos, self._data.ctrl) for side, arm in self._arms.items()}
        wanted = self._wanted()
        action = []
        for side in SIDES:
            place, turn, gripper = wanted[side]
            action += [*self._arms[side].toward(self._data.ctrl, place, turn), gripper]
        return np.array(action, np.float32)

    def _draw(self) -> list[np.ndarray]:
        """Where the objects lie, ``(3,)`` each."""
        raise NotImplementedError

    def _success(self, touching: set[frozenset[str]]) -> bool:
        raise NotImplementedError

    def _wanted(self) -> dict[str, _Wanted]:
        """What the expert wants of each arm at this moment."""
        raise NotImplementedError

    def _touching(self) -> set[frozenset[str]]:
        """The names of geoms that touch, in pairs."""
        geoms = self._data.contact.geom
        return {frozenset((self._model.geom(a).name, self._model.geom(b).name)) for a, b in geoms}

    def _object(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        pose = self._data.qpos[16 + 7 * slot : 23 + 7 * slot]
        return pose[:3].copy(), pose[3:].copy()

    def _observe(self) -> Observation:
        qpos = self._data.qpos
        arms = qpos[:16].reshape(2, 8)
        grippers = (arms[:, 6:7] - _CLOSED) / (_OPEN - _CLOSED)
        state = np.zeros(len(_STATE), np.float32)
        state[:14] = np.concatenate([arms[:, :6], grippers], 1).ravel()
        state[14 : 14 + len(qpos) - 16] = qpos[16:]
        space: Any = self.observation_space
        limits = space["state"]
        return {"state": np.clip(state, limits.low, limits.high), INSTRUCTION: self._instruction}

    def _now(self) -> Observation:
        return self._observe()

    def _scene(self) -> tuple[Any, Any, Any]:
        view = self._mujoco.MjvCamera()
        view.lookat[:] = (0.0, 0.5, 0.12)
        view.distance, view.azimuth, view.elevation = 1.75, 90.0, -30.0
        return self._model, self._data, view

    def _view(self, camera: str) -> Any:
        if camera != "top":
            return camera
        view = self._mujoco.MjvCamera()
        view.lookat[:] = (0.0, 0.5, 0.05)
        view.distance, view.azimuth, view.elevation = 0.9, 90.0, -75.0
        return view


_FINGER = {side: f"vx300s_{side}/10_{side}_gripper_finger" for side in SIDES}

_HELD = 0.06
"""Metres from the fingertips within which a thing between closed fingers counts as held."""

_MEETING = np.array([0.0, 0.5, 0.22])
_TAKING = np.array([0.005, 0.5, 0.22])
_WAITING = np.array([-0.12, 0.5, 0.22])
"""Metres: where the right hand holds the cube, where the left hand takes it, and where it waits."""

_CUBE_FIRM = 0.68
_GRASP_HEIGHT = 0.034
"""How open a hand is at most when it has closed on the cube; metres of the fingertips above the table, which would hold
the fingers back if they touched it."""


class TransferCube(Aloha):
    """The right arm picks up the cube and holds it in the middle; the left arm takes it."""

    expert_noise = 0.006

    def _draw(self) -> list[np.ndarray]:
        return [np.array([*self.np_random.uniform((0.0, 0.4), (0.2, 0.6)), 0.05])]

    def _success(self, touching: set[frozenset[str]]) -> bool:
        return frozenset(("red_box", _FINGER["left"])) in touching and frozenset(("red_box", "table")) not in touching

    def _wanted(self) -> dict[str, _Wanted]:
        cube, _ = self._object(0)
        left, right = (self._grips[side] for side in SIDES)
        sideways, down = _turned((1, 0, 0), 90), _multiply(_turned((0, 1, 0), -60), right.arm.start)
        if left.firm(cube, _CUBE_FIRM):
            return {"left": (_TAKING, sideways, 0.0), "right": (_MEETING, down, 1.0)}
        wait = (_WAITING, sideways, 1.0)
        if not right.firm(cube, _CUBE_FIRM):
            return {"left": wait, "right": right.grasp(cube, np.array([*cube[:2], _GRASP_HEIGHT]), down)}
        if cube[2] < 0.06:
            return {"left": wait, "right": (right.place + np.array([0, 0, 0.1]), down, 0.0)}
        if np.linalg.norm(right.place - _MEETING) < 0.02:
            wait = left.grasp(cube, _TAKING, sideways, from_above=False)
        return {"left": wait, "right": (_MEETING, down, 0.0)}


_LEVEL = np.array([0.0, 0.5, 0.15])
_APART, _TOGETHER = 0.12, 0.035
_AHEAD = {"left": -1.0, "right": 1.0}
_GAIN = 0.5
_SAG = np.array([-0.006, 0.0, -0.0045])
_PARTS_FIRM = {"left": 0.78, "right": 0.45}
_GRASP_HEIGHTS = {"left": 0.036, "right": 0.032}
"""Where the parts meet; metres of their middles from there, apart and joined; the side that each comes from; how much
of an error is commanded beyond it; metres that the right hand gives way under its load (the left hand mirrored); and as
for the cube, of socket and peg."""


class Insertion(Aloha):
    """The left arm lifts the socket and the right arm the peg; they meet in the air."""

    expert_noise = 0.0015

    def _draw(self) -> list[np.ndarray]:
        peg = self.np_random.uniform((0.1, 0.4), (0.2, 0.6))
        socket = self.np_random.uniform((-0.2, 0.4), (-0.1, 0.6))
        return [np.array([*peg, 0.05]), np.array([*socket, 0.05])]

    def _success(self, touching: set[frozenset[str]]) -> bool:
        return frozenset(("red_peg", "pin")) in touching

    def _wanted(self) -> dict[str, _Wanted]:
        things = {"left": self._object(1), "right": self._object(0)}
        firm = {side: self._grips[side].firm(thing[0], _PARTS_FIRM[side]) for side, thing in things.items()}
        apart = _APART
        if all(firm.values()):
            # The better they are aligned, the nearer they may come.
            off = np.linalg.norm((things["left"][0] - things["right"][0])[1:])
            tilt = max(float(np.linalg.norm(turn[1:])) for _, turn in things.values())
            apart = np.clip(_TOGETHER + 12 * (off - 0.004) + 0.5 * (tilt - 0.04), _TOGETHER, _APART)
        goals = {side: _LEVEL + np.array([sign * apart, 0, 0]) for side, sign in _AHEAD.items()}
        wanted: dict[str, _Wanted] = {}
        for side, (place, _) in things.items():
            grip = self._grips[side]
            down = _multiply(_turned((0, 1, 0), -60 * _AHEAD[side]), grip.arm.start)
            if firm[side]:
                # Where the fingertips have the thing in its place: a function of what is seen. Small corrections of the
                # last command align it as well, but who imitates those ends where his errors are as large as they.
                target = goals[side] + grip.place - place + _SAG * (_AHEAD[side], 1, 1)
                wanted[side] = (target + _GAIN * (goals[side] - place), down, 0.0)
            else:
                wanted[side] = grip.grasp(place, np.array([*place[:2], _GRASP_HEIGHTS[side]]), down)
        return wanted


class _Grip:
    """What one hand does at this moment."""

    def __init__(self, arm: _Arm, qpos: np.ndarray, ctrl: np.ndarray) -> None:
        self.arm = arm
        self.place, _ = arm.fingertips(qpos)
        self._opening = (qpos[arm.finger] - _CLOSED) / (_OPEN - _CLOSED)
        self._closing = ctrl[arm.finger] < (_OPEN + _CLOSED) / 2

    def firm(self, thing: np.ndarray, opening: float) -> bool:
        """Whether the hand has closed on the thing, which leaves it open by less than ``opening``."""
        return self._around(thing) and bool(self._opening < opening)

    def grasp(self, thing: np.ndarray, target: np.ndarray, turn: np.ndarray, from_above: bool = True) -> _Wanted:
        """Come to the target with open fingers, down a funnel if from above, and close them there."""
        offset = target - self.place
        if self._around(thing) or (np.linalg.norm(offset[:2]) < 0.01 and abs(offset[2]) < 0.015):
            return target, turn, 0.0
        height = np.clip(8 * (np.linalg.norm(offset[:2]) - 0.005), 0, 0.08) if from_above else 0.0
        return target + np.array([0, 0, height]), turn, 1.0

    def _around(self, thing: np.ndarray) -> bool:
        return bool(self._closing and np.linalg.norm(thing - self.place) < _HELD)


class _Arm:
    """Kinematics of one arm, on data of its own."""

    SPEED, TURNING = 0.007, 0.05
    """Metres and radians that a command moves in a step at most."""
    FINGERTIPS = np.array([0.125, 0.0, 0.0])
    """Their middle, in the frame of the gripper's link."""

    def __init__(self, mujoco: Any, model: Any, side: str) -> None:
        self._mujoco, self._model = mujoco, model
        self._data = mujoco.MjData(model)
        self._link = model.body(f"vx300s_{side}/gripper_link").id
        first = 8 * SIDES.index(side)
        self._joints = np.arange(first, first + 6)
        self.finger = first + 6
        self._range = model.jnt_range[self._joints]
        _, self.start = self.fingertips(_START)

    def fingertips(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Place and orientation at these joint values (of ``qpos`` or ``ctrl``, whose order is the same)."""
        self._data.qpos[self._joints] = values[self._joints]
        self._mujoco.mj_kinematics(self._model, self._data)
        turn = self._data.xquat[self._link].copy()
        return self._data.xpos[self._link] + _rotate(turn, self.FINGERTIPS), turn

    def toward(self, ctrl: np.ndarray, place: np.ndarray, turn: np.ndarray) -> np.ndarray:
        """Joint angles ``(6,)`` one step from those commanded last toward this pose of the fingertips."""
        now, orientation = self.fingertips(ctrl)
        way = place - now
        way *= min(1.0, self.SPEED / max(float(np.linalg.norm(way)), 1e-9))
        spin = _rotation_vector(_multiply(turn, _inverse(orientation)))
        spin *= min(1.0, self.TURNING / max(float(np.linalg.norm(spin)), 1e-9))
        step = np.concatenate([way, 0.3 * spin])
        mujoco, model, data = self._mujoco, self._model, self._data
        mujoco.mj_comPos(model, data)
        across, around = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jac(model, data, across, around, now, self._link)
        jacobian = np.concatenate([across, 0.3 * around])[:, self._joints]
        change = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 1e-4 * np.eye(6), step)
        return np.clip(ctrl[self._joints] + np.clip(change, -0.1, 0.1), self._range[:, 0], self._range[:, 1])


def _turned(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    half = np.deg2rad(degrees) / 2
    return np.array([np.cos(half), *(np.sin(half) * np.array(axis))])


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    scalar = a[0] * b[0] - a[1:] @ b[1:]
    return np.array([scalar, *(a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:]))])


def _inverse(turn: np.ndarray) -> np.ndarray:
    return turn * (1, -1, -1, -1)


def _rotate(turn: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return _multiply(_multiply(turn, np.array([0, *vector])), _inverse(turn))[1:]


def _rotation_vector(turn: np.ndarray) -> np.ndarray:
    turn = turn if turn[0] >= 0 else -turn
    sine = float(np.linalg.norm(turn[1:]))
    return turn[1:] * (2 * np.arctan2(sine, turn[0]) / max(sine, 1e-12))


def _build(task: str) -> Aloha:
    return TransferCube(task) if task == "aloha/transfer-cube" else Insertion(task)


FAMILY = Family(
    EMBODIMENT,
    TASKS,
    ("mujoco",),
    _build,
    # The hands look alike while they open and while they close: only the last command tells which.
    horizon=Horizon(chunk=16, previous_action=True),
)

_JOINTS = [channel.name for channel in (*_arm("left"), *_arm("right"))]

PIXELS = pixel_view(FAMILY, ("top",), _JOINTS)
"""A camera above the table and the joints."""

WRISTS = pixel_view(FAMILY, ("top", "left_wrist", "right_wrist"), _JOINTS, name="wrists", pixels=128)
"""The same and a camera in each hand, in larger pictures."""

"""Kinematics of the SO-101, on data of its own: where the fingertips are, and joints that bring them to a place."""

from __future__ import annotations

from typing import Any

import numpy as np

from polysoma.simulators.so101_model import JAW, JOINTS, PAN_X

ITERATIONS = 12
_DAMPING = 1e-4
_TURN = 0.1
"""Metres that an error of one radian counts as: the place matters more than how the hand is turned."""
_JOINTS = len(JOINTS)
_LOW, _HIGH = np.deg2rad(np.array(list(JOINTS.values()))).T


def to_radians(values: np.ndarray) -> np.ndarray:
    """LeRobot's numbers ``(6,)``, degrees and the gripper's 0 to 100, as the model's joints in radians."""
    jaw = JAW[0] + np.asarray(values[_JOINTS:]) / 100 * (JAW[1] - JAW[0])
    return np.deg2rad(np.concatenate([values[:_JOINTS], jaw]))


def from_radians(joints: np.ndarray) -> np.ndarray:
    """The inverse of :func:`to_radians`."""
    degrees = np.rad2deg(joints)
    degrees[_JOINTS:] = (degrees[_JOINTS:] - JAW[0]) / (JAW[1] - JAW[0]) * 100
    return degrees


class Arm:
    """The hand always points down; how it is turned is the direction in which its jaw opens, an angle around z.

    Args:
        mujoco: the module.
        model: of the arm.
    """

    def __init__(self, mujoco: Any, model: Any) -> None:
        self._mujoco, self._model = mujoco, model
        self._data = mujoco.MjData(model)
        self._site = model.site("fingertips").id
        self._across, self._around = np.zeros((3, model.nv)), np.zeros((3, model.nv))

    def fingertips(self, joints: np.ndarray) -> np.ndarray:
        """Where they are, in metres, at these joints (radians, five or more): ``(3,)``."""
        self._data.qpos[:_JOINTS] = joints[:_JOINTS]
        self._mujoco.mj_kinematics(self._model, self._data)
        place: np.ndarray = self._data.site_xpos[self._site].copy()
        return place

    def reach(self, joints: np.ndarray, place: np.ndarray, turn: float) -> np.ndarray:
        """Joints in radians, ``(5,)``, that bring the fingertips there, by damped least squares (Wampler 1986).

        Args:
            joints: where the arm is now, in radians; the nearest solution is found.
            place: of the fingertips, in metres.
            turn: the direction in which the jaw opens, an angle around z in radians.
        """
        mujoco, model, data = self._mujoco, self._model, self._data
        wanted = np.array([[0, -np.sin(turn), np.cos(turn)], [0, np.cos(turn), np.sin(turn)], [-1, 0, 0]])
        found = np.array(joints[:_JOINTS], np.float64)
        for _ in range(ITERATIONS):
            now = self.fingertips(found)
            turned = data.site_xmat[self._site].reshape(3, 3)
            spin = 0.5 * np.cross(turned, wanted, axis=0).sum(1)
            error = np.concatenate([place - now, _TURN * spin])
            if np.abs(error).max() < 1e-4:
                break
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, self._across, self._around, self._site)
            jacobian = np.concatenate([self._across, _TURN * self._around])[:, :_JOINTS]
            square = jacobian.T @ jacobian + _DAMPING * np.eye(_JOINTS)
            found += np.clip(np.linalg.solve(square, jacobian.T @ error), -0.3, 0.3)
            found = np.clip(found, _LOW, _HIGH)
        return found


def bearing(place: np.ndarray) -> float:
    """The direction from the shoulder's axis to a place: an angle around z, 0 ahead and positive to the left."""
    return float(np.arctan2(place[1], place[0] - PAN_X))

"""Fetch (Plappert et al. 2018, arXiv 1802.09464): a seven-jointed arm with a gripper that reaches, pushes and lifts.

Tasks are those of gymnasium-robotics. Its benchmark counts success at the last of 50 steps; here, as everywhere, an
episode ends at its first success. The experts decide from the present state alone, so they can be asked anywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from polysoma.embodiment import INSTRUCTION, ContinuousActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Family
from polysoma.simulators.robotics import GoalEnvironment
from polysoma.task import Task

_SIMULATIONS = {"reach": "FetchReach-v4", "push": "FetchPush-v4", "pick-and-place": "FetchPickAndPlace-v4"}
_INSTRUCTIONS = {
    "reach": "move the hand to the goal",
    "push": "push the cube to the goal",
    "pick-and-place": "lift the cube to the goal",
}

_STATE = (
    *channels("hand_x hand_y hand_z", "m", -1, 3, group="hand"),
    *channels("left_finger right_finger", "m", -0.1, 0.1, group="hand"),
    *channels("hand_dx hand_dy hand_dz", "m", -1, 1, group="hand"),
    *channels("left_finger_d right_finger_d", "m", -0.1, 0.1, group="hand"),
    *channels("cube_x cube_y cube_z", "m", -1, 3, group="cube"),
    *channels("cube_from_hand_x cube_from_hand_y cube_from_hand_z", "m", -3, 3, group="cube"),
    *channels("cube_roll cube_pitch cube_yaw", "rad", -3.1416, 3.1416, group="cube"),
    *channels("cube_dx cube_dy cube_dz", "m", -1, 1, group="cube"),
    *channels("cube_droll cube_dpitch cube_dyaw", "rad", -10, 10, group="cube"),
    *channels("goal_x goal_y goal_z", "m", -1, 3, group="goal"),
)

EMBODIMENT = Embodiment(
    name="fetch",
    streams=(Stream("state", Modality.STATE, (len(_STATE),), _STATE), Stream(INSTRUCTION, Modality.TEXT)),
    actions=ContinuousActions(channels("dx dy dz gripper", "1", -1.0, 1.0)),
    rate_hz=25.0,
)
"""The Fetch arm: hand, fingers, cube (zeros where there is none) and goal, changes per step of 1/25 s included; moves
of the hand (1 is five centimetres a step) and the gripper (1 opens it)."""

TASKS = tuple(f"fetch/{name}" for name in _SIMULATIONS)

# Where the observation of gymnasium-robotics has what the state lists. Without a cube it is the first ten in order.
_WITH_CUBE = [0, 1, 2, 9, 10, 20, 21, 22, 23, 24, *range(3, 9), *range(11, 20)]


class Fetch(GoalEnvironment):
    """One Fetch task: ``state`` float32 ``(28,)``, actions float32 ``(4,)`` in [-1, 1], reward 1 at success."""

    embodiment = EMBODIMENT
    expert_noise = 0.2
    success_key = "is_success"

    def __init__(self, task: str) -> None:
        self._name = Task.parse(task).name
        super().__init__(task, _SIMULATIONS[self._name])
        space = self.embodiment.observation_space()["state"]
        self._low, self._high = space.low, space.high  # type: ignore[attr-defined]
        self._state = np.zeros(len(_STATE), np.float32)

    def expert_action(self) -> np.ndarray:
        """A scripted policy: float32 ``(4,)``."""
        decide = {"reach": _reach, "push": _push, "pick-and-place": _lift}[self._name]
        hand, fingers, cube, goal = self._state[:3], self._state[3:5], self._state[10:13], self._state[25:]
        move, gripper = decide(hand, float(fingers.sum()), cube, goal)
        return np.clip([*(10 * move), gripper], -1, 1).astype(np.float32)

    def _another_goal(self) -> np.ndarray:
        goal: np.ndarray = self._simulation._sample_goal()
        return goal

    def _raw(self) -> dict[str, np.ndarray]:
        raw: dict[str, np.ndarray] = self._simulation._get_obs()
        return raw

    def _observe(self, raw: dict[str, np.ndarray]) -> Observation:
        values = raw["observation"]
        self._state = np.zeros(len(_STATE), np.float32)
        if len(values) == len(_WITH_CUBE):
            self._state[:-3] = values[_WITH_CUBE]
        else:
            self._state[:10] = values
        self._state[-3:] = raw["desired_goal"]
        self._state = np.clip(self._state, self._low, self._high)
        return self._now()

    def _now(self) -> Observation:
        return {"state": self._state.copy(), INSTRUCTION: _INSTRUCTIONS[self._name]}

    def _scene(self) -> tuple[Any, Any, Any]:
        import mujoco

        view = mujoco.MjvCamera()
        view.lookat[:] = (1.3, 0.75, 0.5)
        view.distance, view.azimuth, view.elevation = 1.5, 132.0, -20.0
        # As gymnasium-robotics shows it, but without a forward pass, which would change the last bits of what follows.
        model, data = self._simulation.model, self._simulation.data
        target = model.site("target0").id
        model.site_pos[target] += self._simulation.goal - data.site_xpos[target]
        data.site_xpos[target] = self._simulation.goal
        return model, data, view


def _reach(hand: np.ndarray, opening: float, cube: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, float]:
    return goal - hand, 0.0


def _lift(hand: np.ndarray, opening: float, cube: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, float]:
    offset = cube - hand
    if np.linalg.norm(offset) < 0.02 and opening < 0.055:
        return goal - cube, -1.0
    if np.linalg.norm(offset) < 0.012:
        return offset, -1.0
    # A funnel above the cube: the nearer to its axis, the lower.
    height = np.clip(4 * (np.linalg.norm(offset[:2]) - 0.01), 0, 0.08)
    return offset + np.array([0, 0, height]), 1.0


def _push(hand: np.ndarray, opening: float, cube: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, float]:
    way = (goal - cube) * (1, 1, 0)
    distance = float(np.linalg.norm(way))
    direction = way / max(distance, 1e-6)
    behind = cube - 0.08 * direction
    offset = hand - cube
    along = float(offset @ direction)
    aside = float(np.linalg.norm((offset - along * direction)[:2]))
    if along > -0.02 or aside > 0.02:
        # Rise, go round above the cube, and come down behind it.
        if np.linalg.norm((hand - behind)[:2]) < 0.015:
            return behind - hand, -1.0
        if hand[2] < cube[2] + 0.05:
            return np.array([0, 0, 0.1]), -1.0
        return behind + np.array([0, 0, 0.08]) - hand, -1.0
    if hand[2] > cube[2] + 0.03:
        return behind - hand, -1.0
    target = np.array([*(goal - 0.02 * direction)[:2], cube[2]])
    return np.clip(target - hand, -0.1, 0.1) * min(1.0, 0.35 + 3 * distance), -1.0


FAMILY = Family(EMBODIMENT, TASKS, ("mujoco", "gymnasium_robotics"), Fetch, horizon=Horizon(chunk=4))

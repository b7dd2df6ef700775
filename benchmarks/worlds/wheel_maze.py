"""A cart on two wheels in the shipped mazes: what a body does sideways it must turn for first, so no linear law of how
it moves leads it.

``POLYSOMA_FAMILIES=benchmarks/worlds/wheel_maze.py`` makes it a body like any other::

    polysoma record wheels/medium --episodes 340 --behaviour random-goals --out data/wheels
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from polysoma.embodiment import INSTRUCTION, ContinuousActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.simulators.environment import Family
from polysoma.simulators.pointmaze import PointMaze

STATE = (
    *channels("x y", "m", -7, 7, group="cart"),
    *channels("cos_yaw sin_yaw", "1", -1, 1, group="cart"),
    *channels("forward_speed", "m/s", -1.5, 1.5, group="cart"),
    *channels("yaw_rate", "rad/s", -3, 3, group="cart"),
    *channels("goal_x goal_y", "m", -7, 7, group="goal"),
)
EMBODIMENT = Embodiment(
    name="wheels",
    streams=(Stream("state", Modality.STATE, (len(STATE),), STATE), Stream(INSTRUCTION, Modality.TEXT)),
    actions=ContinuousActions(channels("drive turn", "1", -1.0, 1.0)),
    rate_hz=20.0,
)
"""A cart: where it is and looks, how fast it rolls and turns, and the goal; what both are to become, in parts of the
most."""
FASTEST, TURNING = 1.5, 3.0
"""m/s and rad/s."""
LAG = 0.2
"""Seconds in which most of a change of speed has come."""
RADIUS, REACHED = 0.2, 0.45
"""Metres: of the cart, and from the goal at which it is reached."""


class WheelMaze(PointMaze):
    """One maze: ``state`` float32 ``(8,)``, actions float32 ``(2,)`` in [-1, 1], reward 1 at success."""

    embodiment = EMBODIMENT
    expert_noise = 0.3
    remembered = (*PointMaze.remembered, "_yaw", "_speeds")

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.max_steps, self._yaw, self._speeds = 600, 0.0, np.zeros(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new start and goal; it looks anywhere. See :class:`~polysoma.simulators.environment.Environment`."""
        self._speeds = np.zeros(2)
        super().reset(seed=seed, options=options)
        self._yaw = float(self.np_random.uniform(-math.pi, math.pi))
        return self._observe(self._raw()), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """A twentieth of a second. A wall stops what leads into it."""
        wanted = self.embodiment.check_action(action).astype(np.float64) * (FASTEST, TURNING)
        seconds = 1 / self.embodiment.rate_hz
        self._speeds += (wanted - self._speeds) * (1 - math.exp(-seconds / LAG))
        self._yaw += float(self._speeds[1]) * seconds
        place = self._state[:2].astype(np.float64)
        moved = self._speeds[0] * seconds * np.array([math.cos(self._yaw), math.sin(self._yaw)])
        free = [self._free(place + moved * part) for part in ((1, 1), (1, 0), (0, 1))]
        kept = next((part for part, can in zip(((1, 1), (1, 0), (0, 1)), free, strict=True) if can), (0, 0))
        self._simulation.point_env.set_state(place + moved * kept, np.zeros(2))
        if kept != (1, 1):
            self._speeds[0] *= 0.5
        self._steps += 1
        seen = self._observe(self._raw())
        success = bool(np.linalg.norm(self._state[:2] - self._state[-2:]) < REACHED)
        return seen, float(success), success, not success and self._steps >= self.max_steps, {"success": success}

    def expert_action(self) -> np.ndarray:
        """Turns to the next cell on the shortest way, and drives where it looks there: float32 ``(2,)``."""
        place, goal = self._state[:2], self._state[-2:]
        cell = self._cell(place)
        following = self._toward.get(cell)
        target = goal if following is None else self._middle(following)
        if following is not None:
            # Cut no corner: first to the middle of this cell across the way, then along it.
            off = (place - self._middle(cell)) * (target == self._middle(cell))
            if np.abs(off).max() > 0.2:
                target = self._middle(cell)
        way = target - place
        wrong = (math.atan2(way[1], way[0]) - self._yaw + math.pi) % (2 * math.pi) - math.pi
        drive = max(0.0, math.cos(wrong)) ** 4 * min(1.0, 0.4 + float(np.linalg.norm(way)))
        return np.clip([drive, 1.5 * wrong], -1, 1).astype(np.float32)

    def _observe(self, raw: dict[str, np.ndarray]) -> Observation:
        cart = [math.cos(self._yaw), math.sin(self._yaw), *self._speeds]
        self._state = np.concatenate([raw["observation"][:2], cart, raw["desired_goal"]]).astype(np.float32)
        return self._now()

    def _free(self, place: np.ndarray) -> bool:
        """Whether the cart stands in no wall there."""
        walls = self._simulation.maze.maze_map
        angles = np.arange(8) * math.pi / 4
        around = place + RADIUS * np.stack([np.cos(angles), np.sin(angles)], 1)
        return all(walls[row][column] != 1 for row, column in map(self._cell, around))


FAMILY = Family(EMBODIMENT, ("wheels/medium", "wheels/large"), ("mujoco", "gymnasium_robotics"), WheelMaze)

"""A point maze with pits at the inner corners of its turns: a ball that rolls into one is lost, and the episode ends.

The body and the maze are the shipped ones, so that its policies drive it, and guards of it judge them. Elsewhere
``POLYSOMA_FAMILIES=benchmarks/worlds/pit_maze.py`` puts it in the place of the shipped mazes::

    polysoma evaluate generalist --tasks pointmaze/medium --guard guards/pits

Its expert goes straight to the next cell, which cuts corners, and often just misses a pit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from polysoma.embodiment import Observation
from polysoma.simulators import pointmaze
from polysoma.simulators.pointmaze import PointMaze

WIDE = 0.3
"""Metres: the radius of a pit, for the middle of the ball."""


class PitMaze(PointMaze):
    """The medium maze with pits."""

    def __init__(self, task: str) -> None:
        super().__init__(task)
        self.pits = inner_corners(self._simulation.maze)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """See :class:`~polysoma.simulators.environment.Environment`: a fall ends the episode."""
        seen, reward, terminated, truncated, info = super().step(action)
        fell = not info["success"] and np.linalg.norm(self.pits - self._state[:2], axis=1).min() < WIDE
        return seen, reward, bool(terminated or fell), truncated and not fell, info

    def expert_action(self) -> np.ndarray:
        """A spring and a damper toward the next cell on the shortest way, whatever is between: float32 ``(2,)``."""
        place, speed, goal = self._state[:2], self._state[2:4], self._state[4:]
        following = self._toward.get(self._cell(place))
        target = goal if following is None else self._middle(following)
        return np.clip(6 * (target - place) - 1.5 * speed, -1, 1).astype(np.float32)


def inner_corners(maze: Any) -> np.ndarray:
    """Where free cells meet around the corner of a wall, float64 ``(pits, 2)``."""
    free, found = np.array([[cell != 1 for cell in row] for row in maze.maze_map]), []
    for row, column in np.argwhere(free):
        for down in (-1, 1):
            for right in (-1, 1):
                if free[row + down, column] and free[row, column + right] and not free[row + down, column + right]:
                    here, there = (
                        np.asarray(maze.cell_rowcol_to_xy(np.array(cell)))
                        for cell in ((row, column), (row + down, column + right))
                    )
                    found.append((here + there) / 2)
    return np.array(found)


FAMILY = replace(pointmaze.FAMILY, tasks=("pointmaze/medium",), build=PitMaze)

"""Point mazes (Fu et al. 2020, arXiv 2004.07219): a ball that is pushed through one of three mazes to a goal.

Simulated by gymnasium-robotics. The maze is not observed: the instruction names it, and its walls are the same in every
episode. The expert follows the shortest way through the cells.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from polysoma.embodiment import INSTRUCTION, ContinuousActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Family
from polysoma.simulators.robotics import GoalEnvironment
from polysoma.task import Task

_SIMULATIONS = {"umaze": "PointMaze_UMaze-v3", "medium": "PointMaze_Medium-v3", "large": "PointMaze_Large-v3"}
_INSTRUCTIONS = {
    "umaze": "go to the goal in the u-shaped maze",
    "medium": "go to the goal in the medium maze",
    "large": "go to the goal in the large maze",
}

# Limits hold the largest maze. Speeds are cut at 5 m/s before each step.
_STATE = (
    *channels("x y", "m", -7, 7, group="ball"),
    *channels("vx vy", "m/s", -6, 6, group="ball"),
    *channels("goal_x goal_y", "m", -7, 7, group="goal"),
)

EMBODIMENT = Embodiment(
    name="pointmaze",
    streams=(Stream("state", Modality.STATE, (len(_STATE),), _STATE), Stream(INSTRUCTION, Modality.TEXT)),
    actions=ContinuousActions(channels("force_x force_y", "1", -1.0, 1.0)),
    rate_hz=100.0,
)
"""A ball: its place, its speed and the goal; the force on it in parts of the largest."""

TASKS = tuple(f"pointmaze/{name}" for name in _SIMULATIONS)

_REACHED = 0.45
"""Metres to the goal at which it is reached."""
_PASSED = 0.3
"""Metres from the middle of a cell at which the expert turns to the next."""


class PointMaze(GoalEnvironment):
    """One maze: ``state`` float32 ``(6,)``, actions float32 ``(2,)`` in [-1, 1], reward 1 at success."""

    embodiment = EMBODIMENT
    expert_noise = 0.3
    success_key = "success"
    remembered = (*GoalEnvironment.remembered, "_toward")

    def __init__(self, task: str) -> None:
        name = Task.parse(task).name
        super().__init__(task, _SIMULATIONS[name], continuing_task=False)
        # The simulation has read it, and leaves it in the folder for temporary files.
        Path(self._simulation.tmp_xml_file_path).unlink(missing_ok=True)
        self._instruction = _INSTRUCTIONS[name]
        self._state = np.zeros(len(_STATE), np.float32)
        self._toward: dict[tuple[int, int], tuple[int, int]] = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new start and goal. See :class:`~polysoma.simulators.environment.Environment`."""
        start = super().reset(seed=seed, options=options)
        self._toward = self._shortest_ways(self._cell(self._state[-2:]))
        return start

    def _put_physics(self, physics: np.ndarray) -> None:
        # The marker of the goal stands in the model, which MuJoCo's state does not hold.
        self._simulation.update_target_site_pos()
        super()._put_physics(physics)

    def new_goal(self) -> Observation | None:
        """See :class:`~polysoma.simulators.environment.Environment`."""
        seen = super().new_goal()
        self._simulation.update_target_site_pos()
        self._toward = self._shortest_ways(self._cell(self._state[-2:]))
        return seen

    def expert_action(self) -> np.ndarray:
        """A spring and a damper toward the next cell on the shortest way: float32 ``(2,)``."""
        place, speed, goal = self._state[:2], self._state[2:4], self._state[4:]
        cell = self._cell(place)
        following = self._toward.get(cell)
        if following is None:
            target = goal
        else:
            target = self._middle(following)
            # Cut no corner: first to the middle of this cell across the way, then along it.
            along = target - self._middle(cell)
            off = (place - self._middle(cell)) * (along == 0)
            if np.abs(off).max() > _PASSED:
                target = self._middle(cell)
        return np.clip(6 * (target - place) - 1.5 * speed, -1, 1).astype(np.float32)

    def remaining(self) -> float:
        """Metres to the goal: by way of the middles of the cells on the shortest way, and straight from the last cell
        before the goal's."""
        place, goal, metres = self._state[:2], self._state[-2:], 0.0
        cell = self._cell(place)
        while (cell := self._toward.get(cell, cell)) in self._toward:
            middle = self._middle(cell)
            metres += float(np.linalg.norm(middle - place))
            place = middle
        return metres + float(np.linalg.norm(goal - place))

    def _another_goal(self) -> np.ndarray:
        simulation = self._simulation
        while True:
            goal: np.ndarray = simulation.add_xy_position_noise(simulation.generate_target_goal())
            if np.linalg.norm(goal - self._state[:2]) > _REACHED:
                return goal

    def _raw(self) -> dict[str, np.ndarray]:
        point, _ = self._simulation.point_env._get_obs()
        raw: dict[str, np.ndarray] = self._simulation._get_obs(point)
        return raw

    def _observe(self, raw: dict[str, np.ndarray]) -> Observation:
        self._state = np.concatenate([raw["observation"], raw["desired_goal"]]).astype(np.float32)
        return self._now()

    def _now(self) -> Observation:
        return {"state": self._state.copy(), INSTRUCTION: self._instruction}

    def _scene(self) -> tuple[Any, Any, Any]:
        import mujoco

        view = mujoco.MjvCamera()
        view.distance, view.azimuth, view.elevation = 1.1 * self._simulation.maze.map_width + 1.5, 90.0, -75.0
        return self._simulation.model, self._simulation.data, view

    def _cell(self, place: np.ndarray) -> tuple[int, int]:
        row, column = self._simulation.maze.cell_xy_to_rowcol(place)
        return int(row), int(column)

    def _middle(self, cell: tuple[int, int]) -> np.ndarray:
        middle: np.ndarray = self._simulation.maze.cell_rowcol_to_xy(np.array(cell))
        return middle

    def _shortest_ways(self, goal: tuple[int, int]) -> dict[tuple[int, int], tuple[int, int]]:
        """From every free cell but the goal's, the next one on the shortest way to it."""
        walls = self._simulation.maze.maze_map
        toward: dict[tuple[int, int], tuple[int, int]] = {}
        waiting = deque([goal])
        while waiting:
            row, column = waiting.popleft()
            for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
                if cell != goal and cell not in toward and walls[cell[0]][cell[1]] != 1:
                    toward[cell] = (row, column)
                    waiting.append(cell)
        return toward


FAMILY = Family(EMBODIMENT, TASKS, ("mujoco", "gymnasium_robotics"), PointMaze, horizon=Horizon(chunk=8))

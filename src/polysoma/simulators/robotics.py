"""What tasks of gymnasium-robotics share: a goal, and success at the first step that reaches it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from polysoma.embodiment import Observation
from polysoma.simulators.environment import MujocoEnvironment, import_quietly


class GoalEnvironment(MujocoEnvironment):
    """One registered environment of gymnasium-robotics. Its own limit of steps is not used.

    Args:
        task: full name, ``"family/task"``.
        registered: name in Gymnasium's registry.
        options: for ``gymnasium.make``.
    """

    remembered: tuple[str, ...] = ("_state", "_steps", "_simulation.goal", "_simulation._np_random")

    success_key: str
    """Where the simulation's ``info`` says that the goal is reached."""

    def __init__(self, task: str, registered: str, **options: Any) -> None:
        super().__init__()
        import_quietly("gymnasium_robotics")
        self.task = task
        made = gymnasium.make(registered, disable_env_checker=True, **options)
        assert made.spec is not None and made.spec.max_episode_steps is not None
        self.max_steps = made.spec.max_episode_steps
        self._simulation: Any = made.unwrapped
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new episode. See :class:`~polysoma.simulators.environment.Environment`."""
        super().reset(seed=seed)
        raw, _ = self._simulation.reset(seed=self.own_seed(seed))
        self._steps = 0
        return self._observe(raw), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step at the body's rate. See :class:`~polysoma.simulators.environment.Environment`."""
        raw, _, _, _, info = self._simulation.step(self.embodiment.check_action(action))
        self._steps += 1
        success = bool(info[self.success_key])
        truncated = not success and self._steps >= self.max_steps
        return self._observe(raw), float(success), success, truncated, {"success": success}

    def new_goal(self) -> Observation | None:
        """See :class:`~polysoma.simulators.environment.Environment`."""
        self._simulation.goal = self._another_goal()
        return self._observe(self._raw())

    def _another_goal(self) -> np.ndarray:
        """A goal as the simulation draws it."""
        raise NotImplementedError

    def _raw(self) -> dict[str, np.ndarray]:
        """The simulation's own observation."""
        raise NotImplementedError

    def _observe(self, raw: dict[str, np.ndarray]) -> Observation:
        """What is observed then; it is remembered as ``_state``, as it may hold more than MuJoCo's state tells."""
        raise NotImplementedError

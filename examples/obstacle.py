"""Two ways round an obstacle: demonstrations pass it on either side, and their mean runs into it.

Shows which action heads cope with several right answers: see benchmarks/heads.py.
"""

import gymnasium
import numpy as np

from polysoma.embodiment import ContinuousActions, Embodiment, Modality, Stream, channels
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Environment, Family

START, GOAL, RADIUS, SPEED = np.array([0.0, -0.6]), np.array([0.0, 0.8]), 0.4, 0.06

EMBODIMENT = Embodiment(
    name="walker",
    streams=(
        Stream("state", Modality.STATE, (2,), channels("x y", "m", -3, 3)),
        Stream("instruction", Modality.TEXT),
    ),
    actions=ContinuousActions(channels("dx dy", "1", -1, 1)),
    rate_hz=10,
)


class Obstacle(Environment):
    """Walk from below to the goal above without touching the round obstacle between. The expert picks a side."""

    embodiment = EMBODIMENT
    max_steps = 80
    expert_noise = 0.1

    def __init__(self, task):
        super().__init__()
        self.task = task

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        self._place = START + self.np_random.uniform(-0.03, 0.03, 2)
        self._side = (-1, 1)[int(self.np_random.integers(2))]
        self._steps = 0
        return self._observe(), {"success": False}

    def step(self, action):
        self._place = self._place + SPEED * np.clip(action, -1, 1)
        self._steps += 1
        hit = np.linalg.norm(self._place) < RADIUS
        success = bool(np.linalg.norm(self._place - GOAL) < 0.12)
        over = self._steps >= self.max_steps
        return self._observe(), float(success), bool(hit or success), over, {"success": success}

    def expert_action(self):
        beside = np.array([self._side * (RADIUS + 0.25), 0.0])
        way = (beside if self._place[1] < -0.05 else GOAL) - self._place
        return np.clip(way / max(np.linalg.norm(way), SPEED), -1, 1).astype(np.float32)

    def _observe(self):
        return {"state": self._place.astype(np.float32), "instruction": "walk to the goal"}


FAMILY = Family(EMBODIMENT, ("walker/obstacle",), ("gymnasium",), Obstacle, horizon=Horizon(chunk=8))

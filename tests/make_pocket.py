"""Worlds of a few lines to improve a policy in: a point that should go right or stay, and a choice of a door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from polysoma.data.statistics import Statistics
from polysoma.embodiment import (
    INSTRUCTION,
    ContinuousActions,
    DiscreteActions,
    Embodiment,
    Modality,
    Observation,
    Stream,
    channels,
)
from polysoma.horizon import Horizon
from polysoma.nn.trunk import TransformerConfig
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy
from polysoma.simulators.environment import Environment, Family, Saved

TEXT = Stream(INSTRUCTION, Modality.TEXT)
POINT = Embodiment(
    "point",
    (Stream("state", Modality.STATE, (2,), channels("x goal", "m", -2, 2)), TEXT),
    ContinuousActions(channels("dx", "m", -0.2, 0.2)),
    rate_hz=10,
)
DOORS = Embodiment(
    "doors",
    (Stream("shown", Modality.SYMBOL, (1,), cardinalities=(2,)), TEXT),
    DiscreteActions(("first", "second", "wait")),
    rate_hz=5,
)


class Pocket(Environment):
    """The point starts at 0; success is at 1."""

    embodiment = POINT
    task = "point/right"
    max_steps = 40

    def __init__(self, task: str = "point/right") -> None:
        super().__init__()
        self.x, self.steps = 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.x, self.steps = float(self.np_random.uniform(-0.2, 0.2)), 0
        return self._now(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.x = float(np.clip(self.x + float(action[0]), -1, 1))
        self.steps += 1
        success = self.x >= 1
        return self._now(), float(success), success, self.steps >= self.max_steps, {"success": success}

    def remaining(self) -> float:
        return 1 - self.x

    def get_state(self) -> Saved:
        return Saved(self.task, np.array([self.x]), {"steps": self.steps})

    def set_state(self, saved: Saved) -> Observation:
        self.x, self.steps = float(saved.physics[0]), saved.memory["steps"]
        return self._now()

    def _now(self) -> Observation:
        return {"state": np.array([self.x, 1.0], np.float32), INSTRUCTION: "go"}


class Stay(Pocket):
    """The point starts at 0; success is to be near it at the end."""

    task = "point/stay"
    max_steps = 10

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        seen, _, _, over, _ = super().step(action)
        success = over and abs(self.x) < 0.9
        return seen, float(success), False, over, {"success": success}


class Doors(Environment):
    """What is shown says which door is the right one; a wrong one ends the episode."""

    embodiment = DOORS
    task = "doors/open"
    max_steps = 5

    def __init__(self, task: str = "doors/open") -> None:
        super().__init__()
        self.shown, self.steps = 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.shown, self.steps = int(self.np_random.integers(2)), 0
        return self._now(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        success = int(action) == self.shown
        return self._now(), float(success), int(action) < 2, self.steps >= self.max_steps, {"success": success}

    def _now(self) -> Observation:
        return {"shown": np.array([self.shown], np.uint8), INSTRUCTION: "go"}


def point(task: str) -> Environment:
    return Stay() if task == Stay.task else Pocket()


FAMILY = Family(POINT, (Pocket.task, Stay.task), (), point, horizon=Horizon(chunk=4))


def still(seed: int = 0) -> Policy:
    """A policy of both bodies that knows nothing: the point's actions are about 0, doors are opened at random."""
    torch.manual_seed(seed)
    one = Statistics.of(np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32) * 0.02)
    two = Statistics.of(np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32))
    return Policy(
        PolicyConfig(
            (POINT, DOORS), {"point": {"state": two, "action": one}, "doors": {}}, ("go",),
            {"point": Horizon(chunk=4), "doors": Horizon(history=2)}, width=32,
            trunk=TransformerConfig(depth=1, heads=2), heads=2,
        )
    ).eval()  # fmt: skip


def saved(folder: Path) -> Path:
    """A checkpoint of both bodies."""
    checkpoint.save(still(), folder)
    return folder

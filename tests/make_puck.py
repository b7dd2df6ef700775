"""Logs of a puck on a table: it moves as it is told, and observes a goal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.replay import Replay
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import INSTRUCTION, ContinuousActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.simulators.environment import Environment, Family

STATE = (*channels("x y", "m", -10, 10), *channels("goal_x goal_y", "m", -10, 10))
PUCK = Embodiment(
    name="puck",
    streams=(Stream("state", Modality.STATE, (4,), STATE), Stream(INSTRUCTION, Modality.TEXT)),
    actions=ContinuousActions(channels("dx dy", "1", -2.0, 2.0)),
    rate_hz=20.0,
)
SPEED = 0.1


def walk(
    rng: np.random.Generator, start: np.ndarray, length: int, seed: int, toward: np.ndarray | None = None
) -> Episode:
    """An episode in about one direction; what it earns is how far it moves along x."""
    direction = rng.normal(size=2) if toward is None else toward
    direction = direction / np.linalg.norm(direction)
    actions = np.clip(direction + rng.normal(0, 0.2, (length, 2)), -2, 2).astype(np.float32)
    places = start + SPEED * np.concatenate([np.zeros((1, 2)), np.cumsum(actions, 0)])
    states = np.concatenate([places, np.zeros((length + 1, 2))], 1).astype(np.float32)
    return Episode(
        PUCK, "puck/go", "go", seed, False, {"state": states[:-1]}, actions, actions,
        rewards=actions[:, 0].copy(), truncated=True, final={"state": states[-1]},
    )  # fmt: skip


def walks(root: Path, count: int = 150, length: int = 12, seed: int = 0) -> Dataset:
    """Short walks from anywhere, in any direction."""
    rng = np.random.default_rng(seed)
    with DatasetWriter(root, PUCK) as writer:
        for number in range(count):
            writer.add(walk(rng, rng.uniform(-2, 2, 2), length, number))
    return Dataset(root)


def spoilt(root: Path) -> Dataset:
    """Short walks, one reward of which is no number, as files of other libraries may have it."""
    data = walks(root, 10)
    assert data.raw_rewards is not None
    data.raw_rewards = data.raw_rewards.copy()
    data.raw_rewards[12 * 3 + 5] = np.nan
    return data


def around(root: Path, count: int = 60) -> Dataset:
    """Walks along three sides of a square, from (0, 0) over (0, 2) and (2, 2) to (2, 0), one side in each."""
    rng = np.random.default_rng(0)
    corners = np.array([[0, 0], [0, 2], [2, 2], [2, 0]], float)
    with DatasetWriter(root, PUCK) as writer:
        for number in range(count):
            leg = number % 3
            way = corners[leg + 1] - corners[leg]
            writer.add(walk(rng, corners[leg] + 0.05 * rng.normal(size=2), 20, number, way))
    return Dataset(root)


class Along(torch.nn.Module):
    """How far along three sides of a square a place is, in steps: from (0, 0) over (0, 2) and (2, 2) to (2, 0)."""

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        x, y = places[..., 0], places[..., 1]
        sides = torch.stack([x.abs(), (y - 2).abs(), (x - 2).abs()], -1).argmin(-1)
        along = torch.stack([y, 2 + x, 6 - y], -1).gather(-1, sides[..., None])
        return torch.cat([along / SPEED, torch.zeros_like(along)], -1)


class Table(Environment):
    """Episodes of the puck, of 20 frames; what they earn is how far it moves along x, or 1 at its goal, which ends
    them."""

    embodiment = PUCK
    max_steps = 20

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        self.reward_kind = "dense" if task == "puck/go" else "success"
        self._place, self._goal, self._steps = np.zeros(2), np.zeros(2), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        found = super().reset(seed=seed)
        rng = np.random.default_rng(seed)
        self._place, self._steps = rng.uniform(-1, 1, 2), 0
        # As in the logs, where it only moves.
        self._goal = rng.uniform(-1, 1, 2) * (self.task != "puck/go")
        return self._seen(), found[1]

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self._place = self._place + SPEED * action
        self._steps += 1
        near = self.task != "puck/go" and bool(np.linalg.norm(self._place - self._goal) < 0.3)
        reward = float(action[0]) if self.task == "puck/go" else float(near)
        return self._seen(), reward, near, not near and self._steps >= self.max_steps, {"success": near}

    def _seen(self) -> Observation:
        return {"state": np.concatenate([self._place, self._goal]).astype(np.float32), INSTRUCTION: "go"}


TABLE = Family(PUCK, ("puck/go", "puck/goal"), (), Table)


def rows_drawn(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The rows from which steps are made, a part for each time that a method asks for steps from here on."""
    drawn: list[np.ndarray] = []
    steps = Replay.steps

    def remembered(self: Replay, rows: np.ndarray, *how: Any) -> Any:
        drawn.append(rows)
        return steps(self, rows, *how)

    monkeypatch.setattr(Replay, "steps", remembered)
    return drawn

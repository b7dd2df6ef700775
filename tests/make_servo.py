"""Recordings of a servo with two cameras, and a policy that copies its last command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polysoma.data.batch import Batch
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.mixture import Source
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import ContinuousActions, Embodiment, Modality, Stream, channels
from polysoma.horizon import Horizon

CHUNK = 3
SERVO = Embodiment(
    "servo",
    (
        Stream("joints", Modality.STATE, (3,), channels("elbow wrist speed", "rad")),
        Stream("front", Modality.IMAGE, (4, 4, 3)),
        Stream("side", Modality.IMAGE, (4, 4, 3)),
        Stream("instruction", Modality.TEXT),
    ),
    ContinuousActions(channels("wrist elbow", "rad", -9, 9)),
    rate_hz=10,
)
"""Its commands are named as its joints, in another order."""


def servo_episode(seed: int, length: int, told: str) -> Episode:
    """Commands are what the front camera's first pixel shows, plus 1 where the words say so; what was executed is a
    little off."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(0, 256, (length, 4, 4, 3)).astype(np.uint8)
    wrist = shown[:, 0, 0, 0] / 64 + (told == "open")
    actions = np.stack([wrist, rng.normal(size=length)], 1).astype(np.float32)
    observations = {
        "joints": rng.normal(size=(length, 3)).astype(np.float32),
        "front": shown,
        "side": rng.integers(0, 256, shown.shape).astype(np.uint8),
    }
    executed = actions + np.float32(0.25)
    return Episode(SERVO, "servo/one", told, seed, True, observations, actions, executed)


def source_of(root: Path, body: Embodiment, episodes: list[Episode], horizon: Horizon) -> Source:
    """Of two data sets, the first of which has two episodes."""
    parts = [part for part in (episodes[:2], episodes[2:]) if part]
    for number, part in enumerate(parts):
        with DatasetWriter(root / str(number), body) as writer:
            for episode in part:
                writer.add(episode)
    datasets = [Dataset(root / str(number)) for number in range(len(parts))]
    return Source(datasets, [1.0] * len(parts), 0.0, horizon=horizon)


def last(batch: Batch, value: Tensor) -> Tensor:
    return value[torch.arange(len(batch)), batch.lengths - 1]


def copies(batch: Batch) -> Tensor:
    """Does what was executed last."""
    return last(batch, batch.previous)[:, None].repeat(1, CHUNK, 1)

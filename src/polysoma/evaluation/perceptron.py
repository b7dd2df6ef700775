"""The control that learns: a small perceptron that sees neither pictures nor words.

It reads the states and the command that was executed last, and predicts how far the commands of a chunk are from that
one. Its last layer begins at zero, so it begins as the control *repeat*. On recordings of real robots seconds of it can
be hard to beat, as commands follow from those before (Wen et al. 2020, "Fighting Copycat Agents in Behavioral Cloning
from Observation Histories"). What a policy gains by its pictures and words is what it is better by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.data.mixture import Source
from polysoma.data.statistics import Statistics
from polysoma.embodiment import ContinuousActions, Modality

_WIDTH, _STEPS, _BATCH, _RATE = 128, 800, 128, 1e-3
"""One to three seconds of one core; with more steps it learns twenty episodes by heart. Steps, not seconds, so that the
same episodes always give the same perceptron."""
_FRAMES = 30_000
"""Evenly spaced frames that it learns from at most."""
_CONSTANT = 1e-6
"""Offsets that vary less do not vary."""


@dataclass(frozen=True, eq=False)
class Perceptron:
    """What :func:`learn` returns.

    Attributes:
        network: from normalised states and last command to normalised offsets.
        seen: statistics of its inputs.
        scale: of offsets, float32 ``(chunk * A,)``.
    """

    network: nn.Module
    seen: Statistics
    scale: np.ndarray

    def predict(self, source: Source, frames: np.ndarray) -> np.ndarray:
        """Chunks that begin at these frames, float32 ``(F, chunk, A)``.

        Args:
            source: of the body and the horizon that it learnt.
            frames: as :meth:`polysoma.data.mixture.Source.spaced` returns them.
        """
        seen, before, _, _ = _examples(source, frames)
        with torch.inference_mode():
            found: np.ndarray = self.network(torch.from_numpy((seen - self.seen.mean) / self.seen.scale)).numpy()
        return before[:, None] + (found * self.scale).reshape(len(frames), -1, before.shape[1])


def learn(source: Source, seed: int = 0) -> Perceptron | None:
    """Learns from the episodes of a source; None where actions are choices, or no episode has two frames.

    Args:
        source: the episodes, with the horizon whose chunks it is to predict.
        seed: of what is drawn.
    """
    frames = source.spaced(_FRAMES)
    if not isinstance(source.embodiment.actions, ContinuousActions) or not len(frames):
        return None
    seen, before, target, valid = _examples(source, frames)
    offsets = (target - before[:, None]).reshape(len(frames), -1)
    inputs, scale = Statistics.of(seen), offsets.std(0)
    scale[scale < _CONSTANT] = 1
    x, y = torch.from_numpy((seen - inputs.mean) / inputs.scale), torch.from_numpy(offsets / scale)
    counts = torch.from_numpy(valid.repeat(before.shape[1], 1).astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(x.shape[1], y.shape[1])
        optimizer = torch.optim.AdamW(network.parameters(), _RATE)
        slower = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        for _ in range(_STEPS):
            rows = torch.randint(len(x), (_BATCH,))
            missed: Tensor = (network(x[rows]) - y[rows]).abs() * counts[rows]
            optimizer.zero_grad()
            missed.mean().backward()
            optimizer.step()
            slower.step()
    return Perceptron(network, inputs, scale)


def _network(inputs: int, outputs: int) -> nn.Module:
    last = nn.Linear(_WIDTH, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, _WIDTH), nn.GELU(), nn.Linear(_WIDTH, _WIDTH), nn.GELU(), last)


def _examples(source: Source, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of each frame: states and the last command, float32 ``(F, S + A)``; that command, ``(F, A)``; the chunk that was
    demonstrated, ``(F, chunk, A)``; and which of its actions are true, bool ``(F, chunk)``."""
    names = [stream.name for stream in source.embodiment.streams if stream.modality is Modality.STATE]
    ahead, parts = np.arange(source.horizon.chunk), []
    order = np.argsort(frames[:, 0], kind="stable")
    for number in np.unique(frames[:, 0]):
        dataset, own = source.datasets[number], frames[order][frames[order, 0] == number]
        start, length = dataset.episode_start[own[:, 1]], dataset.episode_length[own[:, 1]]
        row, left = start + own[:, 2], length - own[:, 2]
        before = dataset.executed[row - 1]
        seen = np.concatenate([*(dataset.observations[name][row] for name in names), before], 1)
        target = dataset.actions[row[:, None] + np.minimum(ahead, left[:, None] - 1)]
        parts.append((seen, before, target, ahead < left[:, None]))
    back = np.argsort(order, kind="stable")
    seen, before, target, valid = (np.concatenate(column)[back] for column in zip(*parts, strict=True))
    return seen, before, target, valid

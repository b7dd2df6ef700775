"""What a policy answers at frames of recorded episodes, beside what was demonstrated there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.embodiment import Embodiment
from polysoma.evaluation.importance import swapped

Predict = Callable[[Batch], Tensor]
"""Whole windows to what :meth:`polysoma.policy.policy.Policy.predict` returns."""

_BATCH = 64


@dataclass(frozen=True)
class Answers:
    """Of W windows: predictions as :data:`Predict` returns them, the chunks that were demonstrated and which of their
    actions are true, bool ``(W, chunk)``, what was executed before, and where the joints were (None: not known)."""

    predicted: np.ndarray
    target: np.ndarray
    valid: np.ndarray
    before: np.ndarray
    now: np.ndarray | None


def ask(
    predict: Predict, source: Source, frames: np.ndarray, seed: int, name: str = "", others: np.ndarray | None = None
) -> Answers:
    """Asks at these frames, with the input of this name as it was at other ones."""
    parts = list(_batches(predict, source, frames, seed, name, others))
    sensed = _sensed(source.embodiment)
    joined = [np.concatenate([part[column] for part in parts]) for column in range(5 if sensed else 4)]
    return Answers(joined[0], joined[1], joined[2], joined[3], joined[4] if sensed else None)


def _batches(
    predict: Predict, source: Source, frames: np.ndarray, seed: int, name: str, others: np.ndarray | None
) -> Iterator[list[np.ndarray]]:
    sensed = _sensed(source.embodiment)
    for begin in range(0, len(frames), _BATCH):
        part = slice(begin, begin + _BATCH)
        batch = source.ending_at(frames[part])
        assert batch.actions is not None and batch.action_valid is not None
        last = (torch.arange(len(batch)), batch.lengths - 1)
        asked = batch if others is None else swapped(batch, source.ending_at(others[part]), name)
        # Heads that draw start from the same noise in every pass, so that it is only the input that differs.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + begin)
            predicted = predict(asked)
        found = [predicted, batch.actions[last], batch.action_valid[last], batch.previous[last]]
        if sensed:
            found.append(torch.stack([batch.observations[stream][last][:, place] for stream, place in sensed], -1))
        yield [value.numpy() for value in found]


def _sensed(body: Embodiment) -> list[tuple[str, int]]:
    """Where the state says at what each action channel is; empty where it does not say so of all."""
    places = list(body.positions.values())
    return places if len(places) == body.actions.size else []

"""What methods share: drawing windows for a step, and losses over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.data.paraphrases import Paraphrases, read_paraphrases
from polysoma.data.windows import DemonstrationSampler
from polysoma.learning.bodies import BodyRecipe
from polysoma.policy.policy import Policy

HELD_OUT_WINDOWS = 256


def paraphrases_for(name: str) -> Paraphrases | None:
    """The words that training says half of its instructions in; None for no name. Raises as
    :func:`~polysoma.data.paraphrases.read_paraphrases`."""
    return read_paraphrases(name, "train", plain=0.5) if name else None


def showing(body: BodyRecipe, frames: int, rng: np.random.Generator) -> DemonstrationSampler | None:
    """How many episodes a step's windows are shown, of ``frames`` frames: the same for all, so that none is padding."""
    if not body.shots:
        return None
    choices = [0, *(2**power for power in range(body.shots.bit_length()))]
    return DemonstrationSampler(choices[int(rng.integers(len(choices)))], frames, body.silent, rng)


def targets(parts: Sequence[Batch]) -> int:
    """How many true actions the loss of these windows is over."""
    return sum(int(part.action_valid.sum()) for part in parts if part.action_valid is not None)


def split_by_length(batch: Batch, parts: int) -> Iterator[Batch]:
    """Windows as micro-batches of about the same length, so that padding is little."""
    words = np.array([len(text.split()) for text in batch.texts])
    order = np.argsort(2 * batch.lengths.numpy() + words, kind="stable")
    for rows in np.array_split(order, min(parts, len(order))):
        yield batch.take(rows)


def held_out_loss(policy: Policy, source: Source, body: BodyRecipe) -> float:
    """The mean loss on windows of episodes apart, shown as many episodes as training shows at most. The same windows
    every time, so that losses can be compared."""
    torch.manual_seed(0)
    how = DemonstrationSampler(body.shots, policy.config.shown, body.silent, np.random.default_rng(1))
    windows = source.draw(HELD_OUT_WINDOWS, np.random.default_rng(0), showing=how)
    return sum(policy.loss(part).item() for part in split_by_length(windows, 4)) / targets([windows])

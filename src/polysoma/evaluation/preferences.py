"""How good a learnt reward is: on pairs and returns that it did not learn from, beside what needs no learning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr

from polysoma.data.preferences import Clip, Clips, Pair
from polysoma.learning.methods.preferences import Sums, seeded
from polysoma.policy.rewards import RewardModel

LEARNT, SHORTER, UNTRAINED = "the learnt reward", "the shorter one", "an untrained network"


@dataclass(frozen=True)
class Judged:
    """What scores are worth.

    Attributes:
        right: of how many pairs each score puts the better clip first; those that are equal are left out. The length
            is no score where all clips have the same.
        pairs: how many there were.
        rank: Spearman's correlation of each score with the true worth of clips; NaN where either never changes, empty
            where nothing is known.
        clips: how many there were.
    """

    right: dict[str, int]
    pairs: int
    rank: dict[str, float]
    clips: int


def judged(
    model: RewardModel, clips: Clips, pairs: Sequence[Pair], chosen: Sequence[Clip], worth: np.ndarray | None
) -> Judged:
    """Judges a reward.

    Args:
        model: the reward.
        clips: the logs.
        pairs: of clips that it did not learn from.
        chosen: clips that it did not learn from.
        worth: how good they truly are, float ``(len(chosen),)``; None where nobody knows.
    """
    pairs = [pair for pair in pairs if pair.better != "equal"]
    both = [clip for pair in pairs for clip in (pair.first, pair.second)]
    firsts = np.array([pair.better == "first" for pair in pairs])
    right = {}
    for name, scores in (_scores(model, clips, both) if both else {}).items():
        first, second = scores.reshape(-1, 2).T
        right[name] = int(((first > second) == firsts)[first != second].sum())
    rank = {}
    if worth is not None and len(chosen) > 1:
        rank = {name: spearman(scores, worth) for name, scores in _scores(model, clips, chosen).items()}
    return Judged(right, len(pairs), rank, len(chosen))


def _scores(model: RewardModel, clips: Clips, chosen: Sequence[Clip]) -> dict[str, np.ndarray]:
    sums, size = Sums(clips, chosen), (model.config.width, model.config.depth, model.config.members)
    untrained = seeded(clips, size, 0)
    untrained.measure(torch.from_numpy(clips.states))
    found = {LEARNT: sums.of(model), UNTRAINED: sums.of(untrained)}
    shorter = -np.array([clip.frames for clip in chosen], np.float64)
    return found | ({SHORTER: shorter} if np.ptp(shorter) else {})


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where one of both never changes."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(spearmanr(one, other)[0])

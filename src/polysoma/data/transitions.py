"""Transitions: what learning from rewards sees of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polysoma.data.dataset import Dataset
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class Transitions:
    """B transitions of one embodiment. The value that learning aims at is ``rewards + discounts * V(next)``.

    Attributes:
        observations: stream name to what was observed before the action, ``(B, *shape)``.
        actions: what was executed, float32 ``(B, A)`` or int64 ``(B,)``: rewards are of that, not of labels.
        rewards: discounted sum of the rewards of the steps from this one on, float32 ``(B,)``.
        next_observations: stream name to what was observed after these steps, ``(B, *shape)``.
        discounts: what the value of ``next_observations`` counts, float32 ``(B,)``; 0 where the episode terminated.
        steps: how many steps were made, int64 ``(B,)``: fewer than asked for at the end of an episode.
        known: whether ``next_observations`` are known, bool ``(B,)``.
        valid: whether the sum above can be computed, bool ``(B,)``: the next observation is known, or counts nothing.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: dict[str, np.ndarray]
    discounts: np.ndarray
    steps: np.ndarray
    known: np.ndarray
    valid: np.ndarray


def transitions(
    dataset: Dataset, frames: np.ndarray, discount: float = 1.0, steps: int = 1, streams: Sequence[str] | None = None
) -> Transitions:
    """Reads the transitions that begin at some frames. No transition reaches into another episode.

    Args:
        dataset: where from.
        frames: int64 ``(B,)``, below ``len(dataset)``.
        discount: of each step.
        steps: how many a transition makes, as far as its episode goes (Sutton and Barto 2018, n-step returns).
        streams: names of what is read; None for all.

    Raises:
        PolysomaError: the data set has no rewards, or one is not finite; fewer than one step, or a discount that is
            not from 0 to 1.
    """
    if steps < 1:
        raise PolysomaError(f"steps: expected 1 or more for a transition, got {steps}")
    _check_discount(discount)
    rewards = needed_rewards(dataset, "transitions")
    episode = dataset.episode_of(frames)
    left = dataset.episode_start[episode] + dataset.episode_length[episode] - frames
    made = np.minimum(left, steps)
    ahead = np.arange(steps)
    counts = (ahead < made[:, None]) * discount**ahead
    total = (rewards[np.minimum(frames[:, None] + ahead, len(dataset) - 1)] * counts).sum(1)
    over = (made == left) & dataset.episode_terminated[episode]
    observed = dataset.observations if streams is None else streams
    following, known = dataset.next_observations(frames + made - 1, streams)
    return Transitions(
        {name: np.asarray(dataset.observations[name][frames]) for name in observed},
        np.asarray(dataset.executed[frames]),
        total.astype(np.float32),
        following,
        np.where(over, 0, discount**made).astype(np.float32),
        made,
        known,
        known | over,
    )


def returns(dataset: Dataset, discount: float = 1.0) -> np.ndarray:
    """The discounted sum of the rewards from each frame to the end of its episode, float32 ``(N,)``. Of truncated
    episodes it lacks what would have come.

    Raises:
        PolysomaError: as :func:`transitions`.
    """
    _check_discount(discount)
    rewards = needed_rewards(dataset, "returns")
    result = np.array(rewards, np.float64)
    last = dataset.episode_start + dataset.episode_length - 1
    # All episodes at once, from their ends backwards.
    for back in range(1, int(dataset.episode_length.max())):
        frames = (last - back)[dataset.episode_length > back]
        result[frames] += discount * result[frames + 1]
    return result.astype(np.float32)


def _check_discount(discount: float) -> None:
    if not 0 <= discount <= 1:
        raise PolysomaError(f"discount: expected a number from 0 to 1, got {discount}")


def needed_rewards(dataset: Dataset, who: str) -> np.ndarray:
    """The rewards, float32 ``(N,)``, which ``who`` needs.

    Raises:
        PolysomaError: the data set has no rewards, or one is not finite.
    """
    if dataset.rewards is None:
        raise PolysomaError(f"{who}: expected data with rewards; {dataset.root} has none")
    return dataset.rewards

"""Visits: what of an episode that a policy drove is worth learning from.

The expert's labels of visited states are right whatever became of the episode (DAgger, Ross et al. 2011, arXiv
1011.0686). But a policy that is lost stands still or walks in circles until the time is up, and then most of what was
recorded would be the same few states.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from polysoma.data.episode import Episode
from polysoma.embodiment import Modality, Stream

CELLS = 10
"""A number is as it was where it is in the same one of so many equal parts of its range in the episode."""
_TREMBLING = 1e-3
_PATCHES, _SHADES = 8, 16
"""Pictures are compared in so many patches a side and so many shades."""
_PERIOD_S, _FEWEST_STEPS, _LEAST_NEW = 2.0, 8, 0.5
"""Who is not lost comes to new states in a period, and this share of its changes leads to new ones, however slowly."""


def worthwhile(episode: Episode) -> Episode:
    """The episode, or the beginning of one that failed, up to the end of its last two seconds in which half of the
    changes were to something new. How to get away from there is worth knowing, so these are kept."""
    if episode.success:
        return episode
    period = max(_FEWEST_STEPS, round(_PERIOD_S * episode.embodiment.rate_hz))
    new, changed = (_within(period, steps) for steps in _progress(episode))
    kept = max([period, *(np.flatnonzero((new > 0) & (new >= _LEAST_NEW * changed)) + 1)])
    if kept >= len(episode):
        return episode
    return dataclasses.replace(
        episode,
        observations={name: values[:kept] for name, values in episode.observations.items()},
        actions=episode.actions[:kept],
        executed=episode.executed[:kept],
        rewards=None if episode.rewards is None else episode.rewards[:kept],
        terminated=False,
        truncated=True,
        final={name: np.array(values[kept]) for name, values in episode.observations.items()},
    )


def _within(period: int, steps: np.ndarray) -> np.ndarray:
    """int64 ``(T,)``: how many of the last steps of a period, each step included, are true."""
    counts = np.cumsum(steps)
    counts[period:] -= counts[:-period].copy()
    return counts


def _progress(episode: Episode) -> tuple[np.ndarray, np.ndarray]:
    """bool ``(T,)`` twice: whether the body had not sensed the like before in the episode, and whether it senses
    something else than in the step before. Both hold for the first one."""
    arrays = episode.embodiment.arrays
    # Pictures alone would be compared well enough, but what is sensed in numbers is cheaper.
    compared = [stream for stream in arrays if stream.modality is not Modality.IMAGE] or arrays
    rows = np.concatenate([_coarse(stream, episode.observations[stream.name]) for stream in compared], axis=1)
    new = np.zeros(len(rows), bool)
    new[np.unique(rows, axis=0, return_index=True)[1]] = True
    changed = np.ones(len(rows), bool)
    changed[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return new, changed


def _coarse(stream: Stream, values: np.ndarray) -> np.ndarray:
    """int16 ``(T, ...)``: what is sensed, so coarse that it is the same where little changed."""
    steps = len(values)
    if stream.modality is Modality.SYMBOL:
        return values.reshape(steps, -1).astype(np.int16)
    if stream.modality is Modality.IMAGE:
        rows, columns = (np.linspace(0, size, _PATCHES, endpoint=False).astype(int) for size in values.shape[1:3])
        sums = np.add.reduceat(np.add.reduceat(values.astype(np.float32), rows, axis=1), columns, axis=2)
        count = values.shape[1] * values.shape[2] / _PATCHES**2
        return (sums / count * (_SHADES / 256)).reshape(steps, -1).astype(np.int16)
    flat = values.reshape(steps, -1)
    low, high = flat.min(0), flat.max(0)
    # What trembles does not move: a part is no smaller than a thousandth of what the channel can be.
    limits = np.array([channel.high - channel.low for channel in stream.channels], np.float64)
    least = np.where(np.isfinite(limits), _TREMBLING * limits, _TREMBLING)
    return ((flat - low) / np.maximum((high - low) / CELLS, least)).astype(np.int16)

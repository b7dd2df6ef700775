"""Intervals for proportions: what a number of successes out of a number of trials says."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from polysoma.errors import PolysomaError

Z95 = 1.959963984540054


def wilson(successes: int, trials: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a proportion (Wilson 1927), 95 % by default.

    Raises PolysomaError unless ``0 <= successes <= trials`` and ``trials > 0``.
    """
    if trials <= 0 or not 0 <= successes <= trials:
        raise PolysomaError(f"expected 0 <= successes <= trials and trials > 0, got {successes} of {trials}")
    rate = successes / trials
    spread = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / spread
    half = z / spread * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return (0.0 if successes == 0 else centre - half, 1.0 if successes == trials else centre + half)


def mean_interval(values: Sequence[float], resamples: int = 2000) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a mean (Efron & Tibshirani 1993, section 13.3).

    Raises:
        PolysomaError: there are no values.
    """
    if not len(values):
        raise PolysomaError("an interval needs at least one value, got none")
    drawn = np.random.default_rng(0).choice(np.asarray(values, np.float64), (resamples, len(values)))
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def paired_difference(
    first: Sequence[bool], second: Sequence[bool], resamples: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of ``first - second`` over pairs (the same task and seed), with a 95 % percentile bootstrap interval.

    Returns ``(difference, low, high)``. Raises PolysomaError when the lengths differ or are zero.
    """
    if len(first) != len(second) or not first:
        raise PolysomaError(f"paired results need the same number of trials, got {len(first)} and {len(second)}")
    difference = np.asarray(first, float) - np.asarray(second, float)
    # Differences take three values only, so a resample is a multinomial draw of their counts.
    values = np.array([-1.0, 0.0, 1.0])
    counts = np.array([(difference == value).sum() for value in values])
    draws = np.random.default_rng(seed).multinomial(len(difference), counts / len(difference), resamples)
    low, high = np.quantile(draws @ values / len(difference), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def episodes_difference(
    first: np.ndarray, second: np.ndarray, counts: np.ndarray, resamples: int = 2000
) -> tuple[float, float, float]:
    """Mean of ``first - second`` over frames, with a 95 % percentile bootstrap interval over the episodes that hold
    them: frames of one episode are alike, so it is episodes that are drawn (Efron & Tibshirani 1993, section 8.5).

    Args:
        first, second: sums over the frames of each episode, float ``(E,)``.
        counts: frames of each episode, ``(E,)``.

    Returns ``(difference, low, high)``.
    """
    episodes, apart = len(counts), first - second
    times = np.random.default_rng(0).multinomial(episodes, np.full(episodes, 1 / episodes), resamples)
    low, high = np.percentile((times @ apart) / (times @ counts), [2.5, 97.5])
    return float(apart.sum() / counts.sum()), float(low), float(high)

"""The coefficient of a merge, chosen by success on validation seeds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from polysoma.evaluation.evaluation import evaluate
from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy
from polysoma.rollout.drivers import Checkpoint


def choose_coefficient(
    merge: Callable[[float], Policy],
    coefficients: Sequence[float],
    tasks: Sequence[str],
    unwanted: Collection[str],
    episodes: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
    device: str = "cpu",
    precision: str | None = None,
) -> tuple[float, dict[float, float]]:
    """The coefficient with the highest mean rate of success over tasks, and that rate for each. Of several that are
    equally good it is the one in the middle.

    Args:
        merge: from a coefficient to a policy.
        coefficients: to try.
        tasks: full names.
        unwanted: those of them whose failures count as successes.
        episodes: of each task.
        seed: of the first episode of each task.
        progress: called with how many coefficients were tried.
        device, precision: as for :func:`polysoma.policy.checkpoint.load`.
    """
    rates: dict[float, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, coefficient in enumerate(coefficients, 1):
            # A folder each: what is loaded is remembered by its file.
            place = Path(folder) / str(number)
            checkpoint.save(merge(coefficient), place)
            scores = evaluate(Checkpoint(str(place), precision=precision, device=device), tasks, episodes, seed).tasks
            wanted = [1 - score.rate if task in unwanted else score.rate for task, score in scores.items()]
            rates[coefficient] = float(np.mean(wanted))
            if progress is not None:
                progress(number)
    best = [coefficient for coefficient, rate in rates.items() if np.isclose(rate, max(rates.values()))]
    return best[len(best) // 2], rates

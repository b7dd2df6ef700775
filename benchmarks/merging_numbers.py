"""What benchmarks/merging.py says of outcomes: what merges keep of a gain, and what they lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polysoma.evaluation.intervals import mean_interval


def metaworld(names: str) -> tuple[str, ...]:
    return tuple(f"metaworld/{name}-v3" for name in names.split())


REST = (
    *metaworld(
        "button-press button-press-topdown coffee-button coffee-pull dial-turn door-open door-close drawer-open "
        "drawer-close faucet-open faucet-close hammer handle-press lever-pull pick-place plate-slide push reach "
        "sweep-into window-close"
    ),
    "go1/velocity",
    "drone/hover",
    "rover/pillar",
)
OF_REST = 4
"""Episodes of each of them for every merge."""


def called(tasks: Sequence[str]) -> str:
    return "+".join(task.split("/")[1].removesuffix("-v3") for task in tasks)


Outcomes = Mapping[str, Sequence[float]]
"""Of each task, one for each seed; where several merges were played, the mean of theirs."""


def gain_of(base: Outcomes, tuned: Outcomes, merged: Outcomes, tasks: Sequence[str]) -> list[float]:
    """``sum(merged - base) / sum(tuned - base)`` over tasks with its 95 % percentile bootstrap interval: seeds are
    drawn within every task, the same for all three."""
    rng = np.random.default_rng(0)
    above, below = np.zeros(10_001), np.zeros(10_001)
    for task in tasks:
        first, best, found = (np.asarray(outcomes[task], float) for outcomes in (base, tuned, merged))
        seeds = np.vstack([np.arange(len(first)), rng.integers(len(first), size=(10_000, len(first)))])
        above += (found - first)[seeds].mean(1)
        below += (best - first)[seeds].mean(1)
    ratios = above / np.maximum(below, 1e-9)
    return [float(ratios[0]), *(float(limit) for limit in np.quantile(ratios[1:], [0.025, 0.975]))]


def lost(base: Outcomes, merged: Outcomes, tasks: Sequence[str]) -> list[float]:
    """The mean of ``base - merged`` over the episodes of tasks with its 95 % bootstrap interval."""
    # The base may have played more seeds, the same first.
    pairs = zip(*([o for task in tasks for o in outcomes[task][:OF_REST]] for outcomes in (base, merged)), strict=True)
    differences = [first - second for first, second in pairs]
    return [float(np.mean(differences)), *mean_interval(differences)]


def mean_of(merges: Sequence[Outcomes]) -> dict[str, list[float]]:
    """The mean outcome of each task and seed over the merges that played the task."""
    tasks = {task for outcomes in merges for task in outcomes}
    return {task: np.mean([o[task] for o in merges if task in o], axis=0).tolist() for task in sorted(tasks)}


def row_of(
    base: Outcomes, tuned: Mapping[str, Outcomes], merged: Sequence[tuple[tuple[str, ...], float, Outcomes]]
) -> dict[str, Any]:
    """All merges of the same number of fine-tunes.

    Args:
        base: its outcomes.
        tuned: those of the fine-tune of each task.
        merged: tasks, coefficient and outcomes of each merge.
    """
    alone, found = mean_of(list(tuned.values())), mean_of([outcomes for _, _, outcomes in merged])
    tasks = sorted({task for names, _, _ in merged for task in names})
    return {
        "fine_tunes": len(merged[0][0]),
        "merges": len(merged),
        "coefficients": [coefficient for _, coefficient, _ in merged],
        **{
            name: float(np.mean([outcomes[task] for task in tasks]))
            for name, outcomes in (("base", base), ("tuned", alone), ("merged", found))
        },
        "gain": gain_of(base, alone, found, tasks),
        "gains": {called(names): gain_of(base, alone, outcomes, names) for names, _, outcomes in merged},
        "rates": {
            called(names): {task: float(np.mean(outcomes[task])) for task in names} for names, _, outcomes in merged
        },
        "lost": lost(base, found, REST),
        "lost_on_other_bodies": lost(base, found, [task for task in REST if not task.startswith("metaworld/")]),
    }

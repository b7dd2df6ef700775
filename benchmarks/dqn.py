"""DQN on a game of MinAtar and on a level of BabyAI, from nothing but reward, at equal frames.

    python benchmarks/dqn.py --only breakout --seeds 0 1      # cells that are there are not measured again

For each task: random choices, DQN without double Q-learning and without a dueling network, and DQN as it is by
default. All are judged, without random choices of their own, on the same unseen episodes. No setting was
chosen by these results.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import mean_interval, wilson
from polysoma.learning.methods.dqn import Dqn, Exploring
from polysoma.learning.playing import play
from polysoma.rollout.drivers import Driver, Random
from polysoma.rollout.rollout import Workers
from results import cells_of, read, share, write

SEED, EPISODES = 397_000, 40
"""Of the episodes that judge; those that are learnt from begin at 500,000."""
TASKS = {"breakout": "minatar/breakout", "ball": "babyai/GoToRedBallNoDists"}
STEPS, EXPLORING = 5_000, Exploring(until=15_000)
"""Of learning, of one frame in each of 8 slots, after 2,000 at random: 42,000 frames."""
ROWS: dict[str, tuple[str, Dqn | None]] = {
    "random": ("random choices", None),
    "plain": ("DQN, neither double nor dueling", Dqn(double=False, dueling=False)),
    "dqn": ("`skills play`: double, dueling", Dqn()),
}


def main(
    only: tuple[str, ...] = tuple(TASKS), rows: tuple[str, ...] = tuple(ROWS), seeds: tuple[int, ...] = (0, 1)
) -> None:
    """Measures the cells that are missing."""
    cells = cells_of("dqn")
    for name in only:
        for row in rows:
            for seed in seeds if ROWS[row][1] else (0,):
                if (cell := f"{name}/{row}/{seed}") not in cells:
                    cells[cell] = measured(TASKS[name], ROWS[row][1], seed)
                    print(cell, cells[cell])
                    about = {"frames": STEPS * EXPLORING.slots + EXPLORING.first, "seed": SEED}
                    write("dqn", {**about, "episodes": EPISODES, "cells": dict(sorted(cells.items()))})


def measured(task: str, method: Dqn | None, seed: int) -> dict[str, Any]:
    """What one run scores, and what it cost."""
    if method is None:
        return judged(Random(), task)
    with tempfile.TemporaryDirectory() as folder:
        began, used = time.monotonic(), time.process_time()
        made = play(task, Path(folder) / "run", steps=STEPS, method=method, exploring=EXPLORING, seed=seed)
        cost = {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - used}
        return {**judged(str(made), task), **{name: round(value, 1) for name, value in cost.items()}}


def judged(driver: Driver | str, task: str, episodes: int = EPISODES, seed: int = SEED) -> dict[str, Any]:
    score = evaluate(driver, [task], episodes, seed, workers=Workers(1, 16)).tasks[task]
    low, high = wilson(sum(score.outcomes), len(score.outcomes))
    return {
        "successes": sum(score.outcomes),
        "trials": len(score.outcomes),
        "interval": [round(low, 4), round(high, 4)],
        "returns": [round(float(value), 4) for value in score.returns],
    }


def render() -> str:
    """The table."""
    found = read("dqn")
    cells: dict[str, Any] = found["cells"]
    lines = ["| task | what plays | mean score | success | runs, seconds of one core each |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, task in TASKS.items():
        for row, (label, _) in ROWS.items():
            runs = [cell for place, cell in cells.items() if place.startswith(f"{name}/{row}/")]
            if not runs:
                continue
            successes, trials = sum(run["successes"] for run in runs), len(runs) * found["episodes"]
            rate = {"successes": successes, "trials": trials, "interval": wilson(successes, trials)}
            cost = f"{len(runs)}, {np.mean([run['cpu_seconds'] for run in runs]):.0f}" if row != "random" else "-"
            lines.append(f"| `{task}` | {label} | {score_of(runs)} | {share(rate)} | {cost} |")
    lines += [
        "",
        f"{found['frames']:,} frames of play each; {found['episodes']} unseen episodes a run, from seed "
        f"{found['seed']} on, without random choices. 95 % intervals over the episodes of all runs, so how much runs "
        "differ is not in them (`python benchmarks/dqn.py`).",
    ]
    return "\n".join(lines) + "\n"


def score_of(runs: list[dict[str, Any]]) -> str:
    """The mean score with its interval, over episodes."""
    returns = [value for run in runs for value in run["returns"]]
    low, high = mean_interval(returns)
    return f"{np.mean(returns):.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    tyro.cli(main)

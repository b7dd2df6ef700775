"""A search with a learnt model, with and without consistency, beside DQN: steps of BabyAI until a level is solved.

    python benchmarks/search.py --only ball --rows search --seeds 0 1    # cells that are there are not measured again

Everyone begins with nothing and is judged on the same unseen episodes every 1,000 steps of the environment, until 9 of
10 of them succeed, or up to a limit. Settings were chosen by other seeds of learning and other episodes.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import wilson
from polysoma.learning.methods import dqn
from polysoma.learning.methods.imagination import Exploring
from polysoma.learning.methods.search import Search
from polysoma.learning.playing import play, play_by_search
from polysoma.rollout.drivers import Driver, Random
from polysoma.rollout.rollout import Workers
from results import cells_of, read, share, write

SEED, EPISODES = 399_000, 40
"""Of the episodes that judge; those that are played to learn begin at 500,000."""
TASKS = {"ball": "babyai/GoToRedBallNoDists"}
LIMIT, EVERY, FIRST, SLOTS = 16_000, 1_000, 1_000, 8
"""Steps of the environment in all, between two times of judging, and at random before learning; episodes at a time."""
METHOD = Search()
ROWS = {
    "random": "random choices",
    "search": "`world play --method search`",
    "without": "the same without consistency",
    "dqn": "`skills play` (DQN)",
}


class Solved(Exception):
    """There is no need to go on."""


def main(
    only: tuple[str, ...] = tuple(TASKS), rows: tuple[str, ...] = tuple(ROWS), seeds: tuple[int, ...] = (0, 1, 2)
) -> None:
    """Measures the cells that are missing."""
    torch.set_num_threads(1)
    for seed in seeds:
        for name in only:
            for row in rows if seed == 0 else [row for row in rows if row != "random"]:
                if (cell := f"{name}/{row}/{seed}") in cells_of("search"):
                    continue
                found = measured(TASKS[name], row, seed)
                print(cell, found, flush=True)
                about = {"seed": SEED, "episodes": EPISODES, "limit": LIMIT, "every": EVERY}
                write("search", {**about, "cells": dict(sorted((cells_of("search") | {cell: found}).items()))})


def measured(task: str, row: str, seed: int) -> dict[str, Any]:
    """What one run comes to."""
    began = time.process_time()
    if row == "random":
        return {"successes": judged(Random(), task)}
    points: list[tuple[int, int]] = []

    def evaluated(folder: Path) -> Mapping[str, float]:
        points.append((FIRST + EVERY * (len(points) + 1), judged(str(folder), task)))
        print(task, row, seed, points[-1], flush=True)
        if solved(points[-1][1]):
            raise Solved
        return {}

    steps, every = (LIMIT - FIRST) // SLOTS, EVERY // SLOTS
    run = partial(play, exploring=dqn.Exploring(SLOTS, FIRST, until=LIMIT // 3))
    if row != "dqn":
        method = METHOD if row == "search" else replace(METHOD, consistency=0.0)
        run = partial(play_by_search, method=method, exploring=Exploring(SLOTS, FIRST))
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Solved):
        run(task, Path(folder) / "run", steps=steps, seed=seed, every=every, evaluate=evaluated)
    return {"curve": points, "cpu_s": round(time.process_time() - began, 1)}


def solved(successes: int) -> bool:
    """Whether that many successes are enough."""
    return successes >= 0.9 * EPISODES


def judged(driver: Driver | str, task: str) -> int:
    """How many of the episodes that judge succeed."""
    return sum(evaluate(driver, [task], EPISODES, SEED, workers=Workers(1, 16)).tasks[task].outcomes)


def render() -> str:
    """The table."""
    found = read("search")
    cells: dict[str, Any] = found["cells"]
    lines = ["| task | who learns | steps of the environment until solved | success at the last, runs together |"]
    lines[0] += " runs, seconds of one core each |"
    lines.append("| --- |" + " --- |" * 4)
    for name, task in TASKS.items():
        for row, label in ROWS.items():
            runs = [cell for place, cell in cells.items() if place.startswith(f"{name}/{row}/")]
            if not runs:
                continue
            last = [run["successes"] if row == "random" else run["curve"][-1][1] for run in runs]
            trials = len(runs) * found["episodes"]
            rate = share({"successes": sum(last), "trials": trials, "interval": wilson(sum(last), trials)})
            if row == "random":
                lines.append(f"| `{task}` | {label} | - | {rate} | - |")
                continue
            ends = sorted((not solved(run["curve"][-1][1]), run["curve"][-1][0]) for run in runs)
            steps = ", ".join(f"not in {end:,}" if missed else f"{end:,}" for missed, end in ends)
            cost = f"{len(runs)}, {np.mean([run['cpu_s'] for run in runs]):.0f}"
            lines.append(f"| `{task}` | {label} | {steps} | {rate} | {cost} |")
    lines += [
        "",
        f"Solved is where {0.9 * found['episodes']:.0f} of {found['episodes']} unseen episodes succeed (seeds from "
        f"{found['seed']} on), judged every {found['every']:,} steps, up to {found['limit']:,}; judging stops there, "
        "so the success at the last is of different numbers of steps. 95 % intervals over episodes, so how much runs "
        "differ is not in them (`python benchmarks/search.py`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

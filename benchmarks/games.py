"""What the experts of MinAtar's and Atari's games score beside random choices.

python benchmarks/games.py --only minatar/breakout atari/pong        # cells that are there are not measured again
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tyro

from dqn import judged, score_of
from polysoma.rollout.drivers import Expert, Random
from polysoma.simulators import atari, minatar
from polysoma.task import body_of
from results import cells_of, read, share, write

SEED, EPISODES = 412_000, {"minatar": 20, "atari": 10}
TASKS = (*minatar.TASKS, *atari.TASKS)
WHO = {"random": Random(), "expert": Expert()}


def main(only: tuple[str, ...] = TASKS) -> None:
    """Measures the cells that are missing."""
    cells = cells_of("games")
    for task in only:
        for who, driver in WHO.items():
            if (cell := f"{task}/{who}") not in cells:
                cells[cell] = judged(driver, task, EPISODES[body_of(task)], SEED)
                print(cell, np.mean(cells[cell]["returns"]))
                write("games", {"seed": SEED, "episodes": EPISODES, "cells": dict(sorted(cells.items()))})


def render() -> str:
    """The table."""
    found = read("games")
    cells: dict[str, Any] = found["cells"]
    lines = ["| game | random choices, mean score | the expert, mean score | the expert's success |"]
    lines += ["| --- | --- | --- | --- |"]
    for task in TASKS:
        if f"{task}/expert" not in cells or f"{task}/random" not in cells:
            lines.append(f"| `{task}` | not measured yet | | |")
            continue
        random, expert = cells[f"{task}/random"], cells[f"{task}/expert"]
        lines.append(f"| `{task}` | {score_of([random])} | {score_of([expert])} | {share(expert)} |")
    episodes = found["episodes"]
    lines += [
        "",
        f"{episodes['minatar']} episodes each of MinAtar's games, of at most {minatar.MAX_STEPS:,} frames, and "
        f"{episodes['atari']} of Atari's, of at most {atari.MAX_STEPS:,} choices of {atari.HELD} frames each, from "
        f"seed {found['seed']} on; 95 % intervals (`python benchmarks/games.py`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

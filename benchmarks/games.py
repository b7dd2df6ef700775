"""What the experts of MinAtar's games score beside random choices.

python benchmarks/games.py --only breakout freeway        # cells that are there are not measured again
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tyro

from dqn import judged, score_of
from polysoma.rollout.drivers import Expert, Random
from polysoma.simulators.minatar import GAMES
from results import cells_of, read, share, write

SEED, EPISODES = 412_000, 20
WHO = {"random": Random(), "expert": Expert()}


def main(only: tuple[str, ...] = tuple(GAMES)) -> None:
    """Measures the cells that are missing."""
    cells = cells_of("games")
    for name in only:
        for who, driver in WHO.items():
            if (cell := f"{name}/{who}") not in cells:
                cells[cell] = judged(driver, f"minatar/{name}", EPISODES, SEED)
                print(cell, np.mean(cells[cell]["returns"]))
                write("games", {"seed": SEED, "episodes": EPISODES, "cells": dict(sorted(cells.items()))})


def render() -> str:
    """The table."""
    found = read("games")
    cells: dict[str, Any] = found["cells"]
    lines = ["| game | random choices, mean score | the expert, mean score | the expert's success |"]
    lines += ["| --- | --- | --- | --- |"]
    for name in GAMES:
        if f"{name}/expert" not in cells or f"{name}/random" not in cells:
            lines.append(f"| `minatar/{name}` | not measured yet | | |")
            continue
        random, expert = cells[f"{name}/random"], cells[f"{name}/expert"]
        lines.append(f"| `minatar/{name}` | {score_of([random])} | {score_of([expert])} | {share(expert)} |")
    lines += [
        "",
        f"{found['episodes']} episodes each, of at most 2,500 frames, from seed {found['seed']} on; 95 % intervals "
        "(`python benchmarks/games.py`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

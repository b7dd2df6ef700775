"""JAT's protocol (Gallouédec et al. 2024, arXiv 2402.09844) for BabyAI and Meta-World, with one checkpoint of ours.

    python benchmarks/jat.py --only babyai --minutes 11       # cells that are there are not measured again

Returns lie between those of random choices, 0, and those of the demonstrators, 1. BabyAI: JAT's 39 levels by JAT's
own two ends, but for two levels of which ours are smaller. Meta-World: episodes of 100 steps that do not end at a
success. JAT has version 2 of it and does not see the goal; we have version 3 and see it, and measure both ends anew.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from polysoma import simulators
from polysoma.acting.agent import Agent
from polysoma.evaluation.intervals import mean_interval
from polysoma.rollout.drivers import Expert, Random, driver_of
from results import cells_of, read, write

SEED, EPISODES, STEPS = 431_000, {"babyai": 20, "metaworld": 10}, {"babyai": None, "metaworld": 100}
SMALLER = ("babyai/PutNext", "babyai/KeyCorridor")
"""Of these levels ours are smaller than JAT's."""
REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "jat_reference.json").read_text())


def main(checkpoint: str = "generalist", only: tuple[str, ...] = ("babyai", "metaworld"), minutes: float = 0.0) -> None:
    """Measures the cells that are missing; begins no other one after so many minutes, 0 for no limit."""
    began, cells = time.monotonic(), cells_of("jat")
    for family in only:
        who: dict[str, Any] = {"policy": driver_of(checkpoint)}
        if family == "metaworld":
            who |= {"random": Random(), "expert": Expert()}
        planners = {name: driver() for name, driver in who.items()}
        for task in REFERENCE[family]:
            environment = None
            for name, planner in planners.items():
                if (cell := f"{name}:{task}") in cells or (minutes and time.monotonic() - began > 60 * minutes):
                    continue
                environment = environment or simulators.make(task)
                seeds = range(SEED, SEED + EPISODES[family])
                played = [_played(environment, planner, seed, STEPS[family]) for seed in seeds]
                returns, successes = zip(*played, strict=True)
                cells[cell] = {"returns": returns, "successes": sum(successes)}
                print(cell, round(float(np.mean(returns)), 3), sum(successes), flush=True)
                write("jat", {"checkpoint": checkpoint, "seed": SEED, "cells": dict(sorted(cells.items()))})


def _played(environment: Any, planner: Any, seed: int, steps: int | None) -> tuple[float, bool]:
    """The return of one episode, and whether it had a success: to its end, or of so many steps whatever happens."""
    observation, _ = environment.reset(seed=seed)
    agent = Agent(planner, environment.embodiment, seed=seed, expert=environment.expert_action)
    total, done, ended, step = 0.0, False, False, 0
    while step < steps if steps else not ended:
        observation, reward, terminated, truncated, info = environment.step(agent.act(observation))
        total, done, ended, step = total + reward, done or info["success"], terminated or truncated, step + 1
    return round(total, 4), done


def normalised(family: str, cells: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The returns of each task that was measured, ours and JAT's mean, between random choices and the demonstrators."""
    ours, theirs = {}, {}
    for task, (random, expert, jat) in REFERENCE[family].items():
        ends = [f"random:{task}", f"expert:{task}"] if family == "metaworld" else []
        if task in SMALLER or not {f"policy:{task}", *ends} <= set(cells):
            continue
        low, high = [float(np.mean(cells[end]["returns"])) for end in ends] or (random, expert)
        ours[task] = (np.array(cells[f"policy:{task}"]["returns"]) - low) / (high - low)
        theirs[task] = (jat - random) / (expert - random)
    return ours, theirs


def render() -> str:
    """The table."""
    found = read("jat")
    cells = found["cells"]
    lines = [
        "| | tasks x episodes | ours, mean of tasks | ours, interquartile mean | JAT, mean of the same tasks |",
        "| --- | --- | --- | --- | --- |",
    ]
    for family, label in (("babyai", "BabyAI"), ("metaworld", "Meta-World, 100 steps")):
        ours, theirs = normalised(family, cells)
        if not ours:
            continue
        every = np.sort(np.concatenate(list(ours.values())))
        middle = every[len(every) // 4 : len(every) - len(every) // 4].mean()
        low, high = mean_interval([float(own.mean()) for own in ours.values()])
        lines.append(
            f"| {label} | {len(ours)} x {EPISODES[family]} | {np.mean([own.mean() for own in ours.values()]):.3f} "
            f"[{low:.3f}, {high:.3f}] | {middle:.3f} | {np.mean(list(theirs.values())):.3f} |"
        )
    lines += [
        "",
        "Returns, 0 for random choices and 1 for the demonstrators. JAT reports interquartile means of 0.99 and 0.65. "
        f"Seeds from {found['seed']} on; intervals over tasks (`python benchmarks/jat.py`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

"""JAT's protocol (Gallouédec et al. 2024, arXiv 2402.09844) for BabyAI and Meta-World.

    python benchmarks/jat.py --minutes 11       # Meta-World; cells that are there are not measured again

Returns lie between those of random choices, 0, and those of the demonstrators, 1. BabyAI: JAT's 39 levels by JAT's
own two ends, but for two levels of which ours are smaller; the returns are those of ``scores.py``. Meta-World: episodes
of 100 steps that do not end at a success. JAT has version 2 of it and does not see the goal; we have version 3 and see
it, and measure both ends anew.
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
from results import FOLDER, cells_of, read, write

SEED, EPISODES, STEPS = 431_000, 10, 100
SMALLER = ("babyai/PutNext", "babyai/KeyCorridor")
"""Of these levels ours are smaller than JAT's."""
REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "jat_reference.json").read_text())


def main(checkpoint: str = "generalist", minutes: float = 0.0) -> None:
    """Measures the cells of Meta-World that are missing; begins no other one after so many minutes, 0 for no limit."""
    began, cells = time.monotonic(), cells_of("jat")
    who = {"policy": driver_of(checkpoint), "random": Random(), "expert": Expert()}
    planners = {name: driver() for name, driver in who.items()}
    for task in REFERENCE["metaworld"]:
        missing = [name for name in planners if f"{name}:{task}" not in cells]
        if not missing or (minutes and time.monotonic() - began > 60 * minutes):
            continue
        environment = simulators.make(task)
        for name in missing:
            returns = [_played(environment, planners[name], seed) for seed in range(SEED, SEED + EPISODES)]
            cells[f"{name}:{task}"] = returns
            print(name, task, round(float(np.mean(returns)), 1), flush=True)
            write("jat", {"checkpoint": checkpoint, "seed": SEED, "cells": dict(sorted(cells.items()))})


def _played(environment: Any, planner: Any, seed: int) -> float:
    """The return of 100 steps, whatever happens in them."""
    observation, _ = environment.reset(seed=seed)
    agent = Agent(planner, environment.embodiment, seed=seed, expert=environment.expert_action)
    total = 0.0
    for _ in range(STEPS):
        observation, reward, *_ = environment.step(agent.act(observation))
        total += reward
    return round(total, 4)


def _babyai() -> dict[str, float]:
    """What each level's mean return is between JAT's ends."""
    tasks = read("scores")["tasks"]
    levels = {task: ends for task, ends in REFERENCE["babyai"].items() if task not in SMALLER}
    return {task: (tasks[task]["return"] - low) / (high - low) for task, (low, high, _) in levels.items()}


def _metaworld() -> dict[str, float]:
    """The same of each task of Meta-World that was measured, between the ends that were measured beside it."""
    cells = read("jat")["cells"] if (FOLDER / "jat.json").exists() else {}
    found = {}
    for task in REFERENCE["metaworld"]:
        ours, low, high = (cells.get(f"{name}:{task}") for name in ("policy", "random", "expert"))
        if ours and low and high:
            found[task] = float((np.mean(ours) - np.mean(low)) / (np.mean(high) - np.mean(low)))
    return found


def render() -> str:
    """The table."""
    scores = read("scores")
    trials = scores["tasks"]["babyai/GoTo"]["trials"]
    lines = ["| | tasks x episodes | shipped weights, mean of tasks | JAT, mean of the same tasks |"]
    lines += ["| --- | --- | --- | --- |"]
    for family, label, ours, episodes in (
        ("babyai", "BabyAI", _babyai(), trials),
        ("metaworld", "Meta-World, 100 steps", _metaworld(), EPISODES),
    ):
        if not ours:
            continue
        ends = {task: REFERENCE[family][task] for task in ours}
        theirs = np.mean([(jat - low) / (high - low) for low, high, jat in ends.values()])
        low, high = mean_interval(list(ours.values()))
        mean = np.mean(list(ours.values()))
        lines.append(f"| {label} | {len(ours)} x {episodes} | {mean:.3f} [{low:.3f}, {high:.3f}] | {theirs:.3f} |")
    lines += [
        "",
        "Returns, 0 for random choices and 1 for the demonstrators, 95 % intervals over tasks. BabyAI: seeds from "
        f"{scores['seed']} on (`{scores['command']}`)"
        + ("; Meta-World: `python benchmarks/jat.py`." if _metaworld() else ". Meta-World is not measured yet."),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

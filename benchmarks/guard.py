"""What a guard against dead ends changes in LifeGate: deaths, successes, choices replaced, false alarms.

    python benchmarks/guard.py

Driver: the best move, and one at random half of the time. Everything is learned from its logs. The guard's draws are
made in closed form: the driver's chances among the choices without an alarm. One minute.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from polysoma.evaluation.intervals import mean_interval
from polysoma.learning.dead_ends import DeadEndSettings, Logs, calibrate, episode_risks, fit
from polysoma.policy.dead_ends import DeadEnds
from results import read, write

sys.path.insert(0, str(Path(__file__).parent / "worlds"))
import lifegate

NOISE, RATE, EPISODES, SEED = 0.5, 0.05, 2000, 7000
MEASURES = ("deaths", "deaths_guarded", "successes", "successes_guarded", "replaced", "false_alarms", "error")


def logs(rng: np.random.Generator, policy: np.ndarray, drag: float, anywhere: bool = False) -> Logs:
    free = [lifegate.cell(place) for place in lifegate.FREE]
    starts = rng.choice(free, EPISODES) if anywhere else np.full(EPISODES, lifegate.cell(lifegate.START))
    found = lifegate.drive(rng, policy, starts, drag)
    return Logs(**{**found, **{name: lifegate.seen(found[name]) for name in ("states", "following")}})


def filtered(values: DeadEnds, policy: np.ndarray) -> np.ndarray:
    """The chances of the driver's choices behind the guard."""
    assert values.alarm is not None
    negative, positive = (one.numpy() for one in values.values(torch.eye(len(policy))))
    allowed = policy * (-negative <= np.float32(values.alarm.threshold))
    best = np.eye(policy.shape[1])[np.lexsort((positive, negative))[:, -1]]
    total = allowed.sum(1, keepdims=True)
    return np.where(total > 0, allowed / np.maximum(total, 1e-12), best)


def measured(drag: float, seed: int) -> dict[str, float]:
    rng, exact = np.random.default_rng(seed), lifegate.exact(drag)
    policy = NOISE / 5 + (1 - NOISE) * np.eye(5)[exact[1].argmax(1)]
    learned = fit(lifegate.EMBODIMENT, logs(rng, policy, drag, True), DeadEndSettings(steps=500, depth=1), seed)
    guard = calibrate(learned, logs(rng, policy, drag), RATE)
    behind = filtered(guard, policy)
    fresh, guarded = logs(rng, policy, drag), logs(rng, behind, drag)
    free = [lifegate.cell(place) for place in lifegate.FREE]
    learned_values = learned.values(torch.eye(len(policy))[free])[0].numpy()
    assert guard.alarm is not None
    return {
        "deaths": float((fresh.end < 0).sum() / EPISODES),
        "deaths_guarded": float((guarded.end < 0).sum() / EPISODES),
        "successes": float((fresh.end > 0).sum() / EPISODES),
        "successes_guarded": float((guarded.end > 0).sum() / EPISODES),
        # Half of the distance between chances: the least share of choices that must be replaced.
        "replaced": float(np.abs(behind - policy).sum(1)[guarded.states.argmax(1)].mean() / 2),
        "false_alarms": float((episode_risks(guard, fresh) > guard.alarm.threshold).mean()),
        "error": float(np.abs(learned_values - exact[0][free]).mean()),
    }


def main(seeds: int = 5) -> None:
    cells: dict[str, Any] = {}
    for task, drag in lifegate.DRAGS.items():
        runs = [measured(drag, SEED + number) for number in range(seeds)]
        cells[task] = {name: [run[name] for run in runs] for name in MEASURES}
        print(task, {name: float(np.mean(values)) for name, values in cells[task].items()})
    settings = {"noise": NOISE, "rate": RATE, "episodes": EPISODES, "seed": SEED, "seeds": seeds}
    write("guard", {"settings": settings, "cells": cells})


def render() -> str:
    """What the guard changes."""
    found = read("guard")
    lines = ["| task | deaths, no guard | deaths, guard | success, no guard | success, guard | choices replaced | "]
    lines[0] += "false alarms | error of Q_D |"
    lines.append("| --- " * 8 + "|")
    for task, cell in found["cells"].items():
        shown = []
        for name in MEASURES:
            low, high = mean_interval(cell[name])
            shown.append(f"{np.mean(cell[name]):.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {task} | {' | '.join(shown)} |")
    told = found["settings"]
    return (
        "\n".join(lines)
        + f"\n\nMeans over {told['seeds']} seeds with 95 % intervals; {told['episodes']} episodes each to learn "
        f"from, to find the threshold with (rate {told['rate']:g}), and to measure with and without the guard. The "
        f"driver makes the best move, and one at random with a chance of {told['noise']:g}. The "
        f"error is the mean over the 77 free cells and all choices, against dynamic programming "
        f"(`{found['command']}`).\n"
    )


if __name__ == "__main__":
    tyro.cli(main)

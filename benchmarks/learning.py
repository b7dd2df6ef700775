"""What changes of the recipe do to what is learnt, at equal time of a core: waves of states, words that scale them.

    python benchmarks/learning.py
    python benchmarks/learning.py --arms plain words --seeds 0 1 2 --minutes 8

All arms learn from the same demonstrations, which experts record once, and play the same unseen seeds at their end.
Minutes are those of one core's own time, so that other work on the machine counts little. An arm and a seed take about
ten minutes, and a run that is killed goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tyro

from polysoma import simulators
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.learning import run_state, states
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.nn import precision
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from polysoma.task import body_of
from results import cells_of, computed_in, difference, read, share, write

ARMS: dict[str, dict[str, Any]] = {"plain": {}, "waves": {"waves": 6}, "words": {"waves": 6, "film": 64}}
"""What each changes in the policy of the recipe."""
DEMONSTRATION_SEED, SEED = 300_000, 450_000


def table(data: Path, bodies: list[str], minutes: float, seed: int, policy: dict[str, Any]) -> dict[str, Any]:
    """A recipe for these bodies, 48 windows of each."""
    return {
        "minutes": minutes,
        "steps": 10**9,
        "seed": seed,
        "tracker": "none",
        "checkpoint_every": 200,
        "data": [str(data / "*")],
        "optimizer": {"kind": "schedule-free", "learning_rate": 2e-3, "warmup": 100},
        "policy": {"width": 192, "depth": 4, "heads": 4, **policy},
        "bodies": {body: {"batch": 48, "noise": 0.01} for body in bodies},
    }


def main(
    arms: tuple[str, ...] = tuple(ARMS),
    tasks: tuple[str, ...] = ("aloha/*", "drone/*", "rover/*"),
    seeds: tuple[int, ...] = (0, 1, 2),
    minutes: float = 8.0,
    demonstrations: int = 50,
    episodes: int = 25,
    work: Path = Path("runs/learning"),
) -> None:
    """Records, trains each arm with each seed, plays, and writes ``results/learning.json``.

    Args:
        arms: of :data:`ARMS`.
        tasks: patterns.
        seeds: of trainings.
        minutes: of learning, of a core's own time.
        demonstrations: of each task.
        episodes: of each task at the end of each training.
        work: folder of recordings and runs.
    """
    names = simulators.match_tasks(tasks)
    record(names, demonstrations, work / "data", Behaviour(noise=None, label=True), seed=DEMONSTRATION_SEED)
    # Of this process alone, which does everything that follows.
    time.monotonic = time.process_time
    bodies = list(dict.fromkeys(map(body_of, names)))
    cells = cells_of("learning")
    settings = {
        "tasks": names, "minutes": minutes, "demonstrations": demonstrations, "episodes": episodes, "seed": SEED
    }  # fmt: skip
    for seed in seeds:
        for arm in arms:
            name, folder = f"{arm} {seed}", work / f"{arm}-{seed}"
            if name in cells:
                continue
            recipe = recipe_from_table(table(work / "data", bodies, minutes, seed, ARMS[arm]), "learning.py")
            checkpoint = train(recipe, folder, resume=states.exists(folder))
            result = evaluate(str(checkpoint), names, episodes, SEED)
            steps, seconds = run_state.learnt(folder)
            cells[name] = {
                "arm": arm,
                "seed": seed,
                "steps": steps,
                "seconds": round(seconds, 1),
                "precision": precision.chosen("cpu"),
                "instruction_set": precision.instruction_set(),
                "tasks": {task: score.outcomes for task, score in result.tasks.items()},
            }
            print(name, {task: sum(won) / len(won) for task, won in cells[name]["tasks"].items()}, flush=True)
            write("learning", {"settings": settings, "cells": cells})


def render() -> str:
    """Success of every task by arm, all seeds together, and the difference in pairs."""
    found = read("learning")
    cells, settings = found["cells"], found["settings"]
    plain, *others = ARMS
    lines = [
        "| task | " + " | ".join([plain, *(f"{arm} | {arm} less {plain}" for arm in others)]) + " |",
        "| --- |" + " --- |" * (1 + 2 * len(others)),
    ]
    for task in [*settings["tasks"], "all"]:
        known = dict(_outcomes(cells, task))
        row = [task, _share(known[plain])]
        for arm in others:
            row += [_share(known[arm]), difference(paired_difference(known[arm], known[plain]))]
        lines.append(f"| {' | '.join(row)} |")
    steps = ", ".join(
        f"{sum(own) // len(own):,} with {arm}" for arm in ARMS if (own := [c["steps"] for c in _of(cells, arm)])
    )
    seeds = len(_of(cells, plain))
    lines.append(
        f"\nOne policy for all of them, {settings['minutes']:.0f} minutes of a core and {settings['demonstrations']} "
        f"demonstrations of each task; {seeds} trainings of each, steps on average {steps}; {settings['episodes']} "
        f"episodes a task and training, seeds from {settings['seed']} on, the same for all; 95 % intervals over "
        f"episodes{computed_in(cells.values())}; commit {found['commit'][:7]} (`{found['command']}`)."
    )
    return "\n".join(lines) + "\n"


def _of(cells: dict[str, Any], arm: str) -> list[dict[str, Any]]:
    """Cells of an arm with the seeds that all arms have, in their order."""
    common = set.intersection(*({c["seed"] for c in cells.values() if c["arm"] == one} for one in ARMS))
    return sorted((c for c in cells.values() if c["arm"] == arm and c["seed"] in common), key=lambda c: int(c["seed"]))


def _outcomes(cells: dict[str, Any], task: str) -> Iterator[tuple[str, list[bool]]]:
    for arm in ARMS:
        own = [c["tasks"] for c in _of(cells, arm)]
        yield arm, [won for tasks in own for name, played in tasks.items() if task in (name, "all") for won in played]


def _share(outcomes: list[bool]) -> str:
    return share(
        {"successes": sum(outcomes), "trials": len(outcomes), "interval": wilson(sum(outcomes), len(outcomes))}
    )


if __name__ == "__main__":
    tyro.cli(main)

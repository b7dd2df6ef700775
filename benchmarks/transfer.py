"""The transfer matrix: does it help a body with few demonstrations to learn beside other bodies?

    python benchmarks/transfer.py

Each target body has 5 or 10 demonstrations a task. A policy learns it alone, beside one other body with all of that
one's data, or beside all others, always from the same windows of the target for the same number of steps. All play the
same unseen seeds. Needs the bodies' data in ``data/`` (`polysoma record`); about twenty minutes on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from parallel import side_by_side
from polysoma import simulators
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from results import difference, read, share, write

TARGETS = ("fetch", "drone", "go1", "pointmaze")
BESIDE = ("metaworld", "drone", "go1")
NOBODY, ALL = "nobody", "all"
SEED = 5200


@dataclass(frozen=True)
class Run:
    """One policy to train and to play."""

    out: str
    target: str
    beside: str
    demonstrations: int
    steps: int
    episodes: int


def run(job: Run) -> list[bool]:
    """Trains, plays, and returns the outcomes of all episodes."""
    others = [body for body in BESIDE if body != job.target and job.beside in (body, ALL)]
    table = {
        "data": [f"{job.out}/data-{job.demonstrations}/{job.target}", *(f"data/{body}" for body in others)],
        "steps": job.steps,
        "warmup": 20,
        "ema": 0.98,
        # The others together have as many windows as the target.
        "bodies": {job.target: {"batch": 64, "noise": 0.01}}
        | {body: {"batch": 64 // len(others), "noise": 0.01} for body in others},
    }
    folder = Path(job.out) / f"{job.target}-{job.beside}-{job.demonstrations}"
    made = folder / "checkpoint"
    if not made.exists():
        train(recipe_from_table(table, "transfer.py"), folder)
    result = evaluate(str(made), simulators.tasks_of(job.target), job.episodes, SEED)
    return [bool(outcome) for score in result.tasks.values() for outcome in score.outcomes]


def main(
    out: str = "runs/transfer",
    steps: int = 150,
    episodes: int = 20,
    demonstrations: tuple[int, ...] = (5, 10),
    processes: int = 2,
) -> None:
    """All targets beside all others.

    Args:
        out: folder for data and checkpoints; what is there already is used.
        steps: of each training.
        episodes: of each task.
        demonstrations: of each task.
        processes: side by side.
    """
    for count in demonstrations:
        for target in TARGETS:
            tasks = list(simulators.tasks_of(target))
            record(tasks, count, Path(out) / f"data-{count}", Behaviour(noise=None), workers=processes)
    runs = [
        Run(out, target, beside, count, steps, episodes)
        for target in TARGETS
        for count in demonstrations
        for beside in (NOBODY, *(body for body in BESIDE if body != target), ALL)
    ]
    found = dict(zip(runs, side_by_side(run, runs, processes), strict=True))
    rows: list[dict[str, Any]] = []
    for job, outcomes in found.items():
        alone = found[Run(out, job.target, NOBODY, job.demonstrations, steps, episodes)]
        rows.append(
            {
                "target": job.target,
                "demonstrations": job.demonstrations,
                "beside": job.beside,
                "successes": sum(outcomes),
                "trials": len(outcomes),
                "interval": wilson(sum(outcomes), len(outcomes)),
                "minus_alone": paired_difference(outcomes, alone),
            }
        )
        print(rows[-1])
    write("transfer", {"settings": {"steps": steps, "episodes": episodes, "seed": SEED}, "rows": rows})


def render() -> str:
    """The transfer matrix."""
    found = read("transfer")
    beside = list(dict.fromkeys(row["beside"] for row in found["rows"]))
    lines = [
        "| body, demonstrations a task | " + " | ".join(f"beside {name}" for name in beside) + " |",
        "| --- |" + " --- |" * len(beside),
    ]
    for target, count in dict.fromkeys((row["target"], row["demonstrations"]) for row in found["rows"]):
        own = {row["beside"]: row for row in found["rows"] if (row["target"], row["demonstrations"]) == (target, count)}
        cells = [
            "" if name not in own else share(own[name]) if name == "nobody" else difference(own[name]["minus_alone"])
            for name in beside
        ]
        lines.append(f"| {target}, {count} | " + " | ".join(cells) + " |")
    settings = found["settings"]
    lines += [
        "",
        f"Success beside nobody, then what the company of others adds to it, with 95 % intervals. {settings['steps']} "
        f"steps each from nothing; {settings['episodes']} episodes a task with seeds from {settings['seed']} "
        "(`python benchmarks/transfer.py`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

"""A generalist against a specialist of every family: the same size, data and windows, paired seeds.

    python benchmarks/specialists.py runs/laptop
    python benchmarks/specialists.py runs/laptop --families go1 fetch

The generalist is the end of a recipe in rounds (`polysoma train recipes/laptop.toml --out runs/laptop`). A specialist
begins at random and learns what the run recorded of its family, in as many steps as the generalist and with as many
windows of the family in each on average. A family that is in the results already is not measured again; a killed
training continues.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from parallel import side_by_side
from polysoma import simulators
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import Score, evaluate, reference
from polysoma.evaluation.intervals import mean_interval
from polysoma.learning import round_state
from polysoma.learning.methods.imitation import Imitation
from polysoma.learning.recipe import Recipe
from polysoma.learning.training import recipe_of_run, train
from polysoma.task import body_of
from results import cells_of, difference, read, write

EPISODES = {
    "aloha": 20, "go1": 30, "fetch": 20, "pointmaze": 20, "aloha-pixels": 20, "metaworld-pixels": 2, "half-cheetah": 10,
    "hopper": 10, "walker2d": 10, "ant": 10, "swimmer": 10, "reacher": 20, "pusher": 20, "inverted-pendulum": 10,
    "inverted-double-pendulum": 10, "rover": 20, "drone": 20, "metaworld": 4, "babyai": 4,
}  # fmt: skip
SEED = 9700


@dataclasses.dataclass(frozen=True)
class Work:
    """One family of a run."""

    run: str
    family: str


def taken(run: Path, family: str) -> tuple[int, int]:
    """The steps that the generalist learnt for, and the windows of a family that it took in all of them."""
    steps = windows = 0
    for line in round_state.read(run).history:
        if line["phase"] == "learn":
            windows += (line["steps"] - steps) * line["windows"].get(family, 0)
            steps = line["steps"]
    return steps, windows


def specialist_recipe(run: Path, family: str) -> Recipe:
    """How the family's specialist learns: as the run did in its last round, but for the other bodies."""
    last = recipe_of_run(run)
    steps, windows = taken(run, family)
    part = dataclasses.replace(last.bodies[family], batch=round(windows / steps), weight=1.0)
    own = {task: weight for task, weight in last.task_weights.items() if body_of(task) == family}
    return dataclasses.replace(
        last, data=tuple(folder for folder in last.data if Path(folder).name == family), bodies={family: part},
        task_weights=own, method=Imitation(), steps=steps, minutes=0.0, checkpoint_every=500,
    )  # fmt: skip


def _specialist(run: Path, family: str) -> str:
    out = run.parent / "specialists" / run.name / family
    if (out / "training").is_dir():
        train(recipe_of_run(out), out, resume=True)
    else:
        train(specialist_recipe(run, family), out)
    return str(out / "checkpoint")


def _values(tasks: dict[str, Score]) -> list[float]:
    """Every episode's success, or its return between that of random actions (0) and the expert's (1)."""
    values: list[float] = []
    for task, score in tasks.items():
        if simulators.families()[task.split("/")[0]].by_return:
            known = reference()[task]
            low, high = known["random_return"], known["expert_return"]
            values += [(value - low) / (high - low) for value in score.returns]
        else:
            values += map(float, score.outcomes)
    return values


def measure(work: Work) -> dict[str, Any]:
    """Trains a specialist and plays it beside the generalist."""
    run, family = Path(work.run), work.family
    drivers = {"generalist": str(run / "checkpoint"), "specialist": _specialist(run, family)}
    tasks = list(simulators.tasks_of(family))
    values = {name: _values(evaluate(path, tasks, EPISODES[family], SEED).tasks) for name, path in drivers.items()}
    apart = np.subtract(values["generalist"], values["specialist"])
    steps, windows = taken(run, family)
    return {
        "trials": len(apart),
        **{name: round(float(np.mean(own)), 4) for name, own in values.items()},
        "difference": round(float(apart.mean()), 4),
        "interval": [round(limit, 4) for limit in mean_interval(apart.tolist())],
        "steps": steps,
        "windows": windows,
        "values": {name: [round(value, 4) for value in own] for name, own in values.items()},
    }


def main(run: tyro.conf.Positional[str], families: tuple[str, ...] = (), processes: int = 2) -> None:
    """Trains and plays what is missing.

    Args:
        run: folder of the generalist's run.
        families: whose specialists; all of the run without any.
        processes: of one core each.
    """
    known = [family for family in EPISODES if taken(Path(run), family)[1]]
    if strange := [family for family in families if family not in known]:
        raise PolysomaError(f"{run} did not learn {', '.join(strange)}, expected some of {', '.join(known)}")
    rows = cells_of("specialists")
    left = [family for family in families or known if family not in rows]
    for at in range(0, len(left), processes):
        now = left[at : at + processes]
        measured = side_by_side(measure, [Work(run, family) for family in now], processes)
        for family, row in zip(now, measured, strict=True):
            rows[family] = row
            print(family, {key: value for key, value in row.items() if key != "values"}, flush=True)
        write("specialists", {"run": Path(run).name, "seed": SEED, "cells": rows})


def render() -> str:
    """The generalist against a specialist of every family."""
    found = read("specialists")
    lines = [
        "| body | generalist | specialist | generalist - specialist | episodes | windows of each |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for family, row in found["cells"].items():
        lines.append(
            f"| {family} | {row['generalist']:.2f} | {row['specialist']:.2f} "
            f"| {difference([row['difference'], *row['interval']])} | {row['trials']} "
            f"| {row['windows']:,} |"
        )
    lines += [
        "",
        f"Success, or the return between random actions (0) and the expert (1) where returns count; one run of "
        f"recipes/{found['run']}.toml, {next(iter(found['cells'].values()))['steps']:,} steps of learning each; seeds "
        f"from {found['seed']} on, 95 % intervals (`python benchmarks/specialists.py runs/{found['run']}`).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)

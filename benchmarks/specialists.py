"""The generalist against a specialist of every family: the same size and data, paired seeds.

    python benchmarks/specialists.py
    python benchmarks/specialists.py --families go1 fetch

A specialist begins at random and learns the family's share of the data of the shipped weights' last phase, as far as
these folders exist, on a schedule of its own. It takes as many windows as the generalist took of that family in all
phases, up to a limit; both numbers are written, and what was learnt from. A family that is in the results already is
not played again; a killed training continues.
"""

from __future__ import annotations

import dataclasses
import glob
import json
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.formats import is_dataset
from polysoma.evaluation.evaluation import Score, evaluate, reference
from polysoma.evaluation.intervals import mean_interval
from polysoma.learning.optimizers import AdamW
from polysoma.learning.recipe import Recipe, read_recipe
from polysoma.learning.training import recipe_of_run, train
from results import FOLDER, difference, read, write

RECIPES = Path(__file__).parents[1] / "recipes"
PHASES = (
    "generalist",
    "many-bodies",
    "many-bodies-refined",
    "many-bodies-seeing",
    "many-bodies-fine",
    "many-bodies-last",
)
EPISODES = {
    "aloha": 20, "go1": 30, "fetch": 20, "pointmaze": 20, "aloha-pixels": 20, "metaworld-pixels": 2, "half-cheetah": 10,
    "hopper": 10, "walker2d": 10, "ant": 10, "swimmer": 10, "reacher": 20, "pusher": 20, "inverted-pendulum": 10,
    "inverted-double-pendulum": 10, "rover": 20, "drone": 20, "metaworld": 4, "babyai": 4,
}  # fmt: skip
SEED = 9700
CAMERAS = ("aloha-pixels", "metaworld-pixels")


def _taken(family: str) -> int:
    """Batch that the generalist took of a family."""
    phases = [read_recipe(RECIPES / f"{phase}.toml", ()) for phase in PHASES]
    return sum(phase.steps * phase.bodies[family].batch for phase in phases if family in phase.bodies)


def _recipe(family: str, windows: int) -> Recipe:
    last = read_recipe(RECIPES / f"{PHASES[-1]}.toml", ())
    homes = [folder for pattern in last.data for folder in sorted(glob.glob(pattern))]
    own = [home for home in homes if Path(home).name == family and is_dataset(Path(home))]
    batch = 64 if family in CAMERAS else 128
    part = dataclasses.replace(last.bodies[family], batch=batch, weight=1.0)
    return dataclasses.replace(
        last, data=tuple(dict.fromkeys(own)), bodies={family: part}, init="", steps=windows // batch,
        optimizer=AdamW(1e-3, warmup=100, ema=0.995), checkpoint_every=100,
    )  # fmt: skip


def _specialist(family: str, windows: int) -> str:
    run = Path("runs/specialists") / family
    if (run / "training").is_dir():
        train(recipe_of_run(run), run, resume=True)
    elif not (run / "checkpoint").is_dir():
        train(_recipe(family, windows), run)
    return str(run / "checkpoint")


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


def main(
    generalist: str = "generalist",
    families: tuple[str, ...] = tuple(EPISODES),
    state_windows: int = 160_000,
    camera_windows: int = 60_000,
) -> None:
    """Trains and plays what is missing.

    Args:
        generalist: the checkpoint to compare with.
        families: whose specialists.
        state_windows, camera_windows: the most that a specialist takes, of bodies without and with cameras.
    """
    file = FOLDER / "specialists.json"
    rows: dict[str, Any] = json.loads(file.read_text()).get("families", {}) if file.exists() else {}
    for family in families:
        if family in rows:
            continue
        taken = _taken(family)
        windows = min(taken, camera_windows if family in CAMERAS else state_windows)
        drivers = {"generalist": generalist, "specialist": _specialist(family, windows)}
        tasks, episodes = list(simulators.tasks_of(family)), EPISODES[family]
        values = {name: _values(evaluate(path, tasks, episodes, SEED).tasks) for name, path in drivers.items()}
        apart = np.subtract(values["generalist"], values["specialist"])
        rows[family] = {
            "trials": len(apart),
            **{name: round(float(np.mean(own)), 4) for name, own in values.items()},
            "difference": round(float(apart.mean()), 4),
            "interval": [round(limit, 4) for limit in mean_interval(apart.tolist())],
            "windows": {"generalist": taken, "specialist": windows},
            "frames": {home: len(Dataset(Path(home))) for home in _recipe(family, windows).data},
            "values": {name: [round(value, 4) for value in own] for name, own in values.items()},
        }
        print(family, {key: value for key, value in rows[family].items() if key != "values"}, flush=True)
        write("specialists", {"seed": SEED, "families": rows})


def render() -> str:
    """The generalist against a specialist of every family."""
    found = read("specialists")
    lines = [
        "| body | generalist | specialist | generalist - specialist | episodes | windows, generalist / specialist |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for family, row in found["families"].items():
        windows = row["windows"]
        lines.append(
            f"| {family} | {row['generalist']:.2f} | {row['specialist']:.2f} "
            f"| {difference([row['difference'], *row['interval']])} | {row['trials']} "
            f"| {windows['generalist']:,} / {windows['specialist']:,} |"
        )
    lines += [
        "",
        f"Success, or the return between random actions (0) and the expert (1) where returns count; seeds from "
        f"{found['seed']} on, 95 % intervals (`python benchmarks/specialists.py`).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)

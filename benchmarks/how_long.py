"""How long `finetune` should learn: what more steps do to errors in held-out recordings, and to success.

    python benchmarks/how_long.py [DATA_SET ...]

The default learns for several numbers of steps, nothing is chosen by what is held out, and the last weights count: on
simulated tasks that are played, and on data sets of one task whose last episodes are compared with. Of data sets there
is also the best checkpoint by others that are held out. Every cell is written as soon as it is there,
and one that is there is not measured again.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["LP_NUM_THREADS"] = "1"  # Before anything computes or draws.

import shutil
from pathlib import Path
from typing import Any

import torch
import tyro

from own_robot import FIRST_WORLD, HERE, demonstrations_of, played, total
from polysoma.cli.open_loop import measure
from polysoma.data.mixture import open_sources
from polysoma.errors import PolysomaError
from polysoma.evaluation.recorded import recorded
from polysoma.learning.finetuning import recipe_for, with_steps
from polysoma.learning.preparation import sources_for
from polysoma.learning.training import train
from polysoma.nn.precision import chosen, instruction_set
from results import cells_of, commit, computed_in, read, write

STEPS = (250, 1000, 4000)
CHOSEN, APART = 4000, 0.1
"""Steps among whose checkpoints one is chosen, and the fraction of what is learnt from that is held out for it."""
TASKS = {"two-blocks/red-or-blue": 20, "so101-small/pick-up": 50}
"""With demonstrations of each."""
HELD_OUT = 0.15


def main(
    data: tyro.conf.Positional[tuple[Path, ...]] = (),
    /,
    steps: tuple[int, ...] = STEPS,
    tasks: tuple[str, ...] = tuple(TASKS),
    seeds: int = 1,
    worlds: int = 50,
    work: Path = Path("runs/how-long"),
    name: str = "how_long",
) -> None:
    """Measures the cells that are missing.

    Args:
        data: data sets.
        steps: of learning.
        tasks: which of those in TASKS.
        seeds: of trainings, on tasks each with demonstrations of its own.
        worlds: unseen ones of each task.
        work: a folder for demonstrations and runs.
        name: of the results.
    """
    torch.set_num_threads(1)
    os.environ["POLYSOMA_FAMILIES"] = str(HERE / "worlds" / "two_blocks.py")
    cells = cells_of(name)
    everything: list[str | Path] = [*tasks, *data]
    for seed in range(seeds):
        for what in everything:
            for count in steps:
                key = f"{what.name if isinstance(what, Path) else what}, {count} steps, seed {seed}"
                if key not in cells:
                    cells[key] = _measured(what, count, seed, worlds, work)
                    print(key, _said(cells[key]), flush=True)
                    write(name, {"first_world": FIRST_WORLD, "worlds": worlds, "cells": cells})
        for folder in data:
            if (key := f"{folder.name}, chosen of {CHOSEN} steps, seed {seed}") not in cells:
                cells[key] = _measured(folder, CHOSEN, seed, worlds, work, chosen_itself=True)
                print(key, _said(cells[key]), flush=True)
                write(name, {"first_world": FIRST_WORLD, "worlds": worlds, "cells": cells})


def _measured(
    what: str | Path, steps: int, seed: int, worlds: int, work: Path, chosen_itself: bool = False
) -> dict[str, Any]:
    if isinstance(what, Path):
        (source,) = open_sources([what], {}, {})
        if len(source.tasks) > 1:
            raise PolysomaError(f"{what.name}: expected recordings of one task, got {len(source.tasks)}")
        # The last ones are those that are compared with.
        folder, shown = what, source.split(0, HELD_OUT)[0].episodes
    else:
        shown = TASKS[what]
        folder = demonstrations_of(what, shown, seed, work)
    held_out = APART if chosen_itself else 0.0
    recipe = with_steps(recipe_for("generalist", [str(folder)], None, shown, held_out, seed=seed), steps)
    run = work / "runs" / f"{folder.name}-{steps}-{seed}-{chosen_itself}"
    shutil.rmtree(run, ignore_errors=True)
    place = str(train(recipe, run))
    cell: dict[str, Any] = {
        "steps": steps, "seed": seed, "chosen": chosen_itself, "commit": commit(), "precision": chosen("cpu"),
        "instruction_set": instruction_set(),
        "passes": steps * sum(body.batch for body in recipe.bodies.values()) / sum(map(len, sources_for(recipe)[0])),
    }  # fmt: skip
    if not isinstance(what, Path):
        return cell | {"tasks": what, "demonstrations": shown, "played": played(place, what, worlds)}
    (one,) = recorded(place, [str(folder)], HELD_OUT)
    return cell | {"data": folder.name, "found": measure(one, 1000, 1).to_json()}


def _said(cell: dict[str, Any]) -> str:
    if "played" in cell:
        return total([cell])
    errors = cell["found"]["errors"]
    shown = (f"{errors[who]['first']:.3f} / {errors[who]['chunk']:.3f}" for who in ("policy", "perceptron", "repeat"))
    return "{} (perceptron {}, repeat {})".format(*shown)


def render() -> str:
    """A row for each number of steps, a column for each task and data set."""
    found = read("how_long")
    columns: dict[str, dict[tuple[bool, int], list[dict[str, Any]]]] = {}
    for cell in found["cells"].values():
        column = cell.get("data") or f"`{cell['tasks']}`, {cell['demonstrations']}"
        columns.setdefault(column, {}).setdefault((cell["chosen"], cell["steps"]), []).append(cell)
    rows = sorted({row for column in columns.values() for row in column})
    lines = [f"| steps | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for chosen_itself, count in rows:
        shown = [_together(column.get((chosen_itself, count), [])) for column in columns.values()]
        lines.append(f"| {count:,}{', the best checkpoint' if chosen_itself else ''} | {' | '.join(shown)} |")
    lines += [
        "",
        "Tasks: success with 95 % intervals, and passes over the demonstrations; seeds of worlds from "
        f"{found['first_world']:,} on. Recordings: errors of the first action / the chunk on held-out episodes in "
        "standard deviations, those of the controls, and passes. The last weights, and the best checkpoint by others "
        f"that were held out{computed_in(found['cells'].values())} (`python benchmarks/how_long.py DATA_SET ...`).",
        "",
    ]
    return "\n".join(lines)


def _together(cells: list[dict[str, Any]]) -> str:
    if not cells:
        return ""
    passes = f"{sum(cell['passes'] for cell in cells) / len(cells):.0f} passes"
    told = total(cells) if "played" in cells[0] else ", ".join(map(_said, cells))
    return f"{told}; {passes}"


if __name__ == "__main__":
    tyro.cli(main)

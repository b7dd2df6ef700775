"""PushT from states: `finetune` from 100 demonstrations beside the expert that gave them (benchmarks/worlds/push_t.py).

    pip install gym-pusht
    python benchmarks/pusht.py

By default, as a body of its own that no base knows, and with all that a small network from nothing learns in the same
minutes of one core. Every cell is written as soon as it is there, and one that is there is not measured again.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # Before anything computes.

import shutil
from pathlib import Path
from typing import Any

import torch
import tyro

from own_robot import FIRST_WORLD, HERE, demonstrations_of, played, total
from polysoma.evaluation.intervals import paired_difference
from polysoma.learning.finetuning import recipe_for, within
from polysoma.learning.run_state import learnt
from polysoma.learning.training import train
from polysoma.nn.heads import HeadConfig
from polysoma.nn.precision import chosen, instruction_set
from polysoma.policy.methods import FinetuningMethod
from results import cells_of, commit, computed_in, difference, read, write

TASK, EXPERT = "pusht/push", "the expert"
WAYS: dict[str, tuple[FinetuningMethod | None, HeadConfig | None]] = {
    EXPERT: (None, None),
    "`--method lora`": ("lora", None),
    "`--method small`": ("small", None),
    "`--method small --head flow`": ("small", HeadConfig("flow")),
}
"""By how they are called, the methods of `finetune` and their heads; None is the usual one."""


def main(
    demonstrations: int = 100,
    minutes: float = 10.0,
    seeds: int = 1,
    worlds: int = 100,
    ways: tuple[str, ...] = tuple(WAYS),
    work: Path = Path("runs/pusht"),
    name: str = "pusht",
) -> None:
    """Measures the cells that are missing.

    Args:
        demonstrations: how many.
        minutes: of one core, for each training.
        seeds: of trainings, each with demonstrations of its own.
        worlds: unseen ones.
        ways: which of those in WAYS.
        work: a folder for demonstrations and runs.
        name: of the results.
    """
    torch.set_num_threads(1)
    os.environ["POLYSOMA_FAMILIES"] = str(HERE / "worlds" / "push_t.py")
    cells = cells_of(name)
    for seed in range(seeds):
        for way in ways:
            key = way if way == EXPERT else f"{way}, {demonstrations} demonstrations, {minutes:g} minutes, seed {seed}"
            if key in cells:
                continue
            cell: dict[str, Any] = {"way": way}
            driver = "expert"
            if way != EXPERT:
                # As `polysoma record` does: half of what is executed is disturbed, so that mistakes are mended, too.
                data = demonstrations_of(TASK, demonstrations, seed, work, noise=None)
                method, head = WAYS[way]
                recipe = recipe_for("generalist", [str(data)], method, demonstrations, seed=seed, head=head)
                run = work / "runs" / str(list(WAYS).index(way)) / str(seed)
                shutil.rmtree(run, ignore_errors=True)
                driver = str(train(within(recipe, 60 * minutes)[0], run))
                cell |= {"demonstrations": demonstrations, "minutes": minutes, "seed": seed, "steps": learnt(run)[0]}
            cells[key] = cell | {
                "played": played(driver, TASK, worlds), "commit": commit(),
                "precision": chosen("cpu"), "instruction_set": instruction_set(),
            }  # fmt: skip
            print(f"{key}: {total([cells[key]])}", flush=True)
            write(name, {"first_world": FIRST_WORLD, "worlds": worlds, "cells": cells})


def render() -> str:
    """Success of each way, and how far it is from the expert on the same worlds."""
    found = read("pusht")
    groups: dict[tuple[str, Any, Any], list[dict[str, Any]]] = {}
    for cell in found["cells"].values():
        groups.setdefault((cell["way"], cell.get("demonstrations", ""), cell.get("minutes", "")), []).append(cell)
    expert = [bool(won) for won in found["cells"][EXPERT]["played"][TASK]["outcomes"]]
    lines = ["| who pushes | demonstrations, minutes | steps | success | less the expert, paired |"]
    lines.append("| --- |" + " --- |" * 4)
    for (way, count, minutes), cells in sorted(groups.items(), key=lambda group: list(WAYS).index(group[0][0])):
        if way == EXPERT:
            lines.append(f"| {way} |  |  | {total(cells)} |  |")
            continue
        steps = ", ".join(f"{cell['steps']:,}" for cell in cells)
        outcomes = [bool(won) for cell in cells for won in cell["played"][TASK]["outcomes"]]
        apart = difference(paired_difference(outcomes, expert * len(cells)))
        lines.append(f"| {way} | {count}, {minutes:g} | {steps} | {total(cells)} | {apart} |")
    lines += [
        "",
        f"`{TASK}`, {found['worlds']} unseen worlds from seed {found['first_world']:,} on, 95 % intervals; one seed of "
        f"training for each number of steps; one core"
        f"{computed_in(found['cells'].values())} (`python benchmarks/pusht.py`; "
        "with `--seeds 3 --ways` for more seeds of one way).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)

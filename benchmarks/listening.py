"""Does the policy listen? The same episodes under the right words, those of another task, nonsense, and none.

    python benchmarks/listening.py
    python benchmarks/listening.py runs/laptop/checkpoint --name listening-laptop --families rover go1

Families are measured one after the other; those that are there are not measured again. What the scene alone says (in
Meta-World nearly everything) needs no words, so success stays there, whatever is said.
"""

from __future__ import annotations

from typing import Any

import torch
import tyro

from polysoma import simulators
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.listening import Telling
from polysoma.nn.precision import chosen, instruction_set
from polysoma.rollout.drivers import driver_of
from polysoma.rollout.rollout import Workers
from results import cells_of, computed_in, difference, read, share, write

EPISODES = {"rover": 50, "go1": 25, "drone": 25, "aloha": 25, "fetch": 25, "babyai": 6, "metaworld": 4}
"""Of each task of the families in which tasks differ by what is said."""
SEED = 8600
"""As in ``scores.py``."""
TOLD: dict[Telling, str] = {"right": "right", "swapped": "another task's", "nonsense": "nonsense", "none": "none"}


def main(
    checkpoint: tyro.conf.Positional[str] = "generalist",
    name: str = "listening",
    families: tuple[str, ...] = tuple(EPISODES),
    workers: int = 1,
) -> None:
    torch.set_num_threads(1)
    for family in families:
        cells = cells_of(name)
        if family in cells:
            continue
        result = evaluate(
            driver_of(checkpoint), list(simulators.tasks_of(family)), EPISODES[family], SEED,
            workers=Workers(workers), listening=True,
        )  # fmt: skip
        if family not in result.listening:
            raise PolysomaError(f"{family}: {result.settings['no_listening']}")
        found = result.listening[family].to_json()
        cells[family] = found | {"precision": chosen("cpu"), "instruction_set": instruction_set()}
        print(family, {told: found[told]["rate"] for told in TOLD}, flush=True)
        write(name, {"checkpoint": checkpoint, "seed": SEED, "cells": cells})


def render() -> str:
    """Success by what is said, and what the right words add to that of another task's."""
    found = read("listening")
    cells: dict[str, dict[str, Any]] = found["cells"]
    lines = [f"| family | {' | '.join(TOLD.values())} | the right words add to another task's |"]
    lines.append("| --- |" + " --- |" * (len(TOLD) + 1))
    for family, cell in cells.items():
        rates = " | ".join(share({**cell[told], "trials": cell["trials"]}) for told in TOLD)
        added = difference(cell["swapped"]["right_minus"])
        lines.append(f"| {family}, {cell['trials']} episodes | {rates} | {added} |")
    note = (
        f"The shipped weights, the same episodes under each; unseen seeds from {found['seed']} on; 95 % intervals, the "
        f"last column is paired{computed_in(cells.values())} (`{found['command']}`)."
    )
    return "\n".join([*lines, "", note, ""])


if __name__ == "__main__":
    tyro.cli(main)

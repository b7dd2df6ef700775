"""Which eyes and which answers learn from few demonstrations through cameras: `finetune`'s default beside what it could
have been, in two blocks of which words name one.

    python benchmarks/eyes.py

All learn for the same minutes of one core from the same demonstrations, and play the same unseen worlds. Every cell is
written as soon as it is there, and one that is there is not measured again.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # Before anything computes.

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import tyro

from own_robot import FIRST_WORLD, HERE, demonstrations_of, played, total
from polysoma.learning.finetuning import recipe_for, within
from polysoma.learning.recipe import Recipe
from polysoma.learning.run_state import learnt
from polysoma.learning.sight import Eyes
from polysoma.learning.training import train
from polysoma.nn.images import ImageConfig
from polysoma.nn.precision import chosen, instruction_set
from results import cells_of, commit, computed_in, read, write

TASK = "two-blocks/red-or-blue"
Change = Callable[[Recipe], Recipe]


def _body(**changes: Any) -> Change:
    def change(recipe: Recipe) -> Recipe:
        bodies = {name: dataclasses.replace(body, **changes) for name, body in recipe.bodies.items()}
        return dataclasses.replace(recipe, bodies=bodies)

    return change


def _recipe(**changes: Any) -> Change:
    return lambda recipe: dataclasses.replace(recipe, **changes)


VARIANTS: dict[str, tuple[str | None, Eyes, Change]] = {
    "the default": (None, "auto", _recipe()),
    "named places, commands as places alone": (None, "auto", _recipe(gated=())),
    "named places, pictures are moved": (None, "auto", _body(random_shift=4)),
    "named places, LoRA beside the shipped trunk": ("lora", "auto", _recipe()),
    "points": (None, "points", _recipe()),
    "points, commands as places alone": (None, "points", _recipe(gated=())),
    "points, it sees the previous action": (None, "points", _body(previous_action=True)),
    "points, pictures are not moved": (None, "points", _body(random_shift=0)),
    "points, LoRA beside the shipped trunk": ("lora", "points", _recipe()),
    "grid": (None, "points", _recipe(images=ImageConfig())),
    "all shipped weights, their eyes": ("full", "auto", _recipe()),
}
"""What differs from the default: its method, its eyes, and the change of its recipe."""


def main(
    demonstrations: int = 20,
    minutes: float = 5.0,
    seeds: int = 1,
    worlds: int = 64,
    variants: tuple[str, ...] = tuple(VARIANTS),
    work: Path = Path("runs/eyes"),
    name: str = "eyes",
) -> None:
    """Measures the cells that are missing.

    Args:
        demonstrations: how many.
        minutes: of one core.
        seeds: of trainings, each with demonstrations of its own.
        worlds: unseen ones.
        variants: which of those in VARIANTS.
        work: a folder for demonstrations and runs.
        name: of the results.
    """
    torch.set_num_threads(1)
    os.environ["POLYSOMA_FAMILIES"] = str(HERE / "worlds" / "two_blocks.py")
    cells = cells_of(name)
    for seed in range(seeds):
        for variant in variants:
            key = f"{variant}, {demonstrations} demonstrations, {minutes:g} minutes, seed {seed}"
            if key in cells:
                continue
            method, sight, change = VARIANTS[variant]
            data = demonstrations_of(TASK, demonstrations, seed, work)
            recipe = recipe_for("generalist", [str(data)], method, demonstrations, seed=seed, eyes=sight)  # type: ignore[arg-type]
            recipe, _ = within(change(recipe), 60 * minutes)
            run = work / "runs" / str(list(VARIANTS).index(variant)) / str(seed)
            shutil.rmtree(run, ignore_errors=True)
            checkpoint = train(recipe, run)
            cells[key] = {
                "variant": variant, "demonstrations": demonstrations, "minutes": minutes, "seed": seed,
                "steps": learnt(run)[0], "played": played(str(checkpoint), TASK, worlds), "commit": commit(),
                "precision": chosen("cpu"), "instruction_set": instruction_set(),
            }  # fmt: skip
            print(f"{key}: {total([cells[key]])}", flush=True)
            write(name, {"first_world": FIRST_WORLD, "worlds": worlds, "cells": cells})


def render() -> str:
    """Success by variant."""
    found = read("eyes")
    groups: dict[tuple[str, int, float], list[dict[str, Any]]] = {}
    for cell in found["cells"].values():
        groups.setdefault((cell["variant"], cell["demonstrations"], cell["minutes"]), []).append(cell)
    lines = ["| what differs | demonstrations, minutes | steps | success | the other block |", "| --- |" + " --- |" * 4]
    for (variant, count, minutes), cells in groups.items():
        other = sum(row["other"] for cell in cells for row in cell["played"].values())
        steps = ", ".join(f"{cell['steps']:,}" for cell in cells)
        lines.append(f"| {variant} | {count}, {minutes:g} | {steps} | {total(cells)} | {other} |")
    lines += [
        "",
        f"`{TASK}`, {found['worlds']} unseen worlds from seed {found['first_world']:,} on, 95 % intervals; one seed of "
        f"training each where one number of steps is given; one core"
        f"{computed_in(found['cells'].values())} (`python benchmarks/eyes.py`).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)

"""What `finetune` learns of real recordings, beside controls: episodes that it held out, without a simulator.

    python benchmarks/recordings.py DATA_SET [DATA_SET ...]

Each data set is learnt by the default for the same minutes of one core, then compared with its held-out episodes.
Every cell is written as soon as it is there, and one that is there is not measured again.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # Before anything computes.

import shutil
from pathlib import Path

import torch
import tyro

from polysoma.cli.open_loop import measure, print_errors
from polysoma.evaluation.recorded import recorded
from polysoma.learning.finetuning import recipe_for, within
from polysoma.learning.run_state import learnt
from polysoma.learning.training import train
from polysoma.nn.precision import chosen, instruction_set
from results import cells_of, commit, read, write


def main(
    data: tyro.conf.Positional[tuple[Path, ...]],
    /,
    minutes: float = 5.0,
    held_out: float = 0.15,
    seeds: int = 1,
    previous_action: bool = False,
    work: Path = Path("runs/recordings"),
    name: str = "recordings",
) -> None:
    """Measures.

    Args:
        data: data sets.
        minutes: of one core.
        held_out: the fraction of the episodes that is compared with.
        seeds: of trainings.
        previous_action: whether the policy sees what was done last.
        work: a folder for runs.
        name: of the results.
    """
    torch.set_num_threads(1)
    cells = cells_of(name)
    for seed in range(seeds):
        for folder in data:
            key = f"{folder.name}, {minutes:g} minutes, seed {seed}, previous action {previous_action}"
            if key in cells:
                continue
            recipe = recipe_for(
                "generalist", [str(folder)], None, held_out=held_out, seed=seed,
                previous_action=True if previous_action else None,
            )  # fmt: skip
            recipe, _ = within(recipe, 60 * minutes)
            run = work / f"{folder.name}-{seed}-{previous_action}"
            shutil.rmtree(run, ignore_errors=True)
            checkpoint = train(recipe, run)
            for one in recorded(str(checkpoint), [str(folder)]):
                found = measure(one, 1000, 1)
                print_errors(found, one.which, whole=False)
                cells[key] = {
                    "data": folder.name, "minutes": minutes, "seed": seed, "steps": learnt(run)[0],
                    "previous_action": previous_action, "found": found.to_json(), "commit": commit(),
                    "precision": chosen("cpu"), "instruction_set": instruction_set(),
                }  # fmt: skip
                write(name, {"cells": cells})


def render() -> str:
    """Errors of the first action and of the chunk, of the policy and of the controls."""
    found = read("recordings")
    lines = ["| recordings | minutes, steps | policy | mean | stay | repeat | perceptron | cameras count |"]
    lines.append("| --- |" + " --- |" * 7)
    for cell in found["cells"].values():
        errors = cell["found"]["errors"]
        shown = [
            f"{errors[name]['first']:.3f} / {errors[name]['chunk']:.3f}" if name in errors else ""
            for name in ("policy", "mean", "stay", "repeat", "perceptron")
        ]
        cameras = [
            f"{name} {one['ratio']:.2f}"
            for name, one in cell["found"]["importance"].items()
            if name not in ("words", "state", "previous action")
        ]
        sees = ", sees the previous action" if cell["previous_action"] else ""
        episodes = cell["found"]["episodes"]
        lines.append(
            f"| {cell['data']}, {episodes} episodes held out{sees} | {cell['minutes']:g}, {cell['steps']:,} | "
            f"**{shown[0]}** | {' | '.join(shown[1:])} | {', '.join(cameras)} |"
        )
    computed = sorted({f", {cell['precision']} on {cell['instruction_set']}" for cell in found["cells"].values()})
    lines += [
        "",
        "Mean absolute error in standard deviations of the action, of the first action / the whole chunk; how many "
        f"times errors grow with the camera of another episode; one core{''.join(computed)} "
        "(`python benchmarks/recordings.py DATA_SET ...`).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)

"""What `finetune` learns of real recordings, beside controls: episodes that it held out, without a simulator.

    python benchmarks/recordings.py DATA_SET [DATA_SET ...] --lerobot lerobot-venv/bin/python

Each data set is learnt by the default for the same minutes of one core, then compared with its held-out episodes. So is
LeRobot's ACT, from the same episodes and pictures of the same size, for the same minutes of processor time. It lives in
an environment of its own (tests/interop/check_lerobot.py says how to make it); without ``--lerobot`` its cells are left
out. Every cell is written as soon as it is there, and one that is there is not measured again.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # Before anything computes.

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from own_robot_peer import Played, trained
from polysoma.cli.open_loop import measure, print_errors
from polysoma.data.batch import Batch
from polysoma.data.convert import convert
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import open_sources
from polysoma.evaluation.answers import Predict
from polysoma.evaluation.open_loop import OpenLoop, open_loop
from polysoma.evaluation.recorded import recorded
from polysoma.learning.finetuning import recipe_for, within
from polysoma.learning.run_state import learnt
from polysoma.learning.training import train
from polysoma.nn.precision import chosen, instruction_set
from results import cells_of, commit, computed_in, read, write

PEER = "LeRobot's ACT"
WINDOWS = 1000


def main(
    data: tyro.conf.Positional[tuple[Path, ...]],
    /,
    lerobot: Path | None = None,
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
        lerobot: the Python of LeRobot's environment.
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
            told = f"{folder.name}, {minutes:g} minutes, seed {seed}"
            about = {
                "data": folder.name, "minutes": minutes, "seed": seed, "commit": commit(), "precision": chosen("cpu"),
                "instruction_set": instruction_set(),
            }  # fmt: skip
            key = f"{told}, previous action {previous_action}"
            if key not in cells:
                recipe = recipe_for(
                    "generalist", [str(folder)], None, held_out=held_out, seed=seed,
                    previous_action=True if previous_action else None,
                )  # fmt: skip
                recipe, _ = within(recipe, 60 * minutes)
                run = work / f"{folder.name}-{seed}-{previous_action}"
                shutil.rmtree(run, ignore_errors=True)
                checkpoint = train(recipe, run)
                (one,) = recorded(str(checkpoint), [str(folder)])
                found = measure(one, WINDOWS, 1)
                print_errors(found, one.which, whole=False)
                steps = {"steps": learnt(run)[0], "previous_action": previous_action}
                cells[key] = about | steps | {"found": found.to_json()}
                write(name, {"cells": cells})
            key = f"{told}, {PEER}"
            if lerobot is not None and key not in cells:
                found, training = beside("act", str(lerobot), folder, held_out, minutes, seed, work)
                print_errors(found, f"{PEER}, {training['steps']:,} steps", whole=False)
                cells[key] = about | {"peer": PEER, "training": training, "found": found.to_json()}
                write(name, {"cells": cells})


def beside(
    method: str, python: str, folder: Path, held_out: float, minutes: float, seed: int, work: Path
) -> tuple[OpenLoop, dict[str, Any]]:
    """Trains a peer (see own_robot_peer.py) from the episodes that are not held out, and measures it on those that
    are, as `finetune` is."""
    (source,) = open_sources([folder], {}, {})
    others, apart = source.split(0, held_out)
    assert apart is not None
    # LeRobot reads version 3. Pictures become as small as `finetune` sees them.
    copy = work / f"{folder.name}-converted"
    convert(folder, copy)
    np.testing.assert_array_equal(Dataset(copy).episode_length, source.datasets[0].episode_length)
    peer, training = trained(
        method, python, copy, others.episodes_of()[0].tolist(), work / f"{folder.name}-{seed}-{method}.pt",
        minutes, seed, source.horizon.chunk, chosen("cpu"),
    )  # fmt: skip
    return open_loop(predicting(peer), apart, WINDOWS, 1), training


def predicting(peer: Played) -> Predict:
    """What a peer answers at the last frame of each window."""

    def predict(batch: Batch) -> Tensor:
        rows = zip(batch.texts, (batch.lengths - 1).tolist(), strict=True)
        chunks = [
            peer({name: values[row, last].numpy() for name, values in batch.observations.items()}, text)
            for row, (text, last) in enumerate(rows)
        ]
        return torch.from_numpy(np.stack(chunks))

    return predict


def render() -> str:
    """Errors of the first action and of the chunk, of the policy, of its peer and of the controls."""
    cells = read("recordings")["cells"].values()
    peers = {(cell["data"], cell["minutes"], cell["seed"]): cell for cell in cells if "peer" in cell}
    lines = [
        f"| recordings | minutes, steps | policy | {PEER}, steps | mean | stay | repeat | perceptron | cameras count |"
    ]
    lines.append("| --- |" + " --- |" * 8)
    for cell in cells:
        if "peer" in cell:
            continue
        policy, *others = (_errors(cell, name) for name in ("policy", "mean", "stay", "repeat", "perceptron"))
        peer = peers.get((cell["data"], cell["minutes"], cell["seed"]))
        cameras = [
            f"{name} {one['ratio']:.2f}"
            for name, one in cell["found"]["importance"].items()
            if name not in ("words", "state", "previous action")
        ]
        sees = ", sees the previous action" if cell["previous_action"] else ""
        episodes = cell["found"]["episodes"]
        beside = f"{_errors(peer, 'policy')}, {peer['training']['steps']:,}" if peer else ""
        lines.append(
            f"| {cell['data']}, {episodes} episodes held out{sees} | {cell['minutes']:g}, {cell['steps']:,} | "
            f"**{policy}** | {beside} | {' | '.join(others)} | {', '.join(cameras)} |"
        )
    lines += [
        "",
        "Mean absolute error in standard deviations of the action, of the first action / the whole chunk; how many "
        f"times errors grow with the camera of another episode; one core{computed_in(cells)} "
        "(`python benchmarks/recordings.py DATA_SET ... --lerobot PYTHON`).",
        "",
        *sorted({_about(cell["training"]) for cell in peers.values()}),
        "",
    ]
    return "\n".join(lines)


def _about(training: dict[str, Any]) -> str:
    """What the peer is, in words."""
    begins = "at random" if training["backbone"] == "random" else f"with those of {training['backbone']}"
    size, rate = training["parameters"] / 1e6, training["learning_rate"]
    return (
        f"{PEER}: version {training['lerobot']}, {size:.0f} million parameters, eyes begin {begins}, batches of "
        f"{training['batch']}, a learning rate of {rate:g} that falls to nothing."
    )


def _errors(cell: dict[str, Any], name: str) -> str:
    one = cell["found"]["errors"].get(name)
    return f"{one['first']:.3f} / {one['chunk']:.3f}" if one else ""


if __name__ == "__main__":
    tyro.cli(main)

"""Do the cameras matter? How well a policy knows from pictures where things are, and how its actions depend on that.

    python benchmarks/sight.py --checkpoint generalist

Many resets of every task, seen through cameras. Within each task: the part of the variance of privileged positions that
the policy's estimates explain (1: all; 0: no better than the task's mean; below: worse), the mean error in millimetres,
and how much the last action of a chunk varies when nothing but the picture is another one, in standard deviations of
the data's actions.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import tyro

from polysoma import simulators
from polysoma.data.batch import Batch
from polysoma.data.windows import tensor
from polysoma.embodiment import INSTRUCTION, Modality
from polysoma.policy import checkpoint as checkpoints
from polysoma.policy.policy import Policy
from results import read, write

STILL = 0.005
"""Metres: what varies less than this within a task is not asked for."""


def look(policy: Policy, task: str, seeds: range) -> dict[str, Any]:
    """The numbers of one task, over the first observations of these seeds' episodes."""
    name = task.partition("/")[0]
    body = policy.embodiment(name)
    environment = simulators.make(task)
    observations, truth = [], []
    for seed in seeds:
        observations.append(environment.reset(seed=seed)[0])
        truth.append(environment.privileged())
    environment.close()
    count = len(seeds)
    windows = Batch(
        body,
        [observation[INSTRUCTION] for observation in observations],
        {s.name: tensor(np.stack([o[s.name] for o in observations])[:, None]) for s in body.arrays},
        tensor(np.broadcast_to(body.actions.none(), (count, 1, *body.actions.none().shape))),
        torch.zeros(count, 1, dtype=torch.bool),
        torch.ones(count, dtype=torch.int64),
    )
    first = {
        s.name: windows.observations[s.name]
        if s.modality is Modality.IMAGE
        else windows.observations[s.name][:1].repeat_interleave(count, 0)
        for s in body.arrays
    }
    actions = policy.predict(dataclasses.replace(windows, observations=first))[:, -1].numpy()
    moved = (actions.std(0) / policy.config.statistics[name]["action"].scale).mean()
    estimates = policy.estimate(windows)
    error, deviation, distances = 0.0, 0.0, []
    for stream in body.privileged:
        known = np.stack([values[stream.name] for values in truth])
        places = np.array([c.unit == "m" for c in stream.channels]) & (known.std(0) > STILL)
        missed = estimates[stream.name][:, 0].numpy() - known
        error += float(np.square(missed[:, places]).sum())
        deviation += float(np.square((known - known.mean(0))[:, places]).sum())
        distances += np.abs(missed[:, places]).reshape(-1).tolist()
    return {
        "explained": round(1 - error / deviation, 3) if deviation else None,
        "error_mm": round(1e3 * float(np.mean(distances)), 1) if distances else None,
        "action_std": round(float(moved), 3),
    }


def main(checkpoint: str = "generalist", tasks: str = "metaworld-pixels/*,aloha-pixels/*", episodes: int = 20) -> None:
    """Every task's numbers, and their means.

    Args:
        checkpoint: whose cameras.
        tasks: of bodies with cameras and privileged states.
        episodes: resets of each task, with the seeds 6500 and on.
    """
    torch.set_num_threads(1)
    policy = checkpoints.load(checkpoint)
    found: dict[str, dict[str, Any]] = {}
    for task in simulators.match_tasks(tasks):
        found[task] = look(policy, task, range(6500, 6500 + episodes))
        print(task, found[task], flush=True)
    means = {}
    for name in dict.fromkeys(task.partition("/")[0] for task in found):
        rows = [row for task, row in found.items() if task.startswith(name + "/")]
        means[name] = {
            key: round(float(np.median([row[key] for row in rows if row[key] is not None])), 3) for key in rows[0]
        }
        print(name, "medians:", means[name])
    write("sight", {"settings": {"checkpoint": checkpoint, "episodes": episodes}, "medians": means, "tasks": found})


def render() -> str:
    """What cameras know."""
    found = read("sight")
    lines = [
        "| body | explained variance of places | mean error | actions vary with the picture by |",
        "| --- | --- | --- | --- |",
    ]
    for body, row in found["medians"].items():
        lines.append(f"| {body} | {row['explained']:.2f} | {row['error_mm']:.0f} mm | {row['action_std']:.3f} std |")
    lines += ["", f"Medians over tasks, {found['settings']['episodes']} resets each (`{found['command']}`).", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)

"""World models of bodies' recordings: what they expect with their eyes closed on episodes that they never saw.

    python benchmarks/world.py

For each body and seed a model learns for a minute or two. Beside it: the last observation, its last change again and
again, a linear model of one step, and the model under the actions of other pieces. Cells that are there already are not
measured again.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.sequences import Sequences
from polysoma.evaluation.foresight import LAST, LINEAR, MODEL, SHUFFLED, VELOCITY, WATCHED, foresight
from polysoma.evaluation.intervals import mean_interval
from polysoma.learning.methods.world import learn
from polysoma.policy import world
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from results import cells_of, read, write

LOGS = {
    "pointmaze": ("pointmaze/medium", 60, 200),
    "half-cheetah": ("half-cheetah/*", 60, 200),
    "walker2d": ("walker2d/*", 80, 200),
    "drone": ("drone/*", 30, 150),
    "fetch": ("fetch/*", 80, 60),
    "metaworld": ("metaworld/push-v3", 60, 200),
    "metaworld-pixels": ("metaworld-pixels/push-v3", 160, 200),
    "rover-pixels": ("rover-pixels/*", 40, 90),
}
"""Tasks, episodes of each, and steps at most."""
DATA_SEED, HELD_OUT = 500_000, 0.2
AHEAD = (5, 10, 20)
WHO = (LAST, VELOCITY, LINEAR, SHUFFLED, MODEL)
PARTS = {"numbers": "", "pixels": ", camera"}


def main(folder: Path = Path("runs/world"), seeds: int = 3, steps: int = 600, width: int = 128) -> None:
    torch.set_num_threads(1)
    cells = cells_of("world")
    settings = {"steps": steps, "width": width, "data_seed": DATA_SEED, "held_out": HELD_OUT, "watched": WATCHED}
    for tasks, episodes, longest in LOGS.values():
        noisy = Behaviour(noise=(0.0, 1.0), keep_failures=True, max_steps=longest)
        record(simulators.match_tasks(tasks), episodes, folder / "logs", noisy, 1, DATA_SEED)
    # All bodies for one seed before the next, so that it may be stopped at any time.
    for seed in range(seeds):
        for body in LOGS:
            name = f"{body}-{seed}"
            if name not in cells:
                cells[name] = {"body": body, "seed": seed, **measure(body, seed, folder, steps, width)}
                print(name, cells[name], flush=True)
                write("world", {"settings": settings, "ahead": list(AHEAD), "cells": cells})


def measure(body: str, seed: int, folder: Path, steps: int, width: int) -> dict[str, Any]:
    """Errors of one model."""
    data = Dataset(folder / "logs" / body)
    began, out = time.process_time(), folder / f"run-{body}-{seed}-{time.time_ns()}"
    model = world.load(learn([data], out, steps, width, held_out=HELD_OUT, seed=seed))
    seconds = time.process_time() - began
    logs = Sequences([data], lambda seen: world.flat(model.config, seen), HELD_OUT)
    # The same pieces for every seed of learning.
    return {"frames": len(data), "cpu_s": seconds, "errors": foresight(model, logs, AHEAD)}


def render() -> str:
    """Errors over those of copying the last observation."""
    found = read("world")
    settings, cells = found["settings"], list(found["cells"].values())
    lines = ["| body | " + " | ".join(f"{name}, 10 steps" for name in WHO[1:]) + " | model, 5 | model, 20 |"]
    lines.append("| --- |" + " --- |" * (len(WHO) + 1))
    ten = found["ahead"].index(10)
    counts = {body: sum(cell["body"] == body for cell in cells) for body in LOGS}
    for body in (body for body, count in counts.items() if count):
        own = [cell for cell in cells if cell["body"] == body]
        for part, label in PARTS.items():
            if part not in own[0]["errors"]:
                continue
            row = []
            for who, at in [(who, ten) for who in WHO[1:]] + [(MODEL, 0), (MODEL, 2)]:
                ratios = [
                    cell["errors"][part][who][at] / cell["errors"][part][LAST][at]
                    for cell in own
                    if who in cell["errors"][part]
                ]
                row.append(_ratio(ratios, who in (MODEL, SHUFFLED)))
            lines.append(f"| {body}{label} | " + " | ".join(row) + " |")
    least, most = min(count for count in counts.values() if count), max(counts.values())
    seeds = f"{least}" if least == most else f"{least} to {most}"
    frames, seconds = ([cell[what] for cell in cells] for what in ("frames", "cpu_s"))
    lines += [
        "",
        f"Root mean squared errors over those of copying the last observation, which is 1; below 1 is better. Pieces "
        f"of episodes that no model saw, of which {settings['watched']} steps are observed. {min(frames):,} to "
        f"{max(frames):,} frames of noisy experts a body, {settings['steps']} steps of learning of width "
        f"{settings['width']}, {min(seconds):.0f} to {max(seconds):.0f} s of one core; {seeds} seeds of learning, 95 % "
        f"intervals over them (`{found['command']}`).",
    ]
    return "\n".join(lines) + "\n"


def _ratio(ratios: list[float], interval: bool) -> str:
    if not ratios:
        return "-"
    if not interval or len(ratios) < 2:
        return f"{np.mean(ratios):.2f}"
    low, high = mean_interval(ratios)
    return f"{np.mean(ratios):.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    tyro.cli(main)

"""OGBench's point mazes by its own environments and protocol, driven through ``polysoma serve``.

    python benchmarks/ogbench_mazes.py --python ogbench-venv/bin/python

``python -m venv ogbench-venv && ogbench-venv/bin/pip install ogbench websockets msgpack`` makes that environment, which
has a newer MuJoCo than ours. benchmarks/ogbench_peer.py makes the logs there and plays OGBench's five tasks of each
maze; here goal-conditioned cloning learns from the logs, and acts alone and over their graph. Cells that are there are
not measured again. Five minutes of a core for each maze's logs, and three for each seed of learning.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import tyro

from polysoma.data.dataset import Dataset
from polysoma.errors import PolysomaError
from polysoma.evaluation.intervals import wilson
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.skills import engine_settings, learn
from results import cells_of, commit, read, share, write

PEER = Path(__file__).with_name("ogbench_peer.py")
SETS = ("medium-navigate", "large-navigate", "giant-navigate", "giant-stitch")
DATA_SEED, SEED = 300_000, 320_000
CELL = 0.5
"""Metres of the graph's cells. Of 0.5, 1, 2 and 3 the best one in the medium maze, on seeds from 340,000 on: where the
next place is behind a corner, the policy pushes against the wall."""
AHEAD = 20
"""Steps to the goals that cloning learns from on average, about four metres."""
BODY = """name = "point"
rate_hz = 10.0

[streams.state]
column = "observation.state"
channels = [
    { name = "x", unit = "m" },
    { name = "y", unit = "m" },
    { name = "goal_x", unit = "m" },
    { name = "goal_y", unit = "m" },
]

[actions]
column = "action"
channels = [
    { name = "x", unit = "1", low = -1.0, high = 1.0 },
    { name = "y", unit = "1", low = -1.0, high = 1.0 },
]
"""
PUBLISHED = {
    "cloning of goals (GCBC)": (9, 29, 1, 0),
    "GCIQL": (53, 34, 0, 0),
    "QRL": (82, 86, 68, 50),
    "HIQL": (79, 58, 46, 0),
    "search over a graph at test time": (91, 88, 92, 98),
}
"""Success in percent on SETS of others' logs of the same kind: table 2 of arXiv 2410.20092, and the last row of a later
paper on graph search."""
WAYS = {
    ("direct", AHEAD): "ours: cloning of near goals, direct",
    ("graph", AHEAD): "ours: the same over the graph of the logs",
    ("direct", 0): "ours: cloning of goals from anywhere later in the episode (`--ahead 0`), direct",
    ("graph", 0): "ours: the same over the graph of the logs",
}


def main(
    python: Path,
    folder: Path = Path("runs/ogbench"),
    sets: tuple[str, ...] = SETS,
    seeds: int = 3,
    episodes: int = 20,
    steps: int = 10_000,
    width: int = 256,
    ahead: float = AHEAD,
) -> None:
    """Measures what is missing.

    Args:
        python: of the environment with OGBench.
        folder: for logs and runs.
        sets: mazes and kinds of logs.
        seeds: of learning.
        episodes: of each of the five tasks of a maze, for each seed.
        steps: of learning, of batches of 256.
        width: of the perceptrons.
        ahead: steps to goals on average; 0 draws them evenly from the rest of each episode.
    """
    if unknown := sorted({*sets} - {*SETS}):
        raise PolysomaError(f"sets: expected some of {list(SETS)}, got {unknown}")
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"episodes": episodes, "steps": steps, "width": width, "seed": SEED, "cell": CELL}
    cells = cells_of("ogbench_mazes")
    for seed in range(seeds):
        for name in sets:
            key = f"{name}-{seed}" + ("" if ahead == AHEAD else f"-ahead-{ahead:g}")
            if key not in cells:
                cells[key] = measure(python, name, seed, folder, episodes, steps, width, ahead)
                write("ogbench_mazes", {"settings": settings, "cells": cells})


def measure(
    python: Path, name: str, seed: int, folder: Path, episodes: int, steps: int, width: int, ahead: float
) -> dict[str, Any]:
    """What cloning learns from some logs, and reaches alone and over their graph."""
    maze, kind = name.split("-")
    logs = folder / f"{name}.npz"
    if not logs.exists():
        new = logs.with_name(f"new-{logs.name}")
        command = [python, PEER, "generate", maze, kind, new, "--seed", str(DATA_SEED)]
        subprocess.run(list(map(str, command)), check=True)
        new.rename(logs)
    logs.with_name(logs.name + ".toml").write_text(BODY)
    out = folder / f"run-{name}-{seed}-{time.time_ns()}"
    data = Dataset(logs)
    began = time.process_time()
    path = learn([data], Cloning(ahead=ahead), out, size=(width, 2), settings=engine_settings(steps), seed=seed)
    found: dict[str, Any] = {"set": name, "seed": seed, "ahead": ahead, "frames": len(data), "commit": commit()}
    found["learning_cpu_s"] = time.process_time() - began
    for way, more in (("direct", ()), ("graph", ("--graph", str(logs), "--cell", str(CELL)))):
        played = served(python, maze, path, more, episodes, SEED + 10_000 * seed)
        won = [one for outcomes in played["tasks"].values() for one in outcomes]
        found[way] = {"successes": sum(won), "trials": len(won), **played}
        print(f"{name}, seed {seed}, {way}: {sum(won)} of {len(won)}", flush=True)
    return found


def served(
    python: Path, maze: str, checkpoint: Path, more: tuple[str, ...], episodes: int, seed: int
) -> dict[str, Any]:
    """What OGBench's environment says of a checkpoint that is served to it."""
    serving = [sys.executable, "-m", "polysoma", "serve", str(checkpoint), *more, "--port", "0"]
    server = subprocess.Popen(serving, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        url = re.search(r"ws://\S+", line)
        if url is None:
            raise PolysomaError(f"the server said {line!r}: run {' '.join(serving)}")
        playing = [python, PEER, "play", maze, url[0], "--episodes", str(episodes), "--seed", str(seed)]
        done = subprocess.run(list(map(str, playing)), check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    finally:
        server.terminate()
        server.wait()


def render() -> str:
    """Successes on each maze, beside what was published."""
    found = read("ogbench_mazes")
    settings, cells = found["settings"], list(found["cells"].values())
    lines = ["| success | " + " | ".join(SETS) + " |", "| --- |" + " --- |" * len(SETS)]
    for (way, ahead), title in WAYS.items():
        row = []
        for name in SETS:
            scores = [cell[way] for cell in cells if (cell["set"], cell["ahead"]) == (name, ahead)]
            won, trials = (sum(score[part] for score in scores) for part in ("successes", "trials"))
            row.append(
                f"{share({'successes': won, 'trials': trials, 'interval': wilson(won, trials)})} of {trials}"
                if trials
                else ""
            )
        lines.append(f"| {title} | " + " | ".join(row) + " |")
    for title, numbers in PUBLISHED.items():
        lines.append(f"| published: {title} | " + " | ".join(f"{number / 100:.2f}" for number in numbers) + " |")
    seconds = max(cell["learning_cpu_s"] for cell in cells)
    frames = min(cell["frames"] for cell in cells)
    lines += [
        "",
        f"OGBench's environments and five tasks of each maze, {settings['episodes']} episodes a task and seed, "
        f"{max(cell['seed'] for cell in cells) + 1} seed(s) of learning, 95 % intervals of Wilson. The logs follow "
        f"OGBench's recipe ({frames:,} frames or more, made here: its own files are not to be had without a network); "
        f"published numbers are of its own files. {settings['steps']:,} steps of learning took at most {seconds:.0f} s "
        f"of a core (`{found['command']}`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

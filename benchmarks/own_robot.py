"""One's own robot, from a few demonstrations through its cameras: `finetune` beside LeRobot's ACT and a small network.

    python benchmarks/own_robot.py --lerobot lerobot-venv/bin/python

All learn from the same demonstrations, for the same minutes of one core, and play the same unseen worlds: the two
blocks of benchmarks/worlds and five tasks of the simulated SO-101. For every seed there are other demonstrations.
LeRobot lives in an environment of its own (tests/interop/check_lerobot.py says how to make it); without ``--lerobot``
its column is left out. Every cell is written as soon as it is there, and one that is there is not measured again. Leave
the core alone meanwhile: `finetune` goes by the clock, the others by their processor time.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["LP_NUM_THREADS"] = "1"  # Before anything computes or draws.

import json
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from own_robot_peer import Played, trained
from polysoma import simulators
from polysoma.acting.planner import Plan, Session, TaskPrompt
from polysoma.data.dataset import Dataset
from polysoma.embodiment import INSTRUCTION, Embodiment, Observation
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import wilson
from polysoma.nn.precision import Wanted, chosen, instruction_set
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import Workers
from polysoma.task import body_of
from results import cells_of, commit, computed_in, read, share, write

HERE = Path(__file__).resolve().parent
FIRST_WORLD = 700_000
"""Seed of the first world that is played; demonstrations have seeds below 100,000."""


@dataclass(frozen=True)
class Setting:
    """How many demonstrations of each task there are, and the minutes to learn from them."""

    demonstrations: tuple[int, ...]
    minutes: float


SETTINGS = {
    "two-blocks/red-or-blue": Setting((60, 20, 10), 5.0),
    "two-blocks/one-room": Setting((60,), 5.0),
    "so101-small/*": Setting((50,), 20.0),
}
"""By their tasks, which one policy learns."""
METHODS = {
    "finetune": "`polysoma finetune`",
    "points": "`--eyes points`",
    "cnn": "small network",
    "act": "LeRobot's ACT",
}


class PeerPlanner:
    """Plays a peer (see own_robot_peer.py)."""

    def __init__(self, peer: Played) -> None:
        self._peer = peer

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        return Session(prompt, self._peer.chunk)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        return [Plan(self._peer(seen, seen[INSTRUCTION]), "policy") for seen in observations]


def main(
    lerobot: Path | None = None,
    backbone: Path | None = None,
    tasks: tuple[str, ...] = tuple(SETTINGS),
    methods: tuple[str, ...] = tuple(METHODS),
    demonstrations: tuple[int, ...] = (),
    minutes: float | None = None,
    seeds: int = 3,
    worlds: int = 50,
    precision: Wanted = "auto",
    work: Path = Path("runs/own-robot"),
    name: str = "own_robot",
) -> None:
    """Measures the cells that are missing.

    Args:
        lerobot: the Python of LeRobot's environment.
        backbone: weights of a ResNet-18 in torchvision's names for ACT's eyes, which begin at random without it.
        tasks: which of those in SETTINGS.
        methods: which of those in METHODS.
        demonstrations: of each task, instead of those in SETTINGS.
        minutes: of one core, instead of those in SETTINGS.
        seeds: of trainings, each with demonstrations of its own.
        worlds: unseen ones, of each task.
        precision: what all of them learn in.
        work: a folder for demonstrations and runs.
        name: of the results.
    """
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["POLYSOMA_FAMILIES"] = str(HERE / "worlds" / "two_blocks.py")
    os.environ["POLYSOMA_PRECISION"] = numbers = chosen("cpu", precision)
    cells = cells_of(name)
    if "act" in methods and lerobot is None:
        print("LeRobot's ACT is left out: --lerobot names the Python of its environment")
        methods = tuple(method for method in methods if method != "act")
    write(name, {"first_world": FIRST_WORLD, "worlds": worlds, "cells": cells})
    for pattern, count, seed, method in _cells(tasks, methods, demonstrations, seeds):
        budget = SETTINGS[pattern].minutes if minutes is None else minutes
        key = f"{pattern}, {count} demonstrations, {budget:g} minutes, {method}, seed {seed}"
        if key not in cells:
            data = demonstrations_of(pattern, count, seed, work)
            asked = Asked(data, count, budget, seed, work / "runs" / _folder(key))
            began, spent = time.monotonic(), _children()
            python = str(lerobot) if method == "act" else sys.executable
            ours = {"finetune": "auto", "points": "points"}
            driver, training = asked.finetune(ours[method]) if method in ours else asked.peer(method, python, backbone)
            training |= {"wall_s": round(time.monotonic() - began, 1), "cpu_s": round(_children() - spent, 1)}
            cells[key] = {
                "tasks": pattern, "demonstrations": count, "minutes": budget, "method": method, "seed": seed,
                "training": training, "played": played(driver, pattern, worlds), "commit": commit(),
                "precision": numbers, "instruction_set": instruction_set(),
            }  # fmt: skip
            print(f"{key}: {total([cells[key]])}", flush=True)
        write(name, {"first_world": FIRST_WORLD, "worlds": worlds, "cells": cells})


def _cells(
    patterns: Iterable[str], methods: Sequence[str], demonstrations: tuple[int, ...], seeds: int
) -> Iterable[tuple[str, int, int, str]]:
    """All first seeds before the second ones, so that a table that is not finished says something of everything."""
    for seed in range(seeds):
        for pattern in patterns:
            for count in demonstrations or SETTINGS[pattern].demonstrations:
                for method in methods:
                    yield pattern, count, seed, method


def _folder(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text)


def demonstrations_of(pattern: str, count: int, seed: int, work: Path, noise: float | None = 0.0) -> Path:
    """A data set with at least this many successful demonstrations of each task, in the order of their seeds: where
    fewer are asked for, they are the first ones."""
    tasks, out = simulators.match_tasks(pattern), work / "demonstrations" / _folder(f"{pattern} {seed}")
    body = body_of(tasks[0])
    first, tried = 10_000 * seed, count
    while True:
        # One episode at a time: of several, the shortest would come first.
        record(tasks, tried, out, Behaviour("expert", noise=noise), Workers(1, slots=1), first)
        kept = np.bincount(Dataset(out / body).episode_task, minlength=len(tasks))
        if kept.min() >= count:
            return out / body
        tried += int(count - kept.min())


@dataclass(frozen=True)
class Asked:
    """A training: from so many demonstrations of each task, for so many minutes, with this seed, into this folder."""

    data: Path
    demonstrations: int
    minutes: float
    seed: int
    run: Path

    def finetune(self, eyes: str) -> tuple[str, dict[str, Any]]:
        """Ours, from the command line."""
        shutil.rmtree(self.run, ignore_errors=True)
        command = [sys.executable, "-m", "polysoma", "finetune", "generalist", "--no-check", "--data", str(self.data)]
        command += ["--demos", str(self.demonstrations), "--minutes", str(self.minutes), "--eyes", eyes]
        subprocess.run([*command, "--seed", str(self.seed), "--out", str(self.run)], check=True)
        last = json.loads((self.run / "metrics.jsonl").read_text().splitlines()[-1])
        return str(self.run / "checkpoint"), {"steps": last["step"]}

    def peer(self, method: str, python: str, backbone: Path | None) -> tuple[PeerPlanner, dict[str, Any]]:
        """One of the peers, in its own process."""
        dataset = Dataset(self.data)
        peer, numbers = trained(
            method, python, self.data, dataset.first_of_each_task(self.demonstrations), self.run.with_suffix(".pt"),
            # As long as ours, where nobody asks for another one.
            self.minutes, self.seed, _chunk(dataset.embodiment), os.environ["POLYSOMA_PRECISION"],
            backbone if method == "act" else None,
        )  # fmt: skip
        return PeerPlanner(peer), numbers


def _chunk(body: Embodiment) -> int:
    known = simulators.recommended_horizon(body.name)
    assert known is not None
    return known.chunk


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def played(driver: str | PeerPlanner, pattern: str, worlds: int) -> dict[str, Any]:
    """By task: successes, and episodes that ended with another thing done than the one that words say."""
    found = {}
    for task, score in evaluate(driver, simulators.match_tasks(pattern), worlds, FIRST_WORLD).tasks.items():
        longest = simulators.make(task).max_steps
        pairs = list(zip(score.outcomes, score.steps, strict=True))
        found[task] = {
            "successes": score.successes,
            "trials": score.trials,
            "other": sum(not success and steps < longest for success, steps in pairs),
            "outcomes": [int(success) for success in score.outcomes],
        }
    return found


def total(cells: Sequence[dict[str, Any]], task: str = "") -> str:
    """Success of cells of one kind, over seeds and tasks, or in one task, with its interval."""
    rows = [row for cell in cells for name, row in cell["played"].items() if task in ("", name)]
    won, tried = (sum(row[key] for row in rows) for key in ("successes", "trials"))
    return share({"successes": won, "trials": tried, "interval": wilson(won, tried)})


def render() -> str:
    """Success by tasks, demonstrations and method; then by single task."""
    found = read("own_robot")
    groups: dict[tuple[str, int, float], dict[str, list[dict[str, Any]]]] = {}
    for cell in found["cells"].values():
        kind = (cell["tasks"], cell["demonstrations"], cell["minutes"])
        groups.setdefault(kind, {}).setdefault(cell["method"], []).append(cell)
    heads = " | ".join(METHODS.values())
    lines = [
        f"| tasks, demonstrations of each, minutes | {heads} |",
        "| --- |" + " --- |" * len(METHODS),
    ]
    for (pattern, count, minutes), by_method in groups.items():
        cells = [_cell(by_method.get(method, [])) for method in METHODS]
        lines.append(f"| `{pattern}`, {count}, {minutes:g} | {' | '.join(cells)} |")
        tasks = next(iter(by_method.values()))[0]["played"]
        for task in tasks if len(tasks) > 1 else ():
            rates = [total(by_method[method], task) if method in by_method else "" for method in METHODS]
            lines.append(f"| {task} | {' | '.join(rates)} |")
    lines += [
        "",
        "Success with 95 % intervals over all seeds, that of each seed, and of the episodes that ended with something "
        f"done, how often it was what the words say. Seeds of worlds from {found['first_world']:,} on; one core"
        f"{computed_in(found['cells'].values())} (`python benchmarks/own_robot.py --lerobot PYTHON`).",
        "",
    ]
    return "\n".join(lines)


def _cell(cells: Sequence[dict[str, Any]]) -> str:
    if not cells:
        return ""
    rows = [row for cell in cells for row in cell["played"].values()]
    right, other = (sum(row[key] for row in rows) for key in ("successes", "other"))
    seeds = ", ".join(total([cell]).split()[0] for cell in cells)
    said = f"; as said {right / (right + other):.2f}" if right + other else ""
    return f"{total(cells)} ({seeds}){said}"


if __name__ == "__main__":
    tyro.cli(main)

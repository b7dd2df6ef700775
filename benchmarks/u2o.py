"""From logs to online: skills without rewards (U2O) beside offline-to-online IQL, conservative values and scratch.

    python benchmarks/u2o.py --only half-cheetah --seeds 0      # cells that are there are not measured again

For each task and seed of learning: skills are learnt from logs without their rewards (HILP for goals, successor
features in its space for running), IQL and conservative values (like Cal-QL) with them. All go on online for the same
frames, from the same logs; skills also without scaling the rewards, and IQL also from new weights. Scores are of the
same unseen episodes each time, without noise. Beside that, what the skill of 0.2 % of the labels does without learning
online, and whether midpoints lead to goals.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from polysoma.acting.graph import searching
from polysoma.acting.midpoints import halving
from polysoma.acting.opening import open_planner
from polysoma.acting.planner import Planner
from polysoma.data.dataset import Dataset
from polysoma.evaluation.intervals import mean_interval, wilson
from polysoma.learning.going_online import CONTINUED, Going, Judging, finetune
from polysoma.learning.methods.cal_ql import CalQl
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.methods.hilp import Hilp
from polysoma.learning.methods.iql import ImplicitQ
from polysoma.learning.methods.online import Acting
from polysoma.learning.methods.successor import Successor
from polysoma.learning.skills import aim, engine_settings, learn
from polysoma.policy import skills
from polysoma.rollout.drivers import Behaviour, Ready
from polysoma.rollout.jobs import Job
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import rollout_in_workers
from results import cells_of, read, share, write

DATA_SEED, SEED = 320_000, 393_000
"""Of the logs, and of the episodes that judge; those that are learnt from begin at 500,000."""
WIDTH, BATCH, OFFLINE, ONLINE, EVERY = 64, 128, 3000, 3000, 500
LABELS = 0.002
CELL = 0.35
"""Metres of the graph's cells."""


@dataclass(frozen=True)
class Of:
    """A task: its logs, frames for each step of learning, and how it is judged."""

    task: str
    logs: Behaviour
    recorded: int
    frames: int
    episodes: int
    limit: int | None
    goals: bool


NOISY = Behaviour(noise=(0.5, 2.0), keep_failures=True)
FRAGMENTS = Behaviour(noise=(0.0, 1.0), keep_failures=True, endless=True, fragment=25)
TASKS = {
    "half-cheetah": Of("half-cheetah/run", NOISY, 100, 1, 5, 200, False),
    "pointmaze": Of("pointmaze/medium", FRAGMENTS, 100, 5, 10, None, True),
    "swimmer": Of("swimmer/swim", NOISY, 100, 1, 5, 200, False),
}
ARMS = {
    "u2o": "skills without rewards, then online (U2O)",
    "unmatched": "the same without scaling the rewards",
    "iql": "IQL, then online",
    "cal-ql": "conservative values (like Cal-QL), then online",
    "scratch": "IQL from new weights, with the logs",
}
COLOURS = ("#2563eb", "#93c5fd", "#d97706", "#059669", "#6b7280")
WAYS = {"direct": "HILP's skills", "midpoints": "over midpoints", "graph": "over the graph of the logs"}
ZERO = {
    "random": "random actions",
    "cloning": "cloning all logs (no labels)",
    "hilp": "HILP, a skill for 0.2 % of the labels",
    "successor": "successor features, a skill for 0.2 % of the labels",
    "iql": "IQL with every label",
}


def main(
    only: tuple[str, ...] = tuple(TASKS),
    arms: tuple[str, ...] = (*ARMS, "zero"),
    seeds: tuple[int, ...] = (0, 1, 2),
    folder: Path = Path("runs/u2o"),
) -> None:
    """Measures the cells that are missing."""
    torch.set_num_threads(1)
    cells = cells_of("u2o")
    for seed in seeds:
        for name in only:
            of = TASKS[name]
            record([of.task], of.recorded, folder / name, of.logs, 1, DATA_SEED)
            (logs,) = (Dataset(path) for path in (folder / name).iterdir() if path.is_dir())
            for arm in arms:
                cell = f"{name}/{arm}/{seed}"
                if cell not in cells:
                    began = time.process_time()
                    found = went(of, arm, logs, seed, folder) if arm in ARMS else at_once(of, logs, seed, folder)
                    cells[cell] = {**found, "cpu_s": round(time.process_time() - began, 1), "frames": len(logs)}
                    print(cell, cells[cell], flush=True)
                    about = {
                        "width": WIDTH, "batch": BATCH, "offline": OFFLINE, "online": ONLINE, "labels": LABELS,
                        "seed": SEED, "episodes": {n: of.episodes for n, of in TASKS.items()},
                        "per_step": {n: of.frames for n, of in TASKS.items()},
                    }  # fmt: skip
                    write("u2o", {**about, "cells": cells})


def learnt(kind: str, of: Of, logs: Dataset, seed: int, folder: Path) -> Path:
    """A run from the logs, which is made where it is not there yet."""
    methods = {
        "hilp": Hilp(batch=BATCH), "successor": Successor(batch=BATCH), "iql": ImplicitQ(batch=BATCH),
        "cal-ql": CalQl(batch=BATCH), "cloning": Cloning(batch=BATCH),
    }  # fmt: skip
    out = folder / f"{of.task.replace('/', '-')}-{kind}-{seed}"
    if not (out / "checkpoint").exists():
        shutil.rmtree(out, ignore_errors=True)
        goals = kind in ("hilp", "successor")
        settings = engine_settings(OFFLINE)
        learn([logs], methods[kind], out, goals, size=(WIDTH, 2), settings=settings, seed=seed)  # type: ignore[arg-type]
    return out


def went(of: Of, arm: str, logs: Dataset, seed: int, folder: Path) -> dict[str, Any]:
    """Scores of a way on the way."""
    unlabelled = "hilp" if of.goals else "successor"
    kind = {"u2o": unlabelled, "unmatched": unlabelled, "scratch": "iql"}.get(arm, arm)
    method = dataclasses.replace(CONTINUED[kind], batch=BATCH)
    acting = Acting(noise=0.2, hold=5 if of.frames > 1 else 2, frames=of.frames)
    going = Going(ONLINE, acting=acting, share=LABELS, match=arm != "unmatched", fresh=arm == "scratch")
    judging = Judging(EVERY, of.episodes, SEED, of.limit)
    run, out = learnt(kind, of, logs, seed, folder), folder / f"online-{time.time_ns()}"
    found = finetune(run, of.task, out, [logs], going, method, judging, seed)
    shutil.rmtree(out)
    return {"steps": found.steps, "scores": found.scores, "random": found.random, "dip": dataclasses.asdict(found.dip)}


def at_once(of: Of, logs: Dataset, seed: int, folder: Path) -> dict[str, Any]:
    """What is done without learning online: skills of few labels, or ways to goals."""
    hilp = learnt("hilp", of, logs, seed, folder) / "checkpoint"
    if of.goals:
        planner = open_planner(hilp)
        ways: dict[str, Planner] = {
            "direct": planner,
            "midpoints": halving(planner, skills.load(hilp), logs),
            "graph": searching(planner, logs, CELL),
        }
        return {"reached": {way: scored(one, of, seed) for way, one in ways.items()}}
    found = {}
    for kind in ("hilp", "successor"):
        out = folder / f"aimed-{time.time_ns()}"
        aim(learnt(kind, of, logs, seed, folder) / "checkpoint", logs, out, LABELS, seed)
        found[kind] = scored(open_planner(out), of, seed)
        shutil.rmtree(out)
    for kind in ("iql", "cloning"):
        found[kind] = scored(open_planner(learnt(kind, of, logs, seed, folder) / "checkpoint"), of, seed)
    return {"returns": found | {"random": scored(None, of, seed)}}


def scored(planner: Planner | None, of: Of, seed: int) -> float:
    """The mean return, or the rate of success where there are goals, of unseen episodes."""
    jobs = [Job(of.task, SEED + 1000 * (seed + 1) + n, limit=of.limit) for n in range(2 * of.episodes)]
    played = list(rollout_in_workers(jobs, Behaviour("random" if planner is None else Ready(planner))))
    return float(np.mean([one.success if of.goals else one.total for one in played]))


def of_cells(cells: dict[str, Any], name: str, arm: str) -> list[dict[str, Any]]:
    return [cell for place, cell in sorted(cells.items()) if place.startswith(f"{name}/{arm}/")]


def render() -> str:
    """The dips, then what is done at once."""
    found = read("u2o")
    cells = found["cells"]
    lines = ["| task | way | seeds | from the logs | lowest | back after, frames | at the end |", "|" + " --- |" * 7]
    for name, of in TASKS.items():
        for arm, label in ARMS.items():
            own = of_cells(cells, name, arm)
            if not own:
                continue
            dips = [cell["dip"] for cell in own]
            back = [dip["length"] for dip in dips if dip["recovered"] and dip["depth"]]
            lost = sum(not dip["recovered"] for dip in dips)
            later = f"{np.mean(back):,.0f}" if back else "" if lost else "no dip"
            later += f"{', ' if back else ''}{lost} of {len(dips)} not" if lost else ""
            lines.append(
                f"| `{of.task}` | {label} | {len(own)} | {interval([dip['before'] for dip in dips])} | "
                f"{interval([dip['before'] - dip['depth'] for dip in dips])} | {later} | "
                f"{interval([dip['final'] for dip in dips])} |"
            )
    for more in (zero(cells), reached(cells)):
        lines += ["", *more] if more else []
    lines.append("")
    seconds = {arm: np.mean([c["cpu_s"] for n in TASKS for c in of_cells(cells, n, arm)] or [0]) for arm in ARMS}
    lines.append(
        f"Bootstrap intervals over seeds of learning (of two seeds: their range), none of one. "
        f"{found['offline']:,} steps of learning from "
        f"the logs and {found['online']:,} online, of width {found['width']} and {found['batch']} steps of the logs "
        "each; 1 frame of the task for each (5 in the maze) and 500 before. Returns of 200 frames of the running "
        f"bodies, rates of success in the maze; scores are of {found['episodes']['half-cheetah']} and "
        f"{found['episodes']['pointmaze']} unseen episodes every {EVERY} steps, in which small dips are noise. A "
        f"way took {min(seconds.values()):.0f} to {max(seconds.values()):.0f} s of one shared core. No setting was "
        "chosen by these episodes; the ridge of the skill was chosen on a puck, and there are more logs of the runner "
        f"than in a first try with another seed (`{found['command'].split(' --')[0]}`)."
    )
    return "\n".join(lines) + "\n"


def zero(cells: dict[str, Any]) -> list[str]:
    """Rewards at once."""
    names = [name for name in TASKS if not TASKS[name].goals and of_cells(cells, name, "zero")]
    lines = ["| return without learning online | " + " | ".join(f"`{TASKS[n].task}`" for n in names) + " |"]
    lines.append("| --- |" + " --- |" * len(names))
    for kind, label in ZERO.items():
        row = [interval([cell["returns"][kind] for cell in of_cells(cells, name, "zero")]) for name in names]
        lines.append(f"| {label} | " + " | ".join(row) + " |")
    return lines if names else []


def reached(cells: dict[str, Any]) -> list[str]:
    """Goals at once."""
    own = of_cells(cells, "pointmaze", "zero")
    if not own:
        return []
    each = 2 * TASKS["pointmaze"].episodes
    lines = [f"| goals reached in `{TASKS['pointmaze'].task}` | of {each * len(own)} |", "| --- | --- |"]
    for way, label in WAYS.items():
        won = round(sum(cell["reached"][way] for cell in own) * each)
        rate = {"successes": won, "trials": each * len(own), "interval": wilson(won, each * len(own))}
        lines.append(f"| {label} | {share(rate)} |")
    return lines


def interval(values: Sequence[float]) -> str:
    """A mean with its interval over seeds, with as many digits as it needs."""
    low, high = mean_interval(values)
    digits = 2 if max(map(abs, values)) < 10 else 0
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def figure() -> str:
    """Scores on the way, a panel for each task, as SVG."""
    cells = read("u2o")["cells"]
    names = [name for name in TASKS if of_cells(cells, name, "u2o")]
    wide, high, left, gap = 300, 210, 44, 20
    parts = []
    for number, name in enumerate(names):
        curves = {arm: of_cells(cells, name, arm) for arm in ARMS}
        every = [score for own in curves.values() for cell in own for score in cell["scores"]]
        low, top = min(0.0, *every), max(every)
        steps = curves["u2o"][0]["steps"]
        x0 = number * (wide + gap) + left

        def across(step: float, x0: int = x0, steps: list[int] = steps) -> float:
            return x0 + (step - steps[0]) / (steps[-1] - steps[0]) * (wide - left)

        def down(score: float, low: float = low, top: float = top) -> float:
            return 28 + (top - score) / (top - low) * (high - 28)

        parts.append(f'<text x="{x0}" y="16">{TASKS[name].task}</text>')
        for score in (low, (low + top) / 2, top):
            parts.append(
                f'<line x1="{x0}" x2="{x0 + wide - left}" y1="{down(score):.1f}" y2="{down(score):.1f}" '
                f'stroke="#d9dbe0"/><text x="{x0 - 6}" y="{down(score) + 4:.1f}" text-anchor="end">{score:.3g}</text>'
            )
        for arm, colour in zip(ARMS, COLOURS, strict=True):
            if own := curves[arm]:
                mean = np.mean([cell["scores"] for cell in own], 0)
                line = " ".join(f"{across(s):.1f},{down(v):.1f}" for s, v in zip(steps, mean, strict=True))
                parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        last = x0 + wide - left
        parts.append(
            f'<text x="{last}" y="{high + 18}" text-anchor="end">{steps[-1] - steps[0]:,} frames online</text>'
        )
    for number, (label, colour) in enumerate(zip(ARMS.values(), COLOURS, strict=True)):
        parts.append(f'<text x="{left}" y="{high + 40 + 18 * number}" style="fill:{colour}">{label}</text>')
    width, height = len(names) * (wide + gap) + 10, high + 48 + 18 * len(ARMS)
    style = "<style>text { font: 12px system-ui, sans-serif; fill: #6b7280; }</style>"
    back = f'<rect width="{width}" height="{height}" fill="#fbfbf9"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{style}{back}{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    tyro.cli(main)

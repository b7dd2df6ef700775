"""Drawn ways through mazes: unseen starts and goals, and a zone that is told when they are gone.

    python benchmarks/diffusion.py

For each maze and seed, paths and who follows them learn from logs with random goals. Who follows goes to near goals by
a linear law, by pieces of actions and places that are drawn together, or, as a control, by cloning; the third maze is
driven through by a cart on two wheels (``worlds/wheel_maze.py``), which no linear law fits. Compared: cloning directly
to the goal, the graph of the logs, drawn ways; then with a cell of the maze forbidden, that is on many shortest ways
and can be gone around (another cell for each seed): ways that ignore it, ways that are only chosen, ways that are also
drawn with its gradient, and the graph without the zone's moves. Episodes that start or end in the zone are left out.
What is there already is not measured again. About a quarter of an hour of one core for each maze and seed.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, shortest_path

from polysoma import simulators
from polysoma.acting.graph import searching
from polysoma.acting.paths import PathSearch, penalty
from polysoma.acting.planner import Planner
from polysoma.acting.skills import SkillPlanner
from polysoma.acting.zones import Watched, Zones
from polysoma.data.dataset import Dataset
from polysoma.evaluation.intervals import mean_interval, wilson
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.methods.diffusion import Diffusion
from polysoma.learning.skills import engine_settings, engine_settings_for, learn
from polysoma.policy import skills
from polysoma.policy.skills import FITS
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.jobs import Job
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import rollout_in_workers
from results import cells_of, read, share, write

MAZES = {"medium": "pointmaze/medium", "large": "pointmaze/large", "wheels": "wheels/medium"}
WORLD = Path(__file__).parent / "worlds" / "wheel_maze.py"
DATA_SEED, SEED = 300_000, 330_000
CELL, MARGIN = 0.35, 0.15
NEAR = 14
"""Steps to the goals that the follower clones towards, on average: as many as to those of drawn pieces."""
FREE = {
    "cloning": "cloning, directly to the goal",
    "graph-cloned": "graph of the logs, followed by cloning",
    "graph-pieces": "graph of the logs, followed by drawn pieces",
    "graph": "graph of the logs, followed by the law",
    "paths-cloned": "drawn ways, followed by cloning",
    "paths-pieces": "drawn ways, followed by drawn pieces",
    "paths": "drawn ways, followed by the law",
}
AROUND = {
    "cloning": "cloning, directly to the goal",
    "graph": "graph that does not know the zone, the law",
    "graph-zone": "graph without the zone's moves, the law",
    "paths": "drawn ways that do not know the zone, the law",
    "paths-chosen": "drawn ways, chosen by the zone, the law",
    "paths-zone": "drawn ways, guided and chosen by the zone, the law",
    "paths-pieces": "drawn ways that do not know the zone, drawn pieces",
    "paths-zone-cloned": "drawn ways, guided and chosen by the zone, cloning",
    "paths-zone-pieces": "the same, drawn pieces, guided by the zone",
}
BY_LAW = ("graph", "graph-zone", "paths", "paths-chosen", "paths-zone")
"""What is not measured where no law fits."""


def main(
    folder: Path = Path("runs/diffusion"),
    only: tuple[str, ...] = tuple(MAZES),
    logs: int = 340,
    seeds: int = 3,
    episodes: int = 40,
    steps: int = 20_000,
    width: int = 192,
) -> None:
    torch.set_num_threads(1)
    os.environ[simulators.FAMILIES_VARIABLE] = str(WORLD)
    simulators.families.cache_clear()
    cells = cells_of("diffusion")
    settings = {"logs": logs, "episodes": episodes, "steps": steps, "width": width, "seed": SEED, "margin": MARGIN}
    for seed in range(seeds):
        for maze in only:
            mixed = Behaviour(noise=(0.0, 1.0), keep_failures=True, endless=True)
            record([MAZES[maze]], logs, folder / maze, mixed, 1, DATA_SEED)
            cell = cells.setdefault(f"{maze}-{seed}", {"maze": maze, "seed": seed, "free": {}, "zone": {}, "cpu_s": {}})
            for name in measured(cell, folder, episodes, steps, width):
                print(f"{maze}-{seed}", name, flush=True)
                write("diffusion", {"settings": settings, "cells": cells})


def measured(cell: dict[str, Any], folder: Path, episodes: int, steps: int, width: int) -> Any:
    """Measures what a cell lacks, and yields after each part what it was."""
    law = cell.get("fits", 1.0) >= FITS
    free, around = ({name for name in rows if law or name not in BY_LAW} for rows in (FREE, AROUND))
    if cell["free"].keys() >= free and cell["zone"].keys() >= around:
        return
    maze, seed = cell["maze"], cell["seed"]
    body = MAZES[maze].partition("/")[0]
    data = Dataset(folder / maze / body)
    cell["frames"] = len(data)
    learnt = {}
    for name, method, many in (
        ("paths", Diffusion(), steps),
        ("cloning", Cloning(), 5000),
        ("near", Cloning(ahead=NEAR), 5000),
    ):
        out, began = folder / f"{maze}-{name}-{seed}-{many}-{width}", time.process_time()
        if not (out / "checkpoint").exists():
            how = engine_settings_for("diffusion", many) if name == "paths" else engine_settings(many)
            begun = (out / "training").exists()
            learn([data], method, out, size=(width, 2), settings=how, seed=seed, resume=begun)
            if not begun:  # That of a part would be too little.
                cell["cpu_s"][name] = time.process_time() - began
            yield f"learnt {name}"
        learnt[name] = skills.load(out / "checkpoint")
    policy, cloned = learnt["paths"], SkillPlanner(learnt["near"])
    drawing = copy.deepcopy(policy)
    assert policy.steering is not None and drawing.steering is not None
    cell["fits"] = float(policy.steering.fits)
    drawing.steering.fits.zero_()
    follower, pieces = SkillPlanner(policy), SkillPlanner(drawing)
    zones = zone(MAZES[maze], seed)
    made: dict[str, Callable[[], Planner]] = {
        "cloning": lambda: SkillPlanner(learnt["cloning"]),
        "graph": lambda: searching(follower, data, CELL),
        "graph-zone": lambda: searching(follower, data, CELL, zones),
        "graph-cloned": lambda: searching(cloned, data, CELL),
        "graph-pieces": lambda: searching(pieces, data, CELL),
        "paths": lambda: PathSearch(follower, policy),
        "paths-cloned": lambda: PathSearch(cloned, policy),
        "paths-pieces": lambda: PathSearch(pieces, policy),
        "paths-zone-cloned": lambda: PathSearch(cloned, policy, zones),
        "paths-zone-pieces": lambda: PathSearch(pieces, policy, zones),
        "paths-chosen": lambda: PathSearch(follower, policy, zones, guided=False),
        "paths-zone": lambda: PathSearch(follower, policy, zones),
    }
    if "plan_ms" not in cell:
        cell["plan_ms"] = (
            plan_ms(PathSearch(follower, policy), seed),
            plan_ms(PathSearch(follower, policy, zones), seed),
        )
        cell["piece_ms"] = (piece_ms(pieces), piece_ms(SkillPlanner(drawing, [penalty(zones.boxes(("x", "y")))])))
        yield "plans"
    first = SEED + 1000 * seed
    every = range(first, first + episodes)
    law = cell["fits"] >= FITS
    for name in FREE:
        if name not in cell["free"] and (law or name not in BY_LAW):
            cell["free"][name] = played(made[name](), MAZES[maze], every)
            yield f"free {name} {cell['free'][name]}"
    # Enough are drawn that as many are left.
    others = outside(MAZES[maze], zones, range(first + 500, first + 1000), episodes)
    for name in AROUND:
        if name not in cell["zone"] and (law or name not in BY_LAW):
            cell["zone"][name] = played(Watched(made[name](), {body: zones}), MAZES[maze], others)
            yield f"zone {name} {cell['zone'][name]}"


def played(planner: Planner, task: str, seeds: Sequence[int]) -> dict[str, Any]:
    """What came of these episodes."""
    jobs = [Job(task, seed) for seed in seeds]
    outcomes = list(rollout_in_workers(jobs, Behaviour(planner)))
    watched = [outcome.zones for outcome in outcomes if outcome.zones is not None]
    return {
        "trials": len(outcomes),
        "successes": sum(outcome.success for outcome in outcomes),
        "steps": float(np.mean([outcome.steps for outcome in outcomes])),
        "refused": sum(bool(outcome.error) for outcome in outcomes),
        "entered": sum(one.episodes for one in watched),
        "steps_inside": sum(one.steps for one in watched),
    }


def plan_ms(search: PathSearch, seed: int, plans: int = 30) -> float:
    """Milliseconds of the processor for one way between places of the logs that no zone holds."""
    places = search.paths.landmarks.numpy().astype(np.float64)
    if search.boxes is not None:
        places = places[~search.boxes.inside(places, search.boxes.margin)]
    pairs = places[np.random.default_rng(seed).integers(len(places), size=(plans, 2))]
    generator = torch.Generator().manual_seed(seed)
    search.drawn(*pairs[0], generator)
    began = time.process_time()
    for here, goal in pairs:
        search.drawn(here, goal, generator)
    return 1e3 * (time.process_time() - began) / plans


def piece_ms(planner: SkillPlanner, times: int = 100) -> float:
    """Milliseconds of the processor for one action."""
    states = torch.zeros(1, len(planner.skills.config.channels))
    planner.skills.decide(states, planner.guides)
    began = time.process_time()
    for _ in range(times):
        planner.skills.decide(states, planner.guides)
    return 1e3 * (time.process_time() - began) / times


def zone(task: str, seed: int) -> Zones:
    """A free cell of the maze that is on many shortest ways, and without which all others are still connected: the
    seed's number in that order."""
    environment = simulators.make(task)
    environment.reset(seed=0)
    of_maze = environment._simulation.maze  # type: ignore[attr-defined]
    free = np.argwhere(np.array([[cell != 1 for cell in row] for row in of_maze.maze_map]))
    near = np.abs(free[:, None] - free[None]).sum(-1) == 1
    lengths = shortest_path(near, unweighted=True)
    passed = (lengths[:, :, None] + lengths[None] == lengths[:, None]).sum((0, 2))

    def connected(without: int) -> bool:
        kept = np.delete(np.delete(near, without, 0), without, 1)
        return bool(connected_components(coo_matrix(kept))[0] == 1)

    order = [number for number in np.argsort(-passed, kind="stable").tolist() if connected(number)]
    middle = of_maze.cell_rowcol_to_xy(free[order[seed]])
    half = of_maze.maze_size_scaling / 2
    environment.close()
    names = [(float(at - half), float(at + half)) for at in middle]
    return Zones([dict(zip(("x", "y"), names, strict=True))], MARGIN)


def outside(task: str, zones: Zones, seeds: Sequence[int], count: int) -> list[int]:
    """The first seeds whose start and goal are not in a zone or its margin."""
    environment, boxes = simulators.make(task), zones.boxes(("x", "y"))
    found = []
    for seed in seeds:
        state = environment.reset(seed=seed)[0]["state"]
        if not boxes.inside(np.stack([state[:2], state[-2:]]).astype(np.float64), boxes.margin).any():
            found.append(seed)
        if len(found) == count:
            break
    environment.close()
    return found


def render() -> str:
    """What was reached, and what entered the zone."""
    found = read("diffusion")
    settings, cells = found["settings"], list(found["cells"].values())
    by_maze = {maze: [cell for cell in cells if cell["maze"] == maze] for maze in MAZES}

    def rate(maze: str, part: str, name: str, what: str) -> str:
        own = [cell[part][name] for cell in by_maze[maze] if name in cell[part]]
        if not own:
            return "no law fits" if name in BY_LAW else "not measured"
        won, trials = sum(one[what] for one in own), sum(one["trials"] for one in own)
        return f"{share({'successes': won, 'trials': trials, 'interval': wilson(won, trials)})} of {trials}"

    def steps(maze: str, name: str) -> str:
        own = [cell["free"][name]["steps"] for cell in by_maze[maze] if "steps" in cell["free"].get(name, {})]
        return f"; {np.mean(own):.0f} steps" if own else ""

    lines = ["| unseen starts and goals | " + " | ".join(MAZES) + " |", "| --- |" + " --- |" * len(MAZES)]
    for name, shown in FREE.items():
        row = [rate(maze, "free", name, "successes") + steps(maze, name) for maze in MAZES]
        lines.append(f"| {shown} | " + " | ".join(row) + " |")
    heads = [f"{maze}: {what}" for maze in MAZES for what in ("reached", "entered")]
    lines += ["", "| with a forbidden cell | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for name, shown in AROUND.items():
        row = [rate(maze, "zone", name, what) for maze in MAZES for what in ("successes", "entered")]
        lines.append(f"| {shown} | " + " | ".join(row) + " |")
    cpu = [cell["cpu_s"]["paths"] for cell in cells if "paths" in cell["cpu_s"]]
    plans, pieces = (np.array([cell[name] for cell in cells if name in cell]) for name in ("plan_ms", "piece_ms"))
    (low, high), (least, most) = (mean_interval(plans[:, number].tolist()) for number in (0, 1))
    seeds = ", ".join(f"{len(own)} ({maze})" for maze, own in by_maze.items())
    frames = ", ".join(f"{own[0]['frames']:,}" for own in by_maze.values() if own)
    fits = ", ".join(f"{np.mean([cell['fits'] for cell in own]):.2f}" for own in by_maze.values() if own)
    former = {cell["commit"] for cell in cells if "commit" in cell}
    told = (
        f" The first two mazes are as of commit {', '.join(sorted(former))[:7]}, with its own cloning of near goals."
        if former
        else ""
    )
    lines += [
        "",
        f"{frames} frames of noisy experts with random goals; a linear law fits to {fits} (1 is exactly; it acts from "
        f"{FITS} on). Seeds of learning, each with its own forbidden cell: {seeds}; "
        f"{settings['episodes']} starts and goals each, from seed "
        f"{settings['seed']} on; 95 % intervals of Wilson. {settings['steps']:,} steps of width {settings['width']}, "
        f"{np.mean(cpu) / 60:.1f} minutes of one core on average, at most {max(cpu) / 60:.1f}. A way took "
        f"{plans[:, 0].mean():.0f} ms [{low:.0f}, {high:.0f}] of the processor, with a zone {plans[:, 1].mean():.0f} "
        f"ms [{least:.0f}, {most:.0f}]; an action by drawn pieces {pieces[:, 0].mean():.1f} ms, with a zone "
        f"{pieces[:, 1].mean():.1f} ms ({found['hardware']['processor']}, {found['hardware']['instruction_set']}). "
        f"Zones have a margin of {settings['margin']} m in plans, and none in what is counted "
        f"(`{found['command']}`).{told}",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

"""Drawn ways through mazes: unseen starts and goals, and a zone that is told when they are gone.

    python benchmarks/diffusion.py

For each maze and seed, paths and who follows them learn from logs with random goals. Who follows goes to near goals by
a linear law or, as a control, by cloning. Compared: cloning directly to the goal, the graph of the logs, drawn ways;
then with a cell of the maze forbidden, that is on many shortest ways and can be gone around (another cell for each
seed): ways that ignore it, ways that are only chosen, ways that are also drawn with its gradient, and the graph without
the zone's moves. Episodes that start or end in the zone are left out. What is there already is not measured again.
About ten minutes of one core for each maze and seed.
"""

from __future__ import annotations

import copy
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
from polysoma.acting.paths import PathSearch
from polysoma.acting.planner import Planner
from polysoma.acting.skills import SkillPlanner
from polysoma.acting.zones import Watched, Zones
from polysoma.data.dataset import Dataset
from polysoma.evaluation.intervals import mean_interval, wilson
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.methods.diffusion import Diffusion
from polysoma.learning.skills import engine_settings, engine_settings_for, learn
from polysoma.policy import skills
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.jobs import Job
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import rollout_in_workers
from results import cells_of, read, share, write

MAZES = ("medium", "large")
DATA_SEED, SEED = 300_000, 330_000
CELL, MARGIN = 0.35, 0.15
FREE = {
    "cloning": "cloning, directly to the goal",
    "graph-cloned": "graph of the logs, followed by cloning",
    "graph": "graph of the logs",
    "paths-cloned": "drawn ways, followed by cloning",
    "paths": "drawn ways",
}
AROUND = {
    "cloning": "cloning, directly to the goal",
    "graph": "graph that does not know the zone",
    "graph-zone": "graph without the zone's moves",
    "paths": "drawn ways that do not know the zone",
    "paths-chosen": "drawn ways, chosen by the zone",
    "paths-zone": "drawn ways, guided and chosen by the zone",
    "paths-zone-cloned": "the same, followed by cloning",
}


def main(
    folder: Path = Path("runs/diffusion"),
    only: tuple[str, ...] = MAZES,
    logs: int = 340,
    seeds: int = 3,
    episodes: int = 40,
    steps: int = 20_000,
    width: int = 192,
) -> None:
    torch.set_num_threads(1)
    cells = cells_of("diffusion")
    settings = {"logs": logs, "episodes": episodes, "steps": steps, "width": width, "seed": SEED, "margin": MARGIN}
    for seed in range(seeds):
        for maze in only:
            mixed = Behaviour(noise=(0.0, 1.0), keep_failures=True, endless=True)
            record([f"pointmaze/{maze}"], logs, folder / maze, mixed, 1, DATA_SEED)
            cell = cells.setdefault(f"{maze}-{seed}", {"maze": maze, "seed": seed, "free": {}, "zone": {}, "cpu_s": {}})
            for name in measured(cell, folder, episodes, steps, width):
                print(f"{maze}-{seed}", name, flush=True)
                write("diffusion", {"settings": settings, "cells": cells})


def measured(cell: dict[str, Any], folder: Path, episodes: int, steps: int, width: int) -> Any:
    """Measures what a cell lacks, and yields after each part what it was."""
    if cell["free"].keys() >= FREE.keys() and cell["zone"].keys() >= AROUND.keys():
        return
    maze, seed = cell["maze"], cell["seed"]
    data = Dataset(folder / maze / "pointmaze")
    cell["frames"] = len(data)
    learnt = {}
    for name, method, many, wide in (("paths", Diffusion(), steps, width), ("cloning", Cloning(), 5000, 128)):
        out, began = folder / f"{maze}-{name}-{seed}-{many}-{wide}", time.process_time()
        if not (out / "checkpoint").exists():
            how = engine_settings_for("diffusion", many) if name == "paths" else engine_settings(many)
            begun = (out / "training").exists()
            learn([data], method, out, size=(wide, 2), settings=how, seed=seed, resume=begun)
            if not begun:  # That of a part would be too little.
                cell["cpu_s"][name] = time.process_time() - began
            yield f"learnt {name}"
        learnt[name] = skills.load(out / "checkpoint")
    policy, follower = learnt["paths"], SkillPlanner(learnt["paths"])
    cloned = copy.deepcopy(policy)
    assert cloned.steering is not None
    cell["fits"] = float(cloned.steering.fits)
    cloned.steering.fits.zero_()
    cloning = SkillPlanner(cloned)
    zones = zone(maze, seed)
    made: dict[str, Callable[[], Planner]] = {
        "cloning": lambda: SkillPlanner(learnt["cloning"]),
        "graph": lambda: searching(follower, data, CELL),
        "graph-zone": lambda: searching(follower, data, CELL, zones),
        "graph-cloned": lambda: searching(cloning, data, CELL),
        "paths": lambda: PathSearch(follower, policy),
        "paths-cloned": lambda: PathSearch(cloning, policy),
        "paths-zone-cloned": lambda: PathSearch(cloning, policy, zones),
        "paths-chosen": lambda: PathSearch(follower, policy, zones, guided=False),
        "paths-zone": lambda: PathSearch(follower, policy, zones),
    }
    if "plan_ms" not in cell:
        cell["plan_ms"] = (
            plan_ms(PathSearch(follower, policy), seed),
            plan_ms(PathSearch(follower, policy, zones), seed),
        )
        yield "plans"
    first = SEED + 1000 * seed
    every = range(first, first + episodes)
    for name in FREE:
        if name not in cell["free"]:
            cell["free"][name] = played(made[name](), maze, every)
            yield f"free {name} {cell['free'][name]}"
    # Enough are drawn that as many are left.
    others = outside(maze, zones, range(first + 500, first + 1000), episodes)
    for name in AROUND:
        if name not in cell["zone"]:
            cell["zone"][name] = played(Watched(made[name](), {"pointmaze": zones}), maze, others)
            yield f"zone {name} {cell['zone'][name]}"


def played(planner: Planner, maze: str, seeds: Sequence[int]) -> dict[str, int]:
    """What came of these episodes."""
    jobs = [Job(f"pointmaze/{maze}", seed) for seed in seeds]
    outcomes = list(rollout_in_workers(jobs, Behaviour(planner)))
    watched = [outcome.zones for outcome in outcomes if outcome.zones is not None]
    return {
        "trials": len(outcomes),
        "successes": sum(outcome.success for outcome in outcomes),
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


def zone(maze: str, seed: int) -> Zones:
    """A free cell of the maze that is on many shortest ways, and without which all others are still connected: the
    seed's number in that order."""
    environment = simulators.make(f"pointmaze/{maze}")
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


def outside(maze: str, zones: Zones, seeds: Sequence[int], count: int) -> list[int]:
    """The first seeds whose start and goal are not in a zone or its margin."""
    environment, boxes = simulators.make(f"pointmaze/{maze}"), zones.boxes(("x", "y"))
    found = []
    for seed in seeds:
        state = environment.reset(seed=seed)[0]["state"]
        if not boxes.inside(np.stack([state[:2], state[4:]]).astype(np.float64), boxes.margin).any():
            found.append(seed)
        if len(found) == count:
            break
    environment.close()
    return found


def render() -> str:
    """What was reached, and what entered the zone."""
    found = read("diffusion")
    settings, cells = found["settings"], list(found["cells"].values())

    def rate(maze: str, part: str, name: str, what: str) -> str:
        own = [cell[part][name] for cell in cells if cell["maze"] == maze and name in cell[part]]
        if not own:
            return "not measured"
        won, trials = sum(one[what] for one in own), sum(one["trials"] for one in own)
        return f"{share({'successes': won, 'trials': trials, 'interval': wilson(won, trials)})} of {trials}"

    lines = ["| unseen starts and goals | " + " | ".join(MAZES) + " |", "| --- |" + " --- |" * len(MAZES)]
    for name, shown in FREE.items():
        lines.append(f"| {shown} | " + " | ".join(rate(maze, "free", name, "successes") for maze in MAZES) + " |")
    heads = [f"{maze}: {what}" for maze in MAZES for what in ("reached", "entered")]
    lines += ["", "| with a forbidden cell | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for name, shown in AROUND.items():
        row = [rate(maze, "zone", name, what) for maze in MAZES for what in ("successes", "entered")]
        lines.append(f"| {shown} | " + " | ".join(row) + " |")
    cpu = [cell["cpu_s"]["paths"] for cell in cells if "paths" in cell["cpu_s"]]
    plans = np.array([cell["plan_ms"] for cell in cells if "plan_ms" in cell])
    (low, high), (least, most) = (mean_interval(plans[:, number].tolist()) for number in (0, 1))
    seeds = {maze: sum(cell["maze"] == maze for cell in cells) for maze in MAZES}
    frames = " and ".join(f"{next(c['frames'] for c in cells if c['maze'] == maze):,}" for maze in MAZES)
    lines += [
        "",
        f"{frames} frames of noisy experts with random goals. {seeds[MAZES[0]]} and {seeds[MAZES[1]]} seeds of "
        f"learning, each with its own forbidden cell; {settings['episodes']} starts and goals each, from seed "
        f"{settings['seed']} on; 95 % intervals of Wilson. {settings['steps']:,} steps of width {settings['width']}, "
        f"{np.mean(cpu) / 60:.1f} minutes of one core on average, at most {max(cpu) / 60:.1f}. A way took "
        f"{plans[:, 0].mean():.0f} ms [{low:.0f}, {high:.0f}] of the processor, with a zone {plans[:, 1].mean():.0f} "
        f"ms [{least:.0f}, {most:.0f}]. Zones have a margin of {settings['margin']} m in plans, and none in what is "
        f"counted (`{found['command']}`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

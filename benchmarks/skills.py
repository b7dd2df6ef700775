"""Skills from logs without rewards: fragments of 25 steps of noisy experts in mazes, and goals that none reaches.

    python benchmarks/skills.py

For each maze and seed of learning, goal-conditioned cloning and HILP learn from the same fragments. Each goes to unseen
goals directly and over the graph of the logs; HILP for fewer seeds, as it costs five times as much. And how well
distances rank the true way: straight lines, HILP's representation, and the graph. Cells that are there already are not
measured again. About a minute of one core a cell.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.stats import spearmanr

from polysoma import simulators
from polysoma.acting.graph import DataGraph, searching
from polysoma.acting.opening import open_planner
from polysoma.acting.planner import Planner
from polysoma.data.dataset import Dataset
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import mean_interval, wilson
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.methods.hilp import Hilp
from polysoma.learning.skills import engine_settings, learn
from polysoma.policy import skills
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from results import cells_of, read, share, write

MAZES = ("medium", "large")
DATA_SEED, SEED = 300_000, 310_000
CELL = 0.35
"""Metres of the graph's cells, with subgoals two and a half cells ahead."""
GRID = 10
"""Points a cell of the maze, between which the true way leads."""
ROWS = (
    ("cloning", "direct", "goal-conditioned cloning"),
    ("cloning", "graph", "goal-conditioned cloning over the graph of the logs"),
    ("hilp", "direct", "HILP's skills"),
    ("hilp", "graph", "HILP's skills over the graph of the logs"),
)
NAMES = {"straight line": "straight line", "phi": "HILP's representation", "graph": "the graph of the logs"}


def main(
    folder: Path = Path("runs/skills"),
    fragments: int = 340,
    seeds: int = 5,
    hilp_seeds: int = 2,
    episodes: int = 40,
    steps: int = 5000,
    width: int = 128,
) -> None:
    torch.set_num_threads(1)
    cells = cells_of("skills")
    settings = {
        "fragments": fragments,
        "episodes": episodes,
        "steps": steps,
        "width": width,
        "seed": SEED,
        "cell": CELL,
    }
    for maze in MAZES:
        logs = Behaviour(noise=(0.0, 1.0), keep_failures=True, endless=True, fragment=25)
        record([f"pointmaze/{maze}"], fragments, folder / maze, logs, 1, DATA_SEED)
    # Cells of all mazes and methods for one seed before the next, so that it may be stopped at any time.
    for seed in range(max(seeds, hilp_seeds)):
        for method, until in (("cloning", seeds), ("hilp", hilp_seeds)):
            for maze in MAZES:
                name = f"{maze}-{method}-{seed}"
                if seed < until and name not in cells:
                    cells[name] = measure(maze, method, seed, folder, episodes, steps, width)
                    print(name, cells[name], flush=True)
                    write("skills", {"settings": settings, "cells": cells})


def measure(maze: str, method: str, seed: int, folder: Path, episodes: int, steps: int, width: int) -> dict[str, Any]:
    """What a method learns from the logs of a maze with one seed."""
    data = Dataset(folder / maze / "pointmaze")
    found: dict[str, Any] = {"maze": maze, "method": method, "seed": seed, "frames": len(data), "reached": {}}
    settings: dict[str, Cloning | Hilp] = {"cloning": Cloning(), "hilp": Hilp(batch=128)}
    began, out = time.process_time(), folder / f"run-{maze}-{method}-{seed}-{time.time_ns()}"
    path = learn([data], settings[method], out, size=(width, 2), settings=engine_settings(steps), seed=seed)
    found["cpu_s"] = {"learning": time.process_time() - began}
    planner = open_planner(path)
    began = time.process_time()
    search = searching(planner, data, CELL)
    found["cpu_s"]["graph"] = time.process_time() - began
    ways_to_go: dict[str, Planner] = {"direct": planner, "graph": search}
    for name, one in ways_to_go.items():
        # The same starts and goals for both ways and methods.
        score = evaluate(one, [f"pointmaze/{maze}"], episodes, SEED + 1000 * seed, workers=1).tasks[f"pointmaze/{maze}"]
        found["reached"][name] = {"successes": score.successes, "trials": score.trials}
    if method == "hilp":
        found["rank"] = ranks(maze, data, search.graph, skills.load(path), seed)
    return found


def ranks(maze: str, data: Dataset, graph: DataGraph, policy: skills.SkillPolicy, seed: int) -> dict[str, Any]:
    """Spearman's rank correlation with the true way, over all pairs of places and over detours, whose way is more than
    1.5 times the straight line."""
    rng = np.random.default_rng(seed)
    places = np.asarray(data.observations["state"][np.sort(rng.integers(len(data), size=300))])[:, :2]
    starts = places[rng.permutation(len(places))[:60]]
    true = ways(maze, starts, places)
    straight = np.linalg.norm(starts[:, None] - places[None], axis=-1)
    with torch.no_grad():
        here, there = (policy.represent(torch.tensor(values))[0].numpy() for values in (starts, places))
    known = np.array([[graph.distance(a, b) for b in places] for a in starts])
    measured = {
        "straight line": straight,
        "phi": np.linalg.norm(here[:, None] - there[None], axis=-1),
        "graph": known,
    }
    apart = straight > 0.5
    detours = apart & (true > 1.5 * straight)
    found: dict[str, Any] = {"detours": float(detours.sum() / apart.sum())}
    for name, length in measured.items():
        every, far = (float(spearmanr(length[which], true[which])[0]) for which in (apart, detours))
        found[name] = {"all": every, "detours": far}
    return found


def ways(maze: str, starts: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The true ways between places, in metres, as steps along the axes of a grid of a tenth of the maze's cells."""
    environment = simulators.make(f"pointmaze/{maze}")
    environment.reset(seed=0)
    of_maze = environment._simulation.maze  # type: ignore[attr-defined]
    free = np.array([[cell != 1 for cell in row] for row in of_maze.maze_map]).repeat(GRID, 0).repeat(GRID, 1)
    number = np.where(free, np.cumsum(free).reshape(free.shape) - 1, -1)
    pairs = [(number[1:], number[:-1]), (number[:, 1:], number[:, :-1])]
    edges = np.concatenate([np.stack([a, b], -1).reshape(-1, 2) for a, b in pairs])
    edges = edges[(edges >= 0).all(1)]
    side = of_maze.maze_size_scaling / GRID
    steps = coo_matrix((np.full(len(edges), side), edges.T), shape=(free.sum(), free.sum()))

    def at(where: np.ndarray) -> np.ndarray:
        row = ((of_maze.y_map_center - where[:, 1]) / side).astype(int)
        column = ((where[:, 0] + of_maze.x_map_center) / side).astype(int)
        return number[row.clip(0, len(number) - 1), column.clip(0, number.shape[1] - 1)]

    found: np.ndarray = dijkstra(steps.tocsr(), directed=False, indices=at(starts))[:, at(places)]
    environment.close()
    return found


def render() -> str:
    """What was reached, and how distances rank the true way."""
    found = read("skills")
    settings, cells = found["settings"], list(found["cells"].values())

    def of(maze: str, method: str) -> list[dict[str, Any]]:
        return [cell for cell in cells if (cell["maze"], cell["method"]) == (maze, method)]

    head = [" | ".join(MAZES) + " |", "| --- |" + " --- |" * len(MAZES)]
    lines = ["| who goes to unseen goals | " + head[0], head[1]]
    for method, way, name in ROWS:
        row = []
        for maze in MAZES:
            scores = [cell["reached"][way] for cell in of(maze, method)]
            won, trials = (sum(score[part] for score in scores) for part in ("successes", "trials"))
            row.append(f"{share({'successes': won, 'trials': trials, 'interval': wilson(won, trials)})} of {trials}")
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    lines += ["", "| rank correlation with the true way: all pairs / detours | " + head[0], head[1]]
    for name in ("straight line", "phi", "graph"):
        row = []
        for maze in MAZES:
            own = [cell["rank"][name] for cell in of(maze, "hilp")]
            low, high = mean_interval([one["detours"] for one in own])
            means = [float(np.mean([one[part] for one in own])) for part in ("all", "detours")]
            row.append(f"{means[0]:.3f} / {means[1]:.3f} [{low:.3f}, {high:.3f}]")
        lines.append(f"| {NAMES[name]} | " + " | ".join(row) + " |")
    seconds = {m: np.mean([c["cpu_s"]["learning"] for c in cells if c["method"] == m]) for m in ("cloning", "hilp")}
    seeds = {method: min(len(of(maze, method)) for maze in MAZES) for method in ("cloning", "hilp")}
    frames = " and ".join(f"{of(maze, 'cloning')[0]['frames']:,}" for maze in MAZES)
    detours = " and ".join(f"{np.mean([c['rank']['detours'] for c in of(maze, 'hilp')]):.0%}" for maze in MAZES)
    graph = np.mean([cell["cpu_s"]["graph"] for cell in cells])
    lines += [
        "",
        f"{frames} frames in pieces of 25 steps of noisy experts. {seeds['cloning']} seeds of learning for cloning "
        f"and {seeds['hilp']} for HILP, {settings['episodes']} starts and goals each; 95 % intervals, of Wilson over "
        f"episodes, and of correlations over seeds. {settings['steps']:,} steps of width {settings['width']}, which "
        f"took a busy core {seconds['cloning']:.0f} s (cloning) and {seconds['hilp']:.0f} s (HILP); the graph took "
        f"{graph:.1f} s. The true way leads along the axes of a fine grid; it is a detour, more than 1.5 times the "
        f"straight line, for {detours} of the pairs "
        f"(`{found['command']}`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

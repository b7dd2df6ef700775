"""OGBench's mazes for benchmarks/ogbench_mazes.py, which runs this in OGBench's own environment.

    ogbench-venv/bin/python benchmarks/ogbench_peer.py generate giant stitch data/giant-stitch.npz --seed 0
    ogbench-venv/bin/python benchmarks/ogbench_peer.py play giant ws://127.0.0.1:8000 --episodes 20 --seed 0

Logs are made as OGBench says (Park et al. 2024, arXiv 2410.20092, appendix on data sets): noisy steps towards the next
cell of the shortest way. *Navigate*: long episodes, a new goal whenever one is reached. *Stitch*: short ones to a goal
four cells away. Its own logs cannot hold a goal, as goals are told afterwards; here the goal stands behind the place in
each observation, since our bodies observe theirs, and learning replaces it by places of the same episode.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import ogbench.locomaze  # noqa: F401  (registers the mazes)

NOISE = 0.5
LONG = {"medium": (1000, 1001), "large": (1000, 1001), "giant": (500, 2001)}
SHORT = (5000, 201)
"""Episodes and their most steps, of *navigate* by maze, and of *stitch*."""
NEAR = 4
"""Cells to a goal of *stitch*."""


def generate(maze: str, kind: str, out: Path, seed: int) -> None:
    """Writes logs as an ``.npz`` file: observations (place, goal), actions, terminals."""
    rng = np.random.default_rng(seed)
    np.random.seed(seed)  # noqa: NPY002 (the mazes draw by it)
    episodes, steps = LONG[maze] if kind == "navigate" else SHORT
    environment = gymnasium.make(f"pointmaze-{maze}-v0", terminate_at_goal=False, max_episode_steps=steps)
    inner: Any = environment.unwrapped
    free = [tuple(cell) for cell in np.argwhere(inner.maze_map == 0).tolist()]
    ways = {goal: _ways(free, goal) for goal in free}
    corners = [cell for cell in free if not _hallway(inner.maze_map, cell)]
    seen, done, over = [], [], []
    for number in range(episodes):
        start = free[rng.integers(len(free))]
        near = [cell for cell in free if ways[start].get(cell, (None, 0))[1] == NEAR]
        among = corners if kind == "navigate" else near or [start]
        goal = among[rng.integers(len(among))]
        place, _ = environment.reset(options={"task_info": {"init_ij": start, "goal_ij": goal}}, seed=seed + number)
        while True:
            here, way = inner.xy_to_ij(place), ways[inner.xy_to_ij(inner.cur_goal_xy)]
            aim = np.array(inner.ij_to_xy(way.get(here, (here, 0))[0])) - place
            action = aim / (np.linalg.norm(aim) + 1e-6) + rng.normal(0, NOISE, 2)
            action = action.clip(-1, 1).astype(np.float32)
            seen.append(np.concatenate([place, inner.cur_goal_xy]).astype(np.float32))
            place, _, terminated, truncated, info = environment.step(action)
            done.append(action)
            over.append(terminated or truncated)
            if over[-1]:
                break
            if info["success"] and kind == "navigate":
                inner.set_goal(corners[rng.integers(len(corners))])
    np.savez(out, observations=np.stack(seen), actions=np.stack(done), terminals=np.array(over))


def _ways(free: list[tuple[int, int]], goal: tuple[int, int]) -> dict[tuple[int, int], tuple[tuple[int, int], int]]:
    """From each cell, the next one on the shortest way to a goal, and how many are left."""
    known, waiting, cells = {goal: (goal, 0)}, [goal], set(free)
    while waiting:
        row, column = waiting.pop(0)
        for cell in ((row - 1, column), (row, column - 1), (row + 1, column), (row, column + 1)):
            if cell in cells and cell not in known:
                known[cell] = ((row, column), known[(row, column)][1] + 1)
                waiting.append(cell)
    return known


def _hallway(maze: np.ndarray, cell: tuple[int, int]) -> bool:
    """Whether one can only go straight through a cell."""
    row, column = cell
    up, down, left, right = maze[row - 1, column], maze[row + 1, column], maze[row, column - 1], maze[row, column + 1]
    return (up, down, left, right) in ((0, 0, 1, 1), (1, 1, 0, 0))


def play(maze: str, url: str, episodes: int, seed: int) -> dict[str, Any]:
    """Plays OGBench's five tasks of a maze, each so often, driven by a server."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
    from polysoma.serving.client import Client

    environment = gymnasium.make(f"pointmaze-{maze}-v0")
    inner: Any = environment.unwrapped
    tasks, steps, began = {}, 0, time.monotonic()
    with Client(url, patience_s=120) as client:
        for task in range(1, inner.num_tasks + 1):
            won = []
            for number in range(episodes):
                np.random.seed(seed + 1000 * task + number)  # noqa: NPY002 (the mazes draw by it)
                environment.action_space.seed(seed + 1000 * task + number)
                place, info = environment.reset(options={"task_id": task}, seed=seed + 1000 * task + number)
                goal = info["goal"]
                client.reset()
                while True:
                    state = np.concatenate([place, goal]).astype(np.float32)
                    reply = client.infer({"state": state, "instruction": ""})
                    place, _, terminated, truncated, info = environment.step(reply["actions"][0])
                    steps += 1
                    if terminated or truncated:
                        break
                won.append(bool(info["success"]))
            tasks[f"task{task}"] = won
    return {"tasks": tasks, "steps": steps, "seconds": time.monotonic() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, dest="command")
    making, playing = commands.add_parser("generate"), commands.add_parser("play")
    for command in (making, playing):
        command.add_argument("maze", choices=LONG)
        command.add_argument("--seed", type=int, default=0)
    making.add_argument("kind", choices=("navigate", "stitch"))
    making.add_argument("out", type=Path)
    playing.add_argument("url")
    playing.add_argument("--episodes", type=int, default=50)
    given = parser.parse_args()
    if given.command == "generate":
        generate(given.maze, given.kind, given.out, given.seed)
    else:
        print(json.dumps(play(given.maze, given.url, given.episodes, given.seed)))


if __name__ == "__main__":
    main()

"""The SO-101: how often its experts and random actions succeed, what a picture costs, and how many steps a second are
simulated, on one core.

    python benchmarks/so101.py
"""

from __future__ import annotations

import os

os.environ.setdefault("LP_NUM_THREADS", "1")  # Software rendering by one thread, before OpenGL is loaded.

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from polysoma.evaluation.evaluation import evaluate
from polysoma.simulators import so101
from polysoma.simulators.environment import Environment
from polysoma.task import Task
from results import read, share, write

EPISODES = {"expert": 50, "random": 20}
SEED = 4000
LAYOUTS = 4
"""Episodes whose first pictures are drawn: tables without and with a texture."""
DRAWN = 30


def main() -> None:
    large, small = so101.FAMILIES
    # Both have the same episodes, and the one with small pictures has them sooner.
    played = {who: evaluate(who, small.tasks, episodes, SEED).to_json()["tasks"] for who, episodes in EPISODES.items()}
    rate = small.embodiment.rate_hz
    tasks: dict[str, dict[str, Any]] = {
        Task.parse(task).name: {
            "instruction": small.make(task).reset(seed=SEED)[0]["instruction"],
            "expert": _rate(played["expert"][task]),
            "random": _rate(played["random"][task]),
            "seconds": float(np.mean(played["expert"][task]["steps"])) / rate,
            "most_seconds": max(played["expert"][task]["steps"]) / rate,
        }
        for task in small.tasks
    }
    bodies: dict[str, dict[str, Any]] = {}
    for family in (large, small):
        body = family.embodiment
        bodies[body.name] = {
            "shape": body.stream(so101.CAMERAS[0]).shape[:2],
            "picture_ms": {camera: _picture(family.tasks, family.make, camera) for camera in so101.CAMERAS},
            "steps_per_s": _steps(family.make(family.tasks[-1])),
        }
    write("so101", {"episodes": EPISODES, "seed": SEED, "tasks": tasks, "bodies": bodies})


def _rate(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("successes", "trials", "interval")}


def _picture(tasks: tuple[str, ...], make: Any, camera: str) -> dict[str, float]:
    """Milliseconds of processor time of a picture, over tasks and layouts: the median and the most of the medians."""
    found = []
    for task in tasks:
        environment = make(task)
        for seed in range(SEED, SEED + LAYOUTS):
            environment.reset(seed=seed)
            found.append(milliseconds(functools.partial(environment.see, camera)))
        environment.close()
    return {"median": float(np.median(found)), "most": max(found)}


def milliseconds(draw: Callable[[], Any]) -> float:
    """Of processor time, the median of some tries."""
    spent = []
    for _ in range(DRAWN):
        began = time.process_time()
        draw()
        spent.append(time.process_time() - began)
    return 1e3 * float(np.median(spent))


def _steps(environment: Environment) -> float:
    """Steps a second of processor time with the expert, both pictures included."""
    began, steps = time.process_time(), 0
    for seed in range(SEED, SEED + 5):
        environment.reset(seed=seed)
        over = False
        while not over:
            _, _, terminated, truncated, _ = environment.step(environment.expert_action())
            steps, over = steps + 1, terminated or truncated
    environment.close()
    return steps / (time.process_time() - began)


def render() -> str:
    """Its tasks, and what its pictures cost."""
    found = read("so101")
    lines = ["| task | such as | expert | random actions | an expert's episode |", "| --- | --- | --- | --- | --- |"]
    for name, row in found["tasks"].items():
        lines.append(
            f"| `{name}` | {row['instruction']} | {share(row['expert'])} | {share(row['random'])} "
            f"| {row['seconds']:.1f} s, at most {row['most_seconds']:.1f} s |"
        )
    lines += [
        "",
        "| body | pictures | `top` | `wrist` | steps/s, expert and both pictures |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in found["bodies"].items():
        height, width = row["shape"]
        costs = [f"{cost['median']:.1f} ms, at most {cost['most']:.1f} ms" for cost in row["picture_ms"].values()]
        lines.append(f"| `{name}` | {height} x {width} | {' | '.join(costs)} | {row['steps_per_s']:.0f} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Seeds from {found['seed']} on, 95 % intervals; processor time on one core of "
            f"{found['hardware']['processor']}, software rendering (`{found['command']}`).",
            "",
        ]
    )


if __name__ == "__main__":
    main()

"""Success and return of the experts and of random actions on every task: what normalised scores refer to.

    python benchmarks/reference.py
    python benchmarks/reference.py 'fetch/*,half-cheetah/*'

Brings the tasks that are named up to date in ``src/polysoma/evaluation/reference.json``, and in the full results beside
the other benchmarks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import tyro

from polysoma import simulators
from polysoma.cli.progress import counting
from polysoma.evaluation import evaluation
from polysoma.evaluation.evaluation import evaluate
from polysoma.files import write_atomically
from results import FOLDER, commit, write

EPISODES = {"expert": 20, "random": 10}
SEED = 3000
PATH = Path(evaluation.__file__).parent / evaluation.REFERENCE_FILE


def main(tasks: Annotated[str, tyro.conf.Positional] = "*", workers: int = 2) -> None:
    # A body seen through its cameras has the same episodes and the same expert.
    bodies = [name for name, body in simulators.embodiments().items() if body.body == name]
    chosen = simulators.match_tasks(tasks, bodies)
    held = json.loads(PATH.read_text())["tasks"] if PATH.exists() else {}
    full: dict[str, Any] = json.loads((FOLDER / "reference.json").read_text()) if held else {}
    numbers = {driver: {"tasks": full.get(driver, {}).get("tasks", {})} for driver in EPISODES}
    for driver, episodes in EPISODES.items():
        with counting(driver) as show:
            result = evaluate(
                driver,
                chosen,
                episodes,
                SEED,
                workers=workers,
                progress=lambda done, total, scores, show=show: show(done, total, ""),
            )
        for task, own in result.to_json()["tasks"].items():
            numbers[driver]["tasks"][task] = {k: v for k, v in own.items() if k != "expert_normalised"} | {
                "commit": commit()
            }
    for task in chosen:
        held[task] = {driver: numbers[driver]["tasks"][task]["rate"] for driver in EPISODES} | {
            f"{driver}_return": numbers[driver]["tasks"][task]["return"] for driver in EPISODES
        }
    data = {"episodes": EPISODES, "seed": SEED, "tasks": held}
    write_atomically(PATH, (json.dumps(data, indent=1) + "\n").encode())
    write("reference", numbers)


if __name__ == "__main__":
    tyro.cli(main)

"""Which heads cope with several right answers: two ways round an obstacle (examples/obstacle.py).

    python benchmarks/heads.py

The same demonstrations, half on each side, train one small policy with each head; all play the same unseen seeds. About
ten minutes.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import tyro

from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import wilson
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from results import read, share, write

TASK, SEED = "walker/obstacle", 1900
HEADS = {
    "l1": {"kind": "l1"},
    "bins": {"kind": "bins"},
    "flow": {"kind": "flow"},
    "flow, guidance 2": {"kind": "flow", "guidance": 2.0},
}


def main(demonstrations: int = 200, steps: int = 2000, episodes: int = 100) -> None:
    # Before anything asks which families there are; workers are told, too.
    os.environ["POLYSOMA_FAMILIES"] = str(Path(__file__).parents[1] / "examples" / "obstacle.py")
    numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        record([TASK], demonstrations, Path(folder), Behaviour(noise=None))
        for name, head in HEADS.items():
            table = {
                "data": [f"{folder}/walker"],
                "steps": steps,
                "warmup": 30,
                "ema": 0.99,
                "head": head,
                "policy": {"width": 64, "depth": 2, "heads": 2},
                "bodies": {"walker": {"batch": 128}},
            }
            checkpoint = train(recipe_from_table(table, "heads.py"), Path(folder) / name)
            score = evaluate(str(checkpoint), [TASK], episodes, SEED).tasks[TASK]
            low, high = wilson(score.successes, score.trials)
            print(f"{name}: {score.successes}/{score.trials} [{low:.2f}, {high:.2f}]")
            numbers[name] = score.to_json()
    settings = {"demonstrations": demonstrations, "steps": steps, "episodes": episodes, "seed": SEED}
    write("heads", {"settings": settings, "heads": numbers})


def render() -> str:
    """Which heads cope with several right answers."""
    found = read("heads")
    settings = found["settings"]
    parts = [f"{name} {share(score)}" for name, score in found["heads"].items()]
    return (
        f"Two ways round an obstacle, {settings['steps']} steps from {settings['demonstrations']} demonstrations: "
        f"{'; '.join(parts)} (`{found['command']}`).\n"
    )


if __name__ == "__main__":
    tyro.cli(main)

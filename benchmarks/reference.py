"""Success of the experts and of random actions on every task: what normalised scores refer to.

    python benchmarks/reference.py

Writes ``src/polysoma/evaluation/reference.json`` and the full results beside the other benchmarks.
"""

from __future__ import annotations

import json
from pathlib import Path

from polysoma import simulators
from polysoma.cli.progress import counting
from polysoma.evaluation import evaluation
from polysoma.evaluation.evaluation import evaluate
from polysoma.files import write_atomically
from results import commit, write

EPISODES = {"expert": 20, "random": 10}
SEED = 3000

if __name__ == "__main__":
    # A body seen through its cameras has the same episodes and the same expert.
    bodies = [name for name, body in simulators.embodiments().items() if body.body == name]
    tasks = simulators.match_tasks("*", bodies)
    results = {}
    for driver, episodes in EPISODES.items():
        with counting(driver) as show:
            result = evaluate(
                driver, tasks, episodes, SEED, 2, progress=lambda done, total, scores, show=show: show(done, total, "")
            )
        results[driver] = result.to_json()
    rates = {
        task: {driver: results[driver]["tasks"][task]["rate"] for driver in EPISODES}
        | {f"{driver}_return": results[driver]["tasks"][task]["return"] for driver in EPISODES}
        for task in tasks
    }
    data = {"commit": commit(), "episodes": EPISODES, "seed": SEED, "tasks": rates}
    path = Path(evaluation.__file__).parent / evaluation.REFERENCE_FILE
    write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())
    write("reference", {driver: {k: result[k] for k in ("tasks", "families")} for driver, result in results.items()})

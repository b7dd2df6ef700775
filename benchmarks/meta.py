"""Meta-learning: what three gradient steps on twenty demonstrations reach, from which start (docs/finetuning.md).

    python benchmarks/meta.py

Learns starts over the 45 tasks of runs/held-out/checkpoint (recipes/held-out.toml), then the five tasks, demonstrations
and seeds of `benchmarks/compare.py tasks`, whose cells are used where they are. About an hour on one core. Killed, it
continues.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from compare import DEMONSTRATIONS, FIRST_DEMONSTRATION, OLD, SEED, TASKS
from polysoma import simulators
from polysoma.cli.progress import counting, counting_run
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.evaluation.comparison import METHODS, Comparison, compare, title
from polysoma.evaluation.comparison_page import write_page
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.files import write_atomically
from polysoma.learning import states
from polysoma.learning.finetuning import few_steps, meta_recipe_for, recipe_for, within
from polysoma.learning.methods.meta import MetaLearning, mean_loss
from polysoma.learning.training import recipe_of_run, train
from polysoma.policy import checkpoint
from polysoma.policy.methods import AdaptationMethod
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from results import difference, read, write

BASE, SEEN = "runs/held-out/checkpoint", "data/metaworld"
DATA = DEMONSTRATIONS / "metaworld"
COUNT = 20
PLAIN_RATE = 0.01
# Rates, tasks at once and renaming were chosen on five of the 45 tasks that were left out of meta-learning.
STARTS: tuple[tuple[AdaptationMethod, MetaLearning], ...] = (
    ("lora", MetaLearning("maml", inner_rate=0.01, tasks=5, batch=1)),
    ("lora", MetaLearning("reptile", inner_rate=0.01, tasks=5, batch=2)),
    ("lora", MetaLearning("anil", inner_rate=0.02, tasks=5, batch=2)),
)


def main(
    meta_minutes: float = 5.0,
    minutes: float = 3.0,
    out: Path = Path("runs/meta"),
    compared: Path = Path("runs/compare/tasks"),
) -> None:
    """Three steps from plain starts and from meta-learnt ones, and fine-tuning from these.

    Args:
        meta_minutes: of learning each start.
        minutes: of fine-tuning.
        out: folder of the starts; what is there is used.
        compared: folder of the comparison; what is there is used.
    """
    torch.set_num_threads(1)
    record(list(TASKS), 200, DEMONSTRATIONS, Behaviour(noise=None), workers=1, seed=FIRST_DEMONSTRATION)
    starts = {name(method, meta): learnt(method, meta, meta_minutes, out) for method, meta in STARTS}
    plain = [plain_cell(method, out) for method in ("head", "lora")]
    old = tuple(task for task in OLD["tasks"] if task in set(simulators.match_tasks("*")))
    asked = Comparison(
        BASE, str(DATA), TASKS, (COUNT,), METHODS, minutes, 20, SEED, old, old_episodes=10,
        starts=tuple(starts.values()),
    )  # fmt: skip
    with counting("comparing") as show:
        result = compare(asked, compared, show)
    write_page(result, compared / "index.html")
    rows = []
    cells = [{**cell, "title": title(cell)} for cell in result["cells"]]
    by_title = {cell["title"]: flat(cell) for cell in [*plain, *cells]}
    for cell in [*plain, *cells]:
        outcomes = flat(cell)
        row: dict[str, Any] = {
            "way": cell["title"],
            "demonstrations": cell["demonstrations"],
            "successes": sum(outcomes),
            "trials": len(outcomes),
            "interval": wilson(sum(outcomes), len(outcomes)),
            "minutes": cell["minutes"],
            "steps": cell["steps"],
        }
        if cell["way"] == "inner" and cell not in plain:
            row["minus_plain"] = paired_difference(outcomes, by_title["plain lora, 3 steps"])
        if cell["way"] == "continued":
            row["minus_lora"] = paired_difference(outcomes, by_title["lora"])
        rows.append(row)
    learning = [
        {"name": key, "seconds": seconds(Path(starts[key]).parent), **dataclasses.asdict(meta)}
        for (_, meta), key in zip(STARTS, starts, strict=True)
    ]
    losses = {
        "zero-shot": loss(BASE),
        **{cell["title"]: loss(cell["driver"]) for cell in plain},
        **{f"{key}, no step": loss(path) for key, path in starts.items()},
    }
    for row in result["cells"]:
        if row["way"] == "inner":
            losses[title(row)] = loss(str(compared / cell_folder(row, starts) / "checkpoint"))
    write("meta", {"comparison": result["comparison"], "learning": learning, "rows": rows, "losses": losses})


def name(method: AdaptationMethod, meta: MetaLearning) -> str:
    return f"{method} by {meta.algorithm}"


def learnt(method: AdaptationMethod, meta: MetaLearning, minutes: float, out: Path) -> str:
    """The folder of a meta-learnt start; a killed run goes on."""
    run = out / f"{meta.algorithm}-{method}"
    if states.exists(run):
        recipe = recipe_of_run(run)
    else:
        recipe, _ = within(meta_recipe_for(BASE, [SEEN], method, meta, TASKS), 60 * minutes)
    with counting_run(run.name, recipe, run) as progress:
        return str(train(recipe, run, resume=states.exists(run), progress=progress))


def plain_cell(method: AdaptationMethod, out: Path) -> dict[str, Any]:
    """As a cell of the comparison: the same three steps from where adaptations usually start."""
    run = out / f"plain-{method}"
    file = run / "cell.json"
    if not file.exists():
        recipe = recipe_for(BASE, [str(DATA)], method, COUNT, held_out=0.0)
        meta = MetaLearning("fomaml", inner_rate=PLAIN_RATE)
        began = time.monotonic()
        driver = str(few_steps(dataclasses.replace(recipe, method=meta), run))
        minutes = round((time.monotonic() - began) / 60, 2)
        played = evaluate(driver, TASKS, 20, SEED)
        cell = {
            "way": "inner", "title": f"plain {method}, {meta.inner_steps} steps", "driver": driver,
            "demonstrations": COUNT, "steps": meta.inner_steps, "minutes": minutes,
            "outcomes": {task: [int(outcome) for outcome in score.outcomes] for task, score in played.tasks.items()},
        }  # fmt: skip
        write_atomically(file, json.dumps(cell).encode())
    return json.loads(file.read_text())


def flat(cell: dict[str, Any]) -> list[bool]:
    return [bool(outcome) for outcomes in cell["outcomes"].values() for outcome in outcomes]


def cell_folder(cell: dict[str, Any], starts: dict[str, str]) -> str:
    return f"inner-{checkpoint.weights_sha256(starts[cell['start']])[:8]}-{COUNT}"


def loss(driver: str) -> float:
    """The mean loss on demonstrations that nothing has learnt from."""
    _, apart = Source([Dataset(DATA)], [1.0], 0.0).split(2 * COUNT, 0.5)
    assert apart is not None
    rng = np.random.default_rng(0)
    policy = checkpoint.load_for_training(driver).eval()
    with torch.inference_mode():
        return round(float(mean_loss(policy, {}, [apart.draw(128, rng) for _ in range(16)])), 4)


def seconds(run: Path) -> float:
    """Of training, as its metrics say."""
    return float(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["seconds"])


def render() -> str:
    """What a few gradient steps reach, from which start."""
    found = read("meta")
    lines = [
        "| method | minutes | loss on other demonstrations | success | 95 % interval | minus plain, paired |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        loss, minus = found["losses"].get(row["way"]), row.get("minus_plain", row.get("minus_lora"))
        lines.append(
            f"| {row['way']} | {row['minutes'] or ''} | {'' if loss is None else f'{loss:.3f}'} "
            f"| {row['successes']}/{row['trials']} | {row['interval'][0]:.2f} to {row['interval'][1]:.2f} "
            f"| {'' if minus is None else difference(minus)} |"
        )
    took = ", ".join(f"{start['name']} {start['seconds'] / 60:.1f} minutes" for start in found["learning"])
    asked = found["comparison"]
    lines += [
        "",
        f"From {asked['base']}, {asked['demonstrations'][0]} demonstrations of each of {len(asked['tasks'])} tasks; "
        f"{asked['episodes']} episodes of each from seed {asked['seed']}, one core ({found['hardware']['processor']}). "
        f"Starts were learnt once, on the 45 other tasks: {took}. Steps are compared with those of plain lora, "
        f"`continued` with lora (`{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)

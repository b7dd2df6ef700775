"""Described channels against linear adapters: how soon does a policy drive a body that it never met?

    python benchmarks/channels.py

Two policies, alike but for their adapters, learn the same source bodies from the same windows for the same number of
steps; then each is fine-tuned to each held-out body with 0, 5, 20 and 50 demonstrations a task (0: nothing is learned;
statistics come from channels called alike). All play the same unseen seeds. Needs the source bodies' data in ``data/``
(`polysoma record`); about half an hour on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from parallel import side_by_side
from polysoma import simulators
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.nn.described import expected_statistics
from polysoma.policy import checkpoint
from polysoma.policy.edits import extend
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from results import difference, read, share, write

SOURCES = {
    "metaworld": 64, "go1": 64, "drone": 64, "pointmaze": 32, "aloha": 32, "half-cheetah": 16, "ant": 16,
    "walker2d": 16, "reacher": 16, "pusher": 16,
}  # fmt: skip
HELD_OUT = {"go2": "go1", "fetch": "metaworld", "drone-large": "drone"}
ADAPTERS = ("linear", "described")
SEED = 5000


@dataclass(frozen=True)
class Run:
    """One policy to fine-tune and to play."""

    out: str
    adapters: str
    body: str
    demonstrations: int
    steps: int
    episodes: int


def pretrain(job: tuple[str, str, int]) -> None:
    """Learns the source bodies."""
    out, adapters, steps = job
    table = {
        "data": [f"data/{body}" for body in SOURCES],
        "steps": steps,
        "ema": 0.99,
        "log_every": 50,
        "policy": {"adapters": adapters},
        "bodies": {body: {"batch": batch, "noise": 0.01} for body, batch in SOURCES.items()},
    }
    train(recipe_from_table(table, "channels.py"), Path(out) / adapters)


def adapt(run: Run) -> list[bool]:
    """Fine-tunes, plays, and returns the outcome of every episode."""
    base = Path(run.out) / run.adapters / "checkpoint"
    folder = Path(run.out) / f"{run.adapters}-{run.body}-{run.demonstrations}"
    made = folder / "checkpoint"
    if made.exists():
        pass
    elif run.demonstrations == 0:
        policy = checkpoint.load_for_training(base)
        body = simulators.embodiments()[run.body]
        expected = expected_statistics(body, policy.config.embodiments, policy.config.statistics)
        checkpoint.save(extend(policy, (body,), {body.name: expected}, ()), made)
    else:
        table = {
            "data": [f"{run.out}/data-{run.demonstrations}/{run.body}"],
            "init": str(base),
            "steps": run.steps,
            "learning_rate": 5e-4,
            "warmup": 20,
            "ema": 0.98,
            "bodies": {run.body: {"batch": 64, "noise": 0.01}},
        }
        train(recipe_from_table(table, "channels.py"), folder)
    result = evaluate(str(made), simulators.tasks_of(run.body), run.episodes, SEED)
    return [bool(outcome) for score in result.tasks.values() for outcome in score.outcomes]


def _done(out: str, adapters: str) -> bool:
    return (Path(out) / adapters / "checkpoint").exists()


def main(
    out: str = "runs/channels",
    steps: int = 500,
    finetune_steps: int = 150,
    episodes: int = 20,
    demonstrations: tuple[int, ...] = (0, 5, 20, 50),
    processes: int = 2,
) -> None:
    """Both adapters, all held-out bodies.

    Args:
        out: folder for data and checkpoints; what is there already is used.
        steps: of learning the source bodies.
        finetune_steps: of each fine-tuning.
        episodes: of each task.
        demonstrations: of each task.
        processes: side by side.
    """
    side_by_side(pretrain, [(out, a, steps) for a in ADAPTERS if not _done(out, a)], processes)
    for body in HELD_OUT:
        for count in demonstrations:
            if count:
                folder = Path(out) / f"data-{count}"
                record(list(simulators.tasks_of(body)), count, folder, Behaviour(noise=None), workers=processes)
    runs = [
        Run(out, adapters, body, count, finetune_steps, episodes)
        for body in HELD_OUT
        for count in demonstrations
        for adapters in ADAPTERS
    ]
    found = dict(zip(runs, side_by_side(adapt, runs, processes), strict=True))
    rows = []
    for body, source in HELD_OUT.items():
        for count in demonstrations:
            row: dict[str, Any] = {"body": body, "nearest": source, "demonstrations": count}
            outcomes = {}
            for adapters in ADAPTERS:
                own = outcomes[adapters] = found[Run(out, adapters, body, count, finetune_steps, episodes)]
                row[adapters] = {"successes": sum(own), "trials": len(own), "interval": wilson(sum(own), len(own))}
            row["described_minus_linear"] = paired_difference(outcomes["described"], outcomes["linear"])
            rows.append(row)
            print(row)
    settings = {
        "steps": steps,
        "finetune_steps": finetune_steps,
        "episodes": episodes,
        "seed": SEED,
        "sources": SOURCES,
    }
    write("channels", {"settings": settings, "rows": rows})


def render() -> str:
    """Described channels against linear adapters."""
    found = read("channels")
    lines = [
        "| held-out body | nearest known | demonstrations a task | linear | described | described - linear |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['body']} | {row['nearest']} | {row['demonstrations']} | {share(row['linear'])} "
        f"| {share(row['described'])} | {difference(row['described_minus_linear'])} |"
        for row in found["rows"]
    ]
    settings = found["settings"]
    lines += [
        "",
        f"{settings['steps']} steps on {len(settings['sources'])} bodies, then {settings['finetune_steps']} steps of "
        f"fine-tuning; {settings['episodes']} episodes a task with seeds from {settings['seed']}, 95 % intervals "
        "(`python benchmarks/channels.py`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

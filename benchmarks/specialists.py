"""The generalist against one specialist a family: the same data, settings and steps for that family, paired seeds.

    python benchmarks/specialists.py train steps=4200 bodies.rover.batch=128 bodies.drone.batch=128 --steps 1000
    python benchmarks/specialists.py compare CHECKPOINT --steps 1000

CHECKPOINT is a copy of the generalist's checkpoint at that step; the overrides are those of its first thousand steps in
recipes/generalist.sh.

A specialist's run takes the very windows that the generalist's run took for that body (drawing depends on the seed, the
step and the body alone), at the same learning rates. The generalist must come from the same recipe, at the same step.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polysoma import simulators
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference
from polysoma.learning.recipe import read_recipe
from results import write

RECIPE = Path(__file__).parents[1] / "recipes" / "generalist.toml"
EPISODES = {"metaworld": 4, "babyai": 8, "drone": 50, "rover": 50}
SEED = 1700


def _run(body: str, steps: int) -> Path:
    return Path("runs") / f"specialist-{body}-{steps}"


@dataclass(frozen=True)
class Train:
    """Trains the specialists, two processes each."""

    steps: int = 1000
    """Stop here, on the recipe's own schedule."""
    bodies: tuple[str, ...] = tuple(EPISODES)
    """Whose specialists."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """What the generalist's run overrode in the recipe, e.g. steps=5000."""

    def run(self) -> None:
        parts = read_recipe(RECIPE, self.overrides).bodies
        for body in self.bodies:
            part = parts[body]
            settings = ", ".join(f"{key} = {value}" for key, value in dataclasses.asdict(part).items())
            arguments = ["-m", "polysoma", "train", str(RECIPE), *self.overrides, f"bodies={{{body} = {{{settings}}}}}"]
            subprocess.run(
                [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *arguments,
                 "--out", str(_run(body, self.steps)), "--until", str(self.steps)],
                check=True,
            )  # fmt: skip


@dataclass(frozen=True)
class Compare:
    """Evaluates both on the same seeds and prints generalist minus specialist."""

    generalist: tyro.conf.Positional[str]
    steps: int = 1000
    bodies: tuple[str, ...] = tuple(EPISODES)

    def run(self) -> None:
        numbers = {}
        for body in self.bodies:
            episodes, tasks = EPISODES[body], list(simulators.tasks_of(body))
            policies = {"generalist": self.generalist, "specialist": str(_run(body, self.steps) / "checkpoint")}
            results = {name: evaluate(path, tasks, episodes, SEED, workers=2) for name, path in policies.items()}
            outcomes = {name: result.families()[body].outcomes for name, result in results.items()}
            difference, low, high = paired_difference(outcomes["generalist"], outcomes["specialist"])
            numbers[body] = {
                "trials": len(outcomes["generalist"]),
                **{name: sum(values) / len(values) for name, values in outcomes.items()},
                "difference": difference,
                "interval": [low, high],
                "tasks": {name: {t: s.to_json() for t, s in result.tasks.items()} for name, result in results.items()},
            }
            print(f"{body}: generalist - specialist = {difference:+.3f} [{low:+.3f}, {high:+.3f}]")
        write("specialists", {"steps": self.steps, "seed": SEED, "families": numbers})


if __name__ == "__main__":
    tyro.cli(
        Annotated[Train, tyro.conf.subcommand("train")] | Annotated[Compare, tyro.conf.subcommand("compare")]  # type: ignore[arg-type]
    ).run()

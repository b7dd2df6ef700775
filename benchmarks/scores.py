"""Success of a checkpoint on all bodies, with the episodes and seeds of the README's table.

    python benchmarks/scores.py generalist
    python benchmarks/scores.py runs/x/checkpoint --name other
    python benchmarks/scores.py --demos 10 --families metaworld --name memory
    python benchmarks/scores.py generalist --share 0.4 --families aloha --again

Training, and choices among settings, use other seeds (docs/evaluation.md lists them).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from polysoma import simulators
from polysoma.cli.progress import counting
from polysoma.data.paraphrases import SHIPPED
from polysoma.evaluation.evaluation import Result, Score, evaluate
from polysoma.evaluation.intervals import wilson
from polysoma.policy import checkpoint
from polysoma.rollout.drivers import Checkpoint, Conditioning, Prompting, driver_of
from results import FOLDER, write

EPISODES = {
    "metaworld": 20, "metaworld-pixels": 10, "babyai": 20, "drone": 50, "rover": 50, "aloha": 50, "aloha-pixels": 50,
    "go1": 50, "fetch": 50, "pointmaze": 50, "half-cheetah": 10, "hopper": 10, "walker2d": 10, "ant": 10,
    "swimmer": 10, "reacher": 50, "pusher": 50, "inverted-pendulum": 10, "inverted-double-pendulum": 10,
}  # fmt: skip
SEED = 8600

# The four groups of difficulty of Meta-World that LeRobot averages over (Seo et al. 2022, arXiv 2206.14244).
MEDIUM = (
    "basketball bin-picking box-close coffee-pull coffee-push hammer peg-insert-side push-wall soccer sweep sweep-into"
)
HARD = "assembly hand-insert pick-out-of-hole pick-place push push-back"
VERY_HARD = "shelf-place disassemble stick-pull stick-push pick-place-wall"


def groups(scores: Mapping[str, Score]) -> dict[str, float]:
    """The mean success of each group, and the mean of the groups."""
    members = {"medium": MEDIUM.split(), "hard": HARD.split(), "very_hard": VERY_HARD.split()}
    group_of = {name: group for group, names in members.items() for name in names}
    rates: dict[str, list[float]] = {}
    for task, score in scores.items():
        name = task.split("/")[1].removesuffix("-v3")
        rates.setdefault(group_of.get(name, "easy"), []).append(score.rate)
    means = {group: round(sum(own) / len(own), 4) for group, own in rates.items()}
    return means | {"mean_of_groups": round(sum(means.values()) / len(means), 4)}


@dataclass(frozen=True)
class Scores:
    """Evaluates a checkpoint, or ``expert`` or ``random``."""

    checkpoint: tyro.conf.Positional[str] = "generalist"
    name: str = "scores"
    """Name of the results file."""
    families: tuple[str, ...] = tuple(EPISODES)
    share: float = 1.0
    """Fraction of the episodes, for a quicker look."""
    workers: int = 2
    paraphrases: Literal["none", "train", "held-out"] = "none"
    """Say instructions in other words."""
    conditioning: Conditioning = "words"
    """What says what to do; pictures are for families with cameras."""
    again: bool = False
    """Measure --families again and keep what the results file has of the others, which nothing has changed."""
    demos: int = 0
    """Demonstrations of each task in data/FAMILY that the policy looks up; 0 for none."""

    def run(self) -> None:
        before = json.loads((FOLDER / f"{self.name}.json").read_text()) if self.again else {"families": {}, "tasks": {}}
        families: dict[str, Any] = before["families"]
        numbers: dict[str, Any] = before["tasks"]
        # Bodies with equally many episodes are played together, since starting workers takes as long as some of them.
        groups_of = [[f for f in self.families if EPISODES[f] == e] for e in sorted(EPISODES[f] for f in self.families)]
        if self.demos:
            groups_of = [[family] for family in self.families]
        drives = self.checkpoint not in ("expert", "random")
        attached = [place.name for place in checkpoint.attached(checkpoint.resolve(self.checkpoint))] if drives else []
        for together in {tuple(group): group for group in groups_of}.values():
            episodes = EPISODES[together[0]]
            tasks = [task for family in together for task in simulators.tasks_of(family)]
            words = None if self.paraphrases == "none" else (SHIPPED, self.paraphrases)
            with counting(", ".join(together)[:40]) as show:
                driver = driver_of(self.checkpoint)
                if self.demos:
                    driver = Checkpoint(self.checkpoint, retrieve=(f"data/{together[0]}", self.demos))
                result = evaluate(
                    driver, tasks, max(1, round(episodes * self.share)), SEED, workers=self.workers,
                    prompting=Prompting(self.conditioning, words),
                    latency=words is None and self.conditioning == "words",
                    progress=lambda done, total, scores, show=show: show(
                        done, total, f"{sum(s.successes for s in scores.values()) / done:.1%}"
                    ),
                )  # fmt: skip
            data = result.to_json()
            numbers.update(data["tasks"])
            for family in together:
                families[family] = data["families"][family]
                own = {task: score for task, score in result.tasks.items() if task.startswith(family + "/")}
                if family.startswith("metaworld"):
                    families[family]["groups"] = groups(own)
                _print(family, result, own)
            # After every group: what was measured is kept when the next one is interrupted.
            ordered = {family: families[family] for family in EPISODES if family in families}
            settings = {"checkpoint": self.checkpoint, "attached": attached, "share": self.share, "seed": SEED}
            said = {"paraphrases": self.paraphrases, "told": self.conditioning, "demonstrations_looked_up": self.demos}
            write(self.name, {**settings, **said, "families": ordered, "tasks": numbers})


def _print(family: str, result: Result, tasks: Mapping[str, Score]) -> None:
    score = result.families()[family]
    low, high = wilson(score.successes, score.trials)
    between = result.normalised_mean(family)
    print(f"{family}: {score.successes}/{score.trials} = {score.rate:.3f} [{low:.3f}, {high:.3f}], {between} to expert")
    for task, own in sorted(tasks.items(), key=lambda item: item[1].rate)[:8]:
        print(f"    {task}: {own.successes}/{own.trials}")


if __name__ == "__main__":
    tyro.cli(Scores).run()

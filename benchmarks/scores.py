"""Success of a checkpoint on all four families, with the episodes and seeds of the README's table.

    python benchmarks/scores.py generalist
    python benchmarks/scores.py runs/x/checkpoint --name other

Training, and choices among settings, use other seeds (docs/evaluation.md lists them).
"""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from polysoma import simulators
from polysoma.cli.progress import counting
from polysoma.evaluation.evaluation import Score, evaluate
from polysoma.evaluation.intervals import wilson
from results import write

EPISODES = {"metaworld": 20, "babyai": 50, "drone": 50, "rover": 50}
SEED = 1600


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

    def run(self) -> None:
        numbers: dict[str, object] = {"seed": SEED, "families": {}, "tasks": {}}
        for family in self.families:
            episodes = max(1, round(EPISODES[family] * self.share))
            tasks = list(simulators.tasks_of(family))
            with counting(family) as show:

                def progress(done: int, total: int, scores: dict[str, Score], show: object = show) -> None:
                    show(done, total, f"{sum(s.successes for s in scores.values()) / done:.1%}")  # type: ignore[operator]

                result = evaluate(self.checkpoint, tasks, episodes, SEED, self.workers, latency=True, progress=progress)
            data = result.to_json()
            numbers["families"][family] = data["families"][family] | {"seconds": data["seconds"]}  # type: ignore[index]
            numbers["tasks"].update(data["tasks"])  # type: ignore[attr-defined]
            score = result.families()[family]
            low, high = wilson(score.successes, score.trials)
            print(f"{family}: {score.successes}/{score.trials} = {score.rate:.3f} [{low:.3f}, {high:.3f}]")
            for task, own in sorted(result.tasks.items(), key=lambda item: item[1].rate)[:8]:
                print(f"    {task}: {own.successes}/{own.trials}")
        write(self.name, {"checkpoint": self.checkpoint, **numbers})


if __name__ == "__main__":
    tyro.cli(Scores).run()

"""Before changed weights are accepted: the same episodes with both, in which what was not learnt may hardly lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference
from polysoma.rollout.drivers import Checkpoint

_ROUNDING = 1e-9
"""What 1 of 20 lost differs from 0.05 at most."""


@dataclass(frozen=True)
class Replayed:
    """Which episodes succeeded with the weights before and with those after, by task; both in the order of seeds."""

    before: Mapping[str, Sequence[bool]]
    after: Mapping[str, Sequence[bool]]

    def difference(self) -> tuple[float, float, float]:
        """How many more succeed, as a share of the episodes, with a 95 % interval: ``(difference, low, high)``."""
        first, second = ([o for task in self.before for o in own[task]] for own in (self.after, self.before))
        return paired_difference(first, second)

    def of(self, task: str) -> Replayed:
        """The episodes of one task."""
        return Replayed({task: self.before[task]}, {task: self.after[task]})

    def lost(self, allowed: float) -> str:
        """Why the weights are worse than is allowed, in words; empty where they are not.

        All tasks together may lose this share of their episodes. A single task has few of them, in which chance moves
        more: it is named only where the whole interval is beyond. So one task that is lost is not hidden by many.
        """
        difference = self.difference()[0]
        if difference < -allowed - _ROUNDING:
            return f"they lost {-difference:.2f} of their episodes, at most {allowed:.2f} is allowed"
        worse = [task for task in self.before if self.of(task).difference()[2] < -allowed - _ROUNDING]
        told = "; ".join(f"{task}: {self.of(task)}" for task in worse)
        return f"clearly more than {allowed:.2f} was lost in {told}" if worse else ""

    def __str__(self) -> str:
        won = [sum(sum(outcomes) for outcomes in own.values()) for own in (self.before, self.after)]
        trials = sum(map(len, self.before.values()))
        gain, low, high = self.difference()
        return f"{won[0]} of {trials} episodes succeeded before, {won[1]} after: {gain:+.2f} [{low:+.2f}, {high:+.2f}]"


def replay(
    before: str, after: str, tasks: Sequence[str], episodes: int, seed: int, precision: str | None = None
) -> Replayed:
    """Plays the same episodes with two checkpoints.

    Args:
        before, after: their folders or names.
        tasks: full names.
        episodes: of each task.
        seed: of the first one.
        precision: as for :func:`polysoma.policy.checkpoint.load`.

    Raises:
        PolysomaError: as :func:`~polysoma.evaluation.evaluation.evaluate`.
    """
    won = []
    for place in (before, after):
        scores = evaluate(Checkpoint(place, precision=precision), tasks, episodes, seed).tasks
        won.append({task: score.outcomes for task, score in scores.items()})
    return Replayed(*won)

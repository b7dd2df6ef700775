"""Allocation: where a round's effort goes, from what succeeded so far. Nothing is played or learnt here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from polysoma.learning.bodies import BodyRecipe
from polysoma.task import body_of

FADING = 0.5
"""What a round's outcomes count a round later: the policy is another one by then."""
LEAST_NEED = 0.1
"""Of tasks that always succeed, which would be forgotten otherwise."""
MOST = 3.0
"""A task gets at most so many times the mean effort, and at least the mean divided by it: some are never learnt."""
MOST_WINDOWS = 2.0
"""The same for the windows of a body in a step."""
FEWEST_WINDOWS = 4
FIRST, ADDED, RECORDING, PLAYING = 0.15, 0.05, 0.1, 0.25
"""Shares of time: demonstrations before the first round, and those that are added for bodies that have few, of the
whole; then of each round new demonstrations, and what the policy plays, at most. What is left is for learning."""
MOST_MORE = 10
"""Before the first round a task gets at most so many times the demonstrations that each one gets."""
CAREFUL = 1.2
"""Playing is taken to last so many times as long as the last one."""


@dataclass(frozen=True)
class Evidence:
    """What a policy's attempts at a task say.

    Attributes:
        successes, trials: of the last attempts and, fading, of those before.
    """

    successes: float = 0.0
    trials: float = 0.0

    def after(self, successes: int, trials: int) -> Evidence:
        """The evidence once there are new attempts; the same where there are none."""
        if not trials:
            return self
        return Evidence(FADING * self.successes + successes, FADING * self.trials + trials)

    @property
    def rate(self) -> float:
        """Expected success: half where nothing is known (Laplace's rule of succession)."""
        return (self.successes + 1) / (self.trials + 2)


def efforts(evidence: Mapping[str, Evidence]) -> dict[str, float]:
    """How much of everything each task gets, 1 being the mean: in proportion to how often it still fails, within
    bounds."""
    needs = {task: max(LEAST_NEED, 1 - known.rate) for task, known in evidence.items()}
    return _bounded(needs, dict.fromkeys(needs, 1), MOST)


def apportioned(total: int, weights: Mapping[str, float], least: int = 0) -> dict[str, int]:
    """Whole numbers in proportion to weights, ``least`` or more each, that add up to ``total`` where that suffices
    (largest remainders; the first name where they are equal)."""
    rest = max(0, total - least * len(weights))
    exact = {name: rest * weight / sum(weights.values()) for name, weight in weights.items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: rest - sum(counts.values())]:
        counts[name] += 1
    return {name: least + count for name, count in counts.items()}


def missing(kept: Mapping[str, int], recorded: Mapping[str, int], frames: int, most: int) -> dict[str, int]:
    """How many more episodes of each task bring its body to so many frames.

    Args:
        kept: episodes of each task that there are.
        recorded: frames of each task that there are.
        frames: of each body.
        most: episodes of each task that may be added.
    """
    bodies: dict[str, list[str]] = {}
    for task, episodes in kept.items():
        if episodes:
            bodies.setdefault(body_of(task), []).append(task)
    more: dict[str, int] = {}
    for tasks in bodies.values():
        there = sum(recorded[task] for task in tasks)
        # As many of each task: so many frames has an episode of each one together.
        each = sum(recorded[task] / kept[task] for task in tasks)
        number = min(most, math.ceil((frames - there) / each))
        more |= dict.fromkeys(tasks, number) if number > 0 else {}
    return more


def in_turn(counts: Mapping[str, int]) -> list[str]:
    """Each name as often as is said: first each one once, and at any place about the same share of each."""
    order = {name: place for place, name in enumerate(counts)}
    placed = [(number / count, name) for name, count in counts.items() for number in range(count)]
    return [name for _, name in sorted(placed, key=lambda one: (one[0], order[one[1]]))]


def windows(bodies: Mapping[str, BodyRecipe], effort: Mapping[str, float]) -> dict[str, BodyRecipe]:
    """How bodies take part in a round's learning: more windows for those whose tasks need more, as many in all. Their
    loss counts with the root of it, as the noise of its gradient falls.

    Args:
        bodies: as a recipe says.
        effort: of each task; bodies without any keep the mean.
    """
    own: dict[str, list[float]] = {}
    for task, value in effort.items():
        own.setdefault(body_of(task), []).append(value)
    means = {body: sum(own[body]) / len(own[body]) if body in own else 1.0 for body in bodies}
    factor = _bounded(means, {body: how.batch for body, how in bodies.items()}, MOST_WINDOWS)
    return {
        body: dataclasses.replace(
            how,
            batch=max(min(how.batch, FEWEST_WINDOWS), round(how.batch * factor[body])),
            weight=how.weight * math.sqrt(factor[body]),
        )
        for body, how in bodies.items()
    }


def _bounded(values: Mapping[str, float], counts: Mapping[str, float], most: float) -> dict[str, float]:
    """Factors in proportion to positive values, but for those that would be above ``most`` or below ``1 / most``; their
    mean over counts is 1."""
    low, high = 0.0, most / min(values.values())
    found = dict.fromkeys(values, 1.0)
    for _ in range(60):
        scale = (low + high) / 2
        found = {name: min(most, max(1 / most, scale * value)) for name, value in values.items()}
        if sum(factor * counts[name] for name, factor in found.items()) < sum(counts[name] for name in found):
            low = scale
        else:
            high = scale
    return found


def learning_seconds(left: float, whole: float, expected: float) -> float:
    """How long to learn in a round.

    Args:
        left: of the round, in seconds, what comes with learning (opening data, say) taken away.
        whole: of the round.
        expected: seconds that playing lasted the last time, for as many attempts as are to come.
    """
    return max(0.0, left - min(PLAYING * whole, CAREFUL * expected))


def mean_rate(evidence: Iterable[Evidence]) -> float:
    """The mean over tasks of successes among attempts, 0 where there were none."""
    rates = [known.successes / known.trials for known in evidence if known.trials]
    return sum(rates) / len(rates) if rates else 0.0

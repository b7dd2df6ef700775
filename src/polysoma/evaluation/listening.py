"""Listening: whether the instruction makes a difference.

The episodes of an evaluation are played again with other instructions: what another task says, words that mean nothing,
nothing at all. What is asked for stays the same, so a driver that listens fails where the words matter; one that only
looks succeeds as before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from polysoma.errors import PolysomaError
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.jobs import Job, Outcome
from polysoma.rollout.rollout import Workers, rollout_in_workers
from polysoma.task import body_of

Telling = Literal["right", "swapped", "nonsense", "none"]
"""What is said: the task's own words, those of another task, words that mean nothing, no word."""
_T = TypeVar("_T")

_NONSENSE = ("blorf", "quandle", "zimp", "tarvok", "snee", "plurgo", "wixa", "drumf")
"""English and other languages know none of them."""


@dataclass(frozen=True)
class Listening:
    """The same episodes of one family with different instructions.

    Attributes:
        tasks: of each episode.
        seeds: of each episode.
        outcomes: whether each succeeded, by what was said.
    """

    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    outcomes: Mapping[Telling, tuple[bool, ...]]

    def successes(self, telling: Telling) -> int:
        """How many of the episodes succeeded."""
        return sum(self.outcomes[telling])

    def interval(self, telling: Telling) -> tuple[float, float]:
        """Of the rate of success (Wilson, 95 %)."""
        return wilson(self.successes(telling), len(self.seeds))

    def lost(self, telling: Telling) -> tuple[float, float, float]:
        """What the right words add to success, in pairs, with a 95 % interval: ``(difference, low, high)``."""
        return paired_difference(self.outcomes["right"], self.outcomes[telling])

    def to_json(self) -> dict[str, Any]:
        """Trials, and for each telling successes, rate, interval, and what the right words add to it."""
        found: dict[str, Any] = {"trials": len(self.seeds), "tasks": list(self.tasks), "seeds": list(self.seeds)}
        for telling, outcomes in self.outcomes.items():
            found[telling] = {
                "successes": sum(outcomes),
                "rate": round(sum(outcomes) / len(outcomes), 4),
                "interval": [round(limit, 4) for limit in self.interval(telling)],
                "right_minus": [round(number, 4) for number in self.lost(telling)],
                "outcomes": [int(outcome) for outcome in outcomes],
            }
        return found


def listen(
    right: Mapping[tuple[str, int], Outcome],
    behaviour: Behaviour,
    workers: Workers,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Listening]:
    """Plays episodes again with other instructions.

    Args:
        right: what came of them with the right words, by task and seed.
        behaviour: what happened in them.
        workers: where they are played.
        progress: called with episodes done and in all.

    Returns:
        By family; without those whose episodes all had the same instruction.

    Raises:
        PolysomaError: every family's episodes all had the same instruction.
    """
    others = swapped(right)
    if not others:
        raise PolysomaError(
            "listening: all episodes of each body have the same instruction, so these cannot matter; choose tasks that "
            "differ by their instruction"
        )
    told: dict[Telling, dict[tuple[str, int], str]] = {
        "swapped": others,
        "nonsense": {which: nonsense(right[which].instruction) for which in others},
        "none": dict.fromkeys(others, ""),
    }
    outcomes: dict[Telling, dict[tuple[str, int], bool]] = {telling: {} for telling in get_args(Telling)}
    outcomes["right"] = {which: right[which].success for which in others}
    done, total = 0, len(told) * len(others)
    for telling, words in told.items():
        jobs = [Job(task, seed, instruction=text) for (task, seed), text in words.items()]
        for outcome in rollout_in_workers(jobs, behaviour, workers):
            outcomes[telling][outcome.task, outcome.seed] = outcome.success
            done += 1
            if progress is not None:
                progress(done, total)
    found = {}
    for family in dict.fromkeys(body_of(task) for task, _ in others):
        own = [which for which in others if body_of(which[0]) == family]
        found[family] = Listening(
            tuple(task for task, _ in own),
            tuple(seed for _, seed in own),
            {telling: tuple(outcomes[telling][which] for which in own) for telling in get_args(Telling)},
        )
    return found


def swapped(right: Mapping[tuple[str, int], Outcome]) -> dict[tuple[str, int], str]:
    """Other words for each episode, by task and seed: those of the next task of its family that says something else in
    the episode of the same seed, or else of the next episode of its own task that does. Without families whose episodes
    all have the same instruction."""
    found = {}
    for task, seed in right:
        # Other words for the same are no other instruction.
        own = right[task, seed].asked
        tasks = _after(task, [other for other, at in right if at == seed and body_of(other) == body_of(task)])
        seeds = _after(seed, [at for other, at in right if other == task])
        candidates = itertools.chain(((other, seed) for other in tasks), ((task, at) for at in seeds))
        other = next((right[which] for which in candidates if right[which].asked != own), None)
        if other is not None:
            found[task, seed] = other.instruction
    return found


def nonsense(instruction: str) -> str:
    """As many words that mean nothing, always the same for the same number."""
    return " ".join(itertools.islice(itertools.cycle(_NONSENSE), len(instruction.split())))


COLUMNS = ("instruction", "successes", "rate", "interval", "right - this")
"""Of tables of :func:`table_rows`."""


def table_rows(listening: Mapping[str, Listening]) -> list[tuple[str, ...]]:
    """The cells of a table: a row for each family and telling."""
    found: list[tuple[str, ...]] = []
    for family, one in listening.items():
        for telling, outcomes in one.outcomes.items():
            low, high = one.interval(telling)
            added = "" if telling == "right" else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*one.lost(telling))
            share = f"{sum(outcomes)}/{len(outcomes)}", f"{sum(outcomes) / len(outcomes):.2f}"
            found.append((f"{family}, {telling}", *share, f"{low:.2f}-{high:.2f}", added))
    return found


def _after(one: _T, every: Sequence[_T]) -> list[_T]:
    """The others in their order, from the one after it on and round."""
    place = every.index(one)
    return [*every[place + 1 :], *every[:place]]

"""Jobs: which episodes are played, and what came of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from polysoma.acting.limiter import LimitCounts
from polysoma.acting.planner import Interventions, Plan
from polysoma.acting.zones import ZoneCounts
from polysoma.data.episode import Episode
from polysoma.embodiment import Embodiment
from polysoma.task import body_of

VIDEO_FPS = 12


@dataclass(frozen=True)
class Job:
    """One episode to play.

    Attributes:
        task: its name.
        seed: of the reset.
        video: the side of its video in pixels; 0 for none.
        kept: whether its outcome holds what was sensed and done.
        limit: cut after so many steps; None leaves it to the task and to the behaviour.
        instruction: what is said instead of the task's own words; None for these.
        last: whether nobody plays this task afterwards, so that its environment, which may be large, is closed.
    """

    task: str
    seed: int
    video: int = 0
    kept: bool = False
    limit: int | None = None
    instruction: str | None = None
    last: bool = False


@dataclass
class Outcome:
    """What came of a job.

    Attributes:
        task, seed: those of the job.
        success: whether the task was solved.
        steps: that were executed.
        instruction: what to do, in words, at the end of the episode.
        total: the sum of its rewards.
        error: why the episode ended early: the expert gave up, or a guard stopped the body; empty otherwise.
        episode: what was sensed and done; None where nobody asked for it.
        frames: of its video, uint8 ``(side, side, 3)``.
        interventions: of guards.
        limits: what limits did; None where the body has none.
        zones: how often it was where it is not to be; None where nobody watched.
        judged: plans that a guard judged, by the steps in which they came; of a job that is kept.
        asked: what to do, in the task's own words, whatever was said.
    """

    task: str
    seed: int
    success: bool
    steps: int
    instruction: str
    total: float = 0.0
    error: str = ""
    episode: Episode | None = None
    frames: list[np.ndarray] = field(default_factory=list)
    interventions: Interventions = field(default_factory=Interventions)
    limits: LimitCounts | None = None
    zones: ZoneCounts | None = None
    judged: dict[int, Plan] = field(default_factory=dict)
    asked: str = ""


def video_stride(body: Embodiment) -> int:
    """Steps from one frame of an episode's video to the next; what the last step led to is filmed as well."""
    return max(1, round(body.rate_hz / VIDEO_FPS))


def interleave(tasks: Iterable[str], seeds: Sequence[int], video: int = 0, kept: bool = False) -> list[Job]:
    """Jobs for all tasks and seeds, task by task in turn, so that few environments of one task run at a time.

    With ``video``, the first seed of every task is filmed at that many pixels a side; ``kept`` is for it alone, too.
    """
    names = list(tasks)
    order = [(seed, task) for seed in seeds for task in names]
    return [
        Job(task, seed, video * (seed == seeds[0]), kept and seed == seeds[0], last=seed == seeds[-1])
        for seed, task in order
    ]


def in_groups(jobs: Sequence[Job], size: Callable[[str], int]) -> list[list[Job]]:
    """Jobs in groups of one body whose order keeps about that of the jobs: whenever one stops on
    the way, each body has had about the same share of its own; the first group of each comes first.

    Args:
        jobs: in the order in which they should come.
        size: the most jobs of a group, by the name of its body.
    """
    own: dict[str, list[Job]] = {}
    for job in jobs:
        own.setdefault(body_of(job.task), []).append(job)
    placed = []
    for body, mine in own.items():
        parts = [mine[start : start + size(body)] for start in range(0, len(mine), size(body))]
        placed += [(number / len(parts), body, part) for number, part in enumerate(parts)]
    return [part for _, _, part in sorted(placed, key=lambda one: one[:2])]

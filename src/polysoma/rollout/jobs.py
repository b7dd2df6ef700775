"""Jobs: which episodes are played, and what came of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from polysoma.acting.limits import LimitCounts
from polysoma.acting.planner import Interventions
from polysoma.data.episode import Episode
from polysoma.embodiment import Embodiment

VIDEO_FPS = 12


@dataclass(frozen=True)
class Job:
    """One episode to play.

    Attributes:
        task: its name.
        seed: of the reset.
        video: the side of its video in pixels; 0 for none.
        kept: whether its outcome holds what was sensed and done.
    """

    task: str
    seed: int
    video: int = 0
    kept: bool = False


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


def video_stride(body: Embodiment) -> int:
    """Steps from one frame of an episode's video to the next; what the last step led to is filmed as well."""
    return max(1, round(body.rate_hz / VIDEO_FPS))


def interleave(tasks: Iterable[str], seeds: Sequence[int], video: int = 0, kept: bool = False) -> list[Job]:
    """Jobs for all tasks and seeds, task by task in turn, so that few environments of one task run at a time.

    With ``video``, the first seed of every task is filmed at that many pixels a side; ``kept`` is for it alone, too.
    """
    names = list(tasks)
    return [Job(task, seed, video, kept) if seed == seeds[0] else Job(task, seed) for seed in seeds for task in names]

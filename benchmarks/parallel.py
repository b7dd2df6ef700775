"""Runs of a benchmark side by side, one process of one thread each."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any

from polysoma.rollout.workers import end_with_parent


def side_by_side(work: Callable[[Any], Any], jobs: Sequence[Any], processes: int = 2) -> list[Any]:
    """``[work(job) for job in jobs]``, a fresh process for each job, ``processes`` at a time."""
    # torch reads it when it is imported, in the processes that are started.
    os.environ["OMP_NUM_THREADS"] = "1"
    with multiprocessing.get_context("spawn").Pool(processes, end_with_parent, maxtasksperchild=1) as pool:
        return pool.map(work, jobs, chunksize=1)

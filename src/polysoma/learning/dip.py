"""Dip: how far a policy falls when it goes on learning where it acts, and for how long.

What was learnt from logs is worse at first in the world, until values that were wrong about it are put right: from
offline to online, how deep and how long this drop is counts as much as what is reached in the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class Dip:
    """The drop of a curve of scores.

    Attributes:
        before: the score before learning went on.
        depth: how far the lowest score is below it, 0 or more.
        share: the same in parts of ``before`` above the floor; 0 where that is not above the floor.
        length: for how many steps scores were below it, up to the first time they were back.
        recovered: whether they came back.
        final: the mean of the last two scores.
    """

    before: float
    depth: float
    share: float
    length: float
    recovered: bool
    final: float


def dip_of(steps: Sequence[float], scores: Sequence[float], floor: float = 0.0) -> Dip:
    """The dip of a curve.

    Args:
        steps: of the environments, increasing; the first is where learning goes on.
        scores: at these steps, straight lines between them.
        floor: what random actions score.

    Raises:
        PolysomaError: fewer than two scores, other steps than scores, or steps that do not increase.
    """
    at, values = np.asarray(steps, np.float64), np.asarray(scores, np.float64)
    if at.shape != values.shape or len(at) < 2 or (np.diff(at) <= 0).any():
        raise PolysomaError(f"expected two or more scores at increasing steps, got {len(values)} at {list(steps)}")
    before = float(values[0])
    depth = max(0.0, before - float(values.min()))
    share = depth / (before - floor) if before > floor else 0.0
    length, recovered = 0.0, True
    below = np.flatnonzero(values < before)
    if len(below):
        first = int(below[0])
        back = np.flatnonzero(values[first:] >= before)
        recovered = bool(len(back))
        end = _crossed(at, values, before, first + int(back[0])) if recovered else float(at[-1])
        length = end - _crossed(at, values, before, first)
    return Dip(before, depth, share, length, recovered, float(values[-2:].mean()))


def _crossed(at: np.ndarray, values: np.ndarray, level: float, after: int) -> float:
    """Where the straight line that leads to score ``after`` comes to a level between it and the score before."""
    part = (level - values[after - 1]) / (values[after] - values[after - 1])
    return float(at[after - 1] + part * (at[after] - at[after - 1]))

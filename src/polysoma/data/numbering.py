"""The numbers that people know episodes by: those of the files, where they tell episodes apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polysoma.text import some

MOST = 10**18
"""Numbers are below it."""
UNNUMBERED = "the numbers that the files have for episodes do not tell them apart: they are counted from 0 on"
"""What people are told where :func:`numbers_of` gives none."""


def numbers_of(found: Sequence[int]) -> np.ndarray | None:
    """The numbers that files have for their episodes, int64 ``(E,)``; None where two are the same, one is negative, or
    one has more than 18 digits."""
    if len(set(found)) < len(found) or not all(0 <= number < MOST for number in found):
        return None
    return np.array(found, np.int64)


def listed(numbers: Sequence[int], most: int | None = None) -> str:
    """Ascending numbers, for people: ``0, 3 to 7``. ``most``: how many such runs are named, None for all."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return some((str(a) if a == b else f"{a} to {b}" for a, b in runs), len(runs) if most is None else most)

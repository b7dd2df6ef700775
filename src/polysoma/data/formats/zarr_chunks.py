"""Chunks of zarr arrays that lie in no file: zarr reads them as if they had been written."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_LOOKED_AT = 2**26
"""Bytes of an array that are looked at for rows that were written and hold what a missing chunk reads as."""


@dataclass(frozen=True)
class Gap:
    """Frames ``start`` to ``stop`` (not included) of an array, part of which lies in no file.

    Attributes:
        file: the first one that is not there.
        lost: whether it was written once: nothing else in the array is what the missing chunk reads as, so it did not
            go unwritten because it was all that.
    """

    start: int
    stop: int
    file: str
    lost: bool


def gaps(array: Any, folder: Path, needed: bool) -> list[Gap]:
    """Where an array has no files.

    Args:
        array: of zarr.
        folder: where its files are.
        needed: whether an array of which nothing was ever written is lost, rather than all zeros.
    """
    size = array.shards or array.chunks
    counts = [math.ceil(length / step) for length, step in zip(array.shape, size, strict=True)]
    held = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    absent: dict[int, str] = {}
    for place in itertools.product(*map(range, counts)):
        if (key := array.metadata.encode_chunk_key(place)) not in held:
            absent.setdefault(place[0], key)
    if not absent:
        return []
    if len(absent) == counts[0]:
        lost = needed
    else:
        present = [number for number in range(counts[0]) if number not in absent]
        lost = array.fill_value is None or not _holds_fill(array, size[0], present)
    return [Gap(n * size[0], min((n + 1) * size[0], array.shape[0]), key, lost) for n, key in absent.items()]


def _holds_fill(array: Any, step: int, present: list[int]) -> bool:
    """Whether a row that was written holds nothing but the number that missing chunks read as."""
    row_bytes = max(1, array.dtype.itemsize * math.prod(array.shape[1:]))
    most = max(1, _LOOKED_AT // (row_bytes * step))
    for number in present[:: math.ceil(len(present) / most)]:
        rows = np.asarray(array[number * step : (number + 1) * step])
        if (rows.reshape(len(rows), -1) == array.fill_value).all(1).any():
            return True
    return False

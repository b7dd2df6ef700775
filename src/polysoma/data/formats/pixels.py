"""Pictures as arrays of other numbers than bytes: which number is white, and bytes from them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_BYTE, _SHORT = 255, 65535
_TWELVE_BITS = 4095
_BEYOND = 2.0
"""Fractions up to here may be of 0 to 1, some a little too bright, or nearly black ones of 0 to 255."""


def white_of(dtype: np.dtype, pieces: Iterable[np.ndarray]) -> int:
    """Which number is white: 1, 255 or 65535.

    Args:
        dtype: of the pictures.
        pieces: the pictures, a few at a time; no more of them are asked for than it takes.

    Raises:
        ValueError: it cannot be told.
    """
    highest, unclear = 0.0, False
    for piece in pieces if dtype != np.uint8 else ():
        values = piece[np.isfinite(piece)] if dtype.kind == "f" else piece
        highest = max(highest, float(values.max(initial=0)))
        fractions = dtype.kind == "f" and bool((values % 1).any())
        if highest <= 1 and fractions:
            return 1
        unclear = highest <= _BEYOND and (unclear or fractions)
        # Of shorts, dark pictures may have the numbers of bytes.
        if highest > (_TWELVE_BITS if dtype == np.uint16 else 1) and not unclear:
            break
    if dtype.kind == "f" and 0 < highest <= 1:
        return 1  # Masks: all pixels of all pictures are 0 or 1.
    if highest <= _BYTE and not unclear:
        return _BYTE
    if dtype == np.uint16 and highest > _TWELVE_BITS:
        return _SHORT
    raise ValueError(f"pictures of {dtype} with values up to {highest:g}: which number is white cannot be told")


def to_bytes(values: np.ndarray, white: int) -> np.ndarray:
    """Pictures as uint8, of numbers from 0 to ``white``. Raises ValueError when there are others."""
    if values.dtype == np.uint8:
        return values
    if not np.isfinite(values).all() or values.min(initial=0) < 0 or values.max(initial=0) > white:
        raise ValueError(f"expected pixels of 0 to {white}, got {values.min()} to {values.max()}")
    if white == _BYTE:
        return values.round().astype(np.uint8)
    return (values.astype(np.float64) * (_BYTE / white)).round().astype(np.uint8)

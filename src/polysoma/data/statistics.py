"""Statistics of channels: what normalises them, accumulated in float64 over data that may exceed memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polysoma.errors import PolysomaError

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}

_SAMPLE_ROWS = 1_000_000
_SAMPLE_VALUES = 2**25
_CHUNK_VALUES = 2**20
_CONSTANT = 1e-6


class Accumulator:
    """Minimum, maximum, mean, standard deviation and quantiles of ``(rows, channels)`` that come in pieces.

    Moments are exact in float64. Quantiles are exact up to a million rows (fewer when there are more than 33
    channels) and come from evenly spaced rows beyond that.
    """

    def __init__(self, rows: int, channels: int) -> None:
        self.count = 0
        self._stride = max(1, math.ceil(rows / max(1, min(_SAMPLE_ROWS, _SAMPLE_VALUES // max(1, channels)))))
        self._mean = np.zeros(channels)
        self._squares = np.zeros(channels)
        self._low = np.full(channels, np.inf)
        self._high = np.full(channels, -np.inf)
        self._sample: list[np.ndarray] = []

    def add(self, rows: np.ndarray) -> None:
        """Adds rows ``(n, channels)`` of any real dtype."""
        step = max(1, _CHUNK_VALUES // max(1, rows.shape[1]))
        for begin in range(0, len(rows), step):
            self._add(rows[begin : begin + step])

    def _add(self, rows: np.ndarray) -> None:
        # Pieces are merged by their means, because a plain sum of squares loses the spread of far-off channels.
        self._sample.append(np.array(rows[-self.count % self._stride :: self._stride]))
        values = rows.astype(np.float64)
        count, mean = len(values), values.mean(axis=0)
        total, shift = self.count + count, mean - self._mean
        self._squares += ((values - mean) ** 2).sum(axis=0) + shift**2 * (self.count * count / total)
        self._mean += shift * (count / total)
        self._low = np.minimum(self._low, values.min(axis=0))
        self._high = np.maximum(self._high, values.max(axis=0))
        self.count = total

    def result(self) -> dict[str, np.ndarray]:
        """``min, max, mean, std, q01, q10, q50, q90, q99``, each float64 ``(channels,)``.

        Raises:
            PolysomaError: nothing was added.
        """
        if self.count == 0:
            raise PolysomaError("there are no statistics of nothing: expected at least one row, got none")
        sample = np.concatenate(self._sample)
        levels = list(QUANTILES.values())
        columns = [np.quantile(sample[:, i].astype(np.float64), levels) for i in range(sample.shape[1])]
        quantiles = np.array(columns).reshape(-1, len(levels)).T
        return {
            "min": self._low,
            "max": self._high,
            "mean": self._mean,
            "std": np.sqrt(self._squares / self.count),
            **dict(zip(QUANTILES, quantiles, strict=True)),
        }


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of C channels, in the channels' units, each float32 ``(C,)``.

    Attributes:
        mean, std: over all rows (std is the population's).
        low, high: minimum and maximum.
        q01, q99: quantiles; beyond a million rows they come from evenly spaced rows.
        count: the number of rows.
    """

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray
    q01: np.ndarray
    q99: np.ndarray
    count: int

    @staticmethod
    def of(array: np.ndarray) -> Statistics:
        """The statistics of an array ``(N, C)``, which may be memory-mapped.

        Raises:
            PolysomaError: the array is not two-dimensional or has no rows.
        """
        if array.ndim != 2:
            raise PolysomaError(f"statistics: expected an array of shape (rows, channels), got shape {array.shape}")
        accumulator = Accumulator(*array.shape)
        accumulator.add(array)
        values = {name: value.astype(np.float32) for name, value in accumulator.result().items()}
        return Statistics(
            values["mean"], values["std"], values["min"], values["max"], values["q01"], values["q99"], len(array)
        )

    @property
    def constant(self) -> np.ndarray:
        """Which channels hardly ever change, bool ``(C,)``."""
        return self.std < _CONSTANT * np.maximum(1, np.abs(self.mean))

    @property
    def scale(self) -> np.ndarray:
        """What to divide by, float32 ``(C,)``: std, or 1 for constant channels, which so normalise to 0."""
        return np.where(self.constant, np.float32(1), self.std).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: array.tolist() for name, array in self.arrays().items()} | {"count": self.count}

    def arrays(self) -> dict[str, np.ndarray]:
        """All but the count, by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @staticmethod
    def from_rows(rows: Sequence[Sequence[float]]) -> Statistics:
        """Of channels for which there are no data: for each its mean, std, low, high, q01 and q99. The count is 0."""
        return Statistics(**dict(zip(_ARRAYS, np.array(rows, np.float32).T, strict=True)), count=0)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Statistics:
        """The inverse of :meth:`to_json`.

        Raises:
            PolysomaError: a statistic is missing, of another type or not finite, or the statistics have different
                numbers of channels.
        """
        # It brings pydantic along, which takes time to import and is not always needed.
        from polysoma.config import decode

        known = decode(_Stored, data, "statistics")
        with np.errstate(over="ignore"):
            arrays = {name: np.array(getattr(known, name), np.float32) for name in _ARRAYS}
        if len({len(array) for array in arrays.values()}) != 1:
            sizes = {name: len(array) for name, array in arrays.items()}
            raise PolysomaError(f"statistics: expected the same number of channels in each, got {sizes}")
        bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if bad:
            raise PolysomaError(f"statistics: expected finite numbers, not so in {bad}")
        ordered = (arrays["low"] <= arrays["high"]).all() and (arrays["q01"] <= arrays["q99"]).all()
        if not ordered or (arrays["std"] < 0).any() or not 0 <= known.count < 2**53:
            raise PolysomaError("statistics: expected low <= high, q01 <= q99, and std and count of at least 0")
        return Statistics(**arrays, count=known.count)


@dataclass(frozen=True)
class _Stored:
    """Statistics in JSON."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    q01: tuple[float, ...]
    q99: tuple[float, ...]
    count: int


_ARRAYS = ("mean", "std", "low", "high", "q01", "q99")

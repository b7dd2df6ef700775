"""Numbers that are not finite, never change, lie far from all others, or are cut off at a limit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from polysoma.data import remedies
from polysoma.data.checks.words import listed
from polysoma.data.formats.reader import ACTION, OBSERVATION, Column, Problem, Reader
from polysoma.data.schema import schema_of
from polysoma.embodiment import ContinuousActions
from polysoma.errors import PolysomaError
from polysoma.text import some

_STILL = 1e-6
"""Part of a channel's magnitude that its spread must exceed to count as movement."""
_CUT, _DISTINCT = 0.05, 20
"""The share of frames exactly at an end of the range from which on a channel counts as cut off; and the number of
different values that tells a continuous channel from a switch."""
_FAR = 12
"""Standard deviations beyond which a value is an outlier."""


@dataclass
class NumberSummary:
    """What one pass gathers of a column of numbers, channel by channel."""

    names: tuple[str, ...]
    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sample: list[np.ndarray] = field(default_factory=list)
    moving: list[np.ndarray] = field(default_factory=list)
    broken: dict[int, int] = field(default_factory=dict)

    def add(self, number: int, rows: np.ndarray) -> None:
        """Takes the episode of this number, float64 ``(T, channels)``."""
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            self.broken[number] = int((~finite).sum())
        rows = rows[finite]
        if not len(rows):
            return
        if not self.count:
            size = rows.shape[1]
            self.total, self.squares = np.zeros(size), np.zeros(size)
            self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self.count += len(rows)
        self.total += rows.sum(0)
        self.squares += (rows**2).sum(0)
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        # Enough to see what lies at the ends of a range, whatever the size of the data set.
        sparse = slice(None, None, 1 + len(rows) // 200)
        self.sample.append(rows[sparse])
        self.moving.append(_moving(rows)[sparse])

    @property
    def mean(self) -> np.ndarray:
        return self.total / max(self.count, 1)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.squares / max(self.count, 1) - self.mean**2, 0))


def _moving(rows: np.ndarray) -> np.ndarray:
    """Which rows of an episode are not those of a body that waits at its beginning or rests at its goal: bool."""
    changed = np.flatnonzero((rows[1:] != rows[:-1]).any(1))
    moves = np.zeros(len(rows), bool)
    if len(changed):
        moves[changed[0] + 1 : changed[-1] + 1] = True
    if rows.shape[1] > 1:
        # Of a single number it cannot be told whether it rests or is cut off.
        moves[1:] &= (rows[1:] != rows[:-1]).any(1)
    return moves


def channel_names(name: str, column: Column) -> tuple[str, ...]:
    """What the numbers of a column are called."""
    size = int(np.prod(column.shape))
    return column.names or ((name,) if size == 1 else tuple(f"{name}[{i}]" for i in range(size)))


def of_numbers(reader: Reader, name: str, seen: NumberSummary) -> Iterator[Problem]:
    """What is wrong with a column."""
    if seen.broken:
        frames = sum(seen.broken.values())
        yield Problem(
            "error", name, f"not finite (NaN or infinite) in {frames} frames of {listed(seen.broken)}",
            remedies.skipped(reader),
        )  # fmt: skip
    acts = name == ACTION
    if not seen.count or not (acts or name.startswith(OBSERVATION)):
        return
    still = seen.std <= _STILL * np.maximum(1, np.abs(seen.mean))
    if still.any():
        yield Problem(
            "warning" if acts or still.all() else "note", name,
            f"never changes: {_named(seen.names, still)}",
            "see whether the recorder wrote it: a policy learns to do this value"
            if acts
            else f"nothing, if it was meant so; to leave it out: {remedies.described(reader)}, where you delete it"
            if still.all()
            else "nothing, if it was meant so: nothing is learnt from it",
        )  # fmt: skip
    sample, reach = np.concatenate(seen.sample), _FAR * np.where(still, 1, seen.std)
    far = ~still & (np.maximum(seen.high - seen.mean, seen.mean - seen.low) > reach)
    # Channels that mostly rest at one value are switches: a thing in view, a button pressed.
    far &= (sample == np.median(sample, 0)).mean(0) < 0.5
    if far.any() and seen.count > 20 * _FAR**2:
        yield Problem(
            "warning", name, f"values more than {_FAR} standard deviations away: {_named(seen.names, far)}",
            "sensors that fail for a moment spoil the scale of all others; look at them: "
            f"`polysoma data view {remedies.called(reader)}`",
        )  # fmt: skip
    moving = sample[np.concatenate(seen.moving)]
    if acts and len(moving):
        for end, which in ((seen.low, "lowest"), (seen.high, "highest")):
            share = (moving == end).mean(0)
            distinct = np.array([len(np.unique(column)) for column in sample.T])
            cut = (share > _CUT) & (distinct > _DISTINCT) & ~still
            if not cut.any():
                continue
            own = _own_limits(reader)[which == "highest"]
            # A description may take the actions from another column.
            meant = own.shape in ((), end.shape) and bool(np.isclose(end, own)[cut].all())
            yield Problem(
                "note" if meant else "warning", name,
                f"cut off at the {which} value, in up to {100 * share[cut].max():.0f} % of frames: "
                f"{_named(seen.names, cut)}",
                "nothing: it is the body's own limit" if meant
                else "see whether the recorder clips what the robot is told: a policy learns to push at that limit",
            )  # fmt: skip


def _own_limits(reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest of each number of an action, where these are known; NaN where they are not."""
    with contextlib.suppress(PolysomaError):
        actions = schema_of(reader).embodiment.actions
        if isinstance(actions, ContinuousActions):
            return actions.low, actions.high
    return np.array(np.nan), np.array(np.nan)


def _named(names: tuple[str, ...], which: np.ndarray) -> str:
    return some(name for name, yes in zip(names, which, strict=True) if yes)

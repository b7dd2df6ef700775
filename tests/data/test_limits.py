"""Limits of actions that nobody wrote down: what was recorded, all of it, lies within them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from polysoma.data.formats.reader import Column, Reader
from polysoma.data.schema import infer
from polysoma.embodiment import ContinuousActions


class Recorded(Reader):
    """Episodes of two frames: of one channel, and one that is always 0.3."""

    format = "test"
    fps = 10.0

    def __init__(self, values: np.ndarray) -> None:
        self.path, self._values = Path("data/test"), values.reshape(-1, 2)
        two = Column((2,), np.dtype(np.float32), ("x", "still"))
        self.columns = {"action": two, "observation.state": two}
        self.lengths = np.full(len(self._values), 2)
        self.instructions = ["go"] * len(self._values)

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        rows = np.stack([self._values[episode], np.full(2, 0.3)], 1).astype(np.float32)[start:stop]
        return dict.fromkeys(columns or self.columns, rows)


@pytest.mark.parametrize(
    ("low", "span"),
    [(1000.6, 0.8), (123456.0, 30.0), (20013.0, 8.0), (-0.4, 0.8), (-1000.6, 0.2), (0, 1e-7), (-5e8, 2e6), (7, 0),
     (0, 0)],
)  # fmt: skip
def test_limits_hold_everything_that_was_recorded(low: float, span: float) -> None:
    values = np.linspace(low, low + span, 40).astype(np.float32)
    actions = infer(Recorded(values)).embodiment.actions
    assert isinstance(actions, ContinuousActions)
    for value in values:
        recorded = np.array([value, 0.3], np.float32)
        np.testing.assert_array_equal(actions.check("here", recorded), recorded)
    # They still say something.
    channel, reach = actions.channels[0], max(abs(low), abs(low + span))
    assert channel.high - channel.low <= 1.6 * span + 2e-3 * reach


def test_all_episodes_are_looked_at() -> None:
    values = np.zeros(2 * 1000)
    values[1234] = 5
    actions = infer(Recorded(values)).embodiment.actions
    assert isinstance(actions, ContinuousActions)
    assert actions.high[0] >= 5

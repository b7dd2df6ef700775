"""Logs and what is added to them, as one replay."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from make_puck import PUCK, walk, walks
from polysoma.data.dataset import Dataset
from polysoma.data.growing import Growing
from polysoma.data.replay import Replay
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError


def piece(number: int, steps: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    states = np.full((steps + 1, 4), number, np.float32) + np.arange(steps + 1, dtype=np.float32)[:, None] / 10
    return states, np.full((steps, 2), number, np.float32), np.full(steps, number, np.float32)


def test_logs_stay_as_they_were_and_pieces_join_them(tmp_path: Path) -> None:
    logs = walks(tmp_path, 5)
    plain, growing = Replay([logs], 2), Growing([logs], 12, 2)
    rows = plain.starts
    for name, value in vars(plain.steps(rows)).items():
        np.testing.assert_array_equal(value, getattr(growing.steps(rows), name))
    rng = np.random.default_rng(0)
    assert growing.choose(50, rng).max() < len(plain.states) and len(growing.known()) == len(plain.states)
    growing.add(*piece(7), over=True)
    growing.add(*piece(8), over=False)
    steps = growing.steps(growing.added, 0.81)
    assert len(growing.added) == 8
    np.testing.assert_allclose(growing.states[steps.next_rows][:, 0], [7.2, 7.3, 7.4, 7.4, 8.2, 8.3, 8.4, 8.4])
    # Two frames of 0.9 each; a step of one frame counts as one, and nothing follows the end of the first piece.
    np.testing.assert_allclose(steps.discounts, [0.81, 0.81, 0, 0, 0.81, 0.81, 0.81, 0.9], rtol=1e-6)
    np.testing.assert_allclose(steps.rewards[:4], [7 * 1.9] * 3 + [7], rtol=1e-6)
    chosen = growing.choose(2000, rng)
    assert 0.4 < np.isin(chosen, growing.added).mean() < 0.6
    assert growing.anywhere(1000, rng).max() <= growing.added.max()


def test_new_pieces_replace_the_oldest(tmp_path: Path) -> None:
    growing = Growing([walks(tmp_path, 5)], 12)
    for number in range(7):
        growing.add(*piece(number), over=number == 5)
        held = np.unique(growing.steps(growing.added).actions[:, 0])
        assert held.tolist() == list(range(max(0, number - 1), number + 1))
    with pytest.raises(PolysomaError, match="at most 12 states, got 14"):
        growing.add(*piece(0, 13), over=False)


def test_pieces_of_any_length_are_whole_or_gone(tmp_path: Path) -> None:
    growing, rng = Growing([walks(tmp_path, 5)], 12), np.random.default_rng(0)
    for number in range(200):
        growing.add(*piece(number, int(rng.integers(1, 6))), over=False)
        steps = growing.steps(growing.added)
        assert len(np.unique(growing.added)) == len(growing.added)
        assert (steps.next_rows == growing.added + 1).all()
        for rows in (steps.rows, steps.next_rows):
            np.testing.assert_array_equal(growing.states[rows][:, 0].astype(int), steps.actions[:, 0])


def test_logs_without_rewards_are_not_drawn_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path, PUCK) as writer:
        writer.add(dataclasses.replace(walk(rng, np.zeros(2), 9, 0), rewards=None))
    growing = Growing([Dataset(tmp_path)], 20)
    growing.add(*piece(3), over=False)
    assert not growing.labelled and growing.rewarded
    assert np.isin(growing.choose(100, rng), growing.added).all()


def test_what_was_earned_is_counted_to_the_end(tmp_path: Path) -> None:
    growing = Growing([walks(tmp_path, 5)], 12)
    growing.add(*piece(1), over=True)
    np.testing.assert_allclose(growing.earned(growing.added, 0.5), [1.875, 1.75, 1.5, 1])
    np.testing.assert_allclose(growing.earned(growing.added, 0.0), [1, 1, 1, 1])
    # Of a piece that was cut nobody knows what would have followed.
    growing.add(*piece(2), over=False)
    assert (growing.earned(growing.added[4:], 0.5) == -np.inf).all()

"""Paths of logs: even, as long as asked for, and joined where pieces end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from make_puck import around, walks
from polysoma.data.paths import joined_paths, landmarks
from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError


def drawn(logs: Replay, longest: float = 5.0, turns: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    return joined_paths(logs, [0, 1], 300, 33, longest, np.random.default_rng(0), turns)


def test_paths_are_even_and_of_the_lengths_that_are_told(tmp_path: Path) -> None:
    paths, lengths = drawn(Replay([walks(tmp_path, 100)]), 2.0)
    assert paths.shape == (300, 33, 2) and paths.dtype == lengths.dtype == np.float32
    assert lengths.max() <= 2.0 and lengths.min() > 0 and 0.8 < lengths.mean() < 1.2
    pieces = np.linalg.norm(np.diff(paths, axis=1), axis=2)
    # A straight piece is no longer than the way that it stands for.
    assert (pieces <= lengths[:, None] / 32 + 1e-5).all()
    assert np.median(pieces.sum(1) / lengths) > 0.9


def test_pieces_of_one_side_make_paths_around_corners(tmp_path: Path) -> None:
    logs = Replay([around(tmp_path)])
    paths, lengths = drawn(logs)
    # No episode is longer than one side of 2, and no way leads across the middle.
    assert lengths.max() > 4.5
    assert np.ptp(paths, axis=1).min(1).max() > 1.5, "around a corner"
    inside = (np.abs(paths - [1, 0.5]) < [0.4, 0.9]).all(2)
    assert not inside.any()


def test_landmarks_cover_all_places() -> None:
    places = np.random.default_rng(0).uniform(0, 1, (500, 2)).astype(np.float32)
    found, spread = landmarks(places, 60, np.random.default_rng(1))
    away = np.linalg.norm(places[:, None] - found, axis=2).min(1)
    assert found.shape == (60, 2) and away.max() <= spread + 1e-6 and spread < 0.2


def test_logs_in_which_nothing_moves_have_no_ways(tmp_path: Path) -> None:
    logs = Replay([walks(tmp_path, 5)])
    logs.states[:] = 0
    with pytest.raises(PolysomaError, match="never changes"):
        drawn(logs)

"""Replay: steps of logs as flat arrays, with goals in hindsight."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from make_puck import PUCK, walk, walks
from polysoma.data.dataset import Dataset
from polysoma.data.replay import Replay
from polysoma.data.transitions import transitions
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError


def test_steps_are_the_transitions_of_the_data(tmp_path: Path) -> None:
    data = walks(tmp_path, 5, 7)
    for stride in (1, 3):
        replay = Replay([data], stride)
        assert len(replay) == 35 and len(replay.states) == 40
        steps, truth = replay.steps(replay.starts, 0.9), transitions(data, np.arange(35), 0.9 ** (1 / stride), stride)
        np.testing.assert_array_equal(replay.states[steps.rows], truth.observations["state"])
        np.testing.assert_array_equal(replay.states[steps.next_rows], truth.next_observations["state"])
        np.testing.assert_array_equal(steps.actions, truth.actions)
        np.testing.assert_allclose(steps.rewards, truth.rewards, rtol=1e-5)
        np.testing.assert_allclose(steps.discounts, truth.discounts, rtol=1e-5)


def test_what_ends_is_worth_nothing_and_what_is_unknown_is_not_learnt(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ended = dataclasses.replace(walk(rng, np.zeros(2), 4, 0), terminated=True, truncated=False, final=None)
    unknown = dataclasses.replace(walk(rng, np.zeros(2), 4, 1), final=None)
    with DatasetWriter(tmp_path, PUCK) as writer:
        writer.add(ended)
        writer.add(unknown)
    replay = Replay([Dataset(tmp_path)])
    steps = replay.steps(replay.starts)
    # The last step of the first counts, with nothing after it; that of the second leads nowhere known.
    assert len(replay) == 7 and steps.discounts[3] == 0 and (np.delete(steps.discounts, 3) == np.float32(0.99)).all()
    # Nor is it known where the last step of the first led to.
    np.testing.assert_array_equal(replay.observed, np.delete(replay.starts, 3))
    # Nor where steps of several frames led to that ended with it.
    np.testing.assert_array_equal(Replay([Dataset(tmp_path)], 2).observed, np.delete(replay.starts, [2, 3]))
    rng = np.random.default_rng(0)
    assert np.isin(replay.choose(200, rng), 3).any() and not np.isin(replay.choose(200, rng, observed=True), 3).any()


def test_goals_lie_ahead_in_the_same_episode(tmp_path: Path) -> None:
    replay = Replay([walks(tmp_path, 6, 9)], 2)
    rng = np.random.default_rng(0)
    for discount in (None, 0.5, 0.99):
        rows = np.repeat(replay.starts, 20)
        goals = replay.future(rows, rng, discount)
        assert (goals > rows).all() and (goals <= replay.last[rows]).all()
    near, far = (np.mean(replay.future(rows, rng, d) - rows) for d in (0.3, 0.99))
    assert near < far


def test_the_best_episodes_are_chosen_whole(tmp_path: Path) -> None:
    data = walks(tmp_path, 20, 5)
    replay = Replay([data])
    best = replay.best(0.25)
    assert len(best) == 25
    returns = np.add.reduceat(data.rewards, data.episode_start)
    kept = np.unique(replay.last[best])
    assert sorted(np.argsort(-returns)[:5]) == sorted(np.searchsorted(np.unique(replay.last), kept))


@pytest.mark.parametrize(("share", "kept"), [(0.2, 2), (0.05, 2), (0.65, 12), (0.55, 2)])
def test_the_best_are_not_filled_up_with_failures(share: float, kept: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path, PUCK) as writer:
        for number in range(12):
            earned = np.zeros(5, np.float32)
            earned[-1] = number < 2  # two of twelve succeed
            writer.add(dataclasses.replace(walk(rng, np.zeros(2), 5, number), rewards=earned))
    best = Replay([Dataset(tmp_path)]).best(share)
    np.testing.assert_array_equal(best, [6 * n + step for n in range(kept) for step in range(5)])


def test_none_is_the_best_where_all_earned_the_same(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, PUCK) as writer:
        for number in range(3):
            lost = walk(np.random.default_rng(number), np.zeros(2), 5, number)
            writer.add(dataclasses.replace(lost, rewards=np.zeros(5, np.float32)))
    with pytest.raises(PolysomaError, match="all episodes have the same return, 0, so none of them are the best"):
        Replay([Dataset(tmp_path)]).best(0.5)


def test_what_cannot_be_replayed_is_said(tmp_path: Path) -> None:
    data = walks(tmp_path / "a", 3, 5)
    with pytest.raises(PolysomaError, match="at least one frame"):
        Replay([data], 0)
    with pytest.raises(PolysomaError, match="at least one data set"):
        Replay([])
    with DatasetWriter(tmp_path / "b", PUCK) as writer:
        writer.add(dataclasses.replace(walk(np.random.default_rng(0), np.zeros(2), 4, 0), rewards=None))
    with pytest.raises(PolysomaError, match=r"the best episodes: expected data with rewards; .*b has none"):
        Replay([Dataset(tmp_path / "b")]).best(0.5)

"""What is kept of episodes that a policy drove."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from conftest import ARM, GRID, SEEN_ARM, make_episode
from polysoma.data.episode import Episode
from polysoma.embodiment import Embodiment
from polysoma.rollout.visits import worthwhile


def failed(body: Embodiment, **streams: np.ndarray) -> Episode:
    length = len(next(iter(streams.values())))
    episode = make_episode(body, length)
    observations = {
        name: streams[name].astype(values.dtype) if name in streams else np.zeros_like(values)
        for name, values in episode.observations.items()
    }
    return dataclasses.replace(episode, success=False, observations=observations)


def standing(moves: int, length: int) -> np.ndarray:
    """An arm's tip that moves by a centimetre a step, and trembles at last."""
    rng = np.random.default_rng(0)
    place = np.minimum(np.arange(length), moves)[:, None] * np.array([0.01, -0.01, 0.0])
    return place + rng.uniform(-1, 1, place.shape) * 1e-4


def test_who_stands_still_is_cut_two_seconds_later() -> None:
    cut = worthwhile(failed(ARM, state=standing(20, 200)))
    assert 20 < len(cut) <= 20 + 2 * ARM.rate_hz, "the arm's rate is 10 a second"
    assert cut.truncated and not cut.terminated and cut.final is not None and cut.rewards is not None
    assert len(cut.executed) == len(cut.rewards) == len(cut)
    np.testing.assert_array_equal(cut.final["state"], standing(20, 200)[len(cut)].astype(np.float32))


def test_who_never_moved_is_cut() -> None:
    assert len(worthwhile(failed(ARM, state=standing(0, 200)))) <= 2 * ARM.rate_hz


def test_who_walks_in_circles_is_cut() -> None:
    heading = np.concatenate([np.zeros(6), np.arange(60) % 4])[:, None]
    view = np.zeros((66, 3, 3, 2))
    view[:6, 0, 0, 0] = [0, 1, 2, 0, 1, 2]
    view[:6, 0, 0, 1] = [0, 0, 0, 1, 1, 1]
    cut = worthwhile(failed(GRID, heading=heading, view=view))
    assert 10 < len(cut) <= 10 + 2 * GRID.rate_hz, "all headings are known after the tenth step"


def test_a_camera_counts_where_nothing_else_is_sensed() -> None:
    body = dataclasses.replace(SEEN_ARM, streams=SEEN_ARM.streams[1:], privileged=())
    front = np.zeros((80, 24, 32, 3))
    for step in range(80):
        front[step, :, : min(step, 16)] = 250
    assert 16 < len(worthwhile(failed(body, front=front))) <= 16 + 2 * body.rate_hz


@pytest.mark.parametrize("success", [False, True])
def test_what_succeeds_or_goes_on_moving_is_whole(success: bool) -> None:
    episode = failed(ARM, state=standing(20 if success else 200, 200))
    episode = dataclasses.replace(episode, success=success)
    assert worthwhile(episode) is episode

"""The control that learns, on episodes whose commands follow from the states."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from conftest import GRID, make_episode
from make_servo import CHUNK, SERVO, copies, servo_episode, source_of
from polysoma.data.mixture import Source
from polysoma.evaluation.open_loop import open_loop
from polysoma.evaluation.perceptron import learn
from polysoma.horizon import Horizon


def driven(root: Path, seeds: range) -> Source:
    """The wrist is commanded .2 beyond the last command where the first joint is above 0, else .2 below it. The elbow
    stays where it was told to be."""
    made = []
    for seed in seeds:
        episode = servo_episode(seed, 40, "open")
        sign = np.where(episode.observations["joints"][:, 0] > 0, 1, -1)
        actions = np.stack([np.cumsum(0.2 * sign), np.full(len(sign), seed % 5)], 1).astype(np.float32)
        made.append(dataclasses.replace(episode, actions=actions, executed=actions))
    return source_of(root, SERVO, made, Horizon(chunk=CHUNK))


def test_commands_that_follow_from_states_are_learnt(tmp_path: Path) -> None:
    learnt, apart = driven(tmp_path / "learnt", range(20)), driven(tmp_path / "apart", range(20, 26))
    found = open_loop(copies, apart, permutations=0, learnt=learnt)
    knows, repeats = found.errors["perceptron"], found.errors["repeat"]
    # The first command follows from what is seen; those after it from joints that come later.
    assert knows.first < 0.4 * repeats.first
    assert 0.4 * repeats.places[2] < knows.places[2] < repeats.places[2]
    assert knows.channels["elbow"] < 0.1


def test_the_same_episodes_give_the_same_perceptron_and_leave_other_draws_alone(tmp_path: Path) -> None:
    source = driven(tmp_path, range(6))
    frames = source.spaced(50)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = learn(source), learn(source)
    assert first is not None and second is not None
    torch.testing.assert_close(torch.rand(3), expected)
    np.testing.assert_array_equal(first.predict(source, frames), second.predict(source, frames))
    # In whatever order frames of several data sets come.
    turned = np.random.default_rng(0).permutation(len(frames))
    np.testing.assert_allclose(first.predict(source, frames[turned]), first.predict(source, frames)[turned], atol=1e-5)


def test_choices_and_single_frames_are_not_learnt(tmp_path: Path) -> None:
    choices = source_of(tmp_path / "choices", GRID, [make_episode(GRID, 6, 0, "grid/one")], Horizon())
    assert learn(choices) is None
    single = source_of(tmp_path / "single", SERVO, [servo_episode(0, 1, "open")], Horizon(chunk=CHUNK))
    assert learn(single) is None

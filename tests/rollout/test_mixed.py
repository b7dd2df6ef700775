"""Logs of mixed quality instead of demonstrations: noisy experts, random goals, fragments."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import ARM, make_episode
from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import PIECE, pieces, record

LOGS = Behaviour(noise=(0.0, 1.0), keep_failures=True, endless=True, fragment=25, max_steps=300)


def test_an_endless_episode_goes_on_to_other_goals(tmp_path: Path) -> None:
    record(["pointmaze/umaze"], 2, tmp_path, dataclasses.replace(LOGS, fragment=0, noise=0.0))
    data = Dataset(tmp_path / "pointmaze")
    assert data.episode_length.tolist() == [300, 300] and data.episode_truncated.all()
    assert data.episode_success.all(), "a goal was reached on the way"
    state, rewards = np.asarray(data.observations["state"]), data.rewards
    assert rewards is not None
    for episode in range(2):
        rows = slice(300 * episode, 300 * (episode + 1))
        changed = np.flatnonzero(np.abs(np.diff(state[rows, 4:], axis=0)).max(1) > 0)
        assert len(changed) and changed.tolist() == np.flatnonzero(rewards[rows])[: len(changed)].tolist()


def test_noise_differs_between_episodes_and_failures_are_kept(tmp_path: Path) -> None:
    behaviour = Behaviour(noise=(0.0, 1.0), keep_failures=True, max_steps=60)
    result = record(["drone/hover"], 4, tmp_path, behaviour)
    assert sum(result.kept.values()) == 4
    data = Dataset(tmp_path / "drone")
    off = np.abs(np.asarray(data.executed) - np.asarray(data.actions)).mean(1)
    means = [off[s : s + n].mean() for s, n in zip(data.episode_start, data.episode_length, strict=True)]
    assert max(means) > 1.3 * min(means)


def test_fragments_hold_all_frames_and_a_killed_recording_goes_on(tmp_path: Path) -> None:
    record(["pointmaze/umaze"], 2, tmp_path / "whole", dataclasses.replace(LOGS, fragment=0))
    record(["pointmaze/umaze"], 1, tmp_path / "cut", LOGS)
    assert record(["pointmaze/umaze"], 2, tmp_path / "cut", LOGS).skipped == 1
    whole, cut = Dataset(tmp_path / "whole/pointmaze"), Dataset(tmp_path / "cut/pointmaze")
    assert cut.episode_length.max() <= 25 and len(cut) == len(whole) and len(cut.episode_seed) == 24
    for seed in (0, 1):
        of_seed = np.flatnonzero(cut.episode_seed % PIECE == seed)
        of_seed = of_seed[np.argsort(cut.episode_seed[of_seed])]
        frames = np.concatenate([cut.episode(int(n)).observations["state"] for n in of_seed])
        episode = whole.episode(int(np.flatnonzero(whole.episode_seed == seed)[0]))
        np.testing.assert_array_equal(frames, episode.observations["state"])


def test_pieces_are_never_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is on the disk when a recording is killed: it is written at every chance here, and killed at each."""
    flush = DatasetWriter._flush_when_due
    moments: list[int] = []

    def at_once(writer: DatasetWriter) -> None:
        writer._flushed = -np.inf
        flush(writer)
        shutil.copytree(writer.root, tmp_path / f"{len(moments)}" / "pointmaze")
        moments.append(len(writer.done))

    with monkeypatch.context() as patch:
        patch.setattr(DatasetWriter, "_flush_when_due", at_once)
        record(["pointmaze/umaze"], 2, tmp_path / "cut", LOGS)
    assert moments == [12, 24]
    record(["pointmaze/umaze"], 2, tmp_path / "0", LOGS)
    data = Dataset(tmp_path / "0/pointmaze")
    assert len(data) == 600 and len(set(data.episode_seed.tolist())) == len(data.episode_seed) == 24


def test_pieces_that_were_left_alone_get_the_others_beside_them(tmp_path: Path) -> None:
    """As versions before could leave them: the last pieces of an episode, without its first."""
    record(["pointmaze/umaze"], 1, tmp_path / "whole", dataclasses.replace(LOGS, fragment=0))
    episode = Dataset(tmp_path / "whole/pointmaze").episode(0)
    with DatasetWriter(tmp_path / "cut/pointmaze", episode.embodiment) as writer:
        for piece in pieces(episode, 25)[-3:]:
            writer.add(piece)
    record(["pointmaze/umaze"], 1, tmp_path / "cut", LOGS)
    assert len(Dataset(tmp_path / "cut/pointmaze")) == 300


def test_pieces_end_where_the_next_one_begins() -> None:
    episode = make_episode(ARM, 10, 3, "arm/one", "do one")
    episode = dataclasses.replace(episode, success=True, terminated=True, truncated=False)
    first, second, last = pieces(episode, 4)
    assert [len(piece) for piece in (first, second, last)] == [4, 4, 2]
    assert first.final is not None
    np.testing.assert_array_equal(first.final["state"], second.observations["state"][0])
    assert [piece.terminated for piece in (first, second, last)] == [False, False, True]
    assert [piece.success for piece in (first, second, last)] == [False, False, True]
    assert pieces(episode, 0) == [episode]


def test_a_range_of_noise_has_two_ends() -> None:
    with pytest.raises(PolysomaError, match="lower end first"):
        Behaviour(noise=(0.5, 0.1))


def test_states_of_other_tasks_are_refused() -> None:
    one, two = simulators.make("drone/hover"), simulators.make("drone/ring")
    one.reset(seed=0)
    two.reset(seed=0)
    with pytest.raises(PolysomaError, match="expected a state of this task"):
        two.set_state(one.get_state())
    assert two.new_goal() is None


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("drone/ring", "success"),
        ("babyai/GoToLocal", "sparse"),
        ("metaworld/reach-v3", "dense"),
        ("hopper/hop", "dense"),
    ],
)
def test_environments_say_what_their_rewards_mean(task: str, kind: str) -> None:
    environment = simulators.make(task)
    environment.reset(seed=0)
    assert environment.reward_kind == kind
    rewards = [environment.step(environment.expert_action())[1] for _ in range(3)]
    assert all(reward != 0 for reward in rewards) == (kind == "dense")
    environment.close()

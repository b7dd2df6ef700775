"""Rewards, ends and last observations: what a format says of them arrives, and what it does not say stays unknown."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from conftest import ARM, GOLDEN, SEEN_ARM, make_episode
from make_arrays import LENGTHS, h5py, numbers, pictures, write_aloha, write_minari, write_robomimic, write_zarr
from make_lerobot import LENGTHS as LEROBOT_LENGTHS
from make_lerobot import add_columns, drop_columns, write_v2, write_v3
from make_recorded import cart_episodes
from make_rlds import LENGTHS as RLDS_LENGTHS
from make_rlds import TRUTH
from make_rlds import write as write_rlds
from polysoma import simulators
from polysoma.cli import main
from polysoma.data import layout
from polysoma.data.convert import convert
from polysoma.data.dataset import Dataset
from polysoma.data.doctor import examine
from polysoma.data.episode import Episode
from polysoma.data.formats import open_reader
from polysoma.data.formats.lerobot import LeRobotReader
from polysoma.data.formats.minari import REWARDS_KNOWN
from polysoma.data.formats.reader import Ending
from polysoma.data.transitions import returns, transitions
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


def same(read: Episode, written: Episode) -> None:
    """Whether all of an episode but its embodiment came back."""
    plain = [field.name for field in dataclasses.fields(Episode) if field.type in ("str", "int", "bool")]
    assert {name: getattr(read, name) for name in plain} == {name: getattr(written, name) for name in plain}
    for name in ("actions", "executed", "rewards"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    for name in ("observations", "final"):
        ours, theirs = getattr(read, name) or {}, getattr(written, name) or {}
        assert ours.keys() == theirs.keys()
        for stream, values in theirs.items():
            np.testing.assert_array_equal(ours[stream], values)


# --- our own format


@pytest.mark.parametrize("version", [1, 2])
def test_golden_data_sets_of_every_format_are_read(version: int, tmp_path: Path) -> None:
    root = shutil.copytree(GOLDEN / f"dataset-{version}", tmp_path / "set")
    assert layout.format_version(root) == version
    data = Dataset(root)
    assert len(data.episode_length) == 2 and data.failures == {"cart/back": [11]}
    for number, written in enumerate(cart_episodes()):
        if version == 1:
            written = dataclasses.replace(written, rewards=None, terminated=False, truncated=False, final=None)
        same(data.episode(number), written)
    assert (data.rewards is None) == (version == 1)
    assert not [problem for problem in examine(root).problems if problem.severity == "error"]
    # What is recorded already is known, so a recording that is complete goes through; nothing is added to format 1.
    with DatasetWriter(root, data.embodiment) as writer:
        assert writer.done == {("cart/there", 4), ("cart/back", 9), ("cart/back", 11)}
        more = dataclasses.replace(cart_episodes()[0], embodiment=data.embodiment, seed=5)
        if version == 1:
            with pytest.raises(PolysomaError, match=r"of format 1, which has no place for rewards.*another folder"):
                writer.add(more)
        else:
            writer.add(more)
    assert layout.format_version(root) == version
    assert Dataset(root).old_horizon == (Horizon(2, 3, True) if version == 1 else None)
    assert len(Dataset(root).episode_length) == version + 1


def test_an_empty_data_set_of_format_1_becomes_one_of_format_2(tmp_path: Path) -> None:
    DatasetWriter(tmp_path, ARM).close()
    path = tmp_path / layout.POLYSOMA
    path.write_text(path.read_text().replace('"format_version": 2', '"format_version": 1'))
    with DatasetWriter(tmp_path, ARM) as writer:
        writer.add(make_episode(ARM, 4))
    assert layout.format_version(tmp_path) == 2 and Dataset(tmp_path).rewards is not None


def test_all_episodes_have_rewards_or_none_has(tmp_path: Path) -> None:
    plain = dataclasses.replace(make_episode(ARM, 4), rewards=None)
    for first, second, told in (
        (make_episode(ARM, 4), plain, "have rewards, this one has none"),
        (plain, make_episode(ARM, 4), "have no rewards, this one has some"),
    ):
        root = tmp_path / told
        with DatasetWriter(root, ARM) as writer:
            writer.add(first)
            with pytest.raises(PolysomaError, match=told):
                writer.add(dataclasses.replace(second, seed=7))
        with DatasetWriter(root, ARM) as writer, pytest.raises(PolysomaError, match=told):
            writer.add(dataclasses.replace(second, seed=7))
        data = Dataset(root)
        assert len(data.episode_length) == 1 and (data.rewards is None) == (first is plain)
        features = json.loads((root / layout.INFO).read_text())["features"]
        assert ("next.reward" in features) == (first is not plain) and "next.done" in features


def test_without_rewards_nothing_is_learnt_from_them(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, ARM) as writer:
        writer.add(dataclasses.replace(make_episode(ARM, 4), rewards=None))
    data = Dataset(tmp_path)
    for ask in (lambda: transitions(data, np.arange(2)), lambda: returns(data)):
        with pytest.raises(PolysomaError, match=r"expected data with rewards; .* has none"):
            ask()


def test_a_kill_between_files_leaves_no_last_observation_behind(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, ARM) as writer:
        writer.add(make_episode(ARM, 4, 1))
    # As a process leaves it that was killed before the table of episodes.
    stray = tmp_path / "final/chunk-000/file-001.parquet"
    shutil.copy(tmp_path / "final/chunk-000/file-000.parquet", stray)
    (tmp_path / "final/chunk-000/file-002.parquet.1234.tmp").write_bytes(b"half")
    assert len(Dataset(tmp_path)) == 4
    with DatasetWriter(tmp_path, ARM) as writer:
        assert not stray.exists()
        writer.add(make_episode(ARM, 5, 2))
    assert sorted(path.name for path in (tmp_path / "final/chunk-000").iterdir()) == [
        "file-000.parquet", "file-001.parquet"
    ]  # fmt: skip
    data = Dataset(tmp_path)
    for number, written in enumerate((make_episode(ARM, 4, 1), make_episode(ARM, 5, 2))):
        same(data.episode(number), written)


@pytest.mark.parametrize("kind", ["raw", "jpeg", "stream"])
def test_last_pictures_in_every_kind_of_cache(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSOMA_CACHE", kind)
    episodes = [make_episode(SEEN_ARM, 3 + seed, seed) for seed in range(4)]
    episodes[1] = dataclasses.replace(episodes[1], final=None)
    with DatasetWriter(tmp_path, SEEN_ARM) as writer:
        for number, episode in enumerate(episodes):
            writer.add(episode)
            if number == 2:
                writer.flush()
    data = Dataset(tmp_path)
    ends = data.episode_start + data.episode_length - 1
    found, known = data.next_observations(ends, ["front", "state"])
    assert list(found) == ["front", "state"] and known.tolist() == [True, False, True, True]
    for number, episode in enumerate(episodes):
        last = episode.observations if episode.final is None else episode.final
        front = last["front"][-1] if episode.final is None else last["front"]
        # JPEG loses much of noise.
        off = np.abs(found["front"][number].astype(int) - front).mean()
        assert off < (40 if kind == "jpeg" else 1e-9)
        np.testing.assert_array_equal(found["state"][number], np.atleast_2d(last["state"])[-1])
    # Frames of any shape, as windows have them.
    inner, known = data.next_observations(np.array([[0, 1], [3, 4]]), ["state"])
    assert known.all() and inner["state"].shape == (2, 2, 3)
    np.testing.assert_array_equal(inner["state"][1, 1], data.observations["state"][5])


def test_rewards_are_left_alone_by_whoever_does_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DatasetWriter(tmp_path, ARM) as writer:
        writer.add(make_episode(ARM, 6))
    data = Dataset(tmp_path)
    assert isinstance(data.rewards, np.memmap)
    asked: list[str] = []
    monkeypatch.setattr(type(data), "rewards", property(lambda self: asked.append("rewards")))
    from polysoma.data.mixture import Source

    source = Source([data], [1.0], 0.0)
    source.statistics()
    assert not asked


# --- other libraries' formats


def endings(root: Path) -> list[Ending]:
    reader = open_reader(root)
    return [reader.ending(episode) for episode in range(len(reader))]


def check_both(root: Path, tmp_path: Path) -> Dataset:
    """What a data set says in its own format and after conversion; the latter is returned."""
    foreign = Dataset(root)
    convert(root, tmp_path / "converted")
    own = Dataset(tmp_path / "converted")
    for name in ("episode_terminated", "episode_truncated", "episode_success"):
        np.testing.assert_array_equal(getattr(foreign, name), getattr(own, name))
    assert (foreign.rewards is None) == (own.rewards is None)
    if foreign.rewards is not None and own.rewards is not None:
        np.testing.assert_array_equal(foreign.rewards, own.rewards)
    for number in range(len(own.episode_length)):
        same(foreign.episode(number), own.episode(number))
    return own


LAST = [np.arange(length) == length - 1 for length in LEROBOT_LENGTHS]
NEVER = [np.zeros(length, bool) for length in LEROBOT_LENGTHS]
FIRST_SUCCEEDS = [np.arange(length) == 1 for length in LEROBOT_LENGTHS[:1]] + NEVER[1:]
FLAGS = {
    "nothing": ({}, Ending()),
    "done": ({"next.done": LAST}, Ending(True, False)),
    "not done": ({"next.done": NEVER}, Ending(False, True)),
    "done and truncated": ({"next.done": LAST, "next.truncated": LAST}, Ending(False, True)),
    "truncated": ({"next.truncated": LAST}, Ending(False, True)),
    "not truncated": ({"next.truncated": NEVER}, Ending()),
    "terminal, as in RLDS": ({"is_terminal": LAST}, Ending(True, False)),
    "discount": ({"discount": [(~last).astype(np.float32) for last in LAST]}, Ending(True, False)),
    "success": ({"next.success": FIRST_SUCCEEDS}, Ending(success=True)),
    "success and done": ({"next.success": FIRST_SUCCEEDS, "next.done": LAST}, Ending(True, False, True)),
}


@pytest.mark.parametrize("name", FLAGS)
def test_lerobot_says_how_episodes_end(name: str, tmp_path: Path) -> None:
    columns, first = FLAGS[name]
    root = write_v3(tmp_path / "set", "image")
    add_columns(root, columns)
    found = endings(root)
    assert found[0] == first
    # Of the others the second and the third did not succeed.
    assert found[2] == dataclasses.replace(first, success=None if first.success is None else False)
    own = check_both(root, tmp_path)
    assert own.episode_success.tolist() == [True, first.success is None, first.success is None]
    assert own.rewards is not None
    assert own.rewards.tolist() == [float(last) for episode in LAST for last in episode]
    assert not own.final


def test_lerobot_without_rewards(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    drop_columns(root, "next.reward")
    own = check_both(root, tmp_path)
    assert own.rewards is None and own.episode(1).rewards is None


def test_rlds_says_how_episodes_end(tmp_path: Path) -> None:
    root = write_rlds(tmp_path / "set")
    assert endings(root) == [Ending(odd, not odd, odd) for odd in (False, True, False, True)]
    own = check_both(root, tmp_path)
    # Steps that is_last are observations alone: what came after the last action. An episode of one step has no frame.
    taught = [truth for truth, length in zip(TRUTH, RLDS_LENGTHS, strict=True) if length > 1]
    np.testing.assert_array_equal(own.rewards, np.concatenate([truth["reward"][:-1] for truth in taught]))
    np.testing.assert_array_equal(own.actions, np.concatenate([truth["action"][:-1] for truth in taught]))
    np.testing.assert_array_equal(own.final["state"], np.stack([truth["observation.state"][-1] for truth in taught]))
    ends = own.episode_start + own.episode_length - 1
    found = transitions(own, ends)
    assert found.known.all() and found.valid.all()
    np.testing.assert_array_equal(found.discounts == 0, own.episode_terminated)


def test_rlds_steps_that_are_not_last_are_all_learnt(tmp_path: Path) -> None:
    """Open X-Embodiment's older sets, and episodes that were cut, do not say which step is the last."""
    root = write_rlds(tmp_path / "set", lambda seed, held: held.update({"steps/is_last": held["steps/is_terminal"]}))
    own = Dataset(root)
    lengths = [length - seed % 2 for seed, length in enumerate(RLDS_LENGTHS) if length - seed % 2]
    assert own.episode_length.tolist() == lengths
    kept = [truth["reward"][: len(truth["reward"]) - seed % 2] for seed, truth in enumerate(TRUTH)]
    np.testing.assert_array_equal(own.rewards, np.concatenate(kept))
    # Terminal steps teach without a next observation; those at which an episode was cut do not.
    ends = own.episode_start + own.episode_length - 1
    assert transitions(own, ends).valid.tolist() == own.episode_terminated.tolist()


def test_minari_and_robomimic_know_what_came_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, root in enumerate(
        (
            write_minari(tmp_path / "a", monkeypatch, "hdf5"),
            write_minari(tmp_path / "b", monkeypatch, "arrow"),
            write_robomimic(tmp_path / "c.hdf5"),
        )
    ):
        robomimic = root.suffix == ".hdf5"
        if robomimic:
            assert endings(root) == [Ending(True, False), Ending(False, True), Ending(True, False)]
        else:
            # The first ended in the very step of the limit.
            assert endings(root) == [Ending(True, True, True), Ending(False, True, False), Ending(True, False, True)]
        (tmp_path / str(number)).mkdir()
        own = check_both(root, tmp_path / str(number))
        assert own.rewards is not None and own.rewards[:5].tolist() == [0, 1, 2, 3, 4]
        state = next(stream.name for stream in own.embodiment.arrays if stream.shape == (3,))
        camera = next(stream.name for stream in own.embodiment.arrays if len(stream.shape) == 3)
        found = transitions(own, np.arange(len(own)))
        assert found.known.all() and found.valid.all()
        before = 0
        for seed, length in enumerate(LENGTHS):
            rows = slice(before, before + length)
            np.testing.assert_array_equal(found.next_observations[state][rows], numbers(seed, length + 1, 3)[1:])
            np.testing.assert_array_equal(found.next_observations[camera][rows], pictures(seed, length + 1)[1:])
            assert found.discounts[rows].tolist() == [1.0] * (length - 1) + [float(seed == 1)]
            before += length


def test_robomimic_without_some_next_observations(tmp_path: Path) -> None:
    root = write_robomimic(tmp_path / "demo.hdf5")
    with h5py.File(root, "a") as file:
        del file["data/demo_2/next_obs/agentview_image"]
        del file["data/demo_10/dones"]
    reader = open_reader(root)
    assert reader.finals is not None and reader.finals.tolist() == [True, False, True]
    assert reader.final(1) is None
    # The third does not say how it ended; the others do.
    assert endings(root) == [Ending(True, False), Ending(False, True), Ending()]


@pytest.mark.parametrize("name", ["aloha", "zarr"])
def test_formats_that_say_nothing(name: str, tmp_path: Path) -> None:
    root = write_aloha(tmp_path / "aloha", False) if name == "aloha" else write_zarr(tmp_path / "pusht.zarr", 2)
    assert endings(root) == [Ending()] * 3 and open_reader(root).final(0) is None
    own = check_both(root, tmp_path)
    assert own.rewards is None and not own.final
    assert not own.episode_terminated.any() and not own.episode_truncated.any()


def test_numbers_that_are_not_finite_do_not_get_into_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_minari(tmp_path / "minari", monkeypatch, "hdf5")
    with h5py.File(root / "data/main_data.hdf5", "a") as file:
        file["episode_1/rewards"][3] = np.nan
        file["episode_2/observations/state"][-1] = np.inf
    data = Dataset(root)
    # Imitation goes on; rewards are refused.
    assert np.isfinite(data.actions).all() and data.episode(0).rewards is not None
    with pytest.raises(PolysomaError, match="reward of frame 3 of episode 1 is nan"):
        transitions(data, np.arange(3))
    with pytest.raises(PolysomaError, match="got nan at step 3"):
        data.episode(1)
    assert data.episode(2).final is None and data.episode(0).final is not None
    ends = data.episode_start + data.episode_length - 1
    assert data.next_observations(ends)[1].tolist() == [True, True, False]
    with pytest.raises(PolysomaError, match="episode 1: reward is nan at frame 3"):
        convert(root, tmp_path / "out")
    done = convert(root, tmp_path / "out", skip=True)
    assert done.written + done.there == 2 and len(done.skipped) == 1
    found = {(problem.severity, problem.where, problem.what) for problem in examine(root).problems}
    assert ("error", "reward", "not finite (NaN or infinite) in 1 frames of episode 1") in found
    told = "the observation after the last action of episode 2 is not finite"
    assert ("warning", "episodes", told) in found


# --- recordings


def test_recordings_know_what_came_of_each_step(tmp_path: Path) -> None:
    result = record(["drone/hover"], 3, tmp_path, Behaviour(noise=0.2))
    assert result.kept["drone/hover"]
    data = Dataset(tmp_path / "drone")
    environment = simulators.make("drone/hover")
    for number in range(len(data.episode_length)):
        episode = data.episode(number)
        environment.reset(seed=episode.seed)
        assert episode.rewards is not None and episode.final is not None
        for step in range(len(episode)):
            seen, reward, terminated, truncated, _ = environment.step(np.array(episode.executed[step]))
            assert episode.rewards[step] == np.float32(reward)
            if step + 1 < len(episode):
                np.testing.assert_allclose(seen["state"], episode.observations["state"][step + 1], atol=1e-6)
        np.testing.assert_allclose(seen["state"], episode.final["state"], atol=1e-6)
        assert (episode.terminated, episode.truncated) == (terminated, truncated) == (True, False)


def test_a_cut_episode_is_truncated_and_keeps_its_last_observation(tmp_path: Path) -> None:
    record(["drone/hover"], 2, tmp_path, Behaviour("random", max_steps=3, noise=0.0))
    data = Dataset(tmp_path / "drone")
    assert data.episode_length.tolist() == [3, 3] and not data.episode_success.any()
    assert data.episode_truncated.all() and not data.episode_terminated.any()
    found = transitions(data, np.arange(6))
    assert found.known.all() and (found.discounts == 1).all() and not (found.rewards != 0).any()
    assert not np.array_equal(found.next_observations["state"][2], data.observations["state"][2])


def test_a_return_that_is_judged_at_the_time_limit_does_not_terminate(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium.envs.mujoco", reason="the walking bodies need pip install 'polysoma[sim]'")
    record(["hopper/hop"], 1, tmp_path, Behaviour())
    data = Dataset(tmp_path / "hopper")
    assert data.episode_success.all() and data.episode_truncated.all() and not data.episode_terminated.any()
    assert data.rewards is not None and (np.asarray(data.rewards) > 0).any()
    problems = [problem for problem in examine(tmp_path / "hopper").problems if "succeeded without" in problem.what]
    assert [problem.severity for problem in problems] == ["note"]


# --- what people are told


def test_info_view_and_doctor_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episodes = [make_episode(ARM, 6, seed) for seed in range(3)]
    still = np.zeros(6, np.float32)
    episodes = [dataclasses.replace(episode, rewards=still) for episode in episodes]
    episodes[1] = dataclasses.replace(episodes[1], success=False, terminated=False, truncated=True, final=None)
    episodes[2] = dataclasses.replace(episodes[2], terminated=False, truncated=True)
    with DatasetWriter(tmp_path / "set", ARM) as writer:
        for episode in episodes:
            writer.add(episode)
    assert isinstance(open_reader(tmp_path / "set"), LeRobotReader)
    main(["data", "info", str(tmp_path / "set")])
    said = " ".join(capsys.readouterr().out.split())
    assert "outcomes: rewards; 1 terminated, 2 truncated; 2 succeeded (of 3 episodes looked at); 2 observations" in said
    main(["data", "view", str(tmp_path / "set"), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "terminated, succeeded" in page and "truncated, did not succeed" in page and "reward, 0 to 0" in page
    found = {(problem.severity, problem.where, problem.what) for problem in examine(tmp_path / "set").problems}
    assert ("note", "reward", "is 0 in all frames") in found
    assert ("note", "episodes", "episode 1 did not succeed") in found
    assert ("note", "episodes", "episode 2 succeeded without being terminated") in found
    reader = open_reader(tmp_path / "set")
    final = reader.final(2)
    assert final is not None and reader.final(1) is None and episodes[2].final is not None
    np.testing.assert_array_equal(final["observation.state"], episodes[2].final["state"])


def test_the_doctor_sees_episodes_that_were_joined(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    add_columns(root, {"next.done": [LAST[0], np.arange(4) % 2 == 1, LAST[2]]})
    (problem,) = (problem for problem in examine(root).problems if "on after their end" in problem.what)
    assert (problem.severity, problem.what) == ("warning", "episode 1 goes on after their end")
    rlds = write_rlds(tmp_path / "rlds", lambda seed, held: held.update({"steps/is_last": held["steps/is_first"]}))
    assert any("amidst 3 episodes" in problem.what for problem in examine(rlds).problems)


def test_lerobot_takes_frames_from_data_alone(tmp_path: Path) -> None:
    """LeRobot reads all Parquet files below ``data`` as frames and all below ``meta/episodes`` as episodes."""
    with DatasetWriter(tmp_path, SEEN_ARM) as writer:
        writer.add(make_episode(SEEN_ARM, 4))
    features = json.loads((tmp_path / layout.INFO).read_text())["features"]
    for path in (tmp_path / "data").rglob("*.parquet"):
        assert set(pq.read_schema(path).names) == set(features)
    for path in (tmp_path / "meta/episodes").rglob("*.parquet"):
        assert not {kind for kind in map(str, pq.read_schema(path).types) if "binary" in kind}


def test_a_copy_by_lerobots_tools_keeps_the_ends(tmp_path: Path) -> None:
    """They copy frames and tables of episodes with all columns, and leave behind what they do not know."""
    with DatasetWriter(tmp_path, ARM) as writer:
        writer.add(dataclasses.replace(make_episode(ARM, 4), terminated=False, truncated=True))
    shutil.rmtree(tmp_path / "final")
    (tmp_path / layout.POLYSOMA).unlink()
    reader = open_reader(tmp_path)
    assert reader.ending(0) == Ending(False, True, True) and reader.final(0) is None
    data = Dataset(tmp_path)
    assert data.episode_truncated.all() and data.rewards is not None and not data.final


@pytest.mark.parametrize("name", ["robomimic", "minari"])
def test_rewards_are_those_of_the_episodes_that_have_some(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first episode has no rewards and does not say how it ended: what the others say is not lost."""
    if name == "robomimic":
        root = write_robomimic(tmp_path / "demo.hdf5")
        with h5py.File(root, "a") as file:
            del file["data/demo_0/rewards"], file["data/demo_0/dones"]
    else:
        root = write_minari(tmp_path / "a", monkeypatch, "hdf5")
        with h5py.File(root / "data/main_data.hdf5", "a") as file:
            file["episode_0"].attrs[REWARDS_KNOWN] = False
            del file["episode_0/infos/success"]
    reader = open_reader(root)
    assert np.isnan(reader.read(0)["reward"]).all()
    np.testing.assert_array_equal(reader.read(1)["reward"], np.arange(8))
    if name == "robomimic":
        assert endings(root) == [Ending(), Ending(False, True), Ending(True, False)]
    else:
        assert endings(root) == [Ending(True, True, None), Ending(False, True, False), Ending(True, False, True)]
    # Imitation is not kept from it; whoever needs rewards is told.
    data = Dataset(root)
    assert data.episode_success.tolist() == [True, name == "robomimic", True]
    with pytest.raises(PolysomaError, match="of episode 0 is nan"):
        _ = data.rewards
    done = convert(root, tmp_path / "own", skip=True)
    assert (done.written, len(done.skipped)) == (2, 1)


def test_transitions_of_no_steps_are_refused(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, ARM) as writer:
        writer.add(make_episode(ARM, 5))
    data = Dataset(tmp_path)
    for steps in (0, -1):
        with pytest.raises(PolysomaError, match=f"steps: expected 1 or more for a transition, got {steps}"):
            transitions(data, np.arange(5), steps=steps)
    for discount in (-0.1, 1.01, float("nan")):
        with pytest.raises(PolysomaError, match="discount: expected a number from 0 to 1"):
            transitions(data, np.arange(5), discount)
        with pytest.raises(PolysomaError, match="discount: expected a number from 0 to 1"):
            returns(data, discount)

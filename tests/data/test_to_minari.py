"""Out to Minari, read back by Minari itself and by the reader here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from conftest import ARM, GRID, SEEN_ARM, make_episode
from make_arrays import LENGTHS, numbers, pictures, write_robomimic
from make_lerobot import drop_columns, write_v3
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.data.formats import open_reader
from polysoma.data.to_minari import to_minari
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import DiscreteActions, Embodiment
from polysoma.errors import PolysomaError

minari = pytest.importorskip("minari", reason="Minari reads what is written: pip install 'polysoma[dev]'")

TOLD = ("go", "", "größer, please", "x" * 600)


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def recorded(body: Embodiment, root: Path) -> Path:
    """Four episodes with other words each, of which the second failed and was driven by another."""
    with DatasetWriter(root, body) as writer:
        for seed, told in enumerate(TOLD):
            episode = make_episode(body, 4 + seed, seed + 20, instruction=told)
            executed = episode.executed.copy()
            executed[0] = 0
            ends = {"success": seed != 1, "terminated": seed != 1, "truncated": seed == 1}
            final = None if seed == 2 else episode.final
            writer.add(dataclasses.replace(episode, **ends, executed=executed, final=final))
    return root


@pytest.mark.parametrize("body", [ARM, GRID, SEEN_ARM], ids=lambda body: body.name)
def test_minari_reads_what_was_recorded(body: Embodiment, tmp_path: Path) -> None:
    own = Dataset(recorded(body, tmp_path / "own"))
    target = tmp_path / "minari/lab" / f"{body.name}-v3"
    done = to_minari(own.root, target)
    assert done.written == 4 and [path.name for path in target.parent.iterdir()] == [target.name]
    data = minari.load_dataset(f"lab/{body.name}-v3")
    assert list(minari.list_local_datasets()) == [f"lab/{body.name}-v3"] and data.spec.version == 3
    assert (data.total_episodes, data.total_steps) == (4, 22)
    assert data.action_space == body.action_space()
    spaces: dict[str, gymnasium.Space[Any]] = data.observation_space.spaces
    assert {stream.name: spaces[stream.name] for stream in body.arrays} == {
        stream.name: stream.space() for stream in body.arrays
    }
    about = list(data.storage.get_episode_metadata(range(4)))
    for number, episode in enumerate(data.iterate_episodes()):
        ours, length = own.episode(number), 4 + number
        assert about[number]["seed"] == 20 + number and about[number]["instruction"] == TOLD[number]
        assert about[number]["task"] == f"{body.name}/one" and about[number]["success"] == (number != 1)
        assert episode.observations["instruction"] == [TOLD[number]] * (length + 1)
        for stream in body.arrays:
            values = episode.observations[stream.name]
            assert values.dtype == stream.dtype and len(values) == length + 1
            np.testing.assert_array_equal(values[:-1], ours.observations[stream.name])
            final = ours.final
            assert about[number]["final_observation_known"] == (final is not None) == (number != 2)
            np.testing.assert_array_equal(values[-1], values[-2] if final is None else final[stream.name])
        assert spaces["instruction"].contains(TOLD[number])
        np.testing.assert_array_equal(episode.actions, ours.actions)
        np.testing.assert_array_equal(episode.infos["executed_action"], ours.executed)
        end = [False] * (length - 1)
        np.testing.assert_array_equal(episode.rewards, ours.rewards)
        assert about[number]["rewards_known"] and ours.rewards is not None
        assert episode.terminations.tolist() == [*end, number != 1]
        assert episode.truncations.tolist() == [*end, number == 1]
        for stream in body.privileged:
            known = episode.infos["privileged"][stream.name]
            np.testing.assert_array_equal(known[:-1], ours.observations[stream.name])
            if ours.final is not None:
                np.testing.assert_array_equal(known[-1], ours.final[stream.name])


@pytest.mark.parametrize("body", [ARM, SEEN_ARM], ids=lambda body: body.name)
def test_it_comes_back_with_its_names_units_and_limits(body: Embodiment, tmp_path: Path) -> None:
    own = Dataset(recorded(body, tmp_path / "own"))
    to_minari(own.root, tmp_path / "there-v0")
    back = Dataset(tmp_path / "there-v0")
    # A description does not say which body is seen in several ways, nor what only a simulator knows.
    assert back.embodiment == dataclasses.replace(body, body=body.name, privileged=())
    assert [back.instructions[number] for number in back.episode_instruction] == list(TOLD)
    np.testing.assert_array_equal(back.episode_success, own.episode_success)
    np.testing.assert_array_equal(back.episode_length, own.episode_length)
    np.testing.assert_array_equal(back.actions, own.actions)
    assert back.rewards is not None and own.rewards is not None
    np.testing.assert_array_equal(back.rewards, own.rewards)
    np.testing.assert_array_equal(back.episode_terminated, own.episode_terminated)
    np.testing.assert_array_equal(back.episode_truncated, own.episode_truncated)
    for stream in body.arrays:
        np.testing.assert_array_equal(back.observations[stream.name], own.observations[stream.name])
    frames = np.arange(len(own))
    (theirs, known), (ours, expected) = (data.next_observations(frames) for data in (back, own))
    np.testing.assert_array_equal(known, expected)
    for stream in body.arrays:
        np.testing.assert_array_equal(theirs[stream.name], ours[stream.name])


def test_what_a_source_does_not_have_is_not_invented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_v3(tmp_path / "set", "image")
    target = tmp_path / "minari/plain-v0"
    drop_columns(source, "next.reward")
    main(["data", "convert", str(source), str(target), "--format", "minari"])
    said = capsys.readouterr().out
    assert "3 episodes have no rewards in the source: NaN is written" in said
    assert "3 episodes have no observation after their last action" in said and "3 episodes do not say how" in said
    for episode in minari.load_dataset("plain-v0").iterate_episodes():
        assert np.isnan(episode.rewards).all()
        assert not episode.terminations.any() and not episode.truncations.any()
    reader = open_reader(target)
    assert "reward" not in reader.columns and reader.finals is None
    back = Dataset(target)
    assert back.rewards is None and back.episode(0).final is None and not back.episode_truncated.any()


def test_choices_come_back(tmp_path: Path) -> None:
    own = Dataset(recorded(GRID, tmp_path / "own"))
    to_minari(own.root, tmp_path / "there-v0")
    back = Dataset(tmp_path / "there-v0")
    assert isinstance(back.embodiment.actions, DiscreteActions) and back.embodiment.actions.size == 3
    np.testing.assert_array_equal(back.actions, own.actions)
    np.testing.assert_array_equal(back.observations["heading"][:, 0], own.observations["heading"][:, 0])


def test_data_of_another_library_and_damaged_episodes(tmp_path: Path) -> None:
    source = write_robomimic(tmp_path / "lift.hdf5")
    main(["data", "convert", str(source), str(tmp_path / "minari/lift-v0"), "--format", "minari"])
    data = minari.load_dataset("lift-v0")
    for seed, episode in enumerate(data.iterate_episodes()):
        np.testing.assert_array_equal(episode.actions, numbers(seed, LENGTHS[seed], 7))
        np.testing.assert_array_equal(episode.observations["agentview_image"], pictures(seed, LENGTHS[seed] + 1))
        assert episode.rewards.tolist() == list(range(LENGTHS[seed])) and episode.terminations[-1] == (seed != 1)
        assert episode.observations["instruction"][0] == f"lift {seed}"
    assert all("seed" not in about for about in data.storage.get_episode_metadata(range(3)))
    with h5py.File(source, "r+") as file:
        file["data/demo_2/actions"][1, 1] = np.nan
    with pytest.raises(PolysomaError, match="episode 2: action is nan"):
        to_minari(source, tmp_path / "minari/again-v0")
    assert not list((tmp_path / "minari").glob("*again*"))
    calls: list[tuple[int, int]] = []
    done = to_minari(source, tmp_path / "minari/again-v0", True, lambda n, total: calls.append((n, total)))
    assert (done.written, len(done.skipped)) == (2, 1) and calls == [(1, 2), (2, 2)]
    assert minari.load_dataset("again-v0").total_steps == LENGTHS[0] + LENGTHS[2]


def test_what_is_unfinished_never_looks_finished(tmp_path: Path) -> None:
    source, target = recorded(ARM, tmp_path / "own"), tmp_path / "minari/arm-v0"

    def stop(done: int, total: int) -> None:
        assert not target.exists()
        # What another process sees meanwhile, or after a kill.
        assert minari.list_local_datasets() == {}
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        to_minari(source, target, progress=stop)
    assert list(target.parent.iterdir()) == []
    left = tmp_path / "minari/.arm-v0.tmp/data"
    left.mkdir(parents=True)
    (left / "main_data.hdf5").write_bytes(b"half of it")
    with pytest.raises(PolysomaError, match=r"\.arm-v0\.tmp is in the way and was not made here"):
        to_minari(source, target)
    (left.parent / "polysoma-conversion.lock").touch()
    assert to_minari(source, target).written == 4
    assert sorted(path.name for path in target.rglob("*")) == [
        "data", "embodiment.toml", "main_data.hdf5", "metadata.json"
    ]  # fmt: skip
    assert [path.name for path in target.parent.iterdir()] == ["arm-v0"]


def test_targets_that_will_not_do(tmp_path: Path) -> None:
    source = recorded(ARM, tmp_path / "own")
    for target, message in (
        (tmp_path / "arm", "with a version"),
        (tmp_path / "an arm-v0", "with a version"),
        (source / "arm-v0", "must not lie in one another"),
        (tmp_path, "must not lie in one another"),
    ):
        with pytest.raises(PolysomaError, match=message):
            to_minari(source, target)
    to_minari(source, tmp_path / "arm-v0")
    before = json.loads((tmp_path / "arm-v0/data/metadata.json").read_text())
    with pytest.raises(PolysomaError, match="is there already"):
        to_minari(source, tmp_path / "arm-v0")
    assert before["dataset_id"] == "arm-v0" and open_reader(tmp_path / "arm-v0").format == "Minari hdf5"
    with pytest.raises(PolysomaError, match="there is nothing at"):
        to_minari(tmp_path / "nowhere", tmp_path / "new-v0")

"""Flat arrays: OGBench's npz and D4RL's HDF5."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from make_arrays import h5py
from polysoma.data.convert import convert
from polysoma.data.dataset import Dataset
from polysoma.data.doctor import examine
from polysoma.data.door import NpzArray, open_npz
from polysoma.data.formats import is_dataset, open_reader
from polysoma.data.formats.flat import FlatReader
from polysoma.data.formats.reader import Ending
from polysoma.data.transitions import transitions
from polysoma.errors import PolysomaError

FRAMES = 12
STATE = np.random.default_rng(0).normal(size=(FRAMES, 3)).astype(np.float32)
ACTIONS = np.random.default_rng(1).uniform(-1, 1, (FRAMES, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def flags(*frames: int) -> np.ndarray:
    return np.isin(np.arange(FRAMES), frames)


def write_ogbench(path: Path, **more: Any) -> Path:
    held = {"observations": STATE, "actions": ACTIONS, "terminals": flags(5, 11).astype(np.float32), "qpos": STATE}
    np.savez_compressed(path, **(held | more))
    return path


def write_d4rl(path: Path, **more: Any) -> Path:
    held = {
        "observations": STATE,
        "actions": ACTIONS,
        "rewards": np.arange(FRAMES, dtype=np.float32),
        "terminals": flags(3),
        "timeouts": flags(8),
        "next_observations": np.roll(STATE, -1, 0),
        "infos/qpos": STATE,
    }
    with h5py.File(path, "w") as file:
        for name, values in (held | more).items():
            if values is not None:
                file[name] = values
    return path


def test_arrays_are_unpacked_once_whoever_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.random.default_rng(2).integers(0, 256, (FRAMES, 8, 10, 3), np.uint8)
    path = write_ogbench(tmp_path / "seen.npz", observations=pictures)
    unpacked: list[str] = []
    whole = NpzArray.unpacked
    monkeypatch.setattr(NpzArray, "unpacked", lambda self: unpacked.append(self._member.filename) or whole(self))
    monkeypatch.setattr("polysoma.data.foreign._WORTH_THREADS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    data = Dataset(path)
    assert sorted(unpacked) == ["actions.npy", "observations.npy"]
    # The frames of terminals are observations alone.
    acted = ~flags(5, 11)
    np.testing.assert_array_equal(data.observations["camera"][:], pictures[acted])
    np.testing.assert_array_equal(data.actions, ACTIONS[acted])
    reader = open_reader(path)
    held = reader.read(0)
    other = reader.again()
    reader.close()
    np.testing.assert_array_equal(other.read(0)["action"], held["action"])
    assert len(unpacked) == 4


@pytest.mark.parametrize("columns_first", [False, True])
def test_large_arrays_are_mapped(columns_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=(400, 300)).astype(np.float32)
    path = tmp_path / "a.npz"
    np.savez_compressed(path, actions=np.asfortranarray(values) if columns_first else values)
    monkeypatch.setattr("polysoma.data.door._SMALL", 1000)
    monkeypatch.setattr("polysoma.data.door._PIECE", 1000)
    with open_npz(path, 10**9) as arrays:
        tracemalloc.start()
        mapped = arrays["actions"].unpacked()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert isinstance(mapped, np.memmap) and peak < values.nbytes / 2
        np.testing.assert_array_equal(mapped, values)
        # A full disk is no reason to read nothing.
        monkeypatch.setattr("shutil.copyfileobj", lambda *given: (_ for _ in ()).throw(OSError("no space")))
        held = arrays["actions"].unpacked()
    np.testing.assert_array_equal(held, values)
    assert not isinstance(held, np.memmap) and not held.flags.writeable


def test_ogbench_ends_trajectories_with_an_observation_alone(tmp_path: Path) -> None:
    path = write_ogbench(tmp_path / "maze.npz")
    reader = open_reader(path)
    assert isinstance(reader, FlatReader) and reader.lengths.tolist() == [6, 6]
    assert reader.ending(0) == Ending(False, True) and list(reader.left_out) == ["qpos"]
    data = Dataset(path)
    # The last frame of each is what came after the last action.
    assert data.episode_length.tolist() == [5, 5] and not data.episode_terminated.any()
    np.testing.assert_array_equal(data.observations["state"][:5], STATE[:5])
    np.testing.assert_array_equal(data.executed[5:], ACTIONS[6:11])
    np.testing.assert_array_equal(data.final["state"], STATE[[5, 11]])
    assert data.rewards is None


def test_d4rl_ends_episodes_at_terminals_and_timeouts(tmp_path: Path) -> None:
    data = Dataset(write_d4rl(tmp_path / "hopper.hdf5"))
    assert data.episode_length.tolist() == [4, 5, 3]
    assert data.episode_terminated.tolist() == [True, False, False]
    assert data.episode_truncated.tolist() == [False, True, True]
    np.testing.assert_array_equal(data.rewards, np.arange(FRAMES))
    step = transitions(data, np.arange(FRAMES), 0.9)
    assert step.discounts[3] == 0 and step.known.all()
    np.testing.assert_array_equal(step.next_observations["state"], np.roll(STATE, -1, 0))


def test_d4rl_without_next_observations_or_timeouts(tmp_path: Path) -> None:
    data = Dataset(write_d4rl(tmp_path / "hopper.hdf5", next_observations=None, timeouts=None))
    assert data.episode_length.tolist() == [4, 8] and not data.final


@pytest.mark.parametrize("write", [write_ogbench, write_d4rl])
def test_they_are_converted_and_examined(write: Any, tmp_path: Path) -> None:
    path = write(tmp_path / ("data.npz" if write is write_ogbench else "data.hdf5"))
    convert(path, tmp_path / "own")
    before, after = Dataset(path), Dataset(tmp_path / "own")
    np.testing.assert_array_equal(before.observations["state"], after.observations["state"])
    assert before.episode_terminated.tolist() == after.episode_terminated.tolist()
    assert not [problem for problem in examine(path).problems if problem.severity == "error"]


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", weights=STATE)
    assert not is_dataset(tmp_path / "weights.npz")
    np.savez(tmp_path / "other.npz", actions=STATE)
    with pytest.raises(PolysomaError, match="there is no observations, terminals"):
        open_reader(tmp_path / "other.npz")
    with pytest.raises(PolysomaError, match="expected a flag for each of 12 frames"):
        open_reader(write_ogbench(tmp_path / "short.npz", terminals=np.zeros(3)))
    with pytest.raises(PolysomaError, match=r"rewards: expected 12 rows as in actions, got \(3,\)"):
        open_reader(write_d4rl(tmp_path / "short.hdf5", rewards=np.zeros(3)))


def test_an_array_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = write_ogbench(tmp_path / "maze.npz")
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 3), }"
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards.npy", header.ljust(127) + b"\n" + bytes(16))
    with pytest.raises(PolysomaError, match=r"rewards.npy: float32 of shape \(99999999999, 3\) in 16 bytes"):
        open_reader(path)
    np.savez(tmp_path / "pickled.npz", observations=STATE, actions=ACTIONS, terminals=np.array([{}] * 12, object))
    with pytest.raises(PolysomaError, match="object of shape"):
        open_reader(tmp_path / "pickled.npz")

"""Damaged episodes: in every format and with every kind of cache they are left out by their numbers, and no others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

import make_rlds
from conftest import SEEN_ARM, make_episode
from make_arrays import write_aloha, write_minari, write_robomimic
from make_lerobot import write_v2, write_v3
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.data.doctor import examine
from polysoma.data.edit import Edit, edit
from polysoma.data.origin import opened
from polysoma.data.to_minari import to_minari
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.progress import listening

KINDS = ("raw", "jpeg", "stream")
FRAMES = "data/chunk-000/file-{:03d}.parquet"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def record(root: Path, episodes: int = 6) -> Path:
    """Two episodes a file."""
    with DatasetWriter(root, SEEN_ARM) as writer:
        for seed in range(episodes):
            writer.add(make_episode(SEEN_ARM, 5 + seed, seed))
            if seed % 2:
                writer.flush()
    return root


def flip(path: Path, share: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 255
    path.write_bytes(content)


def minari(layout: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            return write_minari(root, patch, layout)

    return write


def not_finite(name: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with h5py.File(path if path.is_file() else path / "data/main_data.hdf5", "r+") as file:
            file[name][1, 1] = np.nan

    return damage


CASES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None], list[int]]] = {
    "recorded": (record, lambda root: flip(root / FRAMES.format(1)), [2, 3]),
    "recorded, last observations": (
        record, lambda root: flip(root / FRAMES.format(2).replace("data", "final", 1)), [4, 5],
    ),
    "recorded, a file is gone": (record, lambda root: (root / FRAMES.format(0)).unlink(), [0, 1]),
    "lerobot 2, film": (write_v2, lambda root: sorted(root.rglob("*.mp4"))[1].write_bytes(b"no film"), [1]),
    "lerobot 2, pictures": (
        lambda root: write_v2(root, kind="image"),
        lambda root: sorted(root.rglob("episode_*.parquet"))[1].write_bytes(b"no table"), [1],
    ),
    "lerobot 3, film": (write_v3, lambda root: sorted(root.rglob("*.mp4"))[1].write_bytes(b"no film"), [2]),
    "rlds": (make_rlds.write, lambda root: flip(sorted(root.rglob("*.tfrecord*"))[-1]), [3]),
    "robomimic": (lambda root: write_robomimic(root.with_suffix(".hdf5")), not_finite("data/demo_2/actions"), [2]),
    "aloha": (lambda root: write_aloha(root, True), lambda root: (root / "episode_2.hdf5").write_bytes(b""), [2]),
    "minari hdf5": (minari("hdf5"), not_finite("episode_1/actions"), [1]),
}  # fmt: skip


def actions(path: Path) -> dict[int, np.ndarray]:
    """Of all episodes, by their numbers."""
    with opened(path) as origin:
        found: dict[int, list[np.ndarray]] = {}
        for place in range(len(origin)):
            with contextlib.suppress(PolysomaError):
                ((_, episode),) = origin.episodes([place])
                found.setdefault(int(origin.numbers[place]), []).append(episode.actions)
        return {number: np.concatenate(pieces) for number, pieces in found.items()}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_they_are_left_out_whatever_the_format_and_the_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, damage, lost = CASES[name]
    root = write(tmp_path / "set")
    truth = actions(root)
    damage(root)
    whole = [number for number in truth if number not in lost]
    for kind in KINDS:
        monkeypatch.setenv("POLYSOMA_CACHE", kind)
        notes: list[str] = []
        with listening(lambda *told: None, notes.append):
            data = Dataset(root, skip_damaged=True)
        assert sorted(data.left_out) == lost and list(dict.fromkeys(data.episode_number.tolist())) == whole
        assert len(notes) == 1 and "left out" in notes[0]
        np.testing.assert_array_equal(data.actions, np.concatenate([truth[number] for number in whole]))
        for pictures in data.observations.values():
            assert len(pictures[:]) == len(data), "none of them is met later"
    monkeypatch.delenv("POLYSOMA_CACHE")
    with pytest.raises(PolysomaError):
        edit(root, tmp_path / "new", Edit(reencode=True))
    done = edit(root, tmp_path / "new", Edit(skip_damaged=True))
    told = f"episode {lost[0]} is left out: " if len(lost) == 1 else f"episodes {lost[0]} to {lost[-1]} are left out: "
    assert sum(line.startswith(f"{root}: {told}") for line in done.changes) == 1
    np.testing.assert_array_equal(Dataset(tmp_path / "new").actions, np.concatenate([truth[n] for n in whole]))
    assert done.written[tmp_path / "new"][0] == len(data.episode_length)


def test_nothing_is_left_of_a_set_that_cannot_be_read(tmp_path: Path) -> None:
    root = record(tmp_path / "set", 2)
    flip(root / FRAMES.format(0))
    with pytest.raises(PolysomaError, match="no episodes in it that can be read"):
        Dataset(root, skip_damaged=True)
    with pytest.raises(PolysomaError, match="no episode would be left"):
        edit(root, tmp_path / "new", Edit(skip_damaged=True))
    with pytest.raises(PolysomaError, match="no episodes in it that can be read"):
        to_minari(root, tmp_path / "new-v0", skip=True)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["set"]


def test_damaged_tables_of_episodes_are_an_error(tmp_path: Path) -> None:
    root = record(tmp_path / "set")
    flip(root / "meta/episodes/chunk-000/file-001.parquet")
    with pytest.raises(PolysomaError, match=r"cannot read .*meta/episodes/.*file-001"):
        Dataset(root, skip_damaged=True)


def test_it_is_found_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSOMA_CACHE", "stream")
    whole, root = write_v2(tmp_path / "whole"), record(tmp_path / "set")
    flip(root / FRAMES.format(1))
    for path in (whole, root):
        told: list[str] = []
        for _ in range(2):
            with listening(lambda what, done, total, told=told: told.append(what.split()[0])):
                first = Dataset(path, skip_damaged=True)
        assert told.count("checking") == 3, "three episodes, or files, once"
        assert sorted(first.left_out) == ([] if path == whole else [2, 3])
    # Files that are put right are looked at again.
    flip(root / FRAMES.format(1))
    again = Dataset(root, skip_damaged=True)
    assert again.left_out == {} and len(again.episode_length) == 6
    # Nobody looks at all pictures who does not ask for it.
    told = []
    with listening(lambda what, done, total: told.append(what.split()[0])):
        Dataset(write_v2(tmp_path / "other"))
    assert "checking" not in told


def test_pictures_are_checked_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_v2(tmp_path / "set")
    sorted(root.rglob("*.mp4"))[2].write_bytes(b"no film")
    monkeypatch.setenv("POLYSOMA_CACHE", "stream")
    monkeypatch.setattr("polysoma.data.foreign._WORTH_THREADS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    data = Dataset(root, skip_damaged=True)
    assert list(data.left_out) == [2] and data.episode_number.tolist() == [0, 1]


def test_the_command_says_which_and_splits_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = record(tmp_path / "set"), tmp_path / "parts"
    flip(root / FRAMES.format(1))
    main(["data", "edit", str(root), "--skip-damaged", "--split", "a=0.5", "b=0.5", "--delete", "5", "--out", str(out)])
    said = capsys.readouterr().out
    assert "episodes 2 to 3 are left out: cannot read" in said and "1 of 6 episodes are left out: 5" in said
    # Shares are of what can be read: 0, 1 and 4.
    assert sorted(len(Dataset(out / name).episode_length) for name in "ab") == [1, 2]
    # What the doctor advises can be run as it is.
    (remedy,) = {p.remedy for p in examine(root).problems if "cannot be read" in p.what} or {""}
    assert not remedy or f"polysoma data edit {root} --skip-damaged --out NEW" in remedy


def test_files_of_episodes_that_are_left_out_may_be_gone(tmp_path: Path) -> None:
    root = record(tmp_path / "set")
    (root / FRAMES.format(1)).unlink()
    with pytest.raises(PolysomaError, match=r"2 of 6 episodes cannot be read \(2, 3\): .*file-001.parquet is missing"):
        Dataset(root)
    edit(root, tmp_path / "new", Edit(delete=frozenset({2, 3})))
    assert Dataset(tmp_path / "new").episode_seed.tolist() == [0, 1, 4, 5]


def test_minari_gets_what_can_be_read_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = record(tmp_path / "set")
    truth = Dataset(root).observations["front"][:]
    flip(root / FRAMES.format(1))
    monkeypatch.setenv("POLYSOMA_CACHE", "jpeg")
    done = to_minari(root, tmp_path / "new-v0", skip=True)
    assert done.written == 4 and len(done.skipped) == 1 and done.skipped[0].startswith("episodes 2 to 3 are left out")
    with h5py.File(tmp_path / "new-v0/data/main_data.hdf5") as file:
        held = [file[f"episode_{number}/observations/front"][:-1] for number in range(4)]
        assert [int(file[f"episode_{number}"].attrs["seed"]) for number in range(4)] == [0, 1, 4, 5]
    np.testing.assert_array_equal(np.concatenate(held), np.concatenate([truth[:11], truth[26:]]))

"""Caches: whatever kind there is room for, windows are the same, and what is not whole is never used."""

from __future__ import annotations

import os
import shutil
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from conftest import SEEN_ARM, make_episode
from make_arrays import write_aloha, write_robomimic, write_zarr
from make_lerobot import write_v2, write_v3
from make_rlds import write as write_rlds
from polysoma.cli import main
from polysoma.data import storage
from polysoma.data.batch import Batch
from polysoma.data.cache import caches
from polysoma.data.dataset import Dataset
from polysoma.data.description import write_schema
from polysoma.data.episode import Episode
from polysoma.data.formats import open_reader
from polysoma.data.mixture import Source
from polysoma.data.pictures import JpegPictures, MappedPictures, StreamedPictures
from polysoma.data.schema import infer, schema_path
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.progress import listening

KINDS = ("raw", "jpeg", "stream")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def smooth(seed: int, length: int, height: int = 24, width: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    tint = np.random.default_rng(seed).uniform(60, 120, (length, 1, 1, 3))
    return (tint + 60 * rows[..., None] + 60 * columns[..., None]).astype(np.uint8)


def record(root: Path, episodes: int = 4) -> Path:
    with DatasetWriter(root, SEEN_ARM) as writer:
        for seed in range(episodes):
            one = make_episode(SEEN_ARM, 5 + seed, seed)
            one.observations["front"][:] = smooth(seed, len(one))
            writer.add(one)
            # A file of its own for each two.
            if seed % 2:
                writer.flush()
    return root


def reduced(root: Path) -> Path:
    """With smaller pictures than the files hold, in windows of four frames."""
    write_schema(infer(open_reader(root)), schema_path(root))
    text = schema_path(root).read_text().replace("[32, 32]", "[12, 16]").replace("history = 1", "history = 4")
    schema_path(root).write_text(text)
    return root


MAKERS: dict[str, Callable[[Path], Path]] = {
    "recorded": record,
    "video": write_v3,
    "images": lambda root: write_v2(root, kind="image"),
    "reduced": lambda root: reduced(write_v3(root)),
    "rlds": write_rlds,
    "robomimic": lambda root: write_robomimic(root.with_suffix(".hdf5")),
    "aloha": lambda root: write_aloha(root, True),
    "zarr": lambda root: write_zarr(root.with_suffix(".zarr"), 2),
}


def drawn(dataset: Dataset) -> Batch:
    return Source([dataset], [1.0], 0.5).draw(40, np.random.default_rng(1), goals=True)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("maker", MAKERS)
def test_all_kinds_give_the_same_windows(maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = MAKERS[maker](tmp_path / "set")
    seen = {}
    for kind in KINDS:
        monkeypatch.setenv("POLYSOMA_CACHE", kind)
        seen[kind] = drawn(Dataset(root))
    raw = seen["raw"]
    assert raw.goals
    for kind in ("jpeg", "stream"):
        other = seen[kind]
        np.testing.assert_array_equal(other.previous, raw.previous)
        assert other.texts == raw.texts
        for name, values in (*raw.observations.items(), *((f"goal {n}", v) for n, v in raw.goals.items())):
            assert other.goals is not None
            got = other.goals[name[5:]] if name.startswith("goal ") else other.observations[name]
            assert got.dtype == values.dtype and got.shape == values.shape
            got, values = got.numpy(), values.numpy()
            if kind == "stream" or got.dtype != np.uint8:
                np.testing.assert_array_equal(got, values)
            elif maker in ("recorded", "video", "images"):
                assert np.abs(got.astype(int) - values).mean() < 3


@pytest.mark.parametrize("maker", ["recorded", "reduced"])
@pytest.mark.parametrize("kind", ["jpeg", "stream"])
def test_columns_are_indexed_like_arrays(
    maker: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = MAKERS[maker](tmp_path / "set")
    monkeypatch.setenv("POLYSOMA_CACHE", kind)
    column = Dataset(root).observations["front"]
    assert isinstance(column, {"jpeg": JpegPictures, "stream": StreamedPictures}[kind])
    whole = column[:]
    assert len(column) == len(whole) and column.shape == whole.shape and column.dtype == whole.dtype == np.uint8
    rng = np.random.default_rng(0)
    for rows in (3, -1, slice(4, 2), slice(1, None, 3), slice(None, None, -1), np.array([], int), np.array(5)):
        np.testing.assert_array_equal(column[rows], whole[rows])
    for shape in ((7,), (3, 2), (2, 3, 4)):
        rows = rng.integers(-len(whole), len(whole), shape)
        np.testing.assert_array_equal(column[rows], whole[rows])
    for wrong in (len(whole), -len(whole) - 1, np.array([0.5]), np.array([True])):
        with pytest.raises(IndexError):
            column[wrong]


def test_equal_pictures_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSOMA_CACHE", "jpeg")
    column = Dataset(record(tmp_path / "set")).observations["front"]
    decoded = []
    from polysoma.data import pictures

    decode = pictures.decode_image
    monkeypatch.setattr(pictures, "decode_image", lambda *given: decoded.append(0) or decode(*given))
    assert column[np.array([[3, 3, 1], [3, 1, 1]])].shape == (2, 3, 24, 32, 3)
    assert len(decoded) == 2


def kind_of(root: Path) -> str:
    column = Dataset(root).observations["front"]
    names = {JpegPictures: "jpeg", StreamedPictures: "stream", np.memmap: "raw", np.ndarray: "memory"}
    return names[type(column)]


def test_the_limit_chooses_the_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_v3(tmp_path / "set")
    raw, numbers = 23 * (32 * 32 * 3 + 6 * 4), 23 * 6 * 4
    monkeypatch.setenv("POLYSOMA_CACHE_GB", str(0.9 * raw / 1e9))
    assert kind_of(root) == "jpeg"
    (cache,) = caches()
    assert cache.kind == "JPEG" and numbers < cache.bytes < raw
    # What is there is used, unless something else is asked for.
    monkeypatch.delenv("POLYSOMA_CACHE_GB")
    assert kind_of(root) == "jpeg"
    monkeypatch.setenv("POLYSOMA_CACHE", "raw")
    assert kind_of(root) == "raw" and [cache.kind for cache in caches()] == ["raw"]
    monkeypatch.delenv("POLYSOMA_CACHE")
    shutil.rmtree(caches()[0].folder)
    monkeypatch.setenv("POLYSOMA_CACHE_GB", str(1.5 * numbers / 1e9))
    assert kind_of(root) == "stream" and [cache.kind for cache in caches()] == ["numbers"]
    built = caches()[0].folder.stat().st_ino
    assert kind_of(root) == "stream" and caches()[0].folder.stat().st_ino == built
    monkeypatch.setenv("POLYSOMA_CACHE", "jpeg")
    with pytest.raises(PolysomaError, match=r"a cache of .* GB is needed, .*unset POLYSOMA_CACHE"):
        Dataset(root)
    monkeypatch.delenv("POLYSOMA_CACHE")
    monkeypatch.delenv("POLYSOMA_CACHE_GB")
    assert kind_of(root) == "raw"
    monkeypatch.setenv("POLYSOMA_CACHE", "stream")
    assert kind_of(root) == "stream" and [cache.kind for cache in caches()] == ["raw"], "its numbers serve"


def test_nothing_is_deleted_for_what_does_not_fit_anyway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = write_v3(tmp_path / "small"), write_v3(tmp_path / "large")
    assert kind_of(small) == "raw"
    held = caches()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    monkeypatch.setenv("POLYSOMA_CACHE_GB", str(2.1 * held[0].bytes / 1e9))
    assert kind_of(large) == "stream" and [cache.folder for cache in caches()] == [cache.folder for cache in held]


@pytest.mark.parametrize("maker", ["recorded", "video"])
def test_the_disk_chooses_the_kind(maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = MAKERS[maker](tmp_path / "set")
    truth = Dataset(root).observations["front"][:]
    pixels = truth.nbytes
    for share, kind in ((0.9, "jpeg"), (0.1, "stream"), (0.0, "stream")):
        for folder in (root / ".cache", tmp_path / "cache"):
            shutil.rmtree(folder, ignore_errors=True)
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=share * pixels: SimpleNamespace(free=free))
        assert kind_of(root) == kind
        assert np.abs(Dataset(root).observations["front"][:].astype(int) - truth).mean() < (
            3 if kind == "jpeg" else 1e-9
        )
    # Asked for by name, pixels go into memory, as numbers do that fit nowhere else.
    monkeypatch.setenv("POLYSOMA_CACHE", "raw")
    dataset = Dataset(root)
    assert kind_of(root) == "memory" and not dataset.actions.flags.writeable
    monkeypatch.setenv("POLYSOMA_CACHE", "jpeg")
    with pytest.raises(PolysomaError, match="POLYSOMA_CACHE=jpeg: there is no room"):
        Dataset(root)


def test_unknown_kinds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSOMA_CACHE", "png")
    with pytest.raises(PolysomaError, match="POLYSOMA_CACHE: expected raw, jpeg, stream or nothing, got 'png'"):
        Dataset(record(tmp_path / "set"))


@pytest.mark.parametrize("kind", KINDS)
def test_killed_while_building(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(what: str, done: int, total: int) -> None:
        if done > 8:
            raise Killed

    root = write_v3(tmp_path / "set")
    monkeypatch.setenv("POLYSOMA_CACHE", kind)
    with monkeypatch.context() as patch:
        # A killed process would not clean up either.
        patch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(Killed), listening(kill):
            Dataset(root)
    left = [path for path in (tmp_path / "cache").rglob("building-*") if path.is_dir()]
    assert left and [(cache.folder, cache.kind) for cache in caches()] == [(left[0], "unfinished")]
    assert kind_of(root) == kind and not left[0].exists() and len(caches()) == 1


@pytest.mark.parametrize("linked", [False, True])
def test_folders_of_others_are_never_deleted(linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, place = record(tmp_path / "home"), tmp_path / ("elsewhere" if linked else "home/.cache")
    for name in ("thumbnails", "a" * 32, "building-1"):
        (place / name).mkdir(parents=True)
        (place / name / "front.npy").write_bytes(b"mine")
    if linked:
        (root / ".cache").symlink_to(place)
    before = sorted(path for path in place.rglob("*"))
    for kind in ("raw", "jpeg", "raw"):
        monkeypatch.setenv("POLYSOMA_CACHE", kind)
        assert kind_of(root) == kind
    assert set(before) <= set(place.rglob("*")), "nothing is gone"
    assert linked == (set(before) == set(place.rglob("*"))), "and nothing is written where a link leads"
    # Nor what lies beside the caches of the user's folder, or behind a link there.
    home, outside = tmp_path / "cache/polysoma", tmp_path / "photos"
    (home / "x" / "y").mkdir(parents=True)
    (outside / "summer").mkdir(parents=True)
    (outside / "summer" / "polysoma-cache.json").write_text("{}")
    (home / "link").symlink_to(outside)
    monkeypatch.setenv("POLYSOMA_CACHE", "")
    Dataset(write_v3(tmp_path / "one"))
    held = {cache.folder: cache.bytes for cache in caches()}
    monkeypatch.setenv("POLYSOMA_CACHE_GB", str(1.1 * max(held.values()) / 1e9))
    Dataset(write_v3(tmp_path / "other"))
    assert not held.keys() & {cache.folder for cache in caches()}, "these had to go"
    assert (home / "x" / "y").is_dir() and (outside / "summer").is_dir()
    assert not {"y", "summer"} & {cache.folder.name for cache in caches()}
    main(["data", "cache", "--clear"])
    assert caches() == [] and (home / "x" / "y").is_dir() and (outside / "summer").is_dir()


def test_a_cache_that_comes_with_the_data_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = record(tmp_path / "set")
    truth = Dataset(root).actions.copy()
    (cache,) = (root / ".cache").glob("?" * 32)
    path = cache / "action.npy"
    whole = path.read_bytes()
    # As it was left, it is used; with a file of another length it is not.
    made = cache.stat().st_ino
    assert np.array_equal(Dataset(root).actions, truth) and cache.stat().st_ino == made
    path.write_bytes(whole + bytes(8))
    assert np.array_equal(Dataset(root).actions, truth)
    # Somebody who unpacks the archive of a data set has another key.
    poisoned = np.load(path)
    np.save(path, poisoned + 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another user"))
    assert np.array_equal(Dataset(root).actions, truth)
    # Nor does a file that is a link count.
    (cache,) = (root / ".cache").glob("?" * 32)
    shutil.move(cache / "action.npy", tmp_path / "action.npy")
    (cache / "action.npy").symlink_to(tmp_path / "action.npy")
    np.save(tmp_path / "action.npy", poisoned + 1)
    assert np.array_equal(Dataset(root).actions, truth)


@pytest.mark.parametrize("how", ["written", "replaced", "copied"])
def test_a_cache_that_was_changed_by_others_is_not_used(how: str, tmp_path: Path) -> None:
    """As in the folder of a data set that was given away with its cache and came back."""
    root = record(tmp_path / "set")
    truth = Dataset(root).actions.copy()
    (cache,) = (root / ".cache").glob("?" * 32)
    path, before = cache / "action.npy", (cache / "action.npy").stat()
    if how == "written":
        np.save(path, truth + 1)
    elif how == "replaced":
        np.save(tmp_path / "action.npy", truth + 1)
        (tmp_path / "action.npy").replace(path)
    else:
        shutil.copytree(cache, tmp_path / "copy")
        np.save(tmp_path / "copy/action.npy", truth + 1)
        shutil.rmtree(cache)
        (tmp_path / "copy").replace(cache)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert np.array_equal(Dataset(root).actions, truth)


def test_the_key_is_this_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, key = record(tmp_path / "set"), tmp_path / "cache/polysoma/key"
    monkeypatch.setenv("POLYSOMA_CACHE", "raw")
    assert kind_of(root) == "raw" and key.stat().st_mode & 0o777 == 0o600
    # Somebody else's is not trusted, nor is one that a link leads to.
    with monkeypatch.context() as patch:
        patch.setattr("os.geteuid", lambda: key.stat().st_uid + 1)
        assert kind_of(root) == "memory"
    shutil.move(key, tmp_path / "key")
    key.symlink_to(tmp_path / "key")
    assert kind_of(root) == "memory"


def test_what_was_left_unfinished_is_listed_and_cleared_unless_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own, foreign = record(tmp_path / "own"), write_v3(tmp_path / "foreign")
    for root in (own, foreign):
        Dataset(root)
    (whole,) = caches()
    left = [folder / f"building-{'0' * 16}" for folder in (whole.folder.parent, own / ".cache")]
    for folder in left:
        shutil.copytree(whole.folder, folder)
    # While the lock is held, somebody writes there.
    with storage.lock(left[0].parent / "lock", wait=False) as alone:
        assert alone and [cache.kind for cache in caches()] == ["raw"]
        main(["data", "cache", "--clear"])
        assert left[0].is_dir() and not whole.folder.exists()
    # So it may be where the system has no locks.
    with monkeypatch.context() as patch:
        patch.setattr("fcntl.flock", lambda *given: (_ for _ in ()).throw(OSError("no locks")))
        assert caches() == []
    capsys.readouterr()
    main(["data", "cache"])
    said = capsys.readouterr().out
    assert f"unfinished  used 0 h ago  {left[0]}" in said and left[0].is_dir() and str(own) not in said
    main(["data", "cache", str(own), "--clear"])
    said = capsys.readouterr().out
    assert said.count("GB  unfinished") == 2 and str(left[1]) in said and "deleted 3" in said
    assert not left[0].exists() and not left[1].exists() and caches([own]) == []
    assert len(Dataset(own)) == 26


def test_what_was_left_unfinished_makes_room_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Dataset(write_v3(tmp_path / "one"))
    (whole,) = caches()
    left = whole.folder.with_name(f"building-{'0' * 16}")
    shutil.copytree(whole.folder, left)
    monkeypatch.setenv("POLYSOMA_CACHE_GB", str(2.2 * whole.bytes / 1e9))
    Dataset(write_v3(tmp_path / "other"))
    assert whole.folder.is_dir() and not left.exists() and len(caches()) == 2


def test_without_a_key_nothing_is_trusted_and_all_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = record(tmp_path / "set")
    truth = Dataset(root).observations["front"][:]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert kind_of(root) == "stream"
    np.testing.assert_array_equal(Dataset(root).observations["front"][:], truth)
    assert not list((root / ".cache").glob("building-*"))


def test_damaged_caches_are_made_again_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_v3(tmp_path / "set")
    monkeypatch.setenv("POLYSOMA_CACHE", "jpeg")
    whole = Dataset(root).observations["front"][:]
    (path,) = (tmp_path / "cache").rglob("*.jpegs")
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    np.testing.assert_array_equal(Dataset(root).observations["front"][:], whole)
    (path,) = (tmp_path / "cache").rglob("*.jpegs")
    # Of the same length, and while it is in use.
    column = Dataset(root).observations["front"]
    path.write_bytes(bytes(100) + content[100:])
    with pytest.raises(PolysomaError, match=r"images.front.jpegs, frame 0: .*delete .*it is made again"):
        column[0]
    np.testing.assert_array_equal(column[5:], whole[5:])
    np.testing.assert_array_equal(Dataset(root).observations["front"][:], whole)


def test_a_source_that_is_lost_or_damaged_meanwhile_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSOMA_CACHE", "stream")
    own, foreign = record(tmp_path / "own"), write_v3(tmp_path / "foreign")
    recorded, filmed = Dataset(own).observations["front"], Dataset(foreign).observations["front"]
    path = own / "data/chunk-000/file-000.parquet"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(PolysomaError, match=r"cannot read .*file-000.parquet"):
        recorded[0]
    assert len(recorded[11:]) == 15
    (own / "data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(PolysomaError, match=r"file-001.parquet is missing"):
        Dataset(own)
    (foreign / "videos/observation.images.front/chunk-000/file-001.mp4").unlink()
    with pytest.raises(PolysomaError, match=r"file-001.mp4.*episode 2"):
        filmed[20]


@pytest.mark.parametrize("maker", ["recorded", "images"])
def test_memory_stays_as_it_is_while_streaming(maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polysoma.data.writer.GROUP_BYTES", 2**18)
    monkeypatch.setattr("polysoma.data.recorded._KEPT_BYTES", 2**17)
    monkeypatch.setenv("POLYSOMA_CACHE", "stream")
    root = record(tmp_path / "set", 40) if maker == "recorded" else write_v2(tmp_path / "set", kind="image")
    dataset = Dataset(root)
    source = Source([dataset], [1.0], 0.5)
    size = source.draw(4, np.random.default_rng(0)).observations["front"].nbytes
    allocated = pa.total_allocated_bytes()
    tracemalloc.start()
    for step in range(50):
        source.draw(4, np.random.default_rng(step), goals=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Many times what a batch takes went through; the pixels of the whole set are 2 MB.
    assert peak < 30 * size + 2**19
    assert pa.total_allocated_bytes() - allocated < 2**19


def test_recordings_have_row_groups_that_are_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr("polysoma.data.writer.GROUP_BYTES", 8 * 24 * 32 * 3)
    root = record(tmp_path / "set")
    path = root / "data/chunk-000/file-001.parquet"
    assert pq.ParquetFile(path).num_row_groups == 3
    monkeypatch.setenv("POLYSOMA_CACHE", "stream")
    column = Dataset(root).observations["front"]
    read = []
    from pyarrow.parquet import ParquetFile

    read_row_group = ParquetFile.read_row_group
    monkeypatch.setattr(
        ParquetFile,
        "read_row_group",
        lambda file, group, *a, **k: read.append(group) or read_row_group(file, group, *a, **k),
    )
    column[np.array([11, 12, 25])]
    column[np.array([13])]
    assert read == [0, 2], "the first is kept"


def test_several_processes_make_one_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSOMA_CACHE", "jpeg")
    root, made, opened = write_v3(tmp_path / "set"), [], []

    def open_it() -> None:
        with listening(lambda what, done, total: made.append(done)):
            opened.append(Dataset(root).observations["front"][:])

    # Locks tell opened files apart, whichever process or thread has opened them.
    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [7, 11, 23] and len(opened) == 4
    assert all(np.array_equal(pictures, opened[0]) for pictures in opened)


def test_jpeg_files_are_made_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYSOMA_CACHE", "jpeg")
    alone = Dataset(write_v3(tmp_path / "set")).observations["front"]
    monkeypatch.setattr("polysoma.data.foreign._WORTH_THREADS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    together = Dataset(shutil.copytree(tmp_path / "set", tmp_path / "same")).observations["front"]
    np.testing.assert_array_equal(alone[:], together[:])
    assert [cache.kind for cache in caches()] == ["JPEG", "JPEG"]
    assert not list((tmp_path / "cache").rglob("*.parts"))


def test_one_frame_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_episode(SEEN_ARM, 1)
    assert isinstance(one, Episode)
    for kind in KINDS:
        monkeypatch.setenv("POLYSOMA_CACHE", kind)
        with DatasetWriter(tmp_path / kind, SEEN_ARM) as writer:
            writer.add(one)
        assert Dataset(tmp_path / kind).observations["front"][np.zeros((2, 2), int)].shape == (2, 2, 24, 32, 3)


def test_files_larger_than_memory_are_read_as_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (300, 24, 32, 3)).astype(np.uint8)
    np.save(tmp_path / "frames.npy", frames)
    assert type(MappedPictures.open(tmp_path / "frames.npy")) is np.memmap
    monkeypatch.setattr("polysoma.data.pictures._memory_bytes", lambda: frames.nbytes)
    mapped = MappedPictures.open(tmp_path / "frames.npy")
    assert isinstance(mapped, MappedPictures) and isinstance(mapped, np.memmap)
    for rows in (np.array([[0, 1], [298, 299]]), np.array([7]), np.array([250, 3, 99]), np.array(5), np.arange(300)):
        np.testing.assert_array_equal(mapped[rows], frames[rows])
        assert type(mapped[rows]) is np.ndarray
    for piece in (slice(10, 20), slice(None, None, 7), 4):
        np.testing.assert_array_equal(mapped[piece], frames[piece])
    # A slice is no longer what the file's places belong to.
    np.testing.assert_array_equal(mapped[100:][np.array([199])], frames[[299]])
    with pytest.raises(IndexError):
        mapped[np.array([300])]

"""Data sets: what goes in comes out, and no kill, full disk or damaged file goes unnoticed or costs much."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import SEEN_ARM, make_episode
from make_episodes import ARM, GRID, episode
from polysoma.data import layout, storage
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.mixture import Source
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError


def record(root: Path, body: Embodiment, seeds: range) -> list[Episode]:
    episodes = [episode(body, seed, steps=3 + seed) for seed in seeds]
    with DatasetWriter(root, body) as writer:
        for each in episodes:
            writer.add(each)
    return episodes


def check(root: Path, episodes: list[Episode]) -> Dataset:
    dataset = Dataset(root)
    assert dataset.embodiment == episodes[0].embodiment
    assert len(dataset) == sum(map(len, episodes))
    assert len(dataset.episode_start) == len(episodes)
    for number, expected in enumerate(episodes):
        start = dataset.episode_start[number]
        rows = slice(start, start + dataset.episode_length[number])
        for name, array in expected.observations.items():
            np.testing.assert_array_equal(dataset.observations[name][rows], array)
            assert dataset.observations[name].dtype == array.dtype
        np.testing.assert_array_equal(dataset.actions[rows], expected.actions)
        np.testing.assert_array_equal(dataset.executed[rows], expected.executed)
        assert dataset.actions.dtype == expected.actions.dtype
        assert dataset.tasks[dataset.episode_task[number]] == expected.task
        assert dataset.instructions[dataset.episode_instruction[number]] == expected.instruction
        assert dataset.episode_seed[number] == expected.seed
        assert dataset.episode_success[number] == expected.success
        assert dataset.episode_terminated[number] == expected.terminated
        assert dataset.episode_truncated[number] == expected.truncated
        assert dataset.rewards is not None and expected.rewards is not None
        np.testing.assert_array_equal(dataset.rewards[rows], expected.rewards)
        final = dataset.episode(number).final
        assert (final is None) == (expected.final is None)
        for name, array in (expected.final or {}).items():
            assert final is not None
            np.testing.assert_array_equal(final[name], array)
    return dataset


def check_metadata(root: Path, episodes: list[Episode]) -> None:
    """All that LeRobot reads agrees with the episodes."""
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"]) == (len(episodes), sum(map(len, episodes)))
    assert info["splits"] == {"train": f"0:{len(episodes)}"}
    tasks = pq.read_table(root / "meta/tasks.parquet").to_pydict()
    assert tasks["__index_level_0__"] == list(dict.fromkeys(each.instruction for each in episodes))
    assert info["total_tasks"] == len(tasks["task_index"])
    frames = [pq.read_table(path).to_pydict() for path in sorted((root / "data").glob("*/*"))]
    columns = {name: [value for frame in frames for value in frame[name]] for name in frames[0]}
    assert columns["index"] == list(range(info["total_frames"]))
    assert columns["episode_index"] == [n for n, each in enumerate(episodes) for _ in range(len(each))]
    assert columns["frame_index"] == [step for each in episodes for step in range(len(each))]
    texts = [tasks["__index_level_0__"][number] for number in columns["task_index"]]
    assert texts == [each.instruction for each in episodes for _ in range(len(each))]
    last = [step == len(each) - 1 for each in episodes for step in range(len(each))]
    assert columns["next.done"] == last
    succeeded = [each.success for each in episodes for _ in range(len(each))]
    assert columns["next.success"] == [yes and end for yes, end in zip(succeeded, last, strict=True)]
    rewards = np.concatenate([each.rewards for each in episodes if each.rewards is not None])
    np.testing.assert_array_equal(np.array(columns["next.reward"], np.float32), rewards)
    stats = json.loads((root / "meta/stats.json").read_text())
    assert stats["index"]["count"] == [info["total_frames"]]
    actions = np.concatenate([each.actions for each in episodes]).reshape(info["total_frames"], -1)
    np.testing.assert_allclose(stats["action"]["std"], actions.std(axis=0, dtype=np.float64))
    np.testing.assert_allclose(stats["action"]["q10"], np.quantile(actions.astype(np.float64), 0.1, axis=0))
    assert not list(root.rglob("*.tmp"))


@pytest.mark.parametrize("body", [ARM, GRID], ids=["arm", "grid"])
def test_round_trip(tmp_path: Path, body: Embodiment) -> None:
    episodes = record(tmp_path, body, range(6))
    dataset = check(tmp_path, episodes)
    assert isinstance(dataset.actions, np.memmap)
    assert not dataset.actions.flags.writeable
    check_metadata(tmp_path, episodes)
    expected = {"state", "touch", "action"} if body is ARM else set()
    assert set(Source([dataset], [1.0], 0.0).statistics()) == expected


def test_golden_layout(tmp_path: Path) -> None:
    record(tmp_path, GRID, range(2))
    info = json.loads((tmp_path / "meta/info.json").read_text())
    integer = {"dtype": "int64", "shape": [1], "names": None}
    action = {"dtype": "int64", "shape": [1], "names": ["action"]}
    assert info == {
        "codebase_version": "v3.0",
        "robot_type": "grid",
        "total_episodes": 2,
        "total_frames": 7,
        "total_tasks": 2,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": 10,
        "splits": {"train": "0:2"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            "observation.cells": {"dtype": "uint8", "shape": [7, 7, 3], "names": None},
            "observation.direction": {"dtype": "uint8", "shape": [1], "names": None},
            "action": action,
            "executed_action": action,
            "next.reward": {"dtype": "float32", "shape": [1], "names": None},
            "next.done": {"dtype": "bool", "shape": [1], "names": None},
            "next.success": {"dtype": "bool", "shape": [1], "names": None},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            "frame_index": integer,
            "episode_index": integer,
            "index": integer,
            "task_index": integer,
        },
    }
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*") if path.is_file()) == [
        ".writer.lock",
        "data/chunk-000/file-000.parquet",
        "final/chunk-000/file-000.parquet",
        "meta/episodes/chunk-000/file-000.parquet",
        "meta/info.json",
        "meta/polysoma.json",
        "meta/stats.json",
        "meta/tasks.parquet",
    ]
    pandas = json.loads(pq.read_schema(tmp_path / "meta/tasks.parquet").metadata[b"pandas"])
    assert pandas["index_columns"] == ["__index_level_0__"]
    assert [column["field_name"] for column in pandas["columns"]] == ["task_index", "__index_level_0__"]
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    assert set(stats) == set(info["features"])
    assert set(stats["action"]) == {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
    assert np.shape(stats["observation.cells"]["mean"]) == (7, 7, 3)
    assert json.loads((tmp_path / "meta/polysoma.json").read_text())["format_version"] == 2


def test_state_names_are_stored(tmp_path: Path) -> None:
    record(tmp_path, ARM, range(1))
    features = json.loads((tmp_path / "meta/info.json").read_text())["features"]
    assert features["observation.state"] == {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]}
    assert features["action"] == {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]}


def test_done_and_failures_outlive_the_writer(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, ARM) as writer:
        writer.add(episode(ARM, 1))
        writer.add_failure("arm/Go2", 2)
        assert writer.done == {("arm/Go1", 1), ("arm/Go2", 2)}
    with DatasetWriter(tmp_path, ARM) as writer:
        assert writer.done == {("arm/Go1", 1), ("arm/Go2", 2)}
        assert writer.failures == {"arm/Go2": [2]}
        writer.add_failure("arm/Go2", 5)
    assert Dataset(tmp_path).failures == {"arm/Go2": [2, 5]}


@pytest.mark.parametrize("killed_at", ["meta/episodes", "tasks.parquet", "info.json", "stats.json"])
def test_continues_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: str) -> None:
    class Killed(BaseException):
        pass

    episodes = record(tmp_path, GRID, range(3))
    replace = os.replace

    def kill(source: Path, target: Path) -> None:
        if killed_at in str(target):
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patch:
        writer = DatasetWriter(tmp_path, GRID)
        patch.setattr(os, "replace", kill)
        # A killed process would not clean up either.
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
        writer.add(episode(GRID, 7))
        with pytest.raises(Killed):
            writer.close()
    assert list(tmp_path.rglob("*.tmp"))
    lost = killed_at == "meta/episodes"
    check(tmp_path, episodes if lost else [*episodes, episode(GRID, 7)])
    with DatasetWriter(tmp_path, GRID) as writer:
        assert (("grid/Go1", 7) in writer.done) is not lost
        if lost:
            assert len(list((tmp_path / "data").glob("*/*"))) == 1
        else:
            check_metadata(tmp_path, [*episodes, episode(GRID, 7)])
        again = [episode(GRID, seed) for seed in ((7, 8) if lost else (8,))]
        for each in again:
            writer.add(each)
    everything = [*episodes, episode(GRID, 7), episode(GRID, 8)]
    check(tmp_path, everything)
    check_metadata(tmp_path, everything)


def test_what_was_recorded_before_an_exception_is_kept(tmp_path: Path) -> None:
    def interrupted() -> None:
        with DatasetWriter(tmp_path, ARM) as writer:
            writer.add(episode(ARM, 1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    check(tmp_path, [episode(ARM, 1)])


def test_flushes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polysoma.data.writer.FLUSH_FRAMES", 10)
    with DatasetWriter(tmp_path, ARM) as writer:
        for seed in range(5):
            writer.add(episode(ARM, seed))
        assert len(Dataset(tmp_path)) == 20
        assert not list(tmp_path.rglob("*.tmp"))
    check(tmp_path, [episode(ARM, seed) for seed in range(5)])
    assert len(list((tmp_path / "data").glob("*/*"))) == 3


def test_other_embodiment_is_refused(tmp_path: Path) -> None:
    record(tmp_path, ARM, range(1))
    with pytest.raises(PolysomaError, match="embodiment arm, got grid"):
        DatasetWriter(tmp_path, GRID)
    with pytest.raises(PolysomaError, match="with other rate_hz"):
        DatasetWriter(tmp_path, dataclasses.replace(ARM, rate_hz=21))
    with DatasetWriter(tmp_path, ARM) as writer, pytest.raises(PolysomaError, match="embodiment arm, got grid"):
        writer.add(episode(GRID, 0))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, ARM), pytest.raises(PolysomaError, match="another process is recording"):
        DatasetWriter(tmp_path, ARM)


def test_pictures_come_back_as_they_were(tmp_path: Path) -> None:
    episodes = [make_episode(SEEN_ARM, 5 + seed, seed) for seed in range(3)]
    with DatasetWriter(tmp_path, SEEN_ARM) as writer:
        for one in episodes:
            writer.add(one)
    dataset = Dataset(tmp_path)
    pictures = np.concatenate([one.observations["front"] for one in episodes])
    np.testing.assert_array_equal(dataset.observations["front"], pictures)
    stats = json.loads((tmp_path / "meta/stats.json").read_text())["observation.images.front"]
    assert np.shape(stats["mean"]) == (3, 1, 1) and 0.4 < stats["mean"][0][0][0] < 0.6
    info = json.loads((tmp_path / "meta/info.json").read_text())["features"]["observation.images.front"]
    assert info == {"dtype": "image", "shape": [24, 32, 3], "names": ["height", "width", "channels"]}


def test_a_damaged_picture_names_the_file(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path, SEEN_ARM) as writer:
        writer.add(make_episode(SEEN_ARM, 5))
    path = next(tmp_path.glob("data/*/*.parquet"))
    table = pq.read_table(path)
    place = table.column_names.index("observation.images.front")
    files = [{**cell, "bytes": cell["bytes"][:60]} for cell in table.column(place).to_pylist()]
    pq.write_table(table.set_column(place, table.field(place), [pa.array(files, table.field(place).type)]), path)
    with pytest.raises(PolysomaError, match=r"file-000.parquet.*damaged picture"):
        Dataset(tmp_path)


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = DatasetWriter(tmp_path, ARM)
    writer.add(episode(ARM, 1))

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PolysomaError) as caught:
            writer.flush()
    message = str(caught.value)
    assert "file-000.parquet: No space left on device; free some space and run the same command again" in message
    assert "\n" not in message
    assert not list(tmp_path.rglob("*.tmp"))
    writer.close()
    check(tmp_path, [episode(ARM, 1)])


@pytest.mark.parametrize("name", ["data", "final", "meta/episodes"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    record(tmp_path, ARM, range(3))
    otherwise = "record it again" if name == "meta/episodes" else "--skip-damaged"
    name = f"{name}/chunk-000/file-000.parquet"
    path = tmp_path / name
    whole = path.read_bytes()
    for part in (b"", whole[: len(whole) // 2], whole[:50] + bytes(200) + whole[250:]):
        path.write_bytes(part)
        with pytest.raises(PolysomaError, match=f"cannot read .*{name}.*copy it again.*{otherwise}") as caught:
            Dataset(tmp_path)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(PolysomaError, match=r"missing|no episode"):
        Dataset(tmp_path)


def test_changes_that_parquet_does_not_notice_are_found(tmp_path: Path) -> None:
    record(tmp_path, ARM, range(3))
    record(tmp_path, ARM, range(3, 5))
    path = tmp_path / "data/chunk-000/file-001.parquet"
    whole = path.read_bytes()
    table = pq.read_table(path)
    turned = table.column(0).take(pa.array(range(len(table)))[::-1])
    storage.write_parquet(path, table.set_column(0, table.field(0), turned))
    told = r"file-001.parquet \(episodes 3 to 4\): its checksum is not that in meta/polysoma.json"
    with pytest.raises(PolysomaError, match=told):
        Dataset(tmp_path)
    # Versions before wrote no checksums.
    polysoma = tmp_path / layout.POLYSOMA
    held = json.loads(polysoma.read_text())
    polysoma.write_text(json.dumps({key: value for key, value in held.items() if key != "checksums"}))
    assert len(Dataset(tmp_path)) == 25
    polysoma.write_text(json.dumps(held))
    path.write_bytes(whole)
    (tmp_path / "meta/episodes/chunk-000/file-001.parquet").unlink()
    with pytest.raises(PolysomaError, match=r"meta/episodes/.*file-001.parquet is missing"):
        Dataset(tmp_path)


def test_not_our_data_sets(tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match=r"there is nothing at .*nothing"):
        Dataset(tmp_path / "nothing")
    with DatasetWriter(tmp_path, ARM), pytest.raises(PolysomaError, match="no episode has been recorded"):
        Dataset(tmp_path)
    polysoma = tmp_path / layout.POLYSOMA
    data = json.loads(polysoma.read_text())
    polysoma.write_text(json.dumps(data | {"format_version": 99}))
    with pytest.raises(PolysomaError, match=r"format 99.*upgrade polysoma"):
        Dataset(tmp_path)
    polysoma.write_text("{")
    with pytest.raises(PolysomaError, match=r"cannot read .*polysoma.json"):
        Dataset(tmp_path)
    polysoma.unlink()
    with pytest.raises(PolysomaError, match="no tables of episodes"):
        Dataset(tmp_path)
    with pytest.raises(PolysomaError, match="not recorded by polysoma"):
        DatasetWriter(tmp_path, ARM)


def test_cache_is_made_again_when_data_grow(tmp_path: Path) -> None:
    first = record(tmp_path, ARM, range(2))
    before = check(tmp_path, first)
    cached = [path for path in (tmp_path / ".cache").iterdir() if path.is_dir()]
    stamps = {path: path.stat().st_mtime_ns for path in cached[0].iterdir()}
    check(tmp_path, first)
    assert {path: path.stat().st_mtime_ns for path in cached[0].iterdir()} == stamps
    second = record(tmp_path, ARM, range(2, 4))
    check(tmp_path, first + second)
    assert len([path for path in (tmp_path / ".cache").iterdir() if path.is_dir()]) == 1
    np.testing.assert_array_equal(before.actions[: len(first[0])], first[0].actions)


def test_cache_elsewhere_or_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = record(tmp_path / "set", GRID, range(3))
    (tmp_path / "set/.cache").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert isinstance(check(tmp_path / "set", episodes).actions, np.memmap)
    assert list((tmp_path / "home").rglob("*.npy"))
    shutil.rmtree(tmp_path / "home")
    (tmp_path / "home").write_text("in the way")
    assert not check(tmp_path / "set", episodes).actions.flags.writeable


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": {}}, r"expected the array streams \['state', 'touch'\], got \[\]"),
        ({"actions": np.zeros((5, 2))}, r"expected float32 of shape \(5, 2\) \(dx, dy\), got float64"),
        ({"executed": np.zeros((4, 2), np.float32)}, r"executed: expected .*\(5, 2\).*got float32 of shape \(4, 2\)"),
        ({"actions": np.full((5, 2), np.nan, np.float32)}, "expected finite numbers, got nan at step 0 in dx"),
        ({"actions": np.zeros((0, 2), np.float32)}, "at least one step"),
        ({"rewards": np.zeros(5)}, r"rewards: expected float32 of shape \(5,\), got float64 of shape \(5,\)"),
        ({"rewards": np.zeros(4, np.float32)}, r"rewards: expected float32 of shape \(5,\)"),
        (
            {"rewards": np.array([0, 0, 0, np.nan, 0], np.float32)},
            "rewards: expected finite .* nan at step 3",
        ),
        ({"rewards": [0.0] * 5}, "rewards: expected .* got list"),
        ({"terminated": None}, "terminated must be True or False, got None"),
        ({"truncated": 1}, "truncated must be True or False, got 1"),
        ({"final": {"state": np.zeros(3, np.float32)}}, r"final: expected the array streams \['state', 'touch'\]"),
        (
            {"final": {"state": np.zeros((1, 3), np.float32), "touch": np.zeros(1, np.float32)}},
            r"final, stream 'state': expected float32 of shape \(3,\) \(x, y, z\), got float32 of shape \(1, 3\)",
        ),
        (
            {"final": {"state": np.array([0, np.inf, 0], np.float32), "touch": np.zeros(1, np.float32)}},
            "final, stream 'state': expected finite numbers, got inf in y",
        ),
    ],
)
def test_wrong_episodes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PolysomaError, match=message):
        dataclasses.replace(episode(ARM, 1), **changes)


def test_wrong_symbols_are_refused() -> None:
    right = episode(GRID, 1)
    with pytest.raises(PolysomaError, match=r"expected ids below \(4,\), got up to \[9\]"):
        dataclasses.replace(right, observations=right.observations | {"direction": np.full((5, 1), 9, np.uint8)})
    with pytest.raises(PolysomaError, match=r"expected indices 0..2 \(left, right, forward\), got 3..3"):
        dataclasses.replace(right, actions=np.full(5, 3))


def test_what_others_wrote_is_left_alone(tmp_path: Path) -> None:
    for name in ("data/chunk-000/file-000.parquet", "data/notes.123.tmp", "meta/x.7.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"theirs")
    with pytest.raises(PolysomaError, match="expected an empty folder or a data set"):
        DatasetWriter(tmp_path, ARM)
    assert sorted(path.name for path in tmp_path.rglob("[!.]*.*")) == ["file-000.parquet", "notes.123.tmp", "x.7.tmp"]
    # What a writer that was killed at its very beginning left is no data.
    (tmp_path / "data/chunk-000/file-000.parquet").unlink()
    DatasetWriter(tmp_path, ARM).close()

"""LeRobot data sets of every version: what is in them comes out, and what is wrong with them is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import GOLDEN, SEEN_ARM, make_episode
from make_lerobot import FPS, LENGTHS, NAMES, SIDE, TASKS, WRITERS, changed, numbers, pictures, write_v3
from polysoma.data.doctor import examine
from polysoma.data.formats import is_dataset, open_reader
from polysoma.data.formats.lerobot import LeRobotReader
from polysoma.data.video import encode_video
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError


@pytest.mark.parametrize("version", WRITERS)
def test_every_version_reads_as_it_was_written(version: str, tmp_path: Path) -> None:
    reader = open_reader(WRITERS[version](tmp_path / "set"))
    assert isinstance(reader, LeRobotReader) and reader.format == f"LeRobotDataset {version[:4]}"
    assert (reader.robot, reader.fps, reader.lengths.tolist()) == ("test arm", 10.0, list(LENGTHS))
    assert list(reader.instructions) == [TASKS[0], TASKS[1], TASKS[0]]
    assert list(reader.columns) == [
        "observation.state", "action", "observation.images.front", "reward", "timestamp"
    ]  # fmt: skip
    assert reader.columns["action"].names == tuple(NAMES) and reader.columns["reward"].shape == ()
    # Backwards, so that nothing depends on reading in order.
    for episode in (2, 0, 1):
        held, length = reader.read(episode), LENGTHS[episode]
        for name, values in numbers(episode, length).items():
            np.testing.assert_array_equal(held[name], values)
        assert held["reward"].tolist() == [0.0] * (length - 1) + [1.0]
        seen = held["observation.images.front"]
        assert seen.shape == (length, SIDE, SIDE, 3) and seen.dtype == np.uint8
        off = np.abs(seen.astype(int) - pictures(episode, length)).mean((1, 2, 3))
        assert off.max() < (8 if "video" in version or "group" in version else 0.01)
    assert list(reader.read(0, ["action"])) == ["action"]
    # Batch out of order, from the same videos.
    for episode, start, stop in ((2, 5, 9), (0, 0, 2), (1, 3, 4), (2, 0, 12), (0, 6, 7), (0, 3, 3)):
        whole, part = reader.read(episode), reader.window(episode, start, stop)
        assert list(part) == list(whole)
        for name, values in whole.items():
            np.testing.assert_array_equal(part[name], values[start:stop])
    reader.close()


@pytest.mark.parametrize("version", WRITERS)
def test_nothing_is_wrong_with_what_is_right(version: str, tmp_path: Path) -> None:
    problems = list(open_reader(WRITERS[version](tmp_path / "set")).problems())
    # A text column is left out, and says so; there are no statistics.
    assert {problem.where for problem in problems} <= {"observation.note", "meta/stats.json"}
    assert all(problem.severity == "note" for problem in problems)


def test_our_own_data_sets_are_lerobots_too(tmp_path: Path) -> None:
    episodes = [make_episode(SEEN_ARM, 5 + seed, seed) for seed in range(3)]
    with DatasetWriter(tmp_path / "own", SEEN_ARM) as writer:
        for episode in episodes:
            writer.add(episode)
    reader = LeRobotReader(tmp_path / "own")
    for number, episode in enumerate(episodes):
        held = reader.read(number)
        np.testing.assert_array_equal(held["observation.images.front"], episode.observations["front"])
        np.testing.assert_array_equal(held["action"], episode.actions)


def found(root: Path) -> list[tuple[str, str, str]]:
    return [(problem.severity, problem.where, problem.what) for problem in open_reader(root).problems()]


def test_a_film_of_another_size_is_named(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    film = root / "videos/observation.images.front/chunk-000/file-000.mp4"
    film.write_bytes(encode_video([np.zeros((32, 48, 3), np.uint8)] * 11, FPS))
    with pytest.raises(PolysomaError, match=r"file-000.mp4, episode 0: frames of shape \(32, 48, 3\), meta/info.json"):
        open_reader(root).read(0)


def test_missing_and_short_videos_are_found(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    films = root / "videos/observation.images.front/chunk-000"
    (films / "file-000.mp4").write_bytes(encode_video(list(pictures(0, 9)), FPS))
    (films / "file-001.mp4").unlink()
    problems = found(root)
    assert (
        "error",
        "videos/observation.images.front/chunk-000/file-000.mp4",
        "holds 9 frames, the episodes need 11",
    ) in problems
    assert ("error", "videos/observation.images.front/chunk-000/file-001.mp4", "the video is missing") in problems
    reader = open_reader(root)
    # One of two videos is there, so the camera is not given up.
    assert reader.missing() == {} and len(reader.read(0)) == 5
    with pytest.raises(PolysomaError, match=r"file-000.mp4, episode 1: .*expected 4 frames.*got 2"):
        reader.read(1)
    with pytest.raises(PolysomaError, match=r"file-001.mp4 is missing"):
        reader.read(2)
    assert len(reader.read(2, ["action", "observation.state"])) == 2
    shutil.rmtree(films)
    assert list(open_reader(root).missing()) == ["observation.images.front"]


def test_numbers_that_disagree_are_found(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    changed(root, total_frames=99)
    path = root / "data/chunk-000/file-001.parquet"
    frames = pq.read_table(path)
    late = frames.set_column(
        frames.schema.get_field_index("timestamp"), "timestamp", pa.array(np.arange(12, dtype=np.float32) / 9)
    )
    twice = late.set_column(frames.schema.get_field_index("frame_index"), "frame_index", pa.array([0] * 12))
    pq.write_table(twice, path)
    stats = {
        "action": {"min": [-9.0] * 3, "max": [9.0] * 3, "mean": [0.0] * 3, "std": [5.0] * 3, "q01": [-8.0] * 3},
        "observation.images.front": {"std": [[[0.003]]] * 3},
    }
    (root / "meta/stats.json").write_text(json.dumps(stats))
    problems = found(root)
    assert ("error", "meta/info.json", "total_frames is 99, the episodes come to 23") in problems
    assert ("warning", "frame_index", "does not count frames in episodes 2") in problems
    assert any(where == "timestamp" and "off 10 frames a second in episodes 2" in what for _, where, what in problems)
    told = " ".join(what for _, where, what in problems if where == "meta/stats.json")
    assert "std not that of the frames: action" in told and "std of pictures near 0" in told and "quantiles" in told


def test_fewer_rows_than_episodes_need(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    path = root / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 9), path)
    assert ("error", "data/chunk-000/file-000.parquet", "holds 9 frames, the episodes need 11") in found(root)
    reader = open_reader(root)
    assert len(reader.read(0)["action"]) == 7
    with pytest.raises(PolysomaError, match=r"file-000.parquet, episode 1: .*4 frames from row 7 on, the file holds 9"):
        reader.read(1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codebase_version": "v1.6"}, "LeRobotDataset v1.6; this reads v3.0, v2.1, v2.0"),
        ({"fps": 0}, "fps is 0"),
        ({"features": {"action": {"dtype": "float32"}}}, "shape"),
        ({"data_path": "../../{chunk_index}{file_index}.parquet"}, "leads out of the data set"),
        ({"data_path": "/etc/passwd"}, "leads out of the data set"),
        ({"video_path": "videos/{nothing}.mp4"}, "nothing"),
    ],
)
def test_bad_descriptions_are_refused(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    changed(root, **fields)
    with pytest.raises(PolysomaError, match=message):
        open_reader(root).read(0)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match="there is nothing at"):
        open_reader(tmp_path / "nowhere")
    with pytest.raises(PolysomaError, match="not a data set of a format that is known here: LeRobotDataset v3"):
        open_reader(tmp_path)
    assert not is_dataset(tmp_path)
    reader = open_reader(write_v3(tmp_path / "set"))
    with pytest.raises(PolysomaError, match=r"but a folder of some: expected one, such as .*set$"):
        open_reader(tmp_path)
    with pytest.raises(PolysomaError, match="no episode 3; there are 3, from 0 on"):
        reader.read(3)
    with pytest.raises(PolysomaError, match=r"no columns \['speed'\]"):
        reader.read(0, ["speed"])


def test_what_the_real_lerobot_wrote_is_read() -> None:
    """tests/golden/lerobot-v3, made by tests/interop/make_lerobot_fixture.py."""
    folder = GOLDEN / "lerobot-v3"
    reader = open_reader(folder)
    assert (reader.format, reader.robot, reader.fps) == ("LeRobotDataset v3.0", "so101_follower", 10)
    assert list(reader.lengths) == [5, 8]
    assert list(reader.instructions) == ["push the square", "pull the square"]
    assert reader.columns["observation.state"].names == ("shoulder.pos", "gripper.pos")
    for episode, length in enumerate(reader.lengths):
        held = reader.read(episode)
        np.testing.assert_array_equal(held["observation.state"], [(frame, episode) for frame in range(length)])
        np.testing.assert_array_equal(held["action"], [(frame + 0.5, -episode) for frame in range(length)])
        for frame in range(length):
            square = np.full((32, 32, 3), 90, np.uint8)
            square[4 + 2 * frame : 12 + 2 * frame, 6 + 8 * episode : 14 + 8 * episode] = (230, 60 + 40 * episode, 40)
            np.testing.assert_array_equal(held["observation.images.wrist"][frame], 255 - square)
            # Video loses colour at edges; a frame too early or late would be off by far more.
            missed = np.abs(held["observation.images.front"][frame].astype(int) - square).mean()
            assert missed < 6
    reader.close()
    assert not [problem for problem in examine(folder).problems if problem.severity == "error"]

"""What can be wrong with the files of a LeRobotDataset: tables, counters, timestamps, videos, written statistics."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polysoma.data import door, layout, storage, stored
from polysoma.data.formats.reader import Problem, reading
from polysoma.data.statistics import Accumulator
from polysoma.data.video import same_rate, video_info
from polysoma.errors import PolysomaError
from polysoma.text import some

if TYPE_CHECKING:
    from polysoma.data.formats.lerobot import LeRobotReader

_AWRY_TIMES = 1e-4
"""Seconds by which LeRobot lets a timestamp be off before it refuses the data set."""


def problems(reader: LeRobotReader) -> Iterator[Problem]:
    """What is wrong with a data set: tables against files, counters, timestamps, videos, and written statistics."""
    for total, held in (("total_episodes", len(reader)), ("total_frames", int(reader.lengths.sum()))):
        if reader.info.get(total) != held:
            yield Problem(
                "error", layout.INFO, f"{total} is {reader.info.get(total)}, the episodes come to {held}",
                "copy the data set again; or correct the number if episodes were removed by hand",
            )  # fmt: skip
    yield from _checksum_problems(reader)
    yield from _file_problems(reader)
    yield from _counter_problems(reader)
    yield from _statistics_problems(reader)


def _checksum_problems(reader: LeRobotReader) -> Iterator[Problem]:
    """Our own recordings know the checksums of their files."""
    for name, expected in layout.checksums(reader.path).items():
        path = reader.path / name
        lacks = door.lacking(path)
        if lacks is not None:
            what = "it is missing" if not path.exists() else lacks
            yield Problem("error", name, what, f"copy this file again from where it came{_otherwise(name)}")
        elif storage.checksum(path) != expected:
            yield Problem(
                "error", name, f"its checksum is not that in {layout.POLYSOMA}: it was changed or is damaged",
                "copy this file again from where it came; if you changed it on purpose, remove its checksum"
                + _otherwise(name),
            )  # fmt: skip


def _otherwise(name: str) -> str:
    """What can be done where a file of our own recordings is lost: others hold other episodes, but for the tables."""
    return "" if name.startswith("meta/") else "; --skip-damaged leaves its episodes out"


def _file_problems(reader: LeRobotReader) -> Iterator[Problem]:
    ends: dict[Path, tuple[str, float]] = {}
    rows: dict[Path, int] = {}
    gone: dict[str, list[Path]] = {}
    for episode in range(len(reader)):
        with contextlib.suppress(PolysomaError):
            reader.places.settled(episode)
        with reading(reader.path / layout.INFO, reader.source(episode)):
            place = reader.places.place(episode)
        count = int(reader.lengths[episode])
        rows[place.file] = max(rows.get(place.file, 0), place.first_row + count)
        for key, (path, start) in place.videos.items():
            ends[path] = key, max(ends.get(path, (key, 0.0))[1], start + count / float(reader.fps or 1))
    if moved := sorted(map(reader.source, reader.places.moved)):
        yield Problem(
            "warning", "meta/episodes", f"does not say in which file or row the frames of episodes {some(moved)} lie",
            "nothing here, where rows are found by episode_index; convert the data set for others",
        )  # fmt: skip
    lost = [path for path in rows if not path.exists()]
    if lost:
        many = f"{len(lost)} files of frames are missing, such as {_name(reader, lost[0])}"
        yield Problem(
            "error", _name(reader, lost[0]) if len(lost) == 1 else "data",
            "the file of frames is missing" if len(lost) == 1 else many,
            "copy it again from where it came; --skip-damaged leaves its episodes out",
        )  # fmt: skip
    for path, needed in rows.items():
        if path in lost:
            continue
        try:
            with reading(path), door.open_parquet(path) as file:
                held = file.metadata.num_rows
        except PolysomaError as error:
            yield Problem("error", _name(reader, path), str(error), "copy this file again from where it came")
            continue
        if held != needed:
            yield Problem(
                "error", _name(reader, path), f"holds {held} frames, the episodes need {needed}",
                "copy the data set again from where it came",
            )  # fmt: skip
    for path, (key, end) in ends.items():
        if path.exists():
            yield from _video_problems(reader, path, key, end)
        else:
            gone.setdefault(key, []).append(path)
    for key, paths in gone.items():
        if len(paths) == 1:
            where, what = _name(reader, paths[0]), "the video is missing"
        else:
            where, what = key, f"{len(paths)} of its videos are missing, such as {_name(reader, paths[0])}"
        yield Problem("error", where, what, f"{_COPY}; --skip-damaged leaves their episodes out")


_COPY = "copy the file again; or leave the camera out of the embodiment's description"


def _video_problems(reader: LeRobotReader, path: Path, key: str, end: float) -> Iterator[Problem]:
    where = _name(reader, path)
    try:
        with reading(path):
            found = video_info(path)
    except PolysomaError as error:
        yield Problem("error", where, str(error), _COPY)
        return
    shape = next(reader.columns[name].shape for name, held in reader.keys.items() if held == (key,))
    fps = float(reader.fps or found.fps or 1)
    other = bool(found.fps) and not same_rate(found.fps, fps)
    frames = round(end * (found.fps if other else fps))
    if (found.height, found.width) != shape[:2]:
        yield Problem(
            "error", where, f"pictures of {found.height}x{found.width}, {layout.INFO} says {shape[0]}x{shape[1]}",
            f"correct the shape of {key} in {layout.INFO}, or record again",
        )  # fmt: skip
    if found.frames and found.frames < frames:
        yield Problem("error", where, f"holds {found.frames} frames, the episodes need {frames}", _COPY)
    if other:
        yield Problem(
            "warning", where, f"runs at {found.fps:g} frames a second, {layout.INFO} says {fps:g}",
            "find out which is true: pictures are found by their times, and a policy acts at the data set's rate",
        )  # fmt: skip


def _counter_problems(reader: LeRobotReader) -> Iterator[Problem]:
    awry: dict[str, list[int]] = {}
    worst = 0.0
    wanted = [key for key in ("timestamp", *stored.COUNTERS) if key in reader.info["features"]]
    start = 0
    for episode, count in enumerate(reader.lengths.tolist()):
        try:
            place = reader.places.settled(episode)
            with reading(place.file, reader.source(episode)):
                table = reader.places.table(place, count, tuple(wanted))
                held = {key: table[key].combine_chunks().to_numpy(zero_copy_only=False) for key in wanted}
        except PolysomaError:
            # Said already by what looks at the files.
            start += count
            continue
        steps = np.arange(count)
        number = int(reader.episodes["episode_index"][episode])
        expected = {"frame_index": steps, "episode_index": np.full(count, number), "index": start + steps}
        for key, values in expected.items():
            if key in held and not np.array_equal(held[key], values):
                awry.setdefault(key, []).append(reader.source(episode))
        if "timestamp" in held and count:
            off = np.abs(held["timestamp"] - held["timestamp"][0] - steps / float(reader.fps or 1)).max()
            if not off <= _AWRY_TIMES:
                awry.setdefault("timestamp", []).append(reader.source(episode))
                worst = max(worst, float(np.nan_to_num(off, nan=np.inf)))
        start += count
    for key, episodes in awry.items():
        listed = f"episodes {some(episodes)}"
        if key == "timestamp":
            rate = float(reader.fps or 1)
            yield Problem(
                "warning", key, f"up to {1e3 * worst:.3g} ms off {rate:g} frames a second in {listed}",
                "see whether frames were dropped; LeRobot refuses such data",
            )  # fmt: skip
        else:
            yield Problem("warning", key, f"does not count frames in {listed}", "number the frames again (convert)")


def _statistics_problems(reader: LeRobotReader) -> Iterator[Problem]:
    path = reader.path / "meta/stats.json"
    if not path.exists():
        if reader.v3:
            yield Problem("note", "meta/stats.json", "is missing", "nothing: statistics are recomputed here")
        return
    try:
        with reading(path):
            stats = door.read_json(path)
            written = {key: {k: np.array(v, float).ravel() for k, v in s.items()} for key, s in stats.items()}
    except PolysomaError as error:
        yield Problem("warning", "meta/stats.json", str(error), "nothing: statistics are recomputed here")
        return
    remedy = "do not normalise by it; statistics are recomputed here (LeRobot up to 0.4.4 writes such)"
    wrong: dict[str, list[str]] = {}
    for name, keys in reader.keys.items():
        about, key = reader.columns[name], keys[0]
        told = written.get(key) if len(keys) == 1 else None
        if told is None:
            continue
        if about.picture:
            if "std" in told and told["std"].size and told["std"].max() < 0.02:
                wrong.setdefault("std of pictures near 0", []).append(key)
            continue
        if about.dtype.kind != "f" or not len(reader):
            continue
        true = _recomputed(reader, name)
        for statistic in ("min", "max", "mean", "std"):
            if statistic in told and not _near(told[statistic], true[statistic], true):
                wrong.setdefault(f"{statistic} not that of the frames", []).append(key)
        for statistic in ("q01", "q99"):
            if statistic in told and not _near(told[statistic], true[statistic], true, 0.05):
                wrong.setdefault("quantiles not those of the frames", []).append(key)
                break
    for what, which in wrong.items():
        yield Problem("warning", "meta/stats.json", f"{what}: {', '.join(which)}", remedy)


def _recomputed(reader: LeRobotReader, name: str) -> dict[str, np.ndarray]:
    size = int(np.prod(reader.columns[name].shape))
    accumulator = Accumulator(int(reader.lengths.sum()), size)
    for episode, count in enumerate(reader.lengths):
        if count:
            accumulator.add(reader.read(episode, [name])[name].reshape(-1, size))
    return accumulator.result()


def _name(reader: LeRobotReader, path: Path) -> str:
    return path.relative_to(reader.path).as_posix()


def _near(told: np.ndarray, true: np.ndarray, all_true: dict[str, np.ndarray], part: float = 0.01) -> bool:
    """Whether a statistic agrees, up to a part of the channel's range."""
    room = part * (all_true["max"] - all_true["min"]) + 1e-4
    return told.shape == true.shape and bool((np.abs(told - true) <= room).all())

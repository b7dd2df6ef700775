"""LeRobotDataset v3.0, v2.1 and v2.0, read with PyArrow and PyAV.

Versions differ in where things lie. In v3.0 a file holds many episodes one after the other, and tables under
``meta/episodes`` say which rows and which seconds of video each episode is; in v2 an episode has files of its own and
``meta/episodes.jsonl`` lists them. Frames are found by their numbers; timestamps are data, which the doctor checks.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polysoma.data import layout, storage, stored
from polysoma.data.formats import lerobot_check
from polysoma.data.formats.naming import unused
from polysoma.data.formats.reader import (
    ACTION,
    DONE,
    OBSERVATION,
    PICTURE,
    REWARD,
    SUCCESS,
    TERMINATED,
    TRUNCATED,
    Column,
    Ending,
    Problem,
    Reader,
    reading,
)  # fmt: skip
from polysoma.data.images import decode_image
from polysoma.data.video import Video
from polysoma.errors import PolysomaError

_VERSIONS = ("v3.0", "v2.1", "v2.0")


_CALLED = {
    "next.reward": REWARD, "next.done": DONE, "next.terminated": TERMINATED, "next.truncated": TRUNCATED,
    "next.success": SUCCESS, "is_terminal": TERMINATED,
}  # fmt: skip
"""What LeRobot, and converters from RLDS, call the columns of the readers' vocabulary."""


def is_lerobot(path: Path) -> bool:
    """Whether a folder says that it is a LeRobotDataset."""
    return (path / layout.INFO).is_file()


@dataclass(frozen=True)
class _Place:
    """Where one episode lies: rows of a file, and seconds of videos by key."""

    file: Path
    first_row: int
    videos: dict[str, tuple[Path, float]]


class LeRobotReader(Reader):
    """A LeRobotDataset. Raises PolysomaError when it is of another version, or its tables are damaged."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        info_path = self.path / layout.INFO
        with reading(info_path):
            info = json.loads(info_path.read_text(encoding="utf-8"))
            version = str(info["codebase_version"])
            if version not in _VERSIONS:
                raise PolysomaError(f"{self.path}: LeRobotDataset {version}; this reads {', '.join(_VERSIONS)}")
            self.format, self.robot, self.fps = (
                f"LeRobotDataset {version}", str(info.get("robot_type") or ""), float(info["fps"])
            )  # fmt: skip
            if not 0 < self.fps < 1e5:
                raise ValueError(f"fps is {self.fps}")
            self.info: dict[str, Any] = info
            self.keys: dict[str, str] = {}
            self.left_out: dict[str, str] = {}
            self.columns = {}
            for key, feature in info["features"].items():
                self._describe(str(key), feature)
            self._videos = [key for key in self.keys.values() if info["features"][key]["dtype"] == "video"]
        self._files: dict[Path, tuple[pq.ParquetFile, np.ndarray]] = {}
        self._kept: dict[tuple[Path, int, int, tuple[str, ...]], pa.Table] = {}
        self._kept_bytes = 0
        self._films: dict[Path, Video] = {}
        self.v3 = version == "v3.0"
        self._read_episodes()

    def _describe(self, key: str, feature: dict[str, Any]) -> None:
        if key in stored.COUNTERS:
            return
        kind, shape = str(feature["dtype"]), tuple(int(size) for size in feature["shape"])
        if kind in ("video", "image"):
            about = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
            if about.get("video.is_depth_map"):
                self.left_out[key] = "depth maps are not read"
                return
            if len(shape) == 3 and shape[0] == 3 and shape[2] != 3:
                shape = (shape[1], shape[2], shape[0])
            if len(shape) != 3 or shape[2] != 3:
                self.left_out[key] = f"pictures of shape {shape} are not read"
                return
            name = unused(PICTURE + key.removeprefix(PICTURE).removeprefix(OBSERVATION), self.columns)
            self.columns[name] = Column(shape, np.dtype(np.uint8), picture=True)
        else:
            try:
                dtype = np.dtype(kind)
            except TypeError:
                self.left_out[key] = f"columns of {kind} are not read"
                return
            if dtype.kind not in "fiub":
                self.left_out[key] = f"columns of {kind} are not read"
                return
            shape = () if shape == (1,) and key != ACTION and not key.startswith(OBSERVATION) else shape
            name = _CALLED.get(key, key)
            # A column that is called so already comes first.
            name = key if name in self.columns else name
            names = _names(feature.get("names"))
            self.columns[name] = Column(shape, dtype, names if names and len(names) == np.prod(shape) else None)
        self.keys[name] = key

    def _read_episodes(self) -> None:
        rows = self._read_tables() if self.v3 else self._read_lines()
        where = self.path / "meta"
        with reading(where):
            self.lengths = np.array(rows.pop("length"), np.int64)
            tasks = rows.pop("tasks", None) or [None] * len(self.lengths)
            self.instructions = [str(names[0]) if names else "" for names in tasks]
            self.successes = rows.pop(layout.SUCCESS, None)
            finals = rows.pop(layout.HAS_FINAL, None)
            # LeRobot's own tools copy tables of episodes, and leave behind what they do not know.
            self.finals = finals if (self.path / "final").is_dir() else None
            self.episodes = {name: np.asarray(values) for name, values in rows.items()}
            if len(self.lengths) and not 0 <= self.lengths.min() <= self.lengths.max() < 2**40:
                raise ValueError(f"episodes of {self.lengths.min()} to {self.lengths.max()} frames")
            if not self.v3:
                return
            files = np.stack([self.episodes["data/chunk_index"], self.episodes["data/file_index"]], 1)
            _, which = np.unique(files, axis=0, return_inverse=True)
            # Rows of a file are counted from the first episode that lies in it.
            starts = self.episodes["dataset_from_index"].astype(np.int64)
            lowest = np.full(len(files), np.iinfo(np.int64).max)
            np.minimum.at(lowest, which.ravel(), starts)
            self.episodes["row"] = starts - lowest[which.ravel()]

    def _read_tables(self) -> dict[str, Any]:
        columns = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
        columns += [f"videos/{key}/{what}" for key in self._videos for what in _VIDEO_PLACE]
        columns += [layout.SUCCESS, layout.TERMINATED, layout.TRUNCATED, layout.HAS_FINAL]
        tables = []
        for path in sorted((self.path / "meta/episodes").glob("chunk-*/file-*.parquet")):
            with reading(path), storage.open_parquet(path) as file:
                held = set(file.schema_arrow.names)
                tables.append(file.read([name for name in columns if name in held], use_threads=False))
        if not tables:
            raise PolysomaError(f"{self.path}: there are no tables of episodes under meta/episodes")
        with reading(self.path / "meta/episodes"):
            table = pa.concat_tables(tables, promote_options="default").sort_by("episode_index")
            return {
                name: table[name].to_pylist() if name == "tasks" else table[name].to_numpy()
                for name in table.column_names
            }

    def _read_lines(self) -> dict[str, Any]:
        path = self.path / "meta/episodes.jsonl"
        with reading(path):
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            lines.sort(key=lambda row: int(row["episode_index"]))
            return {
                "episode_index": [int(row["episode_index"]) for row in lines],
                "length": [int(row["length"]) for row in lines],
                "tasks": [row.get("tasks") for row in lines],
            }

    def place(self, episode: int) -> _Place:
        rows, info = self.episodes, self.info
        number = int(rows["episode_index"][episode])
        if not self.v3:
            chunk = number // max(1, int(info.get("chunks_size", 1000)))
            fields: dict[str, Any] = {"episode_chunk": chunk, "episode_index": number}
            videos = {key: (self._inside(info["video_path"], **fields, video_key=key), 0.0) for key in self._videos}
            return _Place(self._inside(info["data_path"], **fields), 0, videos)
        videos = {}
        for key in self._videos:
            chunk, file, start = (rows[f"videos/{key}/{what}"][episode] for what in _VIDEO_PLACE)
            path = self._inside(info["video_path"], video_key=key, chunk_index=int(chunk), file_index=int(file))
            videos[key] = (path, float(start))
        chunk, file = int(rows["data/chunk_index"][episode]), int(rows["data/file_index"][episode])
        data = self._inside(info["data_path"], chunk_index=chunk, file_index=file)
        return _Place(data, int(rows["row"][episode]), videos)

    def _inside(self, template: str, **fields: Any) -> Path:
        name = PurePosixPath(template.format(**fields))
        if name.is_absolute() or ".." in name.parts:
            raise PolysomaError(f"{self.path / layout.INFO}: {template!r} leads out of the data set")
        return self.path / name

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """See :meth:`Reader.window`: of videos, only what lies between is decoded."""
        rows, names = self.rows(episode, start, stop), self.wanted(columns)
        start, stop, count = rows.start, rows.stop, int(self.lengths[episode])
        with reading(self.path / layout.INFO, episode):
            place = self.place(episode)
        files = tuple(self.keys[name] for name in names if self.keys[name] not in self._videos)
        table: pa.Table | None = None
        if files:
            with reading(place.file, episode):
                table = self.table(place, count, files).slice(start, stop - start)
        result = {}
        for name in names:
            key, about = self.keys[name], self.columns[name]
            if table is not None and key not in self._videos:
                with reading(place.file, episode):
                    result[name] = self._values(table[key], about, stop - start)
            elif start == stop:
                result[name] = np.empty((0, *about.shape), about.dtype)
            else:
                path, second = place.videos[key]
                with reading(path, episode):
                    result[name] = self._film(path, second, start, stop)
                    if result[name].shape[1:] != about.shape:
                        raise ValueError(f"frames of shape {result[name].shape[1:]}, {layout.INFO} says {about.shape}")
        return result

    def _film(self, path: Path, second: float, start: int, stop: int) -> np.ndarray:
        fps = float(self.fps or 1)
        film = self._films.pop(path, None) or Video(path)
        try:
            pictures = film.read(second + start / fps, stop - start, fps)
        except BaseException:
            film.close()
            raise
        self._films[path] = film
        if len(self._films) > _OPEN_VIDEOS:
            self._films.pop(next(iter(self._films))).close()
        return pictures

    def table(self, place: _Place, count: int, keys: tuple[str, ...]) -> pa.Table:
        """The rows of an episode. What was read last is kept: windows come from the same episodes again and again."""
        file, ends = self._opened(place.file)
        if not 0 <= place.first_row <= place.first_row + count <= file.metadata.num_rows:
            raise ValueError(
                f"expected {count} frames from row {place.first_row} on, the file holds {file.metadata.num_rows}"
            )
        if not count:
            return file.schema_arrow.empty_table().select(list(keys))
        first, last = np.searchsorted(ends, [place.first_row, place.first_row + count - 1], side="right")
        wanted = place.file, int(first), int(last), keys
        table = self._kept.pop(wanted, None)
        if table is None:
            table = file.read_row_groups(list(range(int(first), int(last) + 1)), list(keys), use_threads=False)
            self._kept_bytes += table.nbytes
        self._kept[wanted] = table
        while len(self._kept) > 1 and self._kept_bytes > _KEPT_BYTES:
            self._kept_bytes -= self._kept.pop(next(iter(self._kept))).nbytes
        return table.slice(place.first_row - (int(ends[first - 1]) if first else 0), count)

    def _opened(self, path: Path) -> tuple[pq.ParquetFile, np.ndarray]:
        """A file, and the row after the last one of each of its groups."""
        held = self._files.pop(path, None)
        if held is None:
            file = storage.open_parquet(path)
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            held = file, np.cumsum(groups)
        self._files[path] = held
        if len(self._files) > _OPEN_FILES:
            self._files.pop(next(iter(self._files)))[0].close()
        return held

    def _values(self, column: pa.ChunkedArray, about: Column, count: int) -> np.ndarray:
        whole = column.combine_chunks()
        if about.picture:
            pictures = np.empty((count, *about.shape), np.uint8)
            for row, file in enumerate(whole.field("bytes") if pa.types.is_struct(whole.type) else whole):
                pictures[row] = decode_image(file.as_py(), about.shape)
            return pictures
        while pa.types.is_list(whole.type) or pa.types.is_fixed_size_list(whole.type):
            whole = whole.flatten()
        if whole.null_count:
            raise ValueError(f"{whole.null_count} values are missing")
        values: np.ndarray = whole.to_numpy(zero_copy_only=False)
        if values.size != count * int(np.prod(about.shape)):
            raise ValueError(f"expected {count} values of shape {about.shape}, got {values.size} numbers")
        return values.astype(about.dtype, copy=False).reshape(count, *about.shape)

    def ending(self, episode: int, held: Mapping[str, np.ndarray] | None = None) -> Ending:
        """See :meth:`Reader.ending`: recordings of ours tell terminations from truncations, LeRobot does not."""
        self.check_episode(episode)
        if layout.TERMINATED not in self.episodes:
            return super().ending(episode, held)
        terminated, truncated = (bool(self.episodes[name][episode]) for name in (layout.TERMINATED, layout.TRUNCATED))
        success = None if self.successes is None else bool(self.successes[episode])
        return Ending(terminated, truncated, success)

    def _final(self, episode: int, columns: Collection[str]) -> dict[str, np.ndarray]:
        assert self.finals is not None
        chunk, file = (self.episodes[name] for name in ("data/chunk_index", "data/file_index"))
        same = (chunk[:episode] == chunk[episode]) & (file[:episode] == file[episode])
        row = int((same & self.finals[:episode]).sum())
        path = self.path / layout.FINAL_PATH.format(chunk_index=int(chunk[episode]), file_index=int(file[episode]))
        keys = [stored.FINAL + self.keys[name] for name in columns]
        with reading(path, episode), storage.open_parquet(path) as opened:
            table = opened.read(keys, use_threads=False).slice(row, 1)
            return {
                name: self._values(table[key], self.columns[name], 1)[0]
                for name, key in zip(columns, keys, strict=True)
            }

    def missing(self) -> dict[str, str]:
        """See :meth:`Reader.missing`: cameras none of whose videos are there."""
        gone = {}
        for name, key in self.keys.items():
            if key in self._videos and len(self):
                with reading(self.path / layout.INFO):
                    path = self.place(0).videos[key][0]
                if (
                    not path.exists()
                    and not any(self.path.glob(f"videos/{_plain(key)}/**/*.mp4"))
                    and not any(self.path.glob(f"videos/*/{_plain(key)}/*.mp4"))
                ):
                    where = path.relative_to(self.path).as_posix()
                    gone[name] = f"{where} and all other videos of this camera are missing"
        return gone

    def files(self) -> list[Path]:
        """See :meth:`Reader.files`."""
        folders = ("meta", "data", "videos", "final")
        return sorted(path for folder in folders for path in (self.path / folder).rglob("*") if path.is_file())

    def close(self) -> None:
        """See :meth:`Reader.close`."""
        while self._files:
            self._files.popitem()[1][0].close()
        self._kept, self._kept_bytes = {}, 0
        while self._films:
            self._films.popitem()[1].close()

    def problems(self) -> Iterator[Problem]:
        """See :meth:`Reader.problems`: tables against files, counters, timestamps, videos, and written statistics."""
        yield from lerobot_check.problems(self)


_OPEN_FILES = _OPEN_VIDEOS = 8
_KEPT_BYTES = 2**26
"""Of tables that were read beside the one that was asked for last."""
_VIDEO_PLACE = ("chunk_index", "file_index", "from_timestamp")


def _names(given: Any) -> tuple[str, ...] | None:
    """Names of channels, which v2 data sets may wrap into a table of one list or more."""
    if isinstance(given, dict):
        parts = [part for part in given.values() if isinstance(part, list)]
        given = [name for part in parts for name in part] if parts else list(given)
    names = tuple(str(name) for name in given) if isinstance(given, list) else ()
    return names if len(set(names)) == len(names) and names else None


def _plain(key: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in key)

"""LeRobotDataset v3.0, v2.1 and v2.0, read with PyArrow and PyAV.

Versions differ in where things lie. In v3.0 a file holds many episodes one after the other, and tables under
``meta/episodes`` say which rows and which seconds of video each episode is; in v2 an episode has files of its own and
``meta/episodes.jsonl`` lists them. Rows are those of the episode's number, wherever the tables say they lie; pictures
of films are found by their times, and every one of them is checked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from polysoma.data import door, layout, stored
from polysoma.data.formats import lerobot_check, lerobot_words
from polysoma.data.formats.arrow import flat_numbers
from polysoma.data.formats.lerobot_columns import annotations_in, describe
from polysoma.data.formats.lerobot_places import EPISODE, Places
from polysoma.data.formats.lerobot_tables import read_lines, read_tables
from polysoma.data.formats.reader import Column, Ending, Problem, Reader, reading
from polysoma.data.images import decode_image
from polysoma.data.numbering import UNNUMBERED, numbers_of
from polysoma.data.video import Video, same_rate
from polysoma.errors import PolysomaError

_VERSIONS = ("v3.0", "v2.1", "v2.0")
_MODALITY = "meta/modality.json"
_TASK, _TIME = "task_index", "timestamp"


def is_lerobot(path: Path) -> bool:
    """Whether a folder says that it is a LeRobotDataset."""
    return (path / layout.INFO).is_file()


class LeRobotReader(Reader):
    """A LeRobotDataset. Raises PolysomaError when it is of another version, or its tables are damaged."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        info_path = self.path / layout.INFO
        with reading(info_path):
            self.info: dict[str, Any] = door.read_json(info_path)
            self.remarks: list[str] = []
            version = self._version()
            self.v3 = version == "v3.0"
            self.format, self.robot = f"LeRobotDataset {version}", str(self.info.get("robot_type") or "")
            self.fps = float(self.info["fps"]) if self.info.get("fps") is not None else None
            if self.fps is not None and not 0 < self.fps < 1e5:
                raise ValueError(f"fps is {self.fps}")
            if not isinstance(self.info.get("features"), dict):
                raise PolysomaError(
                    f"{info_path}: expected `features`, a table of every column's dtype and shape, and there is none"
                )
        modality = {}
        if (self.path / _MODALITY).is_file():
            with reading(self.path / _MODALITY):
                modality = door.read_json(self.path / _MODALITY)
        with reading(info_path):
            found = describe(self.info["features"], modality)
        self.columns, self.keys, self.left_out = found.columns, found.keys, found.left_out
        self._videos = found.videos
        self.remarks += found.remarks
        for key, rate in found.rates.items():
            if self.fps is not None and not same_rate(rate, self.fps):
                self.remarks.append(
                    f"{key} runs at {rate:g} frames a second, the table at {self.fps:g}: pictures are found by time"
                )
        told = [key for key in annotations_in(modality) if key in self.info["features"] and "task_description" in key]
        self._told = told[0] if told else _TASK
        self._films: dict[Path, Video] = {}
        self._rows_of_film: dict[Path, int] | None = None
        self._read_episodes()

    def _version(self) -> str:
        told = self.info.get("codebase_version")
        if told is None:
            found = "v3.0" if (self.path / "meta/episodes").is_dir() else "v2.1"
            self.remarks.append(f"{layout.INFO} has no codebase_version; the files lie as in {found}")
            return found
        version = "v" + ".".join(str(told).removeprefix("v").split(".")[:2])
        if version not in _VERSIONS:
            raise PolysomaError(f"{self.path}: LeRobotDataset {told}; this reads {', '.join(_VERSIONS)}")
        return version

    def _read_episodes(self) -> None:
        rows = read_tables(self.path, self._videos) if self.v3 else read_lines(self.path)
        where = self.path / "meta"
        with reading(where):
            rows = self._once(rows)
            self.lengths = np.array(rows.pop("length"), np.int64)
            told = rows.pop("tasks", None) if self._told == _TASK else None
            told = told or [None] * len(self.lengths)
            self.successes = rows.pop(layout.SUCCESS, None)
            finals = rows.pop(layout.HAS_FINAL, None)
            # LeRobot's own tools copy tables of episodes, and leave behind what they do not know.
            self.finals = finals if (self.path / "final").is_dir() else None
            # LeRobot's tools for v3 give tasks new numbers in the frames, and leave tables and statistics as they were.
            constant = {} if self.v3 else lerobot_words.read_constant(self.path, self._told)
            self.episodes = {name: np.asarray(values) for name, values in rows.items()}
            self.numbers = numbers_of(self.episodes[EPISODE].tolist())
            if self.numbers is None:
                self.remarks.append(UNNUMBERED)
            if len(self.lengths) and not 0 <= self.lengths.min() <= self.lengths.max() < 2**40:
                raise ValueError(f"episodes of {self.lengths.min()} to {self.lengths.max()} frames")
            self.places = Places(self.path, self.info, self.v3, self._videos, self.episodes, self.lengths)
        total = self.info.get("total_episodes")
        if isinstance(total, int) and total > len(self):
            self.remarks.append(f"{layout.INFO} speaks of {total:,} episodes, the tables have {len(self):,}")
        numbers = self.episodes[EPISODE].tolist()
        held: dict[Path, tuple[np.ndarray, np.ndarray]] = {}
        self.instructions, self.changes = lerobot_words.words(
            told,
            lerobot_words.read_tasks(self.path),
            [constant.get(number) for number in numbers],
            lambda episode: self._tasks_of(episode, held),
            trusted=not self.v3,
        )

    def _once(self, rows: dict[str, Any]) -> dict[str, Any]:
        """The rows of tables, one of each episode: what was written last, as LeRobot reads them."""
        last = {int(number): row for row, number in enumerate(rows[EPISODE])}
        twice = len(rows[EPISODE]) - len(last)
        if not twice:
            return rows
        self.remarks.append(f"meta: {twice:,} episodes are listed more than once; what is listed last counts")
        kept = list(last.values())
        return {
            name: values[kept] if isinstance(values, np.ndarray) else [values[row] for row in kept]
            for name, values in rows.items()
        }

    def _tasks_of(self, episode: int, held: dict[Path, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """The number of each frame's task. ``held``: of files that were read whole, the episodes and tasks of rows."""
        count = int(self.lengths[episode])
        if self._told not in self.info["features"]:
            return np.zeros(0, np.int64)
        with reading(self.path / layout.INFO, self.source(episode)):
            place = self.places.place(episode)
        if self.v3:
            if place.file not in held:
                held[place.file] = self._rows_told(place.file)
            rows = slice(place.first_row, place.first_row + count)
            numbers, tasks = (column[rows] for column in held[place.file])
            if len(numbers) == count and (numbers == self.episodes[EPISODE][episode]).all():
                return tasks
        try:
            place = self.places.settled(episode)
            with reading(place.file, self.source(episode)):
                return flat_numbers(self.places.table(place, count, (self._told,))[self._told]).astype(np.int64)
        except PolysomaError:
            # Whoever reads the episode is told so then.
            return np.zeros(0, np.int64)

    def _rows_told(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Of all rows of a file, the episode and the task; nothing where it cannot be read, which its reader tells."""
        try:
            with reading(path), door.open_parquet(path) as file:
                table = file.read([EPISODE, self._told], use_threads=False)
                return tuple(flat_numbers(table[key]).astype(np.int64) for key in (EPISODE, self._told))  # type: ignore[return-value]
        except PolysomaError:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """See :meth:`Reader.window`: of videos, only what lies between is decoded."""
        rows, names = self.rows(episode, start, stop), self.wanted(columns)
        start, stop, count = rows.start, rows.stop, int(self.lengths[episode])
        films = [name for name in names if self.keys[name][0] in self._videos]
        keys = [key for name in names if name not in films for key in self.keys[name]]
        table: pa.Table | None = None
        if keys:
            place = self.places.settled(episode)
            with reading(place.file, self.source(episode)):
                table = self.places.table(place, count, tuple(keys))
        else:
            with reading(self.path / layout.INFO, self.source(episode)):
                place = self.places.place(episode)
        result = {}
        for name in names:
            about = self.columns[name]
            if name not in films:
                assert table is not None
                with reading(place.file, self.source(episode)):
                    result[name] = self._values([table[key] for key in self.keys[name]], about, start, stop)
            elif start == stop:
                result[name] = np.empty((0, *about.shape), about.dtype)
            else:
                path, second = place.videos[self.keys[name][0]]
                with reading(path, self.source(episode)):
                    result[name] = self._pictures(episode, path, second, start, stop, about.shape)
        return result

    def _pictures(
        self, episode: int, path: Path, second: float, start: int, stop: int, shape: tuple[int, ...]
    ) -> np.ndarray:
        film = self._films.pop(path, None) or Video(path)
        fps = self.fps or film.rate or 1.0
        try:
            # Room is made for what was expected, whatever the film says.
            if film.shape != shape:
                raise ValueError(f"frames of shape {film.shape}, {layout.INFO} says {shape}")
            # Of a film whose rate is that of the data but for rounding (29.97), each frame is one of its own.
            rate = film.rate if same_rate(film.rate, fps) else fps
            at = np.arange(start, stop) / rate
            if film.frames != self._film_rows(path):
                told = self._times(episode, (film.frames + 1) / film.rate - second if film.rate else np.inf)
                if told is not None and np.abs(told - np.arange(len(told)) / fps).max() > 0.5 / fps:
                    # Rows were taken out, pictures were not: times alone say which are which.
                    at = told[start:stop]
            pictures = film.read(second + at, 0.5 / fps)
        except BaseException as error:
            slow = isinstance(error, ValueError) and 0 < film.rate < fps and not same_rate(film.rate, fps)
            film.close()
            if slow:
                raise ValueError(f"{error}; it has {film.rate:g} frames a second, the table {fps:g}") from error
            raise
        self._films[path] = film
        if len(self._films) > _OPEN_VIDEOS:
            self._films.pop(next(iter(self._films))).close()
        return pictures

    def _times(self, episode: int, end: float) -> np.ndarray | None:
        """Seconds of an episode's frames after its beginning in a film, which go on until ``end`` at most; None where
        the data do not say."""
        if _TIME not in self.info["features"]:
            return None
        place = self.places.settled(episode)
        with reading(place.file, self.source(episode)):
            column = self.places.table(place, int(self.lengths[episode]), (_TIME,))[_TIME]
            told = flat_numbers(column).astype(np.float64)
        # Some recorders write the time of day; others milliseconds, or nothing but zeros.
        told = told if told.max() <= end else told - told[0]
        return told if told.max() <= end and (np.diff(told) > 0).all() else None

    def _film_rows(self, path: Path) -> int:
        """Frames of all episodes that are in a film."""
        if self._rows_of_film is None:
            self._rows_of_film = {}
            for episode, count in enumerate(self.lengths.tolist()):
                for film, _ in self.places.place(episode).videos.values():
                    self._rows_of_film[film] = self._rows_of_film.get(film, 0) + count
        return self._rows_of_film.get(path, 0)

    def _values(self, columns: list[pa.ChunkedArray], about: Column, start: int, stop: int) -> np.ndarray:
        """Rows of the file's columns that stand in one of ours, one after the other."""
        count = stop - start
        if about.picture:
            whole = columns[0].slice(start, count).combine_chunks()
            pictures = np.empty((count, *about.shape), np.uint8)
            for row, file in enumerate(whole.field("bytes") if pa.types.is_struct(whole.type) else whole):
                pictures[row] = decode_image(file.as_py(), about.shape)
            return pictures
        parts = [flat_numbers(column.slice(start, count)) for column in columns]
        size = sum(len(part) for part in parts)
        if size != count * int(np.prod(about.shape)) or any(len(part) % max(count, 1) for part in parts):
            raise ValueError(f"expected {count} values of shape {about.shape}, got {size} numbers")
        values = np.concatenate([part.reshape(count, -1) for part in parts], 1) if count else np.zeros(0)
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
        keys = [stored.FINAL + self.keys[name][0] for name in columns]
        with reading(path, self.source(episode)), door.open_parquet(path) as opened:
            table = opened.read(keys, use_threads=False).slice(row, 1)
            return {
                name: self._values([table[key]], self.columns[name], 0, 1)[0]
                for name, key in zip(columns, keys, strict=True)
            }

    def missing(self) -> dict[str, str]:
        """See :meth:`Reader.missing`: cameras none of whose videos are there."""
        gone = {}
        for name, (key, *_) in self.keys.items():
            if key in self._videos and len(self):
                with reading(self.path / layout.INFO):
                    path = self.places.place(0).videos[key][0]
                if (
                    not path.exists()
                    and not any(self.path.glob(f"videos/{_plain(key)}/**/*.mp4"))
                    and not any(self.path.glob(f"videos/*/{_plain(key)}/*.mp4"))
                ):
                    where = path.relative_to(self.path).as_posix()
                    gone[name] = f"{where} and all other videos of this camera are missing"
        return gone

    def absent(self, columns: Collection[str]) -> dict[int, str]:
        """See :meth:`Reader.absent`."""
        films = [self.keys[name][0] for name in self.wanted(columns) if self.keys[name][0] in self._videos]
        wrong: dict[Path, str | None] = {}
        gone: dict[int, str] = {}
        for episode in np.flatnonzero(self.lengths).tolist():
            with reading(self.path / layout.INFO, self.source(episode)):
                place = self.places.place(episode)
            for path in (place.file, *(place.videos[key][0] for key in films)):
                if path not in wrong:
                    wrong[path] = door.lacking(path)
                if (what := wrong[path]) is not None:
                    gone.setdefault(episode, what)
        return gone

    def files(self) -> list[Path]:
        """See :meth:`Reader.files`."""
        folders = ("meta", "data", "videos", "final")
        return sorted(path for folder in folders for path in (self.path / folder).rglob("*") if path.is_file())

    def close(self) -> None:
        """See :meth:`Reader.close`."""
        self.places.close()
        while self._films:
            self._films.popitem()[1].close()

    def problems(self) -> Iterator[Problem]:
        """See :meth:`Reader.problems`: tables against files, counters, timestamps, videos, and written statistics."""
        yield from super().problems()
        yield from lerobot_check.problems(self)


_OPEN_VIDEOS = 8


def _plain(key: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in key)

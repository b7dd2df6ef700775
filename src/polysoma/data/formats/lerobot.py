"""LeRobotDataset v3.0, v2.1 and v2.0, read with PyArrow and PyAV.

Versions differ in where things lie. In v3.0 a file holds many episodes one after the other, and tables under
``meta/episodes`` say which rows and which seconds of video each episode is; in v2 an episode has files of its own and
``meta/episodes.jsonl`` lists them. Rows are those of the episode's number, wherever the tables say they lie; pictures
of films are found by their times, and every one of them is checked.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polysoma.data import door, layout, stored
from polysoma.data.formats import lerobot_check, lerobot_words
from polysoma.data.formats.arrow import flat_numbers
from polysoma.data.formats.lerobot_columns import describe, told_by
from polysoma.data.formats.lerobot_tables import V2_DATA, V2_VIDEO, VIDEO_PLACE, both, named, read_lines, read_tables
from polysoma.data.formats.reader import Column, Ending, Problem, Reader, reading
from polysoma.data.images import decode_image
from polysoma.data.video import Video
from polysoma.errors import PolysomaError

_VERSIONS = ("v3.0", "v2.1", "v2.0")
_MODALITY = "meta/modality.json"
_EPISODE, _FRAME, _TASK, _TIME = "episode_index", "frame_index", "task_index", "timestamp"


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
            if self.fps is not None and abs(rate - self.fps) > _SAME_RATE * self.fps:
                self.remarks.append(
                    f"{key} runs at {rate:g} frames a second, the table at {self.fps:g}: pictures are found by time"
                )
        told = [key for key in told_by(modality) if key in self.info["features"] and "task_description" in key]
        self._told = told[0] if told else _TASK
        self._files: dict[Path, tuple[pq.ParquetFile, np.ndarray]] = {}
        self._kept: dict[tuple[Path, int, int, tuple[str, ...]], pa.Table] = {}
        self._kept_bytes = 0
        self._films: dict[Path, Video] = {}
        self._rows_of_film: dict[Path, int] | None = None
        self.moved: dict[int, tuple[Path, int]] = {}
        """Where the rows of episodes lie of which the tables say something else: a file and the first row."""
        self._right: set[int] = set()
        self._numbered: dict[int, tuple[Path, int, int]] | None = None
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
            if len(self.lengths) and not 0 <= self.lengths.min() <= self.lengths.max() < 2**40:
                raise ValueError(f"episodes of {self.lengths.min()} to {self.lengths.max()} frames")
            if self.v3:
                files = np.stack([self.episodes["data/chunk_index"], self.episodes["data/file_index"]], 1)
                _, which = np.unique(files, axis=0, return_inverse=True)
                # Rows of a file are counted from the first episode that lies in it.
                starts = self.episodes["dataset_from_index"].astype(np.int64)
                lowest = np.full(len(files), np.iinfo(np.int64).max)
                np.minimum.at(lowest, which.ravel(), starts)
                self.episodes["row"] = starts - lowest[which.ravel()]
        total = self.info.get("total_episodes")
        if isinstance(total, int) and total > len(self):
            self.remarks.append(f"{layout.INFO} speaks of {total:,} episodes, the tables have {len(self):,}")
        numbers = self.episodes[_EPISODE].tolist()
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
        last = {int(number): row for row, number in enumerate(rows[_EPISODE])}
        twice = len(rows[_EPISODE]) - len(last)
        if not twice:
            return rows
        self.remarks.append(f"meta: {twice:,} episodes are listed more than once; what is listed last counts")
        return {name: [values[row] for row in last.values()] for name, values in rows.items()}

    def _tasks_of(self, episode: int, held: dict[Path, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """The number of each frame's task. ``held``: of files that were read whole, the episodes and tasks of rows."""
        count = int(self.lengths[episode])
        if self._told not in self.info["features"]:
            return np.zeros(0, np.int64)
        with reading(self.path / layout.INFO, episode):
            place = self.place(episode)
        if self.v3:
            if place.file not in held:
                held[place.file] = self._rows_told(place.file)
            rows = slice(place.first_row, place.first_row + count)
            numbers, tasks = (column[rows] for column in held[place.file])
            if len(numbers) == count and (numbers == self.episodes[_EPISODE][episode]).all():
                return tasks
        try:
            place = self.settled(episode)
            with reading(place.file, episode):
                return flat_numbers(self.table(place, count, (self._told,))[self._told]).astype(np.int64)
        except PolysomaError:
            # Whoever reads the episode is told so then.
            return np.zeros(0, np.int64)

    def _rows_told(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Of all rows of a file, the episode and the task; nothing where it cannot be read, which its reader tells."""
        try:
            with reading(path), door.open_parquet(path) as file:
                table = file.read([_EPISODE, self._told], use_threads=False)
                return tuple(flat_numbers(table[key]).astype(np.int64) for key in (_EPISODE, self._told))  # type: ignore[return-value]
        except PolysomaError:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)

    def place(self, episode: int) -> _Place:
        """Where an episode lies by the tables, or where it was found to lie."""
        rows = self.episodes
        number = int(rows["episode_index"][episode])
        films: dict[str, tuple[Path, float]] = {}
        if not self.v3:
            chunk = number // max(1, int(self.info.get("chunks_size") or 1000))
            fields = both(chunk, number)
            for key in self._videos:
                films[key] = named(self.path, self.info, "video_path", V2_VIDEO, fields, key), 0.0
            return _Place(named(self.path, self.info, "data_path", V2_DATA, fields), 0, films)
        for key in self._videos:
            if f"videos/{key}/chunk_index" not in rows:
                raise ValueError(f"the tables of episodes do not say where the film {key} lies")
            chunk, file, start = (rows[f"videos/{key}/{what}"][episode] for what in VIDEO_PLACE)
            path = named(self.path, self.info, "video_path", layout.VIDEO_PATH, both(int(chunk), int(file)), key)
            films[key] = path, float(start)
        if episode in self.moved:
            return _Place(*self.moved[episode], films)
        chunk, file = int(rows["data/chunk_index"][episode]), int(rows["data/file_index"][episode])
        data = named(self.path, self.info, "data_path", layout.DATA_PATH, both(chunk, file))
        return _Place(data, int(rows["row"][episode]), films)

    def settled(self, episode: int) -> _Place:
        """Where the rows of an episode really lie: those that have its number.

        Raises:
            PolysomaError: a file is missing or damaged, or no rows are those of the episode.
        """
        with reading(self.path / layout.INFO, episode):
            place = self.place(episode)
        number, count = int(self.episodes["episode_index"][episode]), int(self.lengths[episode])
        if episode in self.moved or episode in self._right or not count:
            return place
        if not self.v3:
            self._check_order(place, episode, count)
            self._right.add(episode)
            return place
        try:
            with reading(place.file, episode):
                held = self._numbers(place, count)
        except PolysomaError as error:
            held, wrong = None, error
        if held is not None and (not len(held) or (held == number).all()):
            self._check_order(place, episode, count)
            self._right.add(episode)
            return place
        path, row, rows = self._found().get(number, (place.file, -1, -1))
        if rows == count:
            place = _Place(path, row, place.videos)
            self._check_order(place, episode, count)
            self.moved[episode] = path, row
            return place
        if held is None:
            raise wrong
        if (held == held[0]).all() and int(held[0]) not in self.episodes["episode_index"]:
            # Numbers that nobody has are those from before episodes were taken out.
            self._right.add(episode)
            return place
        raise PolysomaError(
            f"{place.file}, episode {episode}: expected {count} rows of episode {number} from row {place.first_row} "
            f"on, got some of episode {int(held[held != number][0])}; copy the data set again from where it came"
        )

    def _numbers(self, place: _Place, count: int, key: str = _EPISODE) -> np.ndarray:
        if key not in self._opened(place.file)[0].schema_arrow.names:
            return np.zeros(0, np.int64)
        return flat_numbers(self.table(place, count, (key,))[key])

    def _check_order(self, place: _Place, episode: int, count: int) -> None:
        """Raises PolysomaError where rows do not lie in the order of their frames: pictures of films do."""
        with reading(place.file, episode):
            frames = self._numbers(place, count, _FRAME)
            back = np.flatnonzero(np.diff(frames) < 0)
        # Numbers that come again are those of several recordings in one.
        if len(back) and len(np.unique(frames)) == len(frames):
            raise PolysomaError(
                f"{place.file}, episode {episode}: its rows are not in the order of their frames: "
                f"{frames[back[0] + 1]} comes after {frames[back[0]]}; sort them by {_FRAME}"
            )

    def _found(self) -> dict[int, tuple[Path, int, int]]:
        """Of each episode's number: the file that has such rows, the first one, and how many in a row there are."""
        if self._numbered is None:
            self._numbered = {}
            for path in sorted((self.path / "data").rglob("*.parquet")):
                held = np.zeros(0, np.int64)
                # Whoever needs a damaged file is told so.
                with contextlib.suppress(PolysomaError), reading(path), door.open_parquet(path) as file:
                    if _EPISODE in file.schema_arrow.names:
                        held = flat_numbers(file.read([_EPISODE], use_threads=False)[_EPISODE])
                begins = np.flatnonzero(np.diff(held, prepend=held[:1] - 1))
                for begin, end in itertools.pairwise([*begins.tolist(), len(held)]):
                    # Rows that are torn apart are nobody's.
                    number = int(held[begin])
                    self._numbered[number] = (path, begin, end - begin if number not in self._numbered else -1)
        return self._numbered

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
            place = self.settled(episode)
            with reading(place.file, episode):
                table = self.table(place, count, tuple(keys))
        else:
            with reading(self.path / layout.INFO, episode):
                place = self.place(episode)
        result = {}
        for name in names:
            about = self.columns[name]
            if name not in films:
                assert table is not None
                with reading(place.file, episode):
                    result[name] = self._values([table[key] for key in self.keys[name]], about, start, stop)
            elif start == stop:
                result[name] = np.empty((0, *about.shape), about.dtype)
            else:
                path, second = place.videos[self.keys[name][0]]
                with reading(path, episode):
                    result[name] = self._pictures(episode, path, second, start, stop, about.shape)
        return result

    def _pictures(
        self, episode: int, path: Path, second: float, start: int, stop: int, shape: tuple[int, ...]
    ) -> np.ndarray:
        film = self._films.pop(path, None) or Video(path)
        try:
            # Room is made for what was expected, whatever the film says.
            if film.shape != shape:
                raise ValueError(f"frames of shape {film.shape}, {layout.INFO} says {shape}")
            fps = self.fps or film.rate or 1.0
            # Of a film whose rate is that of the data but for rounding (29.97), each frame is one of its own.
            rate = film.rate if abs(film.rate - fps) <= _SAME_RATE * fps else fps
            at = np.arange(start, stop) / rate
            if film.frames != self._film_rows(path):
                told = self._times(episode, (film.frames + 1) / film.rate - second if film.rate else np.inf)
                if told is not None and np.abs(told - np.arange(len(told)) / fps).max() > 0.5 / fps:
                    # Rows were taken out, pictures were not: times alone say which are which.
                    at = told[start:stop]
            pictures = film.read(second + at, 0.5 / fps)
        except BaseException as error:
            slow = isinstance(error, ValueError) and 0 < film.rate < (1 - _SAME_RATE) * fps
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
        place = self.settled(episode)
        with reading(place.file, episode):
            told = flat_numbers(self.table(place, int(self.lengths[episode]), (_TIME,))[_TIME]).astype(np.float64)
        # Some recorders write the time of day; others milliseconds, or nothing but zeros.
        told = told if told.max() <= end else told - told[0]
        return told if told.max() <= end and (np.diff(told) > 0).all() else None

    def _film_rows(self, path: Path) -> int:
        """Frames of all episodes that are in a film."""
        if self._rows_of_film is None:
            self._rows_of_film = {}
            for episode, count in enumerate(self.lengths.tolist()):
                for film, _ in self.place(episode).videos.values():
                    self._rows_of_film[film] = self._rows_of_film.get(film, 0) + count
        return self._rows_of_film.get(path, 0)

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
            file = door.open_parquet(path)
            groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            held = file, np.cumsum(groups)
        self._files[path] = held
        if len(self._files) > _OPEN_FILES:
            self._files.pop(next(iter(self._files)))[0].close()
        return held

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
        with reading(path, episode), door.open_parquet(path) as opened:
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
                    path = self.place(0).videos[key][0]
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
            with reading(self.path / layout.INFO, episode):
                place = self.place(episode)
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
_SAME_RATE = 0.01
"""The part of a rate by which another one differs from it at most that means the same."""


def _plain(key: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in key)

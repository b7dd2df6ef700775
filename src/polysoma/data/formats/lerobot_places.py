"""Where the episodes of a LeRobotDataset lie: rows of tables and seconds of films, and those rows themselves."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polysoma.data import door, layout
from polysoma.data.formats.arrow import flat_numbers
from polysoma.data.formats.lerobot_tables import V2_DATA, V2_VIDEO, VIDEO_PLACE, both, named
from polysoma.data.formats.reader import reading
from polysoma.errors import PolysomaError

EPISODE = "episode_index"
_FRAME = "frame_index"
_OPEN_FILES = 8
_KEPT_BYTES = 2**26
"""Of tables that were read beside the one that was asked for last."""


@dataclass(frozen=True)
class Place:
    """Where one episode lies: rows of a file, and seconds of videos by key."""

    file: Path
    first_row: int
    videos: dict[str, tuple[Path, float]]


class Places:
    """The places of the episodes of one data set.

    Args:
        root: of the data set.
        info: the content of ``meta/info.json``.
        v3: whether the files lie as in v3.0.
        videos: the columns that are films.
        episodes: the tables of episodes: columns by name.
        lengths: frames of each episode.

    Attributes:
        moved: where the rows of episodes lie of which the tables say something else: a file and the first row.
    """

    def __init__(
        self,
        root: Path,
        info: Mapping[str, Any],
        v3: bool,
        videos: Sequence[str],
        episodes: Mapping[str, np.ndarray],
        lengths: np.ndarray,
    ) -> None:
        self.moved: dict[int, tuple[Path, int]] = {}
        self._root, self._info, self._v3, self._videos = root, info, v3, videos
        self._episodes, self._lengths = episodes, lengths
        self._right: set[int] = set()
        self._numbered: dict[int, tuple[Path, int, int]] | None = None
        self._files: dict[Path, tuple[pq.ParquetFile, np.ndarray]] = {}
        self._kept: dict[tuple[Path, int, int, tuple[str, ...]], pa.Table] = {}
        self._kept_bytes = 0
        if v3:
            # Rows of a file are counted from the first episode that lies in it.
            files = np.stack([episodes["data/chunk_index"], episodes["data/file_index"]], 1)
            _, which = np.unique(files, axis=0, return_inverse=True)
            starts = episodes["dataset_from_index"].astype(np.int64)
            lowest = np.full(len(files), np.iinfo(np.int64).max)
            np.minimum.at(lowest, which.ravel(), starts)
            self._first_rows = starts - lowest[which.ravel()]

    def place(self, episode: int) -> Place:
        """Where an episode lies by the tables, or where it was found to lie."""
        rows = self._episodes
        number = int(rows[EPISODE][episode])
        films: dict[str, tuple[Path, float]] = {}
        if not self._v3:
            chunk = number // max(1, int(self._info.get("chunks_size") or 1000))
            fields = both(chunk, number)
            for key in self._videos:
                films[key] = named(self._root, self._info, "video_path", V2_VIDEO, fields, key), 0.0
            return Place(named(self._root, self._info, "data_path", V2_DATA, fields), 0, films)
        for key in self._videos:
            if f"videos/{key}/chunk_index" not in rows:
                raise ValueError(f"the tables of episodes do not say where the film {key} lies")
            chunk, file, start = (rows[f"videos/{key}/{what}"][episode] for what in VIDEO_PLACE)
            path = named(self._root, self._info, "video_path", layout.VIDEO_PATH, both(int(chunk), int(file)), key)
            films[key] = path, float(start)
        if episode in self.moved:
            return Place(*self.moved[episode], films)
        chunk, file = int(rows["data/chunk_index"][episode]), int(rows["data/file_index"][episode])
        data = named(self._root, self._info, "data_path", layout.DATA_PATH, both(chunk, file))
        return Place(data, int(self._first_rows[episode]), films)

    def settled(self, episode: int) -> Place:
        """Where the rows of an episode really lie: those that have its number.

        Raises:
            PolysomaError: a file is missing or damaged, or no rows are those of the episode.
        """
        number, count = int(self._episodes[EPISODE][episode]), int(self._lengths[episode])
        with reading(self._root / layout.INFO, number):
            place = self.place(episode)
        if episode in self.moved or episode in self._right or not count:
            return place
        if not self._v3:
            self._check_order(place, number, count)
            self._right.add(episode)
            return place
        try:
            with reading(place.file, number):
                held = self._numbers(place, count)
        except PolysomaError as error:
            held, wrong = None, error
        if held is not None and (not len(held) or (held == number).all()):
            self._check_order(place, number, count)
            self._right.add(episode)
            return place
        path, row, rows = self._found().get(number, (place.file, -1, -1))
        if rows == count:
            place = Place(path, row, place.videos)
            self._check_order(place, number, count)
            self.moved[episode] = path, row
            return place
        if held is None:
            raise wrong
        if (held == held[0]).all() and int(held[0]) not in self._episodes[EPISODE]:
            # Numbers that nobody has are those from before episodes were taken out.
            self._right.add(episode)
            return place
        raise PolysomaError(
            f"{place.file}, episode {number}: expected {count} of its rows from row {place.first_row} on, got some of "
            f"episode {int(held[held != number][0])}; copy the data set again from where it came"
        )

    def _numbers(self, place: Place, count: int, key: str = EPISODE) -> np.ndarray:
        if key not in self._opened(place.file)[0].schema_arrow.names:
            return np.zeros(0, np.int64)
        return flat_numbers(self.table(place, count, (key,))[key])

    def _check_order(self, place: Place, number: int, count: int) -> None:
        """Raises PolysomaError where rows do not lie in the order of their frames: pictures of films do."""
        with reading(place.file, number):
            frames = self._numbers(place, count, _FRAME)
            back = np.flatnonzero(np.diff(frames) < 0)
        # Numbers that come again are those of several recordings in one.
        if len(back) and len(np.unique(frames)) == len(frames):
            raise PolysomaError(
                f"{place.file}, episode {number}: its rows are not in the order of their frames: "
                f"{frames[back[0] + 1]} comes after {frames[back[0]]}; sort them by {_FRAME}"
            )

    def _found(self) -> dict[int, tuple[Path, int, int]]:
        """Of each episode's number: the file that has such rows, the first one, and how many in a row there are."""
        if self._numbered is None:
            self._numbered = {}
            for path in sorted((self._root / "data").rglob("*.parquet")):
                held = np.zeros(0, np.int64)
                # Whoever needs a damaged file is told so.
                with contextlib.suppress(PolysomaError), reading(path), door.open_parquet(path) as file:
                    if EPISODE in file.schema_arrow.names:
                        held = flat_numbers(file.read([EPISODE], use_threads=False)[EPISODE])
                begins = np.flatnonzero(np.diff(held, prepend=held[:1] - 1))
                for begin, end in itertools.pairwise([*begins.tolist(), len(held)]):
                    # Rows that are torn apart are nobody's.
                    number = int(held[begin])
                    self._numbered[number] = (path, begin, end - begin if number not in self._numbered else -1)
        return self._numbered

    def table(self, place: Place, count: int, keys: tuple[str, ...]) -> pa.Table:
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

    def close(self) -> None:
        """Lets go of open files."""
        while self._files:
            self._files.popitem()[1][0].close()
        self._kept, self._kept_bytes = {}, 0

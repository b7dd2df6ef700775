"""What was recorded here as the origin of a cache: all frames and last observations, or the pictures of some."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from polysoma import progress
from polysoma.data import door, layout, stored
from polysoma.data.damage import Damaged
from polysoma.data.layout import EpisodeIndex
from polysoma.data.pictures import JpegWriter
from polysoma.data.stored import Feature
from polysoma.errors import PolysomaError

_Rows = Iterator[tuple[int, dict[str, np.ndarray]]]

_KEPT_BYTES = 2**26
"""Of picture files that were read beside those that were asked for."""


class Recorded:
    """A data set in our own layout.

    Attributes:
        embodiment: the body.
        failures: seeds of failed expert episodes, by task.
        old_horizon: what a data set of the first format holds of a policy's horizon; None for others.
        index: the episodes.
        features: the columns by name.

    Raises:
        PolysomaError: not a data set, a newer one, no episodes yet, or a damaged file.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.embodiment, self.failures = layout.read_polysoma(root)
        self.old_horizon = layout.read_old_horizon(root)
        index = layout.read_episodes(root)
        if not len(index.length):
            raise PolysomaError(f"{root}: no episode has been recorded into this data set yet")
        self._choose(index)

    def _choose(self, index: EpisodeIndex) -> None:
        self.index = index
        self.features: dict[str, Feature] = {
            **stored.body_features(self.embodiment),
            **stored.reward_features(self.index.rewards),
            **(stored.final_features(self.embodiment) if self.index.final.any() else {}),
        }
        self._ends: dict[Path, np.ndarray] = {}
        self._kept: dict[tuple[Path, int, str], pa.StructArray] = {}

    def without(self, numbers: Collection[int]) -> Recorded:
        """All but the files with these episodes. Raises PolysomaError where nothing is left."""
        if not numbers:
            return self
        others = copy.copy(self)
        others._choose(self.index.without(numbers))
        if not len(others.index.length):
            raise PolysomaError(f"{self.root}: there are no episodes in it that can be read")
        return others

    @property
    def frames(self) -> int:
        return self.index.frames

    def rows(self, column: str) -> int:
        """How many values a column has: one a frame, or one a last observation."""
        return int(self.index.final.sum()) if column.startswith(stored.FINAL) else self.frames

    def files(self) -> list[Path]:
        """All files that the frames depend on, as far as they are there."""
        held = [layout.numbered(self.root, template, number) for template, number in self.index.places()]
        return [*layout.episode_files(self.root), *(path for path in held if path.exists())]

    def absent(self) -> dict[int, str]:
        """The numbers of episodes of which a file is missing, and which."""
        found: dict[int, str] = {}
        for template, number in self.index.places():
            path = layout.numbered(self.root, template, number)
            if not path.exists():
                found |= dict.fromkeys(self.index.number[self.index.file == number].tolist(), f"{path} is missing")
        return found

    def damaged(self) -> dict[int, str]:
        """The numbers of episodes that cannot be read, and what is wrong with each. All files are read for that."""
        found: dict[int, str] = {}
        files = self.index.files()
        for done, (number, _) in enumerate(files):
            try:
                for read, features in self._read_by(self.features):
                    for _ in read(self.root, self.index, features, number):
                        pass
            except Damaged as error:
                found |= error.episodes
            progress.tell(f"checking {self.root}", done + 1, len(files))
        return found

    def fill(self, columns: Mapping[str, np.ndarray | JpegWriter]) -> None:
        """Assigns all rows of these columns. Raises as :func:`layout.read_frames`."""
        for read, features in self._read_by(columns):
            for begin, rows in read(self.root, self.index, features):
                for key, values in rows.items():
                    columns[key][begin : begin + len(values)] = values

    def _read_by(self, columns: Collection[str]) -> Iterator[tuple[Callable[..., _Rows], dict[str, Feature]]]:
        """What reads these columns, with those of them that it reads."""
        for read, final in ((layout.read_frames, False), (layout.read_finals, True)):
            features = {key: self.features[key] for key in columns if key.startswith(stored.FINAL) == final}
            if features:
                yield read, features

    def pictures(self, column: str, rows: np.ndarray) -> np.ndarray:
        """The pictures of these rows, which ascend: uint8 ``(n, height, width, 3)``. Only the row groups that they
        are in are read. Raises as :func:`layout.read_frames`."""
        feature = self.features[column]
        pictures = np.empty((len(rows), *feature.shape), np.uint8)
        begin, final = 0, column.startswith(stored.FINAL)
        template = layout.FINAL_PATH if final else layout.DATA_PATH
        for number, count in self.index.final_files() if final else self.index.files():
            first, last = np.searchsorted(rows, [begin, begin + count])
            if first < last:
                with self.index.damaging(self.root, template, number) as path:
                    self._read(path, count, column, rows[first:last] - begin, pictures[first:last])
            begin += count
        return pictures

    def _read(self, path: Path, count: int, column: str, rows: np.ndarray, pictures: np.ndarray) -> None:
        if path not in self._ends:
            with door.open_parquet(path) as file:
                groups = range(file.num_row_groups)
                self._ends[path] = np.cumsum([file.metadata.row_group(group).num_rows for group in groups])
        ends = self._ends[path]
        if ends[-1] != count:
            raise ValueError(f"expected {count} frames, got {ends[-1]}")
        which = np.searchsorted(ends, rows, side="right")
        for group in np.unique(which).tolist():
            here = which == group
            files = self._files(path, group, column).take(pa.array(rows[here] - (ends[group - 1] if group else 0)))
            pictures[here] = self.features[column].to_numpy(files)

    def _files(self, path: Path, group: int, column: str) -> pa.StructArray:
        """The picture files of a row group. What was asked for last is kept for the next time."""
        place = path, group, column
        files = self._kept.pop(place, None)
        if files is None:
            with door.open_parquet(path) as file:
                files = file.read_row_group(group, [column], use_threads=False)[column].combine_chunks()
        self._kept[place] = files
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > _KEPT_BYTES:
            del self._kept[next(iter(self._kept))]
        return files

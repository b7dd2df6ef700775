"""What was recorded here as the origin of a cache: all frames and last observations, or the pictures of some."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from polysoma.data import door, layout, storage, stored
from polysoma.data.pictures import JpegWriter
from polysoma.data.stored import Feature
from polysoma.errors import PolysomaError

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
        self.index = layout.read_episodes(root)
        if not len(self.index.length):
            raise PolysomaError(f"{root}: no episode has been recorded into this data set yet")
        self.features: dict[str, Feature] = {
            **stored.body_features(self.embodiment),
            **stored.reward_features(self.index.rewards),
            **(stored.final_features(self.embodiment) if self.index.final.any() else {}),
        }
        self._ends: dict[Path, np.ndarray] = {}
        self._kept: dict[tuple[Path, int, str], pa.StructArray] = {}

    @property
    def frames(self) -> int:
        return self.index.frames

    def rows(self, column: str) -> int:
        """How many values a column has: one a frame, or one a last observation."""
        return int(self.index.final.sum()) if column.startswith(stored.FINAL) else self.frames

    def files(self) -> list[Path]:
        """All files that the frames depend on. Raises PolysomaError when one is missing."""
        return [*layout.episode_files(self.root), *layout.data_files(self.root, self.index)]

    def fill(self, columns: Mapping[str, np.ndarray | JpegWriter]) -> None:
        """Assigns all rows of these columns. Raises as :func:`layout.read_frames`."""
        for read, final in ((layout.read_frames, False), (layout.read_finals, True)):
            features = {key: self.features[key] for key in columns if key.startswith(stored.FINAL) == final}
            for begin, rows in read(self.root, self.index, features) if features else ():
                for key, values in rows.items():
                    columns[key][begin : begin + len(values)] = values

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
                path = layout.numbered(self.root, template, number)
                with storage.reading(path, self.index.held(number)):
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

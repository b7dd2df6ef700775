"""Diffusion Policy's replay buffers: zarr folders in which all episodes follow one another.

``data/*`` holds one array a column over all frames, ``meta/episode_ends`` where each episode ends.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from polysoma.data import door
from polysoma.data.formats.pixels import to_bytes, white_of
from polysoma.data.formats.reader import (
    ACTION,
    DONE,
    FLAGS,
    OBSERVATION,
    PICTURE,
    REWARD,
    SUCCESS,
    TERMINATED,
    TIMESTAMP,
    TRUNCATED,
    Column,
    Problem,
    Reader,
    Severity,
    reading,
)  # fmt: skip
from polysoma.data.formats.zarr_chunks import Gap, gaps

_MOST_BYTES = 8 * 2**30
_LOOKED_AT = 4
"""Pictures that are looked at first to tell which number is white."""
_CALLED = {
    "action": ACTION, "reward": REWARD, "rewards": REWARD, "timestamp": TIMESTAMP, "done": DONE, "dones": DONE,
    "terminal": TERMINATED, "terminals": TERMINATED, "terminated": TERMINATED, "truncated": TRUNCATED,
    "success": SUCCESS,
}  # fmt: skip


def is_zarr(path: Path) -> bool:
    """Whether this folder is a replay buffer: it holds ``data`` and ``meta/episode_ends``."""
    return path.is_dir() and (path / "data").is_dir() and (path / "meta/episode_ends").is_dir()


class ZarrReader(Reader):
    """A replay buffer. Raises PolysomaError when its arrays disagree, or are damaged."""

    format = "Diffusion Policy zarr"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.left_out: dict[str, str] = {}
        self.remarks: list[str] = []
        with reading(self.path):
            root = door.open_zarr(self.path)
            told = np.asarray(root["meta/episode_ends"][:])
            ends = told.astype(np.int64)
            if ends.ndim != 1 or not len(ends) or (np.diff(ends, prepend=0) < 0).any() or (ends != told).any():
                raise ValueError("meta/episode_ends does not count up")
            self._ends = ends
            self.lengths = np.diff(ends, prepend=0)
            self.instructions = [""] * len(ends)
            self.columns = {}
            self._arrays: dict[str, Any] = {}
            self._white: dict[str, int] = {}
            self._gaps: dict[str, list[Gap]] = {}
            if lacking := gaps(root["meta/episode_ends"], self.path / "meta/episode_ends", True):
                raise ValueError(f"meta/episode_ends/{lacking[0].file} is missing")
            for key in root["data"].array_keys():
                self._describe(key, root[f"data/{key}"])
            if ACTION not in self.columns:
                raise ValueError(f"there is no data/action; there are {sorted(root['data'].array_keys())}")
            rest = self._arrays[ACTION].shape[0] - int(ends[-1])
            if rest:
                self.remarks.append(f"{rest:,} frames after the last of meta/episode_ends are left out")

    def _describe(self, key: str, array: Any) -> None:
        if array.dtype.kind not in "fiub" or array.ndim < 1:
            self.left_out[key] = f"{array.dtype} is not read"
            return
        if array.shape[0] < self._ends[-1]:
            raise ValueError(f"data/{key} holds {array.shape[0]} frames, meta/episode_ends needs {self._ends[-1]}")
        shape = tuple(array.shape[1:])
        picture = len(shape) == 3 and shape[2] == 3 and array.dtype.kind in "uif"
        lacking = gaps(array, self.path / "data" / key, key == "action" or picture)
        # Diffusion Policy's own Push-T data hold pixels of 0 to 255 in floats; others hold 0 to 1, or 16 bits.
        if picture:
            try:
                self._white[PICTURE + key] = white_of(array.dtype, self._pieces(array, lacking))
            except ValueError as error:
                self.left_out[key] = str(error)
                return
            column, name = Column(shape, np.dtype(np.uint8), picture=True), PICTURE + key
        else:
            column = Column(shape, np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype)
            name = _CALLED.get(key, OBSERVATION + key)
            name = OBSERVATION + key if name in self.columns else name
            if name in (*FLAGS, TIMESTAMP) and math.prod(shape) != 1:
                self.left_out[key] = f"one number a frame is expected of it, it is of shape {shape}"
                return
        self.columns[name] = column
        self._arrays[name] = array
        if lacking:
            self._gaps[name] = lacking
            self.remarks.append(f"{name}: {_told(lacking, array)}")

    def _pieces(self, array: Any, lacking: list[Gap]) -> Iterator[np.ndarray]:
        """The pictures of an array: the first of some episodes, then all."""
        frames = int(self._ends[-1])
        some = np.unique(np.linspace(0, max(0, frames - 1), _LOOKED_AT).astype(int))
        whole = np.arange(0, frames, max(1, array.chunks[0]))
        for start, stop in [*((n, n + 1) for n in some), *((n, n + array.chunks[0]) for n in whole)]:
            if not any(gap.start < stop and start < gap.stop for gap in lacking):
                yield np.asarray(array[int(start) : int(min(stop, frames))])

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """See :meth:`Reader.window`: only the chunks that hold these frames are read."""
        rows = self.rows(episode, start, stop)
        before = int(self._ends[episode] - self.lengths[episode])
        result = {}
        for name in self.wanted(columns):
            array, about = self._arrays[name], self.columns[name]
            with reading(self.path / "data" / array.basename, episode):
                if (rows.stop - rows.start) * array.dtype.itemsize * int(np.prod(about.shape)) > _MOST_BYTES:
                    raise ValueError(f"an episode of more than {_MOST_BYTES >> 30} GB")
                first, last = before + rows.start, before + rows.stop
                for gap in self._gaps.get(name, ()):
                    if gap.lost and gap.start < last and first < gap.stop:
                        raise ValueError(f"the file {gap.file} is missing, which holds frames of it")
                values = np.asarray(array[first:last])
                if about.picture:
                    values = to_bytes(values, self._white[name])
                result[name] = values.astype(about.dtype, copy=False)
        return result

    def files(self) -> list[Path]:
        """See :meth:`Reader.files`."""
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def problems(self) -> Iterator[Problem]:
        """See :meth:`Reader.problems`: columns that are left out, frames of no episode."""
        yield from super().problems()
        for name, lacking in self._gaps.items():
            severity: Severity = "error" if lacking[0].lost else "warning"
            remedy = "copy it again from where it came" if lacking[0].lost else "see whether these numbers are right"
            yield Problem(severity, name, _told(lacking, self._arrays[name]), remedy)
        for name, array in self._arrays.items():
            spare = array.shape[0] - int(self._ends[-1])
            if spare:
                yield Problem(
                    "warning", name, f"{spare} frames after the last episode", "see whether an episode's end is missing"
                )


def _told(lacking: list[Gap], array: Any) -> str:
    """Where files are missing, for people."""
    frames = sum(gap.stop - gap.start for gap in lacking)
    first = lacking[0]
    reads = "which cannot be read" if first.lost else f"which reads as {array.fill_value}"
    return (
        f"{frames:,} of {array.shape[0]:,} frames lie in files that are not there, such as {first.file} with frames "
        f"{first.start} to {first.stop - 1}, {reads}"
    )

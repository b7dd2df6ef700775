"""Diffusion Policy's replay buffers: zarr folders in which all episodes follow one another.

``data/*`` holds one array a column over all frames, ``meta/episode_ends`` where each episode ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from polysoma.data.formats.reader import ACTION, OBSERVATION, PICTURE, REWARD, Column, Problem, Reader, needs, reading

_MOST_BYTES = 8 * 2**30


def is_zarr(path: Path) -> bool:
    """Whether this folder is a replay buffer: it holds ``data`` and ``meta/episode_ends``."""
    return path.is_dir() and (path / "data").is_dir() and (path / "meta/episode_ends").is_dir()


class ZarrReader(Reader):
    """A replay buffer. Raises PolysomaError when its arrays disagree, or are damaged."""

    format = "Diffusion Policy zarr"

    def __init__(self, path: Path) -> None:
        try:
            import zarr
        except ImportError as error:
            raise needs("zarr") from error
        self.path = Path(path)
        self.left_out: dict[str, str] = {}
        with reading(self.path):
            root = cast(Any, zarr.open_group(str(self.path), mode="r"))
            ends = np.asarray(root["meta/episode_ends"][:]).astype(np.int64)
            if ends.ndim != 1 or not len(ends) or (np.diff(ends, prepend=0) < 0).any():
                raise ValueError("meta/episode_ends does not count up")
            self._ends = ends
            self.lengths = np.diff(ends, prepend=0)
            self.instructions = [""] * len(ends)
            self.columns = {}
            self._arrays: dict[str, Any] = {}
            for key in sorted(root["data"].array_keys()):
                self._describe(key, root[f"data/{key}"])
            if ACTION not in self.columns:
                raise ValueError(f"there is no data/action; there are {sorted(root['data'].array_keys())}")

    def _describe(self, key: str, array: Any) -> None:
        if array.dtype.kind not in "fiub" or array.ndim < 1:
            self.left_out[key] = f"{array.dtype} is not read"
            return
        if array.shape[0] < self._ends[-1]:
            raise ValueError(f"data/{key} holds {array.shape[0]} frames, meta/episode_ends needs {self._ends[-1]}")
        shape = tuple(array.shape[1:])
        # Diffusion Policy's own Push-T data hold pixels of 0 to 255 in floats.
        if len(shape) == 3 and shape[2] == 3 and array.dtype.kind in "uf":
            column, name = Column(shape, np.dtype(np.uint8), picture=True), PICTURE + key
        else:
            column = Column(shape, np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype)
            name = {"action": ACTION, "reward": REWARD}.get(key, OBSERVATION + key)
        self.columns[name] = column
        self._arrays[name] = array

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
                values = np.asarray(array[before + rows.start : before + rows.stop])
                if about.picture and array.dtype.kind == "f":
                    if not np.isfinite(values).all() or values.min(initial=0) < 0 or values.max(initial=0) > 255:
                        raise ValueError("expected pixels of 0 to 255")
                    values = values.round()
                result[name] = values.astype(about.dtype, copy=False)
        return result

    def files(self) -> list[Path]:
        """See :meth:`Reader.files`."""
        return sorted(path for path in self.path.rglob("*") if path.is_file())

    def problems(self) -> Iterator[Problem]:
        """See :meth:`Reader.problems`: columns that are left out, frames of no episode."""
        for key, why in self.left_out.items():
            yield Problem("note", key, why, "nothing, unless you need it")
        for name, array in self._arrays.items():
            spare = array.shape[0] - int(self._ends[-1])
            if spare:
                yield Problem(
                    "warning", name, f"{spare} frames after the last episode", "see whether an episode's end is missing"
                )

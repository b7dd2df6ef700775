"""Flat arrays in which all episodes follow one another: D4RL's HDF5 files and OGBench's ``.npz`` files.

D4RL (Fu et al. 2020, arXiv 2004.07219) keeps ``observations``, ``actions``, ``rewards``, ``terminals`` and
``timeouts``; an episode ends at either flag. OGBench (Park et al. 2024, arXiv 2410.20092) keeps ``observations``,
``actions`` and ``terminals``, which mark the last frame of a trajectory: an observation alone, after which the task
would go on.
"""

from __future__ import annotations

import contextlib
import copy
import math
import threading
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polysoma.data import door
from polysoma.data.formats.hdf5 import HDF5_SUFFIXES, column_of, is_hdf5, observation_name
from polysoma.data.formats.reader import (
    ACTION,
    REWARD,
    Column,
    Ending,
    Problem,
    Reader,
    reading,
)
from polysoma.errors import PolysomaError

_ACTIONS, _TERMINALS, _TIMEOUTS, _REWARDS = "actions", "terminals", "timeouts", "rewards"
_SEEN, _NEXT = "observations", "next_observations"
_MOST_BYTES = 8 * 2**30
"""Of one array that is read: more is taken for damage."""
_ZIP = b"PK\x03\x04"


def is_flat(path: Path) -> bool:
    """Whether this is an ``.npz`` file with an array ``actions``, or an HDF5 file with arrays ``actions`` and
    ``terminals`` at its root."""
    npz = path.suffix == ".npz"
    if not (door.begins_with(path, _ZIP) if npz else path.suffix in HDF5_SUFFIXES and is_hdf5(path)):
        return False
    # Whatever is wrong with an HDF5 file is said by the reader of its other layouts.
    with contextlib.suppress(PolysomaError, OSError, ValueError, KeyError, zipfile.BadZipFile), _open(path) as arrays:
        return _ACTIONS in arrays and (npz or _TERMINALS in arrays)
    return npz


def _open(path: Path) -> contextlib.AbstractContextManager[Mapping[str, Any]]:
    """The arrays of a file by their paths, without reading them."""
    return door.open_npz(path, _MOST_BYTES) if path.suffix == ".npz" else _open_hdf5(path)


@contextlib.contextmanager
def _open_hdf5(path: Path) -> Iterator[Mapping[str, Any]]:
    with door.open_hdf5(path) as file:
        yield file.leaves()


class FlatReader(Reader):
    """A file of D4RL or of OGBench. Raises PolysomaError when it is neither, damaged, or its arrays disagree."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._npz = self.path.suffix == ".npz"
        self.format = "OGBench npz" if self._npz else "D4RL HDF5"
        self.left_out: dict[str, str] = {}
        self.remarks: list[str] = []
        self.columns = {}
        self._paths: dict[str, str] = {}
        # Arrays of an .npz file that were unpacked, once for this reader and those that are made of it.
        self._held: dict[str, np.ndarray] = {}
        self._unpacking = threading.Lock()
        with reading(self.path), _open(self.path) as arrays:
            missing = [name for name in (_SEEN, _ACTIONS, _TERMINALS) if name not in arrays]
            if missing:
                raise PolysomaError(
                    f"{self.path}: expected the arrays observations, actions and terminals of {self.format}, there is "
                    f"no {', '.join(missing)}; there are {', '.join(sorted(arrays)[:8])}"
                )
            self._frames = int(arrays[_ACTIONS].shape[0])
            terminals = self._flags(arrays, _TERMINALS)
            timeouts = self._flags(arrays, _TIMEOUTS) if _TIMEOUTS in arrays else np.zeros(self._frames, bool)
            for name, array in arrays.items():
                self._describe(name, array)
            nexts = _NEXT in arrays and arrays[_NEXT].shape == arrays[_SEEN].shape
        if ACTION not in self.columns or not self._frames:
            raise PolysomaError(f"{self.path}: actions: expected a row of numbers a frame, got none")
        ends = np.flatnonzero(terminals | timeouts) + 1
        if not len(ends) or ends[-1] < self._frames:
            ends = np.append(ends, self._frames)
        self._ends, self.lengths = ends, np.diff(ends, prepend=0)
        self._terminals = terminals
        self.instructions = [""] * len(ends)
        if self._npz:
            self.ends_observed = terminals[ends - 1] & (self.lengths > 1)
            self.remarks.append("terminals end trajectories, not tasks: every episode is taken as truncated")
        elif _TIMEOUTS not in arrays and not terminals.any():
            self.remarks.append("nothing says where episodes end: all frames are one")
        if nexts and not self._npz:
            self.finals = np.ones(len(ends), bool)
            self.left_out.pop(_NEXT, None)

    def _flags(self, arrays: Mapping[str, Any], name: str) -> np.ndarray:
        array = arrays[name]
        if math.prod(array.shape) != self._frames or array.dtype.kind not in "fiub":
            raise ValueError(f"{name}: expected a flag for each of {self._frames} frames, got {array.shape}")
        return np.asarray(array[:]).reshape(-1) != 0

    def _describe(self, path: str, array: Any) -> None:
        if path in (_TERMINALS, _TIMEOUTS):
            return
        column: Column | None = None
        if array.shape[:1] == (self._frames,):
            column = column_of(tuple(array.shape[1:]), array.dtype)
        elif path in (_SEEN, _REWARDS):
            raise ValueError(f"{path}: expected {self._frames} rows as in actions, got {array.shape}")
        name = {_ACTIONS: ACTION, _REWARDS: REWARD}.get(path, "")
        if path == _SEEN and column is not None:
            name = observation_name("state" if not column.picture else "camera", column)
        if not name or column is None:
            # Such as the simulator's own state (qpos, infos/qpos), which policies do not see.
            self.left_out[path] = f"{array.dtype} of shape {tuple(array.shape)} is not read"
            return
        self.columns[name], self._paths[name] = column, path

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """See :meth:`Reader.window`."""
        rows = self.rows(episode, start, stop)
        before = int(self._ends[episode] - self.lengths[episode])
        frames = slice(before + rows.start, before + rows.stop)
        names = self.wanted(columns)
        return {name: self._rows(episode, self._paths[name], frames, self.columns[name]) for name in names}

    def _final(self, episode: int, columns: Collection[str]) -> dict[str, np.ndarray]:
        last = int(self._ends[episode]) - 1
        rows = slice(last, last + 1)
        return {name: self._rows(episode, _NEXT, rows, self.columns[name])[0] for name in columns}

    def _rows(self, episode: int, path: str, frames: slice, about: Column) -> np.ndarray:
        with reading(self.path, episode):
            if self._npz:
                with self._unpacking:
                    if path not in self._held:
                        with door.open_npz(self.path, _MOST_BYTES) as packed:
                            self._held[path] = packed[path].unpacked()
                return np.array(self._held[path][frames], about.dtype)
            with _open(self.path) as arrays:
                values: np.ndarray = arrays[path][frames]
                return values.astype(about.dtype, copy=False)

    def ending(self, episode: int, held: Mapping[str, np.ndarray] | None = None) -> Ending:
        """See :meth:`Reader.ending`: a terminal of D4RL ends the task, all else cuts the episode."""
        self.check_episode(episode)
        over = not self._npz and bool(self._terminals[self._ends[episode] - 1])
        return Ending(over, not over)

    def close(self) -> None:
        """See :meth:`Reader.close`. Others that were made of this one keep what they hold."""
        self._held = {}

    def again(self) -> FlatReader:
        """See :meth:`Reader.again`: it shares what was unpacked."""
        return copy.copy(self)

    def problems(self) -> Iterator[Problem]:
        """See :meth:`Reader.problems`: arrays that are left out, a last episode without an end."""
        yield from super().problems()
        last = int(self.lengths[-1])
        usual = int(np.median(self.lengths))
        if len(self) > 1 and not self._terminals[-1] and last < usual / 2:
            yield Problem(
                "note", f"episode {len(self) - 1}", f"has {last} frames where others have {usual}",
                "see whether the file was cut",
            )  # fmt: skip

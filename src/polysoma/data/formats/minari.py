"""Minari 0.5 data sets on disk, in HDF5 and in Arrow, without Minari.

An episode of T steps has T + 1 observations; the last one, after which nothing was done, is :meth:`MinariReader.final`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from polysoma.data import door
from polysoma.data.formats.arrow import flat_numbers, is_list
from polysoma.data.formats.hdf5 import column_of, observation_name, rows_of, unknown
from polysoma.data.formats.minari_spaces import (
    box_limits,
    choice_count,
    choice_numbers,
    inner_spaces,
    leaf_spaces,
    space_of,
)
from polysoma.data.formats.naming import unused
from polysoma.data.formats.reader import (
    ACTION,
    MOST_CHOICES,
    REWARD,
    TERMINATED,
    TRUNCATED,
    Column,
    Ending,
    Part,
    Problem,
    Reader,
    reading,
)
from polysoma.data.formats.words import parts_of
from polysoma.data.images import decode_image, image_shape
from polysoma.errors import PolysomaError

METADATA = "data/metadata.json"
_HDF5 = "data/main_data.hdf5"
_TOLD = ("observations/mission", "observations/instruction")
_SUCCESS = ("infos/success", "infos/is_success")
_FLAGS = {"terminations": TERMINATED, "truncations": TRUNCATED}
REWARDS_KNOWN, FINAL_KNOWN = "rewards_known", "final_observation_known"
"""Attributes of episodes that are False where :mod:`polysoma.data.to_minari` had to fill in what Minari wants."""


def is_minari(path: Path) -> bool:
    """Whether this folder says that it is a Minari data set."""
    return (path / METADATA).is_file()


class MinariReader(Reader):
    """A Minari data set. Raises PolysomaError when it is of another layout, or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with reading(self.path / METADATA):
            about = door.read_json(self.path / METADATA)
            layout = str(about["data_format"])
            if layout not in ("hdf5", "arrow"):
                raise PolysomaError(f"{self.path}: Minari's layout {layout!r}; this reads hdf5 and arrow")
            self._arrow = layout == "arrow"
            self._about: dict[str, Any] = about
            self._spaces = {
                "observations": space_of(about, "observation_space"),
                "actions": space_of(about, "action_space"),
            }
        self.format = f"Minari {layout}"
        self.robot = str(about.get("dataset_id") or self.path.name).replace("/", " ")
        self.left_out: dict[str, str] = {}
        self._unrewarded: set[int] = set()
        self.changes: dict[int, tuple[Part, ...]] = {}
        self.columns = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._numbers = self._arrow_numbers() if self._arrow else self._hdf5_numbers()
        lengths, instructions, successes, finals = [], [], [], []
        for episode in range(len(self._numbers)):
            with reading(self._file(episode), episode), self._held(episode) as held:
                length = self._length(held)
                # What is in an episode without frames cannot be told.
                if not self.columns and (length or episode == len(self._numbers) - 1):
                    self._describe(held, length)
                self._describe_rewards(held, episode, length)
                lengths.append(length)
                parts = parts_of(held.texts(_TOLD)[: max(1, length)])
                instructions.append(parts[0].instruction)
                if len(parts) > 1:
                    self.changes[episode] = parts
                successes.append(held.any(_SUCCESS))
                seen = [path for (path, *_) in self._paths.values() if path.startswith("observations")]
                finals.append(length > 0 and held.says(FINAL_KNOWN) and all(held.rows(path) > length for path in seen))
        self.lengths, self.instructions = np.array(lengths, np.int64), instructions
        self.finals = np.array(finals, bool) if any(finals) else None
        if REWARD not in self.columns:
            self.left_out["rewards"] = "the data set that this one was made from has none"
        self._successes = successes
        if None not in successes:
            self.successes = np.array(successes, bool)

    def _arrow_numbers(self) -> list[int]:
        with reading(self.path / "data"):
            return sorted(int(folder.name) for folder in (self.path / "data").iterdir() if folder.name.isdigit())

    def _hdf5_numbers(self) -> list[int]:
        with reading(self.path / _HDF5), door.open_hdf5(self.path / _HDF5) as file:
            names = [name.removeprefix("episode_") for name in file]
            return sorted(int(name) for name in names if name.isdigit())

    def _file(self, episode: int) -> Path:
        return self.path / (f"data/{self._numbers[episode]}" if self._arrow else _HDF5)

    def _held(self, episode: int) -> _Held:
        if self._arrow:
            return _ArrowEpisode(self._file(episode), self._spaces)
        return _Hdf5Episode(self._file(episode), f"episode_{self._numbers[episode]}")

    def _length(self, held: _Held) -> int:
        path = next((path for path in held.paths() if f"{path}/".startswith("actions/")), None)
        if path is None:
            raise ValueError(f"there are no actions; there are {held.paths()}")
        return held.rows(path)

    def _describe(self, held: _Held, length: int) -> None:
        self._describe_actions(held, length)
        for path in held.paths():
            if path.startswith(("infos/", "actions/")) or path in (*_TOLD, "actions", "rewards"):
                continue
            column = held.column(path, length)
            if column is None:
                self.left_out[path] = "neither numbers nor pictures"
                continue
            plain = path.removeprefix("observations").removeprefix("/")
            name = _FLAGS.get(path) or observation_name(plain or "observation", column)
            if path == "observations" and not column.picture:
                name = "observation.state"
            name = unused(name, self.columns)
            self.columns[name], self._paths[name] = column, (path,)

    def _describe_rewards(self, held: _Held, episode: int, length: int) -> None:
        """Rewards are there where one episode has some: :mod:`polysoma.data.to_minari` fills in what it has not."""
        if "rewards" not in held.paths() or not held.says(REWARDS_KNOWN):
            self._unrewarded.add(episode)
        elif length and REWARD not in self.columns and (column := held.column("rewards", length)) is not None:
            self.columns[REWARD], self._paths[REWARD] = column, ("rewards",)

    def _describe_actions(self, held: _Held, length: int) -> None:
        """Actions may lie in several arrays: a dictionary or a tuple of spaces. They are one here, in the order of the
        spaces."""
        parts = dict(leaf_spaces(self._spaces["actions"], "actions"))
        paths = [path for path in (parts or held.paths()) if f"{path}/".startswith("actions/")]
        found = {path: held.column(path, length) for path in paths}
        if unread := [path for path, column in found.items() if column is None or column.picture]:
            raise PolysomaError(f"{self.path}: expected numbers as actions, {', '.join(unread)} are something else")
        columns = [column for column in found.values() if column is not None]
        counts = [choice_count(parts.get(path, {})) for path in paths]
        choices = None
        if any(counts):
            if not all(counts):
                raise PolysomaError(
                    f"{self.path}: actions that are partly numbers and partly choices are not read: "
                    + ", ".join(f"{path} is {space.get('type')}" for path, space in parts.items())
                )
            if (number := math.prod(counts)) > MOST_CHOICES:
                raise PolysomaError(
                    f"{self.path}: expected at most {MOST_CHOICES} choices as actions, got {number} ("
                    + ", ".join(f"{path} is {space.get('type')}" for path, space in parts.items()) + ")"
                )  # fmt: skip
            choices = tuple(
                itertools.product(*(numbers for space in parts.values() for numbers in choice_numbers(space)))
            )
        if len(paths) == 1:
            column = dataclasses.replace(columns[0], choices=choices)
        else:
            names = []
            for path, part in zip(paths, columns, strict=True):
                stem, size = path.removeprefix("actions/").replace("/", "."), math.prod(part.shape)
                names += [stem] if size == 1 else [f"{stem}_{number}" for number in range(size)]
            dtype = np.result_type(*(part.dtype for part in columns))
            column = Column((len(names),), dtype, tuple(names), choices=choices)
        limits = box_limits(parts[path] for path in paths if path in parts)
        if limits is not None and len(limits[0]) == math.prod(column.shape):
            column = dataclasses.replace(column, limits=limits)
        self.columns[ACTION], self._paths[ACTION] = column, tuple(paths)

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """See :meth:`Reader.window`."""
        rows, names = self.rows(episode, start, stop), self.wanted(columns)
        length = int(self.lengths[episode])
        with reading(self._file(episode), episode), self._held(episode) as held:
            return {name: self._values(held, episode, name, length, rows) for name in names}

    def _values(self, held: _Held, episode: int, name: str, length: int, rows: slice) -> np.ndarray:
        about, paths = self.columns[name], self._paths[name]
        if name == REWARD and episode in self._unrewarded:
            return unknown(about, rows)
        if len(paths) == 1:
            return held.values(paths[0], about, length, rows)
        count, parts = rows.stop - rows.start, []
        for path in paths:
            part = held.column(path, length)
            if part is None:
                raise ValueError(f"{path} holds no numbers")
            parts.append(held.values(path, part, length, rows).reshape(count, -1))
        return np.concatenate(parts, 1, dtype=about.dtype).reshape(count, *about.shape)

    def ending(self, episode: int, held: Mapping[str, np.ndarray] | None = None) -> Ending:
        """See :meth:`Reader.ending`: some episodes may say whether they succeeded and others not."""
        found = super().ending(episode, held)
        return dataclasses.replace(found, success=self._successes[episode])

    def _final(self, episode: int, columns: Collection[str]) -> dict[str, np.ndarray]:
        length = int(self.lengths[episode])
        with reading(self._file(episode), episode), self._held(episode) as held:
            last = slice(length, length + 1)
            return {name: self._values(held, episode, name, length + 1, last)[0] for name in columns}

    def files(self) -> list[Path]:
        """See :meth:`Reader.files`."""
        return sorted(path for path in (self.path / "data").rglob("*") if path.is_file())

    def problems(self) -> Iterator[Problem]:
        """See :meth:`Reader.problems`: columns that are left out, and totals that disagree."""
        yield from super().problems()
        for key, held in (("total_episodes", len(self)), ("total_steps", int(self.lengths.sum()))):
            if self._about.get(key) != held:
                yield Problem(
                    "error", METADATA, f"{key} is {self._about.get(key)}, the episodes come to {held}",
                    "copy the data set again from where it came",
                )  # fmt: skip


class _Held:
    """One episode's arrays by path, in either layout."""

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def paths(self) -> list[str]:
        raise NotImplementedError

    def rows(self, path: str) -> int:
        raise NotImplementedError

    def column(self, path: str, length: int) -> Column | None:
        raise NotImplementedError

    def values(self, path: str, about: Column, length: int, rows: slice) -> np.ndarray:
        raise NotImplementedError

    def all(self, path: str) -> Iterable[Any]:
        raise NotImplementedError

    def says(self, name: str) -> bool:
        """An attribute of the episode, True where it is not there."""
        return True

    def texts(self, paths: tuple[str, ...]) -> list[str]:
        """The text of each observation; nothing where there is none."""
        for path in paths:
            if path in self.paths():
                values = self.all(path)
                return [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values]
        return []

    def any(self, paths: tuple[str, ...]) -> bool | None:
        for path in paths:
            if path in self.paths():
                rows = self.rows(path)
                return bool(self.values(path, Column((), np.dtype(bool)), rows, slice(0, rows)).any())
        return None


class _Hdf5Episode(_Held):
    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def __enter__(self) -> _Held:
        self._context = door.open_hdf5(self._path)
        group = self._context.__enter__()[self._name]
        self._arrays, self._attributes = group.leaves(), dict(group.attrs)
        return self

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(None, None, None)

    def says(self, name: str) -> bool:
        return bool(self._attributes.get(name, True))

    def paths(self) -> list[str]:
        return list(self._arrays)

    def rows(self, path: str) -> int:
        return int(self._arrays[path].shape[0])

    def column(self, path: str, length: int) -> Column | None:
        array = self._arrays[path]
        if self._coded(array):
            first = image_shape(np.asarray(array[0], np.uint8).tobytes())
            return Column(first, np.dtype(np.uint8), picture=True)
        return column_of(array.shape[1:], array.dtype) if array.shape else None

    def values(self, path: str, about: Column, length: int, rows: slice) -> np.ndarray:
        if path not in self._arrays:
            raise ValueError(f"there is no {path}")
        array = self._arrays[path]
        return rows_of(array, about, length, rows, coded=about.picture and self._coded(array))

    def all(self, path: str) -> Iterable[Any]:
        return self._arrays[path][:]

    def _coded(self, array: Any) -> bool:
        # Files of pictures are byte strings of different lengths; texts are strings.
        return array.dtype.kind == "O" and array.ndim == 1 and not door.is_hdf5_text(array.dtype)


class _ArrowEpisode(_Held):
    def __init__(self, folder: Path, spaces: dict[str, dict[str, Any]]) -> None:
        tables = []
        for path in sorted(folder.glob("*.arrow")):
            tables.append(door.read_arrow(path))
        if not tables:
            raise FileNotFoundError(2, "no such file", f"{folder}/*.arrow")
        table = pa.concat_tables(tables).combine_chunks()
        self._spaces = spaces
        self._columns: dict[str, Any] = {}
        for name in table.column_names:
            chunks = table[name].combine_chunks()
            self._flatten(name, chunks, spaces.get(name, {}))

    def _flatten(self, path: str, column: Any, space: dict[str, Any]) -> None:
        if pa.types.is_struct(column.type):
            inner = inner_spaces(space)
            for number in range(column.type.num_fields):
                name = column.type.field(number).name
                # The parts of a tuple are called 0, 1, ... here and _index_0, _index_1, ... in HDF5.
                name = name if name in inner or f"_index_{name}" not in inner else f"_index_{name}"
                self._flatten(f"{path}/{name}", column.field(number), inner.get(name, {}))
        else:
            self._columns[path] = column

    def paths(self) -> list[str]:
        return list(self._columns)

    def rows(self, path: str) -> int:
        # Arrow's columns are of one length, so those of steps are padded by one to that of the observations.
        return len(self._columns[path]) - (not path.startswith(("observations", "infos")))

    def column(self, path: str, length: int) -> Column | None:
        kind = self._columns[path].type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return Column(image_shape(self._columns[path][0].as_py()), np.dtype(np.uint8), picture=True)
        shape = self._shape(path)
        while is_list(kind):
            kind = kind.value_type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            return None
        return column_of(shape, pa.array([], kind).to_numpy(zero_copy_only=False).dtype)

    def _shape(self, path: str) -> tuple[int, ...]:
        """Arrow keeps rows flat: their shape is that of the space."""
        top = path.partition("/")[0]
        space = dict(leaf_spaces(self._spaces.get(top, {}), top)).get(path, {})
        if "shape" in space:
            return tuple(int(size) for size in space["shape"])
        kind = self._columns[path].type
        return (kind.list_size,) if pa.types.is_fixed_size_list(kind) else ()

    def values(self, path: str, about: Column, length: int, rows: slice) -> np.ndarray:
        if path not in self._columns:
            raise ValueError(f"there is no {path}")
        column = self._columns[path].slice(0, length)
        if len(column) < length or column.null_count:
            raise ValueError(f"{path} holds {len(column) - column.null_count} rows of {length}")
        count = rows.stop - rows.start
        column = column.slice(rows.start, count)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            pictures = np.empty((count, *about.shape), np.uint8)
            for place, file in enumerate(column):
                pictures[place] = decode_image(file.as_py(), about.shape)
            return pictures
        values = flat_numbers(column)
        if values.size != count * int(np.prod(about.shape)):
            raise ValueError(f"{path}: expected {count} rows of shape {about.shape}, got {values.size} numbers")
        return values.astype(about.dtype, copy=False).reshape(count, *about.shape)

    def all(self, path: str) -> Iterable[Any]:
        return self._columns[path].to_pylist()

"""The arrays of one episode of a Minari data set, as HDF5 and as Arrow hold them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from polysoma.data import door
from polysoma.data.formats.arrow import flat_numbers, is_list
from polysoma.data.formats.hdf5 import column_of, rows_of
from polysoma.data.formats.minari_spaces import inner_spaces, leaf_spaces
from polysoma.data.formats.reader import Column
from polysoma.data.images import decode_image, image_shape


class HeldEpisode:
    """One episode's arrays by path, in either layout."""

    def __enter__(self) -> HeldEpisode:
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
                return bool(np.asarray(self.all(path)).astype(bool).any())
        return None


class Hdf5Episode(HeldEpisode):
    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name

    def __enter__(self) -> HeldEpisode:
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


class ArrowEpisode(HeldEpisode):
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

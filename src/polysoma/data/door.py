"""The door: how files of others are opened, and the only place where they are.

Whoever reads a format asks here, so no reader can forget a guard. What comes in is a file, not a pipe or a device, and
not the pointer that git leaves where git-lfs was missing; JSON has a size that memory holds and no depth that breaks
the interpreter; HDF5 does not lead into other files, at any level; zarr decodes with codecs that are known to run no
code; and names that a file asks for are filled with numbers of a few digits and lie inside of the data set.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polysoma.errors import PolysomaError

_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 1024
"""No pointer is larger."""
_TEXT_BYTES = 2**29
"""Of a JSON file, or one of JSON lines: more is taken for damage."""
_NAME_BYTES = 255
"""Of a part of a path; systems have no longer ones."""
_DEEP = 16
"""Groups of HDF5 in one another, and links that lead to links."""


def checked(path: Path) -> Path:
    """The path, if a file is there that can be read.

    Raises:
        PolysomaError: it is a pointer of git-lfs.
        OSError: there is nothing.
        ValueError: it is no file: a folder, a pipe, a device.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no file")
    if is_pointer(path, about.st_size):
        raise PolysomaError(
            f"{path} is a pointer of git-lfs, and what it stands for was not fetched: run `git lfs install` and "
            "`git lfs pull` in the repository, or download the data set again"
        )
    return path


def is_pointer(path: Path, size: int) -> bool:
    """Whether a file of this size is what git leaves in the place of a large one. Raises OSError."""
    if not len(_POINTER) < size < _POINTER_BYTES:
        return False
    with open(path, "rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def lacking(path: Path) -> str | None:
    """Why a file that should be there cannot be read, without reading it; None where nothing speaks against it."""
    try:
        checked(path)
    except FileNotFoundError:
        return f"{path} is missing"
    except (OSError, ValueError, PolysomaError) as error:
        return str(error)
    return None


def open_bytes(path: Path) -> BinaryIO:
    """A file of bytes. Raises as :func:`checked`."""
    return open(checked(path), "rb")


def begins_with(path: Path, signature: bytes) -> bool:
    """Whether there is a file that begins so, or that is the pointer of one."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        begin = file.read(max(len(signature), len(_POINTER)))
    return begin.startswith((signature, _POINTER))


def read_text(path: Path) -> str:
    """A UTF-8 file. Raises as :func:`checked`, and ValueError where it is too large or no text."""
    size = checked(path).stat().st_size
    if size > _TEXT_BYTES:
        raise ValueError(f"{size / 2**20:.0f} MB of text, where {_TEXT_BYTES >> 20} MB are read at most")
    # Editors of Windows begin a file with a mark of its encoding.
    return path.read_text(encoding="utf-8-sig")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises as :func:`read_text`, and ValueError where it is none."""
    return _object(read_text(path))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line. Raises as :func:`read_json`."""
    # Other separators of lines, which splitlines knows, may stand inside of a text.
    return [_object(line) for line in read_text(path).split("\n") if line.strip()]


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    if _SURROGATE.search(text):
        # Halves of a letter can stand in JSON, but in no file and on no terminal.
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value


def open_parquet(path: Path) -> pq.ParquetFile:
    """A table, whose pages are checked where they have checksums. Raises as :func:`checked`, or as PyArrow."""
    return pq.ParquetFile(checked(path), page_checksum_verification=True)


def read_arrow(path: Path) -> pa.Table:
    """All of an Arrow file, checked. Raises as :func:`checked`, and what PyArrow raises."""
    with pa.OSFile(str(checked(path))) as file, pa.ipc.open_file(file) as opened:
        table = opened.read_all()
        table.validate(full=True)
        return table


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Hdf5Group]:
    """The root of an HDF5 file, read-only; without locks, which read-only and network disks do not have.

    Raises:
        PolysomaError: h5py is not installed.
        OSError, ValueError: as :func:`checked`, or it is damaged.
    """
    try:
        import h5py
    except ImportError as error:
        raise needs("h5py") from error
    with h5py.File(checked(path), "r", locking=False) as file:
        yield Hdf5Group(file)


class Hdf5Group(Mapping[str, Any]):
    """A group of an HDF5 file, by whose paths arrays (``h5py.Dataset``) and groups of this kind are found.

    Every step is looked at before it is taken: links to other files, and arrays whose numbers lie in other files, raise
    ValueError and are not opened.

    Attributes:
        attrs: of the group, by name.
    """

    def __init__(self, group: Any, depth: int = 0) -> None:
        self._group, self._depth = group, depth
        self.attrs: Mapping[str, Any] = group.attrs

    def __getitem__(self, path: str) -> Any:
        found: Any = Hdf5Group(self._group.file, self._depth) if path.startswith("/") else self
        for name in path.split("/"):
            if name not in ("", "."):
                if not isinstance(found, Hdf5Group):
                    raise KeyError(path)
                found = found._step(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._group)

    def __len__(self) -> int:
        return len(self._group)

    def _step(self, name: str) -> Any:
        import h5py

        where = f"{self._group.name.rstrip('/')}/{name}"
        if self._depth > _DEEP:
            raise ValueError(f"{where}: groups or links lie too deep in one another")
        links, key = self._group.id.links, name.encode()
        if not links.exists(key):
            raise KeyError(f"there is no {where}")
        kind = links.get_info(key).type
        if kind == h5py.h5l.TYPE_SOFT:
            return Hdf5Group(self._group, self._depth + 1)[links.get_val(key).decode()]
        if kind != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{where} leads to another file, which is not followed")
        child = self._group[name]
        if isinstance(child, h5py.Group):
            return Hdf5Group(child, self._depth + 1)
        if isinstance(child, h5py.Dataset) and (child.is_virtual or child.external):
            raise ValueError(f"{where} lies in another file, which is not followed")
        return child

    def leaves(self, prefix: str = "") -> dict[str, Any]:
        """All arrays below by path. Raises ValueError as groups do, and where they lie in one another without end."""
        import h5py

        found: dict[str, Any] = {}
        for name in self:
            child = self[name]
            if isinstance(child, Hdf5Group):
                found |= child.leaves(f"{prefix}{name}/")
            elif isinstance(child, h5py.Dataset):
                found[prefix + name] = child
        return found


_SMALL, _PIECE = 2**25, 2**24
"""Bytes of an array up to which it lies in memory, and what is unpacked at once of others."""


class NpzArray:
    """An array of an ``.npz`` file, known by its header until it is read whole (``array[:]``, or a part of it).

    Attributes:
        shape, dtype: as the header says, which was compared with the size of what is stored.
    """

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> None:
        self._archive, self._member = archive, member
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._columns_first, self.dtype = read(file)
            self._begin = file.tell()
        claimed, held = int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize, member.file_size - self._begin
        if self.dtype.hasobject or claimed != held:
            raise ValueError(f"{member.filename}: {self.dtype} of shape {self.shape} in {held:,} bytes")
        if claimed > most:
            raise ValueError(f"{member.filename} claims more than {most >> 30} GB")

    def __getitem__(self, rows: slice) -> np.ndarray:
        with self._archive.open(self._member) as file:
            values: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        return values[rows]

    def unpacked(self) -> np.ndarray:
        """All of it, read-only. What is large is unpacked piece by piece into a file without a name, which is mapped
        and goes with the array: memory holds what is in use. Where there is no room for it, it lies in memory."""
        if self._member.file_size > _SMALL:
            with contextlib.suppress(OSError), tempfile.TemporaryFile() as file:
                with self._archive.open(self._member) as packed:
                    # Read, not skipped: the checksum is of all of it.
                    packed.read(self._begin)
                    shutil.copyfileobj(packed, file, _PIECE)
                file.flush()
                order: Literal["C", "F"] = "F" if self._columns_first else "C"
                return np.memmap(file, self.dtype, "r", 0, self.shape, order)
        values = self[:]
        values.flags.writeable = False
        return values


@contextlib.contextmanager
def open_npz(path: Path, most: int) -> Iterator[Mapping[str, NpzArray]]:
    """The arrays of NumPy's ``.npz`` file by name. Nothing is unpickled.

    Args:
        path: of the file.
        most: bytes that an array may have.

    Raises:
        OSError, ValueError: as :func:`checked`, or it is damaged, or an array is too large or no numbers.
    """
    with zipfile.ZipFile(checked(path)) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        yield {member.filename.removesuffix(".npy"): NpzArray(archive, member, most) for member in members}


def is_hdf5_text(dtype: np.dtype) -> bool:
    """Whether an HDF5 array of this dtype holds strings, not bytes of different lengths."""
    import h5py

    return h5py.check_string_dtype(dtype) is not None


_CODECS = {
    "blosc", "zlib", "gzip", "bz2", "lzma", "zstd", "lz4", "delta", "shuffle", "fixedscaleoffset", "astype", "packbits",
    "bitround", "quantize", "crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3", "bytes", "transpose",
    "sharding_indexed", "vlen-utf8", "vlen-bytes", "endian",
}  # fmt: skip
"""Of zarr: those that turn bytes into numbers. Others, such as pickle, run what a file says."""


def open_zarr(path: Path) -> ZarrGroup:
    """A zarr folder, read-only.

    Raises:
        PolysomaError: zarr is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise needs("zarr") from error
    # What consolidated metadata say is not what has been looked at.
    group = cast(Any, zarr.open_group(str(path), mode="r", use_consolidated=False))
    return ZarrGroup(group, path)


class ZarrGroup:
    """A group of a zarr folder, by whose paths arrays (``zarr.Array``) and groups of this kind are found."""

    def __init__(self, group: Any, path: Path) -> None:
        self._group, self._path = group, path

    def __getitem__(self, path: str) -> Any:
        """An array or a group.

        Raises:
            KeyError: there is none.
            ValueError: an array asks for a codec that is not known here.
            PolysomaError: its chunks are pointers of git-lfs.
        """
        if ".." in PurePosixPath(path).parts:
            raise KeyError(path)
        folder = self._path / path
        if (about := _zarr_array(folder)) is not None:
            unknown = sorted(set(_codecs(about)) - _CODECS)
            if unknown:
                raise ValueError(f"{path} asks for the codec {', '.join(unknown)}, which is not used here")
        found = self._group[path]
        if not hasattr(found, "shape"):
            return ZarrGroup(found, folder)
        chunk = next((Path(place, names[0]) for place, _, names in os.walk(folder / "c") if names), None)
        chunk = chunk or next((file for file in folder.iterdir() if file.name[:1].isdigit() and file.is_file()), None)
        if chunk is not None:
            checked(chunk)
        return found

    def array_keys(self) -> list[str]:
        """The names of the arrays in this group itself. The library would make their codecs to tell them."""
        return sorted(folder.name for folder in self._path.iterdir() if _zarr_array(folder) is not None)


def _zarr_array(folder: Path) -> dict[str, Any] | None:
    """What the metadata of an array say, of either version; None where there is none."""
    if (folder / ".zarray").is_file():
        return read_json(folder / ".zarray")
    about = read_json(folder / "zarr.json") if (folder / "zarr.json").is_file() else {}
    return about if about.get("node_type") == "array" else None


def _codecs(about: Any) -> Iterator[str]:
    """The names of all codecs of an array's metadata, of either version, inner ones too."""
    if about.get("compressor"):
        yield str(about["compressor"].get("id"))
    for codec in about.get("filters") or ():
        yield str(codec.get("id"))
    for codec in [*(about.get("codecs") or ()), *(about.get("index_codecs") or ())]:
        yield str(codec.get("name")).removeprefix("numcodecs.")
        yield from _codecs(codec.get("configuration") or {})


_FIELD = re.compile(r"\{(\w*)(?::0?(\d{1,2})d)?\}")


def filled(template: str, fields: Mapping[str, int | str]) -> str:
    """A text of somebody's file with ``{name}`` and ``{name:03d}`` replaced: nothing else has a meaning.

    Raises:
        ValueError: it asks for a name that is not among these fields, or for anything else that braces can mean.
    """

    def value(match: re.Match[str]) -> str:
        name, digits = match.groups()
        if name not in fields:
            raise ValueError(f"{template!r} asks for {{{name}}}, which is none of {', '.join(fields)}")
        held = fields[name]
        return str(held) if digits is None or isinstance(held, str) else f"{held:0{min(int(digits), 20)}d}"

    if {"{", "}"} & set(_FIELD.sub("", template)):
        raise ValueError(f"{template!r}: expected {{name}} or {{name:03d}} in braces")
    return _FIELD.sub(value, template)


def inside(root: Path, name: str) -> Path:
    """A file that a data set names, which must lie in it. Raises PolysomaError where the name leads out."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\0" in name:
        raise PolysomaError(f"{root}: {name!r} leads out of the data set")
    if any(len(part.encode()) > _NAME_BYTES for part in pure.parts):
        raise PolysomaError(f"{root}: {name[:80]!r}... is no name of a file")
    return root / pure


def needs(package: str) -> PolysomaError:
    """The error of a package that is not installed."""
    return PolysomaError(f"reading this needs {package}, not installed here: run `pip install 'polysoma[data]'`")

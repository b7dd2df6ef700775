"""Caches: frames unpacked once into memory-mapped files, one a column.

Numbers become ``.npy`` files. So do pictures where there is room; else they become JPEG files, or stay where they are
and are read when asked for (:mod:`polysoma.data.pictures`). ``$POLYSOMA_CACHE`` decides otherwise.

A cache appears under its name when it is whole and on the disk, so a process that is killed while it makes one leaves
nothing that another would take for one. It holds a file :data:`MARK` with the sizes of its files and when they were
written, sealed with a key of this user: a cache that came with somebody's data, or was changed since, is not used. Only
folders with such a file are ever deleted. The user's cache folder holds at most ``$POLYSOMA_CACHE_GB``: what was left
unfinished goes first, then what was used longest ago.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import hmac
import json
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from polysoma.data import storage
from polysoma.data.formats.reader import PICTURE
from polysoma.data.images import encode_jpeg
from polysoma.data.pictures import JPEGS, JpegPictures, JpegWriter, MappedPictures, Pictures, StreamedPictures
from polysoma.data.stored import Feature
from polysoma.errors import PolysomaError
from polysoma.files import is_own, remove_own, sync, write_atomically

MARK = "polysoma-cache.json"
"""The file that makes a folder one of ours."""
OWN = ".cache"
"""The folder of a recording's caches, in it."""
_LIMIT = 100 * 10**9
_VERSION = 2
_KEY, _KEY_BYTES = "key", 32
_BUILDING, _LOCK = "building-", "lock"
"""A folder that is being written, whose writer holds the lock beside it."""
UNFINISHED = "unfinished"

_LOOKED_AT = 32
"""Pictures of a column, spread over the data set, whose JPEG files tell how large all of them will be."""
_ROOM = 1.1
"""What is reckoned with is so much larger than what these tell."""

Columns = dict[str, np.ndarray | Pictures]
"""All rows, read-only, by column: ``(rows, *shape)``. Most columns have a row a frame."""


class Kind(enum.StrEnum):
    """How pictures are kept: as pixels, as JPEG files, or not at all but read from where they are."""

    RAW = "raw"
    JPEG = "jpeg"
    STREAM = "stream"


class Origin(Protocol):
    """What a cache is made from."""

    @property
    def frames(self) -> int:
        """How many there are, of all episodes."""

    @property
    def features(self) -> Mapping[str, Feature]:
        """All columns by name."""

    def rows(self, column: str) -> int:
        """How many values a column has: as many as there are frames, or fewer."""

    def fill(self, columns: Mapping[str, np.ndarray | JpegWriter]) -> None:
        """Assigns all rows of these columns, slice by slice."""

    def pictures(self, column: str, rows: np.ndarray) -> np.ndarray:
        """The pictures of these rows, which ascend: uint8 ``(n, height, width, 3)``."""


def fingerprint(root: Path, files: Sequence[Path], frames: int, features: Mapping[str, Feature]) -> str:
    """The name of the cache that is made from these files, which changes when one of them does."""
    held = []
    for path in files:
        status = path.stat()
        where = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
        held.append((where, status.st_size, status.st_mtime_ns))
    described = [_VERSION, frames, {key: feature.to_json() for key, feature in features.items()}, held]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def user_cache(root: Path) -> Path:
    """The folder for caches of the data set at ``root`` where it cannot have them inside."""
    return cache_home() / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]


def cache_home() -> Path:
    """``$XDG_CACHE_HOME/polysoma``, in ``~/.cache`` by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "polysoma"


def cached(name: str, origin: Origin, folders: Sequence[Path]) -> Columns:
    """All frames by column: from a cache of this name in one of the folders, or from one that is made now.

    It is made in the first folder that has room and can be written. Where none has, pictures take less room
    (:class:`Kind`), and in the end numbers go into memory.

    Raises:
        PolysomaError: as the origin does; ``$POLYSOMA_CACHE`` is no kind; or more is needed than is allowed.
    """
    kinds = _kinds(origin)
    # Whoever made a link of the folder means something else by it.
    folders = [folder for folder in folders if not folder.is_symlink()]
    # A cache that is there is used, whatever there would be room for today.
    for folder in folders:
        if (columns := _find(folder / name, origin, kinds)) is not None:
            return columns
    for kind in kinds:
        refused: _TooLarge | None = None
        for folder in folders:
            try:
                return _build(folder, name, origin, kind, kinds)
            except _TooLarge as error:
                refused = error
            except OSError:
                # No room, or it cannot be written.
                continue
    if refused is not None:
        raise refused
    if kind is Kind.JPEG:
        places = " and ".join(map(str, folders))
        raise PolysomaError(f"POLYSOMA_CACHE=jpeg: there is no room, or nothing can be written, in {places}")
    arrays = {
        key: np.empty((origin.rows(key), *feature.shape), feature.dtype)
        for key, feature in origin.features.items()
        if kind is Kind.RAW or not feature.image
    }
    origin.fill(arrays)
    for array in arrays.values():
        array.flags.writeable = False
    return arrays | _streamed(origin, origin.features.keys() - arrays.keys())


class _TooLarge(PolysomaError):
    pass


def _kinds(origin: Origin) -> list[Kind]:
    """What to try, one after the other."""
    text = os.environ.get("POLYSOMA_CACHE", "")
    if text not in ("", *Kind):
        raise PolysomaError(f"POLYSOMA_CACHE: expected {', '.join(Kind)} or nothing, got {text!r}")
    if not any(feature.image for feature in origin.features.values()):
        return [Kind.RAW]
    return [Kind(text)] if text else list(Kind)


def _find(cache: Path, origin: Origin, kinds: Sequence[Kind]) -> Columns | None:
    """What a finished cache holds if it is of one of these kinds. Where streaming is the last resort, it has to be
    made out first whether there is room."""
    for kind in kinds if len(kinds) == 1 else [kind for kind in kinds if kind is not Kind.STREAM]:
        # It may lie where this user cannot write, or be damaged.
        with contextlib.suppress(OSError, ValueError):
            return _load(cache, origin, kind)
    return None


def _load(cache: Path, origin: Origin, kind: Kind) -> Columns:
    """What a cache holds. Raises OSError or ValueError when it is not one of ours, not whole, or of another kind."""
    _check_seal(cache)
    columns: Columns = {}
    for key, feature in origin.features.items():
        column: np.ndarray | Pictures
        if kind is Kind.RAW or not feature.image:
            path = cache / f"{key}.npy"
            column = MappedPictures.open(path) if feature.image else np.load(path, mmap_mode="r")
        elif kind is Kind.JPEG:
            column = JpegPictures(cache, key, feature.shape)
        else:
            continue
        if column.shape != (origin.rows(key), *feature.shape) or column.dtype != feature.dtype:
            raise ValueError(f"{cache}: {key} holds {column.dtype} of shape {column.shape}")
        columns[key] = column
    with contextlib.suppress(OSError):
        os.utime(cache)
    return columns | _streamed(origin, origin.features.keys() - columns.keys())


def _check_seal(cache: Path) -> None:
    """Raises OSError or ValueError where this user did not make the cache, or a file of it was changed since."""
    if not is_own(cache, MARK):
        raise ValueError(f"{cache}: not one of ours")
    told = json.loads((cache / MARK).read_text())
    states = _states(cache)
    if not isinstance(told, dict) or told.get("files") != states:
        raise ValueError(f"{cache}: its files are of other lengths, or were changed or copied")
    if not hmac.compare_digest(str(told.get("seal")).encode(), _seal(cache.name, states).encode()):
        raise ValueError(f"{cache}: this user did not make it")


def _states(cache: Path) -> dict[str, list[int]]:
    """The length of each file and when it was last written: the system's own clock, which nobody sets as they set other
    times. So a file of the same length that was put in its place, or came out of an archive, is another one."""
    # What a link leads to is nothing that was made here.
    found = {path.name: path.lstat() for path in cache.iterdir() if path.name != MARK}
    return {
        name: [about.st_size if stat.S_ISREG(about.st_mode) else -1, about.st_ctime_ns]
        for name, about in sorted(found.items())
    }


def _seal(name: str, states: Mapping[str, list[int]]) -> str:
    """What nobody but this user can write under a cache. Raises OSError where the user's key cannot be kept, or is
    somebody else's."""
    path = cache_home() / _KEY
    if not path.exists():
        _write(path, secrets.token_bytes(_KEY_BYTES), 0o600)
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or (hasattr(os, "geteuid") and about.st_uid != os.geteuid()):
        raise OSError(f"{path}: this user did not make it; delete it: caches are made again")
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise OSError(f"{path}: expected {_KEY_BYTES} bytes, got {len(key)}; delete it: caches are made again")
    return hmac.new(key, json.dumps([name, dict(states)]).encode(), "sha256").hexdigest()


def _write(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Raises OSError when it cannot be written, as all else does here: then the next folder is tried."""
    try:
        write_atomically(path, content, mode)
    except PolysomaError as error:
        raise OSError(str(error)) from error


def _streamed(origin: Origin, keys: Collection[str]) -> Columns:
    return {
        key: StreamedPictures(partial(origin.pictures, key), origin.rows(key), origin.features[key].shape)
        for key in keys
    }


def _build(folder: Path, name: str, origin: Origin, kind: Kind, kinds: Sequence[Kind]) -> Columns:
    with storage.lock(folder / _LOCK, wait=True):
        # Another process may have made it while this one waited.
        columns = _find(folder / name, origin, kinds) or _find(folder / name, origin, [kind])
        if columns is not None:
            return columns
        _make_room(folder, _needed(origin, kind))
        building = folder / f"{_BUILDING}{secrets.token_hex(8)}"
        try:
            building.mkdir()
            (building / MARK).touch()
            _unpack(building, origin, kind)
            # What lies on the disk gets no other time any more.
            for file in _states(building):
                sync(building / file)
            states = _states(building)
            _write(building / MARK, json.dumps({"files": states, "seal": _seal(name, states)}).encode())
            os.rename(building, folder / name)
            sync(folder)
        except BaseException:
            remove_own(building, MARK)
            raise
        return _load(folder / name, origin, kind)


def _unpack(building: Path, origin: Origin, kind: Kind) -> None:
    columns: dict[str, np.ndarray | JpegWriter] = {}
    writers = []
    for key, feature in origin.features.items():
        if kind is Kind.RAW or not feature.image:
            shape = (origin.rows(key), *feature.shape)
            columns[key] = np.lib.format.open_memmap(building / f"{key}.npy", "w+", feature.dtype, shape)
        elif kind is Kind.JPEG:
            columns[key] = writer = JpegWriter(building, key)
            writer.start(origin.rows(key))
            writers.append(writer)
    origin.fill(columns)
    for writer in writers:
        writer.finish()


def _needed(origin: Origin, kind: Kind) -> int:
    """Bytes of a cache; of JPEG files an estimate."""
    if kind is Kind.RAW:
        return raw_bytes(origin)
    size = sum(feature.bytes * origin.rows(key) for key, feature in origin.features.items() if not feature.image)
    for key, feature in origin.features.items() if kind is Kind.JPEG else ():
        if feature.image:
            some = np.unique(np.linspace(0, origin.rows(key) - 1, _LOOKED_AT).astype(np.int64))
            files = [len(encode_jpeg(picture)) for picture in origin.pictures(key, some)]
            size += (np.dtype(np.int64).itemsize + int(_ROOM * np.mean(files))) * origin.rows(key)
    return size


def raw_bytes(origin: Origin) -> int:
    """What all rows take as pixels and numbers."""
    return sum(feature.bytes * origin.rows(key) for key, feature in origin.features.items())


def _make_room(folder: Path, needed: int) -> None:
    """Deletes older caches of this data set, and of others that were used longest ago, if that makes enough room.

    Raises:
        PolysomaError: more than is allowed is needed.
        OSError: the disk has too little space. Writing to a mapped file on a full one kills the process.
    """
    # Whoever makes room holds the lock of this folder.
    own = [path for path in folder.iterdir() if is_own(path, MARK)]
    old: list[Cache] = []
    if folder.parent == cache_home():
        limit = cache_limit()
        if needed > limit:
            raise _TooLarge(
                f"a cache of {needed / 1e9:.1f} GB is needed, and {limit / 1e9:g} GB are allowed: set "
                "POLYSOMA_CACHE_GB, unset POLYSOMA_CACHE, or write smaller pictures into the description "
                "(`polysoma data schema`)"
            )
        others = sorted(
            (cache for cache in caches() if cache.folder.parent != folder),
            key=lambda cache: (cache.kind != UNFINISHED, cache.used),
        )
        excess = needed + sum(cache.bytes for cache in others) - limit
        for cache in others:
            if excess > 0:
                old.append(cache)
                excess -= cache.bytes
    if shutil.disk_usage(folder).free + sum(map(_size, own)) + sum(cache.bytes for cache in old) < needed * 1.01:
        raise OSError("too little space for the cache")
    # Mapped files live on until they are let go, so whoever still reads an older cache is not disturbed.
    for path in own:
        remove_own(path, MARK)
    for cache in old:
        remove(cache)
    if shutil.disk_usage(folder).free < needed * 1.01:
        raise OSError("too little space for the cache")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def cache_limit() -> int:
    """Bytes that the user's cache folder may hold. Raises PolysomaError where ``$POLYSOMA_CACHE_GB`` is no number."""
    text = os.environ.get("POLYSOMA_CACHE_GB", "")
    try:
        return int(float(text) * 1e9) if text else _LIMIT
    except (ValueError, OverflowError) as error:
        raise PolysomaError(f"POLYSOMA_CACHE_GB: expected a number of gigabytes, got {text!r}") from error


@dataclass(frozen=True)
class Cache:
    """One cache: how large it is, what it holds ("raw" or "JPEG" pictures, or "numbers" alone; or "unfinished", if a
    process that was killed left it), and when it was last used (seconds since 1970)."""

    folder: Path
    bytes: int
    kind: str
    used: float


def remove(cache: Cache) -> None:
    """Lets go of a cache: it is made again when it is needed. What a process is writing now stays."""
    with _unwritten(cache.folder) as idle:
        if idle:
            remove_own(cache.folder, MARK)


@contextlib.contextmanager
def _unwritten(folder: Path) -> Iterator[bool]:
    """Keeps others from writing beside this folder. Yields whether surely no process writes it."""
    if not folder.name.startswith(_BUILDING):
        yield True
        return
    with contextlib.ExitStack() as stack:
        idle = False
        with contextlib.suppress(OSError):
            idle = stack.enter_context(storage.lock(folder.parent / _LOCK, wait=False, guess=False))
        yield idle


def caches(recordings: Iterable[Path] = ()) -> list[Cache]:
    """All caches in the user's folder, and in these recordings, but for what a process is writing now."""
    inside = [recording / OWN for recording in recordings]
    places = [place for place in (*cache_home().glob("*"), *inside) if not place.is_symlink()]
    found = []
    for folder in (folder for place in places for folder in place.glob("*")):
        with contextlib.suppress(OSError), _unwritten(folder) as idle:
            if idle and is_own(folder, MARK):
                names = [path.name for path in folder.iterdir()]
                raw = any(name.startswith(PICTURE) for name in names)
                kind = "JPEG" if any(name.endswith(JPEGS) for name in names) else "raw" if raw else "numbers"
                kind = UNFINISHED if folder.name.startswith(_BUILDING) else kind
                found.append(Cache(folder, _size(folder), kind, folder.stat().st_mtime))
    return found

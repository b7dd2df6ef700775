"""Caches: frames unpacked once into memory-mapped ``.npy`` files, one a column.

A cache appears under its name when it is whole, so a process that is killed while it makes one leaves nothing that
another would take for one. The user's cache folder holds at most ``$POLYSOMA_CACHE_GB``: what was used longest ago goes
first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polysoma.data import layout
from polysoma.data.layout import Feature
from polysoma.errors import PolysomaError

_LIMIT = 100 * 10**9
_VERSION = 1
_BUILDING = "building-"

Fill = Callable[[dict[str, np.ndarray]], None]
"""Writes all frames into arrays by column."""


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


def cached(
    name: str, frames: int, features: Mapping[str, Feature], folders: Sequence[Path], fill: Fill
) -> dict[str, np.ndarray]:
    """All frames, read-only ``(frames, *shape)`` by column: from a cache of this name in one of the folders; or it is
    made in the first that can be written, or in memory where none can."""
    for folder in folders:
        # A finished cache may lie where this user cannot write.
        with contextlib.suppress(OSError, ValueError):
            return _load(folder / name, features)
    for folder in folders:
        with contextlib.suppress(OSError):
            return _build(folder, name, frames, features, fill)
    arrays = {key: np.empty((frames, *feature.shape), feature.dtype) for key, feature in features.items()}
    fill(arrays)
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _build(folder: Path, name: str, frames: int, features: Mapping[str, Feature], fill: Fill) -> dict[str, np.ndarray]:
    with layout.lock(folder / "lock", wait=True):
        # Another process may have made it while this one waited.
        with contextlib.suppress(OSError, ValueError):
            return _load(folder / name, features)
        for old in folder.iterdir():
            if old.is_dir():
                # Mapped files live on until they are let go, so whoever still reads an older cache is not disturbed.
                shutil.rmtree(old, ignore_errors=True)
        building = folder / f"{_BUILDING}{os.getpid()}"
        size = sum(feature.bytes for feature in features.values())
        if folder.parent == cache_home():
            _make_room(size * frames)
        try:
            building.mkdir()
            if shutil.disk_usage(folder).free < size * frames * 1.01:
                # Writing to a mapped file on a full disk kills the process instead of raising an error.
                raise OSError("too little space for the cache")
            arrays: dict[str, np.ndarray] = {
                key: np.lib.format.open_memmap(building / f"{key}.npy", "w+", feature.dtype, (frames, *feature.shape))
                for key, feature in features.items()
            }
            fill(arrays)
            del arrays
            os.rename(building, folder / name)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        return _load(folder / name, features)


def _make_room(needed: int) -> None:
    limit = cache_limit()
    if needed > limit:
        raise PolysomaError(
            f"a cache of {needed / 1e9:.1f} GB is needed, and {limit / 1e9:g} GB are allowed: set POLYSOMA_CACHE_GB, "
            "or write smaller pictures into the description (`polysoma data schema`)"
        )
    held = sorted(caches(), key=lambda cache: cache.used)
    excess = needed + sum(cache.bytes for cache in held) - limit
    for cache in held:
        if excess <= 0:
            return
        # Mapped files live on until they are let go.
        shutil.rmtree(cache.folder, ignore_errors=True)
        excess -= cache.bytes


def cache_limit() -> int:
    """Bytes that the user's cache folder may hold. Raises PolysomaError where ``$POLYSOMA_CACHE_GB`` is no number."""
    text = os.environ.get("POLYSOMA_CACHE_GB", "")
    try:
        return int(float(text) * 1e9) if text else _LIMIT
    except ValueError as error:
        raise PolysomaError(f"POLYSOMA_CACHE_GB: expected a number of gigabytes, got {text!r}") from error


@dataclass(frozen=True)
class Cache:
    """One finished cache in the user's folder: how large it is, and when it was last used (seconds since 1970)."""

    folder: Path
    bytes: int
    used: float


def caches() -> list[Cache]:
    """All finished caches in the user's folder."""
    found = []
    for folder in cache_home().glob("*/*"):
        with contextlib.suppress(OSError):
            if folder.is_dir() and not folder.name.startswith(_BUILDING):
                size = sum(path.stat().st_size for path in folder.iterdir())
                found.append(Cache(folder, size, folder.stat().st_mtime))
    return found


def _load(folder: Path, features: Mapping[str, Feature]) -> dict[str, np.ndarray]:
    with contextlib.suppress(OSError):
        os.utime(folder)
    return {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in features}

"""Reading: a recorded data set as memory-mapped arrays.

Frames are unpacked once into one ``.npy`` file a column, in ``.cache`` inside the data set, so that a random window
costs a copy and memory holds only what is in use. A cache is named after the files that it was made from.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from polysoma.data import layout
from polysoma.data.layout import EpisodeIndex, Feature
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import DiscreteActions
from polysoma.errors import PolysomaError

__all__ = ["Dataset", "DatasetWriter"]

_CACHE_VERSION = 1
_BUILDING = "building-"


class Dataset:
    """The episodes of one embodiment. ``len()`` is the number of frames N; E is the number of episodes.

    Attributes:
        embodiment: the body.
        tasks: task names such as ``"babyai/GoToLocal"``.
        instructions: the different instructions.
        episode_start: int64 (E,), the first frame.
        episode_length: int64 (E,), frames.
        episode_task: int64 (E,), indices into ``tasks``.
        episode_instruction: int64 (E,), indices into ``instructions``.
        episode_seed: int64 (E,).
        episode_success: bool (E,).
        observations: array streams by name, privileged ones too, ``(N, *stream.shape)`` of the stream's dtype,
            read-only.
        actions: the expert's labels, float32 (N, A) in the channels' units, or int64 (N,), read-only.
        executed: what was executed, as ``actions``.
        failures: seeds of failed expert episodes, by task.

    Raises:
        PolysomaError: not a data set of this library, a newer format, no episodes yet, or a damaged file.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.embodiment, self.failures = layout.read_polysoma(self.root)
        index = layout.read_episodes(self.root)
        if not len(index.length):
            raise PolysomaError(f"{self.root}: no episode has been recorded into this data set yet")
        self.tasks, self.instructions = index.tasks, index.instructions
        self.episode_start, self.episode_length = index.start, index.length
        self.episode_task, self.episode_instruction = index.task, index.instruction
        self.episode_seed, self.episode_success = index.seed, index.success
        self._frames = index.frames
        arrays = _frames(self.root, index, layout.body_features(self.embodiment))
        streams = self.embodiment.recorded
        self.observations = {stream.name: arrays[layout.stream_key(self.embodiment, stream)] for stream in streams}
        self.actions, self.executed = arrays[layout.ACTION], arrays[layout.EXECUTED]
        if isinstance(self.embodiment.actions, DiscreteActions):
            self.actions, self.executed = self.actions[:, 0], self.executed[:, 0]

    def __len__(self) -> int:
        return self._frames

    @functools.cached_property
    def spreads(self) -> dict[str, np.ndarray]:
        """Of privileged streams by name: the standard deviation of each channel within each task, float32
        ``(tasks, size)``."""
        task = self.episode_task.repeat(self.episode_length)
        result = {}
        for stream in self.embodiment.privileged:
            values = self.observations[stream.name]
            rows = [values[task == number].std(0, np.float64) for number in range(len(self.tasks))]
            result[stream.name] = np.stack(rows).astype(np.float32)
        return result


def _frames(root: Path, index: EpisodeIndex, features: Mapping[str, Feature]) -> dict[str, np.ndarray]:
    """All frames, from the cache, which is made when there is none of these files."""
    name = _fingerprint(root, index, features)
    folders = [root / ".cache", _user_cache(root)]
    for folder in folders:
        # A finished cache may lie where this user cannot write.
        with contextlib.suppress(OSError, ValueError):
            return _load(folder / name, features)
    for folder in folders:
        with contextlib.suppress(OSError):
            return _build(root, index, features, folder, name)
    arrays = {key: np.empty((index.frames, *feature.shape), feature.dtype) for key, feature in features.items()}
    _fill(arrays, root, index, features)
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _build(
    root: Path, index: EpisodeIndex, features: Mapping[str, Feature], folder: Path, name: str
) -> dict[str, np.ndarray]:
    with layout.lock(folder / "lock", wait=True):
        # Another process may have made it while this one waited.
        with contextlib.suppress(OSError, ValueError):
            return _load(folder / name, features)
        for old in folder.iterdir():
            if old.is_dir():
                # Mapped files live on until they are let go, so whoever still reads an older cache is not disturbed.
                shutil.rmtree(old, ignore_errors=True)
        building = folder / f"{_BUILDING}{os.getpid()}"
        try:
            building.mkdir()
            size = sum(feature.bytes for feature in features.values())
            if shutil.disk_usage(folder).free < size * index.frames * 1.01:
                # Writing to a mapped file on a full disk kills the process instead of raising an error.
                raise OSError("too little space for the cache")
            arrays: dict[str, np.ndarray] = {
                key: np.lib.format.open_memmap(
                    building / f"{key}.npy", "w+", feature.dtype, (index.frames, *feature.shape)
                )
                for key, feature in features.items()
            }
            _fill(arrays, root, index, features)
            del arrays
            os.rename(building, folder / name)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        return _load(folder / name, features)


def _fill(arrays: dict[str, np.ndarray], root: Path, index: EpisodeIndex, features: Mapping[str, Feature]) -> None:
    for begin, frames in layout.read_frames(root, index, features):
        for key, values in frames.items():
            arrays[key][begin : begin + len(values)] = values


def _load(folder: Path, features: Mapping[str, Feature]) -> dict[str, np.ndarray]:
    return {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in features}


def _fingerprint(root: Path, index: EpisodeIndex, features: Mapping[str, Feature]) -> str:
    files = []
    for path in [*layout.episode_files(root), *layout.data_files(root, index)]:
        status = path.stat()
        files.append((path.relative_to(root).as_posix(), status.st_size, status.st_mtime_ns))
    described = [_CACHE_VERSION, index.frames, {key: feature.to_json() for key, feature in features.items()}, files]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:32]


def _user_cache(root: Path) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return base / "polysoma" / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:32]

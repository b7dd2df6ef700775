"""Foreign data as our own: the episodes of a reader, in the streams, units and sizes of an embodiment."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from polysoma.data import layout
from polysoma.data.episode import Episode
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import ACTION, Reader
from polysoma.data.layout import EpisodeIndex, Feature
from polysoma.data.schema import Schema
from polysoma.embodiment import ContinuousActions, Modality
from polysoma.errors import PolysomaError

_WORTH_PROCESSES = 5000
"""Frames with pictures from which on starting processes pays."""

Progress = Callable[[int, int], None]
"""Called with (frames so far, of how many)."""


class Foreign:
    """What a reader holds, described by a schema. Episodes without frames are left out.

    Attributes:
        index: the episodes; their seeds are their numbers in the reader.
        features: the columns as they are cached, by name.

    Raises:
        PolysomaError: there is no frame at all.
    """

    def __init__(self, reader: Reader, schema: Schema) -> None:
        self.reader, self.schema = reader, schema
        body = schema.embodiment
        self._episodes = np.flatnonzero(reader.lengths)
        if not len(self._episodes):
            raise PolysomaError(f"{reader.path}: there are no episodes in it")
        length = reader.lengths[self._episodes]
        told = [reader.instructions[episode] for episode in self._episodes]
        instructions = list(dict.fromkeys(told))
        which = np.array([instructions.index(text) for text in told], np.int64)
        successes = np.ones(len(reader), bool) if reader.successes is None else reader.successes
        self.index = EpisodeIndex(
            start=np.cumsum(length) - length,
            length=length,
            task=which,
            instruction=which,
            seed=self._episodes.astype(np.int64),
            success=successes[self._episodes],
            file=np.zeros(len(length), np.int64),
            tasks=[f"{body.name}/{text or 'unnamed'}" for text in instructions],
            instructions=instructions,
        )
        features = layout.body_features(body)
        self.features: dict[str, Feature] = {key: value for key, value in features.items() if key != layout.EXECUTED}

    def fill(self, arrays: dict[str, np.ndarray], progress: Progress | None = None) -> None:
        """Writes all frames into arrays by column. Raises PolysomaError as :meth:`episode`.

        Many pictures that go into mapped files are unpacked by as many processes as there are cores.
        """
        pictures = any(feature.image for feature in self.features.values())
        workers = min(os.cpu_count() or 1, len(self))
        files = {key: str(array.filename) for key, array in arrays.items() if isinstance(array, np.memmap)}
        done = 0
        if not pictures or workers == 1 or self.index.frames < _WORTH_PROCESSES or len(files) < len(arrays):
            for number in range(len(self)):
                self._fill_one(arrays, number)
                done += int(self.index.length[number])
                if progress is not None:
                    progress(done, self.index.frames)
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            work = partial(_unpack, self.reader.path, self.schema, files)
            try:
                for count in pool.map(work, np.array_split(np.arange(len(self)), min(len(self), 8 * workers))):
                    done += count
                    if progress is not None:
                        progress(done, self.index.frames)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _fill_one(self, arrays: Mapping[str, np.ndarray], number: int) -> None:
        body = self.schema.embodiment
        observations, actions = self._arrays(self.number(number))
        begin, length = int(self.index.start[number]), int(self.index.length[number])
        for stream in body.arrays:
            arrays[layout.stream_key(body, stream)][begin : begin + length] = observations[stream.name]
        arrays[layout.ACTION][begin : begin + length] = actions.reshape(length, -1)

    def __len__(self) -> int:
        """The number of episodes that have frames."""
        return len(self._episodes)

    def task(self, number: int) -> str:
        """The task of the episode of this number among those that have frames."""
        return self.index.tasks[self.index.task[number]]

    def number(self, number: int) -> int:
        """Its number in the reader."""
        return int(self._episodes[number])

    def episode(self, number: int) -> Episode:
        """One of the episodes that have frames, checked.

        Raises:
            PolysomaError: as :meth:`Reader.read`, and for numbers that are not finite; it names the episode.
        """
        observations, actions = self._arrays(self.number(number))
        return Episode(
            self.schema.embodiment,
            self.task(number),
            self.index.instructions[self.index.instruction[number]],
            self.number(number),
            bool(self.index.success[number]),
            observations,
            actions,
            actions.copy(),
        )

    def _arrays(self, episode: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        body, columns = self.schema.embodiment, self.schema.columns
        held = self.reader.read(episode, list(dict.fromkeys(columns.values())))
        length = int(self.reader.lengths[episode])
        observations = {}
        for stream in body.arrays:
            values = held[columns[stream.name]]
            if stream.modality is Modality.IMAGE:
                observations[stream.name] = resized(values, stream.shape)
            else:
                observations[stream.name] = self._finite(episode, columns[stream.name], values.reshape(length, -1))
        values = held[columns[ACTION]]
        if isinstance(body.actions, ContinuousActions):
            return observations, self._finite(episode, columns[ACTION], values.reshape(length, -1))
        choices = values.reshape(length).astype(np.int64)
        if ((choices < 0) | (choices >= body.actions.size)).any():
            raise PolysomaError(
                f"{self.reader.path}, episode {episode}: expected choices 0 to {body.actions.size - 1}, "
                f"got {choices.min()} to {choices.max()}"
            )
        return observations, choices

    def _finite(self, episode: int, column: str, values: np.ndarray) -> np.ndarray:
        rows = values.astype(np.float32)
        bad = np.argwhere(~np.isfinite(rows))
        if len(bad):
            step, channel = bad[0]
            raise PolysomaError(
                f"{self.reader.path}, episode {episode}: {column} is {rows[step, channel]} at frame {step}, channel "
                f"{channel}; `polysoma doctor` lists all such places, `polysoma data convert --skip` leaves them out"
            )
        return rows


def _unpack(path: Path, schema: Schema, files: Mapping[str, str], numbers: np.ndarray) -> int:
    """Writes these episodes into mapped files, in a process of its own. Returns how many frames they were."""
    reader = open_reader(path)
    try:
        foreign = Foreign(reader, schema)
        arrays = {key: np.load(file, mmap_mode="r+") for key, file in files.items()}
        for number in numbers.tolist():
            foreign._fill_one(arrays, number)
        return int(foreign.index.length[numbers].sum())
    finally:
        reader.close()


def resized(pictures: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pictures uint8 ``(T, H, W, 3)`` in the size of ``shape`` ``(height, width, 3)``, averaged where they shrink."""
    if pictures.shape[1:] == shape:
        return pictures
    result = np.empty((len(pictures), *shape), np.uint8)
    for row, picture in enumerate(pictures):
        smaller = Image.fromarray(picture).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        result[row] = np.asarray(smaller)
    return result

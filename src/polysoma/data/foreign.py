"""Foreign data as our own: the episodes of a reader, in the streams, units and sizes of an embodiment."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from polysoma import progress
from polysoma.data import layout
from polysoma.data.episode import Episode
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import ACTION, Reader
from polysoma.data.layout import EpisodeIndex, Feature
from polysoma.data.pictures import JpegWriter
from polysoma.data.schema import Schema
from polysoma.embodiment import ContinuousActions, Modality
from polysoma.errors import PolysomaError

_WORTH_PROCESSES = 5000
"""Frames with pictures from which on starting processes pays."""
_NEAR, _RUN = 8, 64
"""Frames of which pictures are read in one go: how far one is from the next, and how many at most."""


class Foreign:
    """What a reader holds, described by a schema. Episodes without frames are left out.

    Args:
        reader: holds the frames.
        schema: says what they are.

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

    @property
    def frames(self) -> int:
        return self.index.frames

    def fill(self, columns: Mapping[str, np.ndarray | JpegWriter]) -> None:
        """Assigns all frames of these columns. Raises PolysomaError as :meth:`episode`.

        Tells :mod:`polysoma.progress` how far it is. Many pictures that go into files are unpacked by as many processes
        as there are cores.
        """
        pictures = any(self.features[key].image for key in columns)
        workers = min(os.cpu_count() or 1, len(self))
        files: dict[str, str | JpegWriter] = {}
        for key, column in columns.items():
            if isinstance(column, JpegWriter):
                files[key] = column
            elif isinstance(column, np.memmap):
                files[key] = str(column.filename)
        if not pictures or workers == 1 or self.frames < _WORTH_PROCESSES or len(files) < len(columns):
            self._told(self._fill_one(columns, number) for number in range(len(self)))
            return
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            work = partial(_unpack, self.reader.path, self.schema, files)
            try:
                self._told(pool.map(work, np.array_split(np.arange(len(self)), min(len(self), 8 * workers))))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _told(self, counts: Iterator[int]) -> None:
        done = 0
        for count in counts:
            done += count
            progress.tell(f"unpacking {self.reader.path}", done, self.frames)

    def _fill_one(self, columns: Mapping[str, np.ndarray | JpegWriter], number: int) -> int:
        body = self.schema.embodiment
        observations, actions = self._arrays(self.number(number), columns)
        begin, length = int(self.index.start[number]), int(self.index.length[number])
        for stream in body.arrays:
            if stream.name in observations:
                columns[layout.stream_key(body, stream)][begin : begin + length] = observations[stream.name]
        columns[layout.ACTION][begin : begin + length] = actions.reshape(length, -1)
        return length

    def pictures(self, column: str, frames: np.ndarray) -> np.ndarray:
        """The pictures of these frames, which ascend: uint8 ``(n, height, width, 3)``. Neighbours are read in one go.

        Raises:
            PolysomaError: as :meth:`Reader.window`.
        """
        body = self.schema.embodiment
        stream = next(stream for stream in body.arrays if layout.stream_key(body, stream) == column)
        name = self.schema.columns[stream.name]
        pictures = np.empty((len(frames), *stream.shape), np.uint8)
        numbers = np.searchsorted(self.index.start, frames, side="right") - 1
        steps = frames - self.index.start[numbers]
        for run in _runs(numbers, steps):
            own = steps[run]
            held = self.reader.window(self.number(int(numbers[run.start])), int(own[0]), int(own[-1]) + 1, [name])
            pictures[run] = resized(held[name][own - own[0]], stream.shape)
        return pictures

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
        observations, actions = self._arrays(self.number(number), self.features)
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

    def _arrays(self, episode: int, keys: Collection[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The streams of these columns, and the actions."""
        body, columns = self.schema.embodiment, self.schema.columns
        streams = [stream for stream in body.arrays if layout.stream_key(body, stream) in keys]
        wanted = [columns[name] for name in (*(stream.name for stream in streams), ACTION)]
        held = self.reader.read(episode, list(dict.fromkeys(wanted)))
        length = int(self.reader.lengths[episode])
        observations = {}
        for stream in streams:
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


def _unpack(path: Path, schema: Schema, files: Mapping[str, str | JpegWriter], numbers: np.ndarray) -> int:
    """Writes these episodes into files, in a process of its own. Returns how many frames they were."""
    reader = open_reader(path)
    try:
        foreign = Foreign(reader, schema)
        columns = {key: np.load(file, mmap_mode="r+") if isinstance(file, str) else file for key, file in files.items()}
        return sum(foreign._fill_one(columns, number) for number in numbers.tolist())
    finally:
        reader.close()


def _runs(numbers: np.ndarray, steps: np.ndarray) -> Iterator[slice]:
    """Neighbours among frames that ascend, of which each is a step of the episode of this number."""
    begin = 0
    for end in range(1, len(steps) + 1):
        if (
            end == len(steps)
            or numbers[end] != numbers[begin]
            or steps[end] - steps[end - 1] > _NEAR
            or steps[end] - steps[begin] >= _RUN
        ):
            yield slice(begin, end)
            begin = end


def resized(pictures: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Pictures uint8 ``(T, H, W, 3)`` in the size of ``shape`` ``(height, width, 3)``, averaged where they shrink."""
    if pictures.shape[1:] == shape:
        return pictures
    result = np.empty((len(pictures), *shape), np.uint8)
    for row, picture in enumerate(pictures):
        smaller = Image.fromarray(picture).resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        result[row] = np.asarray(smaller)
    return result

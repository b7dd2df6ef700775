"""Foreign data as our own: the episodes of a reader, in the streams, units and sizes of an embodiment."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from polysoma import progress
from polysoma.data import stored
from polysoma.data.episode import Episode
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import ACTION, REWARD, Reader
from polysoma.data.images import resized
from polysoma.data.instructions import cut
from polysoma.data.layout import EpisodeIndex, Feature
from polysoma.data.pictures import JpegWriter
from polysoma.data.schema import Schema
from polysoma.embodiment import ContinuousActions, Modality, Stream
from polysoma.errors import PolysomaError
from polysoma.text import some

_WORTH_THREADS = 5000
"""Frames with pictures from which on several threads pay."""
ENDING = "episode.ending"
"""The column of how episodes ended, a row for each: whether it terminated, was truncated, succeeded."""
_NEAR, _RUN = 8, 64
"""Frames of which pictures are read in one go: how far one is from the next, and how many at most."""


class Damaged(PolysomaError):
    """Episodes that cannot be read.

    Attributes:
        episodes: their numbers in the files, and what is wrong with each.
    """

    def __init__(self, message: str, episodes: Mapping[int, str]) -> None:
        super().__init__(message)
        self.episodes = dict(episodes)


def check_files(reader: Reader, schema: Schema) -> None:
    """Looks whether all files are there, before any is read.

    Raises:
        Damaged: some are not.
    """
    gone = reader.absent(list(dict.fromkeys(schema.columns.values())))
    absent = {reader.source(episode): why for episode, why in gone.items()}
    if absent:
        raise Damaged(
            f"{reader.path}: {len(absent)} of {len(reader)} episodes cannot be read ({some(absent)}): "
            f"{next(iter(absent.values()))}; copy their files from where they came, or leave these episodes out with "
            "--skip-damaged",
            absent,
        )


class Foreign:
    """What a reader holds, described by a schema. Episodes without frames are left out.

    Args:
        reader: holds the frames.
        schema: says what they are.
        left_out: numbers in the files of further episodes that are left out.
        skip_damaged: whether :meth:`fill` reads on past an episode that cannot be read, to tell of all of them.

    Attributes:
        reader: as it was given, or of the parts of its episodes (:func:`polysoma.data.instructions.cut`).
        index: the episodes; their seeds are their numbers in the reader. How they ended is read with their frames:
            :data:`ENDING` tells. Where the files do not say whether one succeeded, it did.
        features: the columns as they are cached, by name.

    Raises:
        PolysomaError: there is no frame at all.
    """

    def __init__(
        self, reader: Reader, schema: Schema, left_out: Collection[int] = (), skip_damaged: bool = False
    ) -> None:
        reader = cut(reader)
        self.reader, self.schema = reader, schema
        self._left_out, self._skip_damaged = left_out, skip_damaged
        self._damaged: dict[int, str] = {}
        body = schema.embodiment
        numbers = np.array([reader.source(episode) for episode in range(len(reader))], np.int64)
        self._episodes = np.flatnonzero((reader.lengths > 0) & ~np.isin(numbers, list(left_out)))
        if not len(self._episodes):
            raise PolysomaError(f"{reader.path}: there are no episodes in it{' that can be read' if left_out else ''}")
        length = reader.lengths[self._episodes]
        told = [reader.instructions[episode] for episode in self._episodes]
        texts: dict[str, int] = {}
        which = np.array([texts.setdefault(text, len(texts)) for text in told], np.int64)
        instructions = list(texts)
        successes = np.ones(len(reader), bool) if reader.successes is None else reader.successes
        self.index = EpisodeIndex(
            number=numbers[self._episodes],
            start=np.cumsum(length) - length,
            length=length,
            task=which,
            instruction=which,
            seed=self._episodes.astype(np.int64),
            success=successes[self._episodes],
            file=np.zeros(len(length), np.int64),
            tasks=[f"{body.name}/{text or 'unnamed'}" for text in instructions],
            instructions=instructions,
            terminated=np.zeros(len(length), bool),
            truncated=np.zeros(len(length), bool),
            final=np.zeros(len(length), bool) if reader.finals is None else reader.finals[self._episodes],
            rewards=has_rewards(reader),
        )
        features = stored.body_features(body)
        self.features: dict[str, Feature] = {
            **{key: value for key, value in features.items() if key != stored.EXECUTED},
            **stored.reward_features(self.index.rewards),
            **(stored.final_features(body) if self.index.final.any() else {}),
            ENDING: Feature(np.dtype(bool), (3,)),
        }

    @property
    def frames(self) -> int:
        return self.index.frames

    def rows(self, column: str) -> int:
        """How many values a column has: one a frame, one an episode, or one a last observation."""
        if column == ENDING:
            return len(self)
        return int(self.index.final.sum()) if column.startswith(stored.FINAL) else self.frames

    def fill(self, columns: Mapping[str, np.ndarray | JpegWriter]) -> None:
        """Assigns all rows of these columns.

        Tells :mod:`polysoma.progress` how far it is. Many pictures are unpacked by as many threads as there are cores:
        what decodes them lets go of the interpreter, and other processes would run the user's script again.

        Raises:
            Damaged: if damaged episodes are skipped: those that there are, when all others have been read.
            PolysomaError: otherwise as :meth:`episode`.
        """
        pictures = any(self.features[key].image for key in columns)
        workers = min(os.cpu_count() or 1, len(self))
        if not pictures or workers == 1 or self.frames < _WORTH_THREADS:
            self._told(self._fill_one(columns, number) for number in range(len(self)))
        else:
            shares = np.array_split(np.arange(len(self)), min(len(self), 8 * workers))
            with ThreadPoolExecutor(workers) as pool:
                try:
                    self._told(pool.map(lambda numbers: self._fill_some(columns, numbers), shares))
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        if self._damaged:
            raise Damaged(f"{self.reader.path}: {len(self._damaged)} episodes cannot be read", self._damaged)

    def _fill_some(self, columns: Mapping[str, np.ndarray | JpegWriter], numbers: np.ndarray) -> int:
        """Assigns the rows of these episodes with a reader of this thread's own. Returns how many frames they were."""
        reader = open_reader(self.reader.path)
        try:
            own = Foreign(reader, self.schema, self._left_out, self._skip_damaged)
            own._damaged = self._damaged
            # Each writes into a file of its own.
            copies = {key: copy.copy(c) if isinstance(c, JpegWriter) else c for key, c in columns.items()}
            return sum(own._fill_one(copies, number) for number in numbers.tolist())
        finally:
            reader.close()

    def _told(self, counts: Iterator[int]) -> None:
        done = 0
        for count in counts:
            done += count
            progress.tell(f"unpacking {self.reader.path}", done, self.frames)

    def _fill_one(self, columns: Mapping[str, np.ndarray | JpegWriter], number: int) -> int:
        body = self.schema.embodiment
        keys = {stored.stream_key(body, stream): stream for stream in body.arrays}
        begin, length = int(self.index.start[number]), int(self.index.length[number])
        try:
            held = self._read(self.number(number), [stream for key, stream in keys.items() if key in columns])
        except PolysomaError as error:
            if not self._skip_damaged:
                raise
            self._damaged[int(self.index.number[number])] = str(error)
            return length
        rows = slice(begin, begin + length)
        for key, stream in keys.items():
            if key in columns:
                columns[key][rows] = held.observations[stream.name]
        columns[stored.ACTION][rows] = held.actions.reshape(length, -1)
        if held.rewards is not None:
            # Whoever trains without rewards is not kept from it by one that is not finite: Dataset.rewards is strict.
            columns[stored.REWARD][rows] = held.rewards[:, None]
        columns[ENDING][number : number + 1] = np.array([[held.terminated, held.truncated, held.success]])
        last = [stream for key, stream in keys.items() if stored.FINAL + key in columns]
        if self.index.final[number] and last:
            row = int(self.index.final[:number].sum())
            for name, value in self._final(self.number(number), last).items():
                key = stored.FINAL + stored.stream_key(body, body.stream(name))
                columns[key][row : row + 1] = value[None]
        return length

    def pictures(self, column: str, rows: np.ndarray) -> np.ndarray:
        """The pictures of these rows, which ascend: uint8 ``(n, height, width, 3)``. Neighbours are read in one go.

        Raises:
            PolysomaError: as :meth:`Reader.window`.
        """
        body = self.schema.embodiment
        key = column.removeprefix(stored.FINAL)
        stream = next(stream for stream in body.arrays if stored.stream_key(body, stream) == key)
        pictures = np.empty((len(rows), *stream.shape), np.uint8)
        if column.startswith(stored.FINAL):
            for place, number in enumerate(np.flatnonzero(self.index.final)[rows].tolist()):
                pictures[place] = self._final(self.number(number), [stream])[stream.name]
            return pictures
        name = self.schema.columns[stream.name]
        numbers = np.searchsorted(self.index.start, rows, side="right") - 1
        steps = rows - self.index.start[numbers]
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
            PolysomaError: as :meth:`Reader.read`, and for numbers that are not finite; it names the episode. A last
                observation that is not finite is left out.
        """
        body, episode = self.schema.embodiment, self.number(number)
        held = self._read(episode, body.arrays)
        final = self._final(episode, body.arrays) if self.index.final[number] else None
        if final is not None and not all(np.isfinite(value).all() for value in final.values()):
            final = None
        return Episode(
            body,
            self.task(number),
            self.index.instructions[self.index.instruction[number]],
            episode,
            held.success,
            held.observations,
            held.actions,
            held.actions.copy(),
            None if held.rewards is None else self._finite(episode, REWARD, held.rewards[:, None])[:, 0],
            held.terminated,
            held.truncated,
            final,
        )

    def actions(self, number: int) -> np.ndarray:
        """The actions of one of the episodes that have frames, as :meth:`episode` has them. Raises as that."""
        column, episode = self.schema.columns[ACTION], self.number(number)
        return self._actions(episode, self.reader.read(episode, [column])[column])

    def _final(self, episode: int, streams: Sequence[Stream]) -> dict[str, np.ndarray]:
        """What these streams sensed after the last action, as it is in the files."""
        columns = self.schema.columns
        held = self.reader.final(episode, list(dict.fromkeys(columns[stream.name] for stream in streams)))
        assert held is not None
        return {
            stream.name: resized(held[columns[stream.name]][None], stream.shape)[0]
            if stream.modality is Modality.IMAGE
            else held[columns[stream.name]].reshape(-1).astype(np.float32)
            for stream in streams
        }

    def _read(self, episode: int, streams: Sequence[Stream]) -> _Held:
        """The numbers and flags of an episode, and these streams."""
        columns = self.schema.columns
        wanted = [columns[name] for name in (*(stream.name for stream in streams), ACTION)]
        wanted += [REWARD] * self.index.rewards + self.reader.flags
        held = self.reader.read(episode, list(dict.fromkeys(wanted)))
        ending = self.reader.ending(episode, held)
        return _Held(
            self._observations(episode, held, streams),
            self._actions(episode, held[columns[ACTION]]),
            held[REWARD].reshape(-1).astype(np.float32) if self.index.rewards else None,
            ending.terminated,
            ending.truncated,
            ending.success is not False,
        )

    def _observations(
        self, episode: int, held: Mapping[str, np.ndarray], streams: Sequence[Stream]
    ) -> dict[str, np.ndarray]:
        columns = self.schema.columns
        observations = {}
        for stream in streams:
            values = held[columns[stream.name]]
            if stream.modality is Modality.IMAGE:
                observations[stream.name] = resized(values, stream.shape)
            else:
                observations[stream.name] = self._finite(episode, columns[stream.name], values.reshape(len(values), -1))
        return observations

    def _actions(self, episode: int, values: np.ndarray) -> np.ndarray:
        body = self.schema.embodiment
        if isinstance(body.actions, ContinuousActions):
            return self._finite(episode, self.schema.columns[ACTION], values.reshape(len(values), -1))
        where = f"{self.reader.path}, episode {self.reader.source(episode)}"
        return self.schema.chosen(where, values.reshape(len(values), -1))

    def _finite(self, episode: int, column: str, values: np.ndarray) -> np.ndarray:
        rows = values.astype(np.float32)
        bad = np.argwhere(~np.isfinite(rows))
        if len(bad):
            step, channel = bad[0]
            raise PolysomaError(
                f"{self.reader.path}, episode {self.reader.source(episode)}: {column} is {rows[step, channel]} at "
                f"frame {step}, channel {channel}; `polysoma doctor` lists all such places, --skip-damaged leaves "
                "these episodes out"
            )
        return rows


@dataclass(frozen=True)
class _Held:
    """What a reader gives of an episode, in our own terms. Rewards may not be finite."""

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray | None
    terminated: bool
    truncated: bool
    success: bool


def has_rewards(reader: Reader) -> bool:
    """Whether there is a column of rewards with one number a frame."""
    column = reader.columns.get(REWARD)
    return column is not None and column.dtype.kind in "fiub" and math.prod(column.shape) == 1


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

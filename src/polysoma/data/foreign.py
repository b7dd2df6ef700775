"""Foreign data as our own: the episodes of a reader, in the streams, units and sizes of an embodiment."""

from __future__ import annotations

import contextlib
import copy
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from polysoma import progress
from polysoma.data import stored
from polysoma.data.damage import Damaged, check_present
from polysoma.data.episode import Episode
from polysoma.data.formats.reader import ACTION, REWARD, Reader
from polysoma.data.images import resized
from polysoma.data.instructions import cut
from polysoma.data.layout import EpisodeIndex, Feature
from polysoma.data.pictures import JpegWriter
from polysoma.data.schema import Schema
from polysoma.embodiment import ContinuousActions, Modality, Stream
from polysoma.errors import PolysomaError

_WORTH_THREADS = 5000
"""Frames with pictures from which on several threads pay."""
ENDING = "episode.ending"
"""The column of how episodes ended, a row for each: whether it terminated, was truncated, succeeded."""
_NEAR, _RUN = 8, 64
"""Frames of which pictures are read in one go: how far one is from the next, and how many at most."""


def check_files(reader: Reader, schema: Schema) -> None:
    """Looks whether all files are there, before any is read.

    Raises:
        Damaged: some are not.
    """
    check_present(reader.path, absent_in(reader, schema), len(reader))


def absent_in(reader: Reader, schema: Schema) -> dict[int, str]:
    """The numbers in the files of episodes of which a file is missing, as far as that is known without reading them;
    and which."""
    gone = reader.absent(list(dict.fromkeys(schema.columns.values())))
    return {reader.source(episode): why for episode, why in gone.items()}


class Foreign:
    """What a reader holds, described by a schema. Episodes without frames are left out.

    Args:
        reader: holds the frames.
        schema: says what they are.
        left_out: numbers in the files of further episodes that are left out.

    Attributes:
        reader: as it was given, or of the parts of its episodes (:func:`polysoma.data.instructions.cut`).
        index: the episodes; their seeds are their numbers in the reader. How they ended is read with their frames:
            :data:`ENDING` tells. Where the files do not say whether one succeeded, it did.
        features: the columns as they are cached, by name.

    Raises:
        PolysomaError: there is no frame at all.
    """

    def __init__(self, reader: Reader, schema: Schema, left_out: Collection[int] = ()) -> None:
        reader = cut(reader)
        self.reader, self.schema = reader, schema
        self._left_out = left_out
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
        """Assigns all rows of these columns. Raises Damaged for the first episode that cannot be read."""

        def filling() -> Callable[[Foreign, int], None]:
            # Each writes into a file of its own.
            own = {key: copy.copy(c) if isinstance(c, JpegWriter) else c for key, c in columns.items()}
            return lambda foreign, number: foreign._fill(own, number)

        self._each(filling, f"unpacking {self.reader.path}", any(self.features[key].image for key in columns))

    def damaged(self) -> dict[int, str]:
        """The numbers in the files of episodes that cannot be read, and what is wrong with each. All streams of all of
        them are read for that."""
        found: dict[int, str] = {}

        def check(foreign: Foreign, number: int) -> None:
            try:
                foreign._held(number, self.features)
            except Damaged as error:
                found.update(error.episodes)

        pictures = any(feature.image for feature in self.features.values())
        self._each(lambda: check, f"checking {self.reader.path}", pictures)
        return found

    def _each(self, work: Callable[[], Callable[[Foreign, int], None]], what: str, pictures: bool) -> None:
        """Does something with each episode, and tells :mod:`polysoma.progress` how far it is.

        Many pictures are unpacked by as many threads as there are cores: what decodes them lets go of the interpreter,
        and other processes would run the user's script again. Each thread gets work and a reader of its own.
        """
        workers = min(os.cpu_count() or 1, len(self))
        if not pictures or workers == 1 or self.frames < _WORTH_THREADS:
            do = work()

            def one_after_the_other() -> Iterator[int]:
                for number in range(len(self)):
                    do(self, number)
                    yield int(self.index.length[number])

            self._told(what, one_after_the_other())
            return

        def some(numbers: np.ndarray) -> int:
            reader = self.reader.again()
            try:
                own, do = Foreign(reader, self.schema, self._left_out), work()
                for number in numbers.tolist():
                    do(own, number)
            finally:
                reader.close()
            return int(self.index.length[numbers].sum())

        shares = np.array_split(np.arange(len(self)), min(len(self), 8 * workers))
        with ThreadPoolExecutor(workers) as pool:
            try:
                self._told(what, pool.map(some, shares))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _told(self, what: str, counts: Iterator[int]) -> None:
        done = 0
        for count in counts:
            done += count
            progress.tell(what, done, self.frames)

    def _fill(self, columns: Mapping[str, np.ndarray | JpegWriter], number: int) -> None:
        rows = slice(int(self.index.start[number]), int(self.index.start[number] + self.index.length[number]))
        held, final = self._held(number, columns)
        for key, values in held.items():
            # The ending is a row of the episode; all else are rows of its frames.
            columns[key][slice(number, number + 1) if key == ENDING else rows] = values
        row = int(self.index.final[:number].sum())
        for key, values in final.items():
            columns[key][row : row + 1] = values[None]

    def _held(self, number: int, columns: Collection[str]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """An episode as it is cached: these columns of it, and those of its last observation. Raises Damaged."""
        body, length = self.schema.embodiment, int(self.index.length[number])
        keys = {stored.stream_key(body, stream): stream for stream in body.arrays}
        with self._damaging(number):
            held = self._read(self.number(number), [stream for key, stream in keys.items() if key in columns])
            rows = {key: held.observations[stream.name] for key, stream in keys.items() if key in columns}
            rows[stored.ACTION] = held.actions.reshape(length, -1)
            if held.rewards is not None:
                # Whoever trains without rewards is not kept from it by one that is not finite: Dataset.rewards is
                # strict.
                rows[stored.REWARD] = held.rewards[:, None]
            rows[ENDING] = np.array([[held.terminated, held.truncated, held.success]])
            last = [stream for key, stream in keys.items() if stored.FINAL + key in columns]
            final = self._final(self.number(number), last) if self.index.final[number] and last else {}
        named = {stored.FINAL + stored.stream_key(body, body.stream(name)): value for name, value in final.items()}
        return rows, named

    @contextlib.contextmanager
    def _damaging(self, number: int) -> Iterator[None]:
        """Names the episode that cannot be read. Raises Damaged."""
        try:
            yield
        except PolysomaError as error:
            raise Damaged(str(error), {int(self.index.number[number]): str(error)}) from error

    def pictures(self, column: str, rows: np.ndarray) -> np.ndarray:
        """The pictures of these rows, which ascend: uint8 ``(n, height, width, 3)``. Neighbours are read in one go.

        Raises:
            Damaged: an episode cannot be read.
        """
        body = self.schema.embodiment
        key = column.removeprefix(stored.FINAL)
        stream = next(stream for stream in body.arrays if stored.stream_key(body, stream) == key)
        pictures = np.empty((len(rows), *stream.shape), np.uint8)
        if column.startswith(stored.FINAL):
            for place, number in enumerate(np.flatnonzero(self.index.final)[rows].tolist()):
                with self._damaging(number):
                    pictures[place] = self._final(self.number(number), [stream])[stream.name]
            return pictures
        name = self.schema.columns[stream.name]
        numbers = np.searchsorted(self.index.start, rows, side="right") - 1
        steps = rows - self.index.start[numbers]
        for run in _runs(numbers, steps):
            own, number = steps[run], int(numbers[run.start])
            with self._damaging(number):
                held = self.reader.window(self.number(number), int(own[0]), int(own[-1]) + 1, [name])
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

"""Data sets as what others are made from: their episodes one after the other, as they are in the files.

Nothing goes through a cache, in which pictures may be smaller files than those of the source.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from polysoma import progress
from polysoma.data import layout, stored
from polysoma.data.damage import left_out
from polysoma.data.episode import Episode
from polysoma.data.foreign import Foreign, absent_in
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import ACTION, Reader
from polysoma.data.layout import EpisodeIndex
from polysoma.data.recorded import Recorded
from polysoma.data.schema import Schema, schema_of, schema_path
from polysoma.embodiment import DiscreteActions, Embodiment, Modality
from polysoma.errors import PolysomaError


class Origin(abc.ABC):
    """A data set of E episodes.

    Attributes:
        path: the folder or file.
        embodiment: the body. Pictures are as large as in the files, unless a description says otherwise.
        index: the episodes, but for how those of other formats ended, which is read with their frames.
        numbers: of each episode in the files, int64 ``(E,)``.
        known: the numbers of all episodes in the files, those without frames among them.
        failures: seeds of failed expert episodes, by task.
        remarks: what people should know of how it is read.
        seeded: whether episodes have seeds of a simulator, rather than their numbers.
        absent: the numbers of episodes of which a file is missing, as far as that is known without reading them; and
            which.
    """

    path: Path
    embodiment: Embodiment
    index: EpisodeIndex
    numbers: np.ndarray
    known: frozenset[int]
    failures: dict[str, list[int]]
    remarks: tuple[str, ...] = ()
    seeded: bool = False
    absent: dict[int, str]

    def __len__(self) -> int:
        return len(self.index.length)

    def task(self, episode: int) -> str:
        """The name of an episode's task."""
        return self.index.tasks[self.index.task[episode]]

    def instruction(self, episode: int) -> str:
        """An episode's instruction."""
        return self.index.instructions[self.index.instruction[episode]]

    @abc.abstractmethod
    def episodes(self, wanted: Collection[int]) -> Iterator[tuple[int, Episode]]:
        """These episodes in their order. Files that hold none of them are not read.

        Raises:
            PolysomaError: one cannot be read; it names the file and the episode.
        """

    def damaged(self, wanted: Collection[int]) -> dict[int, str]:
        """The numbers in the files of those of these episodes that cannot be read, and what is wrong with each. All of
        them are read for that."""
        found: dict[int, str] = {}
        for done, episode in enumerate(sorted(wanted)):
            if int(self.numbers[episode]) not in found:
                try:
                    for _ in self.episodes([episode]):
                        pass
                except PolysomaError as error:
                    found[int(self.numbers[episode])] = str(error)
            progress.tell(f"checking {self.path}", done + 1, len(wanted))
        return found

    def readable(self, wanted: Sequence[int], absent: Mapping[int, str]) -> tuple[list[int], list[str]]:
        """Those of these episodes that can be read; and why others cannot, and those that are absent, in words. All of
        them are read for that."""
        damaged = {**absent, **self.damaged(wanted)}
        return [place for place in wanted if int(self.numbers[place]) not in damaged], list(left_out(damaged))

    @abc.abstractmethod
    def digests(self) -> list[bytes]:
        """What tells the actions of one episode from those of others."""


@contextlib.contextmanager
def opened(path: Path, full_size: bool = True) -> Iterator[Origin]:
    """Opens a data set of any format.

    Args:
        path: the folder or file.
        full_size: whether pictures that no description gives a size are as large as in the files, rather than as they
            are learnt from.

    Raises:
        PolysomaError: there is none, or it is damaged.
    """
    if (path / layout.POLYSOMA).exists():
        yield _Own(path)
        return
    reader = open_reader(path)
    try:
        schema = schema_of(reader)
        if full_size and not schema_path(path).exists():
            schema = dataclasses.replace(schema, embodiment=_full_size(schema, reader))
        yield _Other(path, Foreign(reader, schema), absent_in(reader, schema))
    finally:
        reader.close()


def _full_size(schema: Schema, reader: Reader) -> Embodiment:
    """The body whose pictures are as large as those in the files."""
    body = schema.embodiment
    streams = [
        dataclasses.replace(stream, shape=reader.columns[schema.columns[stream.name]].shape)
        if stream.modality is Modality.IMAGE
        else stream
        for stream in body.streams
    ]
    return dataclasses.replace(body, streams=tuple(streams))


class _Own(Origin):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._recorded = recorded = Recorded(path)
        self.embodiment, self.failures, self.index = recorded.embodiment, recorded.failures, recorded.index
        self.numbers = self.index.number
        self.known = frozenset(self.numbers.tolist())
        self._features, self.seeded, self.absent = recorded.features, True, recorded.absent()

    def episodes(self, wanted: Collection[int]) -> Iterator[tuple[int, Episode]]:
        """See :meth:`Origin.episodes`."""
        wanted = set(wanted)
        for number, _ in self.index.files():
            own = np.flatnonzero(self.index.file == number)
            if not wanted.intersection(own.tolist()):
                continue
            frames = {name: feature for name, feature in self._features.items() if not name.startswith(stored.FINAL)}
            finals = {name: feature for name, feature in self._features.items() if name.startswith(stored.FINAL)}
            held = _joined(layout.read_frames(self.path, self.index, frames, number))
            known = self.index.final[own]
            last = _joined(layout.read_finals(self.path, self.index, finals, number)) if known.any() else {}
            for episode, has_final, row in zip(own.tolist(), known.tolist(), np.cumsum(known) - 1, strict=True):
                if episode in wanted:
                    begin = int(self.index.start[episode] - self.index.start[own[0]])
                    rows = slice(begin, begin + int(self.index.length[episode]))
                    parts = {name: values[rows] for name, values in held.items()}
                    final = {name: values[row] for name, values in last.items()} if has_final else None
                    yield episode, self._episode(episode, parts, final)

    def damaged(self, wanted: Collection[int]) -> dict[int, str]:
        """See :meth:`Origin.damaged`. A file is whole, or none of its episodes can be read."""
        numbers = set(self.numbers[sorted(wanted)].tolist())
        return {number: why for number, why in self._recorded.damaged().items() if number in numbers}

    def _episode(self, number: int, held: dict[str, np.ndarray], last: dict[str, np.ndarray] | None) -> Episode:
        body, index = self.embodiment, self.index
        keys = {stream.name: stored.stream_key(body, stream) for stream in body.recorded}
        actions, executed = held[stored.ACTION], held[stored.EXECUTED]
        if isinstance(body.actions, DiscreteActions):
            actions, executed = actions[:, 0], executed[:, 0]
        return Episode(
            body, self.task(number), self.instruction(number), int(index.seed[number]), bool(index.success[number]),
            {name: held[key] for name, key in keys.items()}, actions, executed,
            held[stored.REWARD][:, 0] if index.rewards else None,
            bool(index.terminated[number]), bool(index.truncated[number]),
            None if last is None else {name: last[stored.FINAL + key] for name, key in keys.items()},
        )  # fmt: skip

    def digests(self) -> list[bytes]:
        """See :meth:`Origin.digests`."""
        held = _joined(layout.read_frames(self.path, self.index, {ACTION: self._features[ACTION]}))[ACTION]
        return [_digest(held[start : start + n]) for start, n in zip(self.index.start, self.index.length, strict=True)]


class _Other(Origin):
    def __init__(self, path: Path, foreign: Foreign, absent: dict[int, str]) -> None:
        self.path, self._foreign, self.absent = path, foreign, absent
        self.embodiment, self.index, self.failures = foreign.schema.embodiment, foreign.index, {}
        self.remarks = foreign.schema.remarks
        self.numbers = self.index.number
        self.known = frozenset(map(foreign.reader.source, range(len(foreign.reader))))

    def episodes(self, wanted: Collection[int]) -> Iterator[tuple[int, Episode]]:
        """See :meth:`Origin.episodes`."""
        for episode in sorted(wanted):
            yield episode, self._foreign.episode(episode)

    def digests(self) -> list[bytes]:
        """See :meth:`Origin.digests`."""
        return [_digest(self._foreign.actions(episode)) for episode in range(len(self))]


def _joined(pieces: Iterator[tuple[int, dict[str, np.ndarray]]]) -> dict[str, np.ndarray]:
    held = [piece for _, piece in pieces]
    return {name: np.concatenate([piece[name] for piece in held]) for name in held[0]}


def _digest(actions: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(actions).tobytes()).digest()

"""What is learnt of the episodes of other formats: parts of them, each of which has one instruction.

Episodes here, on disk too, have one instruction each. Where a reader's words change within an episode
(:attr:`polysoma.data.formats.reader.Reader.changes`), it is cut; and where its last frame is an observation alone
(:attr:`Reader.ends_observed`), that is what came after the last action.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polysoma.data.formats.reader import Ending, Part, Problem, Reader


def parts_in(reader: Reader, episode: int) -> list[Part]:
    """The parts of an episode: mostly one."""
    return list(reader.changes.get(episode) or [Part(0, reader.instructions[episode])])


def cut(reader: Reader) -> Reader:
    """A reader of what is learnt: the same one where all episodes are learnt from as they are."""
    return _Parts(reader) if reader.changes or reader.ends_observed is not None else reader


@dataclass(frozen=True)
class _Piece:
    """Frames ``start`` to ``stop`` (not included) of an episode. ``ends``: whether it is the last part. ``observed``:
    whether the frame after it is known, which tells what came after its last action."""

    episode: int
    start: int
    stop: int
    ends: bool
    observed: bool


class _Parts(Reader):
    """The parts of the episodes of another reader.

    A part that is followed by another one was truncated; whether it succeeded is not known. What was observed after its
    last action is the first observation of the next one.
    """

    def __init__(self, whole: Reader) -> None:
        self._whole = whole
        self.path, self.format, self.robot, self.fps = whole.path, whole.format, whole.robot, whole.fps
        self.columns, self.left_out, self.remarks = whole.columns, whole.left_out, whole.remarks
        self._parts, self.instructions = [], []
        observed = np.zeros(len(whole), bool) if whole.ends_observed is None else whole.ends_observed
        known = np.zeros(len(whole), bool) if whole.finals is None else whole.finals
        finals = []
        for episode, frames in enumerate(whole.lengths.tolist()):
            length = max(0, frames - int(observed[episode]))
            parts = [part for part in parts_in(whole, episode) if not part.start or part.start < length]
            stops = [*(part.start for part in parts[1:]), length]
            for part, stop in zip(parts, stops, strict=True):
                self._parts.append(_Piece(episode, part.start, stop, stop == length, stop < frames))
                self.instructions.append(part.instruction)
                finals.append(stop < frames or known[episode])
        self.lengths = np.array([part.stop - part.start for part in self._parts], np.int64)
        self.finals = np.array(finals, bool) if any(finals) else None

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """See :meth:`Reader.window`."""
        rows, part = self.rows(episode, start, stop), self._parts[episode]
        return self._whole.window(part.episode, part.start + rows.start, part.start + rows.stop, columns)

    def ending(self, episode: int, held: Mapping[str, np.ndarray] | None = None) -> Ending:
        """See :meth:`Reader.ending`: the flags of the whole episode tell, those of its last frame among them."""
        self.check_episode(episode)
        part = self._parts[episode]
        return self._whole.ending(part.episode) if part.ends else Ending(truncated=True)

    def _final(self, episode: int, columns: Collection[str]) -> dict[str, np.ndarray]:
        part = self._parts[episode]
        if not part.observed:
            return self._whole._final(part.episode, columns)
        held = self._whole.window(part.episode, part.stop, part.stop + 1, columns)
        return {name: values[0] for name, values in held.items()}

    def source(self, episode: int) -> int:
        """See :meth:`Reader.source`."""
        return self._whole.source(self._parts[episode].episode)

    def missing(self) -> dict[str, str]:
        """See :meth:`Reader.missing`."""
        return self._whole.missing()

    def problems(self) -> Iterator[Problem]:
        """See :meth:`Reader.problems`."""
        return self._whole.problems()

    def files(self) -> list[Path]:
        """See :meth:`Reader.files`."""
        return self._whole.files()

    def again(self) -> Reader:
        """See :meth:`Reader.again`."""
        return cut(self._whole.again())

    def close(self) -> None:
        """See :meth:`Reader.close`."""
        self._whole.close()

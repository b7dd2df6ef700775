"""What every reader of a foreign format offers, in one vocabulary.

A reader opens a folder or a file without copying it and gives its episodes as columns of frames. Columns are called as
LeRobot calls them, whatever the format: ``observation.NAME`` for numbers, ``observation.images.NAME`` for pictures,
``action``, and where there are any ``timestamp``, ``reward`` and the flags that say how an episode ends
(:meth:`Reader.ending`). Nothing is resized, normalised or left out here.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from polysoma.errors import PolysomaError
from polysoma.files import reason

ACTION, REWARD, TIMESTAMP = "action", "reward", "timestamp"
TERMINATED, TRUNCATED, DONE, DISCOUNT, SUCCESS = "terminated", "truncated", "done", "discount", "success"
FLAGS = (TERMINATED, TRUNCATED, DONE, DISCOUNT, SUCCESS)
OBSERVATION, PICTURE = "observation.", "observation.images."
MOST_CHOICES = 256
"""Of actions that are choices; more are no list that anybody reads."""

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Column:
    """One column of frames.

    Attributes:
        shape: of one value: ``()`` for a scalar, ``(H, W, 3)`` for a picture.
        dtype: of the values; pictures are uint8.
        names: of the channels, where the format has them; as many as the value has numbers.
        picture: whether the values are RGB pictures.
        choices: of actions that are one choice of few: the numbers of a value, flat, for each; None for all else.
        limits: of actions whose data say them: the least and the greatest of each number of a value, flat.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    names: tuple[str, ...] | None = None
    picture: bool = False
    choices: tuple[tuple[int, ...], ...] | None = None
    limits: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    Attributes:
        severity: ``"error"`` (training on it would go wrong or stop), ``"warning"`` (it may), or ``"note"``.
        where: the column, file or episodes that it concerns.
        what: what was found, with numbers.
        remedy: what to do about it.
    """

    severity: Severity
    where: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Part:
    """Frames of an episode from ``start`` on that have one instruction."""

    start: int
    instruction: str


@dataclass(frozen=True)
class Ending:
    """How an episode ended.

    Attributes:
        terminated: the task itself ended it.
        truncated: something else did, such as a step limit. Both are False where the files do not say.
        success: whether the task was solved; None where the files do not say.
    """

    terminated: bool = False
    truncated: bool = False
    success: bool | None = None


class Reader(abc.ABC):
    """An opened data set of E episodes.

    Attributes:
        path: the folder or file.
        format: what it is, for people: ``"LeRobotDataset v3.0"``.
        robot: the body's name where the format has one, or empty.
        fps: frames a second where the format says so, or None.
        columns: by name, see the module's vocabulary.
        lengths: frames of each episode, int64 ``(E,)``.
        instructions: of each episode; empty strings where there is none.
        ends_observed: which episodes end with a frame that is an observation alone, bool ``(E,)``: its action and
            reward mean nothing and are not learnt. None where none does.
        successes: whether each episode succeeded, bool ``(E,)``; None where that is only known frame by frame, if at
            all: :meth:`ending` tells.
        changes: the parts of those episodes in which the instruction changes, the first one from frame 0 on; all others
            have one throughout.
        left_out: what is in the files and not in ``columns``, and why it is not read.
        remarks: what was concluded and is not said by the files, for people.
        finals: which episodes have an observation after their last action, bool ``(E,)``; None where none has.
        numbers: what the files call each episode, int64 ``(E,)``; None where that is its place among them, from 0 on.
    """

    path: Path
    format: str
    robot: str = ""
    fps: float | None = None
    columns: dict[str, Column]
    lengths: np.ndarray
    instructions: Sequence[str]
    ends_observed: np.ndarray | None = None
    successes: np.ndarray | None = None
    finals: np.ndarray | None = None
    numbers: np.ndarray | None = None
    changes: Mapping[int, Sequence[Part]] = MappingProxyType({})
    left_out: Mapping[str, str] = MappingProxyType({})
    remarks: Sequence[str] = ()

    def read(self, episode: int, columns: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Some columns of one episode (all by default): name to ``(T, *shape)`` of the column's dtype.

        Raises:
            PolysomaError: a file is missing or damaged; the message names the file and the episode.
        """
        self.check_episode(episode)
        return self.window(episode, 0, int(self.lengths[episode]), columns)

    @abc.abstractmethod
    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Frames ``start`` to ``stop`` (not included) of an episode, as :meth:`read`. No other picture is decoded."""

    @property
    def flags(self) -> list[str]:
        """The columns that say how episodes end."""
        return [name for name in FLAGS if name in self.columns]

    def ending(self, episode: int, held: Mapping[str, np.ndarray] | None = None) -> Ending:
        """How an episode ended, from the flags of its frames.

        Those of the last frame count; a success may have been at any frame. ``done`` is a termination, as LeRobot's and
        robomimic's own algorithms take it, unless a flag calls it a truncation; so is a ``discount`` of 0. What ends
        although its flag says that the task goes on was truncated.

        Args:
            episode: which.
            held: the episode's columns :attr:`flags` where they have been read already.

        Raises:
            PolysomaError: as :meth:`read`.
        """
        self.check_episode(episode)
        success = None if self.successes is None else bool(self.successes[episode])
        if not self.flags or not self.lengths[episode]:
            return Ending(success=success)
        held = self.read(episode, self.flags) if held is None else held
        last = {name: bool(np.any(held[name][-1])) for name in self.flags}
        if success is None and SUCCESS in last:
            success = bool(np.any(held[SUCCESS]))
        terminated = last.get(TERMINATED)
        if terminated is None and DONE in last:
            terminated = last[DONE] and not last.get(TRUNCATED, False)
        elif terminated is None and DISCOUNT in last:
            terminated = not last[DISCOUNT]
        return Ending(bool(terminated), last.get(TRUNCATED, terminated is False), success)

    def final(self, episode: int, columns: Collection[str] | None = None) -> dict[str, np.ndarray] | None:
        """What was observed after the last action: some columns of observations (all by default), name to ``(*shape)``
        of the column's dtype; None where :attr:`finals` says that there is nothing.

        Raises:
            PolysomaError: as :meth:`read`.
        """
        self.check_episode(episode)
        if self.finals is None or not self.finals[episode]:
            return None
        seen = [name for name in self.columns if name.startswith(OBSERVATION)] if columns is None else columns
        return self._final(episode, self.wanted(seen))

    def _final(self, episode: int, columns: Collection[str]) -> dict[str, np.ndarray]:
        """As :meth:`final`, of an episode that has one."""
        raise NotImplementedError

    def missing(self) -> dict[str, str]:
        """Columns of which nothing can be read, and why: cameras whose files were not copied, say."""
        return {}

    def absent(self, columns: Collection[str]) -> dict[int, str]:
        """Episodes of which these columns cannot be read, as far as that is known without reading them: because a file
        is not there, mostly; and why."""
        return {}

    def source(self, episode: int) -> int:
        """The number that people know an episode by: that of the files (:attr:`numbers`), the same for all parts of
        one."""
        return episode if self.numbers is None else int(self.numbers[episode])

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the files themselves, beyond what their columns show (see :mod:`polysoma.data.doctor`);
        and what is left out."""
        for name, why in self.left_out.items():
            yield Problem("note", name, why, "nothing, unless you need it")

    def files(self) -> list[Path]:
        """All files that the frames depend on: a cache is made anew when one of them changes."""
        return [self.path]

    def again(self) -> Reader:
        """Another reader of the same, for another thread; each is closed by itself."""
        from polysoma.data.formats import open_reader

        return open_reader(self.path)

    def close(self) -> None:  # noqa: B027  (most readers hold no file open)
        """Lets go of open files."""

    def __len__(self) -> int:
        """The number of episodes E."""
        return len(self.lengths)

    def check_episode(self, episode: int) -> None:
        """Raises PolysomaError when there is no such episode."""
        if not 0 <= episode < len(self):
            raise PolysomaError(f"{self.path}: there is no episode {episode}; there are {len(self)}, from 0 on")

    def rows(self, episode: int, start: int, stop: int) -> slice:
        """Frames ``start`` to ``stop`` as far as the episode has them. Raises as :meth:`check_episode`."""
        self.check_episode(episode)
        first, last, _ = slice(start, stop).indices(int(self.lengths[episode]))
        return slice(first, max(first, last))

    def wanted(self, columns: Collection[str] | None) -> list[str]:
        """The columns that were asked for. Raises PolysomaError when there is no such column."""
        names = list(self.columns if columns is None else columns)
        unknown = sorted(set(names) - set(self.columns))
        if unknown:
            raise PolysomaError(f"{self.path}: there are no columns {unknown}; there are {list(self.columns)}")
        return names


@contextlib.contextmanager
def reading(path: Path, episode: int | None = None) -> Iterator[None]:
    """Turns whatever a library raises over a missing or damaged file into a PolysomaError that names it, and the
    episode of this number (:meth:`Reader.source`)."""
    where = f"{path}" if episode is None else f"{path}, episode {episode}"
    try:
        yield
    except PolysomaError:
        raise
    except FileNotFoundError as error:
        name = error.filename or path
        raise PolysomaError(f"{where}: {name} is missing; copy it again from where it came") from error
    except MemoryError as error:
        raise PolysomaError(f"{where}: asks for more memory than there is; it is damaged or too large") from error
    except Exception as error:
        # Libraries raise all sorts of things over damaged files; none of them is worth a crash without a name.
        raise PolysomaError(
            f"cannot read {where}: {reason(error)}; it is damaged or incomplete: copy it again from where it came"
        ) from error

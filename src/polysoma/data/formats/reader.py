"""What every reader of a foreign format offers, in one vocabulary.

A reader opens a folder or a file without copying it and gives its episodes as columns of frames. Columns are called as
LeRobot calls them, whatever the format: ``observation.NAME`` for numbers, ``observation.images.NAME`` for pictures,
``action``, and ``reward`` and ``timestamp`` where there are any. Nothing is resized, normalised or left out here.
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from polysoma.errors import PolysomaError
from polysoma.files import reason

ACTION, REWARD, TIMESTAMP = "action", "reward", "timestamp"
OBSERVATION, PICTURE = "observation.", "observation.images."

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Column:
    """One column of frames.

    Attributes:
        shape: of one value: ``()`` for a scalar, ``(H, W, 3)`` for a picture.
        dtype: of the values; pictures are uint8.
        names: of the channels, where the format has them; as many as the value has numbers.
        picture: whether the values are RGB pictures.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    names: tuple[str, ...] | None = None
    picture: bool = False


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


class Reader(abc.ABC):
    """An opened data set of E episodes.

    Attributes:
        path: the folder or file.
        format: what it is, for people: ``"LeRobotDataset v3.0"``.
        robot: the body's name where the format has one, or empty.
        fps: frames a second where the format says so, or None.
        columns: by name, see the module's vocabulary.
        lengths: frames of each episode, int64 ``(E,)``.
        instructions: what each episode was told to do; empty strings where nothing is said.
        successes: whether each episode succeeded, bool ``(E,)``; None where the format does not say.
    """

    path: Path
    format: str
    robot: str = ""
    fps: float | None = None
    columns: dict[str, Column]
    lengths: np.ndarray
    instructions: Sequence[str]
    successes: np.ndarray | None = None

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

    def missing(self) -> dict[str, str]:
        """Columns of which nothing can be read, and why: cameras whose files were not copied, say."""
        return {}

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the files themselves, beyond what their columns show (see :mod:`polysoma.data.doctor`)."""
        yield from ()

    def files(self) -> list[Path]:
        """All files that the frames depend on: a cache is made anew when one of them changes."""
        return [self.path]

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
    """Turns whatever a library raises over a missing or damaged file into a PolysomaError that names it."""
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


def needs(package: str, extra: str = "data") -> PolysomaError:
    """The error of a package that is not installed."""
    return PolysomaError(f"reading this needs {package}, not installed here: run `pip install 'polysoma[{extra}]'`")

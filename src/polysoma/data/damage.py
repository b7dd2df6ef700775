"""Episodes that cannot be read: who they are, by their numbers in the files, and what is wrong with each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from polysoma.data.numbering import listed
from polysoma.errors import PolysomaError
from polysoma.text import some


class Damaged(PolysomaError):
    """Episodes that cannot be read.

    Attributes:
        episodes: their numbers in the files, and what is wrong with each.
    """

    def __init__(self, message: str, episodes: Mapping[int, str]) -> None:
        super().__init__(message)
        self.episodes = dict(episodes)


def check_present(path: Path, absent: Mapping[int, str], count: int) -> None:
    """Says before anything is read that files are not there.

    Args:
        path: the data set.
        absent: the numbers of episodes of which a file is missing, and what.
        count: of all episodes.

    Raises:
        Damaged: there are such episodes.
    """
    if absent:
        raise Damaged(
            f"{path}: {len(absent)} of {count} episodes cannot be read ({some(absent)}): "
            f"{next(iter(absent.values()))}; copy their files from where they came, or leave these episodes out with "
            "--skip-damaged",
            absent,
        )


def left_out(episodes: Mapping[int, str]) -> Iterator[str]:
    """A sentence for each reason why episodes are left out, which are those of a file, or one."""
    numbers: dict[str, list[int]] = {}
    for number in sorted(episodes):
        numbers.setdefault(episodes[number], []).append(number)
    for why, own in numbers.items():
        yield f"{f'episode {own[0]} is' if len(own) == 1 else f'episodes {listed(own)} are'} left out: {why}"

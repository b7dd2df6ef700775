"""Remedies: what the doctor advises, as commands that can be run as they are, but for the name of a new data set."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from polysoma import hub
from polysoma.data import layout
from polysoma.data.formats.reader import Reader
from polysoma.data.numbering import listed

COPY = "copy the file again from where it came"
_LONG = 60
"""Characters of numbers of episodes in a command at most."""


def called(reader: Reader) -> str:
    """A data set in a command."""
    return shlex.quote(hub.called(reader.path))


def edited(reader: Reader, options: str) -> str:
    """A changed copy."""
    return f"`polysoma data edit {called(reader)} {options} --out NEW`"


def without(reader: Reader, episodes: Sequence[int]) -> str:
    """A copy without some episodes, by their numbers in the files."""
    numbers = listed(sorted(episodes)).replace(" to ", "-").replace(", ", ",")
    return edited(reader, f"--delete {numbers if len(numbers) < _LONG else 'NUMBERS'}")


def skipped(reader: Reader) -> str:
    """A copy without what cannot be read."""
    if (reader.path / layout.POLYSOMA).exists():
        # There is nothing to convert.
        return f"leave these episodes out: {edited(reader, '--skip-damaged')}"
    return f"leave these episodes out: `polysoma data convert {called(reader)} NEW --skip-damaged`"


def described(reader: Reader) -> str:
    """The description of the body, to be edited."""
    return f"`polysoma data schema {called(reader)}` writes a description"

"""``polysoma data edit`` and ``polysoma data diff``: data sets out of data sets, and what differs between two."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from polysoma.cli.names import DataPath
from polysoma.cli.output import say
from polysoma.cli.progress import counting
from polysoma.config import Seed, within
from polysoma.errors import PolysomaError
from polysoma.text import counted

if TYPE_CHECKING:
    from polysoma.data.edit import Crop

_MOST_LINES = 40
_MOST_NUMBERS = 1_000_000


@dataclass(frozen=True)
class Edit:
    """Writes a new data set beside another one: of some of its episodes, with other words, names or pictures.

    The source is never touched, and may be of any known format. The new one is in our own layout (LeRobotDataset v3),
    with pictures as large as in the source, without loss, and statistics computed from its own frames. It appears when
    all of it is written. Numbers of episodes are those that the files have, as `polysoma doctor` says them, before
    anything is changed; where files have none, they are counted from 0.

    Examples:
        polysoma data edit data/so101 --delete 3,7-9 --out data/so101-2
        polysoma data edit data/so101 --keep 0-49 --set-instruction "pick up the cube" --out data/cube
        polysoma data edit data/so101 --set-instruction "pikc it up=pick it up" "4,5=drop it" --out data/new
        polysoma data edit data/so101 --merge data/so101-monday data/so101-friday --out data/so101-all
        polysoma data edit data/so101 --split train=0.9 test=0.1 --out data/so101-parts
        polysoma data edit data/so101 --split train=0-89 test=90-99 --out data/so101-parts
        polysoma data edit data/so101 --rename front=top --crop-pictures front=20:180,0:240 --out data/so101-top
        polysoma data edit data/so101 --shift-actions 1 --out data/so101-2
        polysoma data edit recordings/so101 --reencode --out data/so101
        polysoma data edit data/so101 --skip-damaged --out data/so101-whole
    """

    path: DataPath
    """A folder or file, or hf://user/name on the Hugging Face Hub."""
    out: Path
    """A new folder."""
    delete: str = ""
    """Numbers of episodes that are left out: 3,7-9."""
    keep: str = ""
    """Numbers of the only episodes that are kept."""
    merge: tuple[Path, ...] = ()
    """Other data sets of the same body, whose episodes come after."""
    split: tuple[str, ...] = ()
    """NAME=SHARE of the episodes of each task, which come to 1, or NAME=NUMBERS: a data set in a folder for each."""
    rename: tuple[str, ...] = ()
    """OLD=NEW name of a stream, or of the body."""
    set_instruction: tuple[str, ...] = ()
    """New words of all episodes; OLD=NEW of those with the instruction OLD; or NUMBERS=NEW. The last one counts."""
    crop_pictures: tuple[str, ...] = ()
    """STREAM=TOP:BOTTOM,LEFT:RIGHT: the rows and columns that stay, in pixels; the last ones are not included."""
    shift_actions: Annotated[int, within(0, 1000)] = 0
    """Take the action of each frame from so many frames later, where a recorder wrote what had been done."""
    reencode: bool = False
    """Write it anew, each picture as PNG, even if nothing else is changed."""
    skip_damaged: bool = False
    """Leave out episodes that cannot be read; their numbers are said. All are read before any is written."""
    seed: Seed = 0
    """Decides which episodes come into which share."""

    def run(self) -> None:
        from polysoma.data import edit
        from polysoma.data.formats import located

        path = located(self.path)
        change = edit.Edit(
            frozenset(_numbers("--delete", self.delete)),
            frozenset(_numbers("--keep", self.keep)) if self.keep else None,
            tuple(located(other) for other in self.merge),
            dict(_pair("--rename", text) for text in self.rename),
            tuple(_told(text) for text in self.set_instruction),
            dict(_crop(text) for text in self.crop_pictures),
            dict(_part(text) for text in self.split),
            self.shift_actions,
            self.seed,
            self.reencode,
            self.skip_damaged,
        )
        with counting("editing") as count:
            done = edit.edit(path, self.out, change, lambda n, total: count(n, total, "episodes"))
        for line in done.changes:
            say(line)
        for folder, (episodes, frames) in done.written.items():
            say(f"{folder}: {counted(episodes, 'episode')}, {counted(frames, 'frame')}, with statistics of their own")
        say(f"{self.path} is as it was")


@dataclass(frozen=True)
class Diff:
    """Says what differs between two data sets of any formats; exit status 1 where something does.

    Examples:
        polysoma data diff data/so101 data/so101-2
        polysoma data diff recordings/so101 data/so101 --all
    """

    one: DataPath
    """A folder or file, or hf://user/name on the Hugging Face Hub."""
    other: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OTHER")]
    """Another one."""
    all: bool = False
    """Print every line, not just the first ones."""

    def run(self) -> None:
        from polysoma.data.diff import diff
        from polysoma.data.formats import located

        with counting("comparing") as count:
            found = diff(located(self.one), located(self.other), lambda n, total: count(n, total, "episodes"))
        shown = found.lines if self.all else found.lines[:_MOST_LINES]
        for line in shown:
            say(line)
        if len(shown) < len(found.lines):
            say(f"and {len(found.lines) - len(shown):,} more lines (--all)")
        same, frames = "different" if found.lines else "equal", counted(found.frames, "frame")
        say(f"{counted(found.pairs, 'episode')} with {frames} compared: {same}")
        if found.lines:
            sys.exit(1)


def _numbers(option: str, text: str) -> list[int]:
    """Numbers such as ``3,7-9``."""
    found: list[int] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        match = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise PolysomaError(f"{option}: expected numbers such as 3,7-9, got {text!r}")
        if last - first >= _MOST_NUMBERS:
            raise PolysomaError(f"{option}: expected at most {_MOST_NUMBERS:,} numbers, got {part}")
        found += range(first, last + 1)
    return found


def _pair(option: str, text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise PolysomaError(f"{option}: expected NAME=VALUE, got {text!r}")
    return name, value


def _told(text: str) -> tuple[str | frozenset[int] | None, str]:
    old, sign, new = text.partition("=")
    if not sign:
        return None, text
    return (frozenset(_numbers("--set-instruction", old)) if re.fullmatch(r"[\d\s,-]+", old) else old), new


def _crop(text: str) -> tuple[str, Crop]:
    from polysoma.data.edit import Crop

    name, value = _pair("--crop-pictures", text)
    match = re.fullmatch(r"(\d{1,6}):(\d{1,6}),(\d{1,6}):(\d{1,6})", value)
    if match is None:
        raise PolysomaError(f"--crop-pictures: expected STREAM=TOP:BOTTOM,LEFT:RIGHT, got {text!r}")
    return name, Crop(*map(int, match.groups()))


def _part(text: str) -> tuple[str, float | frozenset[int]]:
    name, value = _pair("--split", text)
    if re.fullmatch(r"0?\.\d+|1\.0*", value):
        return name, float(value)
    return name, frozenset(_numbers("--split", value))

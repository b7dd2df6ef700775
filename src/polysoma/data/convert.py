"""Conversion: a data set of any known format becomes one of ours, episode by episode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from polysoma.data import layout
from polysoma.data.foreign import Foreign, check_files
from polysoma.data.formats import open_reader
from polysoma.data.schema import schema_of
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError


@dataclass
class Converted:
    """Episodes that were written, that were there before, what was wrong with those that were left out, and what else
    there is to say."""

    written: int = 0
    there: int = 0
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def convert(
    source: Path, target: Path, skip: bool = False, progress: Callable[[int, int], None] | None = None
) -> Converted:
    """Copies all episodes into ``target``, in the streams, units and picture sizes of the source's description.

    Killed and called again it continues: episodes are known by their numbers in the source.

    Args:
        source: a folder or file of any known format; only read.
        target: a new folder, or one that a conversion of the same source left.
        skip: whether to leave out episodes that cannot be read.
        progress: called with (episodes so far, of how many).

    Raises:
        PolysomaError: there is no data set, the target holds something else or episodes of the source under other
            words, or an episode cannot be read.
    """
    check_apart(source, target)
    if (source / layout.POLYSOMA).exists():
        raise PolysomaError(f"{source} was recorded by polysoma: there is nothing to convert, copy the folder")
    reader = open_reader(source)
    result = Converted()
    try:
        schema = schema_of(reader)
        if not skip:
            check_files(reader, schema)
        result.notes += schema.remarks
        foreign = Foreign(reader, schema)
        with DatasetWriter(target, foreign.schema.embodiment) as writer:
            there = {seed: task for task, seed in writer.done}
            for number in range(len(foreign)):
                held = there.get(foreign.number(number))
                if held is not None and held != foreign.task(number):
                    raise PolysomaError(
                        f"{target}: episode {foreign.number(number)} is there as {held!r}, {source} calls it "
                        f"{foreign.task(number)!r} now; convert into a new folder, or correct the words of the copy "
                        "with `polysoma data edit`"
                    )
                if held is not None:
                    result.there += 1
                else:
                    try:
                        episode = foreign.episode(number)
                    except PolysomaError as error:
                        if not skip:
                            raise
                        result.skipped.append(str(error))
                    else:
                        writer.add(episode)
                        result.written += 1
                if progress is not None:
                    progress(number + 1, len(foreign))
    finally:
        reader.close()
    return result


def check_apart(source: Path, target: Path) -> None:
    """Raises PolysomaError when one lies in the other."""
    if target.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(target.resolve()):
        raise PolysomaError(f"{target} and {source} must not lie in one another: the source is never touched")

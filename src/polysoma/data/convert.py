"""Conversion: a data set of any known format becomes one of ours, episode by episode."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polysoma.data import layout
from polysoma.data.foreign import Foreign, check_files
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import ACTION, Reader
from polysoma.data.schema import Schema, differ_in_limits_alone, schema_of, schema_path
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError

_COMPARED = 32
"""Episodes, spread over those that are there already, whose actions are compared with the source's."""


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

    Killed and called again it continues, and adds what was recorded since: episodes are known by their numbers in the
    source. Limits that were inferred stay what they were.

    Args:
        source: a folder or file of any known format; only read.
        target: a new folder, or one that a conversion of the same source left.
        skip: whether to leave out episodes that cannot be read.
        progress: called with (episodes so far, of how many).

    Raises:
        PolysomaError: there is no data set, the target holds something else or episodes that are others in the source
            now, by their words, lengths or actions, or an episode cannot be read.
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
        schema = _limits_of(target, schema, result.notes) if not schema_path(source).exists() else schema
        foreign = Foreign(reader, schema)
        _check_same(source, target, foreign)
        with DatasetWriter(target, foreign.schema.embodiment) as writer:
            there = {seed for _, seed in writer.done}
            for number in range(len(foreign)):
                if foreign.number(number) in there:
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


def _limits_of(target: Path, schema: Schema, notes: list[str]) -> Schema:
    """The schema with the body of what was converted before, where more episodes have only moved inferred limits."""
    if not (target / layout.POLYSOMA).exists():
        return schema
    held, _ = layout.read_polysoma(target)
    if held == schema.embodiment or not differ_in_limits_alone(held, schema.embodiment):
        return schema
    notes.append("limits of actions stay those of the first conversion, which more episodes would move")
    return dataclasses.replace(schema, embodiment=held)


def _check_same(source: Path, target: Path, foreign: Foreign) -> None:
    """Raises PolysomaError where an episode of the target is another one in the source now."""
    if not (target / layout.POLYSOMA).exists():
        return
    index = layout.read_episodes(target)
    rows = {seed: row for row, seed in enumerate(index.seed.tolist())}
    both = [(number, rows[foreign.number(number)]) for number in range(len(foreign)) if foreign.number(number) in rows]
    copy = "convert into a new folder"
    for number, row in both:
        held, told = index.tasks[index.task[row]], foreign.task(number)
        begin = f"{target}: episode {foreign.index.number[number]} is there"
        if held != told:
            raise PolysomaError(
                f"{begin} as {held!r}, {source} calls it {told!r} now; {copy}, or correct the words of the copy with "
                "`polysoma data edit`"
            )
        if (frames := int(index.length[row])) != (now := int(foreign.index.length[number])):
            raise PolysomaError(f"{begin} with {frames} frames, {source} has {now} of it now; {copy}")
    if not both:
        # A conversion that was killed at its beginning has no episodes, and cannot be opened.
        return
    with contextlib.closing(open_reader(target)) as reader:
        for number, row in both[:: max(1, len(both) // _COMPARED)]:
            if not _acts_alike(foreign, number, reader, row):
                raise PolysomaError(
                    f"{target}: episode {foreign.index.number[number]} is there with other actions than {source} has "
                    f"now; {copy}"
                )


def _acts_alike(foreign: Foreign, number: int, copy: Reader, row: int) -> bool:
    """Whether an episode has the actions of its copy. One that cannot be read any more is still there: it does."""
    try:
        own = foreign.actions(number)
    except PolysomaError:
        return True
    return np.array_equal(own.reshape(-1), copy.read(row, [ACTION])[ACTION].reshape(-1))


def check_apart(source: Path, target: Path) -> None:
    """Raises PolysomaError when one lies in the other."""
    if target.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(target.resolve()):
        raise PolysomaError(f"{target} and {source} must not lie in one another: the source is never touched")

"""Doctor: what is wrong with a data set, how bad it is, and what to do about it.

One pass over the numbers of all episodes and over a few pictures of some of them. Each check looks for something that
has cost people trainings: numbers that are not finite, channels that never move, actions cut off at a limit, actions
that are merely the state of the same frame, episodes that are empty or there twice, pictures that are black or frozen,
tasks that drown the others, rewards and ends that contradict one another; and what the files of a format can have for
themselves (:meth:`Reader.problems`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polysoma.data import remedies
from polysoma.data.checks.ends import Ends
from polysoma.data.checks.leads import Leads
from polysoma.data.checks.numbers import NumberSummary, channel_names, of_numbers
from polysoma.data.checks.words import are, listed
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import (
    ACTION,
    OBSERVATION,
    PICTURE,
    REWARD,
    Problem,
    Reader,
)
from polysoma.data.instructions import parts_in
from polysoma.data.schema import schema_of
from polysoma.errors import PolysomaError

_SHORT = 5
"""Frames below which an episode is hardly one."""
_UNBALANCED = 10
_LOOKED_AT, _FRAMES = 20, 6
"""Episodes whose pictures are looked at, and frames of each."""
_FILES = 3
"""Files that are named one by one; of more, one is."""
_DARK, _FLAT = 8, 2.0
"""Of 255: the brightest pixel of a black picture, and the spread of one without anything in it."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found in a data set of ``episodes`` episodes and ``frames`` frames."""

    path: Path
    format: str
    episodes: int
    frames: int
    problems: tuple[Problem, ...]

    def count(self, severity: str) -> int:
        """The number of problems of this severity."""
        return sum(problem.severity == severity for problem in self.problems)


def examine(path: Path, progress: Callable[[int, int], None] | None = None) -> Diagnosis:
    """Looks at all of a data set.

    Args:
        path: a folder or file of any known format.
        progress: called with (episodes so far, of how many).

    Raises:
        PolysomaError: there is no data set, or so little of it can be read that there is nothing to say.
    """
    reader = open_reader(path)
    try:
        files = list(_of_files(reader))
        problems = [*files, *_of_description(reader, files), *_of_episodes(reader, progress)]
    finally:
        reader.close()
    rank = {"error": 0, "warning": 1, "note": 2}
    problems.sort(key=lambda problem: rank[problem.severity])
    return Diagnosis(path, reader.format, len(reader), int(reader.lengths.sum()), tuple(problems))


def _of_files(reader: Reader) -> Iterator[Problem]:
    try:
        yield from reader.problems()
    except PolysomaError as error:
        yield Problem("error", "files", str(error), "copy the data set again from where it came")


def _of_description(reader: Reader, known: Sequence[Problem]) -> Iterator[Problem]:
    try:
        schema = schema_of(reader)
    except PolysomaError as error:
        yield Problem("error", "description", str(error), f"{remedies.described(reader)} and edit it")
        return
    for remark in schema.remarks:
        if not any(problem.where in remark and problem.what in remark for problem in known):
            yield Problem("note", "description", remark, f"{remedies.described(reader)} for you to edit")


def _of_episodes(reader: Reader, progress: Callable[[int, int], None] | None) -> Iterator[Problem]:
    numbers = [name for name, c in reader.columns.items() if not c.picture and c.dtype.kind in "fiub"]
    seen = {name: NumberSummary(channel_names(name, reader.columns[name])) for name in numbers}
    unread: dict[str, list[int]] = {}
    twins: dict[bytes, list[int]] = {}
    leads, ends = Leads(reader), Ends(reader)
    for episode, length in enumerate(reader.lengths.tolist()):
        number = reader.source(episode)
        try:
            held = reader.read(episode, numbers) if length else {}
        except PolysomaError as error:
            unread.setdefault(str(error).partition(", episode")[0], []).append(number)
            held = {}
        for name, values in held.items():
            seen[name].add(number, values.reshape(length, -1).astype(np.float64))
        if ACTION in held:
            content = [held[name] for name in numbers if name == ACTION or name.startswith(OBSERVATION)]
            digest = hashlib.sha256(b"".join(np.ascontiguousarray(values).tobytes() for values in content)).digest()
            twins.setdefault(digest, []).append(number)
            leads.add(held)
            ends.add(episode, held)
        if progress is not None:
            progress(episode + 1, len(reader))
    if len(unread) <= _FILES:
        for where, episodes in unread.items():
            yield Problem(
                "error", where, f"{listed(episodes)} cannot be read", f"{remedies.COPY}, or {remedies.skipped(reader)}"
            )
    else:
        every = sorted(episode for episodes in unread.values() for episode in episodes)
        what = f"{len(unread)} of them cannot be read, {listed(every)}: {next(iter(unread))}, for one"
        yield Problem("error", "files", what, f"{remedies.COPY}, or {remedies.skipped(reader)}")
    yield from _of_lengths(reader)
    for name, column in seen.items():
        yield from of_numbers(reader, name, column)
    for episodes in twins.values():
        if len(episodes) > 1:
            yield Problem(
                "warning",
                "episodes",
                f"{listed(episodes)} are the same",
                f"keep one of them: {remedies.without(reader, episodes[1:])}",
            )
    yield from leads.problems()
    yield from ends.problems(seen.get(REWARD))
    yield from _of_tasks(reader)
    yield from _of_pictures(reader)


def _of_lengths(reader: Reader) -> Iterator[Problem]:
    # Those that could not be opened are said already by what looks at the files.
    absent = reader.absent([])
    empty = [
        reader.source(episode) for episode in np.flatnonzero(reader.lengths == 0).tolist() if episode not in absent
    ]
    if empty:
        yield Problem("warning", "episodes", f"{listed(empty)} {are(empty)} empty", "nothing: they are left out")
    few = np.flatnonzero((reader.lengths > 0) & (reader.lengths < _SHORT))
    short = [reader.source(episode) for episode in few.tolist()]
    if short and len(short) < len(reader):
        yield Problem(
            "warning", "episodes", f"{listed(short)} {are(short, 'has', 'have')} fewer than {_SHORT} frames",
            f"see whether the recording broke off, and leave them out: {remedies.without(reader, short)}",
        )  # fmt: skip


def _of_tasks(reader: Reader) -> Iterator[Problem]:
    told = Counter(reader.instructions)
    if "" in told:
        yield Problem(
            "note", "instructions", f"{told['']} of {len(reader)} episodes have no instruction",
            "say what to do in words, if one policy shall do more than one thing: "
            + remedies.edited(reader, "--set-instruction '=WORDS'"),
        )  # fmt: skip
    frames: Counter[str] = Counter()
    for episode, length in enumerate(reader.lengths.tolist()):
        parts = parts_in(reader, episode)
        for part, stop in zip(parts, [*(part.start for part in parts[1:]), length], strict=True):
            frames[part.instruction] += stop - part.start
    most, least = max(frames, key=frames.__getitem__, default=""), min(frames, key=frames.__getitem__, default="")
    if len(frames) > 1 and frames[most] > _UNBALANCED * max(frames[least], 1):
        yield Problem(
            "warning", "instructions",
            f"{frames[most]} frames of {most!r} and {frames[least]} of {least!r}",
            "nothing here, where tasks are drawn equally often (balance = 0); or record more of the rare ones",
        )  # fmt: skip


def _of_pictures(reader: Reader) -> Iterator[Problem]:
    missing = reader.missing()
    cameras = [name for name, column in reader.columns.items() if column.picture and name not in missing]
    long = np.flatnonzero(reader.lengths >= _SHORT)
    chosen = long[np.unique(np.linspace(0, len(long) - 1, min(len(long), _LOOKED_AT)).astype(int))] if len(long) else []
    for camera in cameras:
        found: dict[str, list[int]] = {}
        unread: dict[int, str] = {}
        # That files are missing is said already by what looks at the files.
        absent = reader.absent([camera])
        for episode in (int(episode) for episode in chosen if episode not in absent):
            try:
                held = reader.read(episode, [camera])[camera]
            except PolysomaError as error:
                unread[reader.source(episode)] = str(error)
                continue
            number, some = reader.source(episode), held[np.linspace(0, len(held) - 1, _FRAMES).astype(int)]
            if some.max() < _DARK:
                found.setdefault("black", []).append(number)
            elif some.std((1, 2)).max() < _FLAT:
                found.setdefault("of one colour", []).append(number)
            elif (held[1:] == held[:-1]).all():
                found.setdefault("one picture that never changes", []).append(number)
        name = camera.removeprefix(PICTURE)
        for what, episodes in found.items():
            yield Problem(
                "warning", name, f"{what} in {listed(episodes)} (of {len(chosen)} that were looked at)",
                "see whether the camera was covered or stood still",
            )  # fmt: skip
        if unread:
            what = f"cannot be read in {listed(unread)} (of {len(chosen)} that were looked at): "
            yield Problem(
                "error", name, what + next(iter(unread.values())), f"{remedies.COPY}, or {remedies.skipped(reader)}"
            )

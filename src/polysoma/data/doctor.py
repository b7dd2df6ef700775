"""Doctor: what is wrong with a data set, how bad it is, and what to do about it.

One pass over the numbers of all episodes and over a few pictures of some of them. Each check looks for something that
has cost people trainings: numbers that are not finite, channels that never move, actions cut off at a limit, actions
that are merely the state of the same frame, episodes that are empty or there twice, pictures that are black or frozen,
tasks that drown the others, rewards and ends that contradict one another; and what the files of a format can have for
themselves (:meth:`Reader.problems`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polysoma.data import remedies
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import (
    ACTION,
    DONE,
    OBSERVATION,
    PICTURE,
    REWARD,
    TERMINATED,
    Column,
    Ending,
    Problem,
    Reader,
)
from polysoma.data.instructions import told as told_in
from polysoma.data.schema import schema_of
from polysoma.embodiment import ContinuousActions
from polysoma.errors import PolysomaError
from polysoma.text import some

_SHORT = 5
"""Frames below which an episode is hardly one."""
_STILL = 1e-6
"""Part of a channel's magnitude that its spread must exceed to count as movement."""
_CUT, _DISTINCT = 0.05, 20
"""The share of frames exactly at an end of the range from which on a channel counts as cut off; and the number of
different values that tells a continuous channel from a switch."""
_FAR = 12
"""Standard deviations beyond which a value is an outlier."""
_UNBALANCED = 10
_LEADS = range(-2, 6)
_LOOKED_AT, _FRAMES = 20, 6
"""Episodes whose pictures are looked at, and frames of each."""
_COPY = "copy the file again from where it came"
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


@dataclass
class _Seen:
    """What one pass gathers of a column of numbers, channel by channel."""

    names: tuple[str, ...]
    count: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(0))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(0))
    low: np.ndarray = field(default_factory=lambda: np.zeros(0))
    high: np.ndarray = field(default_factory=lambda: np.zeros(0))
    sample: list[np.ndarray] = field(default_factory=list)
    moving: list[np.ndarray] = field(default_factory=list)
    broken: dict[int, int] = field(default_factory=dict)

    def add(self, episode: int, rows: np.ndarray) -> None:
        finite = np.isfinite(rows).all(1)
        if not finite.all():
            self.broken[episode] = int((~finite).sum())
        rows = rows[finite]
        if not len(rows):
            return
        if not self.count:
            size = rows.shape[1]
            self.total, self.squares = np.zeros(size), np.zeros(size)
            self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self.count += len(rows)
        self.total += rows.sum(0)
        self.squares += (rows**2).sum(0)
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        # Enough to see what lies at the ends of a range, whatever the size of the data set.
        sparse = slice(None, None, 1 + len(rows) // 200)
        self.sample.append(rows[sparse])
        self.moving.append(_moving(rows)[sparse])

    @property
    def mean(self) -> np.ndarray:
        return self.total / max(self.count, 1)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.squares / max(self.count, 1) - self.mean**2, 0))


def _moving(rows: np.ndarray) -> np.ndarray:
    """Which rows of an episode are not those of a body that waits at its beginning or rests at its goal: bool."""
    changed = np.flatnonzero((rows[1:] != rows[:-1]).any(1))
    moves = np.zeros(len(rows), bool)
    if len(changed):
        moves[changed[0] + 1 : changed[-1] + 1] = True
    if rows.shape[1] > 1:
        # Of a single number it cannot be told whether it rests or is cut off.
        moves[1:] &= (rows[1:] != rows[:-1]).any(1)
    return moves


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
    seen = {name: _Seen(_channel_names(name, reader.columns[name])) for name in numbers}
    unread: dict[str, list[int]] = {}
    twins: dict[bytes, list[int]] = {}
    leads, ends = _Leads(reader), _Ends(reader)
    for episode, length in enumerate(reader.lengths.tolist()):
        try:
            held = reader.read(episode, numbers) if length else {}
        except PolysomaError as error:
            unread.setdefault(str(error).partition(", episode")[0], []).append(episode)
            held = {}
        for name, values in held.items():
            seen[name].add(episode, values.reshape(length, -1).astype(np.float64))
        if ACTION in held:
            content = [held[name] for name in numbers if name == ACTION or name.startswith(OBSERVATION)]
            digest = hashlib.sha256(b"".join(np.ascontiguousarray(values).tobytes() for values in content)).digest()
            twins.setdefault(digest, []).append(episode)
            leads.add(held)
            ends.add(episode, held)
        if progress is not None:
            progress(episode + 1, len(reader))
    if len(unread) <= _FILES:
        for where, episodes in unread.items():
            yield Problem(
                "error", where, f"{_listed(episodes)} cannot be read", f"{_COPY}, or {remedies.skipped(reader)}"
            )
    else:
        every = sorted(episode for episodes in unread.values() for episode in episodes)
        what = f"{len(unread)} of them cannot be read, {_listed(every)}: {next(iter(unread))}, for one"
        yield Problem("error", "files", what, f"{_COPY}, or {remedies.skipped(reader)}")
    yield from _of_lengths(reader)
    for name, column in seen.items():
        yield from _of_numbers(reader, name, column)
    for episodes in twins.values():
        if len(episodes) > 1:
            yield Problem(
                "warning",
                "episodes",
                f"{_listed(episodes)} are the same",
                f"keep one of them: {remedies.without(reader, episodes[1:])}",
            )
    yield from leads.problems()
    yield from ends.problems(seen.get(REWARD))
    yield from _of_tasks(reader)
    yield from _of_pictures(reader)


def _channel_names(name: str, column: Column) -> tuple[str, ...]:
    size = int(np.prod(column.shape))
    return column.names or ((name,) if size == 1 else tuple(f"{name}[{i}]" for i in range(size)))


def _of_lengths(reader: Reader) -> Iterator[Problem]:
    empty = np.flatnonzero(reader.lengths == 0).tolist()
    if empty:
        yield Problem("warning", "episodes", f"{_listed(empty)} {_are(empty)} empty", "nothing: they are left out")
    short = np.flatnonzero((reader.lengths > 0) & (reader.lengths < _SHORT)).tolist()
    if short and len(short) < len(reader):
        yield Problem(
            "warning", "episodes", f"{_listed(short)} {_are(short, 'has', 'have')} fewer than {_SHORT} frames",
            f"see whether the recording broke off, and leave them out: {remedies.without(reader, short)}",
        )  # fmt: skip


def _of_numbers(reader: Reader, name: str, seen: _Seen) -> Iterator[Problem]:
    if seen.broken:
        frames = sum(seen.broken.values())
        yield Problem(
            "error", name, f"not finite (NaN or infinite) in {frames} frames of {_listed(seen.broken)}",
            remedies.skipped(reader),
        )  # fmt: skip
    acts = name == ACTION
    if not seen.count or not (acts or name.startswith(OBSERVATION)):
        return
    still = seen.std <= _STILL * np.maximum(1, np.abs(seen.mean))
    if still.any():
        yield Problem(
            "warning" if acts or still.all() else "note", name,
            f"never changes: {_named(seen.names, still)}",
            "see whether the recorder wrote it: a policy learns to do this value"
            if acts
            else f"nothing, if it was meant so; to leave it out: {remedies.described(reader)}, where you delete it"
            if still.all()
            else "nothing, if it was meant so: nothing is learnt from it",
        )  # fmt: skip
    sample, reach = np.concatenate(seen.sample), _FAR * np.where(still, 1, seen.std)
    far = ~still & (np.maximum(seen.high - seen.mean, seen.mean - seen.low) > reach)
    # Channels that mostly rest at one value are switches: a thing in view, a button pressed.
    far &= (sample == np.median(sample, 0)).mean(0) < 0.5
    if far.any() and seen.count > 20 * _FAR**2:
        yield Problem(
            "warning", name, f"values more than {_FAR} standard deviations away: {_named(seen.names, far)}",
            "sensors that fail for a moment spoil the scale of all others; look at them: "
            f"`polysoma data view {remedies.called(reader)}`",
        )  # fmt: skip
    moving = sample[np.concatenate(seen.moving)]
    if acts and len(moving):
        for end, which in ((seen.low, "lowest"), (seen.high, "highest")):
            share = (moving == end).mean(0)
            distinct = np.array([len(np.unique(column)) for column in sample.T])
            cut = (share > _CUT) & (distinct > _DISTINCT) & ~still
            if not cut.any():
                continue
            meant = bool(np.isclose(end, _own_limits(reader)[which == "highest"])[cut].all())
            yield Problem(
                "note" if meant else "warning", name,
                f"cut off at the {which} value, in up to {100 * share[cut].max():.0f} % of frames: "
                f"{_named(seen.names, cut)}",
                "nothing: it is the body's own limit" if meant
                else "see whether the recorder clips what the robot is told: a policy learns to push at that limit",
            )  # fmt: skip


def _own_limits(reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest of each number of an action, where these are known; NaN where they are not."""
    with contextlib.suppress(PolysomaError):
        actions = schema_of(reader).embodiment.actions
        if isinstance(actions, ContinuousActions):
            return actions.low, actions.high
    return np.array(np.nan), np.array(np.nan)


class _Leads:
    """By how many frames actions run ahead of states that they command: both have the same channels."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._pair: tuple[str, np.ndarray, np.ndarray] | None = None
        action = reader.columns.get(ACTION)
        for name, column in reader.columns.items():
            if action is None or self._pair or not name.startswith(OBSERVATION) or column.picture:
                continue
            if action.names and column.names:
                shared = [channel for channel in action.names if channel in column.names]
                if 2 * len(shared) > len(action.names):
                    mine = np.array([action.names.index(channel) for channel in shared])
                    theirs = np.array([column.names.index(channel) for channel in shared])
                    self._pair = name, mine, theirs
            elif not action.names and action.shape == column.shape and np.prod(action.shape) > 1:
                self._pair = name, np.arange(action.shape[0]), np.arange(action.shape[0])
        self._missed = dict.fromkeys(_LEADS, 0.0)
        self._moved = 0.0

    def add(self, held: dict[str, np.ndarray]) -> None:
        if self._pair is None or len(held[ACTION]) <= 2 * len(_LEADS):
            return
        name, mine, theirs = self._pair
        actions, states = held[ACTION][:, mine].astype(np.float64), held[name][:, theirs].astype(np.float64)
        if not (np.isfinite(actions).all() and np.isfinite(states).all()):
            return
        inner = slice(-_LEADS.start, len(actions) - _LEADS.stop)
        for lead in _LEADS:
            shifted = states[inner.start + lead : inner.stop + lead]
            self._missed[lead] += float(np.abs(actions[inner] - shifted).sum())
        self._moved += float(np.abs(np.diff(states, axis=0)).sum())

    def problems(self) -> Iterator[Problem]:
        if self._pair is None or self._moved == 0:
            return
        reader = self._reader
        best = min(self._missed, key=lambda lead: self._missed[lead])
        # Actions that are not places (velocities, say) are near no state at all.
        if self._missed[best] > self._moved:
            return
        name = self._pair[0]
        exact = self._missed[best] < 1e-3 * self._moved
        if best == 0 and exact:
            yield Problem(
                "error", ACTION, f"is {name} of the same frame: a policy would learn to stay where it is",
                "record what the robot was told, or take the state of the next frame as the action: "
                + remedies.edited(reader, "--shift-actions 1"),
            )  # fmt: skip
        elif best < 0:
            yield Problem(
                "error", ACTION, f"follows {name} by {-best} frames instead of leading it",
                "the recorder wrote what had been done, not what was to be done: "
                + remedies.edited(reader, f"--shift-actions {1 - best}"),
            )  # fmt: skip
        elif best > 0 and exact:
            yield Problem("note", ACTION, f"is {name} of {best} frames later", "nothing, if it was meant so")


class _Ends:
    """How episodes end, and what does not go together with it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._endings: dict[int, Ending] = {}
        self._early: list[int] = []
        self._broken: list[int] = []
        self._unread: dict[int, str] = {}

    def add(self, episode: int, held: dict[str, np.ndarray]) -> None:
        self._endings[episode] = self._reader.ending(episode, held)
        if any(np.any(held[name][:-1]) for name in (TERMINATED, DONE) if name in held):
            self._early.append(episode)
        numbers = [name for name in held if name.startswith(OBSERVATION)]
        try:
            final = self._reader.final(episode, numbers) or {}
        except PolysomaError as error:
            final = {}
            self._unread[episode] = str(error)
        if not all(np.isfinite(values).all() for values in final.values()):
            self._broken.append(episode)

    def problems(self, rewards: _Seen | None) -> Iterator[Problem]:
        if rewards is not None and rewards.count and (rewards.low == 0).all() and (rewards.high == 0).all():
            yield Problem("note", REWARD, "is 0 in all frames", "nothing, unless you want to learn from rewards")
        failed = [episode for episode, ending in self._endings.items() if ending.success is False]
        if failed:
            yield Problem(
                "note", "episodes", f"{_listed(failed)} did not succeed",
                f"leave them out unless they shall teach: {remedies.without(self._reader, failed)}",
            )  # fmt: skip
        if self._early:
            yield Problem(
                "warning", "episodes", f"{_listed(self._early)} {_are(self._early, 'goes', 'go')} on after their end",
                "see whether several episodes were joined to one; only the flag of the last frame counts",
            )  # fmt: skip
        known = any(ending.terminated or ending.truncated for ending in self._endings.values())
        odd = [n for n, ending in self._endings.items() if ending.success and not ending.terminated] if known else []
        if odd:
            yield Problem(
                "note", "episodes", f"{_listed(odd)} succeeded without being terminated",
                "nothing, if success is judged at a time limit; else learning from rewards expects more to come",
            )  # fmt: skip
        if self._broken:
            yield Problem(
                "warning", "episodes",
                f"the observation after the last action of {_listed(self._broken)} is not finite",
                "nothing: it counts as unknown",
            )  # fmt: skip
        if self._unread:
            yield Problem(
                "error", "episodes",
                f"the observation after the last action of {_listed(self._unread)} cannot be read: "
                f"{next(iter(self._unread.values()))}",
                f"{_COPY}, or {remedies.skipped(self._reader)}",
            )  # fmt: skip


def _of_tasks(reader: Reader) -> Iterator[Problem]:
    told = Counter(reader.instructions)
    if "" in told:
        yield Problem(
            "note", "instructions", f"{told['']} of {len(reader)} episodes are told nothing",
            "say what to do in words, if one policy shall do more than one thing: "
            + remedies.edited(reader, "--set-instruction '=WORDS'"),
        )  # fmt: skip
    frames: Counter[str] = Counter()
    for episode, length in enumerate(reader.lengths.tolist()):
        parts = told_in(reader, episode)
        for part, stop in zip(parts, [*(part.start for part in parts[1:]), length], strict=True):
            frames[part.told] += stop - part.start
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
                unread[episode] = str(error)
                continue
            some = held[np.linspace(0, len(held) - 1, _FRAMES).astype(int)]
            if some.max() < _DARK:
                found.setdefault("black", []).append(episode)
            elif some.std((1, 2)).max() < _FLAT:
                found.setdefault("of one colour", []).append(episode)
            elif (held[1:] == held[:-1]).all():
                found.setdefault("one picture that never changes", []).append(episode)
        name = camera.removeprefix(PICTURE)
        for what, episodes in found.items():
            yield Problem(
                "warning", name, f"{what} in {_listed(episodes)} (of {len(chosen)} that were looked at)",
                "see whether the camera was covered or stood still",
            )  # fmt: skip
        if unread:
            what = f"cannot be read in {_listed(unread)} (of {len(chosen)} that were looked at): "
            yield Problem("error", name, what + next(iter(unread.values())), _COPY)


def _named(names: tuple[str, ...], which: np.ndarray) -> str:
    return some(name for name, yes in zip(names, which, strict=True) if yes)


def _are(episodes: Sequence[int], one: str = "is", many: str = "are") -> str:
    return one if len(episodes) == 1 else many


def _listed(episodes: Iterable[int]) -> str:
    numbers = list(episodes)
    return f"{'episode' if len(numbers) == 1 else 'episodes'} {some(numbers)}"

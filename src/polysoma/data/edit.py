"""Edits: a new data set beside another one, of its episodes, with other words, names or pictures.

The source is only read. The new one appears under its name when all of it is written, with statistics of its own
frames.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polysoma.data import storage
from polysoma.data.convert import check_apart
from polysoma.data.damage import check_present
from polysoma.data.episode import Episode
from polysoma.data.numbering import listed
from polysoma.data.origin import Origin, opened
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import Embodiment, Modality, Stream
from polysoma.errors import PolysomaError

_MARK = "polysoma-edit.lock"
"""In the folder that is being written: it says who made it, too."""
_RUNS = 8
"""Runs of numbers that an error names at most."""


@dataclass(frozen=True)
class Crop:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of pictures, the last ones not included."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(frozen=True)
class Edit:
    """What is to be changed.

    Attributes:
        delete: numbers of episodes that are left out, as the files have them.
        keep: numbers of the only episodes that are kept; None for all.
        merge: data sets whose episodes come after those of the first.
        rename: old to new names of streams, or of the body.
        instructions: (whose, words): whose is the instruction that episodes have now, or the numbers of some, which are
            those of the first data set; None for all of them.
        crop: stream to the part of its pictures that stays.
        split: name to the share of the episodes of each task, which come to 1, or to numbers of episodes: each part is
            a data set of its own in the new folder.
        shift_actions: how many frames later the action of a frame is taken from; the last frames, which then have none,
            fall away.
        seed: decides which episodes come into which share.
        reencode: whether to write the data set anew even if nothing else is changed.
        skip_damaged: whether episodes that cannot be read are left out. All are read before any is written.
    """

    delete: frozenset[int] = frozenset()
    keep: frozenset[int] | None = None
    merge: tuple[Path, ...] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    instructions: tuple[tuple[str | frozenset[int] | None, str], ...] = ()
    crop: Mapping[str, Crop] = field(default_factory=dict)
    split: Mapping[str, float | frozenset[int]] = field(default_factory=dict)
    shift_actions: int = 0
    seed: int = 0
    reencode: bool = False
    skip_damaged: bool = False


@dataclass
class Edited:
    """The data sets that were written, with their numbers of episodes and frames; and what changed, in words."""

    written: dict[Path, tuple[int, int]] = field(default_factory=dict)
    changes: list[str] = field(default_factory=list)


def edit(source: Path, target: Path, change: Edit, progress: Callable[[int, int], None] | None = None) -> Edited:
    """Writes a new data set. Killed, it leaves nothing under the name of the target; called again it begins anew.

    Args:
        source: a folder or file of any known format; only read.
        target: a new folder beside it.
        change: what is to be changed.
        progress: called with (episodes so far, of how many).

    Raises:
        PolysomaError: nothing is to be changed, or something that is not there; no episode would be left; the data sets
            that are merged are of different bodies, or some have rewards; an episode cannot be read; the target is
            there already or cannot be written.
    """
    if change == Edit():
        raise PolysomaError("nothing is to be changed: name an edit, or reencode")
    for path in (source, *change.merge):
        check_apart(path, target)
    if target.exists() or target.is_symlink():
        raise PolysomaError(f"{target} is there already; name a new folder, or delete it")
    result = Edited()
    with contextlib.ExitStack() as stack:
        origins = [stack.enter_context(opened(path)) for path in (source, *change.merge)]
        body = _body(origins, change, result)
        chosen = _chosen(origins, change, result)
        words = _words(origins[0], change, result)
        parts = _parts(origins, chosen, change, result)
        total, done = sum(map(len, chosen)), 0
        folder = stack.enter_context(storage.building(target, _MARK))
        writers = {
            name: stack.enter_context(DatasetWriter(folder / name, body)) for name in dict.fromkeys(parts.values())
        }
        counts: dict[str, list[int]] = {name: [0, 0] for name in writers}
        for place, (origin, wanted) in enumerate(zip(origins, chosen, strict=True)):
            for number, episode in origin.episodes(wanted):
                name = parts[place, number]
                changed = _changed(episode, body, change, words.get(number) if place == 0 else None)
                writers[name].add(changed)
                counts[name][0] += 1
                counts[name][1] += len(changed)
                done += 1
                if progress is not None:
                    progress(done, total)
        for origin in origins:
            for task, seeds in origin.failures.items():
                for seed in seeds:
                    first = next(iter(writers.values()))
                    first.add_failure(_renamed_task(task, change.rename, origin.embodiment), seed)
        for name, writer in writers.items():
            writer.close()
            result.written[target / name] = (counts[name][0], counts[name][1])
    return result


def _body(origins: Sequence[Origin], change: Edit, result: Edited) -> Embodiment:
    """The body of the new data set."""
    bodies = [_changed_body(origin, change) for origin in origins]
    for origin, body in zip(origins[1:], bodies[1:], strict=True):
        if differences := body.differences(bodies[0]):
            raise PolysomaError(f"{origin.path} is of another body than {origins[0].path}: {'; '.join(differences)}")
    first = origins[0]
    if len({origin.index.rewards for origin in origins}) > 1:
        some = [str(origin.path) for origin in origins if not origin.index.rewards]
        raise PolysomaError(f"{', '.join(some)}: there are no rewards, which the other data sets have")
    for old, new in change.rename.items():
        result.changes.append(f"{old} is called {new}")
    if change.shift_actions:
        result.changes.append(f"the action of each frame is that of {change.shift_actions} frames later")
    for name, part in change.crop.items():
        height, width, _ = first.embodiment.stream(name).shape
        result.changes.append(
            f"{name}: of pictures of {height}x{width}, rows {part.top} to {part.bottom - 1} and columns {part.left} to "
            f"{part.right - 1} stay: {part.bottom - part.top}x{part.right - part.left}"
        )
    return bodies[0]


def _changed_body(origin: Origin, change: Edit) -> Embodiment:
    body = origin.embodiment
    known = [stream.name for stream in body.recorded]
    unknown = sorted(set(change.rename) - {*known, body.name}) + sorted(set(change.crop) - set(known))
    if unknown:
        raise PolysomaError(f"{origin.path}: there is no stream {unknown[0]!r}; there are {known}, of {body.name}")

    def changed(stream: Stream) -> Stream:
        part = change.crop.get(stream.name)
        if part is not None:
            if stream.modality is not Modality.IMAGE:
                raise PolysomaError(f"{origin.path}: {stream.name} holds no pictures to be cropped")
            height, width, _ = stream.shape
            if not (0 <= part.top < part.bottom <= height and 0 <= part.left < part.right <= width):
                raise PolysomaError(
                    f"{stream.name}: rows {part.top}:{part.bottom} and columns {part.left}:{part.right} are not within "
                    f"pictures of {height}x{width}"
                )
            stream = dataclasses.replace(stream, shape=(part.bottom - part.top, part.right - part.left, 3))
        return dataclasses.replace(stream, name=change.rename.get(stream.name, stream.name))

    name = change.rename.get(body.name, body.name)
    return dataclasses.replace(
        body,
        name=name,
        body=name if body.body == body.name else body.body,
        streams=tuple(map(changed, body.streams)),
        privileged=tuple(map(changed, body.privileged)),
    )


def _chosen(origins: Sequence[Origin], change: Edit, result: Edited) -> list[list[int]]:
    """Which episodes of each data set are written."""
    first = origins[0]
    numbers = first.numbers.tolist()
    _check_numbers(first, change.delete | (change.keep or frozenset()))

    def stays(number: int) -> bool:
        return number not in change.delete and (change.keep is None or number in change.keep)

    kept = [place for place, number in enumerate(numbers) if stays(number)]
    if len(kept) < len(numbers):
        gone = sorted(set(numbers) - {numbers[place] for place in kept})
        result.changes.append(f"{len(gone):,} of {len(set(numbers)):,} episodes are left out: {listed(gone)}")
    chosen = [kept, *(list(range(len(origin))) for origin in origins[1:])]
    for origin in origins[1:]:
        result.changes.append(f"{len(origin):,} episodes of {origin.path} come after them")
    for place, origin in enumerate(origins):
        absent = {number: why for number, why in origin.absent.items() if place or stays(number)}
        if change.skip_damaged:
            chosen[place], lines = origin.readable(chosen[place], absent)
            result.changes += [f"{origin.path}: {line}" for line in lines]
        else:
            check_present(origin.path, absent, len(origin.known))
    if not any(chosen):
        raise PolysomaError(f"{first.path}: no episode would be left")
    for origin in origins:
        result.changes += [f"{origin.path}: {remark}" for remark in origin.remarks if "left out" in remark]
    return chosen


def _check_numbers(origin: Origin, numbers: frozenset[int]) -> None:
    unknown = sorted(numbers - origin.known)
    if unknown:
        raise PolysomaError(
            f"{origin.path}: there is no episode {unknown[0]}; there are {listed(sorted(origin.known), _RUNS)}"
        )


def _words(origin: Origin, change: Edit, result: Edited) -> dict[int, str]:
    """The new words of episodes of the first data set; the last of several that are given for one counts."""
    words: dict[int, str] = {}
    numbers = origin.numbers.tolist()
    for whose, text in change.instructions:
        if isinstance(whose, frozenset):
            _check_numbers(origin, whose)
        own = [
            place
            for place, number in enumerate(numbers)
            if whose is None
            or (number in whose if isinstance(whose, frozenset) else origin.instruction(place) == whose)
        ]
        if not own:
            told = ", ".join(map(repr, origin.index.instructions[:8]))
            raise PolysomaError(f"{origin.path}: no episode has the instruction {whose!r}; they have {told}")
        words |= dict.fromkeys(own, text)
    changed = Counter(
        (origin.instruction(place), text) for place, text in words.items() if origin.instruction(place) != text
    )
    for (old, new), count in changed.items():
        result.changes.append(f"{count:,} episodes have the instruction {new!r} instead of {old!r}")
    return words


def _parts(
    origins: Sequence[Origin], chosen: Sequence[Sequence[int]], change: Edit, result: Edited
) -> dict[tuple[int, int], str]:
    """The name of the part of each episode: the folder below the target, ``""`` for the target itself."""
    everything = [(place, number) for place, wanted in enumerate(chosen) for number in wanted]
    if not change.split:
        return dict.fromkeys(everything, "")
    for name in change.split:
        if not re.fullmatch(r"[\w.-]+", name) or name.strip(".") == "":
            raise PolysomaError(f"split: {name!r} is no name of a folder")
    shares = {name: share for name, share in change.split.items() if not isinstance(share, frozenset)}
    if len(shares) == len(change.split):
        return _shared(origins, everything, shares, change.seed)
    if shares:
        raise PolysomaError("split: expected shares or numbers of episodes for all parts, got both")
    parts: dict[tuple[int, int], str] = {}
    for name, numbers in change.split.items():
        assert isinstance(numbers, frozenset)
        _check_numbers(origins[0], numbers)
        for place, number in everything:
            if place == 0 and int(origins[0].numbers[number]) in numbers:
                if (0, number) in parts:
                    twice = origins[0].numbers[number]
                    raise PolysomaError(f"split: episode {twice} is in {parts[0, number]} and {name}")
                parts[0, number] = name
    missing = [pair for pair in everything if pair not in parts]
    if missing:
        place, number = missing[0]
        raise PolysomaError(
            f"split: {len(missing):,} episodes are in no part, such as {origins[place].numbers[number]} of "
            f"{origins[place].path}; delete what is not wanted"
        )
    return parts


def _shared(
    origins: Sequence[Origin], everything: Sequence[tuple[int, int]], shares: Mapping[str, float], seed: int
) -> dict[tuple[int, int], str]:
    if not all(share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise PolysomaError(f"split: expected shares that come to 1, got {dict(shares)}")
    rng = np.random.default_rng(seed)
    by_task: dict[str, list[tuple[int, int]]] = {}
    for place, number in everything:
        by_task.setdefault(origins[place].task(number), []).append((place, number))
    parts = {}
    for task in sorted(by_task):
        own = by_task[task]
        ends = np.round(np.cumsum(list(shares.values())) * len(own)).astype(int)
        names = np.repeat(list(shares), np.diff(ends, prepend=0))
        for where, name in zip(rng.permutation(len(own)), names, strict=True):
            parts[own[where]] = str(name)
    empty = [name for name in shares if name not in parts.values()]
    if empty:
        raise PolysomaError(f"split: no episode would be in {', '.join(empty)}: there are {len(everything)}")
    return parts


def _changed(episode: Episode, body: Embodiment, change: Edit, told: str | None) -> Episode:
    episode = _shifted(episode, change.shift_actions)

    def streams(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {change.rename.get(name, name): _cropped(array, change.crop.get(name)) for name, array in values.items()}

    task, own = _renamed_task(episode.task, change.rename, episode.embodiment), episode.instruction
    text = own if told is None else told
    # Tasks of other formats are called after their words.
    if task == f"{body.name}/{own or 'unnamed'}":
        task = f"{body.name}/{text or 'unnamed'}"
    return dataclasses.replace(
        episode,
        embodiment=body,
        task=task,
        instruction=text,
        observations=streams(episode.observations),
        final=None if episode.final is None else streams(episode.final),
    )


def _shifted(episode: Episode, frames: int) -> Episode:
    kept = len(episode) - frames
    if not frames:
        return episode
    if kept < 1:
        raise PolysomaError(f"actions cannot be taken from {frames} frames later: an episode has {len(episode)} frames")
    rewards = episode.rewards
    if rewards is not None:
        # What the frames that are left out earned, such as success, the last one that is kept earns.
        rewards = np.concatenate([rewards[: kept - 1], rewards[kept - 1 :].sum(keepdims=True)])
    return dataclasses.replace(
        episode,
        observations={name: values[:kept] for name, values in episode.observations.items()},
        actions=episode.actions[frames:],
        executed=episode.executed[frames:],
        rewards=rewards,
        final={name: values[kept] for name, values in episode.observations.items()},
    )


def _renamed_task(task: str, rename: Mapping[str, str], body: Embodiment) -> str:
    name, sign, rest = task.partition("/")
    return f"{rename[name]}{sign}{rest}" if name == body.name and name in rename else task


def _cropped(pictures: np.ndarray, part: Crop | None) -> np.ndarray:
    """Pictures ``(..., height, width, 3)``."""
    return pictures if part is None else pictures[..., part.top : part.bottom, part.left : part.right, :]

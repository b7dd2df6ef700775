"""Differences of two data sets: episodes, frames, words, rewards, ends and pictures, equal or where not."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polysoma.data.episode import Episode
from polysoma.data.numbering import listed
from polysoma.data.origin import Origin, opened
from polysoma.embodiment import Modality

_FLAGS = ("task", "instruction", "seed", "success", "terminated", "truncated")


@dataclass(frozen=True)
class Difference:
    """What two data sets have in common and where they differ.

    Attributes:
        pairs: episodes of both that were compared.
        frames: of these.
        lines: what differs, for people; none where all is equal.
    """

    pairs: int
    frames: int
    lines: tuple[str, ...]


def diff(one: Path, other: Path, progress: Callable[[int, int], None] | None = None) -> Difference:
    """Compares two data sets of any formats, with pictures as they are in the files.

    Episodes are compared with those that did the same; where others lie between them, in their order.

    Args:
        one, other: folders or files.
        progress: called with (episodes so far, of how many).

    Raises:
        PolysomaError: there is no data set, or an episode cannot be read.
    """
    with opened(one) as first, opened(other) as second:
        lines = [f"body: {line}" for line in second.embodiment.differences(first.embodiment)]
        if first.index.rewards != second.index.rewards:
            lines.append(f"rewards: {_there(first.index.rewards)}, {_there(second.index.rewards)} in the second")
        pairs, alone = _aligned(first, second)
        for name, origin, numbers in (("first", first, alone[0]), ("second", second, alone[1])):
            if numbers:
                which = listed(sorted(set(origin.numbers[numbers].tolist())))
                lines.append(f"{len(numbers):,} episodes are in the {name} alone: {which}")
        left, right = [a for a, _ in pairs], [b for _, b in pairs]
        frames = 0
        for done, ((a, here), (b, there)) in enumerate(zip(first.episodes(left), second.episodes(right), strict=True)):
            where = f"episode {first.numbers[a]}"
            if first.numbers[a] != second.numbers[b]:
                where += f" ({second.numbers[b]} in the second)"
            lines += [f"{where}: {what}" for what in _of_episode(here, there)]
            frames += min(len(here), len(there))
            if progress is not None:
                progress(done + 1, len(pairs))
        return Difference(len(pairs), frames, tuple(lines))


def _there(rewards: bool) -> str:
    return "there are some" if rewards else "there are none"


def _aligned(first: Origin, second: Origin) -> tuple[list[tuple[int, int]], tuple[list[int], list[int]]]:
    """Pairs of episodes, and those of either that have no partner."""
    match = difflib.SequenceMatcher(None, first.digests(), second.digests(), autojunk=False)
    pairs: list[tuple[int, int]] = []
    alone: tuple[list[int], list[int]] = [], []
    for _, a, a_end, b, b_end in match.get_opcodes():
        both = min(a_end - a, b_end - b)
        pairs += [(a + step, b + step) for step in range(both)]
        alone[0].extend(range(a + both, a_end))
        alone[1].extend(range(b + both, b_end))
    return pairs, alone


def _of_episode(here: Episode, there: Episode) -> Iterator[str]:
    for name in _FLAGS:
        one, other = getattr(here, name), getattr(there, name)
        if one != other:
            yield f"{name}: {one!r}, {other!r} in the second"
    if len(here) != len(there):
        yield f"{len(here)} frames, {len(there)} in the second: those that both have are compared"
    length = min(len(here), len(there))
    for name in ("actions", "executed", "rewards"):
        one, other = getattr(here, name), getattr(there, name)
        if one is not None and other is not None:
            yield from _of_values(name, one[:length], other[:length])
    mine, theirs = ({s.name: s for s in episode.embodiment.recorded} for episode in (here, there))
    for name in [name for name in mine if name in theirs]:
        picture = mine[name].modality is Modality.IMAGE
        if mine[name].shape != theirs[name].shape:
            continue  # The bodies differ, which is said once.
        yield from _of_values(name, here.observations[name][:length], there.observations[name][:length], picture)
        if here.final is not None and there.final is not None:
            yield from _of_values(f"last {name}", here.final[name][None], there.final[name][None], picture)
    if (here.final is None) != (there.final is None):
        yield f"the observation after the last action is in the {'second' if here.final is None else 'first'} alone"


def _of_values(name: str, one: np.ndarray, other: np.ndarray, picture: bool = False) -> Iterator[str]:
    if one.shape != other.shape:
        yield f"{name}: of shape {one.shape[1:]}, {other.shape[1:]} in the second"
        return
    differs = (one != other).reshape(len(one), -1).any(1)
    if differs.any():
        frame, apart = int(differs.argmax()), np.abs(one.astype(np.float64) - other.astype(np.float64)).max()
        what, much = ("pictures", f"{apart:.0f} of 255 levels") if picture else ("frames", f"{apart:.6g}")
        yield f"{name}: {differs.sum():,} of {len(one):,} {what} differ, by up to {much}, first at frame {frame}"

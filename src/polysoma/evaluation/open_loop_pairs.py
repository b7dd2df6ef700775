"""Several policies on the same frames of recorded episodes: what one predicts better than another, paired, without a
simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polysoma.errors import PolysomaError
from polysoma.evaluation.answers import ask
from polysoma.evaluation.intervals import episodes_difference
from polysoma.evaluation.open_loop import Ruler, controls, episodes_of, unit_of
from polysoma.evaluation.recorded import RecordedEpisodes

Difference = tuple[float, float, float]
"""A difference of errors, and its 95 % interval over episodes: (itself, low, high)."""


@dataclass(frozen=True)
class Row:
    """Errors of one policy or control, as in :class:`~polysoma.evaluation.open_loop.Errors`.

    Attributes:
        first, chunk, places: of the first action, of whole chunks, and of each place in them.
        first_difference, chunk_difference: its error less that of the first policy; None for that one itself.
    """

    first: float
    chunk: float
    places: tuple[float, ...]
    first_difference: Difference | None
    chunk_difference: Difference | None


@dataclass(frozen=True)
class Paired:
    """What :func:`paired` found.

    Attributes:
        body: its name.
        choices: whether its actions are choices.
        which: the episodes, in words.
        episodes, windows: how many there were.
        policies, controls: by name.
    """

    body: str
    choices: bool
    which: str
    episodes: int
    windows: int
    policies: dict[str, Row]
    controls: dict[str, Row]

    @property
    def unit(self) -> str:
        """What errors are, in words."""
        return unit_of(self.choices)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self) | {"unit": self.unit}


def common(recorded: Mapping[str, Sequence[RecordedEpisodes]]) -> dict[str, dict[str, RecordedEpisodes]]:
    """By body, what drives it by name: the bodies that all policies know of which there are data.

    Args:
        recorded: by the name of a policy, what :func:`~polysoma.evaluation.recorded.recorded` returned for it, for all
            of them from the same data.

    Raises PolysomaError where there is no such body.
    """
    by_body: dict[str, dict[str, RecordedEpisodes]] = {}
    for name, parts in recorded.items():
        for part in parts:
            by_body.setdefault(part.source.embodiment.name, {})[name] = part
    shared = {body: drivers for body, drivers in by_body.items() if len(drivers) == len(recorded)}
    if not shared:
        known = {name: [part.source.embodiment.name for part in parts] for name, parts in recorded.items()}
        raise PolysomaError(f"expected data of a body that all checkpoints know, got {known}")
    return shared


def paired(
    drivers: Mapping[str, RecordedEpisodes],
    windows: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Paired:
    """Asks policies at the same frames, of those episodes that count for all of them.

    Args:
        drivers: by name, of one body and the same data sets. Chunks are compared as far as the shortest one.
        windows: frames, at most, evenly spaced over the episodes.
        seed: of what is drawn.
        progress: called with (policies that were asked, of how many, the next one).

    Raises:
        PolysomaError: no episode of two frames counts for all, or as :meth:`Policy.predict`.
    """
    names, parts = list(drivers), list(drivers.values())
    frames = _frames(drivers, windows)
    episode, ruler = episodes_of(frames), Ruler(parts[0].source)
    answers = []
    for number, (name, part) in enumerate(drivers.items()):
        if progress is not None:
            progress(number, len(drivers), name)
        answers.append(ask(part.policy.predict, part.source, frames, seed))
    if progress is not None:
        progress(len(drivers), len(drivers), "done")
    own, places = answers[0], min(one.target.shape[1] for one in answers)
    target, valid = own.target[:, :places], own.valid[:, :places]
    learnt = next((part.learnt for part in parts if part.learnt is not None), None)
    beside = controls(ruler, parts[0].source, frames, own, learnt)
    acted = {name: ruler.chosen(one.predicted) for name, one in zip(names, answers, strict=True)}
    acted |= beside
    # What always does the same has no axis of windows.
    missed = {
        name: ruler.distance(one[:, :places] if one.ndim == target.ndim else one, target).mean(-1)
        for name, one in acted.items()
    }
    sums = {
        name: (np.bincount(episode, one[:, 0]), np.bincount(episode, (one * valid).sum(1)))
        for name, one in missed.items()
    }
    counts = np.bincount(episode), np.bincount(episode, valid.sum(1))
    rows = {}
    for name, one in missed.items():
        differences = [
            None if name == names[0] else episodes_difference(sums[name][what], sums[names[0]][what], counts[what])
            for what in (0, 1)
        ]
        along = [float(one[valid[:, place], place].mean()) for place in range(places) if valid[:, place].any()]
        rows[name] = Row(along[0], float(one[valid].mean()), tuple(along), differences[0], differences[1])
    return Paired(
        parts[0].source.embodiment.name, ruler.choices, _which(drivers, len(counts[0])), len(counts[0]), len(frames),
        {name: rows[name] for name in names}, {name: rows[name] for name in beside},
    )  # fmt: skip


def _frames(drivers: Mapping[str, RecordedEpisodes], windows: int) -> np.ndarray:
    """Evenly spaced frames of the episodes that count for all."""
    every = [part.source.spaced(len(part.source)) for part in drivers.values()]
    held = set.intersection(*(set(map(tuple, frames[:, :2].tolist())) for frames in every))
    shared = every[0][[row in held for row in map(tuple, every[0][:, :2].tolist())]]
    if not len(shared):
        told = "; ".join(f"{name}: {part.which}" for name, part in drivers.items())
        raise PolysomaError(f"no episode of two frames counts for all of them ({told}): choose some with --held-out")
    return shared[np.unique(np.linspace(0, len(shared) - 1, min(windows, len(shared))).astype(np.int64))]


def _which(drivers: Mapping[str, RecordedEpisodes], episodes: int) -> str:
    told = {name: part.which for name, part in drivers.items()}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return f"{episodes} episodes that count for all ({'; '.join(f'{name}: {which}' for name, which in told.items())})"

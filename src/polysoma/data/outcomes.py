"""Outcomes: the steps of data sets of one body with how their episodes ended, for learning what leads to failure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polysoma.data.dataset import Dataset
from polysoma.embodiment import DiscreteActions, Embodiment, Modality
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class Outcomes:
    """N steps, each of one action or of several after each other.

    Attributes:
        states: float32 ``(N, n)``, as of :meth:`Senses.of_frames`.
        actions: what was executed: int64 ``(N,)``, or float32 ``(N, span, A)``, at the end of an episode its last one
            again.
        following: float32 ``(N, n)``, the states after it.
        end: int64 ``(N,)``: 1 where this step ended the task in success, -1 where it ended it in failure, else 0.
        episode: int64 ``(N,)``, which episode it is of.
        success: bool ``(N,)``, whether that episode succeeded.
    """

    states: np.ndarray
    actions: np.ndarray
    following: np.ndarray
    end: np.ndarray
    episode: np.ndarray
    success: np.ndarray

    @staticmethod
    def of(datasets: Sequence[Dataset], span: int = 1) -> Outcomes:
        """The steps of data sets of one body. Failures are the episodes that the task itself ended without success; an
        episode that was cut says nothing of its end. Last steps of which what followed is unknown are left out.

        Args:
            datasets: of one body.
            span: actions of a step, for actions that are numbers.

        Raises:
            PolysomaError: no data set, data of different bodies, or a body that senses neither numbers nor symbols.
        """
        if not datasets:
            raise PolysomaError("data: expected at least one data set, got none")
        body, before, parts = datasets[0].embodiment, 0, []
        senses = Senses.of(body)
        for dataset in datasets:
            if dataset.embodiment != body:
                raise PolysomaError(f"{dataset.root}: expected the body of {datasets[0].root}")
            frames = np.arange(len(dataset))
            episode = dataset.episode_of(frames)
            final = (dataset.episode_start + dataset.episode_length - 1)[episode]
            ahead = np.minimum(frames[:, None] + np.arange(span), final[:, None])
            last = ahead[:, -1] == final
            success = dataset.episode_success[episode]
            end = np.where(last & success, 1, np.where(last & dataset.episode_terminated[episode], -1, 0))
            after, known = dataset.next_observations(ahead[:, -1], senses.streams)
            use, executed = known | (end != 0), np.asarray(dataset.executed)
            rows = (
                senses.of_frames(dataset.observations),
                executed if isinstance(body.actions, DiscreteActions) else executed[ahead].astype(np.float32),
                senses.of_frames(after), end, episode + before, success,
            )  # fmt: skip
            parts.append([row[use] for row in rows])
            before += len(dataset.episode_start)
        return Outcomes(*(np.concatenate(rows) for rows in zip(*parts, strict=True)))

    def apart(self, share: float, seed: int = 0) -> tuple[Outcomes, Outcomes]:
        """These steps in two: those of about a part ``share`` of the episodes, drawn evenly, come second."""
        episodes = np.unique(self.episode)
        chosen = np.random.default_rng(seed).permutation(episodes)[: round(share * len(episodes))]
        second = np.isin(self.episode, chosen)
        return tuple(Outcomes(*(part[rows] for part in vars(self).values())) for rows in (~second, second))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class Senses:
    """What small networks see of a body: the numbers of its states; or, of a body that senses none, a 0 or 1 for each
    symbol but the first of an id.

    Attributes:
        streams: names of the streams, one after the other.
        names: n names, of channels; empty for symbols.
        place: int64 ``(n,)``, where each stands among the values of the streams, one after the other.
        symbol: float32 ``(n,)``, which symbol a 1 stands for; NaN for numbers.
        values: how many values the streams hold.
        numbers: whether these are numbers, and not symbols.
    """

    streams: tuple[str, ...]
    names: tuple[str, ...]
    place: np.ndarray
    symbol: np.ndarray
    values: int
    numbers: bool

    @staticmethod
    def of(body: Embodiment) -> Senses:
        """Raises PolysomaError where the body senses neither numbers nor symbols that differ."""
        senses = {stream.modality for stream in body.streams}
        kind = Modality.STATE if Modality.STATE in senses else Modality.SYMBOL
        streams, names, places, symbols, before = [], list[str](), list[int](), list[float](), 0
        for stream in (stream for stream in body.streams if stream.modality is kind):
            streams.append(stream.name)
            values = math.prod(stream.shape)
            # For each value: the symbols that it can be, or itself.
            each = [list(map(float, range(1, count))) for count in stream.cardinalities] or [[math.nan]]
            for value in range(values):
                known = each[value % len(each)]
                names += [stream.channels[value].name if stream.channels else ""] * len(known)
                places += [before + value] * len(known)
                symbols += known
            before += values
        if not places:
            there = ", ".join(stream.name for stream in body.arrays)
            raise PolysomaError(f"{body.name}: expected a body that senses numbers or symbols, it senses {there}")
        place, symbol = np.array(places, np.int64), np.array(symbols, np.float32)
        return Senses(tuple(streams), tuple(names), place, symbol, before, kind is Modality.STATE)

    def of_frames(self, observed: Mapping[str, Any]) -> np.ndarray:
        """What is seen of N frames: float32 ``(N, n)``, of streams ``(N, *shape)``."""
        parts = [np.asarray(observed[name]) for name in self.streams]
        joined = np.concatenate([part.reshape(len(part), -1) for part in parts], 1).astype(np.float32, copy=False)
        return joined if self.numbers else (joined[:, self.place] == self.symbol).astype(np.float32)

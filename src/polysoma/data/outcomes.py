"""Outcomes: the steps of data sets of one body with how their episodes ended, for learning what leads to failure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polysoma.data.dataset import Dataset
from polysoma.embodiment import DiscreteActions, Embodiment, Modality, Stream
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class Outcomes:
    """N steps, each of one action or of several after each other.

    Attributes:
        states: float32 ``(N, n)``.
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
            PolysomaError: no data set, data of different bodies, or no state.
        """
        if not datasets:
            raise PolysomaError("data: expected at least one data set, got none")
        body, before, parts = datasets[0].embodiment, 0, []
        names = [stream.name for stream in states_of(body)]
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
            after, known = dataset.next_observations(ahead[:, -1], names)
            use, executed = known | (end != 0), np.asarray(dataset.executed)
            rows = (
                _joined([np.asarray(dataset.observations[name]) for name in names]),
                executed if isinstance(body.actions, DiscreteActions) else executed[ahead].astype(np.float32),
                _joined([after[name] for name in names]), end, episode + before, success,
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


def states_of(body: Embodiment) -> tuple[Stream, ...]:
    """The streams that small networks judge by: states alone. Raises PolysomaError where there is none."""
    streams = tuple(stream for stream in body.streams if stream.modality is Modality.STATE)
    if not streams:
        raise PolysomaError(f"{body.name}: expected a body that senses a state, it has {body.arrays}")
    return streams


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(one, np.float32).reshape(len(one), -1) for one in arrays], 1)

"""Windows: what a policy sees of an episode, and the batches that training and acting share.

A window holds up to ``horizon.history`` consecutive frames of one episode. Each frame has a chunk of future actions
as its target; what lies beyond the episode's end is marked as padding, never taken from the next episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.embodiment import Embodiment, Modality
from polysoma.horizon import Horizon


@dataclass(frozen=True)
class Demonstrations:
    """Frames of other episodes that a policy is shown before it acts, F of them for each of B windows.

    Attributes:
        observations: stream name to array ``(B, F, *shape)``.
        actions: what was executed in each frame: int64 ``(B, F)`` where ``size`` stands for "not told", or float32
            ``(B, F, A)`` with zeros for "not told".
        places: int64 ``(B, F)``, which of the frames of its episode each one is.
        valid: bool ``(B, F)``, False for padding.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    places: np.ndarray
    valid: np.ndarray

    def take(self, rows: np.ndarray) -> Demonstrations:
        """What is shown to the windows of these rows."""
        return Demonstrations(
            {name: array[rows] for name, array in self.observations.items()},
            self.actions[rows],
            self.places[rows],
            self.valid[rows],
        )


@dataclass(frozen=True)
class DemonstrationSampler:
    """How windows are shown other episodes of their task.

    Attributes:
        episodes: how many, drawn with replacement.
        frames: of each episode, evenly spaced, the last one among them.
        silent: the share of windows whose shown frames do not tell what was done in them.
        rng: draws.
    """

    episodes: int
    frames: int
    silent: float
    rng: np.random.Generator


@dataclass(frozen=True)
class DemonstrationChoice:
    """Which episodes of their data set B windows are shown.

    Attributes:
        episodes: int64 ``(B, E)``; rows of windows that are shown none hold any numbers.
        valid: bool ``(B,)``, False for windows that are shown none.
        silent: bool ``(B,)``, True for those that are not told what was done.
        frames: of each episode.
    """

    episodes: np.ndarray
    valid: np.ndarray
    silent: np.ndarray
    frames: int

    def take(self, rows: slice) -> DemonstrationChoice:
        """What the windows of these rows are shown."""
        return DemonstrationChoice(self.episodes[rows], self.valid[rows], self.silent[rows], self.frames)


@dataclass(frozen=True)
class Windows:
    """A batch of B windows of one embodiment, T frames long (shorter ones are padded at their end).

    Attributes:
        embodiment: the one body that all windows come from.
        instructions: B strings.
        observations: stream name to array ``(B, T, *shape)``; those of data hold the privileged streams too.
        previous: the action executed before each frame, int64 ``(B, T)`` or float32 ``(B, T, A)``; what
            :meth:`ContinuousActions.none` gives where there was none.
        previous_valid: bool ``(B, T)``, whether there was one.
        lengths: int64 ``(B,)``, the number of true frames of each window.
        actions: targets, int64 ``(B, T, chunk)`` or float32 ``(B, T, chunk, A)``; None when acting.
        action_valid: bool ``(B, T, chunk)``, False for padding; None when acting.
        goals: camera stream to what it is to see in the end, uint8 ``(B, *shape)``; None where words say what to do.
        spreads: privileged stream to the standard deviation of its channels within each window's task, float32
            ``(B, size)``; None when acting.
        shown: frames of other episodes; None where nothing is shown.
    """

    embodiment: Embodiment
    instructions: Sequence[str]
    observations: dict[str, np.ndarray]
    previous: np.ndarray
    previous_valid: np.ndarray
    lengths: np.ndarray
    actions: np.ndarray | None = None
    action_valid: np.ndarray | None = None
    goals: dict[str, np.ndarray] | None = None
    spreads: dict[str, np.ndarray] | None = None
    shown: Demonstrations | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: np.ndarray) -> Windows:
        """The windows of these rows, cut to the longest of them."""
        longest = int(self.lengths[rows].max())

        def pick(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[rows, :longest]

        return Windows(
            self.embodiment,
            [self.instructions[row] for row in rows],
            {name: array[rows, :longest] for name, array in self.observations.items()},
            self.previous[rows, :longest],
            self.previous_valid[rows, :longest],
            self.lengths[rows],
            pick(self.actions),
            pick(self.action_valid),
            None if self.goals is None else {name: array[rows] for name, array in self.goals.items()},
            None if self.spreads is None else {name: array[rows] for name, array in self.spreads.items()},
            None if self.shown is None else self.shown.take(rows),
        )


def window_starts(offset: np.ndarray, length: np.ndarray, history: int, rng: np.random.Generator) -> np.ndarray:
    """First frames, within their episodes, of windows of at most ``history`` frames around the frames ``offset``."""
    back = rng.integers(0, history, size=len(offset))
    return np.clip(offset - back, 0, np.maximum(length - history, 0))


def spaced(length: np.ndarray, frames: int) -> np.ndarray:
    """Which frames of episodes are shown: int64 ``(..., frames)`` from 0 to the last; those of shorter episodes come
    several times.

    Args:
        length: int64 ``(...)``, of the episodes.
        frames: how many of each.
    """
    return np.round(np.linspace(0, 1, frames) * (np.asarray(length)[..., None] - 1)).astype(np.int64)


def show(episodes: Sequence[Episode], frames: int, silent: bool = False) -> Demonstrations:
    """What one agent is shown.

    Args:
        episodes: of one embodiment, at least one.
        frames: of each, evenly spaced, the last one among them.
        silent: whether it is not told what was done.
    """
    body = episodes[0].embodiment
    picks = [spaced(np.array(len(episode)), frames) for episode in episodes]
    told = [episode.executed[pick] for episode, pick in zip(episodes, picks, strict=True)]
    actions = np.concatenate(told)[None]
    if silent:
        actions = np.broadcast_to(body.actions.none(), actions.shape)
    return Demonstrations(
        {
            stream.name: np.concatenate(
                [episode.observations[stream.name][pick] for episode, pick in zip(episodes, picks, strict=True)]
            )[None]
            for stream in body.arrays
        },
        actions,
        np.tile(np.arange(frames), len(episodes))[None],
        np.ones((1, frames * len(episodes)), bool),
    )


def _shown(dataset: Dataset, chosen: DemonstrationChoice) -> Demonstrations:
    count = len(chosen.episodes)
    spacing = spaced(dataset.episode_length[chosen.episodes], chosen.frames)
    at = (dataset.episode_start[chosen.episodes][..., None] + spacing).reshape(count, -1)
    none = dataset.embodiment.actions.none()
    actions = np.asarray(dataset.executed[at]).astype(none.dtype)
    actions[chosen.silent] = none
    return Demonstrations(
        {stream.name: np.asarray(dataset.observations[stream.name][at]) for stream in dataset.embodiment.arrays},
        actions,
        np.broadcast_to(np.tile(np.arange(chosen.frames), chosen.episodes.shape[1]), at.shape),
        np.broadcast_to(chosen.valid[:, None], at.shape),
    )


def gather(
    dataset: Dataset,
    episodes: np.ndarray,
    starts: np.ndarray,
    horizon: Horizon,
    goals_from: np.random.Generator | None = None,
    chosen: DemonstrationChoice | None = None,
) -> Windows:
    """Reads windows of one data set.

    Args:
        dataset: where from.
        episodes: int64 ``(B,)``, which episode each window is of.
        starts: int64 ``(B,)``, the frame of the episode at which each window begins.
        horizon: how long windows and the chunks of their targets are.
        goals_from: None, or what draws each window's goal: what the cameras saw at a uniformly drawn later step of the
            episode (hindsight, Andrychowicz et al. 2017, arXiv 1707.01495; CrossFormer, arXiv 2408.11812).
        chosen: None, or which other episodes are shown.
    """
    body = dataset.embodiment
    first, total = dataset.episode_start[episodes], dataset.episode_length[episodes]
    lengths = np.minimum(total - starts, horizon.history)
    time = np.arange(int(lengths.max()))
    last = (first + total - 1)[:, None]
    frames = np.minimum((first + starts)[:, None] + time, last)
    future = frames[:, :, None] + np.arange(horizon.chunk)
    valid = (future <= last[:, :, None]) & (time < lengths[:, None])[:, :, None]
    goals = None
    if goals_from is not None:
        reached = first + starts + lengths - 1
        goal = reached + goals_from.integers(0, last[:, 0] - reached + 1)
        cameras = [stream.name for stream in body.streams if stream.modality is Modality.IMAGE]
        goals = {name: np.asarray(dataset.observations[name][goal]) for name in cameras}
    none = body.actions.none()
    previous = np.asarray(dataset.executed[np.maximum(frames - 1, 0)]).astype(none.dtype)
    previous_valid = frames != first[:, None]
    previous[~previous_valid] = none
    return Windows(
        body,
        [dataset.instructions[row] for row in dataset.episode_instruction[episodes]],
        {name: np.asarray(array[frames]) for name, array in dataset.observations.items()},
        previous,
        previous_valid,
        lengths,
        np.asarray(dataset.actions[np.minimum(future, last[:, :, None])]),
        valid,
        goals,
        {name: spread[dataset.episode_task[episodes]] for name, spread in dataset.spreads.items()},
        None if chosen is None else _shown(dataset, chosen),
    )


def concatenate(parts: Sequence[Windows]) -> Windows:
    """Joins batches of the same embodiment, padding to the longest."""
    if len(parts) == 1:
        return parts[0]
    longest = max(part.previous.shape[1] for part in parts)

    def join(arrays: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(
            [np.pad(a, [(0, 0), (0, longest - a.shape[1])] + [(0, 0)] * (a.ndim - 2)) for a in arrays]
        )

    first = parts[0]
    return Windows(
        first.embodiment,
        [text for part in parts for text in part.instructions],
        {name: join([part.observations[name] for part in parts]) for name in first.observations},
        join([part.previous for part in parts]),
        join([part.previous_valid for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        join([part.actions for part in parts if part.actions is not None]),
        join([part.action_valid for part in parts if part.action_valid is not None]),
        _concatenated([part.goals for part in parts]),
        _concatenated([part.spreads for part in parts]),
        _concatenated_shown([part.shown for part in parts]),
    )


def _concatenated(parts: Sequence[dict[str, np.ndarray] | None]) -> dict[str, np.ndarray] | None:
    if parts[0] is None:
        return None
    return {name: np.concatenate([part[name] for part in parts if part is not None]) for name in parts[0]}


def _concatenated_shown(parts: Sequence[Demonstrations | None]) -> Demonstrations | None:
    shown = [part for part in parts if part is not None]
    if not shown:
        return None
    return Demonstrations(
        {name: np.concatenate([part.observations[name] for part in shown]) for name in shown[0].observations},
        np.concatenate([part.actions for part in shown]),
        np.concatenate([part.places for part in shown]),
        np.concatenate([part.valid for part in shown]),
    )

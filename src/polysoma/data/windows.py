"""Windows: what a policy sees of an episode, drawn from data sets.

A window holds up to ``horizon.history`` consecutive frames of one episode. Each frame has a chunk of future actions
as its target; what lies beyond the episode's end is marked as padding, never taken from the next episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polysoma.data.batch import Batch, Demonstrations
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.embodiment import Modality
from polysoma.horizon import Horizon


@dataclass(frozen=True)
class DemonstrationSampler:
    """How windows are shown other episodes of their task.

    Attributes:
        episodes: how many, drawn with replacement.
        frames: of each episode, evenly spaced, the last one among them.
        observation_only: the share of windows that get the frames without the actions.
        rng: draws.
    """

    episodes: int
    frames: int
    observation_only: float
    rng: np.random.Generator


@dataclass(frozen=True)
class DemonstrationChoice:
    """Which episodes of their data set B windows are shown.

    Attributes:
        episodes: int64 ``(B, E)``; rows of windows that are shown none hold any numbers.
        valid: bool ``(B,)``, False for windows that are shown none.
        observation_only: bool ``(B,)``, True for those that get no actions.
        frames: of each episode.
    """

    episodes: np.ndarray
    valid: np.ndarray
    observation_only: np.ndarray
    frames: int

    def take(self, rows: slice) -> DemonstrationChoice:
        """What the windows of these rows are shown."""
        return DemonstrationChoice(self.episodes[rows], self.valid[rows], self.observation_only[rows], self.frames)


def tensor(array: np.ndarray) -> Tensor:
    """An array as a tensor, which shares its memory where that may be written to."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")))


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


def show(episodes: Sequence[Episode], frames: int, observation_only: bool = False) -> Demonstrations:
    """What one agent is shown.

    Args:
        episodes: of one embodiment, at least one.
        frames: of each, evenly spaced, the last one among them.
        observation_only: whether the actions are left out.
    """
    body = episodes[0].embodiment
    picks = [spaced(np.array(len(episode)), frames) for episode in episodes]
    told = [episode.executed[pick] for episode, pick in zip(episodes, picks, strict=True)]
    actions = np.concatenate(told)[None]
    if observation_only:
        actions = np.broadcast_to(body.actions.none(), actions.shape)
    observations = {
        stream.name: tensor(
            np.concatenate([e.observations[stream.name][pick] for e, pick in zip(episodes, picks, strict=True)])[None]
        )
        for stream in body.arrays
    }
    places = torch.arange(frames).repeat(len(episodes))[None]
    return Demonstrations(observations, tensor(actions), places, torch.ones(places.shape, dtype=torch.bool))


def _shown(dataset: Dataset, chosen: DemonstrationChoice) -> Demonstrations:
    count = len(chosen.episodes)
    spacing = spaced(dataset.episode_length[chosen.episodes], chosen.frames)
    at = (dataset.episode_start[chosen.episodes][..., None] + spacing).reshape(count, -1)
    none = dataset.embodiment.actions.none()
    actions = np.asarray(dataset.executed[at]).astype(none.dtype)
    actions[chosen.observation_only] = none
    places = torch.arange(chosen.frames).repeat(chosen.episodes.shape[1])
    return Demonstrations(
        {stream.name: tensor(dataset.observations[stream.name][at]) for stream in dataset.embodiment.arrays},
        tensor(actions),
        places.expand(at.shape),
        tensor(chosen.valid)[:, None].expand(at.shape),
    )


def gather(
    dataset: Dataset,
    episodes: np.ndarray,
    starts: np.ndarray,
    horizon: Horizon,
    goals_from: np.random.Generator | None = None,
    chosen: DemonstrationChoice | None = None,
    lengths: np.ndarray | None = None,
) -> Batch:
    """Reads windows of one data set.

    Args:
        dataset: where from.
        episodes: int64 ``(B,)``, which episode each window is of.
        starts: int64 ``(B,)``, the frame of the episode at which each window begins.
        horizon: how long windows and the chunks of their targets are.
        goals_from: None, or what draws each window's goal: what the cameras saw at a uniformly drawn later step of the
            episode (hindsight, Andrychowicz et al. 2017, arXiv 1707.01495; CrossFormer, arXiv 2408.11812).
        chosen: None, or which other episodes are shown.
        lengths: int64 ``(B,)``, the frames of each window; None for as many as the history and the episode allow.
    """
    body = dataset.embodiment
    first, total = dataset.episode_start[episodes], dataset.episode_length[episodes]
    if lengths is None:
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
        goals = {name: tensor(dataset.observations[name][goal]) for name in cameras}
    none = body.actions.none()
    previous = np.asarray(dataset.executed[np.maximum(frames - 1, 0)]).astype(none.dtype)
    previous_valid = frames != first[:, None]
    previous[~previous_valid] = none
    told = dataset.episode_instruction[episodes]
    task_of = None
    if goals is None and chosen is None:
        told, task_of = np.unique(told, return_inverse=True)
    return Batch(
        body,
        tuple(dataset.instructions[row] for row in told),
        {name: tensor(array[frames]) for name, array in dataset.observations.items()},
        torch.from_numpy(previous),
        torch.from_numpy(previous_valid),
        torch.from_numpy(lengths),
        None if task_of is None else torch.from_numpy(task_of),
        tensor(dataset.actions[np.minimum(future, last[:, :, None])]),
        torch.from_numpy(valid),
        goals,
        {name: tensor(spread[dataset.episode_task[episodes]]) for name, spread in dataset.task_std.items()},
        None if chosen is None else _shown(dataset, chosen),
    )

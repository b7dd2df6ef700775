"""Which inputs a policy depends on: permutation importance (Breiman 2001, "Random Forests", section 10), which is how
much its errors grow when one input comes from another episode."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.embodiment import Embodiment, Modality

WORDS, STATE, PREVIOUS = "words", "state", "previous action"

_RESAMPLES = 2000


@dataclass(frozen=True)
class Importance:
    """Times by which the error of chunks grows when an input is taken from another episode, with a 95 % interval (a
    bootstrap over episodes)."""

    ratio: float
    low: float
    high: float


def swapped(batch: Batch, other: Batch, name: str) -> Batch:
    """Windows with one input of others, whose last frames take the places of theirs.

    Args:
        batch, other: equally many windows.
        name: of the input, as in :attr:`OpenLoop.importance`.
    """
    if name == WORDS:
        return batch.with_texts(other.texts)
    time = torch.arange(batch.previous.shape[1]) + (other.lengths - batch.lengths)[:, None]
    # Where the others are shorter, their first frame stands for those before it.
    at = (torch.arange(len(batch))[:, None], time.clamp(min=0).minimum(other.lengths[:, None] - 1))
    if name == PREVIOUS:
        return dataclasses.replace(batch, previous=other.previous[at], previous_valid=other.previous_valid[at])
    streams = [name] if name != STATE else streams_of(batch.embodiment, Modality.STATE)
    taken = {stream: other.observations[stream][at] for stream in streams}
    return dataclasses.replace(batch, observations={**batch.observations, **taken})


def streams_of(body: Embodiment, *kinds: Modality) -> list[str]:
    return [stream.name for stream in body.streams if stream.modality in kinds]


def inputs_of(source: Source, frames: np.ndarray, episode: np.ndarray) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """What can be taken from elsewhere, with groups of windows, int64 ``(W,)``: an input comes from another group. And
    what cannot, and why."""
    body = source.embodiment
    if len(np.unique(episode)) < 2:
        return {}, ("one episode: there is no other to take pictures, words or states from",)
    inputs = dict.fromkeys(streams_of(body, Modality.IMAGE, Modality.SYMBOL), episode)
    if streams_of(body, Modality.STATE):
        inputs[STATE] = episode
    if source.horizon.previous_action or source.horizon.history > 1:
        inputs[PREVIOUS] = episode
    if not streams_of(body, Modality.TEXT):
        return inputs, ()
    told = [source.datasets[n].instructions[source.datasets[n].episode_instruction[e]] for n, e, _ in frames]
    texts, words = np.unique(told, return_inverse=True)
    if len(texts) < 2:
        return inputs, (f"words do not count: these episodes hold one instruction, {str(texts[0])!r}",)
    return inputs | {WORDS: words.reshape(-1)}, ()


def others(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each window one that is drawn from those of other groups."""
    order, counts = np.argsort(groups, kind="stable"), np.bincount(groups)
    first = np.cumsum(counts) - counts
    drawn = (rng.random(len(groups)) * (len(groups) - counts[groups])).astype(np.int64)
    return order[drawn + np.where(drawn >= first[groups], counts[groups], 0)]


def ratio(grown: np.ndarray, own: np.ndarray, episodes: int) -> Importance:
    """Args: grown, own: the sum of losses of each episode, with an input from elsewhere and without."""
    times = np.random.default_rng(0).multinomial(episodes, np.full(episodes, 1 / episodes), _RESAMPLES)
    tiny = 1e-12  # where nothing is missed at all
    drawn = (times @ grown + tiny) / (times @ own + tiny)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Importance(float((grown.sum() + tiny) / (own.sum() + tiny)), float(low), float(high))

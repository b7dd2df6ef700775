"""Replay: the steps of data sets of one body as flat arrays, for learning from logs, with goals in hindsight.

A step may span several frames (``stride``): at 100 frames a second values of the future fade within a second, and two
states after each other hardly differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polysoma.data.dataset import Dataset
from polysoma.data.transitions import needed_rewards
from polysoma.embodiment import Embodiment, Modality, Observation
from polysoma.errors import PolysomaError


def flat(body: Embodiment, observed: Mapping[str, np.ndarray]) -> np.ndarray:
    """Observations ``(N, *shape)`` by stream, as rows ``(N, n)``: the streams of a body one after the other, float32,
    or uint8 where all are symbols.

    Raises:
        PolysomaError: the body senses pictures, which are too large to be kept so.
    """
    if pictures := [stream.name for stream in body.arrays if stream.modality is Modality.IMAGE]:
        raise PolysomaError(f"{body.name}: expected states and symbols, got pictures {pictures}")
    kind = np.uint8 if all(stream.modality is Modality.SYMBOL for stream in body.arrays) else np.float32
    parts = [np.asarray(observed[s.name], kind).reshape(len(observed[s.name]), -1) for s in body.arrays]
    return np.concatenate(parts, 1)


def rows_of(body: Embodiment, observations: Sequence[Observation]) -> np.ndarray:
    """:func:`flat` of N observations, each of its own episode. Raises as that does."""
    return flat(body, {s.name: np.stack([seen[s.name] for seen in observations]) for s in body.arrays})


@dataclass(frozen=True)
class Steps:
    """B steps, each from a state to the one that follows ``stride`` frames later, or less at the end of an episode.

    Attributes:
        rows: int64 ``(B,)``, of the states among :attr:`Replay.states`.
        next_rows: int64 ``(B,)``, of those that follow.
        actions: what was executed first, float32 ``(B, A)`` or int64 ``(B,)``.
        rewards: float32 ``(B,)``, the discounted sum on the way; 0 where there are none. Not checked before
            :meth:`Replay.need_rewards`.
        discounts: float32 ``(B,)``, what the value of the next state counts; 0 where the task ended.
    """

    rows: np.ndarray
    next_rows: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray


class Replay:
    """The steps of data sets.

    Args:
        datasets: of one body.
        stride: frames of a step.

    Attributes:
        embodiment: the body.
        states: what was observed, :func:`flat`: numbers alone, float32 ``(R, channels)``; or symbols alone, uint8. The
            last observation of an episode, where it is known, is a row of its own.
        starts: rows from which a step can be made, int64.
        observed: those of them from which a step leads to what was observed, int64. The others are last ones of tasks
            that ended, whose last state is unknown: these earn something, and say nothing of where one comes to.
        last: int64 ``(R,)``, the last row of each row's episode.
        rewarded: whether the data have rewards.

    Raises:
        PolysomaError: data of different bodies, with pictures, without a step, or a stride below 1.
    """

    def __init__(self, datasets: Sequence[Dataset], stride: int = 1) -> None:
        if stride < 1:
            raise PolysomaError(f"stride: expected at least one frame, got {stride}")
        if not datasets:
            raise PolysomaError("data: expected at least one data set, got none")
        self.embodiment, self.stride = datasets[0].embodiment, stride
        for dataset in datasets[1:]:
            if dataset.embodiment != self.embodiment:
                raise PolysomaError(
                    f"{dataset.root}: expected the body of {datasets[0].root}; "
                    + "; ".join(dataset.embodiment.differences(self.embodiment))
                )
        self._datasets = tuple(datasets)
        self.rewarded = all(dataset.raw_rewards is not None for dataset in datasets)
        parts = [_rows_of(dataset, self.rewarded) for dataset in datasets]
        before = np.cumsum([0, *(len(part.states) for part in parts)])
        self.states = np.concatenate([part.states for part in parts])
        self.last = np.concatenate([part.last + start for part, start in zip(parts, before, strict=False)])
        self._actions = np.concatenate([part.actions for part in parts])
        self._rewards = np.concatenate([part.rewards for part in parts])
        self._over = np.concatenate([part.over for part in parts])
        self._returns = np.concatenate([part.returns for part in parts])
        self._done = np.concatenate([part.done for part in parts])
        self.starts = np.flatnonzero(self._done & (np.arange(len(self.states)) < self.last))
        if not len(self.starts):
            raise PolysomaError(f"{datasets[0].root}: there are no two states one after the other to learn from")
        seen = np.concatenate([part.seen for part in parts])
        self.observed = self.starts[seen[np.minimum(self.starts + stride, self.last[self.starts])]]

    def __len__(self) -> int:
        return len(self.starts)

    def need_rewards(self, who: str) -> None:
        """For ``who`` learns from rewards, before it does. Raises PolysomaError where data have none, or where one is
        not finite."""
        for dataset in self._datasets:
            needed_rewards(dataset, who)

    def draw(self, count: int, rng: np.random.Generator, discount: float = 0.99) -> Steps:
        """Steps that are drawn evenly.

        Args:
            count: how many.
            rng: draws.
            discount: of a whole step; parts of steps, at the end of an episode, count as a part of it.
        """
        return self.steps(self.choose(count, rng), discount)

    def choose(self, count: int, rng: np.random.Generator, observed: bool = False) -> np.ndarray:
        """Rows of :attr:`starts`, or of :attr:`observed` alone, that are drawn evenly, int64 ``(count,)``. Raises
        PolysomaError where there are none of the latter."""
        rows = self.observed if observed else self.starts
        if not len(rows):
            raise PolysomaError(f"{self.embodiment.name}: no step of these logs leads to a state that was observed")
        chosen: np.ndarray = rows[rng.integers(len(rows), size=count)]
        return chosen

    def pieces(self, rows: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pieces of so many frames, as they followed each other.

        Args:
            rows: where each begins, int64 ``(B,)`` of :attr:`observed`.
            frames: of a piece.

        Returns:
            States ``(B, frames + 1, channels)``, what was executed, ``(B, frames, A)``, and bool ``(B, frames)``, which
            of these frames there are: in shorter episodes the last one stands several times.
        """
        ahead = rows[:, None] + np.arange(frames + 1)
        last = self.last[rows][:, None]
        every = np.minimum(ahead, last)
        return self.states[every], self._actions[every[:, :-1]], ahead[:, :-1] < last

    def known(self) -> np.ndarray:
        """The states that there are, of which statistics are taken: :attr:`states`."""
        return self.states

    def steps(self, rows: np.ndarray, discount: float = 0.99) -> Steps:
        """The steps from these rows, int64 ``(B,)`` of :attr:`starts`."""
        following = np.minimum(rows + self.stride, self.last[rows])
        ahead = rows[:, None] + np.arange(self.stride)
        frame = discount ** (1 / self.stride)
        inside = ahead < following[:, None]
        rewards = (
            self._rewards[np.minimum(ahead, len(self._rewards) - 1)] * inside * frame ** np.arange(self.stride)
        ).sum(1)
        over = self._over[following]
        # A step of fewer frames is discounted less.
        discounts = np.where(over, 0, frame ** (following - rows))
        return Steps(
            rows, following, self._actions[rows], rewards.astype(np.float32), discounts.astype(np.float32)
        )  # fmt: skip

    def future(self, rows: np.ndarray, rng: np.random.Generator, discount: float | None = None) -> np.ndarray:
        """Rows of states that followed, for goals in hindsight (Andrychowicz et al. 2017, arXiv 1707.01495).

        Args:
            rows: int64 ``(B,)``, of :attr:`starts`.
            rng: draws.
            discount: None draws evenly from what followed in the episode; otherwise the number of steps ahead is
                geometric, as the discount weighs them, and cut at the end of the episode.
        """
        left = self.last[rows] - rows
        if discount is None:
            return rows + 1 + (rng.random(len(rows)) * left).astype(np.int64)
        ahead = rng.geometric(1 - discount, len(rows)) * self.stride
        return np.minimum(rows + ahead, self.last[rows])

    def earned(self, rows: np.ndarray, discount: float) -> np.ndarray:
        """What was earned from these rows to the end of the task, float32 ``(B,)``; ``-inf`` where the episode or piece
        was cut before: what would have followed is not known then.

        Args:
            rows: int64 ``(B,)``, of :attr:`starts`.
            discount: of a step.
        """
        ahead = int((self.last[rows] - rows).max())
        frame = discount ** (1 / self.stride)
        # Rewards that count less than a thousandth are left out.
        ahead = min(ahead, int(np.ceil(np.log(1e-3) / np.log(frame))) if frame else 1)
        places = rows[:, None] + np.arange(ahead)
        rewards = self._rewards[np.minimum(places, self.last[rows][:, None])] * (places < self.last[rows][:, None])
        earned = rewards @ (frame ** np.arange(ahead))
        found: np.ndarray = np.where(self._over[self.last[rows]], earned, -np.inf).astype(np.float32)
        return found

    @property
    def ends(self) -> bool:
        """Whether a task ended in any episode."""
        return bool(self._over.any())

    def anywhere(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Rows of any states, int64 ``(count,)``."""
        return rng.integers(len(self.states), size=count)

    def best(self, share: float) -> np.ndarray:
        """Which rows of :attr:`starts` belong to the episodes of the highest return, as many of them as hold about this
        share of all steps: int64. Episodes of one return are all among them or none is, whichever comes nearer to the
        share: where each success earns 1, those of the failures that come first are no better than the rest.

        Raises:
            PolysomaError: as :meth:`need_rewards`, or all episodes have the same return.
        """
        self.need_rewards("the best episodes")
        scores = self._returns[self.starts]
        order = np.argsort(-scores, kind="stable")
        wanted = max(1, round(share * len(order)))
        least = scores[order[wanted - 1]]
        if scores.min() == scores.max():
            raise PolysomaError(f"all episodes have the same return, {least:g}, so none of them are the best")
        better = scores > least
        tied = abs(int((scores >= least).sum()) - wanted) <= wanted - int(better.sum())
        chosen: np.ndarray = self.starts[scores >= least if tied or not better.any() else better]
        return chosen


@dataclass(frozen=True)
class Made:
    """B steps as they were made.

    Attributes:
        states, following: what was observed before and after them, :func:`flat`, ``(B, n)``.
        actions: int64 ``(B,)``, or float32 ``(B, A)`` of bodies whose actions are numbers.
        rewards, discounts: float32 ``(B,)``, as of :class:`Steps`.
    """

    states: np.ndarray
    following: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    discounts: np.ndarray


class Ring:
    """The last steps that were made, to draw from: newer ones replace the oldest.

    Args:
        body: whose actions are choices.
        size: how many it holds.
    """

    def __init__(self, body: Embodiment, size: int) -> None:
        empty = flat(body, {s.name: np.zeros((1, *s.shape), s.dtype) for s in body.arrays})
        rows = [np.zeros((size, empty.shape[1]), empty.dtype) for _ in range(2)]
        self._held = Made(*rows, *(np.zeros(size, kind) for kind in (np.int64, np.float32, np.float32)))
        self._size, self._made = size, 0

    def __len__(self) -> int:
        return min(self._made, self._size)

    def add(self, steps: Made) -> None:
        """Adds steps, at most as many as it holds."""
        places = (self._made + np.arange(len(steps.actions))) % self._size
        for name, values in vars(self._held).items():
            values[places] = getattr(steps, name)
        self._made += len(steps.actions)

    def draw(self, count: int, rng: np.random.Generator) -> Made:
        """Steps that are drawn evenly."""
        rows = rng.integers(len(self), size=count)
        return Made(**{name: values[rows] for name, values in vars(self._held).items()})


@dataclass(frozen=True)
class _Rows:
    """One data set's part of a replay, by row."""

    states: np.ndarray
    last: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    over: np.ndarray
    returns: np.ndarray
    done: np.ndarray
    seen: np.ndarray


def _rows_of(dataset: Dataset, rewarded: bool) -> _Rows:
    body, lengths = dataset.embodiment, dataset.episode_length
    _, known = dataset.next_observations(dataset.episode_start + lengths - 1, [])
    # A task that ended has a value of nothing after it; where its last state is unknown, the one before stands for it.
    extra = known | dataset.episode_terminated
    sizes = lengths + extra
    ends = np.cumsum(sizes)
    begins = ends - sizes
    episode = np.repeat(np.arange(len(lengths)), sizes)
    place = np.arange(int(sizes.sum())) - begins[episode]
    frames = dataset.episode_start[episode] + np.minimum(place, lengths[episode] - 1)
    states = flat(body, {s.name: np.asarray(dataset.observations[s.name][frames]) for s in body.arrays})
    finals = np.flatnonzero(known)
    final_rows = ends[finals] - 1
    last_frames = dataset.episode_start[finals] + lengths[finals] - 1
    after, _ = dataset.next_observations(last_frames, [stream.name for stream in body.arrays])
    if len(finals):
        states[final_rows] = flat(body, after)
    done = place < lengths[episode]
    rewards = np.zeros(len(states), np.float32)
    if rewarded:
        rewards[done] = dataset.raw_rewards
    over = np.zeros(len(states), bool)
    over[ends[dataset.episode_terminated] - 1] = True
    returns = np.add.reduceat(rewards, begins)[episode] if len(begins) else rewards
    actions = np.asarray(dataset.executed[frames], body.actions.dtype)
    return _Rows(states, ends[episode] - 1, actions, rewards, over, returns, done, done | known[episode])

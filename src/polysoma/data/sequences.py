"""Sequences: pieces of episodes of one body, frame after frame, for models that remember."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from polysoma.data.dataset import Dataset
from polysoma.data.transitions import needed_rewards
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class Pieces:
    """B pieces of T steps each.

    Attributes:
        states: float32 ``(B, T + 1, S)``.
        pixels: uint8 ``(B, T + 1, P)``.
        actions: what was executed, ``(B, T)`` choices or ``(B, T, A)``.
        rewards: float32 ``(B, T)``; 0 where there are none. Not checked before :meth:`Rows.need_rewards`.
        over: bool ``(B, T)``, whether the task ended with this step.
        known: bool ``(B, T)``, whether the step was made; after the end of an episode the last observation is repeated.
    """

    states: np.ndarray
    pixels: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    over: np.ndarray
    known: np.ndarray


class Rows:
    """Episodes as rows, one an observation. The last observation of an episode, where it is known or the task ended, is
    a row of its own.

    Attributes:
        embodiment: the body.
        states, pixels: of all rows, float32 ``(R, S)`` and uint8 ``(R, P)``.
        rewarded: whether rewards are known.
    """

    embodiment: Embodiment
    states: np.ndarray
    pixels: np.ndarray
    rewarded: bool
    _actions: np.ndarray
    _rewards: np.ndarray
    _over: np.ndarray
    _left: np.ndarray
    """How many rows of the episode follow."""

    def __len__(self) -> int:
        return len(self.states)

    def need_rewards(self, who: str) -> None:
        """For ``who`` learns from rewards, before it does. Raises PolysomaError where data have none, or where one is
        not finite."""

    def rows(self, steps: int) -> np.ndarray:
        """The rows from which this many steps follow in the episode, int64."""
        return np.flatnonzero(self._left >= steps)

    def following(self, rows: np.ndarray) -> np.ndarray:
        """How many steps follow these rows, int64 ``(B,)``, in their episodes: int64 ``(B,)``."""
        found: np.ndarray = self._left[rows]
        return found

    def paying(self, steps: int) -> np.ndarray:
        """The rows from which one of this many steps earns something other than 0, int64."""
        paid = np.concatenate([[0], np.cumsum((self._rewards != 0) & (self._left > 0))])
        return np.flatnonzero(paid[np.arange(len(self)) + np.minimum(self._left, steps)] > paid[:-1])

    def pieces(self, rows: np.ndarray, steps: int) -> Pieces:
        """The pieces of this many steps from these rows, int64 ``(B,)``, as far as their episodes go."""
        ahead, left = np.arange(steps + 1), self._left[rows][:, None]
        at = rows[:, None] + np.minimum(ahead, left)
        done, known = at[:, :-1], ahead[:-1] < left
        return Pieces(
            self.states[at], self.pixels[at], self._actions[done], self._rewards[done], self._over[done] & known, known
        )


def drawn_rows(
    anywhere: np.ndarray, paying: np.ndarray, count: int, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """So many of the rows ``anywhere``, int64, drawn evenly but for about a ``share`` of them, which are of those that
    pay, if there are any: int64 ``(count,)``; and what they weigh, float32 alike, so that a mean over them is one over
    rows from anywhere."""
    found = anywhere[rng.integers(len(anywhere), size=count)]
    if not len(paying):
        return found, np.ones(count, np.float32)
    chosen = rng.random(count) < share
    found[chosen] = paying[rng.integers(len(paying), size=int(chosen.sum()))]
    more = 1 - share + share * np.isin(found, paying) * len(anywhere) / len(paying)
    return found, (1 / more).astype(np.float32)


_HELD = ("states", "pixels", "actions", "rewards", "over", "left")


class Memory(Rows):
    """What is played, to learn from while it is: newer rows replace the oldest.

    Args:
        body: that plays, of which no picture is kept.
        width: numbers of an observation.
        slots: episodes at a time.
        size: rows.
        longest: steps of a piece: what is longer becomes several, and can be learnt from when one is full.
        kind: of the numbers.
    """

    rewarded = True

    def __init__(
        self, body: Embodiment, width: int, slots: int, size: int, longest: int = 32, kind: DTypeLike = np.float32
    ) -> None:
        self.embodiment, self._longest, self._at, self._size = body, longest, 0, 0
        self._held: tuple[np.ndarray, ...] = (
            np.zeros((size, width), kind), np.zeros((size, 0), np.uint8),
            np.zeros((size, *np.shape(body.actions.none())), body.actions.dtype), np.zeros(size, np.float32),
            np.zeros(size, bool), np.zeros(size, np.int64),
        )  # fmt: skip
        self._open: list[list[tuple[np.ndarray, np.ndarray, float, bool]]] = [[] for _ in range(slots)]
        self._show()

    def add(
        self,
        before: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        over: np.ndarray,
        after: np.ndarray,
        ended: np.ndarray,
    ) -> None:
        """Adds a step of every slot: what was observed before and after it, ``(L, width)``, what was done, earned,
        whether the task ended, and whether the episode did, ``(L, ...)``."""
        for slot, steps in enumerate(self._open):
            steps.append((before[slot], actions[slot], float(rewards[slot]), bool(over[slot])))
            if ended[slot] or len(steps) == self._longest:
                self._close(steps, after[slot])

    def state(self) -> dict[str, np.ndarray]:
        """All that :meth:`load_state` needs, by name."""
        held = {name: one[: self._size] for name, one in zip(_HELD, self._held, strict=True)}
        open_ = [step for steps in self._open for step in steps]
        parts = zip(*open_, strict=True) if open_ else [()] * 4
        kept = {
            f"open_{name}": np.array(part, held[name].dtype)
            for name, part in zip(("states", "actions", "rewards", "over"), parts, strict=True)
        }
        lengths = np.array([len(steps) for steps in self._open])
        return {**held, **kept, "lengths": lengths, "at": np.array(self._at)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes what :meth:`state` returned."""
        self._size, self._at = len(state["left"]), int(state["at"])
        for name, one in zip(_HELD, self._held, strict=True):
            one[: self._size] = state[name]
        kept = zip(
            state["open_states"], state["open_actions"], state["open_rewards"].tolist(), state["open_over"].tolist(),
            strict=True,
        )  # fmt: skip
        self._open = [list(itertools.islice(kept, int(length))) for length in state["lengths"]]
        self._show()

    def _close(self, steps: list[tuple[np.ndarray, np.ndarray, float, bool]], last: np.ndarray) -> None:
        """Writes a piece. What is left of older ones behind it stays whole, as pieces are read forwards."""
        count, capacity = len(steps) + 1, len(self._held[0])
        if self._at + count > capacity:
            self._at = 0
        place = slice(self._at, self._at + count)
        states, _, actions, rewards, over, left = (held[place] for held in self._held)
        # The last row has no step, and repeats one that is never read.
        filled = [*steps, (last, *steps[-1][1:])]
        states[:] = [one[0] for one in filled]
        actions[:] = [one[1] for one in filled]
        rewards[:] = [one[2] for one in filled]
        over[:] = [one[3] for one in filled]
        left[:] = np.arange(count)[::-1]
        self._at += count
        self._size = max(self._size, self._at)
        steps.clear()
        self._show()

    def _show(self) -> None:
        parts = (held[: self._size] for held in self._held)
        self.states, self.pixels, self._actions, self._rewards, self._over, self._left = parts


class Sequences(Rows):
    """The episodes of data sets.

    Args:
        datasets: of one body.
        flat: turns the observations of T frames by stream into float32 ``(T, S)`` and uint8 ``(T, P)``.
        held_out: the part of the episodes, evenly chosen, that :meth:`rows` names only where it is asked for them.

    Raises:
        PolysomaError: no data, or data of different bodies.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        flat: Callable[[dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]],
        held_out: float = 0.0,
    ) -> None:
        if not datasets:
            raise PolysomaError("expected one or more data sets to learn from, got none")
        self.embodiment = datasets[0].embodiment
        for dataset in datasets[1:]:
            if dataset.embodiment != self.embodiment:
                raise PolysomaError(
                    f"{dataset.root}: expected the body of {datasets[0].root}; "
                    + "; ".join(dataset.embodiment.differences(self.embodiment))
                )
        self._datasets = tuple(datasets)
        self.rewarded = all(dataset.raw_rewards is not None for dataset in datasets)
        names = [stream.name for stream in self.embodiment.arrays]
        states, pixels, actions, rewards, over, lengths = [], [], [], [], [], []
        for dataset in datasets:
            ends = dataset.episode_start + dataset.episode_length - 1
            after, known = dataset.next_observations(ends, names)
            for number, (start, end) in enumerate(zip(dataset.episode_start, ends, strict=True)):
                frames = slice(int(start), int(end) + 1)
                seen = {name: np.asarray(dataset.observations[name][frames]) for name in names}
                # What the last step earned, and that the task ended, is learnt with what followed; where that is
                # unknown, the observation before stands for it.
                if known[number] or dataset.episode_terminated[number]:
                    last = {name: after[name][number] if known[number] else seen[name][-1] for name in names}
                    seen = {name: np.concatenate([seen[name], last[name][None]]) for name in names}
                own_states, own_pixels = flat(seen)
                states.append(own_states)
                pixels.append(own_pixels)
                # A step's row is that of the observation before it; the last observation's is never read.
                length = int(dataset.episode_length[number])
                row = np.minimum(np.arange(len(own_states)), length - 1) + start
                actions.append(np.asarray(dataset.executed[row]))
                earned = np.zeros(len(row)) if dataset.raw_rewards is None else dataset.raw_rewards[row]
                rewards.append(np.asarray(earned, np.float32))
                over.append((np.arange(len(row)) == length - 1) & dataset.episode_terminated[number])
                lengths.append(len(own_states))
        self.states, self.pixels = np.concatenate(states), np.concatenate(pixels)
        self._actions, self._rewards = np.concatenate(actions), np.concatenate(rewards)
        self._over = np.concatenate(over)
        self._left = np.concatenate([np.arange(length)[::-1] for length in lengths])
        episode = np.repeat(np.arange(len(lengths)), lengths)
        # Those at which another whole episode is due; a little more, as 10 * 0.3 may be less than 3.
        due = np.floor(held_out * np.arange(len(lengths) + 1) + 1e-9)
        self._apart = (np.diff(due) > 0)[episode]

    def need_rewards(self, who: str) -> None:
        """See :class:`Rows`."""
        for dataset in self._datasets:
            needed_rewards(dataset, who)

    def rows(self, steps: int, held_out: bool = False) -> np.ndarray:
        """See :class:`Rows`; of the episodes held out, or of the others.

        Raises:
            PolysomaError: there are none.
        """
        found = np.flatnonzero((self._left >= steps) & (self._apart == held_out))
        if not len(found):
            count = int(((self._left == 0) & (self._apart == held_out)).sum())
            kept = f"{count} episodes that are {'' if held_out else 'not '}held out"
            raise PolysomaError(
                f"{self._datasets[0].root}: expected episodes of {steps} steps, got none so long among {kept}"
            )
        return found

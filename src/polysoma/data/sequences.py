"""Sequences: pieces of episodes of one body, frame after frame, for models that remember."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from polysoma.data.dataset import Dataset
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class Pieces:
    """B pieces of T steps each.

    Attributes:
        states: float32 ``(B, T + 1, S)``.
        pixels: uint8 ``(B, T + 1, P)``.
        actions: what was executed, ``(B, T)`` choices or ``(B, T, A)``.
        rewards: float32 ``(B, T)``; 0 where there are none.
        over: bool ``(B, T)``, whether the task ended with this step.
    """

    states: np.ndarray
    pixels: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    over: np.ndarray


class Sequences:
    """The episodes of data sets as rows, one an observation. The last observation of an episode, where it is known, is
    a row of its own.

    Args:
        datasets: of one body.
        flat: turns the observations of T frames by stream into float32 ``(T, S)`` and uint8 ``(T, P)``.
        held_out: the part of the episodes, evenly chosen, that :meth:`rows` names only where it is asked for them.

    Attributes:
        embodiment: the body.
        states, pixels: of all rows, ``(R, S)`` and ``(R, P)``.
        rewarded: whether the data have rewards.

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
        self._root = datasets[0].root
        self.rewarded = all(dataset.rewards is not None for dataset in datasets)
        names = [stream.name for stream in self.embodiment.arrays]
        states, pixels, actions, rewards, over, lengths = [], [], [], [], [], []
        for dataset in datasets:
            ends = dataset.episode_start + dataset.episode_length - 1
            after, known = dataset.next_observations(ends, names)
            for number, (start, end) in enumerate(zip(dataset.episode_start, ends, strict=True)):
                frames = slice(int(start), int(end) + 1)
                seen = {name: np.asarray(dataset.observations[name][frames]) for name in names}
                if known[number]:
                    seen = {name: np.concatenate([seen[name], after[name][number][None]]) for name in names}
                own_states, own_pixels = flat(seen)
                states.append(own_states)
                pixels.append(own_pixels)
                # A step's row is that of the observation before it; the last observation's is never read.
                length = int(dataset.episode_length[number])
                row = np.minimum(np.arange(len(own_states)), length - 1) + start
                actions.append(np.asarray(dataset.executed[row]))
                earned = np.zeros(len(row)) if dataset.rewards is None else dataset.rewards[row]
                rewards.append(np.asarray(earned, np.float32))
                over.append((np.arange(len(row)) == length - 1) & dataset.episode_terminated[number])
                lengths.append(len(own_states))
        self.states, self.pixels = np.concatenate(states), np.concatenate(pixels)
        self._actions, self._rewards = np.concatenate(actions), np.concatenate(rewards)
        self._over = np.concatenate(over)
        self._left = np.concatenate([np.arange(length)[::-1] for length in lengths])
        episode = np.repeat(np.arange(len(lengths)), lengths)
        apart = round(1 / held_out) if held_out else 0
        self._apart = episode % apart == apart - 1 if apart else np.zeros(len(episode), bool)

    def __len__(self) -> int:
        return len(self.states)

    def rows(self, steps: int, held_out: bool = False) -> np.ndarray:
        """The rows from which this many steps follow in the episode, int64.

        Raises:
            PolysomaError: there are none.
        """
        found = np.flatnonzero((self._left >= steps) & (self._apart == held_out))
        if not len(found):
            raise PolysomaError(f"{self._root}: expected episodes of {steps} steps, got none that is so long")
        return found

    def pieces(self, rows: np.ndarray, steps: int) -> Pieces:
        """The pieces of this many steps from these rows, int64 ``(B,)``."""
        at = rows[:, None] + np.arange(steps + 1)
        done = at[:, :-1]
        return Pieces(self.states[at], self.pixels[at], self._actions[done], self._rewards[done], self._over[done])

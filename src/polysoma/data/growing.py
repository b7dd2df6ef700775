"""Growing: logs, and what is done while learning goes on, as one replay: offline and online data together."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from polysoma.data.dataset import Dataset
from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError


class Growing(Replay):
    """A replay to which pieces of episodes are added; when its room is used up, new ones replace the oldest.

    Args:
        datasets: logs of one body.
        room: rows for what is added: states, the one after the last step of a piece included.
        stride: frames of a step.
        logs: the share of what is drawn that comes from the logs, once something was added; none from logs without
            rewards, where these are needed. Half and half learns faster than by their numbers (Ball et al. 2023, arXiv
            2302.02948).
        paid: whether rewards are needed; goals in hindsight need none.

    Attributes:
        labelled: whether the logs have rewards.
        added: rows from which steps can be made among those that were added, int64.

    Raises:
        PolysomaError: as :class:`~polysoma.data.replay.Replay`, or no room.
    """

    def __init__(
        self, datasets: Sequence[Dataset], room: int, stride: int = 1, logs: float = 0.5, paid: bool = True
    ) -> None:
        super().__init__(datasets, stride)
        if room < 2:
            raise PolysomaError(f"room: expected at least two rows, got {room}")
        self.labelled = self.rewarded
        self._logs = logs if self.labelled or not paid else 0.0
        self._begin = self._place = len(self.states)
        for name in ("states", "last", "_actions", "_rewards", "_over", "_returns", "_done"):
            held: np.ndarray = getattr(self, name)
            setattr(self, name, np.concatenate([held, np.zeros((room, *held.shape[1:]), held.dtype)]))
        self._pieces: deque[tuple[int, int]] = deque()
        self.added = np.zeros(0, np.int64)
        # What is added has rewards, whether the logs have or not.
        self.rewarded = True

    def need_rewards(self, who: str) -> None:
        """See :class:`~polysoma.data.replay.Replay`; where logs have none, what is added has."""
        if self.labelled:
            super().need_rewards(who)

    def add(self, states: np.ndarray, actions: np.ndarray, rewards: np.ndarray, over: bool) -> None:
        """Adds a piece of an episode.

        Args:
            states: float32 ``(T + 1, channels)``, the last one being what the last action led to.
            actions: what was executed, float32 ``(T, A)``.
            rewards: float32 ``(T,)``.
            over: whether the task ended with the piece, so that nothing follows.

        Raises:
            PolysomaError: a piece that is longer than the room.
        """
        count = len(states)
        if count > len(self.states) - self._begin:
            raise PolysomaError(f"expected a piece of at most {len(self.states) - self._begin} states, got {count}")
        if self._place + count > len(self.states):
            # What lies behind is the oldest, and is not come to before what is newer.
            while self._pieces and self._pieces[0][0] >= self._place:
                self._pieces.popleft()
            self._place = self._begin
        rows = slice(self._place, self._place + count)
        while self._pieces and self._pieces[0][0] < rows.stop and self._pieces[0][1] > rows.start:
            self._pieces.popleft()
        padding = np.zeros((1, *actions.shape[1:]), actions.dtype)
        self.states[rows], self._actions[rows] = states, np.concatenate([actions, padding])
        self._rewards[rows], self._returns[rows] = np.append(rewards, 0), rewards.sum()
        self._over[rows], self._done[rows] = False, True
        self._over[rows.stop - 1], self._done[rows.stop - 1] = over, False
        self.last[rows] = rows.stop - 1
        self._pieces.append((rows.start, rows.stop))
        self._place = rows.stop
        self.added = np.concatenate([np.arange(begin, end - 1) for begin, end in self._pieces])

    def choose(self, count: int, rng: np.random.Generator, observed: bool = False) -> np.ndarray:
        """See :class:`~polysoma.data.replay.Replay`; of logs and of what was added."""
        logs = super().choose(count, rng, observed)
        if not len(self.added):
            return logs
        own = self.added[rng.integers(len(self.added), size=count)]
        return np.where(rng.random(count) < self._logs, logs, own)

    def known(self) -> np.ndarray:
        """See :class:`~polysoma.data.replay.Replay`: the states of the logs."""
        return self.states[: self._begin]

    def anywhere(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """See :class:`~polysoma.data.replay.Replay`; of logs and of what was added."""
        logs = rng.integers(self._begin, size=count)
        if not len(self.added):
            return logs
        return np.where(rng.random(count) < 0.5, logs, self.added[rng.integers(len(self.added), size=count)])

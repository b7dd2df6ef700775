"""Actions that are the state of the same frame, or follow it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polysoma.data import remedies
from polysoma.data.formats.reader import ACTION, OBSERVATION, Problem, Reader

_LEADS = range(-2, 6)


class Leads:
    """By how many frames actions run ahead of states that they command: both have the same channels."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._pair: tuple[str, np.ndarray, np.ndarray] | None = None
        action = reader.columns.get(ACTION)
        for name, column in reader.columns.items():
            if action is None or self._pair or not name.startswith(OBSERVATION) or column.picture:
                continue
            if action.names and column.names:
                shared = [channel for channel in action.names if channel in column.names]
                if 2 * len(shared) > len(action.names):
                    mine = np.array([action.names.index(channel) for channel in shared])
                    theirs = np.array([column.names.index(channel) for channel in shared])
                    self._pair = name, mine, theirs
            elif not action.names and action.shape == column.shape and np.prod(action.shape) > 1:
                self._pair = name, np.arange(action.shape[0]), np.arange(action.shape[0])
        self._missed = dict.fromkeys(_LEADS, 0.0)
        self._moved = 0.0

    def add(self, held: dict[str, np.ndarray]) -> None:
        """Takes an episode by its columns."""
        if self._pair is None or len(held[ACTION]) <= 2 * len(_LEADS):
            return
        name, mine, theirs = self._pair
        actions, states = held[ACTION][:, mine].astype(np.float64), held[name][:, theirs].astype(np.float64)
        if not (np.isfinite(actions).all() and np.isfinite(states).all()):
            return
        inner = slice(-_LEADS.start, len(actions) - _LEADS.stop)
        for lead in _LEADS:
            shifted = states[inner.start + lead : inner.stop + lead]
            self._missed[lead] += float(np.abs(actions[inner] - shifted).sum())
        self._moved += float(np.abs(np.diff(states, axis=0)).sum())

    def problems(self) -> Iterator[Problem]:
        """What was found in all of them."""
        if self._pair is None or self._moved == 0:
            return
        reader = self._reader
        best = min(self._missed, key=lambda lead: self._missed[lead])
        # Actions that are not places (velocities, say) are near no state at all.
        if self._missed[best] > self._moved:
            return
        name = self._pair[0]
        exact = self._missed[best] < 1e-3 * self._moved
        if best == 0 and exact:
            yield Problem(
                "error", ACTION, f"is {name} of the same frame: a policy would learn to stay where it is",
                "record what the robot was told, or take the state of the next frame as the action: "
                + remedies.edited(reader, "--shift-actions 1"),
            )  # fmt: skip
        elif best < 0:
            yield Problem(
                "error", ACTION, f"follows {name} by {-best} frames instead of leading it",
                "the recorder wrote what had been done, not what was to be done: "
                + remedies.edited(reader, f"--shift-actions {1 - best}"),
            )  # fmt: skip
        elif best > 0 and exact:
            yield Problem("note", ACTION, f"is {name} of {best} frames later", "nothing, if it was meant so")

"""Steering: a linear law that leads a body to places near by, and brakes in time.

How a state follows from the one before and an action is fitted to logs, linearly; the law is the best one for that
model (the linear-quadratic regulator, Kalman 1960, "Contributions to the theory of optimal control"). A policy that
clones noisy logs knows the way, and hardly how to stop. Not every body moves linearly: :attr:`Steering.fits` says it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

_EFFORT = 0.02
"""What an action of half the range costs beside being off by ``near``."""
_KEPT = 0.7
"""The part of the steps that the model is fitted to, those that it foresees best: others are impacts."""
_RIDGE = 1e-6
_SWEEPS = 10_000


class Steering(nn.Module):
    """The law of one body.

    Args:
        states: numbers of a state.
        place: which of them say where the body is.
        actions: numbers of an action.

    Attributes:
        gain: how much of an action there is for each number that is off, ``(actions, states)``.
        usual: what numbers are that are no place, on average in the logs, ``(states,)``.
        rest: the action on average.
        fits: how well the model foresees where the body comes to in a piece of a log: 1 less the error in parts of the
            way, both as they are in the middle; at most 1.
    """

    gain: Tensor
    usual: Tensor
    rest: Tensor
    fits: Tensor

    def __init__(self, states: int, place: list[int], actions: int) -> None:
        super().__init__()
        self.place = place
        self.register_buffer("gain", torch.zeros(actions, states))
        self.register_buffer("usual", torch.zeros(states))
        self.register_buffer("rest", torch.zeros(actions))
        self.register_buffer("fits", torch.zeros(()))

    def measure(self, states: np.ndarray, actions: np.ndarray, near: float) -> None:
        """Takes the law from pieces of logs.

        Args:
            states: of N pieces of T steps, ``(N, T + 1, states)``.
            actions: in parts of half the range, ``(N, T, actions)``.
            near: how far places are to which it will lead, in their unit.
        """
        states, actions = states.astype(np.float64), actions.astype(np.float64)
        usual, rest = states[:, 0].mean(0), actions[:, 0].mean(0)
        given = np.concatenate([states[:, 0] - usual, actions[:, 0] - rest, np.ones((len(states), 1))], 1)
        moved = states[:, 1] - states[:, 0]
        size = moved.std(0)
        size[size < 1e-9] = 1.0
        weights = _fitted(given, moved)
        missed = np.linalg.norm((moved - given @ weights) / size, axis=1)
        kept = missed <= np.quantile(missed, _KEPT)
        weights = _fitted(given[kept], moved[kept])
        count = states.shape[2]
        following, pushed = np.eye(count) + weights[:count].T, weights[count:-1].T
        gain = self._law(following, pushed, near)
        at = states[:, 0] - usual
        for step in range(actions.shape[1]):
            at = at @ following.T + (actions[:, step] - rest) @ pushed.T + weights[-1]
        gone = np.linalg.norm((states[:, -1] - states[:, 0])[:, self.place], axis=1)
        off = np.linalg.norm((at + usual - states[:, -1])[:, self.place], axis=1)
        fits = 1 - np.median(off) / max(float(np.median(gone)), 1e-9) if np.isfinite(gain).all() else 0.0
        for name, value in (("gain", gain), ("usual", usual), ("rest", rest), ("fits", np.array(fits))):
            getattr(self, name).copy_(torch.from_numpy(np.asarray(np.nan_to_num(value))))

    def _law(self, following: np.ndarray, pushed: np.ndarray, near: float) -> np.ndarray:
        """The gain of the linear-quadratic regulator, by value iteration."""
        cost = np.zeros_like(following)
        cost[self.place, self.place] = 1
        effort = _EFFORT * near**2 * np.eye(pushed.shape[1])
        value, gain = cost.copy(), np.zeros(pushed.T.shape)
        with np.errstate(all="ignore"):
            for _ in range(_SWEEPS):
                before = gain
                gain = np.linalg.solve(effort + pushed.T @ value @ pushed, pushed.T @ value @ following)
                value = cost + following.T @ value @ (following - pushed @ gain)
                if not np.isfinite(value).all():
                    return np.full_like(gain, np.nan)
                if np.abs(gain - before).max() < 1e-9 * np.abs(gain).max():
                    break
        return gain

    def forward(self, states: Tensor, places: Tensor) -> Tensor:
        """Actions in parts of half the range, ``(B, actions)``, in states ``(B, states)`` to places ``(B, places)``."""
        wanted = self.usual.repeat(len(states), 1)
        wanted[:, self.place] = places
        return (self.rest - (states - wanted) @ self.gain.T).clamp(-1, 1)


def _fitted(given: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Ridge regression, ``(inputs, outputs)``."""
    size = np.sqrt((given * given).mean(0))
    size[size < 1e-12] = 1.0
    scaled = given / size
    square = scaled.T @ scaled + _RIDGE * len(given) * np.eye(given.shape[1])
    found: np.ndarray = np.linalg.solve(square, scaled.T @ moved) / size[:, None]
    return found

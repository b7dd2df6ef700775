"""Dead-end values from logs (Fatemi et al. 2021, arXiv 2110.04186): how likely failure is after an action, whatever is
done later, and how likely success can still be.

Without a discount: -1 at failures and nothing else for Q_D, 1 at successes and nothing else for Q_R. What is done later
is the best that logs show, never an action that nobody tried: a maximum over actions drawn at random finds those that
are judged wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.data.outcomes import Outcomes
from polysoma.errors import PolysomaError
from polysoma.learning.method import Method, Metrics, Share
from polysoma.learning.objectives import expectile_loss
from polysoma.nn.perceptrons import follow, frozen_copy
from polysoma.policy.dead_ends import DeadEnds

_VISITS = 10
"""How often states must be visited on average for values by dynamic programming."""
_SWEEPS = 10_000
_DOUBT = 1.0


@dataclass(frozen=True)
class LearnDeadEnds:
    """Settings.

    Attributes:
        batch: steps of the logs in each step of learning.
        target: the part of the way that target networks go at each step.
        expectile: of the values that logs show in a state, for actions that are numbers; 1 is their maximum.
        failed: the part of a batch that comes from episodes that failed, which are few. In worlds of chance it makes
            risks greater than they are.
    """

    batch: Annotated[int, within(1, 10**6)] = 256
    target: Annotated[float, within(0, 1, above=True)] = 0.05
    expectile: Annotated[float, within(0, 1, above=True, below=True)] = 0.9
    failed: Annotated[float, within(0, 1)] = 0.25
    kind: Literal["dead-ends"] = "dead-ends"

    def __post_init__(self) -> None:
        check(self)

    def build(self, values: DeadEnds, logs: Outcomes, seed: int = 0) -> Method:
        """The method that learns these values from these logs. Raises PolysomaError where the logs show no failure, or
        no success."""
        return _DeadEnds(values, logs, self, seed)


class _Lesson(NamedTuple):
    """What both values are to be in B states ``(B, n)``: ``(B, choices)`` each, and 1 where logs show the choice."""

    states: Tensor
    negative: Tensor
    positive: Tensor
    shown: Tensor


class _DeadEnds(Method):
    """Where logs visit the same states ten times on average, as in grid worlds, the values of choices are computed
    exactly for the chances that the logs show, and the perceptrons learn those numbers. Elsewhere choices are learned
    by Q-learning, with targets within -1 to 0 and 0 to 1. For actions that are numbers, what is done later is worth the
    expectile of what the logs did in a state (IQL, arXiv 2110.06169, equations 5 and 6).

    There are two critics, of which targets take the mean: the smaller one (arXiv 1802.09477), step after step without a
    discount, sees danger everywhere. Who acts believes the one that sees less good."""

    def __init__(self, values: DeadEnds, logs: Outcomes, settings: LearnDeadEnds, seed: int) -> None:
        for sign, name in ((-1, "failure"), (1, "success")):
            if not (logs.end == sign).any():
                raise PolysomaError(f"dead ends of {values.body.name}: expected logs with a {name} at least, got none")
        self._failed = np.flatnonzero(np.isin(logs.episode, logs.episode[logs.end < 0]))
        self._values, self._logs, self._settings, self._seed = values, logs, settings, seed
        values.measure(torch.from_numpy(logs.states), np.random.default_rng(seed))
        self._target = {name: frozen_copy(getattr(values, name)) for name in ("negative", "positive")}
        self.modules = nn.ModuleDict({"policy": values, "target": nn.ModuleDict(self._target)})
        self._table = _tabled(logs, values.body.actions.size) if values.config.choices else None

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng, count = np.random.default_rng([self._seed, step, share.index]), -(-self._settings.batch // share.count)
        if self._values.config.choices:
            loss = self._of_choices(rng, count, share.device)
        else:
            loss = self._of_numbers(self._rows(rng, count), share.device)
        loss.backward()
        return {"loss/values": loss.item(), "windows": float(count)}

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: the target networks follow."""
        for name, module in self._target.items():
            follow(module, getattr(self._values, name), self._settings.target)

    def _rows(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Steps of the logs, those of failures more often."""
        rows = rng.integers(len(self._logs.actions), size=count)
        part = round(self._settings.failed * count)
        rows[:part] = self._failed[rng.integers(len(self._failed), size=part)]
        return rows

    def _of_choices(self, rng: np.random.Generator, count: int, device: torch.device) -> Tensor:
        if self._table is None:
            lesson = self._sampled(self._rows(rng, count), device)
        elif len(self._table.states) <= count:
            lesson = self._table
        else:
            rows = torch.from_numpy(rng.integers(len(self._table.states), size=count))
            lesson = _Lesson(*(part[rows] for part in self._table))
        lesson = _Lesson(*(part.to(device) for part in lesson))
        negative, positive = self._values.heads(lesson.states)
        missed = (negative - lesson.negative).square() + (positive - lesson.positive).square()
        return (missed * lesson.shown).sum() / lesson.shown.sum().clamp(min=1)

    def _sampled(self, rows: np.ndarray, device: torch.device) -> _Lesson:
        """One step of Q-learning, of these rows."""
        logs, values = self._logs, self._values
        choices = values.body.actions.size
        following = values.seen(torch.from_numpy(logs.following[rows]).to(device))
        with torch.no_grad():
            after = [
                self._target[name](following).reshape(2, -1, choices).mean(0).amax(1, keepdim=True)
                for name in ("negative", "positive")
            ]
        negative, positive = _goals(torch.from_numpy(logs.end[rows])[:, None].to(device), *after)
        shown = nn.functional.one_hot(torch.from_numpy(logs.actions[rows]), choices).float()
        return _Lesson(torch.from_numpy(logs.states[rows]), negative, positive, shown)

    def _of_numbers(self, rows: np.ndarray, device: torch.device) -> Tensor:
        """The losses of both values and of what is ahead of states, of these rows."""
        logs, values = self._logs, self._values
        states, actions, following = (
            torch.from_numpy(part[rows]).to(device) for part in (logs.states, logs.actions, logs.following)
        )
        end = torch.from_numpy(logs.end[rows]).to(device)
        seen, after, done = values.seen(states), values.seen(following), values.in_parts(actions)
        ahead = {"negative": values.ahead_negative, "positive": values.ahead_positive}
        with torch.no_grad():
            goals = _goals(end, *(ahead[name](after)[:, 0] for name in ahead))
        loss = torch.zeros((), device=device)
        for (name, value), goal, heads in zip(ahead.items(), goals, values.heads(states, actions), strict=True):
            with torch.no_grad():
                judged = self._target[name](seen, done).mean(0)
            missed = (heads[..., 0] - goal).square().mean(1).sum()
            loss = loss + missed + expectile_loss(judged - value(seen)[:, 0], self._settings.expectile).mean()
        return loss


def _goals(end: Tensor, negative: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """What both values are to be: what the end says where the task ended, and else what is ahead, within bounds."""
    return (
        torch.where(end == 0, negative.clamp(-1, 0), -(end < 0).float()),
        torch.where(end == 0, positive.clamp(0, 1), (end > 0).float()),
    )


def _tabled(logs: Outcomes, choices: int) -> _Lesson | None:
    """The values of all states by dynamic programming; None where they are visited too rarely."""
    every = np.ascontiguousarray(np.concatenate([logs.states, logs.following]) + np.float32(0))
    # Rows as bytes: to sort them as numbers takes ten times as long. 0 was added as -0 has other bytes.
    rows = every.view(np.dtype((np.void, every.dtype.itemsize * every.shape[1]))).ravel()
    _, first, number = np.unique(rows, return_index=True, return_inverse=True)
    states = every[first]
    if len(logs.actions) < _VISITS * len(states):
        return None
    return _Lesson(torch.from_numpy(states), *_solved(logs, number.reshape(2, -1), len(states), choices))


def _solved(logs: Outcomes, number: np.ndarray, states: int, choices: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both values by dynamic programming over the chances that logs show, and 1 where they show the choice, float32
    ``(states, choices)`` each. The best choice is the best that was ever made in a state. A choice is judged as if it
    had been made :data:`_DOUBT` times more and ended badly: of many that were made a few times, one went well by luck.

    Args:
        logs: the steps.
        number: int64 ``(2, N)``, the numbers of the states before and after them.
        states, choices: how many there are.
    """
    pairs = number[0] * choices + logs.actions
    every = np.stack([pairs, number[1], logs.end])
    (pair, after, end), times = np.unique(every, axis=1, return_counts=True)
    total = np.bincount(pair, times, states * choices)
    shown, found = total > 0, []
    trust = (total / (total + _DOUBT)).reshape(states, choices)
    for sign in (-1, 1):
        best, worst = np.zeros(states), min(sign, 0)
        for _ in range(_SWEEPS):
            gained = times * np.where(end == 0, best[after], sign * (end == sign))
            values = (np.bincount(pair, gained, states * choices) / np.maximum(total, 1)).reshape(states, choices)
            doubted = trust * values + (1 - trust) * worst
            chosen = np.where(shown.reshape(states, choices), doubted, -np.inf).argmax(1)
            # Doubt decides what is chosen, and is not added up from step to step.
            before, best = best, values[np.arange(states), chosen]
            if np.abs(best - before).max() < 1e-7:
                break
        found.append(torch.from_numpy(doubted.astype(np.float32)))
    return found[0], found[1], torch.from_numpy(shown.reshape(states, choices).astype(np.float32))

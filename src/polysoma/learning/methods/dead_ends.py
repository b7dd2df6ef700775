"""Dead-end values from logs (Fatemi et al. 2021, arXiv 2110.04186): how likely failure is after an action, whatever is
done later, and how likely success can still be.

Without a discount: -1 at failures and nothing else for Q_D, 1 at successes and nothing else for Q_R. Where actions are
numbers, what is done later is the best that logs show, never an action that nobody tried: a maximum over actions drawn
at random finds those that are judged wrongly.
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
_DOUBT, _SMALLER = 1.0, 0.75


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
    exactly for the chances that the logs show, and the perceptrons learn those numbers. Elsewhere a model learns what
    follows an action, and both values are learned of the states themselves, with targets within -1 to 0 and 0 to 1.
    What is ahead of a state is worth the best of what the model knows to follow the choices; where actions are numbers,
    the expectile of what logs did there (IQL, arXiv 2110.06169, equations 5 and 6). Where the last observation of an
    episode was not recorded, the one before stands for it.

    There are two critics, of which targets take the smaller one by three quarters and the larger one by one (BCQ, arXiv
    1812.02900): the smaller one alone, step after step without a discount, sees danger everywhere, and their mean is
    too bold. Who acts believes the one that sees less good."""

    def __init__(self, values: DeadEnds, logs: Outcomes, settings: LearnDeadEnds, seed: int) -> None:
        name, config = values.body.name, values.config
        for sign, end in ((-1, "failure"), (1, "success")):
            if not (logs.end == sign).any():
                raise PolysomaError(f"dead ends of {name}: expected logs with a {end} at least, got none")
        if not config.octaves and not (config.choices and few_states(logs)):
            raise PolysomaError(
                f"dead ends of {name}: octaves = 0 is for choices in worlds of few states, these are many"
            )
        self._failed = np.flatnonzero(np.isin(logs.episode, logs.episode[logs.end < 0]))
        self._values, self._logs, self._settings, self._seed = values, logs, settings, seed
        states, following = (torch.from_numpy(part) for part in (logs.states, logs.following))
        values.measure(states, following, np.random.default_rng(seed))
        self._target = {name: frozen_copy(getattr(values, name)) for name in ("negative", "positive")}
        self.modules = nn.ModuleDict({"policy": values, "target": nn.ModuleDict(self._target)})
        self._table = None if config.octaves else _tabled(logs, values.body.actions.size)

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng, count = share.rng(self._seed, step), -(-self._settings.batch // share.count)
        if self._table is not None:
            loss = self._of_table(self._table, rng, count, share.device)
        else:
            loss = self._of_states(self._rows(rng, count), share.device)
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

    def _of_table(self, table: _Lesson, rng: np.random.Generator, count: int, device: torch.device) -> Tensor:
        """How far the values of choices are from the table's, in some of its states."""
        if len(table.states) > count:
            rows = torch.from_numpy(rng.integers(len(table.states), size=count))
            table = _Lesson(*(part[rows] for part in table))
        lesson = _Lesson(*(part.to(device) for part in table))
        negative, positive = self._values.heads(lesson.states)
        missed = (negative - lesson.negative).square() + (positive - lesson.positive).square()
        return (missed * lesson.shown).sum() / lesson.shown.sum().clamp(min=1)

    def _of_states(self, rows: np.ndarray, device: torch.device) -> Tensor:
        """The losses of the model and of both values, of these rows."""
        logs, values, choices = self._logs, self._values, self._values.config.choices
        states, actions, following, end = (
            torch.from_numpy(part[rows]).to(device) for part in (logs.states, logs.actions, logs.following, logs.end)
        )
        expected = values.after(states, None if choices else actions)
        if choices:
            expected = expected[torch.arange(len(rows), device=device), actions][:, None]
        loss = ((expected[:, 0] - following) / values.change.clamp(min=1e-6)).square().mean()
        seen = values.waves(following)
        with torch.no_grad():
            ahead = values.waves(values.after(following)) if choices else seen[:, None]
            best = (_cautious(self._target[name](ahead)).amax(1) for name in ("negative", "positive"))
            goals = _goals(end, *best)
        for name, goal in zip(("negative", "positive"), goals, strict=True):
            value = getattr(values, name)
            missed = (value(seen) - goal).square()
            if not choices:
                missed = missed * (end != 0)
                before = goal - value(values.waves(states))
                loss = loss + expectile_loss(before, self._settings.expectile).mean(1).sum()
            loss = loss + missed.mean(1).sum()
        return loss


def _cautious(both: Tensor) -> Tensor:
    """What targets take of two critics ``(2, ...)``."""
    taken: Tensor = _SMALLER * both.amin(0) + (1 - _SMALLER) * both.amax(0)
    return taken


def _goals(end: Tensor, negative: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """What both values are to be: what the end says where the task ended, and else what is ahead, within bounds."""
    return (
        torch.where(end == 0, negative.clamp(-1, 0), -(end < 0).float()),
        torch.where(end == 0, positive.clamp(0, 1), (end > 0).float()),
    )


def few_states(logs: Outcomes) -> bool:
    """Whether logs visit the same states often enough for a table: :data:`_VISITS` times on average."""
    return len(logs.actions) >= _VISITS * len(np.unique(_as_bytes(logs)))


def _tabled(logs: Outcomes, choices: int) -> _Lesson:
    """The values of all states by dynamic programming."""
    _, first, number = np.unique(_as_bytes(logs), return_index=True, return_inverse=True)
    states = np.concatenate([logs.states, logs.following])[first]
    return _Lesson(torch.from_numpy(states), *_solved(logs, number.reshape(2, -1), len(states), choices))


def _as_bytes(logs: Outcomes) -> np.ndarray:
    """The states before and after all steps, a value of bytes for each: to sort rows of numbers takes ten times as
    long."""
    # 0 is added as -0 has other bytes.
    every = np.ascontiguousarray(np.concatenate([logs.states, logs.following]) + np.float32(0))
    return every.view(np.dtype((np.void, every.dtype.itemsize * every.shape[1]))).ravel()


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

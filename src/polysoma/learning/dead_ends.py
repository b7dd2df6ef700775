"""Learning dead ends (:mod:`polysoma.policy.dead_ends`) from logs of successes and failures, and their alarm.

::

    logs = Logs.of([Dataset(Path("data/logs"))])           # failures too: polysoma record --behaviour noisy
    values = fit(body, logs)
    guard = calibrate(values, Logs.of([Dataset(Path("data/fresh"))]), rate=0.05)
    guard.save(Path("guards/body"))
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysoma.config import check, within
from polysoma.data.dataset import Dataset
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.nn.perceptrons import follow, frozen_copy
from polysoma.policy.dead_ends import Alarm, DeadEnds, states_of

_VISITS = 10
"""How often states must be visited on average for values by dynamic programming."""
_SWEEPS = 10_000


@dataclass(frozen=True)
class Logs:
    """N steps.

    Attributes:
        states: float32 ``(N, n)``.
        actions: int64 ``(N,)``, what was executed.
        following: float32 ``(N, n)``, the states after it.
        end: int64 ``(N,)``: 1 where this step ended the task in success, -1 where it ended it in failure, else 0.
        episode: int64 ``(N,)``, which episode it is of.
        success: bool ``(N,)``, whether that episode succeeded.
    """

    states: np.ndarray
    actions: np.ndarray
    following: np.ndarray
    end: np.ndarray
    episode: np.ndarray
    success: np.ndarray

    @staticmethod
    def of(datasets: Sequence[Dataset]) -> Logs:
        """The steps of data sets of one body. Failures are the episodes that the task itself ended without success; an
        episode that was cut says nothing of its end. Last steps of which what followed is unknown are left out.

        Raises:
            PolysomaError: no data set, data of different bodies, or no state.
        """
        if not datasets:
            raise PolysomaError("data: expected at least one data set, got none")
        body, before, parts = datasets[0].embodiment, 0, []
        for dataset in datasets:
            if dataset.embodiment != body:
                raise PolysomaError(f"{dataset.root}: expected the body of {datasets[0].root}")
            names = [stream.name for stream in states_of(body)]
            frames = np.arange(len(dataset))
            episode = dataset.episode_of(frames)
            last = frames == dataset.episode_start[episode] + dataset.episode_length[episode] - 1
            success = dataset.episode_success[episode]
            end = np.where(last & success, 1, np.where(last & dataset.episode_terminated[episode], -1, 0))
            after, known = dataset.next_observations(frames, names)
            use = known | (end != 0)
            rows = (
                _joined([np.asarray(dataset.observations[name]) for name in names]), np.asarray(dataset.executed),
                _joined([after[name] for name in names]), end, episode + before, success,
            )  # fmt: skip
            parts.append([row[use] for row in rows])
            before += len(dataset.episode_start)
        return Logs(*(np.concatenate(rows) for rows in zip(*parts, strict=True)))


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(one, np.float32).reshape(len(one), -1) for one in arrays], 1)


@dataclass(frozen=True)
class DeadEndSettings:
    """How dead-end values are learned.

    Attributes:
        steps: of learning.
        batch: steps of the logs in each of them.
        rate: of Adam, which falls to nothing.
        target: the part of the way that target networks go at each step.
        width, depth: of the perceptrons.
    """

    steps: Annotated[int, within(1, 10**9)] = 3000
    batch: Annotated[int, within(1, 10**6)] = 256
    rate: Annotated[float, within(0, 1, above=True)] = 3e-3
    target: Annotated[float, within(0, 1, above=True)] = 0.05
    width: Annotated[int, within(1, 65_536)] = 64
    depth: Annotated[int, within(1, 64)] = 2

    def __post_init__(self) -> None:
        check(self)


def fit(body: Embodiment, logs: Logs, settings: DeadEndSettings | None = None, seed: int = 0) -> DeadEnds:
    """Learns both values without a discount (arXiv 2110.04186, section 3): -1 at failures and nothing else for Q_D, 1
    at successes and nothing else for Q_R.

    Where logs visit the same states ten times on average, as in grid worlds, the values are computed exactly for the
    chances that the logs show, and the perceptrons learn those numbers. Elsewhere they learn by Q-learning: targets
    are kept within -1 to 0 and 0 to 1, and take the smaller of two target networks (clipped double Q-learning, arXiv
    1802.09477).

    Args:
        body: of the logs.
        logs: with failures and successes, of whoever drove; choices that they never show are judged by those that
            are alike.
        settings: None for the defaults.
        seed: of the first weights and of what is drawn.

    Raises:
        PolysomaError: no failure or no success in the logs, or see :class:`~polysoma.policy.dead_ends.DeadEnds`.
    """
    settings = settings or DeadEndSettings()
    for sign, name in ((-1, "failure"), (1, "success")):
        if not (logs.end == sign).any():
            raise PolysomaError(f"dead ends of {body.name}: expected logs with a {name} at least, got none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        values = DeadEnds(body, settings.width, settings.depth)
    values.measure(torch.from_numpy(logs.states))
    target, rng = frozen_copy(values), np.random.default_rng(seed)
    assert isinstance(target, DeadEnds)
    states, number = np.unique(np.concatenate([logs.states, logs.following]), axis=0, return_inverse=True)
    number = number.reshape(2, -1)
    table = None
    if len(logs.actions) >= _VISITS * len(states):
        table = _Lesson(torch.from_numpy(states), *_solved(logs, number, len(states), body.actions.size))
    optimizer = torch.optim.Adam(values.parameters(), settings.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for _ in range(settings.steps):
        if table is None:
            lesson = _sampled(logs, target, rng.integers(len(logs.actions), size=settings.batch))
        elif len(states) <= settings.batch:
            lesson = table
        else:
            rows = torch.from_numpy(rng.integers(len(states), size=settings.batch))
            lesson = _Lesson(*(part[rows] for part in table))
        negative, positive = values.heads(lesson.states)
        missed = (negative - lesson.negative).square() + (positive - lesson.positive).square()
        optimizer.zero_grad()
        ((missed * lesson.shown).sum() / lesson.shown.sum().clamp(min=1)).backward()
        optimizer.step()
        schedule.step()
        follow(target, values, settings.target)
    return values.requires_grad_(False).eval()


class _Lesson(NamedTuple):
    """What both values are to be in B states ``(B, n)``: ``(B, choices)`` each, and 1 where logs show the choice."""

    states: Tensor
    negative: Tensor
    positive: Tensor
    shown: Tensor


def _sampled(logs: Logs, target: DeadEnds, rows: np.ndarray) -> _Lesson:
    """One step of Q-learning, of these rows."""
    end = torch.from_numpy(logs.end[rows])[:, None]
    with torch.no_grad():
        after = [value.amax(1, keepdim=True) for value in target.values(torch.from_numpy(logs.following[rows]))]
    goals = [torch.where(end == 0, after[0], -(end < 0).float()), torch.where(end == 0, after[1], (end > 0).float())]
    shown = torch.nn.functional.one_hot(torch.from_numpy(logs.actions[rows]), target.body.actions.size).float()
    return _Lesson(torch.from_numpy(logs.states[rows]), goals[0], goals[1], shown)


def _solved(logs: Logs, number: np.ndarray, states: int, choices: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both values by dynamic programming over the chances that logs show, and 1 where they show the choice, float32
    ``(states, choices)`` each. The best choice is the best that was ever made in a state.

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
    for sign in (-1, 1):
        best = np.zeros(states)
        for _ in range(_SWEEPS):
            gained = times * np.where(end == 0, best[after], sign * (end == sign))
            values = (np.bincount(pair, gained, states * choices) / np.maximum(total, 1)).reshape(states, choices)
            known = np.where(shown.reshape(states, choices), values, -np.inf).max(1)
            before, best = best, np.where(np.isfinite(known), known, 0)
            if np.abs(best - before).max() < 1e-7:
                break
        found.append(torch.from_numpy(values.astype(np.float32)))
    return found[0], found[1], torch.from_numpy(shown.reshape(states, choices).astype(np.float32))


def episode_risks(values: DeadEnds, logs: Logs) -> np.ndarray:
    """The highest risk of a choice that each successful episode made, float32 ``(episodes,)``."""
    used = np.flatnonzero(logs.success)
    if not len(used):
        return np.zeros(0, np.float32)
    with torch.no_grad():
        negative, _ = values.values(torch.from_numpy(logs.states[used]))
    risk = -negative.numpy()[np.arange(len(used)), logs.actions[used]]
    _, number = np.unique(logs.episode[used], return_inverse=True)
    worst = np.zeros(number.max() + 1, np.float32)
    np.maximum.at(worst, number, risk)
    return worst


def calibrate(values: DeadEnds, logs: Logs, rate: float) -> DeadEnds:
    """The values with the threshold of an alarm that at most this share of successful episodes raises, on average over
    logs: split conformal prediction (Papadopoulos et al. 2002; Angelopoulos and Bates 2021, arXiv 2107.07511, section
    1). The score of an episode is its highest risk, and the threshold is the ``ceil((n + 1) (1 - rate))``-th smallest
    of n. It holds for successes of the same driver and tasks as those here, without a guard.

    Args:
        values: learned from other episodes.
        logs: the successful episodes among them count.
        rate: between 0 and 1.

    Raises:
        PolysomaError: too few successes for this rate.
    """
    if not 0 < rate < 1:
        raise PolysomaError(f"rate: expected a number between 0 and 1, got {rate}")
    scores = np.sort(episode_risks(values, logs))
    place = math.ceil((len(scores) + 1) * (1 - rate) - 1e-9)
    if place > len(scores):
        raise PolysomaError(
            f"a rate of {rate:g} needs {math.ceil(1 / rate - 1e-9) - 1} successful episodes at least, got {len(scores)}"
        )
    return values.with_alarm(Alarm(float(scores[place - 1]), rate, len(scores)))

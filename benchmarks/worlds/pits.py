"""A point mass among five pits: one body is pushed by numbers, the other one in one of eight directions or not at all.
Who falls into a pit stays there.

Its driver is drawn to the goal and turns away from pits, too late at times. Many episodes are played at once
(:func:`drive`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from polysoma.data.outcomes import Outcomes
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment, Modality, Stream, channels

PITS = np.array([[-0.45, 0.4], [0.0, -0.1], [0.45, 0.45], [0.4, -0.5], [-0.4, -0.55]], np.float32)
WIDE, REACHED, STEP, PUSH, DRAG, MOST = 0.14, 0.12, 0.1, 2.0, 0.8, 120
"""Radius of pits and of the goal, seconds of a step, m/s² of the largest force, 1/s, and steps of an episode."""
_TURN = 8
"""Steps in which a push turns or stops who goes at 1.6 m/s; drivers go at less."""
WAYS = np.array([[0, 0], *[[np.cos(a), np.sin(a)] for a in np.arange(8) * np.pi / 4]], np.float32)

_STATE = (
    *channels("x y", "m", -1, 1), *channels("vx vy", "m/s", -2, 2), *channels("goal_x goal_y", "m", -1, 1)
)  # fmt: skip
_STREAMS = (Stream("state", Modality.STATE, (6,), _STATE), Stream("instruction", Modality.TEXT))
FORCES = Embodiment("pits-forces", _STREAMS, ContinuousActions(channels("force_x force_y", "1", -1.0, 1.0)), 1 / STEP)
_NAMES = ("wait", "e", "ne", "n", "nw", "w", "sw", "s", "se")
CHOICES = Embodiment("pits-choices", _STREAMS, DiscreteActions(_NAMES), 1 / STEP)

Driver = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""States ``(B, 6)`` to forces ``(B, 2)``, or choices ``(B,)``."""


def starts(rng: np.random.Generator, count: int) -> np.ndarray:
    """States at rest, of which the goal is on the other side, both outside of pits: float32 ``(count, 6)``."""
    found = np.zeros((count, 6), np.float32)
    for row in range(count):
        while True:
            place, goal = rng.uniform(-0.95, 0.95, (2, 2))
            apart = np.linalg.norm(np.stack([place, goal])[:, None] - PITS, axis=-1).min()
            if apart > WIDE + 0.12 and np.linalg.norm(place - goal) > 0.9:
                break
        found[row] = [*place, 0, 0, *goal]
    return found


def moved(states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The states ``(B, 6)`` after these actions, and 1 where the goal is reached, -1 in a pit, else 0."""
    force = WAYS[actions] if actions.ndim == 1 else np.clip(actions, -1, 1)
    speed = states[:, 2:4] + STEP * (PUSH * force - DRAG * states[:, 2:4])
    place = states[:, :2] + STEP * speed
    hit = np.abs(place) > 1
    after = np.concatenate([np.clip(place, -1, 1), np.where(hit, 0, speed), states[:, 4:]], 1).astype(np.float32)
    dead = np.linalg.norm(after[:, None, :2] - PITS, axis=-1).min(1) < WIDE
    won = np.linalg.norm(after[:, :2] - after[:, 4:], axis=1) < REACHED
    return after, np.where(dead, -1, np.where(won, 1, 0))


def wanted(states: np.ndarray) -> np.ndarray:
    """What the driver does without noise, float32 ``(B, 2)``: a spring and a damper to the goal, and away from pits
    that are near."""
    place, speed, goal = states[:, :2], states[:, 2:4], states[:, 4:]
    way = goal - place
    force = 2.5 * way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 0.4) - 2 * speed
    for pit in PITS:
        off = place - pit
        far = np.linalg.norm(off, axis=1, keepdims=True)
        side = np.stack([-off[:, 1], off[:, 0]], 1) / far
        around = np.sign((side * way).sum(1, keepdims=True))
        force = force + (1.4 * off / far + 1.6 * around * side) * np.clip(1.9 - 5 * (far - WIDE), 0, 1)
    return np.clip(force, -1, 1).astype(np.float32)


def chances(states: np.ndarray, noise: float) -> np.ndarray:
    """The driver's log-probabilities of choices, float32 ``(B, 9)``: with the chance ``noise`` an even draw."""
    score = np.exp(4 * wanted(states) @ WAYS.T - 2 * (WAYS**2).sum(1))
    found: np.ndarray = np.log((1 - noise) * score / score.sum(1, keepdims=True) + noise / len(WAYS))
    return found.astype(np.float32)


def driver(body: Embodiment, noise: float) -> Driver:
    """The driver of a body, which does something drawn evenly with this chance."""

    def act(states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if body is FORCES:
            random = rng.random((len(states), 1)) < noise
            return np.where(random, rng.uniform(-1, 1, (len(states), 2)), wanted(states)).astype(np.float32)
        drawn: np.ndarray = (chances(states, noise) + rng.gumbel(size=(len(states), len(WAYS)))).argmax(1)
        return drawn

    return act


def drive(rng: np.random.Generator, act: Driver, begin: np.ndarray) -> Outcomes:
    """The steps of episodes from these states, those of an episode in order."""
    now, alive, rows = begin.copy(), np.arange(len(begin)), []
    won = np.zeros(len(begin), bool)
    for _ in range(MOST):
        action = act(now[alive], rng)
        after, end = moved(now[alive], action)
        rows.append((now[alive], action, after, end, alive))
        now[alive] = after
        won[alive] |= end > 0
        alive = alive[end == 0]
        if not len(alive):
            break
    states, actions, following, end, episode = (np.concatenate(part) for part in zip(*rows, strict=True))
    actions = actions if actions.ndim == 1 else actions[:, None]
    return Outcomes(states, actions, following, end, episode, won[episode])


def safe(states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """After which of these actions in states ``(B, 6)`` there is still a way that does not end in a pit, bool
    ``(B, N)``: one of the nine pushes, for so many steps that a ball that is at its fastest can turn.

    Args:
        states: ``(B, 6)``.
        actions: choices ``(B, N)``, or forces ``(B, N, 2)``.
    """
    rows = np.repeat(states, actions.shape[1], 0)
    after, end = moved(rows, actions.reshape(len(rows), *actions.shape[2:]))
    going = np.flatnonzero(end == 0)
    now = np.repeat(after[going], len(WAYS), 0)
    ways, fallen, over = np.tile(WAYS, (len(going), 1)), np.zeros(len(now), bool), np.zeros(len(now), bool)
    for _ in range(_TURN):
        now, came = moved(now, ways)
        fallen |= (came < 0) & ~over
        over |= came != 0
    found: np.ndarray = end >= 0
    found[going] = ~fallen.reshape(-1, len(WAYS)).all(1)
    return found.reshape(actions.shape[:2])


def ends(found: Outcomes, episodes: int) -> dict[str, float]:
    """The shares of episodes that ended in a pit and at the goal."""
    return {"deaths": float((found.end < 0).sum() / episodes), "successes": float((found.end > 0).sum() / episodes)}

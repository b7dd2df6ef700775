"""LifeGate (Fatemi et al. 2021, arXiv 2110.04186, section 5; layout of its code): a grid with a gate of life, a column
of death, and a zone from which nobody returns.

Everywhere a drag replaces a move by one to the right, with a chance of 0.4 in the paper (``lifegate/drag40``). A milder
one is easier to survive (``lifegate/drag10``). ``POLYSOMA_FAMILIES`` names this file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from polysoma.embodiment import DiscreteActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.simulators.environment import Environment, Family

SIDE, START = 10, (2, 9)
WALLS = {*((x, 0) for x in range(5)), *((x, 5) for x in range(1, 5))}
RESCUE = {(5, 0), (6, 0), (7, 0)}
DEATH = {*((9, y) for y in range(SIDE)), (8, 0)}
ZONE = {(x, y) for x in range(5, 9) for y in range(5, 10)}
"""Moves are ignored in it: right with a chance of 0.7, else nowhere."""
FREE = sorted({(x, y) for x in range(SIDE) for y in range(SIDE)} - WALLS - RESCUE - DEATH)
MOVES = {"stay": (0, 0), "up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}
DRAGS = {"lifegate/drag40": 0.4, "lifegate/drag10": 0.1}
CELLS = [(x, y) for y in range(SIDE) for x in range(SIDE)]

EMBODIMENT = Embodiment(
    name="lifegate",
    streams=(
        # One channel a cell, so that neighbours behind a wall are not alike.
        Stream("state", Modality.STATE, (SIDE * SIDE,), channels(" ".join(f"at_{x}_{y}" for x, y in CELLS))),
        Stream("instruction", Modality.TEXT),
    ),
    actions=DiscreteActions(tuple(MOVES)),
    rate_hz=1,
)


def cell(place: tuple[int, int]) -> int:
    """The number of a place."""
    return place[1] * SIDE + place[0]


def model(drag: float) -> np.ndarray:
    """The chance of each next cell, float64 ``(100, 5, 100)``; 0 from cells that are not free."""
    chances = np.zeros((SIDE * SIDE, len(MOVES), SIDE * SIDE))
    for place in FREE:
        for number, name in enumerate(MOVES):
            ways = {"right": 0.7, "stay": 0.3} if place in ZONE else {"right": drag}
            if place not in ZONE:
                ways[name] = ways.get(name, 0) + 1 - drag
            for way, chance in ways.items():
                to = (place[0] + MOVES[way][0], place[1] + MOVES[way][1])
                if to in WALLS or not (0 <= to[0] < SIDE and 0 <= to[1] < SIDE):
                    to = place
                chances[cell(place), number, cell(to)] += chance
    return chances


def exact(drag: float) -> tuple[np.ndarray, np.ndarray]:
    """Q_D and Q_R by dynamic programming, ``(100, 5)`` each; 0 of cells that are not free."""
    chances, found = model(drag), []
    for ends, reward in ((DEATH, -1.0), (RESCUE, 1.0)):
        now = np.zeros(SIDE * SIDE)
        now[[cell(place) for place in ends]] = reward
        fixed = now.copy()
        free = [cell(place) for place in FREE]
        # From the bad end of what is possible for Q_R and the good one for Q_D: the least fixed points.
        for _ in range(2000):
            now = fixed.copy() + np.isin(np.arange(len(now)), free) * (chances @ now).max(1)
        found.append(chances @ now)
    return found[0], found[1]


def drive(
    rng: np.random.Generator, policy: np.ndarray, starts: np.ndarray, drag: float, most: int = 200
) -> dict[str, np.ndarray]:
    """Episodes of a policy ``(100, 5)`` from these cells, all at once: arrays as :class:`Logs` has them, cells instead
    of states."""
    cumulated, choices = model(drag).cumsum(2), policy.cumsum(1)
    dead, saved = ([cell(place) for place in places] for places in (DEATH, RESCUE))
    now, alive, steps = starts.copy(), np.arange(len(starts)), []
    won = np.zeros(len(starts), bool)
    for _ in range(most):
        here = now[alive]
        action = (rng.random(len(here))[:, None] > choices[here]).sum(1).clip(max=len(MOVES) - 1)
        to = (rng.random(len(here))[:, None] > cumulated[here, action]).sum(1).clip(max=SIDE * SIDE - 1)
        end = np.isin(to, saved).astype(np.int64) - np.isin(to, dead)
        steps.append((here, action, to, end, alive))
        now[alive] = to
        won[alive] |= end > 0
        alive = alive[end == 0]
        if not len(alive):
            break
    names = ("states", "actions", "following", "end", "episode")
    arrays = {name: np.concatenate(rows) for name, rows in zip(names, zip(*steps, strict=True), strict=True)}
    return {**arrays, "success": won[arrays["episode"]]}


def seen(cells: np.ndarray) -> np.ndarray:
    """Cells as states, float32 ``(N, 100)``."""
    found: np.ndarray = np.eye(SIDE * SIDE, dtype=np.float32)[cells]
    return found


class LifeGate(Environment):
    """Reach the gate of life; death ends the episode, too."""

    embodiment = EMBODIMENT
    max_steps = 200

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        self._chances, self._values = model(DRAGS[task]), exact(DRAGS[task])[1]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins at the paper's place. See :class:`Environment`."""
        super().reset(seed=seed)
        self._at, self._steps = cell(START), 0
        return self._observe(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One move. See :class:`Environment`."""
        chances = self._chances[self._at, int(self.embodiment.check_action(action))]
        self._at, self._steps = int(self.np_random.choice(len(chances), p=chances)), self._steps + 1
        success, over = CELLS[self._at] in RESCUE, CELLS[self._at] in RESCUE | DEATH
        return self._observe(), float(success), over, not over and self._steps >= self.max_steps, {"success": success}

    def expert_action(self) -> int:
        """The best move, by dynamic programming."""
        return int(self._values[self._at].argmax())

    def _observe(self) -> Observation:
        return {"state": seen(np.array(self._at)), "instruction": "go to the gate of life"}


FAMILY = Family(EMBODIMENT, tuple(DRAGS), (), LifeGate)

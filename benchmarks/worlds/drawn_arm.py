"""A planar arm that is drawn at random, to be a body that no weights have met: it goes to the mark that words name.

``DRAWN_ARM=7`` in the environment draws another one: how many joints, how long its links, how strong and which way each
joint turns. Where its joints, its hand and the two marks are is in its state. ``POLYSOMA_FAMILIES`` names this file.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from polysoma.embodiment import Channel, ContinuousActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Environment, Family

_RNG = np.random.default_rng([int(os.environ.get("DRAWN_ARM", "1")), 20])
LINKS = _RNG.uniform(0.15, 0.35, int(_RNG.integers(3, 6)))
"""Metres."""
GAINS = _RNG.uniform(0.3, 0.8, len(LINKS)) * _RNG.choice([-1, 1], len(LINKS))
"""How much of what is commanded a joint turns in a step, and which way."""
REACH, NEAR, HOLD, FASTEST = LINKS.sum(), 0.04, 5, 0.3
"""Metres, metres from a mark, steps there, and radians a step."""
COLORS = ("red", "blue")

NAMES = [f"joint_{number}.turn" for number in range(len(LINKS))]
EMBODIMENT = Embodiment(
    name="drawn-arm",
    streams=(
        Stream(
            "state",
            Modality.STATE,
            (2 * len(LINKS) + 6,),
            (
                *channels(" ".join(f"joint_{n}.{part}" for n in range(len(LINKS)) for part in ("cos", "sin"))),
                *channels("hand_x hand_y", "m", group="hand"),
                *(channel for color in COLORS for channel in channels(f"{color}_x {color}_y", "m", group=color)),
            ),
        ),
        Stream("instruction", Modality.TEXT),
    ),
    actions=ContinuousActions(tuple(Channel(name, "rad", -FASTEST, FASTEST) for name in NAMES)),
    rate_hz=10,
)


class DrawnArm(Environment):
    """Go to the named mark and stay there for half a second; staying at the other one ends the episode, too."""

    embodiment = EMBODIMENT
    max_steps = 80

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new pair of marks. See :class:`Environment`."""
        super().reset(seed=seed)
        rng = self.np_random
        self._joints = rng.uniform(-0.5, 0.5, len(LINKS)) + np.linspace(1.2, 0.3, len(LINKS))
        while True:
            away, bearing = REACH * rng.uniform(0.4, 0.85, 2), rng.uniform(-np.pi, np.pi, 2)
            self._marks = np.stack([away * np.cos(bearing), away * np.sin(bearing)], 1)
            if np.linalg.norm(self._marks[0] - self._marks[1]) > 4 * NEAR and min(self._distances()) > 2 * NEAR:
                break
        self._named, self._at, self._held, self._steps = int(rng.integers(2)), -1, 0, 0
        return self._observe(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step of 0.1 s. See :class:`Environment`."""
        self._joints = self._joints + GAINS * self.embodiment.check_action(action)
        self._steps += 1
        distances = self._distances()
        at = int(np.argmin(distances)) if min(distances) < NEAR else -1
        self._held = self._held + 1 if at == self._at else 1
        self._at = at
        over = at >= 0 and self._held >= HOLD
        success = over and at == self._named
        return self._observe(), float(success), over, not over and self._steps >= self.max_steps, {"success": success}

    def expert_action(self) -> np.ndarray:
        """Turns towards the named mark by damped least squares (Wampler 1986), float32 ``(joints,)``."""
        places = self._places()
        arms = places[-1] - places[:-1]
        jacobian = np.stack([-arms[:, 1], arms[:, 0]])
        missing = self._marks[self._named] - places[-1]
        missing *= min(1.0, 0.08 / max(float(np.linalg.norm(missing)), 1e-6))
        turn = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + 0.005 * np.eye(2), missing)
        return self.embodiment.check_action((turn / GAINS).astype(np.float32))

    def _places(self) -> np.ndarray:
        """Where the base, the joints and the hand are, ``(links + 1, 2)`` in metres."""
        headings = np.cumsum(self._joints)
        steps = LINKS[:, None] * np.stack([np.cos(headings), np.sin(headings)], 1)
        return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])

    def _distances(self) -> list[float]:
        return [float(distance) for distance in np.linalg.norm(self._marks - self._places()[-1], axis=1)]

    def _observe(self) -> Observation:
        turned = np.stack([np.cos(self._joints), np.sin(self._joints)], 1).ravel()
        state = np.concatenate([turned, self._places()[-1], self._marks.ravel()]).astype(np.float32)
        return {"state": state, "instruction": f"move to the {COLORS[self._named]} mark"}


FAMILY = Family(EMBODIMENT, ("drawn-arm/mark",), (), DrawnArm, horizon=Horizon(chunk=8))

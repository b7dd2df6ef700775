"""A rear-driven car that holds a drift: it circles with its tail out, its front wheels turned against the curve.

One task, ``car/drift``: "drift around the circle". The radius, the road's friction and the start, somewhere near a
drift, are new in every episode. The circle leads to the left; one to the right is the same in a mirror. A single-track
model with the speed of the rear wheels, combined slip and a load that moves to the rear
(:mod:`polysoma.simulators.car_body`) is computed in NumPy, at 50 Hz in two steps of the midpoint method.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from polysoma.embodiment import INSTRUCTION, Observation
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.simulators.car_body import CAR, CONTROL_HZ, EMBODIMENT, STATE, advance, magic
from polysoma.simulators.car_expert import Feedback, feedback
from polysoma.simulators.environment import Environment, Family

TASKS = ("car/drift",)
RADII = (12.0, 20.0)
FRICTIONS = (0.75, 1.05)
MAX_STEPS, SETTLING = 8 * CONTROL_HZ, 2 * CONTROL_HZ
NEAR, SLIDING, SHARE = 0.75, 0.35, 0.8
"""A step counts within this distance of the circle (m), at this side slip (rad) or more; and the share of the steps
after the first two seconds that must count."""
SPUN, LOST, SLOW = 1.3, 6.0, 3.0
"""Side slip (rad), path error (m) and speed (m/s) at which nothing can be saved."""
_FASTEST_WHEEL = 140.0
"""Where the engine's limiter holds the rear wheels, rad/s."""

_TRACK, _LENGTH, _WIDTH = 60, 4.4, 1.8


class CarEnvironment(Environment):
    """``step`` takes a float32 action ``(2,)`` (see ``EMBODIMENT``). The reward is 1 at success, which is known after
    400 steps: the car was near the circle and slid in four fifths of the steps after the first two seconds. An episode
    also ends, without success, when the car spins, almost stands or is far from the circle.

    Args:
        task: one of ``TASKS``.
        friction: of the road; None draws one for each episode.

    Raises:
        PolysomaError: a friction that no road of this car has.
    """

    embodiment = EMBODIMENT
    expert_noise = 0.2
    max_steps = MAX_STEPS
    remembered = ("_state", "_steps", "_good", "_place", "_track", "_expert")

    def __init__(self, task: str = TASKS[0], friction: float | None = None) -> None:
        super().__init__()
        low, high = FRICTIONS
        if friction is not None and not low <= friction <= high:
            raise PolysomaError(f"friction: expected a number from {low} to {high}, got {friction!r}")
        self.task, self.friction = task, friction
        self._state, self._steps, self._good = np.zeros(len(STATE)), 0, 0
        self._place, self._track = 0.0, [np.zeros(2)]
        self._expert: Feedback | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new circle, road and start. See :class:`~polysoma.simulators.environment.Environment`."""
        super().reset(seed=seed)
        draw = self.np_random.uniform
        radius, friction = draw(*RADII), draw(*FRICTIONS)
        self._expert = feedback(1 / radius, friction if self.friction is None else self.friction)
        factors = draw([0.92, 0.7, 0.85, 0.9, 0, 0, 0.6, 0.8, 1, 1], [1.08, 1.2, 1.15, 1.05, 0, 0, 1.2, 1.1, 1, 1])
        self._state = self._expert.state * factors
        self._state[4:6] = draw([-1, -0.1], [1, 0.1])
        self._place = draw(-math.pi, math.pi)
        self._steps = self._good = 0
        self._track = [self._position()]
        return self._observation(), {"success": False}

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step. See :class:`~polysoma.simulators.environment.Environment`."""
        command = self.embodiment.check_action(action).astype(np.float64)
        before = self._state
        self._state = advance(np, magic, before, command)
        self._state[3] = np.clip(self._state[3], 0, _FASTEST_WHEEL)
        self._place += before[8] * before[0] * math.cos(before[5]) / (1 - before[8] * before[4]) / CONTROL_HZ
        self._track = [*self._track[-_TRACK:], self._position()]
        self._steps += 1
        speed, slip, error = self._state[0], self._state[1], self._state[4]
        # On a circle to the left the tail slides to the right: a negative side slip.
        good = self._steps > SETTLING and abs(error) < NEAR and -slip > SLIDING
        self._good += int(good)
        failed = bool(abs(slip) > SPUN or abs(error) > LOST or speed < SLOW)
        over = self._steps >= self.max_steps
        success = over and not failed and self._good >= SHARE * (self.max_steps - SETTLING)
        return self._observation(), float(success), failed or success, over and not failed and not success, {
            "success": success
        }  # fmt: skip

    def expert_action(self) -> np.ndarray:
        """What :class:`~polysoma.simulators.car_expert.Feedback` does in the present state: float32 ``(2,)``."""
        assert self._expert is not None
        return self._expert.action(self._state)

    def _now(self) -> Observation:
        return self._observation()

    def render_frame(self, size: int = 240) -> np.ndarray:
        """The circle from above, the car and the track that it left. See
        :class:`~polysoma.simulators.environment.Environment`."""
        half = RADII[1] + 5
        drawn = 2 * size
        picture = Image.new("RGB", (drawn, drawn), (96, 100, 104))
        pen, metre = ImageDraw.Draw(picture), drawn / (2 * half)

        def pixels(places: np.ndarray) -> list[tuple[float, float]]:
            return [(float(x), float(y)) for x, y in drawn / 2 + metre * places * (1, -1)]

        radius = metre / max(self._state[8], 1e-9)
        ends = [drawn / 2 - radius, drawn / 2 - radius, drawn / 2 + radius, drawn / 2 + radius]
        pen.ellipse(ends, outline=(240, 205, 60), width=max(1, round(0.3 * metre)))
        if len(self._track) > 1:
            pen.line(pixels(np.array(self._track)), fill=(40, 40, 44), width=max(1, round(_WIDTH / 2 * metre)))
        place, heading = self._track[-1], self._course() - self._state[1]
        ahead = np.array([math.cos(heading), math.sin(heading)])
        aside = np.array([-ahead[1], ahead[0]])
        for end, angle in ((CAR.front, heading + self._state[6]), (-CAR.rear, heading)):
            wheel = 0.45 * np.array([math.cos(angle), math.sin(angle)])
            for side in (-0.85, 0.85):
                middle = place + end * ahead + side * aside
                pen.line(pixels(np.array([middle - wheel, middle + wheel])), fill=(15, 15, 15), width=round(metre / 2))
        box = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * (_LENGTH / 2, _WIDTH / 2)
        pen.polygon(pixels(place + box @ np.stack([ahead, aside])), fill=(214, 48, 40))
        roof = box * (0.4, 0.75) - (0.25, 0)
        pen.polygon(pixels(place + roof @ np.stack([ahead, aside])), fill=(60, 70, 82))
        return np.asarray(picture.resize((size, size), Image.Resampling.BOX))

    def _position(self) -> np.ndarray:
        """Metres from the middle of the circle."""
        distance = 1 / max(self._state[8], 1e-9) - self._state[4]
        return distance * np.array([math.cos(self._place), math.sin(self._place)])

    def _course(self) -> float:
        """The direction in which the car moves, rad."""
        return float(self._place + math.pi / 2 + self._state[5])

    def _observation(self) -> Observation:
        return {"state": self._state.astype(np.float32), INSTRUCTION: "drift around the circle"}


FAMILY = Family(EMBODIMENT, TASKS, (), CarEnvironment, horizon=Horizon(chunk=4))

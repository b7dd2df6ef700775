"""The drifting car's expert: linear-quadratic feedback around the drift that the car could hold for ever."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polysoma.errors import PolysomaError
from polysoma.simulators.car_body import DYNAMIC, EMBODIMENT, Forces, advance, derivative, magic

SIDE_SLIP = 0.55
"""The side slip that is asked for, rad."""
_SCALE = np.array([1, 0.1, 5, 0.3])
COST = np.array([0.02, 4.0, 0.2, 1e-4, 1.0, 4.0, 0.0, 0.0])
EFFORT = np.array([2.0, 0.2])
"""What the squares of distances from the steady drift cost at every step: of the state's, and of the actions."""


@dataclass(frozen=True)
class Feedback:
    """A steady drift, and how to hold it.

    Attributes:
        state: float64 ``(10,)``, of the steady drift on the circle.
        gain: float64 ``(2, 8)``.
        value: float64 ``(8, 8)``, what the square of a distance from it costs until the end of time.
    """

    state: np.ndarray
    gain: np.ndarray
    value: np.ndarray

    def action(self, state: np.ndarray) -> np.ndarray:
        """Targets of steering and drive, float32 ``(2,)``, for a state ``(10,)``."""
        wanted = self.state[6:8] - self.gain @ (state - self.state)[:DYNAMIC]
        actions = EMBODIMENT.actions
        return np.clip(wanted, actions.low, actions.high).astype(np.float32)  # type: ignore[union-attr]


def steady_drift(curvature: float, friction: float, forces: Forces = magic) -> np.ndarray:
    """The state ``(10,)`` of a drift that lasts, by Newton's method on speed, steering, wheel speed and
    drive.

    Args:
        curvature: of the circle, 1/m.
        friction: of the road.
        forces: of the tires.

    Raises:
        PolysomaError: none is found with these tires.
    """

    def states(found: np.ndarray) -> np.ndarray:
        speed, steering, wheel, drive = np.moveaxis(found, -1, 0)
        one = np.ones_like(speed)
        parts = [speed, -SIDE_SLIP * one, speed * curvature, wheel, 0 * one, 0 * one, steering, drive]
        return np.stack([*parts, curvature * one, friction * one], -1)

    def rates(found: np.ndarray) -> np.ndarray:
        state = states(found)
        changes: np.ndarray = derivative(np, forces, state, state[..., 6:8])
        return changes[..., :4]

    speed = 0.9 * np.sqrt(friction * 9.81 / curvature)
    found = np.array([speed, -0.3, 1.3 * speed / 0.33, 1.7 * friction])
    for _ in range(50):
        now, steps = rates(found), 1e-5 * _SCALE
        slope = ((rates(found + np.diag(steps)) - now) / steps[:, None]).T
        change = np.clip(np.linalg.lstsq(slope, -now)[0], -_SCALE, _SCALE)
        found = found + change
        if np.abs(change / _SCALE).max() < 1e-9:
            break
    if np.abs(rates(found)).max() < 1e-6 and found[0] > 0:
        return states(found)
    raise PolysomaError(
        f"these tires hold no steady drift on a circle of {1 / curvature:.1f} m at a friction of {friction:.2f}"
    )


def feedback(curvature: float, friction: float, forces: Forces = magic, effort: np.ndarray = EFFORT) -> Feedback:
    """The gains of an endless quadratic cost for the car linearised around its steady drift (discrete-time Riccati
    equation, by doubling: Anderson 1978). Raises PolysomaError, and has the arguments, of :func:`steady_drift`, and
    what commands cost, ``(2,)``."""
    drift = steady_drift(curvature, friction, forces)
    around = np.concatenate([drift, drift[6:8]])
    shifts = 1e-5 * np.eye(len(around))
    moved = np.concatenate([around + shifts, around - shifts])
    after = advance(np, forces, moved[:, :10], moved[:, 10:])[:, :DYNAMIC]
    slope = ((after[: len(around)] - after[len(around) :]) / 2e-5).T
    a, b = slope[:, :DYNAMIC], slope[:, 10:]
    spread, cost = b @ np.diag(1 / effort) @ b.T, np.diag(COST)
    power = a
    for _ in range(30):
        joined = np.eye(DYNAMIC) + spread @ cost
        inner, outer = np.linalg.solve(joined, power), np.linalg.solve(joined, spread)
        before = cost
        spread, cost, power = spread + power @ outer @ power.T, cost + power.T @ cost @ inner, power @ inner
        if np.abs(cost - before).max() < 1e-9 * np.abs(cost).max():
            break
    return Feedback(drift, np.linalg.solve(np.diag(effort) + b.T @ cost @ b, b.T @ cost @ a), cost)

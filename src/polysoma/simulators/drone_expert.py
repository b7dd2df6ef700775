"""The drone's expert: a cascaded controller that reads one observation and the instruction."""

from __future__ import annotations

import math

import numpy as np

from polysoma.simulators.drone_body import GRAVITY, RING_COLOURS, SLICES, SMALL, Frame

_POSITION_GAIN = 1.8
_VELOCITY_GAIN = 3.5
_TILT_GAIN = 8.0
_TOP_SPEED = 2.0
_TOP_ACCELERATION = 5.0
_YAW_GAIN = 1.5
_STANDOFF = 0.8
_ALIGNED = 0.32
_RING_SPEED = 1.2
_AVOID_SPEED = 3.0
_AVOID_RADIUS = 0.7


def expert(state: np.ndarray, instruction: str, frame: Frame = SMALL) -> np.ndarray:
    """A cascaded controller: position error to velocity, velocity error to acceleration, acceleration to tilt.

    Thrust and tilt follow Lee, Leok and McClamroch 2010 ("Geometric tracking control of a quadrotor UAV on SE(3)") and
    Mellinger and Kumar 2011: the wanted force is projected on the body's axis, and the tilt error is the cross product
    of the wanted and the present direction of that axis. The limits on speed and acceleration are smooth, and the yaw
    slowly turns the nose to the goal.

    Args:
        state: the stream ``"state"`` of one observation, shape ``(35,)``.
        instruction: its text; only a ring's colour matters.
        frame: which drone.

    Returns:
        float32 of shape ``(4,)``, within -1..1.
    """
    part = {name: state[where].astype(float) for name, where in SLICES.items()}
    colour = next((c for c in RING_COLOURS if c in instruction.split()), None)
    if colour is None:
        goal = part["target"]
        velocity = _limited(_POSITION_GAIN * goal, _TOP_SPEED)
    else:
        goal = part[f"{colour}_centre"]
        velocity = _ring_velocity(goal, part[f"{colour}_normal"])
        for other in RING_COLOURS:
            if other != colour:
                velocity = velocity + _avoid(part[f"{other}_centre"])
    force = _limited(_VELOCITY_GAIN * (velocity - part["velocity"]), _TOP_ACCELERATION)
    force[2] += GRAVITY
    x, y, z = _to_body(force, part["up"])
    length = math.sqrt(x * x + y * y + z * z)
    yaw_rate = _YAW_GAIN * goal[1] / math.sqrt(goal[0] ** 2 + goal[1] ** 2 + 0.5**2)
    rates = np.array([-_TILT_GAIN * y / length, _TILT_GAIN * x / length, yaw_rate]) / frame.rates
    return np.clip(np.array([z / GRAVITY - 1, *rates]), -1, 1).astype(np.float32)


def _limited(vector: np.ndarray, most: float) -> np.ndarray:
    """The vector made shorter than `most`, smoothly, in its direction."""
    return vector / math.sqrt(1 + float(vector @ vector) / most**2)


def _ring_velocity(centre: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Line up at a distance in front of the ring, then through it; how well it is lined up blends the two."""
    axis = np.array([normal[0], normal[1], 0.0])
    ahead = -float(centre @ axis)
    offset = centre + ahead * axis
    # Nearly 1 within most of the disc: an imitation that is a little off must not wait in front of the ring for ever.
    aligned = 1 / (1 + (float(offset @ offset) / _ALIGNED**2) ** 2)
    # Beside the ring both of its sides are as good: there the standoff shrinks, so that changing sides is no jump.
    standoff = _STANDOFF * math.tanh(ahead / 0.3)
    line_up = _limited(_POSITION_GAIN * (offset + (standoff - ahead) * axis), _TOP_SPEED)
    through = _POSITION_GAIN * offset - _RING_SPEED * axis
    return (1 - aligned) * line_up + aligned * through


def _avoid(centre: np.ndarray) -> np.ndarray:
    """Away from a ring that was not named; the upward part decides between the ways around it."""
    away = -centre
    away[2] += 0.3
    near = math.exp(-float(centre @ centre) / _AVOID_RADIUS**2)
    return _AVOID_SPEED * near * away / math.sqrt(float(away @ away) + 0.01)


def _to_body(vector: np.ndarray, up: np.ndarray) -> tuple[float, float, float]:
    """Turn a vector from the heading frame to the body frame, given the vertical in the body frame."""
    sin_pitch = -min(1.0, max(-1.0, float(up[0])))
    cos_pitch = math.sqrt(1 - sin_pitch * sin_pitch)
    roll = math.atan2(float(up[1]), float(up[2]))
    c, s = math.cos(roll), math.sin(roll)
    x, y, z = (float(value) for value in vector)
    forward, down = cos_pitch * x - sin_pitch * z, sin_pitch * x + cos_pitch * z
    return forward, c * y + s * down, -s * y + c * down

"""Any Gymnasium environment as a body, in one call. See docs/add-a-body.md."""

import numpy as np

from polysoma.simulators.wrapped import wrapped


def expert(observation):
    """Pumps energy while the pole hangs, and holds it when it stands."""
    cosine, sine, speed = observation
    if cosine > 0.9:
        return [-8 * np.arctan2(sine, cosine) - 2 * speed]
    return [2 * np.sign(speed) if 0.5 * speed**2 < 15 * (1 - cosine) else -2 * np.sign(speed)]


def upright(observation, reward, info):
    return observation[0] > 0.99 and abs(observation[2]) < 0.3


FAMILY = wrapped("Pendulum-v1", "pendulum", "hold the pole upright", upright, expert)

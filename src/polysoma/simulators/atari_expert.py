"""Players of Atari's games: rules over the console's memory.

Where things are stands in its 128 bytes (the addresses are those of Anand et al. 2019, arXiv 1906.08226, and of
OCAtari, Delfosse et al. 2023, arXiv 2306.08649), and how they move is seen from the bytes before the last choice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

NOOP, FIRE, UP, RIGHT, LEFT, DOWN, UPRIGHT, UPLEFT, DOWNRIGHT, DOWNLEFT = range(10)

_TURN, _LAG = 5.5, 2
"""How far a knob turns a paddle in a frame, in pixels, and the frames by which the paddle is late."""
_HELD = 4
"""Frames for which a choice is held."""
_AHEAD = 20
"""Choices that are looked ahead on the road."""
_START, _ACROSS, _STRIDE, _LANE = 6, 176, 4, 16
"""Of the road: where a chicken begins and where it is across, how far it gets by a choice, and the width of a lane."""
_CHICKEN = (38, 53)
"""Where a car's place is while it is in the chicken's way."""
_SPEEDS = np.array([0.8, 1.0, 4 / 3, 2.0, 4.0, -4.0, -2.0, -4 / 3, -1.0, -0.8])
"""Of the cars from the lowest lane on, in pixels a choice."""

_CLOSE, _FIST = 22, (7, 13)
"""Of boxers: how far apart in pixels they are when they punch each other, and how far above or below."""
_MOVES = {
    (0, -1): UP,
    (1, 0): RIGHT,
    (-1, 0): LEFT,
    (0, 1): DOWN,
    (1, -1): UPRIGHT,
    (-1, -1): UPLEFT,
    (1, 1): DOWNRIGHT,
    (-1, 1): DOWNLEFT,
}
"""Pixels to the right and down."""


def pong(before: np.ndarray, now: np.ndarray, last: int) -> int:
    """The paddle goes where the ball will come to it, and hits it with its edge, 6 pixels from its middle, as the other
    player misses steep balls. A turn to the right is a move up."""
    x, y = now[49], now[54]
    if y == 0:
        return NOOP
    across, down = x - before[49], y - before[54]
    coming = across > 0 and before[54]
    choices = (188 - x) / across if coming else 10.0
    aim = _bounced(y + down * choices, 48, 204) if coming else y
    return _turned(now[51] - aim, choices, last)


def breakout(before: np.ndarray, now: np.ndarray, last: int) -> int:
    """The paddle goes where the ball will come down."""
    x, y = now[99], now[101]
    if y == 0 or y > 187:
        return FIRE
    across, down = x - before[99], y - before[101]
    coming = down > 0 and before[101]
    choices = (176 - y) / down if coming else 10.0
    aim = _bounced(x + across * choices, 57, 199) if coming else x
    return _turned(aim - now[72] - 9, choices, last)


def _turned(right: float, choices: float, last: int) -> int:
    """The choice that turns the knob as far to the right, or, below 0, to the left, as it has to be in so many choices'
    time, if ``last`` was done before."""
    late = _TURN * _LAG
    right -= late if last == RIGHT else -late if last == LEFT else 0.0
    # What a choice does until then: near the end it is less than all of it, so one waits for smaller turns.
    turned = _TURN * min(max(_HELD * choices - _LAG, 1.0), _HELD)
    return RIGHT if right > turned / 2 else LEFT if right < -turned / 2 else NOOP


def _bounced(place: float, low: float, high: float) -> float:
    """Where a thing is that would be somewhere, were there no walls that it bounces off."""
    there = (place - low) % (2 * (high - low))
    return low + min(there, 2 * (high - low) - there)


def freeway(before: np.ndarray, now: np.ndarray, last: int) -> int:
    """The way between the cars that leads farthest, or across soonest."""
    cars = now[108:118]
    # Where it can be, and the first action of the way there.
    ways: dict[int, int] = {int(now[14]): -1}
    for step in range(_AHEAD):
        blocked = np.zeros(_ACROSS, bool)
        for lane in np.flatnonzero(_over(cars + _SPEEDS * step, _SPEEDS)):
            blocked[13 + _LANE * lane : 30 + _LANE * lane] = True
        following: dict[int, int] = {}
        for place, first in ways.items():
            for action, move in ((UP, _STRIDE), (NOOP, 0), (DOWN, -_STRIDE)):
                there, begun = max(_START, place + move), action if first < 0 else first
                if there >= _ACROSS:
                    return begun
                if not blocked[there]:
                    following.setdefault(there, begun)
        if not following:
            break
        ways = following
    chosen = max(ways.items())[1]
    return UP if chosen < 0 else chosen


def _over(cars: np.ndarray, moves: np.ndarray) -> np.ndarray:
    """Which cars, bool ``(10,)``, are where the chicken crosses, somewhere in a move from where they are."""
    beside = (np.minimum(cars, cars + moves) - _CHICKEN[0]) % 160
    return (beside <= _CHICKEN[1] - _CHICKEN[0]) | (beside >= 160 - np.abs(moves))


def boxing(before: np.ndarray, now: np.ndarray, last: int) -> int:
    """Close to the other boxer, a fist's height above or below him, and a punch; the button is let go in between."""
    right, down = now[33] - now[32], now[35] - now[34]
    side = 0 if abs(right) <= _CLOSE else 1 if right > 0 else -1
    height = 1 if abs(down) > _FIST[1] else -1 if abs(down) < _FIST[0] else 0
    if side == height == 0:
        return NOOP if last == FIRE else FIRE
    return _MOVES[side, height if down > 0 else -height]


PLAYERS: dict[str, Callable[[np.ndarray, np.ndarray, int], int]] = {
    "pong": pong,
    "boxing": boxing,
    "breakout": breakout,
    "freeway": freeway,
}
"""Of each game: its memory before and after the last choice, int ``(128,)``, and what was done in the last frame, to
the index of the action."""

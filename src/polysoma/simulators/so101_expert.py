"""The experts of the SO-101: each decides from the present state alone, so that it can be asked anywhere.

A hand that must come down somewhere does so through a funnel: the farther it is from there, the higher. All that it
commands is a short step from where the arm is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polysoma.simulators.so101_arm import Arm, bearing, from_radians
from polysoma.simulators.so101_model import BIN, CUBE, EDGE

_STEP, _TURN = 0.011, 0.12
"""Metres and radians that the hand is told to move and to turn in a step at most."""
_OPEN, _CLOSED = 36.0, 0.0
"""How open the hand is on its way to a cube, and what closes it."""
_CLEAR = 0.009
"""Metres between the fixed jaw and a cube's side while the hand comes down or leaves."""
_TRAVEL, _PUSH, _DROP = 0.07, 0.017, 0.05
"""Metres of the fingertips above the table: on the way, where a cube is pushed, and where one is dropped into a bin."""
_BACK = 0.021
"""Metres from the fingertips to the back of the fixed jaw."""
_TAPERED = 6.0
"""How steep the funnel is."""


@dataclass(frozen=True)
class Hand:
    """What the hand does at this moment.

    Attributes:
        joints: all six, in radians.
        place: of the fingertips, in metres.
        turn: the direction in which the jaw opens, an angle around z in radians.
        opening: from 0 to 100.
        held: the colour of the cube that both jaws touch, or "".
    """

    joints: np.ndarray
    place: np.ndarray
    turn: float
    opening: float
    held: str


@dataclass(frozen=True)
class Thing:
    """Where a cube or a bin is, in metres, and how a cube is turned around z, in radians."""

    place: np.ndarray
    yaw: float = 0.0

    def side(self, near: float) -> float:
        """The direction to that of its four sides which is nearest to a direction."""
        return near + (self.yaw - near + np.pi / 4) % (np.pi / 2) - np.pi / 4


@dataclass(frozen=True)
class Wish:
    """Where the fingertips should go, in which direction the jaw should open, and how far."""

    place: np.ndarray
    turn: float
    opening: float


def command(arm: Arm, hand: Hand, wish: Wish) -> np.ndarray:
    """A step toward what is wished, in LeRobot's numbers: float32 ``(6,)``."""
    way = wish.place - hand.place
    way *= min(1.0, _STEP / max(float(np.linalg.norm(way)), 1e-9))
    turn = hand.turn + np.clip(_difference(wish.turn, hand.turn), -_TURN, _TURN)
    joints = arm.reach(hand.joints, hand.place + way, turn)
    return np.array([*from_radians(joints), wish.opening], np.float32)


def reach(hand: Hand, cube: Thing) -> Wish:
    """The open hand just above a cube."""
    turn = bearing(cube.place)
    return Wish(_funnel(hand, _above(cube.place, 0.032), turn), turn, _OPEN)


def push(hand: Hand, cube: Thing, side: float) -> Wish:
    """A cube to the left (1) or right (-1): the closed hand comes down beside it, the back of the fixed jaw toward it,
    and goes across the table."""
    x, y, _ = cube.place
    turn = -side * np.pi / 2
    ahead = side * (y - hand.place[1])
    if hand.held:
        # An edge is caught between the jaws.
        return Wish(hand.place, turn, _OPEN)
    if _BACK < ahead < _BACK + 0.05 and abs(hand.place[0] - x) < 0.012 and hand.place[2] < _PUSH + 0.012:
        # Straight ahead: the cube sticks to the jaw, and would be dragged along by a hand that follows it aside.
        return Wish(np.array([hand.place[0], side * EDGE, _PUSH]), turn, _CLOSED)
    return Wish(_funnel(hand, np.array([x, y - side * (_BACK + CUBE + 0.015), _PUSH]), turn), turn, _CLOSED)


def grasp(hand: Hand, cube: Thing) -> Wish:
    """A hand that comes down around a cube and closes."""
    turn = cube.side(bearing(cube.place))
    between, beside = _seen_from(hand, cube.place)
    around = _around(cube, turn, float(cube.place[2]))
    if abs(beside) < 0.009 and -0.004 < between < _CLEAR + 0.006 and hand.place[2] < around[2] + 0.009:
        return Wish(around, turn, _CLOSED)
    return Wish(_funnel(hand, around, turn), turn, _OPEN)


def pick_up(hand: Hand, color: str, cube: Thing) -> Wish:
    """A cube, straight up."""
    if hand.held != color:
        return grasp(hand, cube)
    return Wish(np.array([*hand.place[:2], _TRAVEL]), cube.side(bearing(cube.place)), _CLOSED)


def put_in_bin(hand: Hand, color: str, cube: Thing, container: Thing) -> Wish:
    """A cube into a bin."""
    if hand.held == color:
        goal = np.array([*container.place[:2], _DROP])
        return _carry(hand, cube, goal, bearing(goal), 0.012)
    if np.abs((cube.place - container.place)[:2]).max() < BIN:
        return _leave(hand, cube)
    return grasp(hand, cube)


def stack(hand: Hand, color: str, cube: Thing, lower: Thing) -> Wish:
    """A cube on top of another one."""
    top = _above(lower.place, 2 * CUBE)
    if hand.held == color:
        return _carry(hand, cube, _above(top, 0.002), lower.side(bearing(top)), 0.006)
    if np.linalg.norm(cube.place - top) < 0.013:
        return _leave(hand, cube)
    return grasp(hand, cube)


def _carry(hand: Hand, cube: Thing, goal: np.ndarray, turn: float, near: float) -> Wish:
    """A cube that is held over a place, down to it, and let go within ``near`` metres from there."""
    off = goal - cube.place
    far = float(np.linalg.norm(off[:2]))
    if far < near and abs(off[2]) < 0.006:
        return Wish(hand.place, hand.turn, _OPEN)
    if far > 0.03 and hand.place[2] < _TRAVEL - 0.02:
        return Wish(np.array([*hand.place[:2], _TRAVEL]), hand.turn, _CLOSED)
    height = _funnel(hand, goal, turn, far - 0.5 * near)[2]
    return Wish(hand.place + np.array([*off[:2], height - cube.place[2]]), turn, _CLOSED)


def _leave(hand: Hand, cube: Thing) -> Wish:
    """Off a cube that lies where it should, and up."""
    between, _ = _seen_from(hand, cube.place)
    if hand.opening < _OPEN - 8 or between < 0.6 * _CLEAR:
        return Wish(_around(cube, hand.turn, hand.place[2]), hand.turn, _OPEN)
    return Wish(np.array([*hand.place[:2], _TRAVEL]), hand.turn, _OPEN)


def _around(cube: Thing, turn: float, height: float) -> np.ndarray:
    """Where the fingertips are when the open hand is around a cube, with the fixed jaw near its side."""
    x, y, _ = cube.place
    return np.array([x - _CLEAR * np.cos(turn), y - _CLEAR * np.sin(turn), height])


def _seen_from(hand: Hand, place: np.ndarray) -> tuple[float, float]:
    """How far a place is from the fingertips: toward the moving jaw, and across."""
    x, y, _ = place - hand.place
    cos, sin = np.cos(hand.turn), np.sin(hand.turn)
    return x * cos + y * sin, y * cos - x * sin


def _funnel(hand: Hand, target: np.ndarray, turn: float, far: float | None = None) -> np.ndarray:
    """Above the target, the higher the farther and the more turned away the hand is, and down to it."""
    if far is None:
        far = float(np.linalg.norm(target[:2] - hand.place[:2])) - 0.005
    off = max(far, 0.05 * (abs(_difference(turn, hand.turn)) - 0.1))
    return _above(target, float(np.clip(_TAPERED * off, 0, max(0.0, _TRAVEL - target[2]))))


def _above(place: np.ndarray, height: float) -> np.ndarray:
    return np.array([place[0], place[1], place[2] + height])


def _difference(angle: float, other: float) -> float:
    return (angle - other + np.pi) % (2 * np.pi) - np.pi

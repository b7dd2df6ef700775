"""The experts of the SO-101: each decides from the present state alone, so that it can be asked anywhere.

A hand that must come down somewhere does so through a funnel: the farther it is from there, the higher. All that it
commands is a short step from where the arm is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polysoma.simulators.so101_arm import Arm, bearing, from_radians
from polysoma.simulators.so101_model import BIN, CUBE, EDGE

_STEP = 0.011
"""Metres that the fingertips are told to move in a step at most."""
_OPEN, _CLOSED = 32.0, 0.0
"""How open the hand is on its way to a cube, and what closes it."""
_CLEAR = 0.005
"""Metres between the fixed jaw and a cube's side while the hand comes down."""
_TRAVEL = 0.07
"""Metres of the fingertips above the table on the way."""
_GRASP = 0.015
_RELEASE_IN_BIN = 0.05


@dataclass(frozen=True)
class Hand:
    """What the hand does at this moment.

    Attributes:
        joints: all six, in radians.
        place: of the fingertips, in metres.
        held: the colour of the cube that both jaws touch, or "".
    """

    joints: np.ndarray
    place: np.ndarray
    held: str


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
    joints = arm.reach(hand.joints, hand.place + way, wish.turn)
    return np.array([*from_radians(joints), wish.opening], np.float32)


def reach(hand: Hand, cube: np.ndarray) -> Wish:
    """The fingertips just above a cube."""
    return Wish(_funnel(hand, cube + (0, 0, 0.032)), bearing(cube), 10.0)


def push(hand: Hand, cube: np.ndarray, side: float) -> Wish:
    """A cube to the left (1) or right (-1): the closed hand comes down beside it and goes across the table."""
    ahead = side * (cube[1] - hand.place[1])
    low = 0.016
    beside = np.array([cube[0], cube[1] - side * (CUBE + 0.026), low])
    if 0.014 < ahead < 0.065 and abs(hand.place[0] - cube[0]) < 0.012 and hand.place[2] < low + 0.012:
        return Wish(np.array([cube[0], side * (EDGE + 0.03), low]), 0.0, _CLOSED)
    return Wish(_funnel(hand, beside), 0.0, _CLOSED)


def grasp(hand: Hand, cube: np.ndarray, yaw: float) -> Wish:
    """A hand that comes down around a cube and closes.

    Args:
        hand: now.
        cube: its middle.
        yaw: how it is turned; any of its four sides will do.
    """
    turn = _nearest_quarter(yaw, bearing(cube))
    along = np.array([np.cos(turn), np.sin(turn), 0.0])
    aim = np.array([*cube[:2], _GRASP]) - _CLEAR * along
    off = cube - hand.place
    between, beside = float(off @ along), abs(float(off[0] * along[1] - off[1] * along[0]))
    if beside < 0.006 and -0.003 < between < 0.009 and hand.place[2] < _GRASP + 0.007:
        return Wish(aim, turn, _CLOSED)
    return Wish(_funnel(hand, aim), turn, _OPEN)


def lift(hand: Hand, cube: np.ndarray, yaw: float) -> Wish:
    """Straight up with a cube that is held."""
    return Wish(np.array([*hand.place[:2], _TRAVEL]), _nearest_quarter(yaw, bearing(hand.place)), _CLOSED)


def carry(hand: Hand, cube: np.ndarray, goal: np.ndarray, near: float) -> Wish:
    """A cube that is held over a place, down to it, and there the hand opens.

    Args:
        hand: now.
        cube: its middle.
        goal: where its middle should be.
        near: metres from there within which it is let go.
    """
    off = goal - cube
    far = float(np.linalg.norm(off[:2]))
    turn = bearing(hand.place)
    if far < near and abs(off[2]) < 0.006:
        return Wish(hand.place, turn, _OPEN)
    if far > 0.03 and hand.place[2] < _TRAVEL - 0.02:
        return Wish(np.array([*hand.place[:2], _TRAVEL]), turn, _CLOSED)
    height = np.clip(goal[2] + 6 * (far - 0.6 * near), goal[2], _TRAVEL)
    return Wish(hand.place + np.array([*off[:2], height - cube[2]]), turn, _CLOSED)


def leave(hand: Hand) -> Wish:
    """Up from a cube that lies where it should."""
    return Wish(np.array([*hand.place[:2], _TRAVEL]), bearing(hand.place), _OPEN)


def put_in_bin(hand: Hand, color: str, cube: np.ndarray, yaw: float, place: np.ndarray) -> Wish:
    """A cube into a bin whose middle is at ``place``."""
    if np.abs(cube[:2] - place[:2]).max() < BIN and hand.held != color:
        return leave(hand)
    if hand.held != color:
        return grasp(hand, cube, yaw)
    return carry(hand, cube, np.array([*place[:2], _RELEASE_IN_BIN]), 0.012)


def stack(hand: Hand, color: str, cube: np.ndarray, yaw: float, lower: np.ndarray) -> Wish:
    """A cube on top of another one."""
    top = lower + (0, 0, 2 * CUBE)
    if np.linalg.norm(cube - top) < 0.008 and hand.held != color:
        return leave(hand)
    if hand.held != color:
        return grasp(hand, cube, yaw)
    return carry(hand, cube, top + (0, 0, 0.003), 0.004)


def _funnel(hand: Hand, target: np.ndarray) -> np.ndarray:
    far = float(np.linalg.norm(target[:2] - hand.place[:2]))
    return target + (0, 0, np.clip(6 * (far - 0.006), 0, _TRAVEL - target[2]))


def _nearest_quarter(yaw: float, near: float) -> float:
    return near + (yaw - near + np.pi / 4) % (np.pi / 2) - np.pi / 4

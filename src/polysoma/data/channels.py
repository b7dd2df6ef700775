"""Channels of foreign columns: units, limits and groups, from their names and from how large their numbers are.

Names say which joints turn and which slide, which channels are grippers, and which arm they are of. No format says
units: all of them are guesses, and said to be guesses in a remark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np

from polysoma.data.formats.reader import Column
from polysoma.embodiment import Channel
from polysoma.text import some

_ROOM = 0.05
"""The part of the recorded range that is added on either side to be a limit of an action."""
_TURNS_RAD, _TURNS_DEG = 7, 720
"""How far a joint turns in a demonstration at most."""
_METRES = 50
"""How far a place in metres is from the middle in a demonstration at most; what is farther is hardly metres."""
_PLAIN = 255
"""What numbers without a unit reach, bytes among them; more have a unit that nobody told."""
UNKNOWN = "unknown"
"""The unit of numbers that have one which neither names nor numbers tell."""
_ANGLES = (
    r"roll|pitch|yaw|rot|joint|waist|shoulder|elbow|wrist|forearm|hip|knee|ankle|thigh|calf|pan|flex|lift|qpos|finger"
)
_KINDS = (
    # Orientation comes as unit vectors, which have no unit.
    (r"quat|(^|_)q[0-3wxyz]$|rot6d|sin|cos", "1"),
    (r"grip|claw|open|close", "1"),
    (rf"({_ANGLES}).*(vel|speed)|(vel|speed).*({_ANGLES})|qvel|ang_?vel|gyro|omega", "rad/s"),
    (r"torque|effort", "N m"),
    (r"force", "N"),
    (r"acc", "m/s^2"),
    (r"(vel|speed)|(^|_)v[xyz]$", "m/s"),
    (_ANGLES, "rad"),
    (r"(^|_)[xyz]$|pos|eef|ee_|trans|delta", "m"),
)


def channels_of(
    stream: str, column: Column, span: tuple[np.ndarray, np.ndarray], limited: bool, remarks: list[str]
) -> tuple[Channel, ...]:
    """The channels of a column of numbers.

    Args:
        stream: what the column is called here.
        column: of the reader.
        span: the least and the greatest values, ``(size,)`` each.
        limited: whether limits are concluded from them.
        remarks: what is guessed is added to these.
    """
    size = math.prod(column.shape)
    known = column.names if column.names and len(set(column.names)) == size else None
    names = known or tuple(f"{stream}_{i}" for i in range(size))
    if known is None:
        remarks.append(f"{stream}: its {size} channels have no names in the data")
    units = [_unit(name.lower()) for name in names]
    room = _ROOM * (span[1] - span[0]) if limited else np.zeros(size)
    edges = span[0] - room, span[1] + room
    largest = np.maximum(np.abs(edges[0]), np.abs(edges[1]))
    units = _likely_units(stream, names, units, largest, remarks)
    limits = [(-math.inf, math.inf)] * size
    if limited:
        limits = [
            (_outwards(low, beside, False), _outwards(high, beside, True))
            for low, high, beside in zip(*edges, room, strict=True)
        ]
    return tuple(
        Channel(name, unit, low, high, _group(name.lower()))
        for name, unit, (low, high) in zip(names, units, limits, strict=True)
    )


def guessed_units(channels: Iterable[Channel]) -> list[str]:
    """The remark that units are guesses, with the names that they were guessed from; none where nothing was. Degrees
    and units that are not known have remarks of their own (:func:`channels_of`)."""
    guessed: dict[str, dict[str, None]] = {}
    for channel in channels:
        if channel.unit not in ("1", "deg", UNKNOWN):
            guessed.setdefault(channel.unit, {})[channel.name] = None
    if not guessed:
        return []
    told = "; ".join(f"{unit} for {some(names, 3)}" for unit, names in guessed.items())
    return [f"units are guesses from names: {told}: put the body's own here"]


def _likely_units(
    stream: str, names: tuple[str, ...], units: list[str], largest: np.ndarray, remarks: list[str]
) -> list[str]:
    """The units that names tell, or others that numbers of such a size are likely to have, with a remark then."""
    angles = [reach for unit, reach in zip(units, largest, strict=True) if unit == "rad" and math.isfinite(reach)]
    most = max(angles, default=0.0)
    # Nobody turns a joint by seven radians in a demonstration, nor twice around.
    if most > _TURNS_DEG:
        units = ["1" if unit == "rad" else unit for unit in units]
    elif most > _TURNS_RAD:
        units = ["deg" if unit == "rad" else unit for unit in units]
        remarks.append(
            f"{stream}: that joints are in degrees is a guess from numbers up to {most:g}; percents of their range "
            "look the same: put the unit here"
        )
    places = {name: reach for name, unit, reach in zip(names, units, largest, strict=True) if unit == "m"}
    far = {name: reach for name, reach in places.items() if _METRES < reach < math.inf}
    if far:
        units = [UNKNOWN if unit == "m" else unit for unit in units]
        remarks.append(
            f"{stream}: places up to {max(far.values()):g} ({some(far)}) are pixels or millimetres, say, and hardly "
            "metres: their unit is unknown, put it here"
        )
    plain = {name: reach for name, unit, reach in zip(names, units, largest, strict=True) if unit == "1"}
    large = {name: reach for name, reach in plain.items() if _PLAIN < reach < math.inf}
    if large:
        remarks.append(
            f"{stream}: numbers up to {max(large.values()):g} of unit 1 ({some(large)}) are ticks of servos, "
            "thousandths or pixels, say: put their unit here"
        )
    return units


def _unit(name: str) -> str:
    return next((unit for pattern, unit in _KINDS if re.search(pattern, name)), "1")


def _group(name: str) -> str:
    side = re.search(r"(^|[._])(left|right)([._]|$)", name)
    return f"{side[2]}_arm" if side else ""


def _outwards(value: float, room: float, up: bool) -> float:
    """A limit in four digits, or more where the room beside what was recorded is smaller than the last of these, so
    that people can read and edit it; rounded away from what was recorded."""
    if value == 0:
        return 0.0
    first = math.floor(math.log10(abs(value)))
    last = min(first - 3, math.floor(math.log10(room))) if room > 0 else first - 3
    # Beyond twelve digits there is the noise of float64.
    told, step = Decimal(f"{value:.12g}"), Decimal(1).scaleb(max(last, first - 11))
    return float(told.quantize(step, ROUND_CEILING if up else ROUND_FLOOR))

"""How columns of foreign formats are called here, so that no two have one name."""

from __future__ import annotations

from collections.abc import Container

from polysoma.data.formats.reader import ACTION, OBSERVATION, PICTURE
from polysoma.embodiment import INSTRUCTION

_RESERVED = (ACTION, INSTRUCTION, "offset", "lag")
"""What bodies and statistics call something else than a stream."""


def unused(name: str, taken: Container[str]) -> str:
    """The name, or with the first number behind it that makes it another than those that are taken."""
    number, free = 2, name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def stream_name(column: str, picture: bool, taken: Container[str]) -> str:
    """What the stream of a column is called: ``observation.state`` is ``state``. The body's action, the instruction
    and other streams keep their names: ``observation.action`` is ``observed_action``."""
    name = column.removeprefix(PICTURE).removeprefix(OBSERVATION) or "observation"
    if name in _RESERVED:
        name = f"observed_{name}"
    kind = "image" if picture else "state"
    return name if name not in taken else unused(f"{name}_{kind}", taken)

"""Messages between robots and a server: msgpack with NumPy arrays, as openpi's client and server write them.

An array is a map of four byte keys: ``__ndarray__`` (true), ``data`` (its bytes), ``dtype`` and ``shape``; a NumPy
scalar one of three: ``__npgeneric__``, ``data`` (a number), ``dtype``. Nothing that is read can be code: numbers,
strings, bytes, lists, maps and arrays of numbers. What a message may cost is checked on its bytes, before anything is
made of them (:class:`Budget`).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from polysoma.errors import PolysomaError

_KINDS = "biuf"
"""Booleans, integers and floats: an array of objects would have to be unpickled."""

_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_DTYPE = re.compile(r"[<>=|]?[biuf][1248]|[a-z]{3,7}[0-9]{0,2}|\?")
"""Names of numbers. NumPy reads lists of fields and more in others, which takes as long as somebody likes."""


@dataclass(frozen=True)
class Budget:
    """What one message may cost.

    Attributes:
        bytes: its size.
        nodes: values, keys of maps and elements of lists in it; an array is a map of four, however large.
        depth: of lists and maps in one another.
        seconds: from the arrival of its first part to that of its last.
    """

    bytes: int = 32 * 2**20
    nodes: int = 10_000
    depth: int = 16
    seconds: float = 30.0


FROM_ROBOTS = Budget()
FROM_SERVERS = Budget(bytes=64 * 2**20, nodes=2_000_000)
"""A server's first message describes every channel of every body."""


def pack(message: Any) -> bytes:
    """A message as bytes. Raises PolysomaError when it holds something that is none of the above."""
    try:
        return msgpack.packb(message, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise PolysomaError(f"cannot send this message: {error}") from error


def unpack(data: bytes, budget: Budget = FROM_ROBOTS) -> Any:
    """The inverse of :func:`pack`; arrays are read-only.

    Raises:
        PolysomaError: the bytes are not a message, cost more than the budget, or an array in it is not what it says.
    """
    try:
        _count(data, budget)
        return msgpack.unpackb(data, object_hook=_decode, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, IndexError, msgpack.exceptions.UnpackException) as error:
        detail = f"{type(error).__name__}: {str(error)[:200]}" if str(error) else type(error).__name__
        raise PolysomaError(f"not a message of {len(data)} bytes of msgpack ({detail})") from error


def read_json(text: str | bytes, budget: Budget = FROM_ROBOTS) -> Any:
    """JSON within a budget. Raises PolysomaError when it is none, or costs more."""
    openers, commas = (b"[", b"{", b",", b":"), text.encode() if isinstance(text, str) else text
    _spend(len(commas), sum(commas.count(sign) for sign in openers), 0, budget)
    try:
        return json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise PolysomaError(f"expected JSON, got {text[:40]!r}") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_SKIPPED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8} | {
    0xD4 + power: 1 + 2**power for power in range(5)
}
"""Bytes after the head of numbers and of extensions of fixed size."""
_SIZED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)} | {
    0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)
}  # fmt: skip
"""Bytes of the length of bytes, extensions and strings, and bytes that are not counted in it."""
_HOLDING = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
"""Bytes of the length of lists and maps, and values for each of it."""


def _count(data: bytes, budget: Budget) -> None:
    """Walks over the heads of msgpack values. Raises PolysomaError where they cost more than the budget, IndexError
    where they end early."""
    _spend(len(data), 0, 0, budget)
    at, nodes, left = 0, 1, [1]
    while left:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        head = data[at]
        at += 1
        children = 0
        if 0x80 <= head <= 0x8F:
            children = 2 * (head & 0x0F)
        elif 0x90 <= head <= 0x9F:
            children = head & 0x0F
        elif 0xA0 <= head <= 0xBF:
            at += head & 0x1F
        elif head in _HOLDING:
            size, each = _HOLDING[head]
            children = each * int.from_bytes(data[at : at + size], "big")
            at += size
        elif head in _SIZED:
            size, more = _SIZED[head]
            at += size + more + int.from_bytes(data[at : at + size], "big")
        else:
            at += _SKIPPED.get(head, 0)
        if children:
            nodes += children
            left.append(children)
            _spend(0, nodes, len(left) - 1, budget)


def _spend(size: int, nodes: int, depth: int, budget: Budget) -> None:
    for spent, most, what in ((size, budget.bytes, "bytes"), (nodes, budget.nodes, "values")):
        if spent > most:
            raise PolysomaError(f"a message may have {most:,} {what}, got {spent:,}; send numbers as arrays")
    if depth > budget.depth:
        raise PolysomaError(f"lists and maps of a message may be {budget.depth} deep, these are deeper")


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in _KINDS:
        raise TypeError(f"arrays hold numbers, got dtype {value.dtype}")
    if isinstance(value, np.ndarray):
        return {_ARRAY: True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"messages hold numbers, strings, bytes, lists, maps and arrays, got {type(value).__name__}")


def _decode(value: dict[Any, Any]) -> Any:
    if _ARRAY in value:
        dtype, data, shape = _dtype(value), value.get(b"data"), value.get(b"shape")
        if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"an array of shape {str(shape)[:80]}")
        if not isinstance(data, bytes):
            raise ValueError("an array without data")
        expected = math.prod(shape) * dtype.itemsize
        if len(data) != expected:
            raise ValueError(f"an array of shape {shape} and dtype {dtype} has {expected} bytes, got {len(data)}")
        return (np.frombuffer(data, dtype) if expected else np.zeros(0, dtype)).reshape(shape)
    if _SCALAR in value:
        dtype, data = _dtype(value), value.get(b"data")
        if not isinstance(data, int | float):
            raise ValueError(f"a number of dtype {dtype} that is {type(data).__name__}")
        return dtype.type(data)
    return value


def _dtype(value: dict[Any, Any]) -> np.dtype[Any]:
    name = value.get(b"dtype")
    if not isinstance(name, str):
        raise ValueError("an array without dtype")
    # NumPy reads far more than names of numbers, and not all of that ends in an error that is meant to be seen.
    if not _DTYPE.fullmatch(name):
        raise ValueError(f"arrays hold numbers, got dtype {name[:40]}")
    dtype = np.dtype(name)
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise ValueError(f"arrays hold numbers, got dtype {name}")
    return dtype

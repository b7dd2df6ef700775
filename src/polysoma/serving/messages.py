"""Messages between robots and a server: msgpack with NumPy arrays, as openpi's client and server write them.

An array is a map of four byte keys: ``__ndarray__`` (true), ``data`` (its bytes), ``dtype`` and ``shape``; a NumPy
scalar one of three: ``__npgeneric__``, ``data`` (a number), ``dtype``. Nothing that is read can be code: numbers,
strings, bytes, lists, maps and arrays of numbers.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from polysoma.errors import PolysomaError

_KINDS = "biuf"
"""Booleans, integers and floats: an array of objects would have to be unpickled."""

_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"


def pack(message: Any) -> bytes:
    """A message as bytes. Raises PolysomaError when it holds something that is none of the above."""
    try:
        return msgpack.packb(message, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise PolysomaError(f"cannot send this message: {error}") from error


def unpack(data: bytes) -> Any:
    """The inverse of :func:`pack`; arrays are read-only.

    Raises:
        PolysomaError: the bytes are not a message, or an array in it is not what it says.
    """
    try:
        return msgpack.unpackb(data, object_hook=_decode, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException, RecursionError) as error:
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise PolysomaError(f"not a message of {len(data)} bytes of msgpack ({detail})") from error


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
            raise ValueError(f"an array of shape {shape}")
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
    dtype = np.dtype(name)
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise ValueError(f"arrays hold numbers, got dtype {name}")
    return dtype

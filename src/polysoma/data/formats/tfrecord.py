"""TFRecord files and the ``tf.train.Example`` messages in them, read without TensorFlow and without protobuf."""

from __future__ import annotations

import io
import struct
from collections.abc import Collection, Iterator
from typing import BinaryIO

import numpy as np

from polysoma.data.door import needs

_VARINT, _BLOCK, _FOUR = 0, 2, 5
"""Wire types of protobuf that occur: how a field lies in the file."""
_BYTES, _FLOATS, _INTEGERS = 1, 2, 3
"""The lists of a ``tf.train.Feature``, by the numbers of their fields."""


def checksum(data: bytes) -> bytes:
    """The masked CRC-32C as TFRecord files hold it."""
    try:
        from google_crc32c import value
    except ImportError as error:
        raise needs("google-crc32c") from error
    crc = value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record_size(file: BinaryIO, begin: int, end: int) -> int:
    """Bytes of data of the record at ``begin``. Raises ValueError when its length is damaged or leads too far."""
    file.seek(begin)
    head = file.read(12)
    if len(head) < 12 or checksum(head[:8]) != head[8:]:
        raise ValueError(f"the length of the record at byte {begin} is damaged")
    size = int.from_bytes(head[:8], "little")
    if size + 16 > end - begin:
        raise ValueError(f"the record at byte {begin} needs {size + 16} bytes, the file has {end - begin} left")
    return size


def _varint(stream: BinaryIO) -> int:
    value = 0
    for place in range(10):
        byte = stream.read(1)
        if not byte:
            break
        value |= (byte[0] & 127) << 7 * place
        if byte[0] < 128:
            return value
    raise ValueError("a number in the record is cut or too long")


def _fields(stream: BinaryIO, end: int, numbers: int, lone: int = _BLOCK) -> Iterator[tuple[int, int]]:
    """The fields of a message that ends at ``end``, 1 to ``numbers``, as blocks or of the wire type ``lone``: number
    and end of the content, at whose beginning the stream is. Raises ValueError over any other field."""
    while (place := stream.tell()) < end:
        number, wire = divmod(_varint(stream), 8)
        size = _varint(stream) if wire == _BLOCK else 4
        begin = stream.tell()
        if wire == _VARINT:
            _varint(stream)
            size = stream.tell() - begin
            stream.seek(begin)
        if not 1 <= number <= numbers or wire not in (_BLOCK, lone) or begin + size > end:
            raise ValueError(f"the record is no tf.train.Example at byte {place}, or a list in it is damaged")
        yield number, begin + size
        stream.seek(begin + size)


def features_of(stream: BinaryIO, begin: int, end: int, wanted: Collection[str]) -> dict[str, bytes | None]:
    """All keys of the ``tf.train.Example`` there; the ``tf.train.Feature`` of those that are wanted, None of others."""
    found: dict[str, bytes | None] = {}
    stream.seek(begin)
    # Features, the map in them, and its entries: each a message in the other.
    for _, features in _fields(stream, end, 1):
        for _, entry in _fields(stream, features, 1):
            key, place, size = "", entry, 0
            for number, stop in _fields(stream, entry, 2):
                if number == 1:
                    key = stream.read(stop - stream.tell()).decode()
                else:
                    place, size = stream.tell(), stop - stream.tell()
            stream.seek(place)
            found[key] = stream.read(size) if key in wanted else None
    return found


def values_of(feature: bytes) -> np.ndarray | list[memoryview]:
    """The values of a ``tf.train.Feature``: float32 or int64 ``(n,)``, or pieces of it; an empty list if none."""
    whole, stream = memoryview(feature), io.BytesIO(feature)
    pieces, numbers, kinds = [], bytearray(), set()
    for kind, stop in _fields(stream, len(feature), _INTEGERS):
        kinds.add(kind)
        for _, last in _fields(stream, stop, 1, {_FLOATS: _FOUR, _INTEGERS: _VARINT}.get(kind, _BLOCK)):
            piece = whole[stream.tell() : last]
            if kind == _BYTES:
                pieces.append(piece)
            elif (kind == _FLOATS and len(piece) % 4) or (kind == _INTEGERS and piece and piece[-1] > 127):
                raise ValueError("a list in the record ends amidst a number")
            else:
                numbers += piece
    if len(kinds) > 1:
        raise ValueError("a list in the record is of two kinds")
    if not numbers:
        return pieces
    return np.frombuffer(numbers, "<f4") if _FLOATS in kinds else _integers(np.frombuffer(numbers, np.uint8))


def _integers(data: np.ndarray) -> np.ndarray:
    """Varints, of which the last is complete, as int64 ``(n,)``."""
    lasts = np.flatnonzero(data < 128)
    starts = np.concatenate([[0], lasts[:-1] + 1])
    widths = lasts - starts + 1
    if widths.max() > 10:
        raise ValueError("a number in the record is too long")
    values = np.zeros(len(lasts), np.uint64)
    for place in range(int(widths.max())):
        longer = np.flatnonzero(widths > place)
        values[longer] |= (data[starts[longer] + place] & 127).astype(np.uint64) << np.uint64(7 * place)
    return values.view(np.int64)

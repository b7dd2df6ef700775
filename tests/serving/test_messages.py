"""Messages: what comes back as it was sent, what is refused, and what reading them may cost."""

from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import numpy as np
import pytest

from polysoma.errors import PolysomaError
from polysoma.serving.messages import Budget, pack, read_json, unpack


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.uint8).reshape(2, 3),
        np.zeros((0, 4), np.float32),
        np.array(2.5, ">f4"),
        np.array([True, False]),
        {"a": [1, 2.5, "text", None, True, b"bytes"], "nested": {"x": np.ones(3)}},
    ],
)
def test_messages_come_back(value: Any) -> None:
    back = unpack(pack({"value": value}))["value"]
    if isinstance(value, np.ndarray):
        assert back.dtype == value.dtype and back.shape == value.shape
    np.testing.assert_equal(back, value)


def test_scalars_come_back() -> None:
    back = unpack(pack({"x": np.float32(1.5), "n": np.int64(-3)}))
    assert (back["x"], back["n"]) == (1.5, -3) and back["x"].dtype == np.float32


def test_only_numbers_are_sent() -> None:
    with pytest.raises(PolysomaError, match="arrays hold numbers, got dtype object"):
        pack({"x": np.array([object()])})
    with pytest.raises(PolysomaError, match="got set"):
        pack({"x": {1, 2}})


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({b"__ndarray__": True, b"data": b"123", b"dtype": "<f4", b"shape": [1]}, "4 bytes, got 3"),
        ({b"__ndarray__": True, b"data": b"12345678", b"dtype": "|O", b"shape": [1]}, "arrays hold numbers"),
        ({b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [-1]}, r"shape \[-1\]"),
        ({b"__ndarray__": True, b"dtype": "<f4", b"shape": [1]}, "without data"),
        ({b"__ndarray__": True, b"data": b"1234", b"shape": [1]}, "without dtype"),
    ],
)
def test_arrays_that_are_not_what_they_say(message: dict[bytes, Any], problem: str) -> None:
    with pytest.raises(PolysomaError, match=problem):
        unpack(pack({"x": message}))


def test_bytes_flipped_or_cut_are_an_error_or_another_message() -> None:
    rng = np.random.default_rng(0)
    whole = pack({"state": np.arange(12.0).reshape(3, 4), "prompt": "do one", "list": [1, {"a": 2}]})
    for _ in range(2000):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(damaged), size=rng.integers(0, 4)):
            damaged[place] = rng.integers(256)
        with contextlib.suppress(PolysomaError):
            unpack(bytes(damaged))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xdd\x00\x10\x00\x00" + b"\x80" * 2**20, "a message may have 10,000 values, got 1,048,577"),
        (b"\x9f" * 10 + b"\x80" * 1000, "not a message"),
        (b"\x91" * 17 + b"\xc0", "may be 16 deep"),
        (b"\x91" * 100_000 + b"\xc0", "may be 16 deep"),
        (b"\xdf\xff\xff\xff\xff", "10,000 values"),
        (b"\xdc\x80\x00" + b"\x93\x01\x02\x03" * 2**15, "10,000 values"),
        (b"\xc6\x00\x00\x01\x00" + b"x" * 10, "not a message"),
        (b"\xc4", "not a message"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_what_a_message_costs_is_counted_before_it_is_read(data: bytes, problem: str) -> None:
    with pytest.raises(PolysomaError, match=problem):
        unpack(data)


def test_every_kind_of_value_is_counted_as_it_is_read() -> None:
    whole = {
        "small": [0, -1, 127, -32],
        "wide": [200, 2**15, 2**31, 2**63, -100, -(2**15), -(2**31), -(2**62), 0.5, None, True],
        "long": ["x" * 40, "x" * 300, "x" * 70_000, b"y" * 40, b"y" * 300, b"y" * 70_000],
        "list": list(range(400)),
        "map": {str(number): number for number in range(400)},
        "array": np.zeros((3, 4)),
    }
    np.testing.assert_equal(unpack(pack(whole)), whole)
    nodes = 1 + 12 + 4 + 11 + 6 + 400 + 800 + 8 + 2
    assert unpack(pack(whole), Budget(nodes=nodes))
    with pytest.raises(PolysomaError, match=f"may have {nodes - 1:,} values, got {nodes:,}"):
        unpack(pack(whole), Budget(nodes=nodes - 1))
    for size in range(1, 9):
        extension = msgpack.ExtType(5, b"z" * size)
        assert unpack(msgpack.packb([extension, 1]), Budget(nodes=3)) == [extension, 1]


def test_a_type_that_takes_long_to_read_is_none() -> None:
    with pytest.raises(PolysomaError, match="arrays hold numbers"):
        unpack(pack({"x": {b"__ndarray__": True, b"data": b"", b"dtype": "f4," * 100_000, b"shape": [0]}}))


@pytest.mark.parametrize("name", ["01f4", "(,)f4", "f4,f4", "<f16", "O", "S8", "datetime64", "", "float3\n"])
def test_a_type_that_is_no_number_is_none(name: str) -> None:
    with pytest.raises(PolysomaError):
        unpack(pack({"x": {b"__ndarray__": True, b"data": b"1234", b"dtype": name, b"shape": [1]}}))


def test_json_has_a_budget() -> None:
    assert read_json('{"do": "reset"}') == {"do": "reset"}
    with pytest.raises(PolysomaError, match="expected JSON"):
        read_json("[" * 5_000)
    with pytest.raises(PolysomaError, match="expected JSON"):
        read_json('{"right": Infinity}')
    with pytest.raises(PolysomaError, match="a message may have 10,000 values"):
        read_json("[" + "{}," * 20_000 + "{}]")
    with pytest.raises(PolysomaError, match="a message may have 10 bytes"):
        read_json('"' + "x" * 20 + '"', Budget(bytes=10))

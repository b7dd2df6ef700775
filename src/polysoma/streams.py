"""What a body senses: streams, and the named channels that states and actions are made of."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from polysoma.errors import PolysomaError, SettingError

TEXT_CHARACTERS = "".join(chr(code) for code in range(32, 127))
"""What texts are drawn from; they may hold any character."""
TEXT_LENGTH = 4096
"""Characters of the longest text that an observation may hold."""
_LARGEST_VALUES = 2**28
"""Numbers in the largest array that an observation may hold."""
_LARGEST = float(np.finfo(np.float32).max)


class Modality(enum.StrEnum):
    """The kind of a stream, which decides how it becomes tokens."""

    IMAGE = "image"
    STATE = "state"
    SYMBOL = "symbol"
    TEXT = "text"


_DTYPES = {Modality.IMAGE: np.uint8, Modality.STATE: np.float32, Modality.SYMBOL: np.uint8}


@dataclass(frozen=True)
class Channel:
    """One named scalar: its unit ("m", "rad", "m/s", "1") and its limits in that unit.

    Neighbouring channels of one ``group`` ("left_arm", "lidar") belong together: they become tokens of their own, so
    that a policy can attend to the group that an instruction speaks of.
    """

    name: str
    unit: str = "1"
    low: float = -math.inf
    high: float = math.inf
    group: str = ""

    def __post_init__(self) -> None:
        for text in (self.name, self.unit, self.group):
            if "\0" in text:
                raise SettingError(f"channel {self.name!r}: expected text without NUL, got {text!r}")
        # As float32, which is what values are kept within: a lower limit beyond it would make every value infinite.
        if not (self.low <= self.high and self.low <= _LARGEST and self.high >= -_LARGEST):
            raise SettingError(
                f"channel {self.name!r}: expected numbers with low <= high as limits, got {self.low} and {self.high}"
            )


class TextSpace(gymnasium.spaces.Text):
    """Texts of up to TEXT_LENGTH characters of any kind; those that are drawn are of ASCII."""

    def __init__(self) -> None:
        super().__init__(max_length=TEXT_LENGTH, min_length=0, charset=TEXT_CHARACTERS)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and self.min_length <= len(x) <= self.max_length


def channels(
    names: str, unit: str = "1", low: float = -math.inf, high: float = math.inf, group: str = ""
) -> tuple[Channel, ...]:
    """Channels of one unit and group from a space-separated list of names."""
    return tuple(Channel(name, unit, low, high, group) for name in names.split())


@dataclass(frozen=True)
class Stream:
    """One named observation stream.

    Attributes:
        name: unique within the embodiment, e.g. ``"state"``; data sets call it ``observation.state``.
        modality: image (uint8, height x width x 3), state (float32, one value a channel), symbol (uint8 ids) or text.
        shape: array shape; ``()`` for text.
        channels: for a state, one :class:`Channel` for each value.
        cardinalities: for symbols, the number of different ids along the last axis
            (``(11, 6, 4)`` for a grid of shape ``(7, 7, 3)``).
    """

    name: str
    modality: Modality
    shape: tuple[int, ...] = ()
    channels: tuple[Channel, ...] = ()
    cardinalities: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.modality is Modality.STATE and self.shape != (len(self.channels),):
            raise PolysomaError(
                f"stream {self.name!r}: a state needs one named channel for each value: shape {self.shape}, "
                f"{len(self.channels)} channels"
            )
        if self.modality is Modality.IMAGE and (len(self.shape) != 3 or self.shape[2] != 3):
            raise PolysomaError(f"stream {self.name!r}: an image is of shape (height, width, 3), got {self.shape}")
        if self.modality is Modality.SYMBOL and (not self.shape or self.shape[-1] != len(self.cardinalities)):
            raise PolysomaError(
                f"stream {self.name!r}: symbols need one cardinality for each id on the last axis: shape {self.shape}, "
                f"cardinalities {self.cardinalities}"
            )
        if self.modality is Modality.SYMBOL and not all(0 < ids <= 256 for ids in self.cardinalities):
            raise PolysomaError(f"stream {self.name!r}: cardinalities are 1 to 256, got {self.cardinalities}")
        if self.modality is Modality.TEXT and self.shape:
            raise PolysomaError(f"stream {self.name!r}: a text has the shape (), got {self.shape}")
        if not all(size > 0 for size in self.shape) or math.prod(self.shape) > _LARGEST_VALUES:
            raise PolysomaError(
                f"stream {self.name!r}: expected 1 to {_LARGEST_VALUES:,} numbers, got the shape {self.shape}"
            )
        names = [channel.name for channel in self.channels]
        if len(set(names)) != len(names):
            raise PolysomaError(f"stream {self.name!r}: channel names must differ, got {names}")

    @property
    def dtype(self) -> type[Any]:
        """The array type of this stream (text has none)."""
        return _DTYPES[self.modality]

    def space(self) -> gymnasium.Space[Any]:
        """The Gymnasium space of one observation of this stream."""
        if self.modality is Modality.TEXT:
            return TextSpace()
        if self.modality is Modality.IMAGE:
            return gymnasium.spaces.Box(0, 255, self.shape, np.uint8)
        if self.modality is Modality.SYMBOL:
            high = np.broadcast_to(np.array(self.cardinalities) - 1, self.shape).astype(np.uint8)
            return gymnasium.spaces.Box(np.zeros_like(high), high, dtype=np.uint8)
        low = np.array([channel.low for channel in self.channels], np.float32)
        return gymnasium.spaces.Box(low, np.array([channel.high for channel in self.channels], np.float32))

    def check(self, where: str, value: Any) -> Any:
        """What came for this stream with its exact dtype.

        Args:
            where: how errors begin.
            value: an array, or a string for text.

        Raises:
            PolysomaError: another shape or dtype kind, or not finite.
        """
        if self.modality is Modality.TEXT:
            if not isinstance(value, str):
                raise PolysomaError(f"{where}: expected a string, got {type(value).__name__}")
            if len(value) > TEXT_LENGTH:
                raise PolysomaError(f"{where}: expected up to {TEXT_LENGTH} characters, got {len(value):,}")
            return value
        array = np.asarray(value)
        kinds = "f" if self.modality is Modality.STATE else "iu"
        if array.shape != self.shape or array.dtype.kind not in kinds:
            raise PolysomaError(
                f"{where}: expected {np.dtype(self.dtype).name} of shape {self.shape}"
                + (f" ({', '.join(c.name for c in self.channels)})" if self.channels else "")
                + f", got {array.dtype} of shape {array.shape}"
            )
        if self.modality is Modality.STATE:
            return finite_float32(where, array, self.channels)
        if self.modality is Modality.SYMBOL and ((array < 0) | (array >= np.array(self.cardinalities))).any():
            raise PolysomaError(f"{where}: ids must be below {self.cardinalities}, got up to {array.max()}")
        if array.dtype != np.uint8 and ((array < 0) | (array > 255)).any():
            raise PolysomaError(f"{where}: expected values from 0 to 255, got {array.min()} to {array.max()}")
        return array.astype(self.dtype, copy=False)

    def differences(self, twin: Stream) -> list[str]:
        """What differs from another stream of this name; empty when equal."""
        if self == twin:
            return []
        where = f"stream {self.name!r}"
        if (self.modality, self.shape) == (twin.modality, twin.shape):
            return [f"{where}: other channels or limits"]
        return [f"{where}: {self.modality} {self.shape}, not {twin.modality} {twin.shape}"]


def finite_float32(where: str, array: np.ndarray, channels: Sequence[Channel]) -> np.ndarray:
    """Numbers ``(..., channels)`` as float32. They are checked as such: finite ones of float64 may be infinite here."""
    cast = array
    if array.dtype != np.float32:
        with np.errstate(over="ignore"):
            cast = array.astype(np.float32)
    finite = np.isfinite(cast)
    if not finite.all():
        rows = finite.reshape(-1, len(channels))
        bad = [channel.name for column, channel in enumerate(channels) if not rows[:, column].all()]
        raise PolysomaError(f"{where}: not a finite number in {bad}")
    return cast

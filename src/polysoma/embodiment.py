"""What one body senses and moves.

An :class:`Embodiment` names every observation stream and every action channel of a body, with units and limits, and
says at which rate the body is controlled. It is frozen, compares by value and travels as JSON inside data sets and
checkpoints, so that a recording, a policy and a robot can be checked against each other before anything moves.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from polysoma.errors import PolysomaError, SettingError
from polysoma.horizon import Horizon

Observation = dict[str, Any]
"""One observation: stream name to an array of the stream's shape, or to a string for text."""

INSTRUCTION = "instruction"
"""The name of the text stream that says what to do."""

_OF_HORIZON = {field.name for field in dataclasses.fields(Horizon)}

TEXT_CHARACTERS = "".join(chr(code) for code in range(32, 127))
"""What texts are drawn from; they may hold any character."""
TEXT_LENGTH = 4096
"""Characters of the longest text that an observation may hold."""
_LARGEST_VALUES = 2**28
"""Numbers in the largest array that an observation may hold."""
_LARGEST = float(np.finfo(np.float32).max)
_SLOWEST, _FASTEST = 1e-6, 1e6
"""Actions a second: an action in eleven days, and one a microsecond."""


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


def _fixed(numbers: Iterable[float]) -> np.ndarray:
    """Numbers that nobody writes to, float32 ``(n,)``."""
    array = np.array(list(numbers), np.float32)
    array.flags.writeable = False
    return array


@dataclass(frozen=True)
class ContinuousActions:
    """Actions that are real numbers: one channel an actuator. Arrays are float32 of shape ``(len(channels),)``."""

    channels: tuple[Channel, ...]

    def __post_init__(self) -> None:
        if not self.channels:
            raise SettingError("actions: expected at least one channel, got none")

    @functools.cached_property
    def size(self) -> int:
        return len(self.channels)

    @functools.cached_property
    def low(self) -> np.ndarray:
        return _fixed(channel.low for channel in self.channels)

    @functools.cached_property
    def high(self) -> np.ndarray:
        return _fixed(channel.high for channel in self.channels)

    @property
    def measured(self) -> np.ndarray:
        """Which channels have a unit, bool ``(A,)``. Those without one ("1"), such as how open a gripper is, are shares
        of something: the difference of two of them says less than either does."""
        return np.array([channel.unit != "1" for channel in self.channels])

    @property
    def dtype(self) -> type[Any]:
        """The array type of actions."""
        return np.float32

    def none(self) -> np.ndarray:
        """What fills the place of an action that does not exist, as before an episode's first frame: zeros ``(A,)``. It
        is not told from a true action by its value, but by what says that it is valid."""
        return np.zeros(self.size, np.float32)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """An action drawn uniformly within the limits, float32 ``(A,)``. Raises PolysomaError where there are none."""
        unlimited = [c.name for c in self.channels if not math.isfinite(c.high - c.low)]
        if unlimited:
            raise PolysomaError(f"actions cannot be drawn at random: there are no limits of {unlimited}")
        return rng.uniform(self.low, self.high).astype(np.float32)

    def check(self, where: str, action: Any, several: bool = False) -> np.ndarray:
        """See :meth:`Embodiment.check_action`.

        Args:
            where: how errors begin.
            action: what to check.
            several: whether it is several, ``(n, A)``.
        """
        value = np.asarray(action)
        if value.ndim != 1 + several or value.shape[-1] != self.size or value.dtype.kind not in "fiu":
            names = [channel.name for channel in self.channels]
            raise PolysomaError(
                f"{where}: expected {len(names)} numbers {names}, got {value.dtype} of shape {value.shape}"
            )
        return np.clip(_finite_float32(where, value, self.channels), self.low, self.high)

    def __str__(self) -> str:
        return ", ".join(f"{c.name} in [{c.low:g}, {c.high:g}] {c.unit}" for c in self.channels)

    def space(self) -> gymnasium.Space[Any]:
        return gymnasium.spaces.Box(self.low, self.high)


@dataclass(frozen=True)
class DiscreteActions:
    """Actions of which exactly one is chosen at each step, by name. In arrays they are int64 indices into ``names``."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise SettingError(f"actions: expected one or more names that differ, got {list(self.names)}")

    @property
    def size(self) -> int:
        return len(self.names)

    @property
    def dtype(self) -> type[Any]:
        """The array type of actions."""
        return np.int64

    def none(self) -> np.ndarray:
        """What fills the place of an action that does not exist: the index after the last name, int64 ``()``."""
        return np.array(self.size, np.int64)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """An index drawn uniformly, int64 ``()``."""
        return np.array(rng.integers(self.size), np.int64)

    def check(self, where: str, action: Any, several: bool = False) -> np.ndarray:
        """See :meth:`Embodiment.check_action`.

        Args:
            where: how errors begin.
            action: what to check.
            several: whether it is several, ``(n,)``.
        """
        value = np.asarray(action)
        if value.ndim != several or value.dtype.kind not in "iu" or ((value < 0) | (value >= self.size)).any():
            raise PolysomaError(
                f"{where}: expected an index 0..{self.size - 1} ({', '.join(self.names)}), got {action!r}"
            )
        return value.astype(np.int64)

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)

    def space(self) -> gymnasium.Space[Any]:
        return gymnasium.spaces.Discrete(len(self.names))


@dataclass(frozen=True)
class Embodiment:
    """One body.

    Attributes:
        name: e.g. ``"metaworld"``.
        streams: what it senses; a text stream called ``"instruction"`` says what to do.
        actions: what it moves.
        rate_hz: actions a second.
        body: what moves, where one body can be observed in several ways: embodiments of one body have equal actions
            and share a policy's head. By default the name.
        privileged: states that a simulator or a laboratory knows and that the body does not sense: where an object
            lies, say. They are recorded beside what is observed, and a policy can learn to estimate them.
    """

    name: str
    streams: tuple[Stream, ...]
    actions: ContinuousActions | DiscreteActions
    rate_hz: float
    body: str = ""
    privileged: tuple[Stream, ...] = ()

    def __post_init__(self) -> None:
        if not self.body:
            object.__setattr__(self, "body", self.name)
        names = [stream.name for stream in (*self.streams, *self.privileged)]
        if len(set(names)) != len(names):
            raise PolysomaError(f"embodiment {self.name!r}: stream names must differ, got {names}")
        if "action" in names or any(s.name == INSTRUCTION and s.modality is not Modality.TEXT for s in self.recorded):
            raise PolysomaError(
                f"embodiment {self.name!r}: no array stream can be called 'action' or {INSTRUCTION!r}, which mean what "
                "the body does and what it is told: call it previous_action, say"
            )
        other = [stream.name for stream in self.privileged if stream.modality is not Modality.STATE]
        if other:
            raise PolysomaError(f"embodiment {self.name!r}: privileged streams are states, {other} are not")
        if "" in (self.name, *names):
            raise PolysomaError(f"embodiment {self.name!r}: it and its streams need names, got {names}")
        if any("\0" in name for name in (self.name, self.body, *names)):
            raise PolysomaError(f"embodiment {self.name!r}: expected names without NUL, got {self.body!r} and {names}")
        if not _SLOWEST <= self.rate_hz <= _FASTEST:
            raise PolysomaError(
                f"embodiment {self.name!r}: rate_hz must be a positive number from {_SLOWEST:g} to {_FASTEST:g}, "
                f"got {self.rate_hz:g}"
            )

    def stream(self, name: str) -> Stream:
        """The stream of this name. Raises PolysomaError that lists the names there are."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise PolysomaError(f"{self.name} has no stream {name!r}; it has {[s.name for s in self.streams]}")

    @functools.cached_property
    def arrays(self) -> tuple[Stream, ...]:
        """The streams that are arrays: all but text."""
        return tuple(stream for stream in self.streams if stream.modality is not Modality.TEXT)

    @property
    def recorded(self) -> tuple[Stream, ...]:
        """The streams that data sets hold: what is observed in arrays, and what is privileged."""
        return (*self.arrays, *self.privileged)

    @functools.cached_property
    def sensed(self) -> dict[str, tuple[str, int]]:
        """Where each state channel is found by its name: its stream, and its place there."""
        return {
            channel.name: (stream.name, place)
            for stream in self.streams
            if stream.modality is Modality.STATE
            for place, channel in enumerate(stream.channels)
        }

    @functools.cached_property
    def positions(self) -> dict[str, tuple[str, int]]:
        """Where the state says at what an action channel is, by its name: the stream and the place there of the state
        channel of this name and unit. Without those that have none."""
        if isinstance(self.actions, DiscreteActions):
            return {}
        places = {name: (place, self.stream(place[0]).channels[place[1]]) for name, place in self.sensed.items()}
        wanted = {channel.name: channel.unit for channel in self.actions.channels}
        return {name: places[name][0] for name in wanted if name in places and places[name][1].unit == wanted[name]}

    def observation_space(self) -> gymnasium.spaces.Dict:
        return gymnasium.spaces.Dict({stream.name: stream.space() for stream in self.streams})

    def action_space(self) -> gymnasium.Space[Any]:
        return self.actions.space()

    def check_observation(self, observation: Mapping[str, Any]) -> Observation:
        """The observation with exact dtypes.

        Raises:
            PolysomaError: a stream is missing, unknown, of another shape or dtype kind, or not finite. The message
                lists what this embodiment has and what came.
        """
        expected = {stream.name for stream in self.streams}
        if set(observation) != expected:
            raise PolysomaError(
                f"observation of {self.name}: expected the streams {sorted(expected)}, got {sorted(observation)}"
            )
        return {stream.name: _check_value(self.name, stream, observation[stream.name]) for stream in self.streams}

    def check_action(self, action: Any) -> np.ndarray:
        """The action as float32 ``(size,)`` clipped to its limits, or as an int64 scalar.

        Raises:
            PolysomaError: wrong shape, not a number, or an index that does not exist.
        """
        return self.actions.check(f"action of {self.name}", action)

    def check_actions(self, actions: Any) -> np.ndarray:
        """Several actions as :meth:`check_action` has them: float32 ``(n, size)``, or int64 ``(n,)``."""
        return self.actions.check(f"action of {self.name}", actions, several=True)

    def differences(self, other: Embodiment) -> list[str]:
        """What differs from another embodiment, each as ``"what: this one's, not the other's"``; empty when equal."""
        found = []
        for field in ("name", "rate_hz", "body"):
            if getattr(self, field) != getattr(other, field):
                found.append(f"{field}: {getattr(self, field)}, not {getattr(other, field)}")
        for kind in ("streams", "privileged"):
            own, theirs = ({stream.name: stream for stream in getattr(body, kind)} for body in (self, other))
            if list(own) != list(theirs):
                found.append(f"{kind}: {list(own)}, not {list(theirs)}")
            for name in sorted(own.keys() & theirs.keys()):
                found += _stream_differences(own[name], theirs[name])
        if self.actions != other.actions:
            found.append(f"actions: {self.actions}, not {other.actions}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a limit that does not exist is null."""
        return _finite(dataclasses.asdict(self))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Embodiment:
        """The inverse of :meth:`to_json`. What the first format said about a policy's horizon is passed over
        (:meth:`polysoma.horizon.Horizon.of_old_embodiment` reads it). Raises PolysomaError when a field is missing or
        unknown."""
        # It brings pydantic along, which takes time to import and is not always needed.
        from polysoma.config import decode

        where = "not the description of an embodiment"
        if not isinstance(data, Mapping):
            raise PolysomaError(f"{where}: expected a table, got {type(data).__name__}")
        given, without = data.get("actions"), {"actions", *_OF_HORIZON}
        kind: type[ContinuousActions | DiscreteActions]
        kind = DiscreteActions if isinstance(given, Mapping) and "names" in given else ContinuousActions
        actions = decode(kind, _without_null(given), f"{where}: actions")
        known = decode(_Stored, _without_null({k: v for k, v in data.items() if k not in without}), where)
        return Embodiment(known.name, known.streams, actions, known.rate_hz, known.body, known.privileged)


@dataclass(frozen=True)
class _Stored:
    """What JSON says of an embodiment, its actions aside."""

    name: str
    streams: tuple[Stream, ...]
    rate_hz: float
    body: str = ""
    privileged: tuple[Stream, ...] = ()


def _stream_differences(stream: Stream, twin: Stream) -> list[str]:
    if stream == twin:
        return []
    where = f"stream {stream.name!r}"
    if (stream.modality, stream.shape) == (twin.modality, twin.shape):
        return [f"{where}: other channels or limits"]
    return [f"{where}: {stream.modality} {stream.shape}, not {twin.modality} {twin.shape}"]


def _check_value(body: str, stream: Stream, value: Any) -> Any:
    where = f"observation of {body}, stream {stream.name!r}"
    if stream.modality is Modality.TEXT:
        if not isinstance(value, str):
            raise PolysomaError(f"{where}: expected a string, got {type(value).__name__}")
        if len(value) > TEXT_LENGTH:
            raise PolysomaError(f"{where}: expected up to {TEXT_LENGTH} characters, got {len(value):,}")
        return value
    array = np.asarray(value)
    kinds = "f" if stream.modality is Modality.STATE else "iu"
    if array.shape != stream.shape or array.dtype.kind not in kinds:
        raise PolysomaError(
            f"{where}: expected {np.dtype(stream.dtype).name} of shape {stream.shape}"
            + (f" ({', '.join(c.name for c in stream.channels)})" if stream.channels else "")
            + f", got {array.dtype} of shape {array.shape}"
        )
    if stream.modality is Modality.STATE:
        return _finite_float32(where, array, stream.channels)
    if stream.modality is Modality.SYMBOL and ((array < 0) | (array >= np.array(stream.cardinalities))).any():
        raise PolysomaError(f"{where}: ids must be below {stream.cardinalities}, got up to {array.max()}")
    if array.dtype != np.uint8 and ((array < 0) | (array > 255)).any():
        raise PolysomaError(f"{where}: expected values from 0 to 255, got {array.min()} to {array.max()}")
    return array.astype(stream.dtype, copy=False)


def _finite_float32(where: str, array: np.ndarray, channels: Sequence[Channel]) -> np.ndarray:
    """Numbers ``(..., channels)`` as float32. They are checked as such: finite ones of float64 may be infinite here."""
    with np.errstate(over="ignore"):
        cast = array.astype(np.float32, copy=False)
    finite = np.isfinite(cast)
    if not finite.all():
        rows = finite.reshape(-1, len(channels))
        bad = [channel.name for column, channel in enumerate(channels) if not rows[:, column].all()]
        raise PolysomaError(f"{where}: not a finite number in {bad}")
    return cast


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def _without_null(value: Any) -> Any:
    """JSON without the limits that do not exist."""
    if isinstance(value, Mapping):
        absent = {key for key in ("low", "high") if key in value and value[key] is None}
        return {key: _without_null(item) for key, item in value.items() if key not in absent}
    return [_without_null(item) for item in value] if isinstance(value, list | tuple) else value

"""What one body senses and moves.

An :class:`Embodiment` names every observation stream and every action channel of a body, with units and limits, and
says at which rate the body is controlled. It is frozen, compares by value and travels as JSON inside data sets and
checkpoints, so that a recording, a policy and a robot can be checked against each other before anything moves.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from polysoma.actions import ContinuousActions, DiscreteActions
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.streams import TEXT_LENGTH, Channel, Modality, Stream, TextSpace, channels

__all__ = [
    "INSTRUCTION", "TEXT_LENGTH", "Channel", "ContinuousActions", "DiscreteActions", "Embodiment", "Modality",
    "Observation", "Stream", "TextSpace", "channels",
]  # fmt: skip
"""Those of streams and actions are had here, too."""

Observation = dict[str, Any]
"""One observation: stream name to an array of the stream's shape, or to a string for text."""

INSTRUCTION = "instruction"
"""The name of the text stream that says what to do."""

_OF_HORIZON = {field.name for field in dataclasses.fields(Horizon)}

_SLOWEST, _FASTEST = 1e-6, 1e6
"""Actions a second: an action in eleven days, and one a microsecond."""


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

    @functools.cached_property
    def felt(self) -> tuple[tuple[str, int], ...]:
        """For each action channel the stream and the place of the state that says at what it is, as in
        :attr:`positions`; empty where it does not say so of all of them."""
        if isinstance(self.actions, DiscreteActions):
            return ()
        places = [self.positions.get(channel.name) for channel in self.actions.channels]
        known = tuple(place for place in places if place is not None)
        return known if len(known) == len(places) else ()

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
        where = f"observation of {self.name}, stream"
        return {
            stream.name: stream.check(f"{where} {stream.name!r}", observation[stream.name]) for stream in self.streams
        }

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
                found += own[name].differences(theirs[name])
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

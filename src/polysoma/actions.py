"""What a body moves: real numbers, one an actuator, or one choice among named actions."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from polysoma.errors import PolysomaError, SettingError
from polysoma.streams import Channel, finite_float32


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

    @functools.cached_property
    def middle(self) -> np.ndarray:
        """The middle of each channel's range, float32 ``(A,)``; not a number where there are no limits."""
        with np.errstate(invalid="ignore"):
            return _fixed((self.low + self.high) / 2)

    @functools.cached_property
    def half(self) -> np.ndarray:
        """Half of each channel's range, float32 ``(A,)``; 0 for one that is fixed, infinite without limits."""
        with np.errstate(over="ignore"):
            return _fixed((self.high - self.low) / 2)

    def parts(self, actions: np.ndarray) -> np.ndarray:
        """Actions ``(..., A)`` in parts of half the range, from -1 to 1 within the limits; 0 for a channel that is
        fixed."""
        found: np.ndarray = (actions - self.middle) / np.where(self.half > 0, self.half, 1)
        return found

    def check_limited(self, where: str) -> None:
        """Raises PolysomaError where channels have no limits, for those who see actions in parts of their range."""
        unlimited = [
            channel.name for channel, half in zip(self.channels, self.half, strict=True) if not np.isfinite(half)
        ]
        if unlimited:
            raise PolysomaError(f"{where}: expected limits of all actions, there are no limits of {unlimited}")

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
        self.check_limited("actions cannot be drawn at random")
        return rng.uniform(self.low, self.high).astype(np.float32)

    def check(self, where: str, action: Any, several: bool = False) -> np.ndarray:
        """See :meth:`~polysoma.embodiment.Embodiment.check_action`.

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
        # At every step of every simulator: np.clip takes twice as long.
        limited: np.ndarray = np.minimum(np.maximum(finite_float32(where, value, self.channels), self.low), self.high)
        return limited

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
        """See :meth:`~polysoma.embodiment.Embodiment.check_action`.

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


def _fixed(numbers: Iterable[float]) -> np.ndarray:
    """Numbers that nobody writes to, float32 ``(n,)``."""
    array = np.array(list(numbers), np.float32)
    array.flags.writeable = False
    return array

"""What limits do to the actions of an episode: the arithmetic of :mod:`polysoma.acting.limits`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from polysoma.acting.steps import sensed
from polysoma.embodiment import ContinuousActions, Embodiment, Observation
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.acting.limits import BodyLimits

_TOLERANCE = 1e-6
"""By how much a number may pass a limit before it counts: that of float32."""


@dataclass
class LimitCounts:
    """What limits did in an episode.

    Attributes:
        actions: that passed through them.
        changed: of these, how many came out as others.
        place, step, jerk, workspace: how many wanted to go beyond a limit of this kind; one action can count for
            several.
        near: how many were decided while something was near.
    """

    actions: int = 0
    changed: int = 0
    place: int = 0
    step: int = 0
    jerk: int = 0
    workspace: int = 0
    near: int = 0

    def kinds(self) -> str:
        """In words, how many wanted to go beyond each kind of limit."""
        named = {name: value for name, value in dataclasses.asdict(self).items() if name not in ("actions", "changed")}
        return ", ".join(f"{name} {value}" for name, value in named.items())

    def __add__(self, other: LimitCounts) -> LimitCounts:
        names = [one.name for one in dataclasses.fields(self)]
        return LimitCounts(*(getattr(self, name) + getattr(other, name) for name in names))


class Limiter:
    """Keeps the actions of one episode of one body within its limits.

    At the start of an episode the body rests where its joints are, of channels that the state holds under the same
    name and unit; the first commands of others are free.

    Args:
        body: whose actions are numbers.
        limits: of it.

    Raises:
        PolysomaError: the actions are choices, or a channel is unknown.
    """

    def __init__(self, body: Embodiment, limits: BodyLimits) -> None:
        if not isinstance(body.actions, ContinuousActions):
            raise PolysomaError(f"limits of {body.name}: expected actions that are numbers, they are choices")
        self.body, self.limits = body, limits
        self.counts = LimitCounts()
        self._names = [channel.name for channel in body.actions.channels]
        low, high = (ends.astype(float).tolist() for ends in (body.actions.low, body.actions.high))
        low, high = self._ranges("place", limits.place, low, high)
        self._free = low, high, self._each("step", limits.step)
        self._jerk = self._each("jerk", limits.jerk)
        self._boxes = [
            (self._sensed(f"workspace.{name}", name), self._channel(f"workspace.{name}.action", box.action), box)
            for name, box in limits.workspace.items()
        ]
        self._near = None
        if (near := limits.near) is not None:
            tighter = self._ranges("near.place", near.place, low, high)
            steps = self._each("near.step", near.step)
            self._near = (
                self._sensed("near.channel", near.channel),
                (*tighter, [min(pair) for pair in zip(self._free[2], steps, strict=True)]),
            )
        self._before: list[float] | None = None
        self._rest: list[float] | None = None
        self._moved = [0.0] * len(self._names)
        self._aim: list[float] | None = None
        self._pending: np.ndarray | None = None
        self._aims: list[list[float]] = []

    def executed(self, actions: np.ndarray) -> None:
        """What was executed since the last observation, float32 ``(n, A)``, n from 0 on, where it is not what
        :meth:`limit` gave."""
        if self._pending is None or not np.array_equal(actions, self._pending[: len(actions)]):
            # Somebody else's actions went where they were to go.
            self._aims = actions.astype(float).tolist()
        self._pending = actions

    def limit(self, actions: np.ndarray, observation: Observation) -> np.ndarray:
        """The actions that follow this observation, one after the other, within the limits.

        Args:
            actions: float32 ``(n, A)``; those that keep all limits stay as they are, to the bit.
            observation: checked.

        Returns:
            float32 ``(n, A)``, taken as executed unless :meth:`executed` says otherwise.
        """
        self._settle()
        before, moved = self._before, self._moved
        if before is None:
            before = self._rest = sensed(self.body, observation).astype(float).tolist()
        aim = before if self._aim is None else self._aim
        low, high, step = self._free
        near = self._near is not None and self._is_near(observation)
        if self._near is not None and near:
            low, high, step = self._near[1]
        at = [float(observation[stream][place]) for (stream, place), _, _ in self._boxes]
        kept, aims = np.empty(actions.shape, np.float32), []
        for row, wanted in enumerate(actions.astype(float).tolist()):
            least, most = self._room(at)
            action, aim = self._one(
                list(zip(wanted, before, moved, low, high, step, least, most, aim, self._jerk, strict=True))
            )
            aims.append(aim)
            moved = [_or_nothing(now - then) for now, then in zip(action, before, strict=True)]
            before = action
            at = [here + box.scale * action[channel] for here, (_, channel, box) in zip(at, self._boxes, strict=True)]
            kept[row] = action
        self.counts.near += near * len(actions)
        self._pending, self._aims = kept, aims
        return kept.copy()

    def _one(self, channels: list[tuple[float, ...]]) -> tuple[list[float], list[float]]:
        """One action, and what it aims at: what is wanted where it may be; of each channel what is wanted, the command
        and the step before, the range, the largest step, the room, the aim before and the jerk.

        Numbers of Python, and not arrays: of a few channels they take an eighth of the time. Each clip gives way to
        those after it.
        """
        done, aims = [], []
        place = workspace = stepped = jerked = changed = False
        for wanted, before, moved, low, high, step, least, most, aim, jerk in channels:
            known = before == before  # not NaN
            target = _clip(_clip(wanted, low, high), least, most)
            way = kept = target - before if known else 0.0
            if jerk < math.inf:
                lag = aim - before if known else 0.0
                closing = _brake(abs(lag), jerk)
                # Nor faster than it can be stopped at the end of the range.
                rise = min(moved + jerk, step, _brake(high - before, jerk) if known else 0.0)
                fall = max(moved - jerk, -step, -_brake(before - low, jerk) if known else 0.0)
                # What lags behind catches up no faster than it can stop there, or it would swing about what is wanted.
                if abs(lag) > _TOLERANCE:
                    kept = way - lag + math.copysign(closing, lag)
                kept = _clip(kept, fall, rise)
                jerked |= abs(kept - _clip(way, -step, step)) > _TOLERANCE
            action = _clip(before + kept if known else target, low, high)
            if known:
                action = _clip(action, before - step, before + step)
            action = _clip(action, least, most)
            place |= not low - _TOLERANCE <= wanted <= high + _TOLERANCE
            workspace |= not least - _TOLERANCE <= wanted <= most + _TOLERANCE
            stepped |= abs(way) > step + _TOLERANCE
            differs = abs(action - wanted) > _TOLERANCE
            changed |= differs
            done.append(action if differs else wanted)
            aims.append(target)
        counts = self.counts
        counts.actions += 1
        counts.place += bool(place)
        counts.workspace += bool(workspace)
        counts.step += bool(stepped)
        counts.jerk += bool(jerked)
        counts.changed += bool(changed)
        return done, aims

    def _settle(self) -> None:
        """Takes what was executed into the past."""
        if self._pending is not None:
            for action in self._pending[-2:].astype(float).tolist():
                # The first step is from where the joints rest, as it was when its action was limited.
                before = self._rest if self._before is None else self._before
                moved = [
                    0.0 if before is None else _or_nothing(now - then)
                    for now, then in zip(action, before or action, strict=True)
                ]
                # What moved further was several steps, of which only the last one was told.
                self._moved = [_clip(each, -step, step) for each, step in zip(moved, self._free[2], strict=True)]
                self._before = action
            if len(self._pending):
                self._aim = self._aims[len(self._pending) - 1]
        self._pending = None

    def _room(self, at: Sequence[float]) -> tuple[list[float], list[float]]:
        """The actions that leave no workspace, given where it is, of each channel. What is outside may rest or
        return."""
        least, most = [-math.inf] * len(self._names), [math.inf] * len(self._names)
        for here, (_, channel, box) in zip(at, self._boxes, strict=True):
            low, high = (-math.inf if box.low is None else box.low), (math.inf if box.high is None else box.high)
            ends = sorted(((low - here) / box.scale, (high - here) / box.scale))
            least[channel] = max(least[channel], min(ends[0], 0.0))
            most[channel] = min(most[channel], max(ends[1], 0.0))
        return least, most

    def _is_near(self, observation: Observation) -> bool:
        assert self._near is not None and self.limits.near is not None
        stream, place = self._near[0]
        return bool(observation[stream][place] < self.limits.near.below)

    def _each(self, key: str, given: Mapping[str, float]) -> list[float]:
        found = [math.inf] * len(self._names)
        for name, value in given.items():
            found[self._channel(f"{key}.{name}", name)] = value
        return found

    def _ranges(
        self, key: str, given: Mapping[str, tuple[float, float]], low: list[float], high: list[float]
    ) -> tuple[list[float], list[float]]:
        """The ranges tightened by those given."""
        least, most = low.copy(), high.copy()
        for name, (one, other) in given.items():
            channel = self._channel(f"{key}.{name}", name)
            least[channel], most[channel] = max(one, low[channel]), min(other, high[channel])
            if least[channel] > most[channel]:
                raise PolysomaError(
                    f"limits of {self.body.name}: {key}.{name}: expected a range within {low[channel]:g} to "
                    f"{high[channel]:g}, got {one:g} to {other:g}"
                )
        return least, most

    def _channel(self, key: str, name: str) -> int:
        if name not in self._names:
            raise PolysomaError(
                f"limits of {self.body.name}: {key}: expected an action channel of {self._names}, got {name!r}"
            )
        return self._names.index(name)

    def _sensed(self, key: str, name: str) -> tuple[str, int]:
        if name not in self.body.sensed:
            raise PolysomaError(
                f"limits of {self.body.name}: {key}: expected a channel of its state, one of "
                f"{list(self.body.sensed)}, got {name!r}"
            )
        return self.body.sensed[name]


def _brake(way: float, jerk: float) -> float:
    """The largest step after which steps that shrink by ``jerk`` each end within ``way``: the v with ``v + (v - jerk) +
    (v - 2 jerk) + ... = way``."""
    way = max(way, 0.0)
    ratio = 8 * way / jerk
    if ratio == math.inf:
        return way
    whole = math.floor((math.sqrt(1 + ratio) - 1) / 2)
    return way / (whole + 1) + jerk * whole / 2


def _clip(value: float, low: float, high: float) -> float:
    """Within a range; where that is empty, its upper end."""
    return min(max(value, low), high)


def _or_nothing(step: float) -> float:
    """A step, or 0 where the command before is unknown."""
    return step if step == step else 0.0

"""Zones that a body is not to enter, told when it acts: boxes of places in one TOML file, a table for each body.

Whoever plans ways (:mod:`polysoma.acting.graph`, :mod:`polysoma.acting.paths`) plans around them. :class:`Watched`
counts what came of it, for any planner: a plan that avoids a zone is not yet a body that does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from polysoma.acting.leading import channel_of
from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt, WrappedSession, Wrapper
from polysoma.config import check, decode, read_toml, within
from polysoma.embodiment import Embodiment, Observation
from polysoma.errors import PolysomaError, SettingError

_Number = Annotated[float, within(-1e9, 1e9)]


@dataclass(frozen=True)
class Zones:
    """The zones of one body.

    Attributes:
        zones: each by the state's channels, from where to where, in their units; channels that are not named are free.
        margin: how far from the zones plans stay, in the same unit: bodies do not follow exactly.
    """

    zones: list[dict[str, tuple[_Number, _Number]]]
    margin: Annotated[float, within(0, 1e9)] = 0.0

    def __post_init__(self) -> None:
        check(self)
        for number, zone in enumerate(self.zones):
            if not zone:
                raise SettingError(f"zones.{number}: expected a range for a channel of the state, got none")
            for name, (low, high) in zone.items():
                if low > high:
                    raise SettingError(f"zones.{number}.{name}: expected the lower end first, got {low:g} and {high:g}")

    @staticmethod
    def read(path: Path, bodies: Sequence[Embodiment]) -> dict[str, Zones]:
        """The zones in a TOML file, by the names of bodies, of which these are known. Raises PolysomaError that names
        the key."""
        table = read_toml(path, "zones")
        known, found = {body.name: body for body in bodies}, {}
        if not table:
            raise PolysomaError(f"{path}: expected a table for a body, got none")
        for name, own in table.items():
            if name not in known or not isinstance(own, dict):
                raise PolysomaError(f"{path}: {name}: expected the table of one of the bodies {sorted(known)}")
            found[name] = decode(Zones, own, f"{path}: {name}")
            for channel in found[name].channels:
                channel_of(known[name], channel)
        return found

    @property
    def channels(self) -> tuple[str, ...]:
        """All channels that are named."""
        return tuple(dict.fromkeys(name for zone in self.zones for name in zone))

    def boxes(self, place: Sequence[str]) -> Boxes:
        """The zones as boxes of places of these channels. Raises PolysomaError where others are named."""
        if strange := [name for name in self.channels if name not in place]:
            raise PolysomaError(f"zones of {strange}: ways are planned in {list(place)} alone")
        ends = np.array([[zone.get(name, (-np.inf, np.inf)) for name in place] for zone in self.zones], np.float64)
        ends = ends.reshape(-1, len(place), 2)
        return Boxes(ends[..., 0], ends[..., 1], self.margin)


@dataclass(frozen=True, eq=False)
class Boxes:
    """Zones in a space of places.

    Attributes:
        low, high: float64 ``(zones, places)``.
        margin: around them.
    """

    low: np.ndarray
    high: np.ndarray
    margin: float = 0.0

    def inside(self, places: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """Which places ``(..., places)`` lie in a zone, or within a margin of it: bool ``(...)``."""
        at = places[..., None, :]
        return np.asarray(((at > self.low - margin) & (at < self.high + margin)).all(-1).any(-1))

    def crossed(self, start: np.ndarray, end: np.ndarray, margin: float = 0.0) -> np.ndarray:
        """Which straight pieces ``(..., places)`` touch a zone, wherever on the way: bool ``(...)``."""
        start, way = start[..., None, :], (end - start)[..., None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = (self.low - margin - start) / way, (self.high + margin - start) / way
        # Along a channel that stays, a piece is between the ends all the time, or never.
        between = (start > self.low - margin) & (start < self.high + margin)
        first = np.where(way == 0, np.where(between, -np.inf, np.inf), np.minimum(one, other)).max(-1)
        last = np.where(way == 0, np.where(between, np.inf, -np.inf), np.maximum(one, other)).min(-1)
        return np.asarray((np.maximum(first, 0) < np.minimum(last, 1)).any(-1))

    def free(self, here: np.ndarray, places: np.ndarray) -> np.ndarray:
        """To which places ``(N, places)`` one can go straight from one, bool ``(N,)``. From within the margin the zone
        itself counts, and from within a zone nothing does: one must get out."""
        if self.inside(here):
            return np.ones(len(places), bool)
        margin = 0.0 if self.inside(here, self.margin) else self.margin
        return ~self.crossed(np.broadcast_to(here, places.shape), places, margin)

    def violated(self, paths: np.ndarray) -> np.ndarray:
        """Which paths ``(N, H, places)`` touch a zone or its margin, between their points as well: bool ``(N,)``. A
        path may begin in a zone, and begin and end in a margin."""
        pieces = self.crossed(paths[:, :-1], paths[:, 1:], self.margin)
        near, within_zone = self.inside(paths, self.margin), self.inside(paths)
        leaving = np.logical_and.accumulate(near, 1)[:, :-1]
        coming = np.logical_and.accumulate(near[:, ::-1], 1)[:, ::-1][:, 1:]
        in_zone = self.crossed(paths[:, :-1], paths[:, 1:]) & ~np.logical_and.accumulate(within_zone, 1)[:, :-1]
        return np.asarray(((pieces & ~leaving & ~coming) | in_zone).any(1))


@dataclass
class ZoneCounts:
    """What a body did about zones.

    Attributes:
        episodes: in which it was in a zone, at their beginning or later.
        steps: in which it was in one, wherever on the way; the last one of an episode counts as well.
        of: all steps that were watched.
    """

    episodes: int = 0
    steps: int = 0
    of: int = 0

    def __add__(self, other: ZoneCounts) -> ZoneCounts:
        return ZoneCounts(self.episodes + other.episodes, self.steps + other.steps, self.of + other.of)


class Watched(Wrapper):
    """Counts in ``session.zones`` how often bodies are in zones, and changes nothing.

    Args:
        planner: of the bodies.
        zones: by the names of bodies; others are not watched.
    """

    def __init__(self, planner: Planner, zones: Mapping[str, Zones]) -> None:
        self.planner, self.zones = planner, zones

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`~polysoma.acting.planner.Planner.start`."""
        return _Session(self.planner.start(prompt, seed), self.zones.get(prompt.body.name))

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`."""
        inner = []
        for session, seen in zip(sessions, observations, strict=True):
            assert isinstance(session, _Session)
            session.look(seen)
            inner.append(session.inner)
        return self.planner.plan(inner, observations)


class _Session(WrappedSession):
    def __init__(self, inner: Session, zones: Zones | None) -> None:
        super().__init__(inner)
        self._before: np.ndarray | None = None
        self._boxes: Boxes | None = None
        if zones is not None:
            self.zones = ZoneCounts()
            self._where = [channel_of(inner.prompt.body, name) for name in zones.channels]
            self._boxes = zones.boxes(zones.channels)

    def look(self, observation: Observation) -> None:
        """Counts whether the body was in a zone on its way here."""
        if self._boxes is None or self.zones is None:
            return
        here = np.array([observation[stream][row] for stream, row in self._where], np.float64)
        before, self._before = self._before, here
        found = bool(self._boxes.inside(here) or (before is not None and self._boxes.crossed(before, here)))
        self.zones.episodes |= found
        if before is not None:
            self.zones.of += 1
            self.zones.steps += found

    def observed(self, observation: Observation) -> None:
        self.look(observation)
        self.inner.observed(observation)

    def ended(self, observation: Observation) -> None:
        self.look(observation)
        self.inner.ended(observation)

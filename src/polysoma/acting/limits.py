"""Limits that hold last: whatever planned, guarded, blended or averaged, no action leaves an agent beyond them.

They are kept in one TOML file, a table for each body (docs/guards.md), and :class:`Limited` binds them to a planner::

    planner = Limited(Guarded(policy, guard), Limits.read(Path("limits.toml")))

The planner's plans stay as they are; the agent that executes them passes every action through the session's
:class:`Limiter`, after all else. ``examples/edge.py`` holds the same arithmetic for exported policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from polysoma.acting.limiter import Limiter
from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt, Wrapper, as_planner, known_embodiments
from polysoma.config import check, decode, read_toml, within
from polysoma.embodiment import Embodiment, Observation
from polysoma.errors import PolysomaError, SettingError

if TYPE_CHECKING:
    from polysoma.policy.policy import Policy

_Positive = Annotated[float, within(0, 1e9, above=True)]
_Number = Annotated[float, within(-1e9, 1e9)]


@dataclass(frozen=True)
class Workspace:
    """Where something that the state senses may be, and which action moves it.

    Attributes:
        action: the action channel that moves it, such as its velocity.
        scale: how far it goes in one step for each unit of the action: 0.1 for m/s at 10 Hz; negative where it goes
            the other way.
        low, high: where it may be, in the state's unit; None for no end.
    """

    action: str
    scale: _Number
    low: _Number | None = None
    high: _Number | None = None

    def __post_init__(self) -> None:
        check(self)
        if not self.scale:
            raise SettingError("scale: expected another number than 0")
        _check_range("low, high", self.low, self.high)


@dataclass(frozen=True)
class Near:
    """Tighter limits while something, a person say, is near.

    Attributes:
        channel: of the state, which says how far away it is.
        below: the distance, in the channel's unit, below which these limits hold.
        place, step: as those of :class:`BodyLimits`; they tighten these, and never widen them.
    """

    channel: str
    below: _Number
    place: dict[str, tuple[_Number, _Number]] = field(default_factory=dict)
    step: dict[str, _Positive] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)
        for name, (low, high) in self.place.items():
            _check_range(f"place.{name}", low, high)


@dataclass(frozen=True)
class BodyLimits:
    """The limits of one body. Channels that are not named are free within the body's own limits.

    Where limits contradict each other, the workspace is kept first, then steps, then places, then jerk.

    Attributes:
        place: by action channel, the lowest and highest command.
        step: by action channel, how far a command may be from the one before it.
        jerk: by action channel, how far a step may be from the step before it, which is the second difference of
            commands: jerk where commands are velocities. Where they are places, it bounds acceleration.
        workspace: by the channel of the state that is kept within it.
        near: tighter limits while something is near.
    """

    place: dict[str, tuple[_Number, _Number]] = field(default_factory=dict)
    step: dict[str, _Positive] = field(default_factory=dict)
    jerk: dict[str, _Positive] = field(default_factory=dict)
    workspace: dict[str, Workspace] = field(default_factory=dict)
    near: Near | None = None

    def __post_init__(self) -> None:
        check(self)
        for name, (low, high) in self.place.items():
            _check_range(f"place.{name}", low, high)


@dataclass(frozen=True)
class Limits:
    """Limits by the names of bodies."""

    bodies: dict[str, BodyLimits]

    @staticmethod
    def read(path: Path) -> Limits:
        """The limits in a TOML file, a table for each body. Raises PolysomaError that names the key."""
        table = read_toml(path, "limits")
        if not table:
            raise PolysomaError(f"{path}: expected a table for each body, got none")
        bodies = {}
        for name, own in table.items():
            if not isinstance(own, dict):
                raise PolysomaError(f"{path}: {name}: expected the table of a body, got {own!r}")
            bodies[name] = decode(BodyLimits, own, f"{path}: {name}")
        return Limits(bodies)

    def around(self, planners: Sequence[Planner | Policy]) -> list[Limited]:
        """The planners with the limits of the bodies that each knows. Raises PolysomaError where none knows a body."""
        every = [as_planner(planner) for planner in planners]
        known = [{body.name for body in known_embodiments(planner)} for planner in every]
        if strange := sorted(self.bodies.keys() - set().union(*known)):
            raise PolysomaError(f"limits of {strange}: expected bodies of {sorted(set().union(*known))}")
        return [
            Limited(planner, Limits({name: own for name, own in self.bodies.items() if name in bodies}))
            for planner, bodies in zip(every, known, strict=True)
        ]

    def of(self, body: Embodiment) -> BodyLimits | None:
        """Those of one body; None where it has none."""
        return self.bodies.get(body.name)


@dataclass(frozen=True)
class Limited(Wrapper):
    """A planner whose bodies are kept within limits by whoever executes its plans. It stands outside of all others.

    Args:
        planner: a planner, or a policy.
        limits: of its bodies; those without are free.

    Raises:
        PolysomaError: the planner does not know a body of the limits, or has limits already.
    """

    planner: Planner
    limits: Limits

    def __init__(self, planner: Planner | Policy, limits: Limits) -> None:
        object.__setattr__(self, "planner", as_planner(planner))
        object.__setattr__(self, "limits", limits)
        bodies = {body.name: body for body in known_embodiments(self.planner)}
        if bodies and (unknown := sorted(limits.bodies.keys() - bodies.keys())):
            raise PolysomaError(f"limits of {unknown}: expected bodies that the policy knows, {sorted(bodies)}")
        for name, own in limits.bodies.items():
            if name in bodies:
                Limiter(bodies[name], own)

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`Planner.start`. Raises PolysomaError where the limits do not fit the body, or the planner knows
        no bodies and the limits do not name this one."""
        own = self.limits.of(prompt.body)
        if own is None and not known_embodiments(self.planner):
            raise PolysomaError(f"limits: expected a table for {prompt.body.name}, got {sorted(self.limits.bodies)}")
        session = self.planner.start(prompt, seed)
        if session.limiter is not None:
            session.close()
            raise PolysomaError(f"{prompt.body.name} has limits already: give one file of limits")
        session.limiter = None if own is None else Limiter(prompt.body, own)
        return session

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`Planner.plan`."""
        return self.planner.plan(sessions, observations)


def _check_range(key: str, low: float | None, high: float | None) -> None:
    if low is not None and high is not None and low > high:
        raise SettingError(f"{key}: expected the lower end first, got {low:g} and {high:g}")

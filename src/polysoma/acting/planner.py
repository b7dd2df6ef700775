"""Planners: whatever turns observations into plans, for many bodies at a time.

    planner.start(prompt, seed) -> session            one an episode
    planner.plan(sessions, observations) -> plans     one batch, any number of episodes

A policy, a policy with retrieval, an expert, random actions and a remote server are planners; wrappers
(:class:`~polysoma.acting.retrieval.Retrieval`, :class:`~polysoma.acting.guards.Guarded`) take one and are one. An
:class:`~polysoma.acting.agent.Agent` binds a planner to one body and executes its plans.

This module imports no torch, so that recording with experts does not load it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from polysoma.acting.senses import picture
from polysoma.data.episode import Episode
from polysoma.embodiment import Embodiment, Modality, Observation
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.acting.foreseeing import Foreseen
    from polysoma.acting.limiter import Limiter
    from polysoma.acting.zones import ZoneCounts
    from polysoma.policy.policy import Policy


T = TypeVar("T")

GUARD = "guard"
"""The source of plans that a guard put in the place of others: nobody mixes them with anything."""


class NoPlan(PolysomaError):
    """There is no plan for a reason that lies in the episode: an expert gave up, a guard stopped the body.

    It ends the episode; any other PolysomaError is a mistake that ends a whole rollout.
    """


@dataclass(frozen=True, eq=False)
class TaskPrompt:
    """The task that a planner is given at the start of an episode.

    Attributes:
        body: the body that is to be driven.
        instruction: what to do in words; None leaves it to the observations, which may change it at any step.
        goal: None, or camera stream to what it is to see in the end, uint8 of the stream's shape; pictures of another
            size are resized (:func:`polysoma.acting.senses.picture`).
        demonstrations: episodes of this body that show the task, order unspecified, for policies that learn in context.
        observation_only: whether the demonstrations' actions are withheld.
        expert: where there is one, returns the expert's action in the present state; raises :class:`NoPlan`.

    Raises:
        PolysomaError: the goal is not one picture for each of the body's cameras.
    """

    body: Embodiment
    instruction: str | None = None
    goal: Mapping[str, np.ndarray] | None = None
    demonstrations: tuple[Episode, ...] = ()
    observation_only: bool = False
    expert: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        if self.goal is not None:
            object.__setattr__(self, "goal", _checked_goal(self.body, self.goal))


@dataclass(frozen=True, eq=False)
class Plan:
    """The next n actions of one body.

    Attributes:
        actions: float32 ``(n, A)`` in the body's units, or int64 ``(n,)``. Whoever executes them keeps to the limits.
        source: where they came from: ``"policy"``, ``"expert"``, :data:`GUARD`, ...
        readout: what the policy's head decoded, float32 ``(width,)``; None for planners without one.
        log_probabilities: of the choices, float32 ``(n, names)``; None where actions are numbers.
        choice_noise: what choices were drawn with (the Gumbel-max trick, temperature included), float64 ``(n, names)``:
            ``actions == (log_probabilities + choice_noise).argmax(-1)``. Whoever changes the probabilities draws again
            with the same noise (:meth:`with_log_probabilities`).
        risk: a guard's estimate for what the planner wanted, 0 to 1; None where nobody judged.
        alarm: which alarms a guard raised, in words; empty for none.
        replaced: the actions that a guard put others in the place of; None where it did not.
        others: draws so many other plans that the planner might as well have made, float32 ``(count, n, A)``; called
            before the next observation or never. None where it would make the same plan again.
    """

    actions: np.ndarray
    source: str
    readout: np.ndarray | None = None
    log_probabilities: np.ndarray | None = None
    choice_noise: np.ndarray | None = None
    risk: float | None = None
    alarm: str = ""
    replaced: np.ndarray | None = None
    others: Callable[[int], np.ndarray] | None = None

    def __len__(self) -> int:
        """The number of actions."""
        return len(self.actions)

    def first(self, count: int) -> Plan:
        """The plan without what follows its first ``count`` actions."""
        kept = ("actions", "log_probabilities", "choice_noise")
        cut = {name: value[:count] for name in kept if (value := getattr(self, name)) is not None}
        return dataclasses.replace(self, **cut)

    def with_log_probabilities(self, log_probabilities: np.ndarray, source: str) -> Plan:
        """The choices under other probabilities, float32 ``(n, names)``, drawn with the same noise. Probabilities of
        which some are set to 0 (``-inf``) give an exact draw among the others."""
        noise = 0.0 if self.choice_noise is None else self.choice_noise
        chosen = (log_probabilities + noise).argmax(-1)
        return dataclasses.replace(self, actions=chosen, source=source, log_probabilities=log_probabilities)


@dataclass
class Interventions:
    """What a guard did to the plans of an episode: how many it judged, replaced and stopped, and raised an alarm of."""

    judged: int = 0
    replaced: int = 0
    stopped: int = 0
    alarms: int = 0

    def __add__(self, other: Interventions) -> Interventions:
        names = [one.name for one in dataclasses.fields(self)]
        return Interventions(*(getattr(self, name) + getattr(other, name) for name in names))


class Session:
    """One episode of one body, as its planner remembers it. Planners without a memory use it as it is.

    Between two observations a session is told once what was executed, whoever decided it: the plan, a guard, a person.

    Attributes:
        prompt: the task.
        chunk: the number of actions in a plan.
        interventions: of guards.
        limiter: None, or what every action passes last (:class:`polysoma.acting.limits.Limited`).
        zones: None, or how often the body was where it is not to be (:class:`polysoma.acting.zones.Watched`).
        foreseen: None, or what a world model expects of the episode (:class:`polysoma.acting.foreseeing.Foreseeing`).
    """

    def __init__(self, prompt: TaskPrompt, chunk: int = 1) -> None:
        self.prompt, self.chunk = prompt, chunk
        self.interventions = Interventions()
        self.limiter: Limiter | None = None
        self.zones: ZoneCounts | None = None
        self.foreseen: Foreseen | None = None

    def prepare(self) -> None:
        """Makes what the first plan would have to wait for. Called by who is going to ask for plans, once.
        Raises PolysomaError when it cannot be made."""

    def observed(self, observation: Observation) -> None:
        """An observation for which no plan is asked, because an earlier one is being executed."""

    def executed(self, action: np.ndarray) -> None:
        """The action that was executed after the last observation: float32 ``(A,)`` or an int64 scalar."""

    def ended(self, observation: Observation) -> None:
        """The last observation of the episode, after which nothing is planned; for those who count what came."""

    def close(self) -> None:
        """The episode is over."""


class WrappedSession(Session):
    """A session of a wrapper: what happens in it is passed on to the wrapped planner's own, ``inner``, and what those
    further inside count, limit and foresee counts here as well."""

    def __init__(self, inner: Session) -> None:
        super().__init__(inner.prompt, inner.chunk)
        self.inner = inner
        self.interventions, self.limiter = inner.interventions, inner.limiter
        self.zones, self.foreseen = inner.zones, inner.foreseen

    def prepare(self) -> None:
        """See :class:`Session`."""
        self.inner.prepare()

    def observed(self, observation: Observation) -> None:
        """See :class:`Session`."""
        self.inner.observed(observation)

    def executed(self, action: np.ndarray) -> None:
        """See :class:`Session`."""
        self.inner.executed(action)

    def ended(self, observation: Observation) -> None:
        """See :class:`Session`."""
        self.inner.ended(observation)

    def close(self) -> None:
        """See :class:`Session`."""
        self.inner.close()


@runtime_checkable
class Planner(Protocol):
    """Turns observations into plans.

    Planners that drive bodies of their own choice also have ``embodiments``, those that they know
    (:func:`known_embodiments`).
    """

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """A new episode.

        Args:
            prompt: what to do, with which body.
            seed: of all that is drawn in it; draws do not depend on what else is in a batch.

        Raises:
            PolysomaError: an unknown body, or a prompt that this planner cannot follow.
        """
        ...

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """One plan for each session, or what is wrong with it, which does not touch the others.

        Args:
            sessions: different ones, of this planner.
            observations: one for each, checked (:meth:`~polysoma.embodiment.Embodiment.check_observation`).
        """
        ...


class Wrapper:
    """What planners share that wrap another one: they know the bodies that it knows, and start its sessions."""

    planner: Planner

    @property
    def embodiments(self) -> tuple[Embodiment, ...]:
        """The bodies that the wrapped planner knows."""
        return known_embodiments(self.planner)

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`Planner.start`."""
        return self.planner.start(prompt, seed)


class ExpertPlanner:
    """Asks the expert of the prompt (a simulated task has one), one action at a time."""

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`Planner.start`. Raises PolysomaError where there is no expert."""
        if prompt.expert is None:
            raise PolysomaError(f"{prompt.body.name}: there is no expert here; simulated tasks have one")
        return Session(prompt)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`Planner.plan`."""
        return [self._ask(session.prompt) for session in sessions]

    def _ask(self, prompt: TaskPrompt) -> Plan | PolysomaError:
        assert prompt.expert is not None
        try:
            return Plan(np.asarray(prompt.expert())[None], "expert")
        except PolysomaError as failure:
            return failure


class RandomPlanner:
    """Actions that are drawn evenly between the body's limits, one at a time."""

    class _Session(Session):
        def __init__(self, prompt: TaskPrompt, seed: int) -> None:
            super().__init__(prompt)
            self.rng = np.random.default_rng([seed, 17])

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`Planner.start`."""
        return self._Session(prompt, seed)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`Planner.plan`."""
        plans: list[Plan | PolysomaError] = []
        for session in sessions:
            assert isinstance(session, self._Session)
            plans.append(Plan(session.prompt.body.actions.sample(session.rng)[None], "random"))
        return plans


def as_planner(planner: Planner | Policy, temperature: float | None = None) -> Planner:
    """The planner itself, or that of a policy, whose choices are drawn at this temperature (None for the default).

    Raises:
        PolysomaError: a temperature for what is a planner already.
    """
    if isinstance(planner, Planner):
        if temperature is not None:
            raise PolysomaError(
                "a temperature belongs to what draws: PolicyPlanner(policy, temperature=...), not to the agent of a "
                "planner"
            )
        return planner
    from polysoma.acting.policy_planner import TEMPERATURE, PolicyPlanner

    return PolicyPlanner(planner, TEMPERATURE if temperature is None else temperature)


def known_embodiments(planner: Planner) -> tuple[Embodiment, ...]:
    """The bodies that a planner knows by itself; none for those that drive whatever body they are given."""
    found: tuple[Embodiment, ...] = getattr(planner, "embodiments", ())
    return found


def embodiment_for(planner: Planner, body: str | Embodiment | None) -> Embodiment:
    """The body as the planner knows it; as it is given where the planner knows none by itself; for None the only one
    that the planner knows.

    Raises:
        PolysomaError: the planner does not know the body, knows another one of its name, with other streams or actions,
            or it is given by name to one that knows none; or None, and the planner knows none or several.
    """
    known = known_embodiments(planner)
    if body is None and known:
        if len(known) > 1:
            raise PolysomaError(f"say which body to drive; this policy knows {[one.name for one in known]}")
        return known[0]
    if not known and isinstance(body, Embodiment):
        return body
    name = body.name if isinstance(body, Embodiment) else body
    for embodiment in known:
        if embodiment.name == name:
            if isinstance(body, Embodiment):
                _check_alike(embodiment, body)
            return embodiment
    if known:
        raise PolysomaError(f"this policy does not know the body {name!r}; it knows {[b.name for b in known]}")
    raise PolysomaError(
        f"a {type(planner).__name__} knows no bodies by their names: expected an Embodiment, got {name!r}"
    )


def within_limits(body: Embodiment, actions: np.ndarray) -> np.ndarray:
    """A plan's actions as they may be executed: float32 ``(n, A)`` clipped to the limits, or int64 ``(n,)``.

    Raises:
        PolysomaError: there are none, or one of them is not an action of this body.
    """
    found = read_by(body.check_actions, actions, f"plan for {body.name}")
    if not len(found):
        raise PolysomaError(f"a plan for {body.name} is empty: expected at least one action")
    return found


def read_by(check: Callable[[Any], T], value: Any, where: str) -> T:
    """What a check makes of what comes from outside. Raises PolysomaError, also where no array can be made of it: it
    stays the problem of who sent it."""
    try:
        return check(value)
    except PolysomaError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise PolysomaError(f"{where}: expected arrays of numbers ({error})") from error


def _check_alike(known: Embodiment, given: Embodiment) -> None:
    """Raises PolysomaError where what a planner was made for senses or moves something else than the body does."""
    if (known.streams, known.actions) != (given.streams, given.actions):
        same = dataclasses.replace(given, rate_hz=known.rate_hz, body=known.body, privileged=known.privileged)
        raise PolysomaError(
            f"the body {given.name!r} is not the one of this name that the policy knows: "
            + "; ".join(same.differences(known))
        )


def _checked_goal(body: Embodiment, goal: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    cameras = {stream.name: stream for stream in body.streams if stream.modality is Modality.IMAGE}
    if not cameras:
        raise PolysomaError(f"goal of {body.name}: a goal is a picture, and this body has no camera")
    if set(goal) != set(cameras):
        raise PolysomaError(f"goal of {body.name}: expected pictures of {sorted(cameras)}, got {sorted(goal)}")
    # Their own: they are read again whenever the words change.
    return {
        name: picture(f"goal of {body.name}, camera {name!r}", camera, goal[name]).copy()
        for name, camera in cameras.items()
    }

"""Agents: a planner bound to one body.

A planner plans; an agent executes: how much of a plan before the next one is asked for, what averages plans that
overlap, the body's limits, how long decisions take, and what was executed in the end.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polysoma.acting.planner import (
    Plan,
    Planner,
    Session,
    TaskPrompt,
    as_planner,
    embodiment_for,
    within_limits,
)
from polysoma.data.episode import Episode
from polysoma.embodiment import INSTRUCTION, DiscreteActions, Embodiment, Observation
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.policy.policy import Policy


@dataclass(frozen=True)
class Acting:
    """How plans become actions.

    Attributes:
        execute: how many actions of a plan are executed before the planner is asked again; None for half of them.
        ensemble: None, or the rate w of temporal ensembling (Zhao et al. 2023, ACT, section IV.B): the planner is asked
            at every step and the plans that overlap are averaged with weights ``exp(-w * age)``.
        temperature: of the choice among discrete actions of a policy; None for the default of
            :class:`~polysoma.acting.policy_planner.PolicyPlanner`. What is a planner already has its own.
    """

    execute: int | None = None
    ensemble: float | None = None
    temperature: float | None = None

    def agent(self, planner: Planner | Policy, body: str | Embodiment, **prompt: Any) -> Agent:
        """An agent that acts like this; further arguments as those of :class:`BoundPlanner`."""
        return Agent(planner, body, acting=self, **prompt)


class Source(enum.StrEnum):
    """Where an action came from."""

    PLAN = "plan"
    HELD = "held"
    """The plan had run out: the last action again."""
    STOPPED = "stopped"
    """Nothing had come for too long, or a guard stopped the body."""


@dataclass
class Timing:
    """How long decisions took, against the body's own period.

    Attributes:
        period_s: seconds between two actions at the body's rate.
        actions: decided so far in this episode.
        late: how many of them took longer than a period.
        last_s, worst_s: seconds of the last and of the slowest one.
    """

    period_s: float
    actions: int = 0
    late: int = 0
    last_s: float = 0.0
    worst_s: float = 0.0

    def add(self, seconds: float) -> None:
        """Counts one decision."""
        self.actions += 1
        self.late += seconds > self.period_s
        self.last_s, self.worst_s = seconds, max(self.worst_s, seconds)

    def __str__(self) -> str:
        return (
            f"{self.late} of {self.actions} actions late at {1 / self.period_s:g} Hz, "
            f"worst {1e3 * self.worst_s:.1f} ms of {1e3 * self.period_s:.1f} ms"
        )


class BoundPlanner:
    """A planner that drives one body, step by step: what :class:`Agent` and
    :class:`~polysoma.acting.realtime.RealTimeAgent` share. Evaluations take either.

    Args:
        planner: what plans, or a policy; many agents may share one.
        body: the embodiment, or its name where the planner knows bodies.
        instruction: what to do; needed unless observations bring their own ``"instruction"``, or there is a goal.
        seed: of what is drawn.
        goal: None, or camera stream to what it is to see in the end, uint8 of the stream's shape; with or instead of
            words.
        demonstrations: episodes of this body that show the task, order unspecified, for policies that learn in context.
        observation_only: whether the demonstrations' actions are withheld.
        expert: see :class:`~polysoma.acting.planner.TaskPrompt`.
        temperature: see :class:`Acting`.

    Attributes:
        planner: what plans.
        body: the embodiment.
        instruction, goal, demonstrations: what holds in this episode.
        session: the planner's memory of this episode.
        timing: how late decisions are.
        asked: whether the planner was asked for the last action, or it came from an earlier plan.
        source: where the last action came from.
        plan: the last plan; None before the first.

    Raises:
        PolysomaError: the planner does not know the body, or cannot follow what it is told.
    """

    timing: Timing
    session: Session
    asked: bool
    source: Source
    plan: Plan | None

    def __init__(
        self,
        planner: Planner | Policy,
        body: str | Embodiment,
        instruction: str | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        demonstrations: Sequence[Episode] = (),
        observation_only: bool = False,
        expert: Callable[[], Any] | None = None,
        temperature: float | None = None,
    ) -> None:
        self.planner = as_planner(planner, temperature)
        self.body = embodiment_for(self.planner, body)
        self.instruction: str | None = None
        self.goal: Mapping[str, np.ndarray] | None = None
        self.demonstrations: tuple[Episode, ...] = ()
        self._observation_only = False
        self._expert = expert
        self.reset(instruction, seed, goal, demonstrations, observation_only)

    def reset(
        self,
        instruction: str | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        demonstrations: Sequence[Episode] | None = None,
        observation_only: bool = False,
    ) -> None:
        """Begins a new episode. An instruction, a goal and demonstrations that are not given stay as they were; empty
        demonstrations forget those of before.

        Raises:
            PolysomaError: the goal is not a picture for each of the body's cameras, or the planner cannot follow goals
                or demonstrations.
        """
        self._settle()
        self.instruction = self.instruction if instruction is None else instruction
        self.goal = self.goal if goal is None else goal
        if demonstrations is not None:
            self.demonstrations, self._observation_only = tuple(demonstrations), observation_only
        prompt = TaskPrompt(
            self.body, self.instruction, self.goal, self.demonstrations, self._observation_only, self._expert
        )
        self.session = self.planner.start(prompt, seed)
        self.timing = Timing(1 / self.body.rate_hz)
        self.asked, self.source, self.plan = False, Source.PLAN, None
        self._executed: np.ndarray | None = None
        self._started()

    def _settle(self) -> None:
        """Waits for what is still computed for the episode that ends."""

    def _started(self) -> None:
        """Sets what a kind of agent keeps for an episode, when its session has started."""
        raise NotImplementedError

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """The action for this observation: float32 ``(A,)`` within the limits, or an int64 scalar.

        Raises:
            PolysomaError: the observation is not one of this body, holds a NaN, or there is no instruction; or there is
                no plan.
        """
        raise NotImplementedError

    def executed(self, action: Any) -> None:
        """Says that another action than the agent's own was executed (by a guard, or a person who took over).

        Raises:
            PolysomaError: it is not an action of this body.
        """
        self._executed = self.body.check_action(action)

    def tell_executed(self) -> None:
        """Tells the session what was executed since its last observation, if anything was."""
        if self._executed is not None:
            self.session.executed(self._executed)
            self._executed = None

    def checked(self, observation: Mapping[str, Any]) -> Observation:
        """The observation as the planner will see it, with the agent's instruction where it brings none.

        Raises:
            PolysomaError: as :meth:`act`.
        """
        if INSTRUCTION not in observation:
            if self.instruction is None and self.goal is None:
                raise PolysomaError(
                    f"the agent of {self.body.name} has no instruction: give one to agent(), reset() or in "
                    "observations, or show a goal"
                )
            observation = {**observation, INSTRUCTION: self.instruction or ""}
        return self.body.check_observation(observation)

    def close(self) -> None:
        """Ends the episode for good."""
        self._settle()
        self.session.close()


class Agent(BoundPlanner):
    """Drives one body: executes a part of each plan, or averages plans that overlap.

    Args:
        acting: see :class:`Acting`.
        others: see :class:`BoundPlanner`.

    Raises:
        PolysomaError: as :class:`BoundPlanner`, or ``acting`` does not fit the body.
    """

    def __init__(
        self,
        planner: Planner | Policy,
        body: str | Embodiment,
        instruction: str | None = None,
        acting: Acting | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        demonstrations: Sequence[Episode] = (),
        observation_only: bool = False,
        expert: Callable[[], Any] | None = None,
    ) -> None:
        self.acting = acting or Acting()
        super().__init__(
            planner, body, instruction, seed, goal, demonstrations, observation_only, expert, self.acting.temperature
        )
        chunk, execute = self.session.chunk, self.acting.execute
        if execute is not None and not 1 <= execute <= chunk:
            raise PolysomaError(f"execute must be 1..{chunk} for {self.body.name}, got {execute}")
        if self.acting.ensemble is not None and isinstance(self.body.actions, DiscreteActions):
            raise PolysomaError(f"temporal ensembling averages numbers; the actions of {self.body.name} are choices")

    def _started(self) -> None:
        self._waiting: deque[np.ndarray] = deque()
        self._overlapping: deque[tuple[int, np.ndarray]] = deque(maxlen=self.session.chunk)
        self._planned: np.ndarray = np.empty(0)
        self._step = 0

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """See :meth:`BoundPlanner.act`."""
        (action,) = act_together([self], [observation])
        if isinstance(action, PolysomaError):
            raise action
        return action

    def executed_of_plan(self, count: int) -> None:
        """Says how many actions of the last plan (:func:`plan_together`) were executed.

        Raises:
            PolysomaError: there is no plan of so many actions.
        """
        if not 1 <= count <= len(self._planned):
            raise PolysomaError(f"executed: expected 1 to {len(self._planned)} actions of the last chunk, got {count}")
        self._executed = self._planned[count - 1]

    def _next(self, plan: Plan | None) -> np.ndarray:
        """The action for this step: of a new plan, or what is left of the one before."""
        if plan is not None:
            self.plan = plan
            self._waiting.extend(self._chosen(plan))
        if not self._waiting:
            raise PolysomaError(f"a plan for {self.body.name} is empty: expected at least one action")
        self._executed = self.body.check_action(self._waiting.popleft())
        return self._executed

    def _chosen(self, plan: Plan) -> Sequence[np.ndarray] | np.ndarray:
        """Those of a plan's actions that are to be executed before the next one."""
        if self.acting.ensemble is None:
            execute = (self.session.chunk + 1) // 2 if self.acting.execute is None else self.acting.execute
            return plan.actions[:execute]
        self._overlapping.append((self._step, plan.actions))
        every = [(self._step - since, actions) for since, actions in self._overlapping]
        now = [(age, actions[age]) for age, actions in every if age < len(actions)]
        weight = np.exp(-self.acting.ensemble * np.array([age for age, _ in now]))
        return [(weight / weight.sum()) @ np.stack([action for _, action in now])]


def act_together(
    agents: Sequence[BoundPlanner], observations: Sequence[Mapping[str, Any]]
) -> list[np.ndarray | PolysomaError]:
    """One action for each agent, or what is wrong with it, which does not touch the others.

    Agents that need a plan of one planner share a batch; those that ask by themselves
    (:class:`~polysoma.acting.realtime.RealTimeAgent`) act one by one.
    """
    began = time.perf_counter()
    actions: dict[int, np.ndarray | PolysomaError] = {}
    batched: dict[int, Agent] = {}
    asking: dict[int, tuple[Agent, Observation]] = {}
    for row, (agent, observation) in enumerate(zip(agents, observations, strict=True)):
        try:
            if not isinstance(agent, Agent):
                actions[row] = agent.act(observation)
                continue
            checked = agent.checked(observation)
        except PolysomaError as error:
            actions[row] = error
            continue
        batched[row] = agent
        agent.tell_executed()
        agent.asked = not agent._waiting
        if agent.asked:
            asking[row] = agent, checked
        else:
            agent.session.observed(checked)
    plans = _plans(asking)
    for row, agent in batched.items():
        plan = plans.get(row)
        try:
            if isinstance(plan, PolysomaError):
                raise plan
            actions[row] = agent._next(plan)
        except PolysomaError as error:
            actions[row] = error
        agent._step += 1
        agent.timing.add(time.perf_counter() - began)
    return [actions[row] for row in range(len(agents))]


def plan_together(
    agents: Sequence[Agent], observations: Sequence[Mapping[str, Any]]
) -> list[np.ndarray | PolysomaError]:
    """The whole next plan for each agent, within its body's limits, or what is wrong with it, which does not touch the
    others: float32 ``(n, A)`` or int64 ``(n,)``.

    For those who execute plans elsewhere: an agent takes it that all actions will be executed before its next
    observation, unless :meth:`Agent.executed_of_plan` or :meth:`Agent.executed` says otherwise.

    Args:
        agents: different ones.
        observations: one for each.
    """
    began = time.perf_counter()
    answers: dict[int, np.ndarray | PolysomaError] = {}
    asking: dict[int, tuple[Agent, Observation]] = {}
    for row, (agent, observation) in enumerate(zip(agents, observations, strict=True)):
        try:
            asking[row] = agent, agent.checked(observation)
        except PolysomaError as error:
            answers[row] = error
            continue
        agent._waiting.clear()
        agent.tell_executed()
    for row, plan in _plans(asking).items():
        agent = asking[row][0]
        try:
            if isinstance(plan, PolysomaError):
                raise plan
            agent.plan, agent._planned = plan, within_limits(agent.body, plan.actions)
        except PolysomaError as error:
            answers[row] = error
            continue
        answers[row], agent._executed = agent._planned, agent._planned[-1]
        agent.timing.add(time.perf_counter() - began)
    return [answers[row] for row in range(len(agents))]


def _plans(asking: Mapping[int, tuple[Agent, Observation]]) -> dict[int, Plan | PolysomaError]:
    """Asks the planners; agents of equal planners share one batch."""
    groups: list[tuple[Planner, list[int]]] = []
    for row, (agent, _) in asking.items():
        for planner, rows in groups:
            if planner is agent.planner or planner == agent.planner:
                rows.append(row)
                break
        else:
            groups.append((agent.planner, [row]))
    plans: dict[int, Plan | PolysomaError] = {}
    for planner, rows in groups:
        try:
            found = planner.plan([asking[row][0].session for row in rows], [asking[row][1] for row in rows])
        except PolysomaError as error:
            found = [error] * len(rows)
        plans |= zip(rows, found, strict=True)
    return plans

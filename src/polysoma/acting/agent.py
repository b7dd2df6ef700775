"""Agents: a planner bound to one body.

A planner plans; an agent executes: how much of a plan before the next one is asked for, what averages plans that
overlap, the body's limits, how long decisions take, and what was executed in the end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polysoma.acting.bound import BoundPlanner
from polysoma.acting.limits import Limited, Limits
from polysoma.acting.planner import GUARD, Plan, Planner, as_planner, within_limits
from polysoma.data.episode import Episode
from polysoma.embodiment import DiscreteActions, Embodiment, Observation
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.policy.policy import Policy


@dataclass(frozen=True)
class Acting:
    """How plans become actions.

    Attributes:
        execute: how many actions of a plan are executed before the planner is asked again; None for half of them.
        ensemble: None, or the rate w of temporal ensembling (Zhao et al. 2023, ACT, section IV.B): the planner is asked
            at every step and the plans that overlap are averaged with weights ``exp(-w * age)``: above 0 newer plans
            count more, where the paper's positive rate favours older ones. Those of a guard are executed as they are.
        temperature: of the choice among discrete actions of a policy; None for the default of
            :class:`~polysoma.acting.policy_planner.PolicyPlanner`. What is a planner already has its own.
        limits: kept last (:mod:`polysoma.acting.limits`); None for the body's own alone.
    """

    execute: int | None = None
    ensemble: float | None = None
    temperature: float | None = None
    limits: Limits | None = None

    def agent(self, planner: Planner | Policy, body: str | Embodiment, **prompt: Any) -> Agent:
        """An agent that acts like this; further arguments as those of :class:`BoundPlanner`."""
        return Agent(planner, body, acting=self, **prompt)


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
        body: str | Embodiment | None = None,
        instruction: str | None = None,
        acting: Acting | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        demonstrations: Sequence[Episode] = (),
        observation_only: bool = False,
        expert: Callable[[], Any] | None = None,
    ) -> None:
        self.acting = acting or Acting()
        temperature = self.acting.temperature
        if self.acting.limits is not None:
            planner, temperature = Limited(as_planner(planner, temperature), self.acting.limits), None
        super().__init__(planner, body, instruction, seed, goal, demonstrations, observation_only, expert, temperature)

    def _started(self) -> None:
        chunk, execute = self.session.chunk, self.acting.execute
        if execute is not None and not 1 <= execute <= chunk:
            raise PolysomaError(
                f"execute must be 1..{chunk} for {self.body.name}, got {execute}: no plan has more actions, and with a "
                "guard no more than it judges"
            )
        if self.acting.ensemble is not None and isinstance(self.body.actions, DiscreteActions):
            raise PolysomaError(f"temporal ensembling averages numbers; the actions of {self.body.name} are choices")
        self._waiting: deque[np.ndarray] = deque()
        self._overlapping: deque[tuple[int, np.ndarray]] = deque(maxlen=chunk)
        self._planned: np.ndarray = np.empty(0)
        self._step = 0

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """See :meth:`BoundPlanner.act`."""
        (action,) = act_together([self], [observation])
        if isinstance(action, PolysomaError):
            raise action
        return action

    def executed_of_plan(self, count: int) -> None:
        """Says how many actions of the last plan (:func:`plan_together`) were executed; 0 where the same moment is
        observed again.

        Raises:
            PolysomaError: there is no plan of so many actions.
        """
        if not 0 <= count <= len(self._planned):
            raise PolysomaError(f"executed: expected 0 to {len(self._planned)} actions of the last chunk, got {count}")
        self._executed = self._planned[count - 1] if count else None
        if self.session.limiter is not None:
            self.session.limiter.executed(self._planned[:count])

    def executed_beside_plan(self, count: int, action: Any) -> None:
        """Says that so many actions were executed since the last plan, 1 or more, of which the last was another one.
        Those before it were the plan's; when it has run out, its last action holds.

        Raises:
            PolysomaError: it is not an action of this body.
        """
        self.executed(action, self._planned[: count - 1])

    def _next(self, plan: Plan | None, observation: Observation) -> np.ndarray:
        """The action for this step: of a new plan, or what is left of the one before."""
        if plan is not None:
            self._waiting.extend(self._chosen(plan))
            self.plan = plan
        (self._executed,) = self.limited(np.asarray(self._waiting.popleft())[None], observation)
        # A copy, as what was executed is told later, whatever its new owner does with it.
        return self._executed.copy()

    def _chosen(self, plan: Plan) -> Sequence[np.ndarray] | np.ndarray:
        """Those of a plan's actions that are to be executed before the next one, within the limits."""
        if self.acting.ensemble is None:
            execute = (self.session.chunk + 1) // 2 if self.acting.execute is None else self.acting.execute
            return within_limits(self.body, plan.actions[:execute])
        actions = within_limits(self.body, plan.actions)
        if plan.source == GUARD:
            self._overlapping.clear()
            return actions[:1]
        self._overlapping.append((self._step, actions))
        every = [(self._step - since, actions) for since, actions in self._overlapping]
        now = [(age, actions[age]) for age, actions in every if age < len(actions)]
        weight = np.exp(-self.acting.ensemble * np.array([age for age, _ in now]))
        return [((weight / weight.sum()) @ np.stack([action for _, action in now])).astype(np.float32)]


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
    seen: dict[int, Observation] = {}
    for row, (agent, observation) in enumerate(zip(agents, observations, strict=True)):
        try:
            if not isinstance(agent, Agent):
                actions[row] = agent.act(observation)
                continue
            checked = agent.checked(observation)
        except PolysomaError as error:
            actions[row] = error
            continue
        batched[row], seen[row] = agent, checked
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
            actions[row] = agent._next(plan, seen[row])
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
            agent.plan = plan
            agent._planned = agent.limited(within_limits(agent.body, plan.actions), asking[row][1])
        except PolysomaError as error:
            answers[row] = error
            continue
        # A copy, as what was executed is told later, whatever its new owner does with it.
        answers[row], agent._executed = agent._planned.copy(), agent._planned[-1]
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

"""One body on the stage: its simulation, what drives it, and the score."""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from polysoma import simulators
from polysoma.acting.agent import Agent
from polysoma.acting.foreseeing import Beside
from polysoma.acting.planner import GUARD, Plan, Planner, as_planner, embodiment_for
from polysoma.acting.policy_planner import policy_behind
from polysoma.data.images import encode_jpeg
from polysoma.embodiment import INSTRUCTION, Modality, Observation
from polysoma.errors import PolysomaError
from polysoma.policy.policy import Policy
from polysoma.rollout.slots import StepExpert
from polysoma.simulators.environment import Environment

REST_SECONDS = 1.0
"""How long the end of an episode stays in view."""
FIRST_SEED = 7000

FAVOURITES = {
    "metaworld": "metaworld/drawer-open-v3",
    "metaworld-pixels": "metaworld-pixels/drawer-close-v3",
    "babyai": "babyai/GoToObj",
    "drone": "drone/ring",
    "fetch": "fetch/pick-and-place",
    "pointmaze": "pointmaze/medium",
}
"""The task that a body begins with, where its family's first one is not the best to look at."""


class Actor:
    """One body on the stage: its simulation, its agent, and the score.

    Args:
        planner: what plans, or a policy.
        body: name of a simulated embodiment that the planner can drive.
    """

    def __init__(self, planner: Planner | Policy, body: str) -> None:
        self.planner, self.name = as_planner(planner), body
        self.policy = policy_behind(self.planner)
        self.embodiment = embodiment_for(self.planner, simulators.embodiments()[body])
        self.tasks = simulators.tasks_of(body)
        self.episodes = self.successes = 0
        self.paused = False
        self.wind = 0.0
        self.said: str | None = None
        self.goal: Mapping[str, np.ndarray] | None = None
        self.decisions_ms: deque[float] = deque(maxlen=120)
        self._environments: dict[str, tuple[float, Environment]] = {}
        """By task, with the wind in each."""
        self._agent: Agent | None = None
        self._seed = FIRST_SEED
        self._owed = self._rest = 0.0
        self.change_task(FAVOURITES.get(body, self.tasks[0]))

    @property
    def agent(self) -> Agent:
        """What drives the body in this episode."""
        assert self._agent is not None
        return self._agent

    @property
    def windy(self) -> bool:
        """Whether there is wind where this body is."""
        return hasattr(self.environment, "wind")

    def change_task(self, task: str) -> None:
        """Begins with another task. Raises PolysomaError when the body has no such task."""
        if task not in self.tasks:
            raise PolysomaError(f"{self.name} has no task {task!r}")
        self.task, self.said, self.goal = task, None, None
        self.reset()

    def reset(self) -> None:
        """Begins the next episode."""
        wind, before = self._environments.get(self.task, (self.wind, None))
        if before is None or wind != self.wind:
            options: dict[str, Any] = {"wind": self.wind} if self.wind else {}
            self._environments[self.task] = self.wind, simulators.make(self.task, **options)
            # One of each task: there are as many winds as anybody likes.
            if before is not None:
                before.close()
        _, self.environment = self._environments[self.task]
        self.observation, _ = self.environment.reset(seed=self._seed)
        self._seed += 1
        self.steps, self.over, self.success = 0, False, False
        self._new_agent()

    def say(self, text: str) -> None:
        """Tells the body what to do, instead of what its task says; an empty text gives the task's words back."""
        self.said = text.strip() or None
        self._new_agent()

    def show(self, goal: Mapping[str, np.ndarray] | None) -> None:
        """Shows the body what its cameras are to see. Raises PolysomaError where the policy follows no goals."""
        before = self.goal
        self.goal = goal
        try:
            self._new_agent()
        except PolysomaError:
            self.goal = before
            self._new_agent()
            raise

    @property
    def instruction(self) -> str:
        """The words that hold now."""
        return self.said if self.said is not None else self.observation[INSTRUCTION]

    def views(self) -> dict[str, np.ndarray]:
        """What the body's cameras see now, by stream."""
        return {s.name: self.observation[s.name] for s in self.embodiment.streams if s.modality is Modality.IMAGE}

    def live(self, seconds: float) -> None:
        """Lets so much time pass, in steps of the body's own rate."""
        if self.paused:
            return
        if self.over:
            self._rest += seconds
            if self._rest >= REST_SECONDS:
                self.reset()
            return
        self._owed += seconds * self.embodiment.rate_hz
        while self._owed >= 1 and not self.over:
            self._owed -= 1
            self.step()

    def step(self) -> None:
        """One action."""
        if self.over:
            self.reset()
            return
        observation: Observation = {**self.observation, INSTRUCTION: self.instruction}
        began = time.perf_counter()
        action = self.agent.act(observation)
        spent = 1e3 * (time.perf_counter() - began)
        if self.agent.asked:
            self.decisions_ms.append(spent)
        self.observation, _, terminated, truncated, info = self.environment.step(action)
        self._expert.stepped()
        self.steps += 1
        self.success = bool(info["success"])
        self.over = self.success or terminated or truncated or self.steps >= self.environment.max_steps
        if self.over:
            self.episodes += 1
            self.successes += self.success
            self._rest = self._owed = 0.0

    def status(self) -> dict[str, Any]:
        """What the page says about this body."""
        limiter, plan = self.agent.session.limiter, self.agent.plan
        foreseen = self.agent.session.foreseen
        beside = None if foreseen is None else foreseen.beside()
        return {
            "task": self.task,
            "told": self.instruction,
            "own_words": self.said is not None,
            "goal": self.goal is not None,
            "steps": self.steps,
            "episodes": self.episodes,
            "successes": self.successes,
            "paused": self.paused,
            "over": self.over,
            "success": self.success,
            "wind": self.wind,
            "late": self.agent.timing.late,
            **({} if limiter is None else {"limits": asdict(limiter.counts)}),
            **({} if plan is None or plan.risk is None else {"guard": self._guarded(plan, plan.risk)}),
            **({} if beside is None else {"foreseen": _told(beside)}),
            "ms": [round(value, 2) for value in self.decisions_ms],
        }

    def _guarded(self, plan: Plan, risk: float) -> dict[str, Any]:
        """What a guard said of the last plan, and did in this episode."""
        light = "red" if plan.alarm else "amber" if plan.source == GUARD else "green"
        counts = asdict(self.agent.session.interventions)
        return {"light": light, "risk": round(risk, 3), "alarm": plan.alarm, **counts}

    def description(self) -> dict[str, Any]:
        """What does not change."""
        return {
            "tasks": list(self.tasks),
            "rate_hz": self.embodiment.rate_hz,
            "tokens": "" if self.policy is None else self.policy.describe(self.name),
            "cameras": [s.name for s in self.embodiment.streams if s.modality is Modality.IMAGE],
            "follows_goals": self.policy is not None and self.policy.config.images.goals,
            "windy": self.windy,
        }

    def close(self) -> None:
        self.agent.close()
        for _, environment in self._environments.values():
            environment.close()

    def _new_agent(self) -> None:
        expert = StepExpert(self.environment)
        agent = Agent(self.planner, self.embodiment, self.instruction, seed=self._seed, goal=self.goal, expert=expert)
        if self._agent is not None:
            self._agent.close()
        self._agent, self._expert = agent, expert


def _told(beside: Beside) -> dict[str, Any]:
    """What a world model expected beside what came, for the page: rounded lines, and pictures as one JPEG in an
    address."""
    lines = {name: np.round(getattr(beside, name).astype(float), 4).tolist() for name in ("came", "expected")}
    if beside.pictures is not None:
        lines["pictures"] = "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(beside.pictures)).decode()
    return {"names": beside.names, **lines}

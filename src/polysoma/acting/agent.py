"""Agents: a policy bound to one body. All that an episode needs to remember lives here, none of it in the policy."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from polysoma.acting.retrieval import RetrievalMemory
from polysoma.data.episode import Episode
from polysoma.data.windows import Windows, no_action
from polysoma.embodiment import INSTRUCTION, DiscreteActions, Embodiment, Modality, Observation
from polysoma.errors import PolysomaError
from polysoma.policy.memory import Memory
from polysoma.policy.policy import Policy


@dataclass(frozen=True)
class Acting:
    """How predictions become actions.

    Attributes:
        execute: how many actions of a chunk are executed before the policy is asked again; None for half of a chunk.
        ensemble: None, or the rate w of temporal ensembling (Zhao et al. 2023, ACT, section IV.B): the policy is asked
            at every step and the predictions that overlap are averaged with weights ``exp(-w * age)``.
        temperature: of the choice among discrete actions; 0 takes the most probable one, which may go in circles. The
            default did best on development seeds of the grid world.
    """

    execute: int | None = None
    ensemble: float | None = None
    temperature: float = 0.6


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


class Agent:
    """Drives one body: history, chunk execution, limits, how late it is (``timing``), and whether the policy was asked
    for the last action (``thought``) or it came from the chunk before.

    Args:
        policy: whose weights are used, those of its adaptation where it has one for this body; many agents may share
            one.
        body: name of an embodiment that the policy knows.
        instruction: what to do; needed unless observations bring their own ``"instruction"``.
        acting: see :class:`Acting`.
        seed: of the choices among discrete actions, and of heads that draw.
        goal: None, or camera stream to what it is to see in the end, uint8 of the stream's shape; with or instead of
            words.
        memory: demonstrations to look up, which may be shared with other agents; None begins with an empty one when
            :attr:`memory` is first asked for.
        context: episodes of this body that show the task, in any order, for policies trained to be shown some.
    """

    def __init__(
        self,
        policy: Policy,
        body: str,
        instruction: str | None = None,
        acting: Acting | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        memory: RetrievalMemory | None = None,
        context: Sequence[Episode] = (),
    ) -> None:
        self.policy = policy.driving(body)
        self.body = self.policy.embodiment(body)
        self.acting = acting or Acting()
        execute = (self.body.chunk + 1) // 2 if self.acting.execute is None else self.acting.execute
        if not 1 <= execute <= self.body.chunk:
            raise PolysomaError(f"execute must be 1..{self.body.chunk} for {body}, got {execute}")
        if self.acting.ensemble is not None and isinstance(self.body.actions, DiscreteActions):
            raise PolysomaError(f"temporal ensembling averages numbers; the actions of {body} are choices")
        if self.acting.temperature < 0:
            raise PolysomaError(f"temperature must not be negative, got {self.acting.temperature}")
        self._retrieval = memory
        self._execute = 1 if self.acting.ensemble is not None else execute
        self.instruction: str | None = None
        self.goal: Mapping[str, np.ndarray] | None = None
        self.context: tuple[Episode, ...] = ()
        self._silent = False
        self.reset(instruction, seed, goal, context)

    def reset(
        self,
        instruction: str | None = None,
        seed: int = 0,
        goal: Mapping[str, np.ndarray] | None = None,
        context: Sequence[Episode] | None = None,
        silent: bool = False,
    ) -> None:
        """Begins a new episode. An instruction, a goal and a context that are not given stay as they were.

        Args:
            instruction: what to do.
            seed: of what is drawn.
            goal: see :class:`Agent`.
            context: see :class:`Agent`; an empty one forgets what was shown before.
            silent: whether the policy is not told what was done in these episodes, only what was sensed.

        Raises:
            PolysomaError: the goal is not a picture for each of the body's cameras, an episode is of another body, or
                the policy was not trained to be shown any.
        """
        self.instruction = self.instruction if instruction is None else instruction
        if goal is not None:
            self.goal = _checked_goal(self.body, goal)
        if context:
            self.policy.check_context(self.body.name, context)
        if context is not None:
            self.context, self._silent = tuple(context), silent
        self.timing = Timing(1 / self.body.rate_hz)
        self.thought = False
        self._rng = np.random.default_rng(seed)
        self._memory: Memory | None = None
        self._frames: list[Observation] = []
        self._previous = [no_action(self.body)]
        self._chunk: deque[np.ndarray] = deque()
        self._planned: np.ndarray = np.empty(0)
        self._overlapping: deque[np.ndarray] = deque(maxlen=self.body.chunk)

    @property
    def memory(self) -> RetrievalMemory:
        """Demonstrations that the agent looks up: ``agent.memory.add(episode)`` counts from the next decision on."""
        if self._retrieval is None:
            self._retrieval = RetrievalMemory(self.policy, self.body.name)
        return self._retrieval

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """The action for this observation: float32 ``(A,)`` within the limits, or an int64 scalar.

        Raises:
            PolysomaError: the observation is not one of this body, holds a NaN, or there is no instruction.
        """
        return act_together([self], [observation])[0]

    def executed(self, action: Any) -> None:
        """Tells the agent that another action than its own was executed (by a guard, or a person who took over)."""
        self._previous[-1] = self.body.check_action(action)

    def executed_of_plan(self, count: int) -> None:
        """Tells the agent how many actions of its last plan (:func:`plan_together`) were executed.

        Raises:
            PolysomaError: there is no plan of so many actions.
        """
        if not 1 <= count <= len(self._planned):
            raise PolysomaError(f"executed: expected 1 to {len(self._planned)} actions of the last chunk, got {count}")
        self._previous[-1] = self._planned[count - 1]

    def checked(self, observation: Mapping[str, Any]) -> Observation:
        """The observation as the policy will see it, with the agent's instruction where it brings none.

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

    def _observe(self, observation: Mapping[str, Any]) -> None:
        checked = self.checked(observation)
        if len(self._frames) == self.body.history:
            # Every place in a full window moves when it slides, so its memory is void. Sliding by half of the window
            # at once makes that rare.
            kept = self.body.history // 2
            self._frames = self._frames[len(self._frames) - kept :]
            self._previous = self._previous[len(self._previous) - kept - 1 :]
            if self._memory is not None:
                self._memory.forget_frames()
        self._frames.append(checked)

    def _recall(self) -> Memory:
        """The memory of the instruction that holds now."""
        instruction = self._frames[-1][INSTRUCTION]
        if self._memory is None or self._memory.instruction != instruction:
            self._memory = self.policy.begin(self.body.name, instruction, self.goal, self.context, self._silent)
        return self._memory

    def _take(self) -> np.ndarray:
        action = self.body.check_action(self._chunk.popleft())
        self._previous.append(action)
        return action

    def _plan(self, prediction: torch.Tensor) -> None:
        """Turns a prediction ``(chunk, A)`` into the actions to execute next."""
        if not torch.isfinite(prediction).all():
            raise PolysomaError(f"the policy predicted a number that is not finite for {self.body.name}; not executed")
        if isinstance(self.body.actions, DiscreteActions):
            for row in prediction[: self._execute].double().numpy():
                self._chunk.append(self._choose(row))
        elif self.acting.ensemble is not None:
            self._overlapping.append(prediction.numpy())
            age = np.arange(len(self._overlapping))[::-1]
            weight = np.exp(-self.acting.ensemble * age)
            now = np.stack([chunk[k] for chunk, k in zip(self._overlapping, age, strict=True)])
            self._chunk.append((weight / weight.sum()) @ now)
        else:
            self._chunk.extend(prediction[: self._execute].numpy())

    def _choose(self, log_probability: np.ndarray) -> np.ndarray:
        if self.acting.temperature == 0:
            return np.array(log_probability.argmax(), np.int64)
        # The Gumbel-max trick: one draw a choice, whatever else is in the batch.
        return np.array(
            (log_probability / self.acting.temperature + self._rng.gumbel(size=len(log_probability))).argmax()
        )


def _checked_goal(body: Embodiment, goal: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    cameras = {stream.name: stream for stream in body.streams if stream.modality is Modality.IMAGE}
    if set(goal) != set(cameras):
        raise PolysomaError(f"goal of {body.name}: expected pictures of {sorted(cameras)}, got {sorted(goal)}")
    pictures = {name: np.asarray(picture) for name, picture in goal.items()}
    for name, picture in pictures.items():
        if picture.shape != cameras[name].shape or picture.dtype != np.uint8:
            raise PolysomaError(
                f"goal of {body.name}, camera {name!r}: expected uint8 of shape {cameras[name].shape}, "
                f"got {picture.dtype} of shape {picture.shape}"
            )
    return {name: pictures[name] for name in cameras}


def act_together(agents: Sequence[Agent], observations: Sequence[Mapping[str, Any]]) -> list[np.ndarray]:
    """One action for each agent; those of one policy and body that need a prediction share one batch."""
    began = time.perf_counter()
    for agent, observation in zip(agents, observations, strict=True):
        agent._observe(observation)
    for agent in agents:
        agent.thought = not agent._chunk
    for problem in _ask([agent for agent in agents if agent.thought]).values():
        raise problem
    actions = [agent._take() for agent in agents]
    for agent in agents:
        agent.timing.add(time.perf_counter() - began)
    return actions


def plan_together(
    agents: Sequence[Agent], observations: Sequence[Mapping[str, Any]]
) -> list[np.ndarray | PolysomaError]:
    """The whole next chunk for each agent, within its body's limits, or what is wrong with it.

    For those who execute chunks elsewhere: an agent takes it that all actions will be executed before its next
    observation, unless :meth:`Agent.executed_of_plan` or :meth:`Agent.executed` says otherwise. What is wrong with one
    agent's answer does not touch the others'.

    Args:
        agents: different ones, whose ``acting`` executes whole chunks.
        observations: one for each. An unfit one raises PolysomaError before any agent is asked.
    """
    began = time.perf_counter()
    checked = [agent.checked(observation) for agent, observation in zip(agents, observations, strict=True)]
    for agent, observation in zip(agents, checked, strict=True):
        agent._chunk.clear()
        agent._observe(observation)
    failed = _ask(agents)
    plans: list[np.ndarray | PolysomaError] = []
    for agent in agents:
        if agent in failed:
            # Every frame has a previous action, whatever came of it.
            agent._previous.append(agent._previous[-1])
            plans.append(failed[agent])
            continue
        agent._planned = np.stack([agent.body.check_action(action) for action in agent._chunk])
        agent._chunk.clear()
        agent._previous.append(agent._planned[-1])
        agent.timing.add(time.perf_counter() - began)
        plans.append(agent._planned)
    return plans


def _ask(agents: Sequence[Agent]) -> dict[Agent, PolysomaError]:
    """Fills the agents' chunks; those of one policy and body share one batch. Returns what failed."""
    failed: dict[Agent, PolysomaError] = {}
    waiting: dict[tuple[int, str, int], list[Agent]] = {}
    for agent in agents:
        # Agents with many new frames (after a window slid) would pad those with one.
        new = len(agent._frames) - agent._recall().frames
        waiting.setdefault((id(agent.policy), agent.body.name, new), []).append(agent)
    for group in waiting.values():
        policy, body = group[0].policy, group[0].body
        shape = policy.head(body.name).noise
        noise = None
        if shape is not None:
            # Drawn by each agent for itself: the same whatever else is in the batch.
            rows = [agent._rng.standard_normal(shape, np.float32) for agent in group]
            noise = torch.from_numpy(np.stack(rows))
        predictions, readouts = policy.respond(_windows(group), [agent._recall() for agent in group], noise)
        for agent, prediction, readout in zip(group, predictions, readouts, strict=True):
            try:
                if agent._retrieval is not None:
                    prediction = agent._retrieval.answer(readout.numpy(), prediction)
                agent._plan(prediction)
            except PolysomaError as error:
                failed[agent] = error
    return failed


def _windows(agents: Sequence[Agent]) -> Windows:
    """The frames that are not yet in the agents' memories, equally many of each."""
    body = agents[0].body
    new = len(agents[0]._frames) - agents[0]._recall().frames
    frames = [agent._frames[-new:] for agent in agents]
    return Windows(
        body,
        [rows[-1][INSTRUCTION] for rows in frames],
        {s.name: np.stack([np.stack([frame[s.name] for frame in rows]) for rows in frames]) for s in body.arrays},
        np.stack([np.stack(agent._previous[-new:]) for agent in agents]),
        np.full(len(agents), new),
    )

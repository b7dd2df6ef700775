"""Slots: environments in the middle of an episode, as many of which a process plays at a time as it has slots."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from polysoma.acting.bound import BoundPlanner, copied
from polysoma.acting.planner import NoPlan, Plan, Planner
from polysoma.data.episode import Episode
from polysoma.data.paraphrases import read_paraphrases
from polysoma.embodiment import INSTRUCTION, ContinuousActions, Embodiment, Modality, Observation
from polysoma.errors import PolysomaError, PolysomaWarning
from polysoma.rollout.drivers import Behaviour, Expert
from polysoma.rollout.jobs import Job, Outcome, video_stride
from polysoma.simulators.environment import Environment, ExpertFailed


class StepExpert:
    """The expert of one environment, asked once a step at most, however many want to know.

    Args:
        environment: whose.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._action: Any = None

    def __call__(self) -> Any:
        """Its action in the present state. Raises NoPlan when it gives up."""
        if self._action is None:
            try:
                self._action = self._environment.expert_action()
            except ExpertFailed as failure:
                raise NoPlan(str(failure) or type(failure).__name__) from failure
        return self._action

    def stepped(self) -> None:
        """The state is another one now."""
        self._action = None


class Slot:
    """One environment in the middle of one episode, and what drives it.

    Args:
        environment: of the job's task.
        job: the episode.
        behaviour: what happens in it.
        planner: plans.
        demonstrations: what the planner is shown; None leaves that out.

    Raises:
        PolysomaError: the planner cannot drive this body, or there is no camera to show a goal to.
    """

    def __init__(
        self,
        environment: Environment,
        job: Job,
        behaviour: Behaviour,
        planner: Planner,
        demonstrations: Sequence[Episode] = (),
    ) -> None:
        self.environment, self.job, self.behaviour = environment, job, behaviour
        self.body: Embodiment = environment.embodiment
        self.rng = np.random.default_rng([job.seed, 7])
        prompting = behaviour.prompting
        self.paraphrases = None
        if prompting.paraphrases is not None:
            self.paraphrases = read_paraphrases(*prompting.paraphrases, plain=0.0)
        self.said: dict[str, str] = {}
        goal = None if prompting.conditioning == "words" else _last_pictures(environment, job.seed)
        self.observation: Observation = self._heard(environment.reset(seed=job.seed)[0])
        longest = environment.max_steps
        self.limit = min(longest, behaviour.max_steps or longest, job.limit or longest)
        noise = behaviour.noise
        if isinstance(noise, tuple):
            noise = float(self.rng.uniform(*noise))
        if noise is None:
            noise = environment.expert_noise if isinstance(behaviour.driver, Expert) else 0.0
        self.noise = noise if isinstance(self.body.actions, ContinuousActions) else 0.0
        if self.noise and isinstance(self.body.actions, ContinuousActions):
            self.body.actions.check_limited(f"noise for {self.body.name}")
        self.steps, self.success, self.total = 0, False, 0.0
        self.terminated = False
        self.observations: list[Observation] = []
        self.labels: list[Any] = []
        self.executed: list[Any] = []
        self.rewards: list[float] = []
        self.frames: list[np.ndarray] = []
        self.draws = True
        self.judged: dict[int, Plan] = {}
        self.expert = StepExpert(environment)
        self._film()
        self.agent: BoundPlanner = behaviour.acting.agent(
            planner,
            self.body,
            instruction=self.observation[INSTRUCTION],
            seed=job.seed,
            goal=goal,
            demonstrations=demonstrations,
            observation_only=prompting.in_context is not None and prompting.in_context.observation_only,
            expert=self.expert,
        )

    def step(self, action: np.ndarray) -> bool:
        """Executes; True when the episode is over. Where nobody asked the expert, the label is the action."""
        label = np.array(self.expert() if self.behaviour.asks_expert else action)
        plan = self.agent.plan
        if self.job.kept and self.agent.asked and plan is not None and plan.risk is not None:
            # Nobody asks for others any more, and outcomes go from process to process.
            self.judged[self.steps] = dataclasses.replace(plan, others=None)
        self.expert.stepped()
        if self.noise and self.rng.random() < 0.5:
            actions = self.body.actions
            assert isinstance(actions, ContinuousActions)
            jitter = self.noise * actions.half * self.rng.standard_normal(actions.size)
            action = np.clip(action + jitter, actions.low, actions.high).astype(np.float32)
            self.agent.executed(action)
        if self.behaviour.label or self.job.kept:
            self.observations.append({**self.observation, **copied(self.environment.privileged())})
            self.labels.append(label)
            self.executed.append(action)
        observation, reward, terminated, truncated, info = self.environment.step(action.copy())
        self.observation = self._heard(observation)
        self.rewards.append(float(reward))
        self.total += float(reward)
        self.steps += 1
        solved, endless = bool(info["success"]), self.behaviour.endless
        self.success = solved or (endless and self.success)
        # A success ends the task, unless it is only judged where a time limit cut the episode, as a return is.
        ends = solved and not truncated
        self.terminated = not self._go_on() if ends and endless else bool(terminated) or ends
        over = self.terminated or truncated or self.steps >= self.limit
        self._film(last=over)
        if over:
            self.agent.ended(self.observation)
        return over

    def _go_on(self) -> bool:
        """Asks for another goal after a success; False where the task has none, so that the episode ends."""
        seen = self.environment.new_goal()
        if seen is not None:
            self.observation = self._heard(seen)
        return seen is not None

    def _heard(self, observation: Observation) -> Observation:
        """The observation with its instruction in other words, the same ones throughout an episode, or in none.

        Here all that an environment shows enters an episode, so its arrays are copied: it may fill them again."""
        observation = copied(observation)
        self.asked: str = observation[INSTRUCTION]
        if self.behaviour.prompting.conditioning == "picture":
            return {**observation, INSTRUCTION: ""}
        if self.job.instruction is not None:
            return {**observation, INSTRUCTION: self.job.instruction}
        if self.paraphrases is None:
            return observation
        text = observation[INSTRUCTION]
        if text not in self.said:
            self.said[text] = self.paraphrases.say(text, self.rng)
        return {**observation, INSTRUCTION: self.said[text]}

    def _film(self, last: bool = False) -> None:
        if self.job.video and self.draws and (last or self.steps % video_stride(self.body) == 0):
            try:
                self.frames.append(np.array(self.environment.render_frame(self.job.video)))
            except PolysomaError as error:
                # An episode counts also where nobody can look at it.
                self.draws = False
                warnings.warn(f"no video: {error}", PolysomaWarning, stacklevel=2)

    def outcome(self, error: str = "") -> Outcome:
        """What came of the job. The slot is not used any more."""
        self.agent.close()
        instruction = self.observation[INSTRUCTION]
        episode = None
        if self.labels:
            last = {**self.observation, **self.environment.privileged()}
            dtype = self.body.actions.dtype
            episode = Episode(
                embodiment=self.body,
                task=self.job.task,
                instruction=self.observations[0][INSTRUCTION],
                seed=self.job.seed,
                success=self.success,
                observations={s.name: np.stack([o[s.name] for o in self.observations]) for s in self.body.recorded},
                actions=np.asarray(self.labels, dtype),
                executed=np.asarray(self.executed, dtype),
                rewards=np.asarray(self.rewards, np.float32),
                terminated=self.terminated,
                # An expert that gives up, and a guard that stops, cut the episode; the task goes on.
                truncated=not self.terminated,
                final={stream.name: np.array(last[stream.name]) for stream in self.body.recorded},
            )
        return Outcome(
            self.job.task,
            self.job.seed,
            self.success,
            self.steps,
            instruction,
            self.total,
            error,
            episode,
            self.frames,
            self.agent.session.interventions,
            None if self.agent.session.limiter is None else self.agent.session.limiter.counts,
            self.agent.session.zones,
            self.judged,
            self.asked,
        )


def _last_pictures(environment: Environment, seed: int) -> dict[str, np.ndarray]:
    """What the body's cameras see at the end of the expert's episode. Raises PolysomaError when there is no camera."""
    cameras = [stream.name for stream in environment.embodiment.streams if stream.modality is Modality.IMAGE]
    if not cameras:
        raise PolysomaError(f"{environment.task}: {environment.embodiment.name} has no camera to show a goal to")
    observation, over = environment.reset(seed=seed)[0], False
    with contextlib.suppress(ExpertFailed):
        while not over:
            observation, _, terminated, truncated, info = environment.step(environment.expert_action())
            over = terminated or truncated or info["success"]
    return {camera: np.array(observation[camera]) for camera in cameras}

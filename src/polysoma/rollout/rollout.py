"""Rollouts: many episodes of many tasks, a few at a time in each process, decisions in batches.

Recording and evaluation both stand on :func:`rollout`. A worker process keeps several lanes; each lane plays one
episode at a time and takes the next job when it is done. Environments are kept and reused: some leak when rebuilt.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from polysoma import simulators
from polysoma.data.episode import Episode
from polysoma.data.paraphrases import Split, read_paraphrases
from polysoma.embodiment import INSTRUCTION, ContinuousActions, Embodiment, Modality, Observation
from polysoma.errors import PolysomaError
from polysoma.rollout.workers import in_processes, on_ray
from polysoma.simulators.environment import Environment, ExpertFailed

if TYPE_CHECKING:
    from polysoma.acting.retrieval import RetrievalMemory
    from polysoma.policy.policy import Policy

VIDEO_FPS = 12
EXPERT, RANDOM = "expert", "random"

Told = Literal["words", "picture", "both"]


@dataclass(frozen=True)
class Job:
    """One episode to play.

    Attributes:
        task: its name.
        seed: of the reset.
        film: the side of its video in pixels; 0 for none.
        kept: whether its outcome holds what was sensed and done.
    """

    task: str
    seed: int
    film: int = 0
    kept: bool = False


@dataclass(frozen=True)
class Context:
    """Episodes that a policy is shown before it acts.

    Attributes:
        folder: a data set, the policy's own episodes or an expert's; failed ones are left out.
        shots: how many of each task, those of the lowest seeds, or as many as there are; 0 shows none.
        silent: whether the policy is not told what was done in them.
    """

    folder: str
    shots: int
    silent: bool = False


@dataclass(frozen=True)
class Behaviour:
    """Who decides.

    Attributes:
        driver: ``"expert"``, ``"random"``, or a checkpoint.
        acting: keyword arguments of :class:`polysoma.acting.agent.Acting` for a checkpoint.
        label: ask the expert for its action at every step, whoever drives, and return the episode with these labels.
        noise: standard deviation of the noise added to half of the executed actions (DART), as a fraction of half of
            the action range; None takes each task's own ``expert_noise``, for the expert alone.
        max_steps: cut episodes after this many steps; None leaves it to the task.
        paraphrases: None, or a file and its split: every episode's instruction is then said in other words.
        told: a policy is told what to do in words, by the pictures that the body's cameras saw at the end of the
            expert's episode of the same seed, or by both.
        memory: None, or a folder of demonstrations and how many of each task (0 for all) a policy looks up
            (:class:`polysoma.acting.retrieval.RetrievalMemory`).
        context: None, or what a policy is shown of the same task.
    """

    driver: str = EXPERT
    acting: dict[str, Any] = field(default_factory=dict)
    label: bool = False
    noise: float | None = 0.0
    max_steps: int | None = None
    paraphrases: tuple[str, Split] | None = None
    told: Told = "words"
    memory: tuple[str, int] | None = None
    context: Context | None = None


@dataclass
class Outcome:
    """What came of a job: ``total`` is the sum of its rewards; ``error`` says why the expert failed, if it did."""

    task: str
    seed: int
    success: bool
    steps: int
    instruction: str
    total: float = 0.0
    error: str = ""
    episode: Episode | None = None
    frames: list[np.ndarray] = field(default_factory=list)


def film_stride(body: Embodiment) -> int:
    """Steps from one frame of an episode's film to the next; what the last step led to is filmed as well."""
    return max(1, round(body.rate_hz / VIDEO_FPS))


class _Lane:
    """One environment in the middle of one episode."""

    def __init__(self, environment: Environment, job: Job, behaviour: Behaviour) -> None:
        self.environment, self.job, self.behaviour = environment, job, behaviour
        self.body: Embodiment = environment.embodiment
        self.rng = np.random.default_rng([job.seed, 7])
        self.paraphrases = None
        if behaviour.paraphrases is not None:
            self.paraphrases = read_paraphrases(*behaviour.paraphrases, plain=0.0)
        self.said: dict[str, str] = {}
        self.goal = None if behaviour.told == "words" else _last_pictures(environment, job.seed)
        self.observation: Observation = self._heard(environment.reset(seed=job.seed)[0])
        self.limit = min(environment.max_steps, behaviour.max_steps or environment.max_steps)
        noise = behaviour.noise
        if noise is None:
            noise = environment.expert_noise if behaviour.driver == EXPERT else 0.0
        self.noise = noise if isinstance(self.body.actions, ContinuousActions) else 0.0
        self.steps, self.success, self.total = 0, False, 0.0
        self.observations: list[Observation] = []
        self.labels: list[Any] = []
        self.executed: list[Any] = []
        self.frames: list[np.ndarray] = []
        self._film()

    def step(self, action: Any, label: Any) -> bool:
        """Executes; True when the episode is over. Where nobody said what would be right, the label is the action."""
        label = action if label is None else label
        if self.noise and self.rng.random() < 0.5:
            actions = self.body.actions
            assert isinstance(actions, ContinuousActions)
            half = (actions.high - actions.low) / 2
            jitter = self.noise * half * self.rng.standard_normal(actions.size)
            action = np.clip(action + jitter, actions.low, actions.high).astype(np.float32)
        if self.behaviour.label or self.job.kept:
            self.observations.append({**self.observation, **self.environment.privileged()})
            self.labels.append(label)
            self.executed.append(action)
        observation, reward, terminated, truncated, info = self.environment.step(action)
        self.observation = self._heard(observation)
        self.total += float(reward)
        self.steps += 1
        self.success = bool(info["success"])
        over = self.success or terminated or truncated or self.steps >= self.limit
        self._film(last=over)
        return over

    def _heard(self, observation: Observation) -> Observation:
        """The observation with its instruction in other words, the same ones throughout an episode, or in none."""
        if self.behaviour.told == "picture":
            return {**observation, INSTRUCTION: ""}
        if self.paraphrases is None:
            return observation
        text = observation[INSTRUCTION]
        if text not in self.said:
            self.said[text] = self.paraphrases.say(text, self.rng)
        return {**observation, INSTRUCTION: self.said[text]}

    def _film(self, last: bool = False) -> None:
        if self.job.film and (last or self.steps % film_stride(self.body) == 0):
            self.frames.append(self.environment.render_frame(self.job.film))

    def outcome(self, error: str = "") -> Outcome:
        instruction = self.observation[INSTRUCTION]
        episode = None
        if self.labels:
            dtype = np.float32 if isinstance(self.body.actions, ContinuousActions) else np.int64
            episode = Episode(
                embodiment=self.body,
                task=self.job.task,
                instruction=self.observations[0][INSTRUCTION],
                seed=self.job.seed,
                success=self.success,
                observations={s.name: np.stack([o[s.name] for o in self.observations]) for s in self.body.recorded},
                actions=np.asarray(self.labels, dtype),
                executed=np.asarray(self.executed, dtype),
            )
        return Outcome(
            self.job.task, self.job.seed, self.success, self.steps, instruction, self.total, error, episode, self.frames
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
    return {camera: observation[camera] for camera in cameras}


def rollout(next_job: Callable[[], Job | None], behaviour: Behaviour, lanes: int) -> Iterator[Outcome]:
    """Plays jobs in this process until there are none, ``lanes`` at a time, and yields what came of each.

    Raises:
        PolysomaError: unknown task or body, or a checkpoint that cannot be loaded.
    """
    decide = _decider(behaviour)
    idle: dict[str, list[Environment]] = {}
    active: list[_Lane] = []
    exhausted = False
    while True:
        while len(active) < lanes and not exhausted:
            job = next_job()
            if job is None:
                exhausted = True
                break
            spare = idle.get(job.task)
            active.append(_Lane(spare.pop() if spare else simulators.make(job.task), job, behaviour))
        if not active:
            return
        finished: list[tuple[_Lane, str]] = []
        labels, asked = [], []
        for lane in active:
            try:
                needed = behaviour.label or behaviour.driver == EXPERT
                labels.append(lane.environment.expert_action() if needed else None)
                asked.append(lane)
            except ExpertFailed as failure:
                finished.append((lane, str(failure) or type(failure).__name__))
        for lane, label, action in zip(asked, labels, decide(asked, labels), strict=True):
            if lane.step(action, label):
                finished.append((lane, ""))
        for lane, problem in finished:
            active.remove(lane)
            idle.setdefault(lane.job.task, []).append(lane.environment)
            yield lane.outcome(problem)


def _decider(behaviour: Behaviour) -> Callable[[list[_Lane], list[Any]], Sequence[Any]]:
    if behaviour.driver == EXPERT:
        return lambda lanes, labels: labels
    if behaviour.driver == RANDOM:
        return lambda lanes, labels: [_random_action(lane) for lane in lanes]
    # The policy needs torch, whose import the other drivers should not pay for.
    from polysoma.acting.agent import Acting, Agent, act_together
    from polysoma.policy.checkpoint import load

    policy = load(behaviour.driver)
    acting = Acting(**behaviour.acting)
    memory = None
    if behaviour.memory is not None:
        memory = _remembered(policy, Path(behaviour.memory[0]), behaviour.memory[1])
    shown = {} if behaviour.context is None else _successes(behaviour.context)
    agents: dict[_Lane, Agent] = {}

    def decide(lanes: list[_Lane], labels: list[Any]) -> Sequence[Any]:
        for gone in agents.keys() - set(lanes):
            del agents[gone]
        for lane in lanes:
            if lane not in agents:
                known = memory if memory is not None and memory.body.name == lane.body.name else None
                agents[lane] = Agent(
                    policy, lane.body.name, acting=acting, seed=lane.job.seed, goal=lane.goal, memory=known
                )
                if behaviour.context is not None:
                    episodes = shown.get(lane.job.task, [])
                    agents[lane].reset(seed=lane.job.seed, context=episodes, silent=behaviour.context.silent)
        if not lanes:
            return []
        return act_together([agents[lane] for lane in lanes], [lane.observation for lane in lanes])

    return decide


def _remembered(policy: Policy, folder: Path, count: int) -> RetrievalMemory:
    from polysoma.acting.retrieval import RetrievalMemory
    from polysoma.data.dataset import Dataset

    dataset = Dataset(folder)
    memory = RetrievalMemory(policy, dataset.embodiment.name)
    memory.extend(dataset.episode(number) for number in dataset.first_of_each_task(count))
    return memory


def _successes(context: Context) -> dict[str, list[Episode]]:
    """The successful episodes of each task that are shown."""
    from polysoma.data.dataset import Dataset

    dataset = Dataset(Path(context.folder))
    found: dict[str, list[Episode]] = {}
    # By seed: recordings hold short episodes first, which were done sooner.
    for number in np.argsort(dataset.episode_seed, kind="stable"):
        own = found.setdefault(dataset.tasks[dataset.episode_task[number]], [])
        if dataset.episode_success[number] and len(own) < context.shots:
            own.append(dataset.episode(int(number)))
    return found


def _random_action(lane: _Lane) -> Any:
    actions = lane.body.actions
    if isinstance(actions, ContinuousActions):
        return lane.rng.uniform(actions.low, actions.high).astype(np.float32)
    return np.int64(lane.rng.integers(actions.size))


def rollout_in_workers(
    jobs: Sequence[Job], behaviour: Behaviour, workers: int, lanes: int = 16, cluster: str | None = None
) -> Iterator[Outcome]:
    """As :func:`rollout`, in ``workers`` processes of one thread each; outcomes come as they are ready.

    Args:
        jobs: episodes to play.
        behaviour: who decides.
        workers: processes.
        lanes: episodes at a time in each.
        cluster: None for processes of this machine, or the address of a Ray cluster
            (:func:`polysoma.rollout.workers.on_ray`), to which a checkpoint's folder is sent.

    Raises:
        PolysomaError: as :func:`rollout`; also when a worker dies, or there is no such cluster.
    """
    if workers < 1 or lanes < 1:
        raise PolysomaError(f"workers and lanes must be at least 1, got {workers} and {lanes}")
    if cluster is None and workers == 1:
        remaining = iter(jobs)
        yield from rollout(lambda: next(remaining, None), behaviour, lanes)
        return
    if cluster is None:
        messages = in_processes(_work, jobs, workers, None, behaviour, lanes)
    else:
        folder = Path(behaviour.driver)
        messages = on_ray(_work, jobs, workers, cluster, folder if folder.is_dir() else None, behaviour, lanes)
    with contextlib.closing(messages):
        for message in messages:
            if not isinstance(message, Outcome):
                raise PolysomaError(message)
            yield message


def _work(todo: Any, done: Any, checkpoint: Path | None, behaviour: Behaviour, lanes: int) -> None:
    try:
        if checkpoint is not None:
            behaviour = replace(behaviour, driver=str(checkpoint))
        if behaviour.driver not in (EXPERT, RANDOM):
            import torch

            torch.set_num_threads(1)
        for outcome in rollout(todo.get, behaviour, lanes):
            done.put(outcome)
        done.put(None)
    except KeyboardInterrupt:
        return
    except PolysomaError as error:
        done.put(str(error))
    except Exception:
        done.put("a worker failed: " + traceback.format_exc())


def interleave(tasks: Iterable[str], seeds: Sequence[int], film: int = 0, kept: bool = False) -> list[Job]:
    """Jobs for all tasks and seeds, task by task in turn, so that few environments of one task run at a time.

    With ``film``, the first seed of every task is filmed at that many pixels a side; ``kept`` is for it alone, too.
    """
    names = list(tasks)
    return [Job(task, seed, film, kept) if seed == seeds[0] else Job(task, seed) for seed in seeds for task in names]

"""Rollouts: many episodes of many tasks, a few at a time in each process, decisions in batches.

Recording and evaluation both stand on :func:`rollout`. A worker process has several slots; each plays one episode at a
time and takes the next job when it is done. Environments are kept and reused: some leak when rebuilt.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from polysoma import simulators
from polysoma.acting.agent import act_together
from polysoma.acting.planner import NoPlan, Planner
from polysoma.errors import PolysomaError
from polysoma.rollout.drivers import Behaviour, Checkpoint, Driver, Ready, name_of
from polysoma.rollout.jobs import Job, Outcome
from polysoma.rollout.slots import Slot
from polysoma.rollout.workers import in_processes, on_ray, telling_failures, unless_failed
from polysoma.simulators.environment import Environment


@dataclass(frozen=True)
class Workers:
    """Where episodes are played.

    Attributes:
        processes: of one thread each; 1 is this process itself.
        slots: episodes at a time in each.
        cluster: None for this machine, or the address of a Ray cluster (:func:`polysoma.rollout.workers.on_ray`), to
            which a checkpoint's folder is sent.

    Raises:
        PolysomaError: there are none.
    """

    processes: int = 1
    slots: int = 16
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.processes < 1 or self.slots < 1:
            raise PolysomaError(f"workers and slots must be at least 1, got {self.processes} and {self.slots}")

    @staticmethod
    def of(workers: Workers | int) -> Workers:
        """As it is, or so many processes."""
        return Workers(workers) if isinstance(workers, int) else workers


def rollout(next_job: Callable[[], Job | None], behaviour: Behaviour, slots: int) -> Iterator[Outcome]:
    """Plays jobs in this process until there are none, ``slots`` at a time, and yields what came of each.

    An expert that gives up, and a guard that stops a body, end their own episode.

    Raises:
        PolysomaError: unknown task or body, a driver that cannot be made, or one that makes a mistake.
    """
    with _Environments() as environments:
        yield from _play(next_job, behaviour, slots, behaviour.maker(), environments)


class _Environments:
    """Environments that are made once and used again."""

    def __init__(self) -> None:
        self._made: list[Environment] = []
        self._idle: dict[str, list[Environment]] = {}

    def take(self, task: str) -> Environment:
        """One of this task that nobody uses."""
        spare = self._idle.setdefault(task, [])
        if not spare:
            spare.append(simulators.make(task))
            self._made.append(spare[-1])
        return spare.pop()

    def give_back(self, job: Job, environment: Environment) -> None:
        """It may be taken again, unless its job was the last one."""
        if job.last:
            self._made.remove(environment)
            environment.close()
        else:
            self._idle[job.task].append(environment)

    def __enter__(self) -> _Environments:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as closing:
            for environment in self._made:
                closing.callback(environment.close)


def _play(
    next_job: Callable[[], Job | None],
    behaviour: Behaviour,
    slots: int,
    planner: Planner,
    environments: _Environments,
) -> Iterator[Outcome]:
    in_context = behaviour.prompting.in_context
    shown = {} if in_context is None else in_context.episodes()
    active: list[Slot] = []
    exhausted = False
    try:
        while True:
            while len(active) < slots and not exhausted:
                job = next_job()
                if job is None:
                    exhausted = True
                    break
                active.append(Slot(environments.take(job.task), job, behaviour, planner, shown.get(job.task, [])))
            if not active:
                return
            for slot, problem in _step(active, behaviour):
                active.remove(slot)
                outcome = slot.outcome(problem)
                environments.give_back(slot.job, slot.environment)
                yield outcome
    finally:
        # Also when whoever takes the outcomes has enough, or something failed in the middle of episodes.
        with contextlib.ExitStack() as closing:
            for slot in active:
                closing.callback(slot.agent.close)


def _step(slots: Sequence[Slot], behaviour: Behaviour) -> list[tuple[Slot, str]]:
    """One action in each. Returns those whose episode is over, and why it ended early, if it did."""
    finished: list[tuple[Slot, str]] = []
    asking: list[Slot] = []
    for slot in slots:
        try:
            if behaviour.asks_expert:
                slot.expert()
            asking.append(slot)
        except NoPlan as failure:
            finished.append((slot, str(failure)))
    actions = act_together([slot.agent for slot in asking], [slot.observation for slot in asking])
    for slot, action in zip(asking, actions, strict=True):
        if isinstance(action, NoPlan):
            finished.append((slot, str(action)))
        elif isinstance(action, PolysomaError):
            raise action
        elif slot.step(action):
            finished.append((slot, ""))
    return finished


def rollout_in_workers(jobs: Sequence[Job], behaviour: Behaviour, workers: Workers | int = 1) -> Iterator[Outcome]:
    """As :func:`rollout`, in several processes; outcomes come as they are ready.

    Args:
        jobs: episodes to play.
        behaviour: what happens in them.
        workers: where, or in how many processes.

    Raises:
        PolysomaError: as :func:`rollout`; also when a worker dies, there is no such cluster, or the driver is a planner
            of this process and there are others.
    """
    workers = Workers.of(workers)
    driver = behaviour.maker
    if workers.cluster is None and workers.processes == 1:
        remaining = iter(jobs)
        yield from rollout(lambda: next(remaining, None), behaviour, workers.slots)
        return
    _check_sendable(behaviour)
    if workers.cluster is None:
        messages = in_processes(_work, jobs, workers.processes, None, behaviour, workers.slots)
    else:
        folder = Path(driver.place) if isinstance(driver, Checkpoint) else None
        files = folder if folder is not None and folder.is_dir() else None
        messages = on_ray(_work, jobs, workers.processes, workers.cluster, files, behaviour, workers.slots)
    yield from unless_failed(messages)


def rollout_in_groups(
    groups: Sequence[Sequence[Job]], behaviour: Behaviour, processes: int = 1
) -> Generator[list[Outcome], None, None]:
    """As :func:`rollout`, group by group: yields the outcomes of each group in the order of its jobs, and the groups in
    their order.

    The jobs of a group are played at the same time, and with no others. So what comes of a group is the same bits
    whatever was played before it, and in however many processes: decisions of a policy depend by a rounding error on
    what else is in their batch.

    Args:
        groups: episodes to play together.
        behaviour: what happens in them.
        processes: of this machine, of one thread each; 1 is this process itself.

    Raises:
        PolysomaError: as :func:`rollout_in_workers`.
    """
    if processes == 1:
        planner = behaviour.maker()
        with _Environments() as environments:
            for group in groups:
                yield _play_group(group, behaviour, planner, environments)
        return
    _check_sendable(behaviour)
    early: dict[int, list[Outcome]] = {}
    expected = 0
    jobs = list(enumerate(groups))
    for number, outcomes in unless_failed(in_processes(_work_in_groups, jobs, processes, behaviour)):
        early[number] = outcomes
        while expected in early:
            yield early.pop(expected)
            expected += 1


def _play_group(
    group: Sequence[Job], behaviour: Behaviour, planner: Planner, environments: _Environments
) -> list[Outcome]:
    remaining = iter(group)
    played = _play(lambda: next(remaining, None), behaviour, len(group), planner, environments)
    found = {(outcome.task, outcome.seed): outcome for outcome in played}
    return [found[job.task, job.seed] for job in group]


def _check_sendable(behaviour: Behaviour) -> None:
    if isinstance(behaviour.maker, Ready):
        raise PolysomaError(
            f"{name_of(behaviour.maker)} lives in this process: for worker processes give what makes one, or use one "
            "worker"
        )


def _work(todo: Any, done: Any, checkpoint: Path | None, behaviour: Behaviour, slots: int) -> None:
    with telling_failures(done):
        driver = behaviour.maker
        if checkpoint is not None and isinstance(driver, Checkpoint):
            driver = replace(driver, place=str(checkpoint))
        planner = _in_one_thread(driver)
        with _Environments() as environments:
            for outcome in _play(todo.get, behaviour, slots, planner, environments):
                done.put(outcome)
        done.put(None)


def _work_in_groups(todo: Any, done: Any, behaviour: Behaviour) -> None:
    with telling_failures(done):
        planner = _in_one_thread(behaviour.maker)
        with _Environments() as environments:
            for number, group in iter(todo.get, None):
                done.put((number, _play_group(group, behaviour, planner, environments)))
        done.put(None)


def _in_one_thread(driver: Driver) -> Planner:
    planner = driver()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    return planner

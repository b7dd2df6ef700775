"""How long single decisions take: one thread, one body at a time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import numpy as np

from polysoma import simulators
from polysoma.acting.agent import Acting, Agent
from polysoma.acting.planner import NoPlan, Planner
from polysoma.rollout.drivers import Driver, driver_of
from polysoma.rollout.slots import StepExpert
from polysoma.task import body_of

LATENCY_DECISIONS = 60
_FIRST = 5
"""Decisions that are not counted: caches are cold."""


def decision_latency(driver: Driver | Planner | str, tasks: Sequence[str], seed: int) -> dict[str, dict[str, float]]:
    """Milliseconds from observation to action at batch 1 on one thread, for the first task of each family.

    Every decision asks the planner: those that take the next action of a plan take microseconds. A family whose
    episodes a guard stops, or an expert gives up, before anything is decided has no latency.

    Raises:
        PolysomaError: the driver cannot be made, or makes a mistake.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        planner = driver_of(driver)()
        firsts = {body_of(task): task for task in reversed(tasks)}
        times = {
            family: _times(planner, firsts[family], seed)[_FIRST:] for family in dict.fromkeys(map(body_of, tasks))
        }
    finally:
        torch.set_num_threads(threads)
    return {
        family: {
            "p50": round(float(np.percentile(own, 50)), 2),
            "p99": round(float(np.percentile(own, 99)), 2),
            "decisions": len(own),
        }
        for family, own in times.items()
        if own
    }


def _times(planner: Planner, task: str, seed: int) -> list[float]:
    """Milliseconds of decisions in episodes of a task, one after the other."""
    wanted = _FIRST + LATENCY_DECISIONS
    times: list[float] = []
    with contextlib.ExitStack() as closing:
        environment = simulators.make(task)
        closing.callback(environment.close)
        expert = StepExpert(environment)
        agent = Agent(planner, environment.embodiment, acting=Acting(execute=1), expert=expert)
        closing.callback(agent.close)
        # Each episode has a decision at least, unless it ends with the question.
        for episode in range(wanted):
            observation = environment.reset(seed=seed + episode)[0]
            expert.stepped()
            agent.reset(seed=seed + episode)
            over = False
            while not over and len(times) < wanted:
                began = time.perf_counter()
                try:
                    action = agent.act(observation)
                except NoPlan:
                    break
                times.append((time.perf_counter() - began) * 1e3)
                observation, _, terminated, truncated, _ = environment.step(action)
                expert.stepped()
                over = terminated or truncated
            if len(times) >= wanted:
                break
    return times

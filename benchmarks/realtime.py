"""A body at 50 Hz and a policy that takes 40 ms: how many control ticks come late?

    python benchmarks/realtime.py

ALOHA's agent with the shipped weights, each decision of which is made to take 40 ms; once asked within the control
loop (half a chunk is executed before it is asked again), once by RealTimeAgent. A tick is late when its action comes
after its period. Runs in real time: seven minutes for the default 10,000 ticks each.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import tyro

from polysoma import simulators
from polysoma.acting.realtime import RealTimeAgent
from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy
from results import read, write

TASK = "aloha/transfer-cube"


def loop(act: Callable[[], Any], ticks: int, period: float) -> dict[str, Any]:
    """Calls ``act`` once a period; counts late ticks and measures how unevenly they come."""
    late, moments = 0, []
    due = time.perf_counter()
    for _ in range(ticks):
        began = time.perf_counter()
        act()
        now = time.perf_counter()
        moments.append(now)
        late += now - began > period
        due += period
        time.sleep(max(0.0, due - now))
        if now > due:
            # A robot's loop goes on from now; it does not hurry after what it missed.
            due = now
    apart = 1e3 * np.diff(moments)
    return {"ticks": ticks, "late": late, "jitter_ms": round(float(np.abs(apart - 1e3 * period).mean()), 2)}


def slowed(policy: Policy, milliseconds: float) -> None:
    """Makes every decision of this policy take at least so long."""
    respond = policy.respond

    def slow(*arguments: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        began = time.perf_counter()
        result = respond(*arguments, **options)
        time.sleep(max(0.0, milliseconds / 1e3 - (time.perf_counter() - began)))
        return result

    policy.respond = slow  # type: ignore[method-assign]


def main(ticks: int = 10_000, milliseconds: float = 40.0) -> None:
    """Both ways of asking.

    Args:
        ticks: of control, each way.
        milliseconds: that a decision takes.
    """
    torch.set_num_threads(1)
    policy = checkpoint.load()
    slowed(policy, milliseconds)
    observation = simulators.make(TASK).reset(seed=4000)[0]
    period = 1 / policy.embodiment("aloha").rate_hz
    agent = policy.agent("aloha")
    waiting = loop(lambda: agent.act(observation), ticks, period)
    print("asked within the loop:", waiting)
    with RealTimeAgent(policy, "aloha") as on_time:
        on_time.act(observation)
        ahead = loop(lambda: on_time.act(observation), ticks, period)
        held = on_time.scheduler.ticks.held
    print("asked ahead:", ahead, "held:", held)
    settings = {"task": TASK, "policy_ms": milliseconds, "period_ms": 1e3 * period}
    write("realtime", {"settings": settings, "within_the_loop": waiting, "ahead": {**ahead, "held": held}})


def render() -> str:
    """Late control ticks."""
    found = read("realtime")
    waiting, ahead, settings = found["within_the_loop"], found["ahead"], found["settings"]
    return (
        f"A body of {1e3 / settings['period_ms']:.0f} Hz and a policy that takes {settings['policy_ms']:.0f} ms: of "
        f"{ahead['ticks']:,} ticks {ahead['late']} came late and {ahead['held']} held the last action; asked within "
        f"the control loop, {waiting['late']:,} of {waiting['ticks']:,} came late (`python benchmarks/realtime.py`).\n"
    )


if __name__ == "__main__":
    tyro.cli(main)

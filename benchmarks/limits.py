"""What limits cost: time of a decision, also with a guard before them, and success of the shipped weights under
wide and narrow ones.

    python benchmarks/limits.py

The same seeds with and without limits; two minutes.
"""

from __future__ import annotations

import time
from dataclasses import asdict

import numpy as np
import torch
import tyro

from polysoma import simulators
from polysoma.acting.agent import Acting
from polysoma.acting.dead_ends import DeadEndGuard
from polysoma.acting.limiter import Limiter
from polysoma.acting.limits import BodyLimits, Limits
from polysoma.acting.planner import Plan
from polysoma.embodiment import ContinuousActions, Embodiment
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference
from polysoma.policy.dead_ends import Alarm, DeadEndConfig, DeadEnds
from results import difference, read, share, write

TASKS, SEED = ("drone/ring", "fetch/reach", "pointmaze/medium"), 5400
KINDS = {"wide": (0.5, 0.5), "narrow": (0.1, 0.05)}
"""The step and the jerk of every channel, in actions of -1 to 1."""
GUARDED = ("allowed", "others judged")
"""What a guard before the limits does."""


def of(body: Embodiment, step: float, jerk: float) -> BodyLimits:
    assert isinstance(body.actions, ContinuousActions)
    names = [channel.name for channel in body.actions.channels]
    return BodyLimits(step=dict.fromkeys(names, step), jerk=dict.fromkeys(names, jerk))


def guard(body: Embodiment, allows: bool) -> DeadEndGuard:
    """A guard of the size that is learnt, which allows every plan or looks in vain for a better one after each: what
    it costs does not depend on what else it learnt."""
    values = DeadEnds(DeadEndConfig(body, 128, 2, remembered=1024), Alarm(1.0, 0.05, 100, 1e3, float(allows)))
    if not allows:  # No action is good enough: all that are near are judged, the longest that it can take.
        for one in values.negative.both:
            torch.nn.init.constant_(one[-1].bias, -10)
    return DeadEndGuard(values.requires_grad_(False).eval())


def cost(
    body: Embodiment, limits: BodyLimits, before: DeadEndGuard | None = None, times: int = 5000
) -> dict[str, float]:
    """Microseconds of processor time that one action takes through the limits, and through a guard before them."""
    rng = np.random.default_rng(0)
    limiter = Limiter(body, limits)
    observation = {stream.name: np.zeros(stream.shape, stream.dtype) for stream in body.arrays}
    spent = []
    for _ in range(times):
        action = body.actions.sample(rng)[None]
        began = time.thread_time_ns()
        if before is not None:
            instead = before.judge(observation, Plan(action, "policy")).actions
            action = action if instead is None else instead
        limiter.limit(action, observation)
        spent.append((time.thread_time_ns() - began) / 1e3)
    return {"p50": round(float(np.percentile(spent, 50)), 1), "p99": round(float(np.percentile(spent, 99)), 1)}


def main(episodes: int = 20) -> None:
    cells = {}
    for task in TASKS:
        body = simulators.embodiments()[task.split("/")[0]]
        free = evaluate("generalist", [task], episodes, SEED).tasks[task]
        cells[task] = {"free": free.to_json()}
        for name, (step, jerk) in KINDS.items():
            limits = of(body, step, jerk)
            result = evaluate("generalist", [task], episodes, SEED, acting=Acting(limits=Limits({body.name: limits})))
            score = result.tasks[task]
            cells[task][name] = {
                **score.to_json(),
                "difference": paired_difference(score.outcomes, free.outcomes),
                "limits": asdict(result.limits[task]),
                "cost_us": cost(body, limits),
                "guarded_us": {kind: cost(body, limits, guard(body, kind == "allowed")) for kind in GUARDED},
            }
            print(task, name, cells[task][name])
    write("limits", {"settings": {"episodes": episodes, "seed": SEED, "kinds": KINDS}, "cells": cells})


def render() -> str:
    """What limits cost."""
    found = read("limits")
    lines = [
        "| task | limits | success | minus free, paired | actions changed | time, p50 / p99 | a guard that allows | "
        "one that looks in vain for others |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task, cell in found["cells"].items():
        lines.append(f"| {task} | none | {share(cell['free'])} | | | | | |")
        for name, (step, jerk) in found["settings"]["kinds"].items():
            one = cell[name]
            changed = one["limits"]["changed"] / one["limits"]["actions"]
            times = " | ".join(
                f"{micro['p50']:.0f} / {micro['p99']:.0f} µs" for micro in (one["cost_us"], *one["guarded_us"].values())
            )
            lines.append(
                f"| {task} | step {step:g}, jerk {jerk:g} | {share(one)} | {difference(one['difference'])} | "
                f"{changed:.2f} | {times} |"
            )
    settings = found["settings"]
    return (
        "\n".join(lines)
        + f"\n\nThe shipped weights, {settings['episodes']} episodes from seed {settings['seed']} on, the same ones in "
        f"each row; actions are -1 to 1; 95 % intervals. The time is the processor's for one action through the limits "
        f"alone and after a guard of the size that `guard learn` makes ({found['hardware']['processor']}, "
        f"`{found['command']}`).\n"
    )


if __name__ == "__main__":
    tyro.cli(main)

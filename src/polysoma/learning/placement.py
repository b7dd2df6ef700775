"""Which process computes which body's windows.

However few windows a body has, it costs some hundred small operations forward and back. Processes that divide the
windows of every body among them all pay that for every body; here most bodies are one process's alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from polysoma.data.mixture import Source
from polysoma.learning.bodies import BodyRecipe
from polysoma.policy.policy import Policy

_SAMPLE = 4
_ALWAYS = 3e8
"""Multiplications and additions, forward, that take as long as what a body costs with no windows at all."""


def costs_of(policy: Policy, sources: Sequence[Source], bodies: Mapping[str, BodyRecipe]) -> dict[str, float]:
    """What the windows of a step of each body cost, in multiplications and additions forward: not times, so that it is
    the same in all processes and on every day."""
    costs = {}
    for source in sources:
        name = source.embodiment.name
        frames = source.spaced(_SAMPLE)
        with FlopCounterMode(display=False) as counted, torch.no_grad(), policy.autocast():
            if len(frames):
                policy.loss(source.ending_at(frames).to(policy.device))
        costs[name] = counted.get_total_flops() * bodies[name].batch / max(1, len(frames))
    return costs


def placed(costs: Mapping[str, float], windows: Mapping[str, int], processes: int) -> dict[str, int | None]:
    """The process that does all windows of each body; None for bodies whose windows all processes share.

    The dearest bodies choose first (Graham 1969, "Bounds on Multiprocessing Timing Anomalies"); what is more than one
    process's part is shared. So is everything where that ends sooner: few large bodies do not come out even.

    Args:
        costs: of a step of each body, beside what any body costs.
        windows: of each body a step. One alone cannot be shared.
        processes: how many there are.
    """
    part = sum(_ALWAYS + cost for cost in costs.values()) / processes
    # The first process has one window more where they do not come out even.
    parts = {n: _ALWAYS + costs[n] * math.ceil(windows[n] / processes) / windows[n] for n in costs}
    found = dict[str, int | None]()
    loads = [0.0] * processes
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        if _ALWAYS + costs[name] > part and windows[name] >= processes:
            found[name] = None
            loads = [load + parts[name] for load in loads]
            continue
        found[name] = least = min(range(processes), key=lambda process: loads[process])
        loads[least] += _ALWAYS + costs[name]
    return found if max(loads) <= sum(parts.values()) else dict.fromkeys(costs)

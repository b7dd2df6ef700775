"""Which process computes which body's windows.

However few windows a body has, it costs some hundred small operations forward and back. Processes that divide the
windows of every body among them all pay that for every body; here most bodies are one process's alone.
"""

from __future__ import annotations

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
    """What a step of each body costs, in multiplications and additions forward: not times, so that it is the same in
    all processes and on every day."""
    costs = {}
    for source in sources:
        name = source.embodiment.name
        frames = source.spaced(_SAMPLE)
        with FlopCounterMode(display=False) as counted, torch.no_grad(), policy.autocast():
            if len(frames):
                policy.loss(source.ending_at(frames).to(policy.device))
        costs[name] = _ALWAYS + counted.get_total_flops() * bodies[name].batch / max(1, len(frames))
    return costs


def placed(costs: Mapping[str, float], windows: Mapping[str, int], processes: int) -> dict[str, int | None]:
    """The process that does all windows of each body, so that none has much more to do than another; None for a body
    that costs more than one process's part and has windows for all: they share them.

    The dearest bodies choose first (Graham 1969, "Bounds on Multiprocessing Timing Anomalies").
    """
    part = sum(costs.values()) / processes
    loads, found = [0.0] * processes, dict[str, int | None]()
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        if costs[name] > part and windows[name] >= processes:
            found[name] = None
            continue
        least = min(range(processes), key=lambda process: loads[process])
        loads[least] += costs[name]
        found[name] = least
    return found

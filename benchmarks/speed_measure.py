"""Times training steps and decisions of whichever polysoma is imported, one thread, in one precision; prints JSON.

``benchmarks/speed.py`` runs this in processes of their own, with the sources of this checkout and of an earlier commit
in turn, so it keeps to what both offer.

    python benchmarks/speed_measure.py step metaworld 128 float32 DATA
    python benchmarks/speed_measure.py decide metaworld,aloha bfloat16
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.evaluation.evaluation import decision_latency
from polysoma.policy import checkpoint

SEED = 4000


def in_precision(precision: str) -> contextlib.AbstractContextManager[Any]:
    """What the products of a training step run in."""
    return contextlib.nullcontext() if precision == "float32" else torch.autocast("cpu", torch.bfloat16)


def drawn_from(folder: Path, policy: Any, body: str) -> Source:
    """The body's demonstrations. Before horizons left the embodiment a source needed none."""
    if hasattr(policy, "horizon"):
        return Source([Dataset(folder / body)], [1.0], 0.0, horizon=policy.horizon(body))
    return Source([Dataset(folder / body)], [1.0], 0.0)


def step(body: str, count: int, precision: str, folder: Path, times: int) -> dict[str, Any]:
    """Seconds of each of some optimiser steps (draw, forward, backward, AdamW) of ``count`` windows of one body."""
    policy = checkpoint.load_for_training("generalist").train()
    source, rng = drawn_from(folder, policy, body), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(policy.parameters(), 1e-5, fused=True)
    seconds = []
    for _ in range(times + 1):
        began = time.perf_counter()
        windows = source.draw(count, rng)
        with in_precision(precision):
            loss = policy.loss(windows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
    # The first one also pays for what is made once.
    return {"seconds": seconds[1:], "loss": loss.item()}


def decide(bodies: list[str], backend: str) -> dict[str, Any]:
    """Milliseconds from an observation to an action at batch 1, by body; the precision is that of the environment."""
    tasks = [simulators.tasks_of(body)[-1] for body in bodies]
    try:
        from polysoma.rollout.drivers import Checkpoint
    except ImportError:  # before drivers were planner factories
        return decision_latency("generalist", tasks, SEED)
    return decision_latency(Checkpoint("generalist", backend=backend or None), tasks, SEED)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "step":
        body, count, precision, folder, times = sys.argv[2:]
        result = step(body, int(count), precision, Path(folder), int(times))
    else:
        result = decide(sys.argv[2].split(","), sys.argv[3] if len(sys.argv) > 3 else "")
    print(json.dumps(result))

"""Times training steps and decisions of whichever polysoma is imported, one thread, in one precision, and counts their
function calls; prints JSON.

``benchmarks/speed.py`` runs this in processes of their own, with the sources of this checkout and of an earlier commit
in turn, so it keeps to what both offer.

    python benchmarks/speed_measure.py step metaworld 128 float32 DATA
    python benchmarks/speed_measure.py decide metaworld,aloha onnx
    python benchmarks/speed_measure.py calls metaworld DATA onnx
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import polysoma
from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
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
    """The processor's seconds for each of some optimiser steps (draw, forward, backward, AdamW) of ``count`` windows of
    one body. They are the process's own, so what else runs on the machine counts little."""
    policy = checkpoint.load_for_training("generalist").train()
    # All weights learn on either side: the earlier commit froze the trunk where adaptations are attached to it.
    policy.requires_grad_(True)
    source, rng = drawn_from(folder, policy, body), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(policy.parameters(), 1e-5, fused=True)
    seconds = []
    for _ in range(times + 1):
        began = time.process_time()
        windows = source.draw(count, rng)
        with in_precision(precision):
            loss = policy.loss(windows)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.process_time() - began)
    # The first one also pays for what is made once.
    return {"seconds": seconds[1:], "loss": loss.item()}


def decide(bodies: list[str], backend: str) -> dict[str, Any]:
    """Milliseconds from an observation to an action at batch 1, by body; the precision is that of the environment."""
    from polysoma.evaluation.latency import decision_latency

    tasks = [simulators.tasks_of(body)[-1] for body in bodies]
    return decision_latency(acting(backend), tasks, SEED)


def acting(backend: str) -> Any:
    """What evaluations take for the shipped weights. Before drivers were planner factories it was their name."""
    try:
        from polysoma.rollout.drivers import Checkpoint
    except ImportError:
        return "generalist"
    return Checkpoint("generalist", backend=backend or None)


def calls(body: str, folder: Path, backend: str) -> dict[str, Any]:
    """Calls of the package's own functions, from a sample to its loss and from an observation to an action."""
    policy = checkpoint.load_for_training("generalist").train()
    source, rng = drawn_from(folder, policy, body), np.random.default_rng(0)
    for _ in range(2):  # The first one also pays for what is made once.
        sample = counted(lambda: policy.loss(source.draw(1, rng)))
    driver = acting(backend)
    try:
        from polysoma.acting.agent import Acting, Agent
    except ImportError:
        from polysoma.policy.agent import Acting, Agent  # type: ignore[no-redef]
    planner = checkpoint.load(driver) if isinstance(driver, str) else driver()
    environment = simulators.make(simulators.tasks_of(body)[0])
    agent = Agent(planner, body, acting=Acting(execute=1))
    observation = environment.reset(seed=SEED)[0]
    agent.reset(seed=SEED)
    for _ in range(30):  # Until the window of the body is full.
        observation = environment.step(agent.act(observation))[0]
    return {"sample": sample, "decision": counted(lambda: agent.act(observation))}


def counted(what: Callable[[], Any]) -> dict[str, int]:
    """How many calls of the package's own functions something takes, of how many functions in how many files;
    comprehensions are part of the function around them."""
    package = str(Path(polysoma.__file__).parent)
    seen: list[tuple[str, str]] = []

    def note(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(package) and not code.co_name.startswith("<"):
            seen.append((code.co_filename, code.co_qualname))

    sys.setprofile(note)
    try:
        what()
    finally:
        sys.setprofile(None)
    return {"calls": len(seen), "functions": len(set(seen)), "files": len({file for file, _ in seen})}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "step":
        body, count, precision, folder, times = sys.argv[2:]
        result = step(body, int(count), precision, Path(folder), int(times))
    elif sys.argv[1] == "calls":
        body, folder, *rest = sys.argv[2:]
        result = calls(body, Path(folder), *(rest or [""]))
    else:
        result = decide(sys.argv[2].split(","), sys.argv[3] if len(sys.argv) > 3 else "")
    print(json.dumps(result))

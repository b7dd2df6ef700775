"""Speeds: recording Meta-World states, evaluating Meta-World without videos, single decisions on one core, and what a
training sample costs in a policy that knows one body against one that knows all.

    python benchmarks/speed.py
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.evaluation.evaluation import decision_latency, evaluate
from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy, bfloat16
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from results import write

WORKERS = 2
PAIRS = 60


def sample_cost(folder: Path) -> dict[str, float]:
    """Milliseconds of forward and backward passes of one Meta-World window in a batch of 128, on one core: in a policy
    that knows this body alone and in the shipped one, in turn; medians."""
    torch.set_num_threads(1)
    everything = checkpoint.load_for_training("generalist")
    known = everything.config
    alone = Policy(dataclasses.replace(known, embodiments=(everything.embodiment("metaworld"),)))
    windows = Source([Dataset(folder / "metaworld")], [1.0], 0.0).draw(128, np.random.default_rng(0))
    seconds: dict[str, list[float]] = {"one": [], "all": []}
    for _ in range(PAIRS):
        for name, policy in (("one", alone), ("all", everything)):
            began = time.perf_counter()
            with bfloat16(policy.device):
                loss = policy.loss(windows)
            loss.backward()
            seconds[name].append(time.perf_counter() - began)
            policy.zero_grad(set_to_none=True)
    one, every = (1e3 * float(np.median(seconds[name][5:])) / len(windows) for name in ("one", "all"))
    return {"bodies": len(known.embodiments), "one_ms": one, "all_ms": every, "ratio": every / one}


if __name__ == "__main__":
    tasks = list(simulators.tasks_of("metaworld"))
    with tempfile.TemporaryDirectory() as folder:
        recorded = record(tasks, 10, Path(folder), Behaviour(noise=None), workers=WORKERS)
        cost = sample_cost(Path(folder))
    print("sample", cost)
    recording = {"steps": recorded.steps, "seconds": recorded.seconds, "steps_per_s": recorded.steps / recorded.seconds}
    print("recording", recording)
    began = time.monotonic()
    result = evaluate("generalist", tasks, 4, 4000, workers=WORKERS)
    evaluation = {"tasks": 50, "episodes": 4, "seconds": time.monotonic() - began}
    print("evaluation", evaluation, result.families()["metaworld"].rate)
    firsts = [simulators.tasks_of(body)[-1] for body in checkpoint.bodies("generalist")]
    latency = decision_latency("generalist", firsts, 4000)
    print("latency", latency)
    write(
        "speed",
        {"workers": WORKERS, "recording": recording, "evaluation": evaluation, "latency_ms": latency, "sample": cost},
    )

"""Speeds: recording Meta-World states, evaluating Meta-World without videos, and single decisions on one core.

python benchmarks/speed.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from polysoma import simulators
from polysoma.evaluation.evaluation import decision_latency, evaluate
from polysoma.policy import checkpoint
from polysoma.recording import record
from polysoma.rollout import Behaviour
from results import write

WORKERS = 2

if __name__ == "__main__":
    tasks = list(simulators.tasks_of("metaworld"))
    with tempfile.TemporaryDirectory() as folder:
        recorded = record(tasks, 10, Path(folder), Behaviour(noise=None), workers=WORKERS)
    recording = {"steps": recorded.steps, "seconds": recorded.seconds, "steps_per_s": recorded.steps / recorded.seconds}
    print("recording", recording)
    began = time.monotonic()
    result = evaluate("generalist", tasks, 4, 4000, workers=WORKERS)
    evaluation = {"tasks": 50, "episodes": 4, "seconds": time.monotonic() - began}
    print("evaluation", evaluation, result.families()["metaworld"].rate)
    firsts = [simulators.tasks_of(body)[-1] for body in checkpoint.bodies("generalist")]
    latency = decision_latency("generalist", firsts, 4000)
    print("latency", latency)
    write("speed", {"workers": WORKERS, "recording": recording, "evaluation": evaluation, "latency_ms": latency})

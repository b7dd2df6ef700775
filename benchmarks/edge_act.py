"""The runner of examples/edge.py that benchmarks/edge.py measures, and a decision of it beside LeRobot's ACT."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from polysoma import simulators
from polysoma.embodiment import INSTRUCTION
from polysoma.policy import checkpoint as checkpoints
from polysoma.policy.agent import Acting
from polysoma.policy.export import export_onnx


def _example() -> Any:
    """examples/edge.py, which is called as this file is."""
    spec = importlib.util.spec_from_file_location("edge_example", Path(__file__).parents[1] / "examples" / "edge.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Runner = _example().Runner


def against_act(checkpoint: str, python: str, seed: int, words: int, folder: Path) -> dict[str, Any]:
    """A decision for two arms with one 96-pixel camera: ours, and LeRobot's ACT in its own environment."""
    body, task = "aloha-pixels", "aloha-pixels/transfer-cube"
    observation, _ = simulators.make(task).reset(seed=seed)
    camera = next(value for name, value in observation.items() if name != INSTRUCTION and value.ndim == 3)
    state = sum(value.size for name, value in observation.items() if name != INSTRUCTION and value.ndim == 1)
    policy = checkpoints.load(checkpoint, precision="bfloat16")
    agent = policy.agent(body, acting=Acting(execute=1))
    times = {"torch bfloat16": _decisions(lambda: agent.act(observation), agent.reset)}
    exported = checkpoints.load_for_training(checkpoint)
    streams = {name: value for name, value in observation.items() if name != INSTRUCTION}
    for name, int8 in (("onnx float32", False), ("onnx int8", True)):
        path = folder / f"{body}-{int8}.onnx"
        export_onnx(exported, body, path, int8, words)
        runner = Runner(str(path), observation[INSTRUCTION])
        times[name] = _decisions(lambda runner=runner: runner.act(streams), lambda: None)
    script = Path(__file__).with_name("act_lerobot.py")
    found = subprocess.run(
        [python, str(script), str(camera.shape[0]), str(state), str(policy.embodiment(body).actions.size)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    act = json.loads(found.stdout.splitlines()[-1])
    best = min(times.values())
    return {"act": act, "p50_ms": times, "times_faster": round(act["p50_ms"] / best, 1), "side": camera.shape[0]}


def _decisions(decide: Callable[[], Any], forget: Callable[[], Any], count: int = 60) -> float:
    """The median time of a decision in milliseconds."""
    times = []
    for _ in range(count + 5):
        forget()
        began = time.perf_counter()
        decide()
        times.append(1e3 * (time.perf_counter() - began))
    return round(float(np.median(times[5:])), 2)

"""Exported policies: size, memory and time of a decision, and what eight bits cost in success.

    python benchmarks/edge.py

For one task of each kind of body: torch (bfloat16, as `polysoma evaluate` uses it), ONNX in float32, and ONNX with int8
matrices, each on one core at batch 1. Success is of the very runner that examples/edge.py shows, on the same seeds for
all three; memory is what a process that holds nothing but the runner and its session has resident.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from polysoma import simulators
from polysoma.acting.agent import Acting
from polysoma.acting.policy_planner import TEMPERATURE
from polysoma.embodiment import INSTRUCTION, DiscreteActions
from polysoma.evaluation.intervals import paired_difference
from polysoma.policy import checkpoint as checkpoints
from polysoma.policy.export import export_onnx
from results import FOLDER, read, write

Runner = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "edge.py"))["Runner"]

TASKS = (
    "metaworld/*", "metaworld-pixels/drawer-*,metaworld-pixels/button-*", "babyai/GoTo*", "drone/*", "rover/*",
    "aloha/transfer-cube", "go1/*", "fetch/*", "pointmaze/umaze", "reacher/*",
)  # fmt: skip
RESIDENT = """
import sys; sys.path.insert(0, sys.argv[2])
from edge import Runner
runner = Runner(sys.argv[1], "go")
print([int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")][0] / 1024)
"""


class Edge:
    """A runner of examples/edge.py that acts as an agent does: half of each chunk, choices drawn at a temperature."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spent_ms: list[float] = []

    def begin(self, instruction: str, seed: int) -> None:
        self.runner, self.instruction = Runner(str(self.path), instruction), instruction
        self.left: list[Any] = []
        self.rng = np.random.default_rng(seed)

    def act(self, observation: dict[str, Any]) -> Any:
        if observation[INSTRUCTION] != self.instruction:
            # A new instruction within the episode: the frames stay.
            frames, previous = self.runner.frames, self.runner.previous
            self.runner, self.instruction = Runner(str(self.path), observation[INSTRUCTION]), observation[INSTRUCTION]
            self.runner.frames, self.runner.previous = frames, previous
        if not self.left:
            began = time.perf_counter()
            chunk = self.runner.act({k: v for k, v in observation.items() if k != INSTRUCTION})
            self.spent_ms.append(1e3 * (time.perf_counter() - began))
            if self.runner.names:
                drawn = chunk.astype(float) / TEMPERATURE + self.rng.gumbel(size=chunk.shape)
                self.left = list(drawn.argmax(-1))
            else:
                self.left = list(chunk[: (len(chunk) + 1) // 2])
        action = self.left.pop(0)
        self.runner.executed(action)
        return action


def play(task: str, seeds: range, begin: Any, act: Any) -> list[bool]:
    """Whether each seed's episode succeeded."""
    environment, found = simulators.make(task), []
    for seed in seeds:
        observation, _ = environment.reset(seed=seed)
        begin(observation[INSTRUCTION], seed)
        over = False
        while not over:
            observation, _, terminated, truncated, info = environment.step(act(observation))
            over = terminated or truncated or info["success"]
        found.append(bool(info["success"]))
    environment.close()
    return found


def measure(checkpoint: str, tasks: list[str], seeds: range, folder: Path) -> dict[str, Any]:
    """The numbers of one body."""
    body = tasks[0].partition("/")[0]
    policy = checkpoints.load(checkpoint, precision="bfloat16")
    agent = policy.agent(body)
    times: dict[str, list[float]] = {"torch bfloat16": []}

    def timed(observation: dict[str, Any]) -> Any:
        began = time.perf_counter()
        action = agent.act(observation)
        if agent.asked:
            times["torch bfloat16"].append(1e3 * (time.perf_counter() - began))
        return action

    wins = {"torch bfloat16": [w for t in tasks for w in play(t, seeds, lambda text, s: agent.reset(text, s), timed)]}
    row: dict[str, Any] = {"torch bfloat16": {}}
    exported = checkpoints.load_for_training(checkpoint)
    for name, int8 in (("onnx float32", False), ("onnx int8", True)):
        path = folder / f"{body}-{int8}.onnx"
        size = export_onnx(exported, body, path, int8)
        edge = Edge(path)
        wins[name] = [w for t in tasks for w in play(t, seeds, edge.begin, edge.act)]
        times[name] = edge.spent_ms
        examples = str(Path(__file__).parents[1] / "examples")
        resident = subprocess.run(
            [sys.executable, "-c", RESIDENT, str(path), examples], capture_output=True, text=True, check=True
        )
        row[name] = {"mb": round(size / 1e6, 2), "resident_mb": round(float(resident.stdout), 1)}
    for name, spent in times.items():
        row[name] |= {
            "p50_ms": round(float(np.median(spent)), 2),
            "p99_ms": round(float(np.quantile(spent, 0.99)), 2),
            "successes": sum(wins[name]),
            "trials": len(wins[name]),
        }
    difference, *interval = paired_difference(wins["onnx int8"], wins["onnx float32"])
    row["int8_minus_float32"] = {"difference": difference, "interval": interval}
    row["discrete"] = isinstance(policy.embodiment(body).actions, DiscreteActions)
    return row


def against_act(checkpoint: str, python: str, seed: int, folder: Path) -> dict[str, Any]:
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
        export_onnx(exported, body, path, int8)
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


def main(
    checkpoint: str = "generalist",
    trials: int = 50,
    seed: int = 6700,
    lerobot: str = "",
    bodies: tuple[str, ...] = (),
) -> None:
    """Every body's numbers.

    Args:
        checkpoint: which weights.
        lerobot: a Python that has LeRobot (tests/interop/check_lerobot.py says how): its ACT is timed beside ours.
        trials: episodes of each body, spread over its tasks.
        seed: of the first episode of each task.
        bodies: measure these again and keep what was found of the others; none for all.
    """
    torch.set_num_threads(1)
    before = json.loads((FOLDER / "edge.json").read_text()) if bodies else {"bodies": {}, "act": None}
    rows: dict[str, Any] = before["bodies"]
    settings = {"trials": trials, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        act = against_act(checkpoint, lerobot, seed, Path(folder)) if lerobot else before["act"]
        if lerobot:
            print(act, flush=True)
        for patterns in TASKS:
            tasks = simulators.match_tasks(patterns)
            body = tasks[0].partition("/")[0]
            if bodies and body not in bodies:
                continue
            tasks = tasks[:: max(1, len(tasks) // trials)][:trials]
            each = max(1, trials // len(tasks))
            rows[body] = measure(checkpoint, tasks, range(seed, seed + each), Path(folder))
            print(body, json.dumps(rows[body]), flush=True)
            write("edge", {"settings": settings, "bodies": rows, "act": act})


def render() -> str:
    """Exported policies."""
    found = read("edge")
    kinds = ("torch bfloat16", "onnx float32", "onnx int8")
    lines = [
        "| body | decision p50, torch / ONNX / int8 | file, ONNX / int8 | memory, int8 | success, torch / ONNX / int8 "
        "| int8 - ONNX, paired |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for body, row in found["bodies"].items():
        times = " / ".join(f"{row[kind]['p50_ms']:.1f}" for kind in kinds)
        wins = " / ".join(f"{row[kind]['successes']}" for kind in kinds)
        change = row["int8_minus_float32"]
        low, high = change["interval"]
        lines.append(
            f"| {body} | {times} ms | {row['onnx float32']['mb']:.1f} / {row['onnx int8']['mb']:.1f} MB "
            f"| {row['onnx int8']['resident_mb']:.0f} MB | {wins} of {row['onnx int8']['trials']} "
            f"| {change['difference']:+.2f} [{low:+.2f}, {high:+.2f}] |"
        )
    machine = found["hardware"]
    command = "`python benchmarks/edge.py`; ALOHA with `--trials 300`"
    lines += ["", f"One core of {machine['processor']}, batch 1 ({command}).", ""]
    if found.get("act"):
        act, own = found["act"]["act"], found["act"]["p50_ms"]
        lines += [
            f"Two arms with one camera of {found['act']['side']} pixels, same run: LeRobot {act['lerobot']}'s ACT "
            f"({act['parameters'] / 1e6:.1f} million parameters) decides in {act['p50_ms']:.0f} ms, this policy in "
            + " / ".join(f"{own[kind]:.1f}" for kind in kinds)
            + f" ms: {found['act']['times_faster']:.0f} times faster at best.",
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)

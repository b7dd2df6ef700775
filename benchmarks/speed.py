"""Speeds on one core: training steps in float32 and bfloat16 side by side, optionally against an earlier commit in the
same run; decisions of the shipped weights; recording and evaluation with two workers; what a sample costs in a policy
of many bodies; what a decision costs with frames as large as cameras make them.

    python benchmarks/speed.py
    python benchmarks/speed.py --before 33d38ae                  # paired with an earlier commit
    python benchmarks/speed.py --before 33d38ae --emulate-avx2   # libraries set to use no more than AVX2
    python benchmarks/speed.py --only frames
    python benchmarks/speed.py --only joint --before cacb900     # a step of all bodies of the laptop's recipe

Each figure comes from processes of their own, ours and the earlier commit's in turn, so that a machine whose speed
drifts slows both alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import tyro

from polysoma import simulators
from polysoma.acting.agent import Acting
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.data.statistics import Statistics
from polysoma.evaluation.evaluation import evaluate
from polysoma.horizon import Horizon
from polysoma.learning.memory import quick_allocator
from polysoma.learning.methods.interactive import Interactive
from polysoma.learning.recipe import read_recipe
from polysoma.nn.images import ImageConfig, Reduction
from polysoma.nn.precision import Precision, instruction_set
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from polysoma.simulators import so101
from results import FOLDER, read, write

ROOT = Path(__file__).parents[1]
WORKERS = 2
PAIRS = 60
FRAMES = 205
SEED = 4000
STEPS = {"metaworld": 128, "aloha": 112, "babyai": 48}
"""Batch of a step, by body."""
PARTS = ("steps", "decisions", "sample", "throughput", "calls", "frames", "joint")
APART = {"decisions", "calls", "frames", "joint"}
"""Parts with a results file of their own."""
COUNTED = "metaworld"
"""The body whose function calls are counted."""
DEMONSTRATIONS = {"metaworld": 10, "aloha": 20, "babyai": 5}
JOINT, JOINT_STEPS = ROOT / "recipes/laptop.toml", 20
"""The recipe of many bodies whose steps are measured, and steps to warm up, then of a line of metrics."""
ALLOCATOR = "now allocator"
EMULATED = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""Tells PyTorch's own kernels, oneDNN and MKL to use no instructions beyond AVX2."""


@dataclass(frozen=True)
class Speed:
    """Measures speeds and writes benchmarks/results/speed.json, or speed-avx2.json where AVX2 is emulated."""

    before: str = ""
    """A commit to compare with."""
    emulate_avx2: bool = False
    """Tell the libraries to use no instructions beyond AVX2. Real processors without more may be slower or faster."""
    rounds: int = 3
    """How often each training step's process is run, ours and the earlier one's in turn."""
    only: tuple[str, ...] = PARTS
    """Which parts to measure; of the others the results file keeps what it has."""

    def run(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | (EMULATED if self.emulate_avx2 else {})
        name = "speed-avx2" if self.emulate_avx2 else "speed"
        known = read(name) if self.only != PARTS and (FOLDER / f"{name}.json").exists() else {}
        kept = ("steps", "sample", "workers", "recording", "evaluation")
        numbers: dict[str, Any] = {key: known[key] for key in kept if key in known} | {
            "instruction_set": "AVX2 (emulated)" if self.emulate_avx2 else instruction_set(),
            "processor_has": instruction_set(),
            "before": self.before or None,
            "kept": {"from": known["commit"], "measured_now": list(self.only)} if known else None,
        }
        with tempfile.TemporaryDirectory() as folder, _worktree(self.before, Path(folder)) as earlier:
            sides = {"now": ROOT} | ({"before": earlier} if earlier else {})
            if "steps" in self.only:
                numbers["steps"] = self._steps(sides, Path(folder), environment)
            if "decisions" in self.only:
                said = {"instruction_set": numbers["instruction_set"], "seed": SEED}
                own = "decisions-avx2" if self.emulate_avx2 else "decisions"
                write(own, said | {"bodies": _decisions(environment)})
            if "calls" in self.only:
                counts = _calls(sides, Path(folder), environment)
                write("calls", {"before": self.before or None, "body": COUNTED, "counts": counts})
            if "joint" in self.only:
                said = {"instruction_set": numbers["instruction_set"], "before": self.before or None}
                write(
                    "joint-avx2" if self.emulate_avx2 else "joint",
                    said | self._joint(sides, Path(folder), environment),
                )
        if "sample" in self.only:
            numbers["sample"] = sample_cost()
            print("sample", numbers["sample"])
        if "throughput" in self.only:
            numbers |= throughput()
        if "frames" in self.only:
            write("frames", frames())
        if not APART.issuperset(self.only):
            write(name, numbers)

    def _steps(self, sides: dict[str, Path], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
        for side, root in sides.items():
            for body, episodes in DEMONSTRATIONS.items():
                _record(root, f"{body}/*", episodes, folder / side, environment)
        found: dict[str, Any] = {}
        for body, count in STEPS.items():
            seconds: dict[str, list[float]] = {}
            for _ in range(self.rounds):
                for precision in get_args(Precision):
                    for side, root in sides.items():
                        # Where bfloat16 is emulated a step takes as long as twenty others.
                        times = "2" if self.emulate_avx2 and precision == "bfloat16" else "8"
                        what = ["step", body, str(count), precision, str(folder / side), times]
                        got = json.loads(_run(root, [str(ROOT / "benchmarks/speed_measure.py"), *what], environment))
                        seconds.setdefault(f"{side} {precision}", []).extend(got["seconds"])
            found[body] = {"windows": count} | {
                name: {"median": float(np.median(own)), "least": min(own), "most": max(own)}
                for name, own in seconds.items()
            }
            print(body, found[body])
        return found

    def _joint(self, sides: dict[str, Path], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
        """Seconds of a step of all bodies of a recipe, all windows in one process; also with another allocator of
        memory, where there is one."""
        recipe = read_recipe(JOINT)
        assert isinstance(recipe.method, Interactive)
        tasks, data = ",".join(recipe.method.tasks), folder / "joint"
        _record(ROOT, tasks, 2, data, environment)
        windows = sum(body.batch for body in recipe.bodies.values())
        size = f"width={recipe.policy.width}, depth={recipe.policy.depth}, heads={recipe.policy.heads}"
        changes = [
            'method={kind="imitation"}', "minutes=0", f"steps={2 * JOINT_STEPS}", f"log_every={JOINT_STEPS}",
            f'data=["{data}/*"]', f"policy={{{size}}}", 'tracker="none"',
        ]  # fmt: skip
        seconds: dict[str, list[float]] = {}
        with quick_allocator():
            quick = {name: os.environ[name] for name in ("LD_PRELOAD", "MALLOC_CONF") if name in os.environ}
        ways = {side: (root, environment) for side, root in sides.items()}
        if quick:
            ways[ALLOCATOR] = ROOT, environment | quick
        for _ in range(self.rounds):
            for precision in ("float32",) if self.emulate_avx2 else get_args(Precision):
                for side, (root, around) in ways.items():
                    with tempfile.TemporaryDirectory() as out:
                        own = around | {"POLYSOMA_PRECISION": precision}
                        _run(root, ["-m", "polysoma", "train", str(JOINT), "--out", f"{out}/run", *changes], own)
                        lines = (Path(out) / "run/metrics.jsonl").read_text().splitlines()
                    # The pace is that of the run so far.
                    begun, ended = (line["step"] / line["windows_per_s"] for line in map(json.loads, lines))
                    seconds.setdefault(f"{side} {precision}", []).append(windows * (ended - begun) / JOINT_STEPS)
        found = {
            name: {"median": float(np.median(own)), "least": min(own), "most": max(own)}
            for name, own in seconds.items()
        }
        print("joint", found)
        return {"bodies": len(recipe.bodies), "windows": windows, "steps": found, "allocator": quick.get("LD_PRELOAD")}


def _decisions(environment: dict[str, str]) -> dict[str, Any]:
    """Milliseconds of a decision of the shipped weights by body, for every precision and backend."""
    bodies = checkpoint.bodies("generalist")
    script = str(ROOT / "benchmarks/speed_measure.py")
    found: dict[str, Any] = {}
    for precision in get_args(Precision):
        for backend in ("torch", "onnx"):
            own = environment | {"POLYSOMA_PRECISION": precision}
            if backend == "onnx" and precision == "bfloat16":
                continue  # ONNX Runtime computes in float32.
            way = f"{backend} {precision}"
            found[way] = json.loads(_run(ROOT, [script, "decide", ",".join(bodies), backend], own))
            print(way, {body: figures["p50"] for body, figures in found[way].items()})
    return {body: {way: figures[body] for way, figures in found.items()} for body in bodies}


def _calls(sides: dict[str, Path], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Calls of the package's own functions, from a sample to a loss and from an observation to an action."""
    found: dict[str, Any] = {}
    for side, root in sides.items():
        home = folder / "calls" / side
        _record(root, simulators.tasks_of(COUNTED)[0], 1, home, environment)
        command = [str(ROOT / "benchmarks/speed_measure.py"), "calls", COUNTED, str(home)]
        for backend in ("torch", "onnx") if side == "now" else ("torch",):
            found[f"{side} {backend}"] = json.loads(_run(root, [*command, backend], environment))
    print("calls", found)
    return found


def _record(root: Path, tasks: str, episodes: int, home: Path, environment: dict[str, str]) -> None:
    out = ["--episodes", str(episodes), "--out", str(home), "--workers", str(WORKERS), "--seed", str(SEED)]
    _run(root, ["-m", "polysoma", "record", tasks, *out], environment)


def _run(root: Path, command: list[str], environment: dict[str, str]) -> str:
    """The last line that a Python process prints, which imports the polysoma of a checkout."""
    path = {"PYTHONPATH": str(root / "src")}
    done = subprocess.run(
        [sys.executable, *command], env=environment | path, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else ""


@contextlib.contextmanager
def _worktree(commit: str, folder: Path) -> Iterator[Path | None]:
    """A checkout of a commit for as long as it is needed; None for no commit."""
    if not commit:
        yield None
        return
    place = folder / "earlier"
    subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "-q", "--detach", str(place), commit], check=True)
    try:
        yield place
    finally:
        subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(place)], check=True)


def sample_cost() -> dict[str, float]:
    """Milliseconds of forward and backward passes of one Meta-World window in a batch of 128, on one core: in a policy
    that knows this body alone and in the shipped one, in turn; medians."""
    torch.set_num_threads(1)
    everything = checkpoint.load_for_training("generalist")
    known = everything.config
    alone = Policy(dataclasses.replace(known, embodiments=(everything.embodiment("metaworld"),)))
    seconds: dict[str, list[float]] = {"one": [], "all": []}
    with tempfile.TemporaryDirectory() as folder:
        record(list(simulators.tasks_of("metaworld")), 3, Path(folder), Behaviour(noise=None), workers=WORKERS)
        source = Source([Dataset(Path(folder) / "metaworld")], [1.0], 0.0, horizon=everything.horizon("metaworld"))
        windows = source.draw(128, np.random.default_rng(0))
    for _ in range(PAIRS):
        for name, policy in (("one", alone), ("all", everything)):
            began = time.perf_counter()
            with policy.autocast():
                loss = policy.loss(windows)
            loss.backward()
            seconds[name].append(time.perf_counter() - began)
            policy.zero_grad(set_to_none=True)
    one, every = (1e3 * float(np.median(seconds[name][5:])) / len(windows) for name in ("one", "all"))
    return {"bodies": len(known.embodiments), "one_ms": one, "all_ms": every, "ratio": every / one}


def frames() -> dict[str, Any]:
    """Milliseconds of the processor from what a robot senses to an action: two frames as cameras make them, which are
    resized, and an untrained policy of the size that recipes have, on one core by ONNX Runtime. They are the process's
    own, so what else runs on the machine counts little."""
    torch.set_num_threads(1)
    body, rng = dataclasses.replace(so101.SMALL, privileged=()), np.random.default_rng(0)
    known = Statistics.of(np.stack([body.actions.low, body.actions.high]))
    statistics = {body.name: {"state": known, "action": known}}
    seen = [
        {"state": known.mean + rng.normal(size=len(known.mean)).astype(np.float32)}
        | {camera: rng.integers(0, 256, (*so101.PIXELS, 3), np.uint8) for camera in so101.CAMERAS}
        for _ in range(8)
    ]
    found: dict[str, Any] = {}
    for reduction in get_args(Reduction):
        config = PolicyConfig(
            (body,), statistics, ("cube",), {body.name: Horizon(chunk=16)}, images=ImageConfig(reduction=reduction)
        )
        policy = Policy(config).for_inference("float32").act_by("onnx")
        agent = policy.agent(body.name, "reach the red cube", acting=Acting(execute=1))
        times: dict[str, list[float]] = {"decision": [], "reading": []}
        for number in range(FRAMES):
            for name, what in (("decision", agent.act), ("reading", agent.checked)):
                began = time.process_time()
                what(seen[number % len(seen)])
                times[name].append(1e3 * (time.process_time() - began))
        own = {name: np.percentile(spent[5:], [50, 99]).round(2).tolist() for name, spent in times.items()}
        found[reduction] = {name: {"p50": p50, "p99": p99} for name, (p50, p99) in own.items()}
        print(reduction, found[reduction])
    sizes = {"cameras": len(so101.CAMERAS), "frame": list(so101.PIXELS), "picture": list(so101.SMALL_PIXELS)}
    return sizes | {"decisions": FRAMES - 5, "reductions": found}


def throughput() -> dict[str, Any]:
    """Recording and evaluating all tasks of Meta-World with two workers."""
    tasks = list(simulators.tasks_of("metaworld"))
    with tempfile.TemporaryDirectory() as folder:
        done = record(tasks, 10, Path(folder), Behaviour(noise=None), workers=WORKERS)
    recording = {"steps": done.steps, "seconds": done.seconds, "steps_per_s": done.steps / done.seconds}
    print("recording", recording)
    began = time.monotonic()
    result = evaluate("generalist", tasks, 4, SEED, workers=WORKERS)
    evaluation = {"tasks": 50, "episodes": 4, "seconds": time.monotonic() - began}
    print("evaluation", evaluation, result.families()["metaworld"].rate)
    return {"workers": WORKERS, "recording": recording, "evaluation": evaluation}


def render() -> str:
    """Training steps, before and now."""
    lines = ["| what | processor | before | now | times faster |", "| --- | --- | --- | --- | --- |"]
    for name in ("speed", "speed-avx2"):
        found = read(name)
        for body, row in found["steps"].items():
            usual = "float32" if "AVX2" in found["instruction_set"] else "bfloat16"
            old, new = row["before bfloat16"]["median"], row[f"now {usual}"]["median"]
            lines.append(
                f"| training step, {body}, {row['windows']} windows | {found['instruction_set']} "
                f"| {old:.2f} s, bfloat16 | {new:.2f} s, {usual} | {old / new:.1f} |"
            )
    joint = [read(name) for name in ("joint", "joint-avx2")]
    for found in joint:
        usual = "float32" if "AVX2" in found["instruction_set"] else "bfloat16"
        old, new = (found["steps"][f"{side} {usual}"]["median"] for side in ("before", "now"))
        lines.append(
            f"| training step, {found['bodies']} bodies, {found['windows']} windows* | {found['instruction_set']} "
            f"| {old:.2f} s, {usual} | {new:.2f} s, {usual} | {old / new:.1f} |"
        )
        if quick := found["steps"].get(f"{ALLOCATOR} {usual}"):
            lines.append(
                f"| the same, memory by {found['allocator']} | {found['instruction_set']} | {old:.2f} s, {usual} "
                f"| {quick['median']:.2f} s, {usual} | {old / quick['median']:.1f} |"
            )
    found = read("speed")
    machine = found["hardware"]
    return "\n".join(
        [
            *lines,
            "",
            f"Medians; one core of {machine['processor']}; before is commit {found['before']}, measured in turn in the "
            "same run. On a processor with bfloat16 instructions a training step computes in bfloat16 before and now; "
            "with AVX2 alone bfloat16 was the only choice before, and float32 is what is chosen now. AVX2 was "
            "emulated: the libraries were set to use "
            "nothing beyond it "
            f"(`{found['command']}`, and the same with `--emulate-avx2`). *: before is commit {joint[0]['before']}, "
            f"one core of {joint[0]['hardware']['processor']}, means of {JOINT_STEPS} steps in each run "
            f"(`{joint[0]['command']}`, and with `--emulate-avx2`).",
            "",
        ]
    )


def render_decisions() -> str:
    """What a decision of the shipped weights costs."""
    found = read("decisions")
    ways = {
        "onnx float32": "ONNX Runtime, p50 / p99", "torch float32": "torch, p50", "torch bfloat16": "in bfloat16, p50",
    }  # fmt: skip
    lines = [f"| body | {' | '.join(ways.values())} |", "| --- | --- | --- | --- |"]
    for body, own in found["bodies"].items():
        first, *others = (own[way] for way in ways)
        told = [f"{first['p50']:.1f} / {first['p99']:.1f} ms", *(f"{other['p50']:.1f} ms" for other in others)]
        lines.append(f"| {body} | {' | '.join(told)} |")
    machine = found["hardware"]
    lines += [
        "",
        f"From an observation to an action that is planned anew, batch 1, one core of {machine['processor']} "
        f"({found['instruction_set']}), float32 where nothing else is said (`{found['command']}`).",
    ]
    return "\n".join(lines) + "\n"


def render_frames() -> str:
    """What frames as large as cameras make them cost."""
    found = read("frames")
    (height, width), (small, wide) = found["frame"], found["picture"]
    rows = found["reductions"]
    told = ", ".join(f"{row['decision']['p50']:.1f} ms with `{name}`" for name, row in rows.items())
    reading = max(row["reading"]["p50"] for row in rows.values())
    return (
        f"{found['cameras']} cameras of {height} x {width}, pictures of {small} x {wide}: a decision takes {told} "
        f"(p50), of which resizing and checking {reading:.1f} ms; one core of {found['hardware']['processor']}, an "
        f"untrained policy by ONNX Runtime (`{found['command']}`).\n"
    )


def render_calls() -> str:
    """Function calls of a sample and of a decision, before and now."""
    found = read("calls")
    calls = found["counts"]
    lines = ["| what | calls | functions | files |", "| --- | --- | --- | --- |"]
    for what, name in (("sample", "from a sample to its loss"), ("decision", "from an observation to an action")):
        for side, words in (
            ("before torch", f"commit {found['before']}"),
            ("now torch", "now, torch"),
            ("now onnx", "now, ONNX Runtime"),
        ):
            if side in calls and not (what == "sample" and side == "now onnx"):
                row = calls[side][what]
                lines.append(f"| {name}, {words} | {row['calls']} | {row['functions']} | {row['files']} |")
    return "\n".join(
        [
            *lines,
            "",
            f"Calls of the package's own functions for {found['body']}, batch 1 (`{found['command']}`).",
            "",
        ]
    )


if __name__ == "__main__":
    tyro.cli(Speed).run()

"""What training on a million hours of robot data would take, from what is measured here.

    python benchmarks/scale.py

Measures sizes, decoding, reading, training and sending on this machine (about two minutes, one core) and computes the
plan of docs/scale.md from that and from the assumptions below. Nothing of the plan itself was run.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.images import encode_png
from polysoma.data.mixture import Source
from polysoma.data.video import Video, encode_video
from polysoma.data.writer import DatasetWriter
from polysoma.policy import checkpoint
from polysoma.policy.policy import bfloat16
from polysoma.rollout import Behaviour, interleave, rollout_in_workers
from results import write

TASKS = ("metaworld-pixels/drawer-open-v3", "metaworld-pixels/reach-v3", "metaworld-pixels/window-close-v3")
SEED = 4700
SIDES = (96, 224)
REDUCE = """
import sys, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
flat = torch.zeros(int(sys.argv[1]))
for turn in range(6):
    if turn == 1:
        began = time.perf_counter()
    dist.all_reduce(flat)
if dist.get_rank() == 0:
    print((time.perf_counter() - began) / 5)
dist.destroy_process_group()
"""


@dataclass(frozen=True)
class Assumptions:
    """What was not measured here.

    Attributes:
        hours: of robot data.
        cameras, fps, side: of each robot: pictures of ``side`` pixels.
        gpus, per_node: of the cluster.
        peak: bfloat16 operations a second of one GPU; ``use``: the fraction of it that training reaches.
        parameters: of the policy.
        stride: of all frames, one in this many begins a window of an epoch.
        network: bytes a second between nodes, for each GPU.
        disk: bytes a second that a node writes.
        failure_hours: between failures, of one GPU with all that hangs on it.
        cores: of a node.
    """

    hours: float = 1e6
    cameras: int = 3
    fps: float = 15.0
    side: int = 224
    gpus: int = 256
    per_node: int = 8
    peak: float = 989e12
    use: float = 0.35
    parameters: float = 3e8
    stride: int = 8
    tokens_per_camera: int = 64
    network: float = 50e9
    disk: float = 2e9
    failure_hours: float = 50_000.0
    cores: int = 96


def rate(work: Callable[[], int], seconds: float = 1.5) -> float:
    """Things a second; ``work`` returns how many it did."""
    work()
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += work()
    return done / (time.perf_counter() - began)


def frames_of(side: int) -> list[np.ndarray]:
    """Pictures of an arm at work, uint8 ``(side, side, 3)``."""
    frames = []
    for task in TASKS:
        environment = simulators.make(task)
        environment.reset(seed=SEED)
        over = False
        while not over:
            frames.append(environment.render_frame(side))
            _, _, terminated, truncated, info = environment.step(environment.expert_action())
            over = terminated or truncated or info["success"]
    return frames


def measure(folder: Path) -> dict[str, Any]:
    """All that is measured."""
    found: dict[str, Any] = {"files": {}}
    for side in SIDES:
        frames = frames_of(side)
        video = folder / f"{side}.mp4"
        video.write_bytes(encode_video(frames, 15))
        jpegs, pngs = [_jpeg(frame) for frame in frames], [encode_png(frame) for frame in frames]
        opened, rng = Video(video), np.random.default_rng(0)

        def in_order(opened: Video = opened, frames: list[np.ndarray] = frames) -> int:
            return len(opened.read(0, len(frames), 15))

        def window(opened: Video = opened, frames: list[np.ndarray] = frames, rng: Any = rng) -> int:
            return len(opened.read(int(rng.integers(0, len(frames) - 2)) / 15, 2, 15))

        found["files"][str(side)] = {
            "frames": len(frames),
            "bytes": {
                "h264": video.stat().st_size / len(frames),
                "jpeg": sum(map(len, jpegs)) / len(frames),
                "png": sum(map(len, pngs)) / len(frames),
                "raw": side * side * 3,
            },
            "frames_per_s": {
                "h264 in order": rate(in_order),
                "h264 windows of two": rate(window),
                "jpeg": rate(lambda files=jpegs: sum(_decoded(file) for file in files[:50])),
                "png": rate(lambda files=pngs: sum(_decoded(file) for file in files[:50])),
            },
        }
        opened.close()
    root = folder / "recorded"
    body = simulators.make(TASKS[0]).embodiment
    with DatasetWriter(root, body) as writer:
        for outcome in rollout_in_workers(interleave(TASKS, range(SEED, SEED + 2)), Behaviour(label=True), 1):
            if outcome.episode is not None:
                writer.add(outcome.episode)
    source = Source([Dataset(root)], [1.0], 0.0)
    drawn = np.random.default_rng(0)
    found["cached_windows_per_s"] = rate(lambda: len(source.draw(64, drawn)))
    found["index_bytes_per_frame"] = 8
    policy = checkpoint.load_for_training(checkpoint.SHIPPED).train()
    windows = source.draw(32, np.random.default_rng(0))
    tokens = _tokens(policy, body.name, windows)

    def step() -> int:
        with bfloat16(policy.device):
            loss = policy.loss(windows)
        loss.backward()
        policy.zero_grad(set_to_none=True)
        return tokens

    found["training"] = {
        "parameters": policy.parameter_count(),
        "tokens_per_window": tokens / len(windows),
        "tokens_per_s": rate(step, 8),
    }
    square = torch.randn(2048, 2048, dtype=torch.bfloat16)
    found["training"]["matmul_flop_per_s"] = rate(lambda: len(square @ square) // len(square)) * 2 * 2048**3
    script = folder / "reduce.py"
    script.write_text(REDUCE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    reduced = subprocess.run([*launch, str(policy.parameter_count())], capture_output=True, text=True, check=True)
    found["all_reduce_s"] = float(reduced.stdout.split()[-1])
    began = time.perf_counter()
    checkpoint.save(policy, folder / "checkpoint")
    os.sync()
    found["checkpoint_s"] = time.perf_counter() - began
    return found


def plan(found: dict[str, Any], a: Assumptions) -> dict[str, float]:
    """The plan's numbers, of what was measured and what is assumed."""
    files = found["files"][str(a.side)]
    frames = a.hours * 3600 * a.fps
    pictures = frames * a.cameras
    # Windows of two frames, the words, the state and the readout beside the cameras.
    tokens = 2 * (a.cameras * a.tokens_per_camera + 2) + 12
    windows = frames / a.stride
    flop = 6 * a.parameters * tokens * windows
    seconds = flop / (a.gpus * a.peak * a.use)
    windows_per_s = windows / seconds
    decoded = windows_per_s * 2 * a.cameras
    gradient = 2 * a.parameters
    nodes = a.gpus / a.per_node
    batch = 4096
    step = batch / windows_per_s
    return {
        "frames": frames,
        "h264_tb": pictures * files["bytes"]["h264"] / 1e12,
        "jpeg_tb": pictures * files["bytes"]["jpeg"] / 1e12,
        "raw_tb": pictures * files["bytes"]["raw"] / 1e12,
        "tokens_per_window": tokens,
        "tokens": tokens * windows,
        "epoch_hours": seconds / 3600,
        "windows_per_s": windows_per_s,
        "read_gb_per_s": decoded * files["bytes"]["h264"] * 8 / 1e9,
        "decoding_cores_video": decoded / files["frames_per_s"]["h264 windows of two"],
        "decoding_cores_jpeg": decoded / files["frames_per_s"]["jpeg"],
        "cores": nodes * a.cores,
        "step_s": step,
        "all_reduce_s": 2 * gradient * (a.gpus - 1) / a.gpus / a.network,
        "sharded_s": 3 * gradient * (a.gpus - 1) / a.gpus / a.network,
        "state_gb": 16 * a.parameters / 1e9,
        "state_write_s": 16 * a.parameters / nodes / a.disk,
        "hours_between_failures": a.failure_hours / a.gpus,
        "index_gb_per_process": frames * found["index_bytes_per_frame"] / 1e9,
    }


def _tokens(policy: Any, body: str, windows: Any) -> int:
    per_frame = policy.bodies[body].per_frame + 1
    words = policy.text.encode(windows.instructions).shape[1]
    return int(len(windows) * words + windows.lengths.sum() * per_frame)


def _jpeg(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=92)
    return file.getvalue()


def _decoded(file: bytes) -> int:
    return len(np.asarray(Image.open(io.BytesIO(file)))[:1])


def main() -> None:
    """Measures, plans and writes both."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    sizes = {"300M": Assumptions(), "1B": Assumptions(parameters=1e9)}
    plans = {name: {"assumed": asdict(a), "plan": plan(found, a)} for name, a in sizes.items()}
    print(found, plans, sep="\n")
    write("scale", {"measured": found, "plans": plans})


if __name__ == "__main__":
    tyro.cli(main)

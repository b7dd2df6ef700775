"""What training on a million hours of robot data would take, from what is measured here.

    python benchmarks/scale.py

Measures sizes, decoding, reading, training and sending on this machine (about two minutes, one core; sending takes two
processes) and computes the plan of docs/scale.md from that and from the assumptions below. Rates count processor time,
and the best of several rounds, so that other jobs matter less. Nothing of the plan itself was run.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import tyro

from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.images import decode_image, encode_jpeg, encode_png
from polysoma.data.mixture import Source
from polysoma.data.video import Video, encode_video
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import Modality
from polysoma.policy import checkpoint
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.jobs import interleave
from polysoma.rollout.rollout import rollout_in_workers
from results import read, write
from scale_plan import PLAN, WINDOW, Assumptions, plan

TASKS = ("metaworld-pixels/drawer-open-v3", "metaworld-pixels/reach-v3", "metaworld-pixels/window-close-v3")
SEED = 4700
SIDES = (96, 224)
FPS = 15
KEYFRAMES = 8
ROUNDS = 3
REDUCE = """
import sys, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
flat, best = torch.zeros(int(sys.argv[1])), float("inf")
for _ in range(10):
    dist.barrier()
    began = time.perf_counter()
    dist.all_reduce(flat)
    best = min(best, time.perf_counter() - began)
if dist.get_rank() == 0:
    print(best)
dist.destroy_process_group()
"""


def rate(work: Callable[[], int], seconds: float = 0.7) -> float:
    """Things a second of processor time, in the best of a few rounds; ``work`` returns how many it did."""
    work()
    best = 0.0
    for _ in range(ROUNDS):
        began, done = time.process_time(), 0
        while time.process_time() - began < seconds:
            done += work()
        best = max(best, done / (time.process_time() - began))
    return best


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
    files = {str(side): _codecs(folder, frames_of(side)) for side in SIDES}
    return {"files": files, **_reading_and_training(folder)}


def _codecs(folder: Path, frames: list[np.ndarray]) -> dict[str, Any]:
    """Bytes of a picture, and pictures decoded a second, in each format. Of windows, those that are asked for count."""
    count, shape = len(frames), frames[0].shape
    written = {"h264": encode_video(frames, FPS), "h264 short": _short_groups(frames)}
    pictures = {"jpeg": list(map(encode_jpeg, frames)), "png": list(map(encode_png, frames))}
    sizes = {name: len(file) / count for name, file in written.items()}
    sizes |= {name: sum(map(len, files)) / count for name, files in pictures.items()}
    rates = {}
    for name, file in written.items():
        path = folder / "pictures.mp4"
        path.write_bytes(file)
        video, rng = Video(path), np.random.default_rng(0)

        def window(video: Video = video, rng: np.random.Generator = rng) -> int:
            return len(video.read((rng.integers(0, count - WINDOW + 1) + np.arange(WINDOW)) / FPS, 0.5 / FPS))

        rates[f"{name} in order"] = rate(lambda video=video: len(video.read(np.arange(count) / FPS, 0.5 / FPS)))
        rates[f"{name} windows"] = rate(window)
        video.close()
    for name, files in pictures.items():
        rates[name] = rate(lambda files=files: len([decode_image(file, shape) for file in files[:50]]))
    return {"frames": count, "bytes": sizes | {"raw": float(np.prod(shape))}, "frames_per_s": rates}


def _short_groups(frames: list[np.ndarray]) -> bytes:
    """As data are written here, but with a keyframe every few frames."""
    buffer = io.BytesIO()
    options = {"crf": "28", "preset": "veryfast", "g": str(KEYFRAMES), "sc_threshold": "0"}
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _reading_and_training(folder: Path) -> dict[str, Any]:
    root = folder / "recorded"
    body = simulators.make(TASKS[0]).embodiment
    with DatasetWriter(root, body) as writer:
        for outcome in rollout_in_workers(interleave(TASKS, range(SEED, SEED + 2)), Behaviour(label=True), 1):
            if outcome.episode is not None:
                writer.add(outcome.episode)
    dataset = Dataset(root)
    horizon = simulators.families()[body.name].horizon
    source = Source([dataset], [1.0], 0.0, horizon=horizon)
    drawn = np.random.default_rng(0)
    cached = rate(lambda: len(source.draw(64, drawn)))
    windows = source.draw(32, np.random.default_rng(0))
    states = [dataset.observations[s.name] for s in body.recorded if s.modality is Modality.STATE]
    numbers = [*states, dataset.actions, dataset.executed]
    # What Source holds for every frame, and what a data set holds for every episode.
    index = sum(frames.nbytes for _, frames in source._pairs) + sum(held.nbytes for held in source._episode_of)
    table = (
        dataset.episode_start,
        dataset.episode_length,
        dataset.episode_task,
        dataset.episode_instruction,
        dataset.episode_seed,
        dataset.episode_success,
    )
    policy = checkpoint.load_for_training(checkpoint.SHIPPED).train()
    parameters = policy.parameter_count()
    tokens = _tokens(policy, body.name, windows)

    def step() -> int:
        with policy.autocast():
            loss = policy.loss(windows)
        loss.backward()
        policy.zero_grad(set_to_none=True)
        return tokens

    trained = rate(step, 3)
    square = torch.randn(2048, 2048, dtype=torch.bfloat16)
    multiplied = rate(lambda: len(square @ square) // len(square)) * 2 * 2048**3
    script = folder / "reduce.py"
    script.write_text(REDUCE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    reduced = subprocess.run([*launch, str(parameters)], capture_output=True, text=True, check=True)
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        checkpoint.save(policy, folder / "checkpoint")
        times.append(time.perf_counter() - began)
    return {
        "cache": {
            "windows_per_s": cached,
            "window_frames": source.horizon.history,
            "window_pictures": source.horizon.history * sum(s.modality is Modality.IMAGE for s in body.streams),
            "window_bytes": sum(values.nbytes for values in windows.observations.values()) / len(windows),
        },
        "bytes_per_frame": {
            "numbers": sum(values.nbytes for values in numbers) / len(dataset),
            "index": index / len(dataset),
            "statistics": max(values.nbytes for values in (*states, dataset.actions)) / len(dataset),
        },
        "bytes_per_episode": sum(values.itemsize for values in table),
        "frames_of_an_index": int(np.iinfo(source._pairs[0][1].dtype).max),
        "training": {
            "parameters": parameters,
            "tokens_per_window": tokens / len(windows),
            "tokens_per_s": trained,
            "flop_per_token": 6 * parameters,
            "matmul_flop_per_s": multiplied,
        },
        "all_reduce": {"bytes": 4 * parameters, "s": float(reduced.stdout.split()[-1])},
        "checkpoint": {"bytes": (folder / "checkpoint" / checkpoint.WEIGHTS).stat().st_size, "s": min(times)},
    }


def _tokens(policy: Any, body: str, windows: Any) -> int:
    per_frame = policy.bodies[body].per_frame + 1
    words = policy.text.encode(windows.texts).shape[1]
    return int(len(windows) * words + windows.lengths.sum() * per_frame)


def main() -> None:
    """Measures, plans and writes both."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder))
    sizes = {"300M": Assumptions(), "1B": Assumptions(parameters=1e9)}
    plans = {name: {"assumed": asdict(a), "plan": plan(found, a)} for name, a in sizes.items()}
    print(found, plans, sep="\n")
    write("scale", {"measured": found, "plans": plans})


def render() -> str:
    """A million hours."""
    found = read("scale")
    measured, training = found["measured"], found["measured"]["training"]
    cache, sent, saved = measured["cache"], measured["all_reduce"], measured["checkpoint"]
    kinds = {"h264": "H.264", "h264 short": "H.264, short groups", "jpeg": "JPEG", "png": "PNG", "raw": "raw"}
    lines = ["| pictures | " + " | ".join(kinds.values()) + " |", "| --- |" + " --- |" * len(kinds)]
    for side, row in measured["files"].items():
        size, speed = row["bytes"], row["frames_per_s"]
        ordered = [speed.get(f"{kind} in order", speed.get(kind)) for kind in kinds]
        windows = [speed.get(f"{kind} windows", speed.get(kind)) for kind in kinds]
        for what, values in (
            ("bytes each", [size[kind] for kind in kinds]),
            ("a second and core, in order", ordered),
            ("a second and core, in windows of two", windows),
        ):
            cells = " | ".join("" if value is None else f"{value:,.0f}" for value in values)
            lines.append(f"| {side} pixels, {what} | {cells} |")
    busy = training["flop_per_token"] * training["tokens_per_s"] / training["matmul_flop_per_s"]
    lines += [
        "",
        f"Numbers of a frame (states, and actions twice): {measured['bytes_per_frame']['numbers']:,.0f} bytes. From a "
        f"cache in memory a core copies {cache['windows_per_s']:,.0f} windows a second of {cache['window_frames']} "
        f"frame and {cache['window_pictures']} pictures of 96 pixels. Training the shipped policy "
        f"({training['parameters'] / 1e6:.1f} million parameters): {training['tokens_per_s']:,.0f} tokens a second and "
        f"core, by six operations a parameter and token {busy:.0%} of the "
        f"{training['matmul_flop_per_s'] / 1e9:,.0f} GFLOP/s of its matrix products in bfloat16. Averaging its "
        f"gradients, {sent['bytes'] / 1e6:.0f} MB, between two processes: {1e3 * sent['s']:.0f} ms, "
        f"{sent['bytes'] / sent['s'] / 1e9:.1f} GB/s. Writing a checkpoint of {saved['bytes'] / 1e6:.0f} MB: "
        f"{1e3 * saved['s']:.0f} ms. {found['hardware']['processor']}, {found['hardware']['cores']} cores "
        f"(`{found['command']}`).",
        "",
    ]
    plans = found["plans"]
    lines += ["| plan | " + " | ".join(plans) + " |", "| --- |" + " --- |" * len(plans)]
    for name, key, form in PLAN:
        values = [plan["plan"][key] for plan in plans.values()]
        lines.append(
            f"| {name} | " + " | ".join(f"{1e3 * v:,.0f}" if form == "ms" else form.format(v) for v in values) + " |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    tyro.cli(main)

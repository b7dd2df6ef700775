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
from dataclasses import asdict, dataclass
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
from polysoma.policy.policy import bfloat16
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.jobs import interleave
from polysoma.rollout.rollout import rollout_in_workers
from results import write

TASKS = ("metaworld-pixels/drawer-open-v3", "metaworld-pixels/reach-v3", "metaworld-pixels/window-close-v3")
SEED = 4700
SIDES = (96, 224)
FPS = 15
WINDOW = 2
KEYFRAMES = 8
ROUNDS = 3
BATCH = 4096
DECODED = {"video": "h264 windows", "short_groups": "h264 short windows", "jpeg": "jpeg"}
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


@dataclass(frozen=True)
class Assumptions:
    """What was not measured here.

    Attributes:
        hours: of robot data; ``episode_s``: the length of one episode in seconds.
        cameras, fps, side: of each robot: pictures of ``side`` pixels.
        gpus, per_node: of the cluster.
        peak: bfloat16 operations a second of one GPU; ``use``: the fraction of it that training reaches.
        parameters: of the policy.
        stride: of all frames, one in this many begins a window of an epoch.
        tokens_per_camera: that a picture becomes.
        network: bytes a second between nodes, for each GPU.
        disk: bytes a second that a node writes.
        failure_hours: between failures, of one GPU with all that hangs on it.
        checkpoint_minutes, restart_minutes: between checkpoints, and from a failure to the next step.
        cores: of a node.
    """

    hours: float = 1e6
    episode_s: float = 30.0
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
    checkpoint_minutes: float = 10.0
    restart_minutes: float = 15.0
    cores: int = 96


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
            return len(video.read(int(rng.integers(0, count - WINDOW + 1)) / FPS, WINDOW, FPS))

        rates[f"{name} in order"] = rate(lambda video=video: len(video.read(0, count, FPS)))
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
    source = Source([dataset], [1.0], 0.0)
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
        with bfloat16(policy.device):
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
            "window_frames": body.history,
            "window_pictures": body.history * sum(s.modality is Modality.IMAGE for s in body.streams),
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


def plan(found: dict[str, Any], a: Assumptions) -> dict[str, float]:
    """The plan's numbers, of what was measured and what is assumed."""
    files, per_frame = found["files"][str(a.side)], found["bytes_per_frame"]
    size, speed = files["bytes"], files["frames_per_s"]
    nodes = a.gpus / a.per_node
    frames = a.hours * 3600 * a.fps
    pictures = frames * a.cameras
    episodes = a.hours * 3600 / a.episode_s
    # The words, the state and the readout beside the cameras.
    tokens = WINDOW * (a.cameras * a.tokens_per_camera + 2) + 12
    windows = frames / a.stride
    seconds = 6 * a.parameters * tokens * windows / (a.gpus * a.peak * a.use)
    windows_per_s = windows / seconds
    decoded = windows_per_s * WINDOW * a.cameras
    cores = {name: decoded / speed[kind] for name, kind in DECODED.items()}
    # Today parameters and gradients are sent in float32. A ring sends everything twice; sharding gathers parameters
    # for the forward and for the backward pass and scatters gradients, in every micro-batch: here there is one.
    once = 4 * a.parameters * (a.gpus - 1) / a.gpus
    # Weights, their moving average and two moments, in float32; the checkpoint is the average alone.
    state, weights = 16 * a.parameters, 4 * a.parameters
    between_failures = a.failure_hours / a.gpus
    lost = (a.checkpoint_minutes / 2 + a.restart_minutes) / 60
    return {
        "frames": frames,
        "episodes": episodes,
        "numbers_tb": frames * per_frame["numbers"] / 1e12,
        **{f"{name.replace(' ', '_')}_tb": pictures * size[name] / 1e12 for name in size},
        "jpeg_tb_per_node": pictures * size["jpeg"] / nodes / 1e12,
        "tokens_per_window": tokens,
        "tokens": tokens * windows,
        "epoch_hours": seconds / 3600,
        "windows_per_s": windows_per_s,
        "video_once_gb_per_s": pictures * size["h264"] / seconds / 1e9,
        "jpeg_windows_gb_per_s": decoded * size["jpeg"] / 1e9,
        **{f"decoding_cores_{name}": value for name, value in cores.items()},
        "cores": nodes * a.cores,
        "unpacking_core_days": pictures / speed["h264 in order"] / 86400,
        # Today the process that trains also decodes, one after the other.
        **{f"epoch_hours_today_{name}": seconds / 3600 * (1 + value / a.gpus) for name, value in cores.items()},
        "step_s": BATCH / windows_per_s,
        "gradient_gb": 4 * a.parameters / 1e9,
        "sent_gb": 2 * once / 1e9,
        "all_reduce_s": 2 * once / a.network,
        "all_reduce_bfloat16_s": once / a.network,
        "sharded_s": 3 * once / a.network,
        "held_gb": (state + 4 * a.parameters) / 1e9,
        "state_gb": state / 1e9,
        "checkpoint_gb": weights / 1e9,
        "write_s": (state + weights) / a.disk,
        "hours_between_failures": between_failures,
        "lost_share": lost / between_failures,
        "index_gb_per_process": frames * per_frame["index"] / 1e9,
        "index_gb_per_node": frames * per_frame["index"] * a.per_node / 1e9,
        "index_hours_of_a_data_set": found["frames_of_an_index"] / (3600 * a.fps),
        "episodes_gb_per_process": episodes * found["bytes_per_episode"] / 1e9,
        "statistics_tb_per_process": frames * per_frame["statistics"] / 1e12,
    }


def _tokens(policy: Any, body: str, windows: Any) -> int:
    per_frame = policy.bodies[body].per_frame + 1
    words = policy.text.encode(windows.instructions).shape[1]
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


if __name__ == "__main__":
    tyro.cli(main)

"""What training on a million hours of data would take, computed from what `benchmarks/scale.py` measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

WINDOW = 2
BATCH = 4096
DECODED = {"video": "h264 windows", "short_groups": "h264 short windows", "jpeg": "jpeg"}


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


PLAN = (
    ("frames", "frames", "{:.1e}"),
    ("episodes", "episodes", "{:.1e}"),
    ("stored as H.264, TB", "h264_tb", "{:,.0f}"),
    ("stored as H.264, short groups, TB", "h264_short_tb", "{:,.0f}"),
    ("stored as JPEG, TB", "jpeg_tb", "{:,.0f}"),
    ("raw, TB", "raw_tb", "{:,.0f}"),
    ("states and actions, TB", "numbers_tb", "{:,.0f}"),
    ("a cache of JPEG, TB on each node", "jpeg_tb_per_node", "{:,.0f}"),
    ("tokens of an epoch", "tokens", "{:.1e}"),
    ("an epoch, hours of computing", "epoch_hours", "{:,.0f}"),
    ("windows a second", "windows_per_s", "{:,.0f}"),
    ("reading all video once an epoch, GB/s", "video_once_gb_per_s", "{:,.1f}"),
    ("reading windows of JPEG, GB/s", "jpeg_windows_gb_per_s", "{:,.1f}"),
    ("cores that decode windows of video", "decoding_cores_video", "{:,.0f}"),
    ("cores that decode windows of short groups", "decoding_cores_short_groups", "{:,.0f}"),
    ("cores that decode JPEG", "decoding_cores_jpeg", "{:,.0f}"),
    ("cores there are", "cores", "{:,.0f}"),
    ("an epoch as the code is, video, hours", "epoch_hours_today_video", "{:,.0f}"),
    ("an epoch as the code is, JPEG, hours", "epoch_hours_today_jpeg", "{:,.0f}"),
    ("unpacking all video once, days of one core", "unpacking_core_days", "{:,.0f}"),
    ("a step of 4096 windows, ms of computing", "step_s", "ms"),
    ("sent by each process to average gradients, GB", "sent_gb", "{:.1f}"),
    ("averaging gradients, ms", "all_reduce_s", "ms"),
    ("the same in bfloat16, ms", "all_reduce_bfloat16_s", "ms"),
    ("sharded, ms for each micro-batch", "sharded_s", "ms"),
    ("held by each process without sharding, GB", "held_gb", "{:,.0f}"),
    ("checkpoint, GB", "checkpoint_gb", "{:,.1f}"),
    ("state to resume from, GB", "state_gb", "{:,.1f}"),
    ("writing both, s", "write_s", "{:,.0f}"),
    ("hours between failures", "hours_between_failures", "{:,.0f}"),
    ("time lost to failures", "lost_share", "{:.1%}"),
    ("index of frames, GB in each process", "index_gb_per_process", "{:,.0f}"),
    ("the same, GB in each node", "index_gb_per_node", "{:,.0f}"),
    ("hours of one data set up to which int32 numbers do", "index_hours_of_a_data_set", "{:,.0f}"),
    ("table of episodes, GB in each process", "episodes_gb_per_process", "{:,.1f}"),
    ("statistics, TB of memory in each process", "statistics_tb_per_process", "{:,.1f}"),
)
"""Rows of the plan: what they are called, their key and how they are written."""

"""LeRobot data sets, written, edited and read by lerobot itself: everything is read here as it reads it.

Run it in the environment that check_lerobot.py describes (v3.0), and in one with lerobot 0.3.3 in its place (v2.1):

    HF_HUB_OFFLINE=1 lerobot-venv/bin/python tests/interop/check_differential_lerobot.py --cases 60
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import differential  # (first: it sets the paths)
import numpy as np
import torchvision_on_cpu  # noqa: F401  (before what needs torchvision)
from differential import WORDS, Truth
from hypothesis import reject
from hypothesis import strategies as st
from lerobot.datasets.lerobot_dataset import LeRobotDataset

V3 = importlib.metadata.version("lerobot") >= "0.4"
COUNTERS = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
CALLED = {"next.reward": "reward", "next.done": "done", "next.success": "success"}
Draw = Callable[[Any], Any]


def features(draw: Draw) -> dict[str, Any]:
    """What one robot records."""
    size, actions = draw(st.integers(1, 8)), draw(st.integers(1, 7))
    names = draw(st.sampled_from([None, "plain", "map"]))
    found: dict[str, Any] = {
        "observation.state": {"dtype": "float32", "shape": (size,), "names": _names(names, "s", size)},
        "action": {"dtype": "float32", "shape": (actions,), "names": _names(names, "a", actions)},
    }
    if draw(st.booleans()):
        kind = draw(st.sampled_from(["float64", "int64", "float32", "bool"]))
        found["observation.other"] = {"dtype": kind, "shape": (draw(st.integers(1, 4)),), "names": None}
    for camera in draw(st.lists(st.sampled_from(["front", "wrist"]), unique=True, max_size=2)):
        side = draw(st.sampled_from([(16, 24), (32, 32), (34, 18), (64, 72)]))
        kind = draw(st.sampled_from(["video", "image"]))
        found[f"observation.images.{camera}"] = {
            "dtype": kind, "shape": (*side, 3), "names": ["height", "width", "channels"]
        }  # fmt: skip
    if draw(st.booleans()):
        found["next.reward"] = {"dtype": "float32", "shape": (1,), "names": None}
        found["next.done"] = {"dtype": "bool", "shape": (1,), "names": None}
    if draw(st.booleans()):
        found["next.success"] = {"dtype": "bool", "shape": (1,), "names": None}
    return found


def _names(kind: str | None, prefix: str, size: int) -> Any:
    each = [f"{prefix}{i}.pos" for i in range(size)]
    return {None: None, "plain": each, "map": {"motors": each}}[kind]


def written(draw: Draw, root: Path, described: dict[str, Any], fps: int) -> LeRobotDataset:
    """A recording of these features."""
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    videos = any(each["dtype"] == "video" for each in described.values())
    # The AV1 encoder takes its process down over films smaller than this.
    large = all(min(each["shape"][:2]) >= 64 for each in described.values() if each["dtype"] == "video")
    codecs = ["h264", "libsvtav1"] if large else ["h264"]
    options = {"vcodec": draw(st.sampled_from(codecs))} if V3 and videos else {}
    plain = {key: dict(value) for key, value in described.items()}
    data = LeRobotDataset.create("local/x", fps, plain, root=root, robot_type="odd", use_videos=videos, **options)
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 12))
        tasks = draw(st.lists(WORDS.filter(bool), min_size=1, max_size=2))
        for step in range(length):
            frame = {key: _value(rng, each, step == length - 1) for key, each in described.items()}
            task = tasks[step * len(tasks) // length]
            if V3:
                data.add_frame({**frame, "task": task})
            else:
                data.add_frame(frame, task=task)
        data.save_episode()
    if V3:
        data.finalize()
    return opened(root)


def _value(rng: np.random.Generator, feature: dict[str, Any], last: bool) -> np.ndarray:
    shape, kind = feature["shape"], feature["dtype"]
    if kind in ("video", "image"):
        picture = np.full(shape, rng.integers(0, 256, 3), np.uint8)
        picture[: shape[0] // 2, : shape[1] // 2] = rng.integers(0, 256, 3)
        return picture
    if kind == "bool":
        return np.array([last] * shape[0]) if shape == (1,) else rng.random(shape) < 0.5
    if kind == "int64":
        return rng.integers(-(2**40), 2**40, shape)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)).astype(kind)


def opened(root: Path) -> LeRobotDataset:
    """As lerobot opens it."""
    return LeRobotDataset("local/x", root=root, video_backend="pyav")


def truth(data: LeRobotDataset) -> list[Truth]:
    """All that lerobot reads."""
    items = [data[row] for row in range(len(data))]
    wanted = [key for key in data.features if key not in COUNTERS]
    episodes: dict[int, list[dict[str, Any]]] = {}
    for item in items:
        episodes.setdefault(int(item["episode_index"]), []).append(item)
    found = []
    for frames in episodes.values():
        columns = {}
        for key in wanted:
            values = np.stack([np.asarray(frame[key]) for frame in frames])
            if data.features[key]["dtype"] in ("video", "image"):
                values = np.rint(values * 255).astype(np.uint8).transpose(0, 2, 3, 1)
            columns[CALLED.get(key, key)] = values
        success = bool(columns["success"].any()) if "success" in columns else None
        terminated = bool(columns["done"][-1].any()) if "done" in columns else None
        found.append(Truth(columns, [frame["task"] for frame in frames], terminated, success=success))
    return found


def recorded(draw: Draw, folder: Path) -> tuple[list[Truth], Path, int]:
    """As it was recorded."""
    try:
        data = written(draw, folder / "set", features(draw), draw(st.sampled_from([1, 10, 15, 30, 50])))
    except (OSError, ValueError) as error:  # av.error's: what lerobot's own writer cannot do is no case of ours.
        gave_up("write", error)
    return truth(data), folder / "set", 0


def edited(draw: Draw, folder: Path) -> tuple[list[Truth], Path, int]:
    """Merged, split, parted from episodes and features, told otherwise, one after the other, by lerobot's own tools."""
    from lerobot.datasets import dataset_tools as tools

    described = features(draw)
    fps = draw(st.sampled_from([10, 30]))
    try:
        data = written(draw, folder / "set", described, fps)
    except (OSError, ValueError) as error:
        gave_up("write", error)
    for number in range(draw(st.integers(1, 3))):
        out = folder / f"set-{number}"
        possible = ["merge", "tasks", *(["remove"] if len(described) > 2 else []), "add"]
        possible += ["delete", "split"] if data.num_episodes > 1 else []
        tool = draw(st.sampled_from(possible))
        some = sorted(
            draw(st.sets(st.integers(0, data.num_episodes - 1), min_size=1, max_size=max(1, data.num_episodes - 1)))
        )
        try:
            if tool == "merge":
                other = written(draw, folder / f"other-{number}", _now(data), fps)
                data = tools.merge_datasets([data, other], "local/x", out)
            elif tool == "delete":
                data = tools.delete_episodes(data, some, out, "local/x")
            elif tool == "split":
                data = tools.split_dataset(data, {"one": some}, out)["one"]
            elif tool == "remove":
                gone = draw(
                    st.sampled_from(
                        [key for key in _now(data) if key not in ("action", "observation.state")] or ["none"]
                    )
                )
                if gone == "none":
                    continue
                data = tools.remove_feature(data, gone, out, "local/x")
            elif tool == "add":
                extra = np.arange(2 * len(data), dtype=np.float32).reshape(-1, 2)
                about = {"dtype": "float32", "shape": (2,), "names": None}
                data = tools.add_features(data, {f"observation.new{number}": (extra, about)}, out, "local/x")
            else:
                data = tools.modify_tasks(data, draw(WORDS.filter(bool)))
        except Exception as error:  # What lerobot's own tool cannot do is no case of ours.
            FAILED[f"{tool}: {type(error).__name__}"] = FAILED.get(f"{tool}: {type(error).__name__}", 0) + 1
            break
    return truth(opened(data.root)), Path(data.root), 0


def _now(data: LeRobotDataset) -> dict[str, Any]:
    return {
        key: {"dtype": each["dtype"], "shape": tuple(each["shape"]), "names": each.get("names")}
        for key, each in data.features.items() if key not in COUNTERS
    }  # fmt: skip


def gave_up(tool: str, error: Exception) -> NoReturn:
    """Counts what lerobot cannot do itself, and has another case drawn."""
    FAILED[f"{tool}: {type(error).__name__}"] = FAILED.get(f"{tool}: {type(error).__name__}", 0) + 1
    reject()


FAILED: dict[str, int] = {}
"""Tools of lerobot that gave up, and how often."""

if __name__ == "__main__":
    kinds = {"v3.0": recorded, "v3.0 edited": edited} if V3 else {"v2.1": recorded}
    try:
        differential.run("lerobot-v3" if V3 else "lerobot-v2", ["lerobot", "torch", "av"], kinds)
    finally:
        print("tools of lerobot that failed:", FAILED)

"""LeRobot data sets of every version, in the layouts that LeRobot 0.3.3 and 0.4.4 write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polysoma.data.images import encode_png
from polysoma.data.video import encode_video
from polysoma.data.writer import tasks_table

FPS, LENGTHS = 10, (7, 4, 12)
NAMES = ["shoulder.pos", "elbow.pos", "gripper.pos"]
SIDE = 32


def numbers(seed: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    state = np.cumsum(rng.normal(0, 0.1, (length, 3)), 0).astype(np.float32)
    return {"observation.state": state, "action": (state + rng.normal(0, 0.02, state.shape)).astype(np.float32)}


def pictures(seed: int, length: int) -> np.ndarray:
    """Squares that say which frame of which episode they are, wide enough to outlive a codec."""
    frames = np.full((length, SIDE, SIDE, 3), 40, np.uint8)
    for step in range(length):
        frames[step, :, : SIDE // 2, 0] = 20 * step
        frames[step, : SIDE // 2, SIDE // 2 :, 1] = 60 * seed + 30
    return frames


def info(version: str, kind: str, paths: dict[str, str]) -> dict[str, Any]:
    vector = {"dtype": "float32", "shape": [3], "names": NAMES if version == "v3.0" else {"motors": NAMES}}
    scalar = {"shape": [1], "names": None}
    return {
        "codebase_version": version,
        "robot_type": "test arm",
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": 2,
        "chunks_size": 1000,
        "fps": FPS,
        **paths,
        "features": {
            "observation.state": vector,
            "action": vector,
            "observation.images.front": {
                "dtype": kind, "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channels"]
            },
            "observation.note": {"dtype": "string", "shape": [1], "names": None},
            "next.reward": {"dtype": "float32", **scalar},
            "timestamp": {"dtype": "float32", **scalar},
            **{key: {"dtype": "int64", **scalar} for key in ("frame_index", "episode_index", "index", "task_index")},
        },
    }  # fmt: skip


def table(seed: int, length: int, start: int, kind: str) -> pa.Table:
    values = numbers(seed, length)
    columns = {name: pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3) for name, rows in values.items()}
    if kind == "image":
        files = [{"bytes": encode_png(picture), "path": None} for picture in pictures(seed, length)]
        columns["observation.images.front"] = pa.array(
            files, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        )
    steps = np.arange(length)
    columns |= {
        "next.reward": pa.array(np.float32(steps == length - 1)),
        "timestamp": pa.array((steps / FPS).astype(np.float32)),
        "frame_index": pa.array(steps),
        "episode_index": pa.array(np.full(length, seed)),
        "index": pa.array(start + steps),
        "task_index": pa.array(np.full(length, seed % 2)),
    }
    return pa.table(columns)


TASKS = ["lift the cube", "drop it"]


def write_v3(root: Path, kind: str = "video", row_groups: bool = True) -> Path:
    """Two files of frames, of two episodes and of one; one video of each file."""
    paths = {
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    (root / "data/chunk-000").mkdir(parents=True)
    (root / "videos/observation.images.front/chunk-000").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info("v3.0", kind, paths)))
    pq.write_table(tasks_table(TASKS), root / "meta/tasks.parquet")
    rows, start = [], 0
    for file, members in enumerate(((0, 1), (2,))):
        tables, film, second = [], [], 0.0
        for seed in members:
            length = LENGTHS[seed]
            tables.append(table(seed, length, start, kind))
            film.append(pictures(seed, length))
            row = {
                "episode_index": seed, "tasks": [TASKS[seed % 2]], "length": length, "data/chunk_index": 0,
                "data/file_index": file, "dataset_from_index": start, "dataset_to_index": start + length,
            }  # fmt: skip
            if kind == "video":
                place = {"chunk_index": 0, "file_index": file, "from_timestamp": second}
                row |= {f"videos/observation.images.front/{key}": value for key, value in place.items()}
            rows.append(row | {"stats/action/mean": [0.0, 0.0, 0.0]})
            second += length / FPS
            start += length
        path = root / f"data/chunk-000/file-{file:03d}.parquet"
        with pq.ParquetWriter(path, tables[0].schema) as writer:
            for part in tables if row_groups else [pa.concat_tables(tables)]:
                writer.write_table(part)
        if kind == "video":
            film_path = root / f"videos/observation.images.front/chunk-000/file-{file:03d}.mp4"
            film_path.write_bytes(encode_video(list(np.concatenate(film)), FPS))
    pq.write_table(pa.Table.from_pylist(rows), root / "meta/episodes/chunk-000/file-000.parquet")
    return root


def write_v2(root: Path, version: str = "v2.1", kind: str = "video") -> Path:
    """Files of its own for each episode."""
    paths = {
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    films = root / "videos/chunk-000/observation.images.front"
    for folder in (root / "meta", root / "data/chunk-000", films):
        folder.mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info(version, kind, paths)))
    lines, start = [], 0
    for seed, length in enumerate(LENGTHS):
        pq.write_table(table(seed, length, start, kind), root / f"data/chunk-000/episode_{seed:06d}.parquet")
        if kind == "video":
            (films / f"episode_{seed:06d}.mp4").write_bytes(encode_video(list(pictures(seed, length)), FPS))
        lines.append({"episode_index": seed, "tasks": [TASKS[seed % 2]], "length": length})
        start += length
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tasks = [{"task_index": number, "task": text} for number, text in enumerate(TASKS)]
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in tasks))
    return root


def drop_columns(root: Path, *names: str) -> None:
    """Takes columns out of all files of frames, and out of what describes them."""
    for path in (root / "data").rglob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(list(names)), path)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    changed(root, features={name: about for name, about in features.items() if name not in names})


def add_columns(root: Path, values: dict[str, list[np.ndarray]]) -> None:
    """Puts columns into all files of frames: what they hold in each episode, by name; ``(T,)``, ``(T, C)``, or pictures
    ``(T, height, width, 3)``."""
    described = json.loads((root / "meta/info.json").read_text())["features"]
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        for name, episodes in values.items():
            own = np.concatenate([episodes[seed] for seed in dict.fromkeys(table["episode_index"].to_pylist())])
            described[name] = {"dtype": own.dtype.name, "shape": list(own.shape[1:]) or [1], "names": None}
            if own.ndim == 4:
                described[name]["dtype"] = "image"
                column = pa.array([{"bytes": encode_png(picture), "path": None} for picture in own])
            else:
                column = pa.array(own.reshape(-1))
                column = column if own.ndim == 1 else pa.FixedSizeListArray.from_arrays(column, own.shape[1])
            table = table.append_column(name, column)
        pq.write_table(table, path)
    changed(root, features=described)


def changed(root: Path, **fields: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


WRITERS = {
    "v3.0 video": lambda root: write_v3(root),
    "v3.0 images": lambda root: write_v3(root, "image"),
    "v3.0 one row group": lambda root: write_v3(root, row_groups=False),
    "v2.1 video": lambda root: write_v2(root),
    "v2.0 images": lambda root: write_v2(root, "v2.0", "image"),
}

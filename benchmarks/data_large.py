"""What benchmarks/data.py measures of large data sets: opening many episodes, drawing from millions of frames."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_frames import ACTION, CHUNK, FPS, HISTORY, SIDE, STATE, TASK, frames
from polysoma.data import layout, storage, stored
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.mixture import Source
from polysoma.data.pictures import MappedPictures
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import INSTRUCTION, ContinuousActions, Embodiment, Modality, Stream, channels
from polysoma.horizon import Horizon

BATCH = 32
BODY = Embodiment(
    "bench",
    (
        Stream("state", Modality.STATE, (STATE,), channels(" ".join(f"s{i}" for i in range(STATE)))),
        Stream("top", Modality.IMAGE, (SIDE, SIDE, 3)),
        Stream(INSTRUCTION, Modality.TEXT),
    ),
    ContinuousActions(channels(" ".join(f"a{i}" for i in range(ACTION)), low=-1, high=1)),
    FPS,
)


def opening(folder: Path) -> dict[str, float]:
    """10,000 episodes of a LeRobotDataset, statistics of every episode included as LeRobot writes them."""
    count, length = 10_000, 20
    with DatasetWriter(folder / "many", BODY) as writer:
        state, action, pictures = (array[:length] for array in frames(0))
        writer.add(Episode(BODY, "bench/push", TASK, 0, True, {"state": state, "top": pictures}, action, action))
    path = layout.episode_files(folder / "many")[0]
    (row,) = pq.read_table(path).to_pylist()
    rows = []
    for number in range(count):
        place = {
            "episode_index": number,
            "dataset_from_index": number * length,
            "dataset_to_index": (number + 1) * length,
        }
        stats = {
            f"stats/{key}/{name}": [0.0] * 14 for key in ("action", "state") for name in ("min", "max", "mean", "std")
        }
        rows.append({**row, **place, **stats})
    pq.write_table(pa.Table.from_pylist(rows), path)
    info = storage.read_json(folder / "many" / layout.INFO)
    storage.write_json(folder / "many" / layout.INFO, info | {"total_episodes": count, "total_frames": count * length})
    del rows
    code = (
        "import resource, time; from pathlib import Path; from polysoma.data.formats import open_reader\n"
        "def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        f"before, began = used(), time.perf_counter(); reader = open_reader(Path({str(folder / 'many')!r}))\n"
        "print(time.perf_counter() - began, used() - before, len(reader))"
    )
    found = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
        found.append([float(value) for value in done.stdout.split()])
    seconds, megabytes, episodes = np.median(found, 0).tolist()
    assert episodes == count
    return {"seconds": seconds, "megabytes": megabytes}


def _sparse(folder: Path, frames: int) -> dict[str, np.ndarray]:
    """The files of a cache of so many frames, which take no disk because nothing was written into them."""
    folder.mkdir()
    arrays = {}
    for key, feature in stored.body_features(BODY).items():
        path = folder / f"{key}.npy"
        np.lib.format.open_memmap(path, "w+", feature.dtype, (frames, *feature.shape))
        arrays[key] = MappedPictures.open(path) if feature.image else np.load(path, mmap_mode="r")
    return arrays


def mixture(folder: Path) -> dict[str, float]:
    """Batch drawn from two data sets of a million frames each, whose cache files are sparse: they take no disk."""
    count, length = 1_000_000, 200
    resident = []
    sources = []
    for number in range(2):
        root = folder / f"million-{number}"
        with DatasetWriter(root, BODY) as writer:
            state, action, pictures = (array[:1] for array in frames(0))
            writer.add(Episode(BODY, "bench/push", TASK, 0, True, {"state": state, "top": pictures}, action, action))
        dataset = Dataset(root)
        arrays = _sparse(folder / f"sparse-{number}", count)
        episodes = count // length
        dataset.embodiment = BODY
        dataset.observations = {"state": arrays["observation.state"], "top": arrays["observation.images.top"]}
        dataset.actions, dataset.executed = arrays[stored.ACTION], arrays[stored.EXECUTED]
        dataset.episode_start = np.arange(episodes) * length
        dataset.episode_length = np.full(episodes, length)
        dataset.episode_task = dataset.episode_instruction = np.zeros(episodes, np.int64)
        dataset._frames = count
        sources.append(dataset)
    source, rng = Source(sources, [1.0, 2.0], 0.5, horizon=Horizon(HISTORY, CHUNK)), np.random.default_rng(0)
    began = time.process_time()
    for _ in range(300):
        source.draw(BATCH, rng)
    spent = time.process_time() - began
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident = {key: int(status[key].split()[0]) / 1024 for key in ("VmRSS", "RssAnon", "RssFile")}
    return {
        "samples/s, random places": 300 * BATCH / spent,
        "resident MB": resident["VmRSS"],
        "of which anonymous MB": resident["RssAnon"],
        "of which mapped files MB": resident["RssFile"],
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }

"""Reading and writing data, beside LeRobot on the same frames in the same run.

    python benchmarks/data.py --lerobot lerobot-venv/bin/python

LeRobot runs in an environment of its own (tests/interop/check_lerobot.py says how to make one). It writes 4,000 frames
of 96 pixels as H.264 and as PNG; both libraries then read windows of two frames with 16 actions from these very files.
All figures are per second of one core (process time). `--lerobot ""` measures our side alone, on files of ours.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from data_frames import CHUNK, EPISODES, HISTORY, LENGTH, SIDE, TASK, frames
from data_large import BATCH, BODY, mixture, opening
from polysoma.data.batch import Batch
from polysoma.data.dataset import Dataset
from polysoma.data.description import write_schema
from polysoma.data.episode import Episode
from polysoma.data.formats import open_reader
from polysoma.data.mixture import Source
from polysoma.data.schema import infer, schema_path
from polysoma.data.writer import DatasetWriter
from polysoma.horizon import Horizon
from results import read, write


def main(lerobot: str, samples: int = 20_000, lerobot_samples: int = 1_500, repeats: int = 3) -> None:
    """Measures and writes benchmarks/results/data.json.

    Args:
        lerobot: the Python of LeRobot's environment, or an empty string.
        samples: windows that we read for one figure.
        lerobot_samples: windows that LeRobot reads for one figure.
        repeats: of each figure of ours; the median counts.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        theirs: dict[str, Any] = {}
        if lerobot:
            theirs = _theirs(lerobot, "write", folder / "lerobot")
            theirs["seconds"] |= _theirs(lerobot, "read", folder / "lerobot", str(lerobot_samples))["seconds"]
        ours = _measured(folder, bool(lerobot), samples, repeats)
        table = {
            "write frames/s": {"polysoma png": ours["write png"]},
            "read samples/s": {f"polysoma {name}": value for name, value in ours["read"].items()},
        }
        count = EPISODES * LENGTH
        for key, seconds in theirs.get("seconds", {}).items():
            kind, _, what = key.partition(" ")
            if kind == "write":
                table["write frames/s"][f"lerobot {what}"] = count / seconds
            else:
                table["read samples/s"][f"lerobot {what}"] = 1 / seconds
        result = {
            "unit": "per second of one core (process time)",
            "frames": f"{EPISODES} episodes of {LENGTH}, {SIDE} pixels; windows of {HISTORY} and {CHUNK} actions",
            "lerobot": {key: theirs[key] for key in ("lerobot", "torch") if key in theirs},
            "rates": table,
            "opening 10,000 episodes": opening(folder),
            "two data sets of 1,000,000 frames in a mixture": mixture(folder),
        }
    write("data", result)
    print(json.dumps(result, indent=1))


def _theirs(python: str, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("data_lerobot.py"))
    done = subprocess.run(
        [python, script, *map(str, arguments)], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _measured(folder: Path, with_theirs: bool, samples: int, repeats: int) -> dict[str, Any]:
    episodes = [
        Episode(BODY, "bench/push", TASK, seed, True, {"state": state, "top": pictures}, action, action)
        for seed in range(EPISODES)
        for state, action, pictures in [frames(seed)]
    ]

    def record() -> int:
        shutil.rmtree(folder / "own", ignore_errors=True)
        with DatasetWriter(folder / "own", BODY) as writer:
            for episode in episodes:
                writer.add(episode)
        return EPISODES * LENGTH

    written = _rate(record, repeats)
    sources = {"video": folder / "lerobot/video", "png": folder / "lerobot/image"} if with_theirs else {}
    rates: dict[str, float] = {}
    for name, root in (sources or {"png": folder / "own"}).items():
        if with_theirs:
            _describe(root)
        reader = open_reader(root)

        def cold(reader: Any = reader) -> int:
            # Windows at random places, straight from the files.
            rng = np.random.default_rng(0)
            for _ in range(samples // 20):
                episode, start = rng.integers(EPISODES), rng.integers(LENGTH - CHUNK)
                held = reader.window(int(episode), int(start), int(start) + CHUNK, ["observation.state", "action"])
                held |= reader.window(int(episode), int(start), int(start) + HISTORY, ["observation.images.top"])
                _as_lerobot(held["observation.images.top"][None])
            return samples // 20

        def build(root: Path = root) -> int:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            return len(Dataset(root))

        rates[f"{name}, straight from the files"] = _rate(cold, repeats)
        rates[f"{name}, making the cache (frames)"] = _rate(build, repeats)
        source = Source([Dataset(root)], [1.0], 0.0, horizon=Horizon(HISTORY, CHUNK))

        def as_floats(source: Source = source) -> int:
            return _draw(source, samples, lambda windows: _as_lerobot(windows.observations["top"].numpy()))

        def as_bytes(source: Source = source) -> int:
            return _draw(source, samples, lambda windows: None)

        rates[f"{name}, cached, float32"] = _rate(as_floats, repeats)
        rates[f"{name}, cached, uint8"] = _rate(as_bytes, repeats)
    return {"write png": written, "read": rates}


def _describe(root: Path) -> None:
    write_schema(infer(open_reader(root)), schema_path(root))


class _AsLeRobot:
    """uint8 ``(B, T, H, W, 3)`` as what LeRobot gives: float32 ``(B, T, 3, H, W)`` in 0..1, in memory that is used
    again and again, because getting fresh pages takes as long as the numbers do."""

    def __init__(self) -> None:
        self._made: dict[torch.Size, torch.Tensor] = {}

    def __call__(self, pictures: np.ndarray) -> torch.Tensor:
        planes = torch.from_numpy(pictures).permute(0, 1, 4, 2, 3).contiguous()
        made = self._made.setdefault(planes.shape, torch.empty(planes.shape))
        return made.copy_(planes).mul_(1 / 255)


_as_lerobot = _AsLeRobot()


def _draw(source: Source, samples: int, use: Callable[[Batch], object]) -> int:
    rng = np.random.default_rng(0)
    for _ in range(samples // BATCH):
        use(source.draw(BATCH, rng))
    return samples // BATCH * BATCH


def _rate(work: Callable[[], int], repeats: int) -> float:
    rates = []
    for _ in range(repeats):
        began = time.process_time()
        count = work()
        rates.append(count / (time.process_time() - began))
    return float(np.median(rates))


def render() -> str:
    """Reading and writing beside LeRobot."""
    found = read("data")
    lines = ["| what | rate |", "| --- | --- |"]
    for unit, rates in found["rates"].items():
        what, _, per = unit.partition(" ")
        lines += [f"| {what}: {name} | {value:,.0f} {per} |" for name, value in rates.items()]
    opening, mixture = found["opening 10,000 episodes"], found["two data sets of 1,000,000 frames in a mixture"]
    lines += [
        "",
        f"Rates are {found['unit']}; {found['frames']}. Opening 10,000 episodes takes {opening['seconds']:.2f} s and "
        f"{opening['megabytes']:.0f} MB. Two data sets of a million frames of pictures in a mixture: "
        f"{mixture['of which anonymous MB']:.0f} MB of memory of its own, {mixture['resident MB']:.0f} MB with what is "
        f"mapped of the files (`{found['command']}`; LeRobot {found['lerobot'].get('lerobot', 'not measured')}).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)

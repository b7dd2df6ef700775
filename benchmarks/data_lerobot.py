"""LeRobot's side of benchmarks/data.py, which runs this in LeRobot's own environment.

    lerobot-venv/bin/python benchmarks/data_lerobot.py write FOLDER        # data sets with video and with PNG
    lerobot-venv/bin/python benchmarks/data_lerobot.py read FOLDER SAMPLES

Prints one line of JSON: seconds of the process's CPU, and what they were spent on.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

torch.set_num_threads(1)
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "interop"))
import lerobot  # noqa: E402
import torchvision_on_cpu  # noqa: E402, F401  (before what needs torchvision)
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))
from data_frames import ACTION, CHUNK, EPISODES, FPS, HISTORY, SIDE, STATE, TASK, frames  # noqa: E402

KINDS = ("video", "image")


def write(folder: Path) -> dict[str, float]:
    spent = {}
    for kind in KINDS:
        features = {
            "observation.state": {"dtype": "float32", "shape": (STATE,), "names": [f"s{i}" for i in range(STATE)]},
            "action": {"dtype": "float32", "shape": (ACTION,), "names": [f"a{i}" for i in range(ACTION)]},
            "observation.images.top": {
                "dtype": kind, "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]
            },
        }  # fmt: skip
        episodes = [frames(seed) for seed in range(EPISODES)]
        began = time.process_time()
        options = {"vcodec": "h264"} if kind == "video" else {}
        dataset = LeRobotDataset.create(
            f"local/{kind}",
            FPS,
            features,
            root=folder / kind,
            robot_type="bench",
            use_videos=kind == "video",
            **options,
        )
        for state, action, pictures in episodes:
            for step in range(len(state)):
                frame = {"observation.state": state[step], "action": action[step], "task": TASK}
                dataset.add_frame(frame | {"observation.images.top": pictures[step]})
            dataset.save_episode()
        dataset.finalize()
        spent[f"write {kind}"] = time.process_time() - began
    return spent


def read(folder: Path, samples: int) -> dict[str, float]:
    spent = {}
    deltas = {
        "observation.images.top": [(step - HISTORY + 1) / FPS for step in range(HISTORY)],
        "observation.state": [(step - HISTORY + 1) / FPS for step in range(HISTORY)],
        "action": [step / FPS for step in range(CHUNK)],
    }
    for kind, backend in (("image", None), ("video", "torchcodec"), ("video", "pyav")):
        name = f"read {kind}" + (f" {backend}" if backend else "")
        try:
            dataset = LeRobotDataset(
                f"local/{kind}", root=folder / kind, delta_timestamps=deltas, video_backend=backend or "pyav"
            )
            order = np.random.default_rng(0).integers(0, len(dataset), samples)
            loader = torch.utils.data.DataLoader(dataset, batch_size=32, sampler=order.tolist(), num_workers=0)
            batches = iter(loader)
            next(batches)
            began, seen = time.process_time(), 0
            for batch in batches:
                seen += len(batch["action"])
            spent[name] = (time.process_time() - began) / seen
            assert batch["observation.images.top"].shape[1:] == (HISTORY, 3, SIDE, SIDE)
            assert batch["observation.images.top"].dtype == torch.float32
        except Exception as error:
            # Video decoders of this environment may not load; the other one is measured then.
            print(f"{name}: {str(error).splitlines()[0][:200]}", file=sys.stderr)
    return spent


if __name__ == "__main__":
    command, folder = sys.argv[1], Path(sys.argv[2])
    result = write(folder) if command == "write" else read(folder, int(sys.argv[3]))
    print(json.dumps({"lerobot": lerobot.__version__, "torch": torch.__version__, "seconds": result}))

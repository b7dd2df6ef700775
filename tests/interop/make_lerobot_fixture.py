"""Writes tests/golden/lerobot-v3 with the real lerobot, so that its reader is checked against what lerobot does.

Run it on purpose, in the environment that check_lerobot.py describes:

    HF_HUB_OFFLINE=1 lerobot-venv/bin/python tests/interop/make_lerobot_fixture.py
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lerobot
import numpy as np
import torchvision_on_cpu  # noqa: F401  (before what needs torchvision)
from lerobot.datasets.lerobot_dataset import LeRobotDataset

ROOT = Path(__file__).resolve().parents[1] / "golden" / "lerobot-v3"
SIDE, FPS = 32, 10


def picture(episode: int, frame: int) -> np.ndarray:
    """A bright square on a grey ground, which moves."""
    pixels = np.full((SIDE, SIDE, 3), 90, np.uint8)
    pixels[4 + 2 * frame : 12 + 2 * frame, 6 + 8 * episode : 14 + 8 * episode] = (230, 60 + 40 * episode, 40)
    return pixels


def main() -> None:
    shutil.rmtree(ROOT, ignore_errors=True)
    features = {
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["shoulder.pos", "gripper.pos"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["shoulder.pos", "gripper.pos"]},
        "observation.images.front": {
            "dtype": "video",
            "shape": (SIDE, SIDE, 3),
            "names": ["height", "width", "channels"],
        },
        "observation.images.wrist": {
            "dtype": "image",
            "shape": (SIDE, SIDE, 3),
            "names": ["height", "width", "channels"],
        },
    }
    dataset = LeRobotDataset.create(
        "polysoma/fixture", FPS, features, root=ROOT, robot_type="so101_follower", use_videos=True, vcodec="h264"
    )
    for episode, length in enumerate((5, 8)):
        for frame in range(length):
            dataset.add_frame(
                {
                    "observation.state": np.array([frame, episode], np.float32),
                    "action": np.array([frame + 0.5, -episode], np.float32),
                    "observation.images.front": picture(episode, frame),
                    "observation.images.wrist": 255 - picture(episode, frame),
                    "task": ("push the square", "pull the square")[episode],
                }
            )
        dataset.save_episode()
    dataset.finalize()
    (ROOT / "written-by.json").write_text(json.dumps({"lerobot": lerobot.__version__}) + "\n")
    size = sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file())
    print(f"{size / 1e3:.0f} kB -> {ROOT}")


if __name__ == "__main__":
    main()

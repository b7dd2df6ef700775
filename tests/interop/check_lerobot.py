"""Checks that the real lerobot opens our data sets unchanged and reads the same values.

Not collected by pytest, because lerobot pins other versions of torch than this library. Run it on purpose, in an
environment of its own:

    python3.11 -m venv lerobot-venv && lerobot-venv/bin/pip install uv
    printf 'torch==2.13.0\\ntorchvision==0.25.0\\ntorchcodec==0.13.0\\n' > override.txt
    lerobot-venv/bin/uv pip install --python lerobot-venv/bin/python --override override.txt lerobot==0.4.4 pytest
    HF_HUB_OFFLINE=1 PYTHONPATH=src lerobot-venv/bin/python tests/interop/check_lerobot.py

Or in an environment of check_lerobot_plugin.py, with lerobot 0.4.4 or 0.6.1.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import lerobot
import numpy as np
import torch
import torchvision_on_cpu  # noqa: F401  (before what needs torchvision)
from lerobot.datasets.dataset_tools import delete_episodes, merge_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from make_episodes import ARM, GRID, episode
from polysoma.data.dataset import Dataset
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import Embodiment

EPISODES = 9
HISTORY = (-2, -1, 0)
CHUNK = 6


def check(root: Path, body: Embodiment) -> None:
    episodes = [episode(body, seed, steps=4 + 3 * seed) for seed in range(EPISODES)]
    for part in (episodes[:5], episodes[5:]):  # Two files, so that lerobot must join them.
        with DatasetWriter(root, body) as writer:
            for each in part:
                writer.add(each)
    ours = Dataset(root)
    rate = body.rate_hz
    deltas = {f"observation.{stream.name}": [step / rate for step in HISTORY] for stream in body.arrays}
    deltas["action"] = [step / rate for step in range(CHUNK)]
    theirs = LeRobotDataset("local/x", root=root, delta_timestamps=deltas)
    assert len(theirs) == len(ours)
    assert theirs.num_episodes == EPISODES
    for number, each in enumerate(episodes):
        start, length = int(ours.episode_start[number]), len(each)
        for step in range(length):
            item = theirs[start + step]
            past = np.clip(np.array(HISTORY) + step, 0, length - 1)
            future = np.clip(np.arange(CHUNK) + step, 0, length - 1)
            for stream in body.arrays:
                expected = ours.observations[stream.name][start + past]
                got = item[f"observation.{stream.name}"].numpy()
                np.testing.assert_array_equal(got.reshape(expected.shape), expected)
            expected = ours.actions[start + future]
            np.testing.assert_array_equal(item["action"].numpy().reshape(expected.shape), expected)
            np.testing.assert_array_equal(item["action_is_pad"].numpy(), np.arange(CHUNK) + step >= length)
            np.testing.assert_array_equal(item["executed_action"].numpy(), ours.executed[start + step])
            assert ours.rewards is not None and float(item["next.reward"]) == ours.rewards[start + step]
            last = step == length - 1
            assert bool(item["next.done"]) == last and bool(item["next.success"]) == (last and each.success)
            assert item["task"] == each.instruction
            assert (int(item["episode_index"]), int(item["frame_index"])) == (number, step)
            assert abs(float(item["timestamp"]) - step / rate) < 1e-6
    row = theirs.meta.episodes[3]
    assert (row["polysoma/task"], row["polysoma/seed"]) == (episodes[3].task, 3)
    assert (row["polysoma/terminated"], row["polysoma/truncated"]) == (episodes[3].terminated, episodes[3].truncated)
    stats = json.loads((root / "meta/stats.json").read_text())
    for name, values in stats.items():
        for key, value in values.items():
            np.testing.assert_allclose(theirs.meta.stats[name][key], value)
    batch = next(iter(torch.utils.data.DataLoader(theirs, batch_size=16)))
    print(f"{body.name}: {len(theirs)} frames equal;", {k: tuple(v.shape) for k, v in batch.items() if "obs" in k})
    only = LeRobotDataset("local/x", root=root, episodes=[1, 6])
    assert len(only) == len(episodes[1]) + len(episodes[6])
    assert only[len(episodes[1])]["task"] == episodes[6].instruction
    plain = LeRobotDataset("local/x", root=root)
    merged, less = root.with_name(f"{body.name}-merged"), root.with_name(f"{body.name}-less")
    try_tool("merge_datasets", lambda: merge_datasets([plain, plain], "local/merged", merged))
    try_tool("delete_episodes", lambda: delete_episodes(plain, [0], less, "local/less"))


def try_tool(name: str, action: Callable[[], LeRobotDataset]) -> None:
    """Says whether one of lerobot's tools takes our data set; a failure is reported but is not an error.

    delete_episodes of lerobot 0.4.4 and 0.6.1 sends frames through pandas, which no feature of several axes survives.
    """
    try:
        print(f"  {name}: {len(action())} frames")
    except Exception as error:
        print(f"  {name}: {type(error).__name__}: {str(error)[:200]}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        for each in (ARM, GRID):
            check(Path(folder) / each.name, each)
    print(f"lerobot {lerobot.__version__} reads what polysoma writes")

"""Training in several processes: what is seen does not depend on their number, not even when it changes on the way."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from polysoma.errors import PolysomaError
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train

SCRIPT = """
import json, sys
from pathlib import Path
from polysoma.data.mixture import Source
from polysoma.learning import distributed
from polysoma.learning.training import train
from polysoma.learning.recipe import recipe_from_table

table, run, resume, until, log = json.loads(sys.argv[1])
draw, shard = Source.draw, distributed.shard

def watched(self, count, rng, goals=False, share=(0, 1), showing=None):
    windows = draw(self, count, rng, goals, share, showing)
    stream = windows.embodiment.arrays[0].name
    rows = [windows.observations[stream][row].numpy().tobytes().hex() for row in range(len(windows))]
    with open(f"{log}-{share[0]}", "a") as file:
        file.writelines(f"{windows.embodiment.name} {row}\\n" for row in rows)
    return windows

def measured(policy, accelerator):
    shard(policy, accelerator)
    blocks = list(policy.trunk.blocks.parameters())
    held = [sum(p.numel() for p in blocks), sum(distributed.local(p).numel() for p in blocks)]
    Path(f"{log}.held-{accelerator.process_index}").write_text(json.dumps(held))

Source.draw, distributed.shard = watched, measured
train(recipe_from_table(table, "test"), Path(run), resume, until)
"""


def run(processes: int, table: dict[str, object], folder: Path, resume: bool, until: int | None, log: Path) -> None:
    script = folder.parent / "watched.py"
    script.write_text(SCRIPT)
    arguments = json.dumps([table, str(folder), resume, until, str(log)])
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    ended = subprocess.run(
        [sys.executable, *launch, str(script), arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr


def seen(log: Path) -> list[str]:
    return sorted(line for path in log.parent.glob(f"{log.name}-*") for line in path.read_text().splitlines())


def test_two_processes_then_one_see_what_one_sees(datasets: dict[str, Path], tmp_path: Path) -> None:
    table: dict[str, object] = {
        "data": [str(datasets["arm"]), str(datasets["grid"])],
        "bodies": {"arm": {"batch": 7}, "grid": {"batch": 1}},
        "policy": {"width": 32, "depth": 1, "heads": 2},
        "steps": 4,
        "warmup": 1,
        "checkpoint_every": 2,
    }
    run(1, table, tmp_path / "one", False, None, tmp_path / "alone")
    run(2, table, tmp_path / "two", False, 2, tmp_path / "shared")
    halves = [(tmp_path / f"shared-{rank}").read_text().splitlines() for rank in range(2)]
    # Seven windows of the arm a step are four and three; the grid's one is the first process's.
    assert [len(half) for half in halves] == [2 * (4 + 1), 2 * 3]
    run(1, table, tmp_path / "two", True, None, tmp_path / "shared")
    assert seen(tmp_path / "shared") == seen(tmp_path / "alone")
    assert (tmp_path / "two/checkpoint/model.safetensors").is_file()


def test_sharded_training_ends_where_unsharded_training_does(
    datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table: dict[str, object] = {
        "data": [str(datasets["arm"]), str(datasets["grid"])],
        "bodies": {"arm": {"batch": 8, "parts": 3}, "grid": {"batch": 5, "parts": 2}},
        "policy": {"width": 32, "depth": 2, "heads": 2},
        "steps": 6,
        "warmup": 1,
        "checkpoint_every": 2,
        "held_out": 0.25,
    }
    sharded = table | {"sharding": "full"}
    log = tmp_path / "log"
    run(2, table, tmp_path / "none", False, 2, log)
    shutil.copytree(tmp_path / "none", tmp_path / "mixed")
    run(2, table, tmp_path / "none", True, 4, log)
    run(2, sharded, tmp_path / "mixed", True, 4, log)
    run(2, sharded, tmp_path / "full", False, 4, log)
    for rank in range(2):
        every, here = json.loads((tmp_path / f"log.held-{rank}").read_text())
        assert here == pytest.approx(every / 2, rel=0.02)
    assert_same_state(tmp_path / "mixed", tmp_path / "none")
    assert_same_state(tmp_path / "full", tmp_path / "none")
    losses = [
        [json.loads(line)["held_out/arm"] for line in lines if "held_out/arm" in line]
        for lines in ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("none", "full"))
    ]
    assert len(losses[0]) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    # One process that has everything ends both.
    for name in ("none", "full"):
        train(recipe_from_table(table, "test"), tmp_path / name, resume=True)
    assert_same_state(tmp_path / "full", tmp_path / "none")


def assert_same_state(folder: Path, expected: Path) -> None:
    """All that a run resumes from is the same but for the order in which floats were added."""
    ours, theirs = (safetensors.torch.load_file(run / "training/training.safetensors") for run in (folder, expected))
    assert ours.keys() == theirs.keys() and any("exp_avg" in name for name in ours)
    for name, value in theirs.items():
        found = ours[name]
        if name.endswith("qkv.bias"):
            # What is added to all keys changes no attention: its gradient is rounding alone, of which Adam makes steps.
            found, value = (torch.cat([part.chunk(3)[0], part.chunk(3)[2]]) for part in (found, value))
        torch.testing.assert_close(found, value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_sharding_needs_work_for_every_process(datasets: dict[str, Path], tmp_path: Path) -> None:
    table: dict[str, object] = {
        "data": [str(datasets["arm"])],
        "bodies": {"arm": {"batch": 1}},
        "policy": {"width": 32, "depth": 1, "heads": 2},
        "sharding": "full",
        "steps": 1,
    }
    with pytest.raises(AssertionError, match="each of 2 processes needs one of either kind"):
        run(2, table, tmp_path / "run", False, None, tmp_path / "log")
    run(1, table, tmp_path / "alone", False, None, tmp_path / "log")
    with pytest.raises(PolysomaError, match="test: sharding: expected 'none' or 'full', got 'half'"):
        recipe_from_table(table | {"sharding": "half"}, "test")

"""Made the golden runs whose state is of format 1: one of imitation, and one of meta-learning beside its
checkpoint, both killed half-way; embodiments held horizons then. Run it only to add the files of a new format.

PYTHONPATH=tests python tests/golden/make_run.py
"""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

from conftest import ARM, GRID, make_episode
from polysoma.data.writer import DatasetWriter
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train

HERE = Path(__file__).parent / "run"
STEPS, HALF = 8, 4

if HERE.exists():
    raise SystemExit(f"{HERE} exists; move it to another place")
data = []
# Without its view, whose convolutions alone would be two megabytes.
for body in (
    ARM,
    dataclasses.replace(GRID, streams=GRID.streams[1:]),
):
    data.append(str(HERE / "data" / body.name))
    with DatasetWriter(Path(data[-1]), body) as writer:
        for seed in range(6):
            task = ("one", "two", "three")[seed % 3]
            writer.add(make_episode(body, 4, seed, f"{body.name}/{task}", f"do {task}"))
common = {"steps": STEPS, "warmup": 2, "checkpoint_every": 2, "log_every": 1, "seed": 3}
imitation = common | {
    "data": data,
    "bodies": {
        "arm": {"batch": 4, "noise": 0.05, "history": 2, "previous_action": True, "chunk": 4},
        "grid": {"batch": 3, "parts": 2, "history": 6},
    },
    "policy": {"width": 8, "depth": 1, "heads": 1},
    "held_out": 0.3,
    "patience": 9,
}
meta = common | {
    "data": data[:1],
    "bodies": {"arm": {"batch": 4}},
    "init": str(HERE / "imitation" / "checkpoint"),
    "adaptation": {"method": "lora", "rank": 1},
    "meta": {"algorithm": "reptile", "inner_steps": 2, "batch": 2},
}
expected = {}
with tempfile.TemporaryDirectory() as folder:
    for name, table in (("imitation", imitation), ("meta", meta)):
        recipe = recipe_from_table(table, name)
        train(recipe, HERE / name, until=HALF)
        shutil.copytree(HERE / name, Path(folder) / name)
        train(recipe, Path(folder) / name, resume=True)
        lines = (Path(folder) / name / "metrics.jsonl").read_text().splitlines()
        expected[name] = [row for row in map(json.loads, lines) if row["step"] > HALF]
        shutil.rmtree(HERE / name / "tensorboard")
        for file in (HERE / name).rglob("*.json"):
            file.write_text(file.read_text().replace(str(HERE), "GOLDEN"))
for rest in (*HERE.rglob(".cache"), *HERE.rglob(".writer.lock")):
    shutil.rmtree(rest) if rest.is_dir() else rest.unlink()
(HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")

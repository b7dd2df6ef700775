"""Made the golden checkpoint of format 1. Run it only to add the golden file of a new format.

PYTHONPATH=tests python tests/golden/make.py
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from conftest import ARM, GRID, HORIZONS, make_episode, make_policy
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.data.writer import DatasetWriter
from polysoma.policy import checkpoint

HERE = Path(__file__).parent

with tempfile.TemporaryDirectory() as folder:
    sources = {}
    for body in (ARM, GRID):
        with DatasetWriter(Path(folder) / body.name, body) as writer:
            writer.add(make_episode(body, 12, 3))
        sources[body.name] = Source([Dataset(Path(folder) / body.name)], [1.0], 0.0, horizon=HORIZONS[body.name])
    policy = make_policy(sources)
    checkpoint.save(policy, HERE / "checkpoint", torch.bfloat16)
agent = checkpoint.load_for_training(HERE / "checkpoint").agent("arm", instruction="do one")
action = agent.act({"state": np.array([0.1, 0.2, 0.3])})
(HERE / "expected.json").write_text(
    json.dumps({"arm": [round(float(x), 5) for x in action], "parameters": policy.parameter_count()}) + "\n"
)

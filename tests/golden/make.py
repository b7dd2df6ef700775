"""Made the golden files of today's formats. Run it only to add those of a new format.

PYTHONPATH=src:tests python tests/golden/make.py checkpoint|dataset|skills

``checkpoint`` is of the first format; ``checkpoint-2`` is the same policy with a readout of values for the arm.
``dataset-1`` holds the same episodes as ``dataset-2``, without rewards and ends; the version before wrote it.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def checkpoint() -> None:
    import torch

    from conftest import ARM, GRID, HORIZONS, make_episode, make_policy
    from polysoma.data.dataset import Dataset
    from polysoma.data.mixture import Source
    from polysoma.data.writer import DatasetWriter
    from polysoma.nn.heads import ValueConfig
    from polysoma.policy import checkpoint

    with tempfile.TemporaryDirectory() as folder:
        sources = {}
        for body in (ARM, GRID):
            with DatasetWriter(Path(folder) / body.name, body) as writer:
                writer.add(make_episode(body, 12, 3))
            sources[body.name] = Source([Dataset(Path(folder) / body.name)], [1.0], 0.0, horizon=HORIZONS[body.name])
        policy = make_policy(sources)
    count = policy.parameter_count()
    policy.add_readout("arm", "value", ValueConfig())
    checkpoint.save(policy, HERE / f"checkpoint-{checkpoint.FORMAT_VERSION}", torch.bfloat16)
    agent = policy.agent("arm", instruction="do one")
    action = agent.act({"state": np.array([0.1, 0.2, 0.3])})
    (HERE / "expected.json").write_text(
        json.dumps({"arm": [round(float(x), 5) for x in action], "parameters": count}) + "\n"
    )


def dataset() -> None:
    from make_recorded import write_cart
    from polysoma.data.stored import FORMAT_VERSION

    (write_cart(HERE / f"dataset-{FORMAT_VERSION}") / ".writer.lock").unlink()


def skills() -> None:
    import torch

    from make_puck import PUCK
    from polysoma.policy import checkpoint
    from polysoma.policy.skills import SkillConfig, SkillPolicy, goals_of

    torch.manual_seed(0)
    policy = SkillPolicy(SkillConfig(PUCK, "skill", *goals_of(PUCK), width=8, depth=1, skill=4))
    checkpoint.save(policy, HERE / "skills")
    action = policy.decide(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))[0]
    (HERE / "skills-expected.json").write_text(json.dumps([round(float(x), 5) for x in action]) + "\n")


if __name__ == "__main__":
    {"checkpoint": checkpoint, "dataset": dataset, "skills": skills}[sys.argv[1]]()

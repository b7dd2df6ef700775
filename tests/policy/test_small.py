"""Small networks that checkpoints hold: one way to open them, whatever their kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from make_puck import PUCK
from polysoma.errors import PolysomaError
from polysoma.policy import checkpoint, rewards, skills, world
from polysoma.policy.rewards import RewardConfig, RewardModel
from polysoma.policy.skills import SkillConfig, SkillPolicy
from polysoma.policy.small import SmallPolicy
from polysoma.policy.world import WorldConfig, WorldModel

KINDS = [
    (SkillPolicy(SkillConfig(PUCK, "nothing", width=16)), skills.load),
    (WorldModel(WorldConfig(PUCK, width=16)), world.load),
    (RewardModel(RewardConfig(PUCK, "go", width=16)), rewards.load),
]


@pytest.mark.parametrize(("model", "load"), KINDS, ids=["skills", "world", "reward"])
def test_weights_are_compared_before_anything_of_their_size_is_made(
    model: SmallPolicy, load: Callable[[Path], SmallPolicy], tmp_path: Path
) -> None:
    checkpoint.save(model, tmp_path)
    again = load(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert checkpoint.bodies(tmp_path) == [PUCK.name]
    file = tmp_path / "config.json"
    told: dict[str, Any] = json.loads(file.read_text())
    # Such a network would take 17 GB and more.
    file.write_text(json.dumps(told | {"width": 65_536}))
    with pytest.raises(PolysomaError, match=r"model\.safetensors"):
        load(tmp_path)
    file.write_text(json.dumps(told | {"kind": ["skills"]}))
    with pytest.raises(PolysomaError, match="holds no"):
        load(tmp_path)
    with pytest.raises(PolysomaError):
        checkpoint.load(tmp_path)

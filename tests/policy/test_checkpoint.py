from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from conftest import GOLDEN
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy


def test_round_trip(policy: Policy, sources: dict[str, Source], tmp_path: Path) -> None:
    checkpoint.save(policy, tmp_path / "x")
    again = checkpoint.load_for_training(tmp_path / "x")
    assert again.config.embodiments == policy.config.embodiments
    windows = sources["arm"].draw(4, np.random.default_rng(0))
    assert torch.equal(policy(windows)["action"], again(windows)["action"])


def test_bfloat16_halves_the_file_and_hardly_moves_predictions(
    policy: Policy, sources: dict[str, Source], tmp_path: Path
) -> None:
    checkpoint.save(policy, tmp_path / "full")
    checkpoint.save(policy, tmp_path / "half", torch.bfloat16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    windows = sources["arm"].draw(16, np.random.default_rng(0))
    full, half = (checkpoint.load(tmp_path / name).predict(windows) for name in ("full", "half"))
    torch.testing.assert_close(full, half, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(("name", "version"), [("checkpoint", 1), ("checkpoint-2", 2)])
def test_golden_checkpoints_keep_loading(name: str, version: int) -> None:
    expected = json.loads((GOLDEN / "expected.json").read_text())
    assert checkpoint.read_config(GOLDEN / name)["format_version"] == version
    policy = checkpoint.load_for_training(GOLDEN / name)
    agent = policy.agent("arm", instruction="do one")
    np.testing.assert_allclose(agent.act({"state": np.array([0.1, 0.2, 0.3])}), expected["arm"], atol=5e-3)
    # The second one has a readout of values beside that of actions.
    extra = 0 if version == 1 else policy.readouts["arm/value"].numel() + policy.config.width + 1
    assert policy.parameter_count() == expected["parameters"] + extra


def test_newer_format(policy: Policy, tmp_path: Path) -> None:
    checkpoint.save(policy, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"format_version": 99}))
    with pytest.raises(PolysomaError, match=r"format 99.*upgrade"):
        checkpoint.load(tmp_path)


def test_damaged_files(policy: Policy, tmp_path: Path) -> None:
    checkpoint.save(policy, tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(PolysomaError, match="missing or damaged"):
        checkpoint.load(tmp_path)
    weights.write_bytes(content)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PolysomaError, match="not the configuration"):
        checkpoint.load(tmp_path)


def test_weights_that_do_not_fit(policy: Policy, tmp_path: Path) -> None:
    checkpoint.save(policy, tmp_path)
    tensors = safetensors.torch.load_file(tmp_path / "model.safetensors")
    tensors.pop("trunk.norm.weight")
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(PolysomaError, match=r"does not fit.*trunk\.norm\.weight"):
        checkpoint.load(tmp_path)
    tensors["trunk.norm.weight"] = torch.zeros(3)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(PolysomaError, match="does not fit"):
        checkpoint.load(tmp_path)


def test_no_checkpoint_there(tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match=r"config\.json and model\.safetensors, or one of the names generalist"):
        checkpoint.load(tmp_path / "nothing")


def test_a_full_disk_leaves_nothing_half_written(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(PolysomaError, match="No space left on device; free some space"):
        checkpoint.save(policy, tmp_path / "x")
    assert list((tmp_path / "x").iterdir()) == []

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import make_hostile
from conftest import ARM, GOLDEN, GRID, SEEN_ARM, make_policy
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.learning.lineage import tell
from polysoma.nn.heads import HeadConfig
from polysoma.nn.images import ImageConfig
from polysoma.policy import checkpoint, weight_file
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt
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
    with pytest.raises(PolysomaError, match=r"config\.json and model\.safetensors, or the name generalist for"):
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


def test_hostile_checkpoints_are_refused_in_one_line(tmp_path: Path) -> None:
    make_hostile.write(tmp_path / "origin")
    for name in ("base", "adapted"):
        checkpoint.load(tmp_path / "origin" / name)
    variants = make_hostile.variants(tmp_path / "origin")
    assert len(variants) >= 1000
    # A fifth of them: benchmarks/hostile.py tries all.
    for number, (name, write) in enumerate(random.Random(0).sample(variants, len(variants) // 5)):
        folder = write(tmp_path / str(number))
        try:
            checkpoint.load(folder)
        except PolysomaError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, name
        else:
            pytest.fail(f"accepted: {name}")


def test_every_changed_byte_of_the_weights_is_noticed(policy: Policy, tmp_path: Path) -> None:
    checkpoint.save(policy, tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(0, 64, 3), *rng.choice(len(content), 100, replace=False)]:
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        weights.write_bytes(changed)
        with pytest.raises(PolysomaError, match=r"fetch it again|does not fit"):
            checkpoint.load(tmp_path)
    weights.write_bytes(content)
    checkpoint.load(tmp_path)


def test_a_kill_between_the_two_files_leaves_a_checkpoint(
    policy: Policy, sources: dict[str, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, windows = make_policy(sources, seed=1), sources["arm"].draw(2, np.random.default_rng(0))
    done = checkpoint.write_atomically
    for allowed in range(3):
        checkpoint.save(policy, tmp_path)
        left = iter(range(allowed))

        def killed(path: Path, content: bytes, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            done(path, content)

        monkeypatch.setattr(checkpoint, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(other, tmp_path)
        monkeypatch.setattr(checkpoint, "write_atomically", done)
        loaded = checkpoint.load_for_training(tmp_path)
        expected = policy if allowed < 2 else other
        assert torch.equal(loaded(windows)["action"], expected(windows)["action"])


def test_a_checkpoint_and_one_with_adaptations_of_the_same_weights_are_two(
    policy: Policy, tmp_path: Path, sources: dict[str, Source]
) -> None:
    checkpoint.save(policy, tmp_path / "base")
    named = Adaptation("head", base="", base_sha256=checkpoint.weights_sha256(tmp_path / "base"))
    named = dataclasses.replace(named, base=str(tmp_path / "base"))
    base = checkpoint.load_for_training(tmp_path / "base")
    checkpoint.save(adapt(base, named, [ARM], policy.config.statistics, policy.config.vocabulary), tmp_path / "adapted")
    checkpoint.attach(tmp_path / "base", {"arm": tmp_path / "adapted"}, tmp_path / "both")
    for order in (["base", "both"], ["both", "base"]):
        loaded = dict(zip(order, checkpoint.load_all([tmp_path / name for name in order]), strict=True))
        assert list(loaded["both"].adaptations) == ["arm"] and not loaded["base"].adaptations


def test_to_load_is_quick_to_begin(tmp_path: Path) -> None:
    """What compares sizes before anything is made does not import what torch compiles with."""
    make_hostile.write(tmp_path)
    code = (
        "import sys; from polysoma.policy import checkpoint; "
        f"[checkpoint.load({str(tmp_path)!r} + name, backend='torch') for name in ('/base', '/adapted')]; "
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"head": HeadConfig("flow")}, {"head": HeadConfig("bins")}, {"adapters": "described"}, {"waves": 4},
        {"film": 4}, {"frames_per_demonstration": 3},
        {"images": ImageConfig("small", "points", goals=True)}, {"images": ImageConfig("efficientnet-lite0")},
        {"adaptation": Adaptation("lora")}, {"adaptation": Adaptation("adapter")}, {"adaptation": Adaptation("prompt")},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_are_those_of_the_policy_that_is_made(
    changes: dict[str, Any], sources: dict[str, Source], tmp_path: Path
) -> None:
    config = dataclasses.replace(make_policy(sources, (ARM, GRID, SEEN_ARM)).config, **changes)
    policy = Policy(config)
    safetensors.torch.save_file(policy.state_dict(), tmp_path / "model.safetensors")
    weight_file.check(tmp_path / "model.safetensors", config, None)


def test_the_lineage_says_where_there_is_no_checksum(policy: Policy, tmp_path: Path) -> None:
    checkpoint.save(policy, tmp_path)
    assert tell(GOLDEN / "checkpoint")[0].endswith(", no checksum): no more is known")
    assert "no checksum" not in tell(tmp_path)[0] and "no checksum" not in tell("generalist")[0]
    told = json.loads((tmp_path / "config.json").read_text())
    for data in ([7], 7, [{"body": "arm"}]):
        lineage = {"method": "full", "data": data, "steps": 2, "parent": None}
        (tmp_path / "config.json").write_text(json.dumps(told | {"lineage": lineage}))
        with pytest.raises(PolysomaError, match="its lineage is malformed"):
            tell(tmp_path)

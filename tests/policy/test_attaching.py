"""Adaptations that are attached to their base: one checkpoint, in which they drive their bodies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, make_policy, observe
from polysoma.acting.agent import Acting
from polysoma.acting.retrieval import DemonstrationIndex
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.evaluation.hub import save_pretrained
from polysoma.learning.finetuning import recipe_for, with_steps
from polysoma.learning.training import train
from polysoma.policy import checkpoint
from polysoma.policy.methods import FinetuningMethod
from polysoma.policy.policy import Policy


@pytest.fixture
def base(sources: dict[str, Source], tmp_path: Path) -> Path:
    checkpoint.save(make_policy(sources, (ARM, GRID)), tmp_path / "base")
    return tmp_path / "base"


def tuned(base: Path, data: Path, out: Path, method: FinetuningMethod = "lora") -> Path:
    return train(with_steps(recipe_for(str(base), [str(data)], method, rank=2), 3), out)


@pytest.fixture
def adapted(base: Path, datasets: dict[str, Path], tmp_path: Path) -> Path:
    return tuned(base, datasets["arm"], tmp_path / "arm")


@pytest.fixture
def both(base: Path, adapted: Path, tmp_path: Path) -> Path:
    main(["merge", "attach", str(base), str(adapted), "--out", str(tmp_path / "both")])
    return tmp_path / "both"


def acts(policy: Policy, body: str) -> np.ndarray:
    agent = policy.agent(body, "do one", Acting(temperature=0.0))
    return np.asarray(agent.act(observe({"arm": ARM, "grid": GRID}[body])))


def test_each_body_is_driven_by_its_own(base: Path, adapted: Path, both: Path) -> None:
    assert [place.name for place in checkpoint.attached(both)] == ["arm"]
    whole, start, own = checkpoint.load(both), checkpoint.load(base), checkpoint.load(adapted)
    assert np.array_equal(acts(whole, "arm"), acts(own, "arm"))
    assert not np.array_equal(acts(whole, "arm"), acts(start, "arm"))
    assert np.array_equal(acts(whole, "grid"), acts(start, "grid"))
    # The base's weights are there once, and as they were.
    assert whole.driving("arm").trunk.norm.weight is whole.trunk.norm.weight
    assert checkpoint.weights_sha256(both) == checkpoint.weights_sha256(base)
    assert "arm, adapted" in repr(whole)


def test_its_lineage_names_what_is_attached(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["lineage", str(both)])
    assert "attached: arm (" in (said := capsys.readouterr().out) and "lora, 3 steps on 8 episodes of arm" in said


def test_demonstrations_are_found_by_what_drives(both: Path, datasets: dict[str, Path]) -> None:
    pytest.importorskip("usearch", reason="retrieval needs pip install 'polysoma[memory]'")
    policy = checkpoint.load(both)
    index = DemonstrationIndex(policy, "arm")
    assert index.policy is policy.adaptations["arm"]
    agent = policy.agent("arm", "do one", memory=index)
    index.add(Dataset(datasets["arm"]).episode(0))
    assert np.isfinite(agent.act(observe(ARM))).all()


def test_it_is_exported_with_its_adaptation(base: Path, adapted: Path, both: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="exporting needs pip install 'polysoma[export]'")
    for name, place in (("both", both), ("own", adapted)):
        main(["export", str(place), "--embodiment", "arm", "--out", str(tmp_path / f"{name}.onnx")])
    assert (tmp_path / "both.onnx").read_bytes() == (tmp_path / "own.onnx").read_bytes()
    # Low-rank matrices are multiplied out: they cost nothing.
    main(["export", str(base), "--embodiment", "arm", "--out", str(tmp_path / "base.onnx")])
    sizes = [(tmp_path / f"{name}.onnx").stat().st_size for name in ("both", "base")]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[1]


def test_copies_hold_what_is_attached(both: Path, tmp_path: Path) -> None:
    copy = save_pretrained(both, tmp_path / "copy", "user/name")
    assert np.array_equal(acts(checkpoint.load(copy), "arm"), acts(checkpoint.load(both), "arm"))


def test_learning_begins_with_the_base(both: Path, base: Path, datasets: dict[str, Path], tmp_path: Path) -> None:
    again = tuned(both, datasets["grid"], tmp_path / "again")
    assert checkpoint.read_config(again)["adaptation"]["base_sha256"] == checkpoint.weights_sha256(base)
    # What is attached already stays, and another one comes to it.
    main(["merge", "attach", str(both), f"second={again}", "--out", str(both)])
    policy = checkpoint.load(both)
    assert policy.adaptations.keys() == {"arm", "second"}
    assert policy.driving("grid") is policy.adaptations["second"]
    # A body that learns with the base's own weights is driven by these again; the others keep what is attached.
    full = checkpoint.load(tuned(both, datasets["arm"], tmp_path / "full", "full"))
    assert full.adaptations.keys() == {"second"} and full.driving("arm") is full
    second = checkpoint.load_for_training(again)
    for name, value in full.adaptations["second"].own().items():
        torch.testing.assert_close(value.float(), second.own()[name], rtol=1e-2, atol=1e-2)


def test_what_is_attached_goes_where_the_policy_goes(both: Path, adapted: Path, tmp_path: Path) -> None:
    policy = checkpoint.load(both, precision="float32")
    before = acts(policy, "arm")
    checkpoint.save(policy, tmp_path / "saved")
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    for place in ("moved", "moved/adaptations/arm"):
        assert np.array_equal(acts(checkpoint.load(tmp_path / place, precision="float32"), "arm"), before)
    policy.to(torch.float64)
    arm = policy.driving("arm")
    assert all(value.dtype == torch.float64 for value in arm.parameters())
    assert arm.trunk.norm.weight is policy.trunk.norm.weight


def test_loading_multiplies_low_rank_matrices_out(adapted: Path) -> None:
    learning = checkpoint.load_for_training(adapted).compute_in("float32")
    with torch.no_grad():
        for name, value in learning.own().items():
            if name.endswith(".b"):
                value.normal_(0, 0.05)
    checkpoint.save(learning, adapted)
    acting = checkpoint.load(adapted, precision="float32")
    np.testing.assert_allclose(acts(acting, "arm"), acts(learning, "arm"), atol=1e-5)
    products = []
    for policy in (learning, acting):
        block = policy.trunk.every_block()[0]
        products.append(block.qkv.fused)
    assert products[0] is None and products[1].shape == block.qkv.weight.shape
    assert acting.own().keys() == learning.own().keys()


def test_only_adaptations_of_its_weights_can_be_attached(both: Path, adapted: Path, base: Path) -> None:
    policy = checkpoint.load_for_training(both)
    with pytest.raises(PolysomaError, match="other is no adaptation of this policy's weights"):
        policy.attach("other", checkpoint.load_for_training(adapted))
    with pytest.raises(PolysomaError, match="arm is driven by another adaptation already"):
        policy.attach("again", policy.adaptations["arm"])
    # To be attached takes no gradients from the base.
    assert all(parameter.requires_grad for parameter in policy.parameters())
    assert not any(p.requires_grad for n, p in checkpoint.load_for_training(adapted).named_parameters() if "norm" in n)


def test_what_cannot_be_attached_is_refused(
    base: Path, adapted: Path, both: Path, datasets: dict[str, Path], sources: dict[str, Source], tmp_path: Path
) -> None:
    with pytest.raises(PolysomaError, match="is no adaptation: it stands alone"):
        checkpoint.attach(base, {"full": tuned(base, datasets["arm"], tmp_path / "full", "full")}, tmp_path / "to")
    with pytest.raises(PolysomaError, match="arm has two adaptations, a and b"):
        checkpoint.attach(base, {"a": adapted, "b": adapted}, tmp_path / "to")
    checkpoint.save(make_policy(sources, (GRID,)), tmp_path / "other")
    with pytest.raises(PolysomaError, match="not those of"):
        checkpoint.attach(tmp_path / "other", {"a": adapted}, tmp_path / "to")
    new = tuned(tmp_path / "other", datasets["arm"], tmp_path / "new")
    with pytest.raises(PolysomaError, match=r"does not know arm, which .* adds: serve both with --adapters"):
        checkpoint.attach(tmp_path / "other", {"a": new}, tmp_path / "to")
    assert not (tmp_path / "to").exists()
    # Weights that were replaced under what is attached to them.
    for file in checkpoint.FILES:
        shutil.copy(tmp_path / "full/checkpoint" / file, both / file)
    with pytest.raises(PolysomaError, match=r"adapts the weights .*, not those of"):
        checkpoint.load(both)


def test_what_is_attached_is_not_left_to_another_checkpoint(
    base: Path, adapted: Path, both: Path, datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be taken for an adaptation of the new one, whose weights it does not fit, or whose name it has not."""
    full = str(tuned(base, datasets["arm"], tmp_path / "full", "full"))
    before = {path: path.read_bytes() for path in both.rglob("*") if path.is_file()}
    for words in (
        ["merge", "add", str(base), full, "--coefficient", "1", "--out"],
        ["merge", "attach", str(base), f"other={adapted}", "--out"],
        ["push", full, "me/arm", "--folder"],
    ):
        with pytest.raises(SystemExit):
            main([*words, str(both)])
        assert "adaptations that do not belong to the new one (arm): choose another folder" in capsys.readouterr().err
    with pytest.raises(PolysomaError, match="choose another folder"):
        checkpoint.save(checkpoint.load_for_training(full), both)
    assert before == {path: path.read_bytes() for path in both.rglob("*") if path.is_file()}


def test_a_base_is_fetched_only_by_a_name_of_the_hub(
    adapted: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, **options: object) -> str:
        asked.append(name)
        return str(base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    file = adapted / "config.json"
    for name in ("me/robot", "hf://me/robot"):
        told = json.loads(file.read_text())
        told["adaptation"]["base"] = name
        file.write_text(json.dumps(told))
        if name.startswith("hf://"):
            checkpoint.load(adapted)
            assert asked == ["me/robot"]
        else:
            with pytest.raises(PolysomaError, match=r"adaptation\.base: no checkpoint at me/robot.*hf://me/robot"):
                checkpoint.load(adapted)
            assert not asked

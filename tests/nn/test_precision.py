"""What products are computed in: chosen by the processor, kept by a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import polysoma
from conftest import observe
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import hardware
from polysoma.learning.lineage import tell
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import recipe_of_run, train
from polysoma.nn import precision
from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(precision.VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("has", "instructions", "expected"),
    [
        ({"_is_amx_tile_supported": True}, "AMX", "bfloat16"),
        ({"_is_avx512_bf16_supported": True}, "AVX-512 bfloat16", "bfloat16"),
        ({}, "AVX-512", "float32"),
        (None, "AVX2", "float32"),
    ],
)
def test_the_processor_chooses(
    has: dict[str, bool] | None, instructions: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    capability = "AVX2" if has is None else "AVX512"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for question in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        if has is not None and question in has:
            monkeypatch.setattr(torch.cpu, question, lambda: True)
        else:
            # As in a version of torch that does not have the question.
            monkeypatch.delattr(torch.cpu, question)
    precision.instruction_set.cache_clear()
    precision._has_bfloat16.cache_clear()
    try:
        assert precision.instruction_set() == instructions
        assert precision.chosen("cpu") == precision.chosen("cpu", "auto") == expected
    finally:
        precision.instruction_set.cache_clear()
        precision._has_bfloat16.cache_clear()


def test_what_is_asked_for_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(precision.VARIABLE, "float32")
    assert precision.chosen("cpu") == "float32"
    assert precision.chosen("cpu", "bfloat16") == "bfloat16"
    with pytest.raises(PolysomaError, match="precision: expected one of auto, float32, bfloat16, got 'float16'"):
        precision.chosen("cpu", "float16")
    monkeypatch.setenv(precision.VARIABLE, "half")
    with pytest.raises(PolysomaError, match=r"POLYSOMA_PRECISION: expected one of .* got 'half'"):
        precision.chosen("cpu")


def test_matrices_are_stored_in_what_is_computed_in(policy: Policy, tmp_path: Path) -> None:
    checkpoint.save(policy, tmp_path / "policy")
    actions = []
    for wanted, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        loaded = polysoma.load(tmp_path / "policy", precision=wanted)
        assert loaded.precision == wanted
        assert loaded.trunk.blocks[0].qkv.weight.dtype == dtype
        assert loaded.trunk.norm.weight.dtype == torch.float32
        actions.append(loaded.agent("arm").act(observe(loaded.embodiment("arm"))))
    assert not np.array_equal(*actions)
    np.testing.assert_allclose(*actions, atol=0.02)


def test_float32_is_float32_whatever_is_set_outside(policy: Policy, sources: dict[str, Source]) -> None:
    batch = sources["arm"].draw(8, np.random.default_rng(0))
    policy.compute_in("float32")
    alone = policy.predict(batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(policy.predict(batch), alone)


def test_a_run_keeps_its_precision(datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {
        "data": [str(datasets["arm"])], "policy": {"width": 32, "depth": 1, "heads": 2},
        "bodies": {"arm": {"batch": 8}}, "steps": 4, "warmup": 1, "checkpoint_every": 2, "log_every": 1,
        "precision": "float32",
    }  # fmt: skip
    for name in ("whole", "parts"):
        train(recipe_from_table(table, "test"), tmp_path / name, until=4 if name == "whole" else 2)
    # What suits a machine, or its variable says, does not matter to a run that has begun.
    monkeypatch.setenv(precision.VARIABLE, "bfloat16")
    train(recipe_from_table({**table, "precision": "auto"}, "test"), tmp_path / "parts", resume=True)
    whole, parts = ((tmp_path / name / "checkpoint" / checkpoint.WEIGHTS).read_bytes() for name in ("whole", "parts"))
    assert whole == parts
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["precision"] for row in rows] == ["float32"] * 4
    assert ", in float32" in tell(tmp_path / "parts" / "checkpoint")[0]
    other = recipe_of_run(tmp_path / "parts", "bfloat16")
    with pytest.raises(PolysomaError, match="parts was computed in float32 so far and cannot be resumed in bfloat16"):
        train(other, tmp_path / "parts", resume=True)


def test_a_variable_that_says_nonsense_ends_a_run_before_it_begins(
    datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"data": [str(datasets["arm"])], "policy": {"width": 32, "depth": 1}, "bodies": {"arm": {"batch": 8}}}
    monkeypatch.setenv(precision.VARIABLE, "half")
    with pytest.raises(PolysomaError, match=f"{precision.VARIABLE}: expected one of auto, .*got 'half'"):
        train(recipe_from_table(table, "test"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_from_before_precision_was_recorded_were_in_bfloat16() -> None:
    assert precision.resumed(None, "auto", "run") == "bfloat16"
    assert precision.resumed(None, "float32", "run") == "float32"


def test_results_name_instructions_and_precision() -> None:
    assert (
        hardware("float32").items() >= {"precision": "float32", "instruction_set": precision.instruction_set()}.items()
    )
    assert "precision" not in hardware()

"""The Hub, as far as it goes without a network: cards, folders, errors."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polysoma
from conftest import ARM, observe
from polysoma.cli import main
from polysoma.errors import PolysomaError
from polysoma.evaluation import hub
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt
from polysoma.policy.policy import Policy

RESULTS: dict[str, Any] = {
    "settings": {"episodes": 5, "seed": 7},
    "hardware": {"processor": "a fast one"},
    "families": {"arm": {"successes": 9, "trials": 10, "rate": 0.9, "interval": [0.6, 0.98]}},
}


@pytest.fixture
def folder(policy: Policy, tmp_path: Path) -> Path:
    checkpoint.save(policy, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_the_card_says_what_was_measured(folder: Path) -> None:
    card = hub.model_card(folder, "me/arm", RESULTS)
    assert card.startswith("---\nlibrary_name: polysoma\n")
    assert "| arm | 9 / 10 | 0.900 | 0.600 to 0.980 |" in card and "5 episodes a task with seeds from 7 on" in card
    assert "| grid | view (3, 3, 2), heading (1,), instruction | 3 choices, chunks of 1 | 5 Hz |" in card
    assert 'polysoma.load("hf://me/arm")' in card and card == hub.model_card(folder, "hf://me/arm", RESULTS)
    assert "Nothing was measured yet." in hub.model_card(folder, "me/arm")


def test_what_was_saved_is_loaded_like_any_checkpoint(folder: Path, policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text(json.dumps(RESULTS))
    out = tmp_path / "card"
    main(["push", str(folder), "me/arm", "--results", str(tmp_path / "out.json"), "--folder", str(out)])
    assert sorted(file.name for file in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    loaded = polysoma.load(out)
    np.testing.assert_array_equal(
        loaded.agent("arm").act(observe(ARM)), polysoma.load(folder).agent("arm").act(observe(ARM))
    )


def test_what_was_attached_to_earlier_weights_is_taken_off_the_hub(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be loaded with the new ones, and does not fit them."""
    told: dict[str, Any] = {}
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", lambda _, **options: told.update(options))
    hub.push_to_hub(folder, "me/arm")
    stale = ["adaptations/old/config.json", "adaptations/old/model.safetensors"]
    kept = ["config.json", "README.md", "adaptations/notes.md"]
    found = [file for file in stale + kept if any(fnmatch.fnmatch(file, way) for way in told["delete_patterns"])]
    assert found == stale


def test_results_that_are_none(tmp_path: Path) -> None:
    for text in ("{}", "no json", '{"families": 3, "settings": {}}'):
        (tmp_path / "out.json").write_text(text)
        with pytest.raises(PolysomaError, match="does not hold results"):
            hub.read_results(tmp_path / "out.json")


def test_without_a_network_the_error_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PolysomaError, match=r"no checkpoint at hf://nobody/nothing.*the Hugging Face Hub gave none"):
        polysoma.load("hf://nobody/nothing")
    with pytest.raises(PolysomaError, match="cannot upload to me/arm on the Hub"):
        hub.push_to_hub(folder, "me/arm")
    # Nothing listens there, which the Hub's library says in its own way.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PolysomaError, match="cannot upload to me/arm on the Hub"):
        hub.push_to_hub(folder, "me/arm")


def test_a_folder_is_never_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("runs/checkpoint", "data/drone"):
        with pytest.raises(PolysomaError, match=f"expected a folder with.*the Hugging Face Hub is called hf://{name}"):
            polysoma.load(name)


def test_a_revision_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    asked: list[dict[str, Any]] = []

    def fetch(name: str, **options: Any) -> str:
        asked.append({"name": name, **options})
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    polysoma.load("hf://me/arm@v1.2")
    polysoma.load("hf://me/arm")
    assert [(one["name"], one["revision"]) for one in asked] == [("me/arm", "v1.2"), ("me/arm", None)]


@pytest.mark.parametrize("command", ["push", "attach"])
def test_what_cannot_be_written_is_one_line(
    command: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "out")
    if command == "push":
        arguments = ["push", str(folder), "me/arm", "--folder", out]
    else:
        adaptation = Adaptation("head", base=str(folder), base_sha256=checkpoint.weights_sha256(folder))
        base = checkpoint.load_for_training(folder)
        checkpoint.save(adapt(base, adaptation, [ARM], base.config.statistics, base.config.vocabulary), tmp_path / "a")
        arguments = ["merge", "attach", str(folder), str(tmp_path / "a"), "--out", out]
    with pytest.raises(SystemExit):
        main(arguments)
    said = capsys.readouterr().err
    assert said.startswith("polysoma: cannot write") and said.count("\n") == 1

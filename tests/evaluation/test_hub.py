"""The Hub, as far as it goes without a network: cards, folders, errors."""

from __future__ import annotations

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
    assert 'polysoma.load("me/arm")' in card
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


def test_results_that_are_none(tmp_path: Path) -> None:
    for text in ("{}", "no json", '{"families": 3, "settings": {}}'):
        (tmp_path / "out.json").write_text(text)
        with pytest.raises(PolysomaError, match="does not hold results"):
            hub.read_results(tmp_path / "out.json")


def test_without_a_network_the_error_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PolysomaError, match=r"no checkpoint at nobody/nothing.*the Hugging Face Hub gave none"):
        polysoma.load("nobody/nothing")
    with pytest.raises(PolysomaError, match="cannot upload to me/arm on the Hub"):
        hub.push_to_hub(folder, "me/arm")


def test_a_folder_is_never_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(PolysomaError, match="expected a folder with"):
        polysoma.load("runs/checkpoint")

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from conftest import GRID, make_policy
from polysoma.cli import main
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.evaluation import comparison as module
from polysoma.evaluation.comparison import Comparison, compare
from polysoma.evaluation.comparison_page import figure, write_page
from polysoma.evaluation.evaluation import Result, Score
from polysoma.learning.finetuning import with_steps
from polysoma.learning.training import Rehearsal
from polysoma.policy import checkpoint
from polysoma.rollout.drivers import Checkpoint


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str], Any]]:
    """Evaluations are not played: what they were asked for is remembered. Three steps fit into the minutes."""
    asked: list[tuple[str, list[str], Any]] = []

    def evaluate(driver: Checkpoint, tasks: list[str], episodes: int, seed: int) -> Result:
        asked.append((driver.place, list(tasks), driver.retrieve))
        known = checkpoint.bodies(driver.place)
        scores = {
            task: Score(list(range(episodes)), [len(known) > 1] * episodes, [1] * episodes, [1.0] * episodes)
            for task in tasks
        }
        return Result(driver.place, scores, {}, 0.0)

    monkeypatch.setattr(module, "evaluate", evaluate)
    cost = Rehearsal(1.0, 1, {}, {}, 1)
    monkeypatch.setattr(module, "within", lambda recipe, seconds: (with_steps(recipe, 3), cost))
    return asked


@pytest.fixture
def asked(sources: dict[str, Source], datasets: dict[str, Path], tmp_path: Path) -> Comparison:
    checkpoint.save(make_policy(sources, (GRID,)), tmp_path / "base")
    return Comparison(
        str(tmp_path / "base"), str(datasets["arm"]), ("arm/one",), (2, 3), minutes=0.06, episodes=4,
        old_tasks=("grid/one",),
    )  # fmt: skip


def test_every_way_is_tried_once_and_a_killed_comparison_goes_on(
    asked: Comparison, played: list[tuple[str, list[str], Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = compare(asked, tmp_path / "out")
    rows = {(row["way"], row["demonstrations"]): row for row in result["rows"]}
    # The base does not know the arm, so nothing can be done without training.
    assert {way for way, _ in rows} == {"prompt", "head", "adapter", "lora", "full", "scratch", "specialist"}
    assert len(rows) == 13 and rows["lora", 2]["trials"] == 4
    assert rows["full", 3]["successes"] == 4 and rows["lora", 3]["successes"] == 0
    assert rows["full", 2]["minus_specialist"] == (1.0, 1.0, 1.0)
    assert "forgotten" in rows["full", 2] and "forgotten" not in rows["scratch", 2]
    assert rows["lora", 2]["steps"] == 3
    few = checkpoint.read_config(tmp_path / "out" / "head-2" / "checkpoint")["lineage"]
    assert few["demonstrations"] == 2 and few["parent"]["name"] == asked.base
    count = len(played)
    (tmp_path / "out" / "lora-3.json").unlink()
    # Killed after the training, which took a minute and a half until then.
    monkeypatch.setattr(module.run_state, "learnt", lambda run: (3, 90.0))
    again = compare(asked, tmp_path / "out")["rows"]
    assert [row["minutes"] for row in again if (row["way"], row["demonstrations"]) == ("lora", 3)] == [1.5]
    assert len(played) == count + 1, "what is known is not played again"
    assert [row["rate"] for row in again] == [row["rate"] for row in result["rows"]]
    write_page(result, tmp_path / "page.html")
    drawn = [element for element in ElementTree.fromstring(figure(result)).iter() if element.tag.endswith("circle")]
    assert len(drawn) == sum(row["demonstrations"] > 0 for row in result["rows"])
    page = (tmp_path / "page.html").read_text()
    assert "lora" in page and page.count("<tr>") == 14 and "unchanged" in page


def test_retrieval_needs_no_training(
    asked: Comparison, played: list[tuple[str, list[str], Any]], tmp_path: Path
) -> None:
    known = Comparison(
        asked.base, asked.data.replace("arm", "grid"), ("grid/one",), (3,), ("zero-shot", "retrieval"), episodes=2
    )
    result = compare(known, tmp_path / "out")
    assert [retrieve for _, _, retrieve in played] == [None, (known.data, 3)]
    assert [row["minutes"] for row in result["rows"]] == [0, 0]


def test_another_comparison_is_not_mixed_in(
    asked: Comparison, played: list[tuple[str, list[str], Any]], tmp_path: Path
) -> None:
    one = dataclasses.replace(asked, methods=("head",), demonstrations=(2,))
    notes = tmp_path / "out" / "head-2" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("of somebody else")
    compare(one, tmp_path / "out")
    assert notes.read_text() == "of somebody else"
    compare(dataclasses.replace(one, methods=("head", "prompt")), tmp_path / "out")
    with pytest.raises(PolysomaError, match=r"another comparison: .*'minutes': \(0.06, 3\)"):
        compare(dataclasses.replace(one, minutes=3), tmp_path / "out")
    with pytest.raises(PolysomaError, match="methods of zero-shot"):
        compare(dataclasses.replace(one, methods=("magic",)), tmp_path / "other")  # type: ignore[arg-type]


def test_bad_numbers_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--data", "nowhere", "--tasks", "rover/*", "--demos", "few"])
    assert "expected numbers such as 5,20" in capsys.readouterr().err

"""The state of a training in rounds, its log and its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polysoma.errors import PolysomaError
from polysoma.learning import round_state
from polysoma.learning.allocation import Evidence
from polysoma.learning.round_state import Count, Plan, State


def state() -> State:
    effort = {"arm/one": 1.5, "arm/two": 0.5, "leg/walk": 1.0}
    return State(Plan(0.0, 60.0, effort, dict.fromkeys(effort, 3), dict.fromkeys(effort, 2)))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = state()
    written.counts = {"arm/one": Count(1, 2, 2, 40)}
    written.evidence = {"arm/one": Evidence(0.5, 3)}
    written.data, written.longest = ["data/visited/1/arm"], {"arm/one": 20}
    written.enter("learn", tmp_path, {"effort": written.plan.effort})
    assert round_state.read(tmp_path) == written


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "missing or damaged"),
        ("[]", "expected a table"),
        ('{"format": 99}', "upgrade Polysoma"),
        ('{"round": 1}', "plan is missing"),
        ('{"format": "new", "phase": "sleep"}', "phase: expected"),
    ],
)
def test_a_state_that_is_damaged_or_newer_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    with pytest.raises(PolysomaError, match="nothing to resume"):
        round_state.read(tmp_path)
    (tmp_path / round_state.STATE).write_text(content)
    with pytest.raises(PolysomaError, match=expected):
        round_state.read(tmp_path)


def test_the_log_and_the_table_say_what_was_spent_where(tmp_path: Path) -> None:
    one = state()
    one.spent = 7.0
    one.enter("learn", tmp_path, {"effort": one.plan.effort, "tasks": {"arm/one": {"trials": 3, "kept": 3}}})
    one.spent = 30.0
    one.enter("play", tmp_path, {"windows": {"arm": 40, "leg": 24}, "words": {"arm": 0.0519}})
    played = {"arm/one": {"trials": 2, "kept": 2, "frames": 1234}, "arm/two": {"successes": 2, "trials": 2}}
    played["leg/walk"] = {}
    one.spent = 33.0
    one.enter("record", tmp_path, {"tasks": played}, one.plan)
    assert (one.round, one.phase, one.entered) == (1, "record", 33.0)
    lines = [json.loads(line) for line in (tmp_path / round_state.LOG).read_text().splitlines()]
    assert [(line["round"], line["phase"], line["seconds"]) for line in lines] == [
        (1, "record", 7.0), (1, "learn", 23.0), (1, "play", 3.0)]  # fmt: skip
    table = (tmp_path / round_state.TABLE).read_text()
    assert "## Round 1: record 7 s, learn 23 s, play 3 s" in table
    assert "| arm | 1.00 | 3 | 40 | 0.052 | 0.50 of 4 | 1,234 |" in table
    assert "| leg | 1.00 | 0 | 24 |  |  |  |" in table
    assert table.rstrip().endswith("most goes next: arm/one 0.00.")
    assert round_state.last_success(one) == {"arm": (0.5, 4), "leg": (0.0, 0)}

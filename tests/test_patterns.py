"""Patterns of names and paths: ``*`` and ``?`` alone stand for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from make_lerobot import write_v2
from polysoma.data.mixture import open_sources
from polysoma.errors import PolysomaError
from polysoma.learning.fleet import robots_in
from polysoma.learning.recipe import recipe_from_table
from polysoma.patterns import expanded, matches, matching


def test_brackets_stand_for_themselves() -> None:
    assert matches("so101 [v2]", "so101 [v2]") and matches("so101 [v2]", "so101 [v?]") and matches("a*b", "a*b")
    assert not matches("so101 v", "so101 [v2]")
    assert matching(["a/b", "a/c", "d"], "a/*") == ["a/b", "a/c"]


def test_a_folder_with_brackets_is_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, other = write_v2(tmp_path / "so101 [v2]", kind="image"), write_v2(tmp_path / "so101 [v3]", kind="image")
    assert expanded(str(tmp_path / "so101 ?v[23]?")) == [one, other]
    assert expanded(str(one)) == [one] and expanded(str(tmp_path / "so101 [v*]")) == [one, other]
    table = {"data": [str(one), str(tmp_path / "so101 [v?]")], "bodies": {"test-arm": {}}}
    assert recipe_from_table(table, "test").folders() == [one, other]
    assert robots_in([str(one)]) == {str(one): (str(one),)}
    with pytest.raises(PolysomaError, match="no folder that matches"):
        robots_in([str(tmp_path / "so102 [x]")])
    (source,) = open_sources([one, other], {str(one): 0.25}, {})
    assert source._weights == [0.25, 1.0]

"""What benchmarks render: README and docs say what benchmarks/results holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_pages_hold_what_the_results_say() -> None:
    # In a process of its own: benchmarks name their neighbours as scripts do.
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "render.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_part_is_inserted_between_its_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import results

    monkeypatch.setattr(results, "FOLDER", tmp_path)
    part = results.Rendered("page.md", ("found", "beside"), lambda found, beside: f"{found['x']} {beside}\n", "here")
    page = "before\n<!-- here -->\nold\n<!-- end of here -->\nafter\n"
    assert part.insert(page) == page, "no results yet"
    (tmp_path / "found.json").write_text(json.dumps({"x": 3}))
    assert part.insert(page) == "before\n<!-- here -->\n3 None\n<!-- end of here -->\nafter\n"
    with pytest.raises(ValueError, match=r"page\.md: expected one <!-- here -->"):
        part.insert("no markers")
    assert results.table(("a", "b"), [(1, ""), ("x", 2.5)]) == ["| a | b |", "| --- | --- |", "| 1 |  |", "| x | 2.5 |"]

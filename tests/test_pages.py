"""The frame and the parts that all HTML pages share."""

from __future__ import annotations

import json
import re
from pathlib import Path

from conftest import ROOT
from polysoma import pages
from polysoma.evaluation.comparison_page import write_page


def test_a_page_escapes_text_and_needs_nothing_but_itself() -> None:
    page = pages.page("a<b", ["<p>it is</p>"], ["50 % & more"]).decode()
    assert "<title>a&lt;b</title>" in page and "<h1>a&lt;b</h1>" in page
    assert '<p class="soft">50 % &amp; more</p>' in page and "<p>it is</p>" in page
    assert "<script" not in page and "http" not in page


def test_a_table_puts_numbers_to_the_right() -> None:
    table = pages.table(("name", "n<2"), [("x", "1"), ("y", "10")], numbers=[1])
    assert table.count("<tr>") == 3 and '<th class="n">n&lt;2</th>' in table and '<td class="n">10</td>' in table
    assert pages.table((), [("x",)]).count("<tr>") == 1


def test_colours_that_a_page_names_exist_on_light_and_on_dark_ground(tmp_path: Path) -> None:
    results = ROOT / "benchmarks" / "results" / "compare-tasks.json"
    write_page(json.loads(results.read_text()), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    named, defined = set(re.findall(r"var\(--([\w-]+)\)", page)), re.findall(r"--([\w-]+):", page)
    assert named and all(defined.count(name) == 2 for name in named)

"""What a comparison shows: a page with curves of success over demonstrations and the table, or the curves alone."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from polysoma.comparison import title
from polysoma.files import write_atomically

_COLOURS = {
    "full": "#2f7d5b", "lora": "#2f5d9e", "adapter": "#7a4ea3", "head": "#a07a1a", "prompt": "#1f8a93",
    "retrieval": "#a83e74", "scratch": "#6b7280", "specialist": "#b3462f", "zero-shot": "#1c2330",
}  # fmt: skip
_OF_STARTS = ("#c2731d", "#5a7d1f", "#b5547a", "#3b7f8c", "#8a5a2b", "#6a4fc0", "#9c3d3d", "#4f6b8a")
"""What is drawn from meta-learnt starts, of which there may be any number."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 380, 46, 34
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --paper: #fbfbf9; --line: #d9dbe0; --soft: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --paper: #14171d; --line: #333944; --soft: #9aa3b2; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 900px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } .soft { color: var(--soft); } svg { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
td:first-child, th:first-child { text-align: left; } text { fill: var(--soft); font-size: 12px; }
i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
"""


def write_page(result: Mapping[str, Any], path: Path) -> None:
    """Writes what :func:`polysoma.comparison.compare` returned as one HTML file. Raises PolysomaError when it cannot be
    written."""
    asked, rows = result["comparison"], [{**row, "title": title(row)} for row in result["rows"]]
    heading = f"{html.escape(Path(asked['data']).name)} from {html.escape(asked['base'])}"
    about = (
        f"{asked['minutes']:g} minutes for each way on {html.escape(str(result['hardware']['processor']))}, "
        f"{len(asked['tasks'])} tasks of {asked['episodes']} episodes from seed {asked['seed']}; bars are 95 % Wilson "
        "intervals"
    )
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{heading}</title><style>{_STYLE}</style><h1>{heading}</h1><p class='soft'>{about}</p>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}">{_curves(rows, asked["demonstrations"])}</svg>'
        f"{_table(rows)}</html>\n"
    )
    write_atomically(path, page.encode())


def write_figure(result: Mapping[str, Any], path: Path) -> None:
    """Writes the curves alone, as an SVG file with a legend. Raises PolysomaError when it cannot be written."""
    rows = [{**row, "title": title(row)} for row in result["rows"]]
    colours = _colours([row for row in rows if row["demonstrations"]])
    step = (_WIDTH - _LEFT) / len(colours)
    legend = "".join(
        f'<rect x="{_LEFT + n * step:.1f}" y="{_HEIGHT + 4}" width="10" height="10" rx="2" fill="{colour}"/>'
        f'<text x="{_LEFT + n * step + 15:.1f}" y="{_HEIGHT + 13}">{html.escape(name)}</text>'
        for n, (name, colour) in enumerate(colours.items())
    )
    style = "svg { --line: #d9dbe0; --soft: #6b7280; } text { font: 12px system-ui, sans-serif; fill: var(--soft); }"
    figure = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + 24}"><style>{style}</style>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT + 24}" fill="#fbfbf9"/>'
        f"{_curves(rows, result['comparison']['demonstrations'])}{legend}</svg>\n"
    )
    write_atomically(path, figure.encode())


def _colours(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The colour of each title, in their order."""
    others = itertools.cycle(_OF_STARTS)
    return {
        name: _COLOURS.get(way) or next(others)
        for name, way in dict.fromkeys((row["title"], row["way"]) for row in rows)
    }


def _curves(rows: Sequence[Mapping[str, Any]], demonstrations: Sequence[int]) -> str:
    """What is drawn on _WIDTH by _HEIGHT."""
    counts = sorted(demonstrations)
    across = {c: _LEFT + (0.5 + n) * (_WIDTH - _LEFT) / len(counts) for n, c in enumerate(counts)}

    def down(rate: float) -> float:
        return 10 + (1 - rate) * (_HEIGHT - _BOTTOM - 10)

    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{down(r):.1f}" y2="{down(r):.1f}" stroke="var(--line)"/>'
        f'<text x="{_LEFT - 8}" y="{down(r) + 4:.1f}" text-anchor="end">{r:.0%}</text>'
        for r in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts += [f'<text x="{x:.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{c} demos</text>' for c, x in across.items()]
    for number, (way, colour) in enumerate(_colours(rows).items()):
        own = [row for row in rows if row["title"] == way]
        if not own[0]["demonstrations"]:
            y = down(own[0]["rate"])
            parts.append(
                f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="{colour}" stroke-dasharray="5 4"/>'
                f'<text x="{_WIDTH}" y="{y - 4:.1f}" text-anchor="end">{way}</text>'
            )
            continue
        # Side by side, so that intervals do not cover one another.
        points = [(across[row["demonstrations"]] + 7 * (number - 4), row) for row in own]
        line = " ".join(f"{x:.1f},{down(row['rate']):.1f}" for x, row in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, row in points:
            low, high = row["interval"]
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{down(low):.1f}" y2="{down(high):.1f}" stroke="{colour}"/>'
                f'<circle cx="{x:.1f}" cy="{down(row["rate"]):.1f}" r="4" fill="{colour}"><title>{way}, '
                f"{row['demonstrations']}: {row['successes']}/{row['trials']}</title></circle>"
            )
    return "".join(parts)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("way", "demos", "successes", "interval", "to specialist", "minutes", "steps", "MB", "old tasks")
    lines, colours = [], _colours(rows)
    for row in rows:
        minus, lost = row.get("minus_specialist"), row.get("forgotten")
        cells = (
            f'<i style="background:{colours[row["title"]]}"></i>{row["title"]}',
            str(row["demonstrations"] or "all" if row["way"] == "specialist" else row["demonstrations"] or ""),
            f"{row['successes']}/{row['trials']}",
            f"{row['interval'][0]:.2f}-{row['interval'][1]:.2f}",
            "" if minus is None else f"{minus[0]:+.2f} [{minus[1]:+.2f}, {minus[2]:+.2f}]",
            f"{row['minutes']:.1f}" if row["steps"] else "",
            f"{row['steps']:,}" if row["steps"] else "",
            f"{row['megabytes']:.1f}" if row["steps"] else "",
            "" if lost is None else f"{-lost[0]:+.2f}" if lost[0] else "unchanged",
        )
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    titles = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"

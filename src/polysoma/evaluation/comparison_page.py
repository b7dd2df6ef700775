"""What a comparison shows: a page with curves of success over demonstrations and the table, or the curves alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from polysoma import pages
from polysoma.evaluation.comparison import title
from polysoma.evaluation.evaluation import computed_on
from polysoma.files import write_atomically
from polysoma.text import counted

_COLOURS = {
    "full": "green", "lora": "blue", "adapter": "purple", "head": "amber", "prompt": "teal", "retrieval": "magenta",
    "scratch": "soft", "specialist": "red", "zero-shot": "ink",
}  # fmt: skip
_OF_STARTS = ("orange", "leaf", "pink", "petrol", "brown", "violet", "maroon", "slate")
"""What is drawn from meta-learnt starts, of which there may be any number."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 380, 46, 34


def write_page(result: Mapping[str, Any], path: Path) -> None:
    """Writes what :func:`polysoma.evaluation.comparison.compare` returned as one HTML file.

    Raises PolysomaError when it cannot be written.
    """
    asked, rows = result["comparison"], _titled(result)
    colours = {name: f"var(--{colour})" for name, colour in _colours(rows).items()}
    about = (
        f"{asked['minutes']:g} minutes for each way on {computed_on(result['hardware'])}, "
        f"{counted(len(asked['tasks']), 'task')} of {counted(asked['episodes'], 'episode')} "
        f"from seed {asked['seed']}; bars are 95 % Wilson intervals."
    )
    chart = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{_curves(rows, asked["demonstrations"], colours)}</svg>'
    heading = f"{Path(asked['data']).name} from {asked['base']}"
    write_atomically(path, pages.page(heading, [chart, _table(rows, colours)], [about]))


def figure(result: Mapping[str, Any]) -> str:
    """The curves alone, as SVG with a legend."""
    rows = _titled(result)
    hexadecimal = {name: pages.COLOURS[colour][0] for name, colour in _colours(rows).items()}
    # What does not depend on demonstrations is a line that says what it is.
    colours = {name: hexadecimal[name] for name in _colours([row for row in rows if row["demonstrations"]])}
    step = (_WIDTH - _LEFT) / len(colours)
    legend = "".join(
        f'<rect x="{_LEFT + n * step:.1f}" y="{_HEIGHT + 4}" width="10" height="10" rx="2" fill="{colour}"/>'
        f'<text x="{_LEFT + n * step + 15:.1f}" y="{_HEIGHT + 13}">{escape(name)}</text>'
        for n, (name, colour) in enumerate(colours.items())
    )
    style = "svg { --line: #d9dbe0; --soft: #6b7280; } text { font: 12px system-ui, sans-serif; fill: var(--soft); }"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + 24}"><style>{style}</style>'
        f'<rect width="{_WIDTH}" height="{_HEIGHT + 24}" fill="#fbfbf9"/>'
        f"{_curves(rows, result['comparison']['demonstrations'], hexadecimal)}{legend}</svg>\n"
    )


def _titled(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**row, "title": title(row)} for row in result["rows"]]


def _colours(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The name of each title's colour (:data:`polysoma.pages.COLOURS`), in their order."""
    others = itertools.cycle(_OF_STARTS)
    return {
        name: _COLOURS.get(way) or next(others)
        for name, way in dict.fromkeys((row["title"], row["way"]) for row in rows)
    }


def _curves(rows: Sequence[Mapping[str, Any]], demonstrations: Sequence[int], colours: Mapping[str, str]) -> str:
    """What is drawn on _WIDTH by _HEIGHT, each title in its colour."""
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
    for number, (way, colour) in enumerate(colours.items()):
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


def _table(rows: Sequence[Mapping[str, Any]], colours: Mapping[str, str]) -> str:
    head = ("method", "demos", "successes", "interval", "to specialist", "minutes", "steps", "MB", "old tasks")
    lines = []
    for row in rows:
        minus, lost = row.get("minus_specialist"), row.get("forgotten")
        lines.append(
            (
                pages.swatch(colours[row["title"]]) + escape(row["title"]),
                "all" if row["way"] == "specialist" else str(row["demonstrations"] or ""),
                f"{row['successes']}/{row['trials']}",
                f"{row['interval'][0]:.2f}-{row['interval'][1]:.2f}",
                "" if minus is None else f"{minus[0]:+.2f} [{minus[1]:+.2f}, {minus[2]:+.2f}]",
                f"{row['minutes']:.1f}" if row["steps"] else "",
                f"{row['steps']:,}" if row["steps"] else "",
                f"{row['megabytes']:.1f}" if row["steps"] else "",
                "" if lost is None else f"{-lost[0]:+.2f}" if lost[0] else "unchanged",
            )
        )
    return pages.table(head, lines, numbers=range(1, len(head)))

"""What all HTML pages have in common: one stylesheet (light and dark), one frame, videos, tables and bars.

Pages are single files that need nothing else, no script and no network. Arguments called ``html`` are HTML already; all
others are plain text and escaped here.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np

_WIDTH, _HEIGHT, _POINTS = 560, 170, 400
"""Of a chart of lines."""

COLOURS = {
    "green": ("#2f7d5b", "#58b88c"), "red": ("#b3462f", "#e0775f"), "blue": ("#2f5d9e", "#77a5e6"),
    "amber": ("#a07a1a", "#d6ae4a"), "purple": ("#7a4ea3", "#b48ad9"), "teal": ("#1f8a93", "#4fc0ca"),
    "magenta": ("#a83e74", "#e07fb0"), "olive": ("#5f6b2b", "#a9b768"), "orange": ("#c2731d", "#e89a4d"),
    "leaf": ("#5a7d1f", "#93b556"), "pink": ("#b5547a", "#e08aac"), "petrol": ("#3b7f8c", "#6fb3c0"),
    "brown": ("#8a5a2b", "#c4935f"), "violet": ("#6a4fc0", "#a08cf0"), "maroon": ("#9c3d3d", "#dd7f7f"),
    "slate": ("#4f6b8a", "#8aa9cc"), "soft": ("#6b7280", "#9aa3b2"), "ink": ("#1c2330", "#e6e8ec"),
    "paper": ("#fbfbf9", "#14171d"), "line": ("#d9dbe0", "#333944"),
}  # fmt: skip
"""By name, on light and on dark ground. Styles say ``var(--name)``."""


def _variables(ground: int) -> str:
    return " ".join(f"--{name}: {colours[ground]};" for name, colours in COLOURS.items())


_STYLE = (
    f":root {{ color-scheme: light dark; {_variables(0)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(1)} }} }}\n"
    """body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1080px;
  margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h2 small { font-size: .85rem; font-weight: normal; } p { margin: .6rem 0; } .soft { color: var(--soft); }
.wide { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } .n { text-align: right; } summary { cursor: pointer; }
.bar { position: relative; height: 14px; background: var(--line); border-radius: 3px; min-width: 160px; }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--green); border-radius: 3px; }
.bar u { position: absolute; top: 5.5px; height: 3px; background: var(--ink); opacity: .75; }
figure { margin: 0; max-width: 100%; } figcaption { font-size: .82rem; line-height: 1.35; margin-top: .3rem; }
video { border-radius: 6px; background: #000; display: block; max-width: 100%; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 14px; }
.films video, .whole video { width: 100%; } .whole { margin: 1.4rem 0; }
.row { display: flex; flex-wrap: wrap; gap: 14px; margin: .6rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); gap: 14px; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font-size: 12px; }
.plots svg { border: 1px solid var(--line); border-radius: 6px; box-sizing: border-box; }
.legend span { font-size: .78rem; margin-right: .8rem; white-space: nowrap; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
.ok { color: var(--green); } .no { color: var(--red); }
"""
)


def page(title: str, html: Iterable[str], about: Sequence[str] = ()) -> bytes:
    """A whole page in UTF-8.

    Args:
        title: of the window, and the heading.
        html: the sections.
        about: paragraphs in soft ink below the heading.
    """
    heading = escape(title)
    paragraphs = "".join(f'<p class="soft">{escape(text)}</p>' for text in about)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<link rel="icon" href="data:,">'
        f"<title>{heading}</title><style>{_STYLE}</style><h1>{heading}</h1>{paragraphs}{''.join(html)}</html>\n"
    ).encode()


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of HTML cells; ``numbers`` are the columns that stand to the right. An empty ``head`` draws none."""

    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(
            f'<{tag} class="n">{cell}</{tag}>' if column in numbers else f"<{tag}>{cell}</{tag}>"
            for column, cell in enumerate(cells)
        ) + "</tr>"  # fmt: skip

    titles = line("th", [escape(name) for name in head]) if head else ""
    return f'<div class="wide"><table>{titles}{"".join(line("td", row) for row in rows)}</table></div>'


def bar(rate: float, low: float, high: float) -> str:
    """A rate of 0 to 1 as a bar, with its interval as a dark line."""
    return (
        f'<div class="bar"><i style="width:{rate:.1%}"></i><u style="left:{low:.1%};width:{high - low:.1%}"></u></div>'
    )


def video(file: bytes) -> str:
    """An MP4 file that plays in the page."""
    data = base64.b64encode(file).decode()
    return f'<video src="data:video/mp4;base64,{data}" autoplay loop muted playsinline controls></video>'


def lines(rows: np.ndarray, colours: Sequence[str]) -> tuple[str, tuple[float, float]]:
    """Lines over time, and the lowest and the highest value, which are the chart's edges. What is not finite is a gap.

    Args:
        rows: ``(N, lines)``; of many, some are drawn.
        colours: of the lines, in CSS.
    """
    some = rows[:: 1 + (len(rows) - 1) // _POINTS]
    finite = some[np.isfinite(some)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    x = np.linspace(0, _WIDTH, len(some)) if len(some) > 1 else np.array([0.0])
    y = _HEIGHT - 4 - (some - low) / max(high - low, 1e-12) * (_HEIGHT - 8)
    drawn = []
    for number, colour in enumerate(colours):
        path, pen = "", "M"
        for across, down in zip(x, y[:, number], strict=True):
            if np.isfinite(down):
                path += f"{pen}{across:.1f} {down:.1f}"
                pen = "L"
            else:
                pen = "M"
        drawn.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4"/>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(drawn)}</svg>', (low, high)


def legend(colours: Mapping[str, str]) -> str:
    """Names, which are plain text, with their CSS colours."""
    named = [f"<span>{swatch(colour)}{escape(name)}</span>" for name, colour in colours.items()]
    return f'<div class="legend">{"".join(named)}</div>'


def figure(html: str, caption: str) -> str:
    """Something with a caption, both HTML."""
    return f"<figure>{html}<figcaption>{caption}</figcaption></figure>"


def swatch(colour: str) -> str:
    """A small square of a CSS colour, to be put before what is drawn in it."""
    return f'<i class="swatch" style="background:{colour}"></i>'

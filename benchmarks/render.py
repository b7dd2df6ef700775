"""Fills the tables and figures of README and docs from the JSON files in benchmarks/results.

    python benchmarks/render.py
    python benchmarks/render.py --check    # write nothing; fail where a page is not what the results say

Each benchmark renders its own part: ``RENDERED`` in its file.
"""

from __future__ import annotations

import sys

import tyro

import adapters
import channels
import compare
import data
import edge
import fleet
import gpicl
import heads
import in_context
import merging
import meta
import realtime
import scale
import scores
import serving
import sight
import specialists
import stream
import transfer
import variants
from results import ROOT

BENCHMARKS = (
    adapters, channels, compare, data, edge, fleet, gpicl, heads, in_context, merging, meta, realtime, scale, scores,
    serving, sight, specialists, stream, transfer, variants,
)  # fmt: skip


def main(check: bool = False) -> None:
    """Brings pages up to date.

    Args:
        check: only say which are not.
    """
    pages: dict[str, str] = {}
    for benchmark in BENCHMARKS:
        for part in benchmark.RENDERED:
            path = ROOT / part.path
            held = pages.get(part.path) or (path.read_text() if path.exists() else "")
            pages[part.path] = part.insert(held)
    changed = [name for name, text in pages.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]
    for name in changed:
        if check:
            print(f"{name} is not what benchmarks/results says: run python benchmarks/render.py", file=sys.stderr)
        else:
            (ROOT / name).write_text(pages[name])
            print(f"wrote {name}")
    if check and changed:
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)

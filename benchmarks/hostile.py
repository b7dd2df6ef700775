"""Hostile checkpoints: how many are refused in one line, and what that takes in time and memory.

    python benchmarks/hostile.py

Every variant of ``tests/make_hostile.py`` is loaded in a process of its own, forked from one that has imported torch
and polysoma: the peak of its memory includes both. A variant that takes longer than ten seconds is killed and counts as
not refused. One that takes longer than half a second is measured three times and the least counts, as other processes
may be at work.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro

from polysoma.errors import PolysomaError
from polysoma.policy import checkpoint
from results import read, write

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import make_hostile

SECONDS = 10
OUTCOMES = ("refused in one line", "refused in several lines", "accepted", "another exception", "killed")


def main() -> None:
    """Loads every variant."""
    with tempfile.TemporaryDirectory() as temporary:
        origin = Path(temporary) / "origin"
        make_hostile.write(origin)
        rows = []
        for number, (name, make) in enumerate(make_hostile.variants(origin)):
            folder = make(Path(temporary) / str(number))
            tried = [measured(folder)]
            while tried[-1]["seconds"] > 0.5 and len(tried) < 3:
                tried.append(measured(folder))
            rows.append({"variant": name, **min(tried, key=lambda one: one["seconds"])})
            if rows[-1]["outcome"] != OUTCOMES[0]:
                print(rows[-1])
    counts = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in OUTCOMES}
    slowest, largest = max(rows, key=lambda row: row["seconds"]), max(rows, key=lambda row: row["peak_mb"])
    write("hostile", {"variants": len(rows), "outcomes": counts, "slowest": slowest, "largest": largest})


def measured(folder: Path) -> dict[str, Any]:
    """What comes of loading a checkpoint in a process of its own: outcome, seconds and peak memory in MB."""
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        signal.alarm(SECONDS)
        began = time.perf_counter()
        outcome = _loaded(folder)
        os.write(theirs, struct.pack("<Bd", outcome, time.perf_counter() - began))
        os._exit(0)
    os.close(theirs)
    _, _, used = os.wait4(child, 0)
    with os.fdopen(ours, "rb") as told:
        answer = told.read()
    outcome, seconds = struct.unpack("<Bd", answer) if answer else (OUTCOMES.index("killed"), float(SECONDS))
    # Kilobytes on Linux.
    return {"outcome": OUTCOMES[outcome], "seconds": round(seconds, 4), "peak_mb": round(used.ru_maxrss / 1000)}


def _loaded(folder: Path) -> int:
    try:
        checkpoint.load(folder)
    except PolysomaError as error:
        return int("\n" in str(error))
    except BaseException:
        return OUTCOMES.index("another exception")
    return OUTCOMES.index("accepted")


def render() -> str:
    """How many were refused, and the most that it took."""
    found = read("hostile")
    refused, slowest, largest = found["outcomes"][OUTCOMES[0]], found["slowest"], found["largest"]
    return (
        f"Of {found['variants']:,} checkpoints with senseless sizes, numbers and types, damaged weights, links and "
        f"circles, {refused:,} are refused in one line, each within {slowest['seconds']:.2f} s and\n"
        f"{largest['peak_mb']} MB, torch included (`python benchmarks/hostile.py`).\n"
    )


if __name__ == "__main__":
    tyro.cli(main)

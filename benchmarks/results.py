"""What every benchmark writes: its numbers with the commit, versions and hardware they were measured with; and what the
tables that are rendered from them have in common."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from polysoma.evaluation.evaluation import hardware, versions
from polysoma.files import write_atomically

FOLDER = Path(__file__).parent / "results"


def commit() -> str:
    """The commit that is checked out, with a mark when files differ from it."""
    try:
        name = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "src"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + (" with uncommitted changes" if changed.strip() else "")


def write(name: str, numbers: dict[str, Any]) -> None:
    """Writes ``results/<name>.json``."""
    data = {"command": command(sys.argv), "commit": commit(), "versions": versions(), "hardware": hardware(), **numbers}
    write_atomically(FOLDER / f"{name}.json", (json.dumps(data, indent=1) + "\n").encode())
    print(f"wrote {FOLDER / name}.json")


def command(words: Sequence[str]) -> str:
    """What was run, without what is of this machine alone: where runs were kept, and the folders of absolute paths."""
    told, rest = ["python", f"benchmarks/{Path(words[0]).name}"], list(words[1:])
    while rest:
        flag, _, value = rest.pop(0).partition("=")
        if flag == "--work":
            rest = rest if value else rest[1:]
            continue
        parts = [Path(part).name if Path(part).is_absolute() else part for part in (flag, value) if part]
        told.append("=".join(parts))
    return " ".join(told)


def cells_of(name: str) -> dict[str, Any]:
    """The cells that ``results/<name>.json`` holds already, by their names; none where there is no such file."""
    return read(name)["cells"] if (FOLDER / f"{name}.json").exists() else {}


def read(name: str) -> dict[str, Any]:
    """What ``results/<name>.json`` holds."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def computed_in(cells: Iterable[Mapping[str, Any]]) -> str:
    """The precisions that cells were measured in and on what, each after a comma."""
    return "".join(sorted({f", {cell['precision']} on {cell['instruction_set']}" for cell in cells}))


def share(entry: dict[str, Any]) -> str:
    """A rate of success with its interval."""
    low, high = entry["interval"]
    return f"{entry['successes'] / entry['trials']:.2f} [{low:.2f}, {high:.2f}]"


def difference(values: Sequence[float]) -> str:
    """A difference with its interval: (itself, low, high)."""
    return f"{values[0]:+.2f} [{values[1]:+.2f}, {values[2]:+.2f}]"

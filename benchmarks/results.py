"""What every benchmark writes and renders: its numbers with the commit, versions and hardware they were measured with,
and the parts of README and docs that are made of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polysoma.evaluation.evaluation import hardware, versions
from polysoma.files import write_atomically

ROOT = Path(__file__).parents[1]
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
    command = "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    data = {"command": command, "commit": commit(), "versions": versions(), "hardware": hardware(), **numbers}
    write_atomically(FOLDER / f"{name}.json", (json.dumps(data, indent=1) + "\n").encode())
    print(f"wrote {FOLDER / name}.json")


def read(name: str) -> dict[str, Any] | None:
    """What ``results/<name>.json`` holds; None where there is no such file."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


@dataclass(frozen=True)
class Rendered:
    """A part of a page, or a whole figure, that is made of a benchmark's results.

    Attributes:
        path: of the page, from the root of the repository.
        results: names of the files in ``results/`` that it is made of; the first one has to exist.
        render: what they hold (None for a file that is missing) to text.
        marker: the text stands between ``<!-- marker -->`` and ``<!-- end of marker -->``; empty for a whole file.
    """

    path: str
    results: tuple[str, ...]
    render: Callable[..., str]
    marker: str = ""

    def insert(self, page: str) -> str:
        """The page with the text of today's results in its place. Raises ValueError where it has not the markers."""
        found = [read(name) for name in self.results]
        if found[0] is None:
            return page
        text = self.render(*found)
        if not self.marker:
            return text
        begin, end = f"<!-- {self.marker} -->\n", f"<!-- end of {self.marker} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"{self.path}: expected one {begin.strip()} and one {end}")
        before, rest = page.split(begin)
        return before + begin + text + end + rest.split(end, 1)[1]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def share(entry: Mapping[str, Any]) -> str:
    """A rate of success with its interval."""
    low, high = entry["interval"]
    return f"{entry['successes'] / entry['trials']:.2f} [{low:.2f}, {high:.2f}]"


def difference(values: Sequence[float]) -> str:
    """A difference with its interval."""
    return f"{values[0]:+.2f} [{values[1]:+.2f}, {values[2]:+.2f}]"

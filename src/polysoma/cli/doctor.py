"""``polysoma doctor``: what is wrong with a data set."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass

from polysoma.cli.names import DataPath
from polysoma.cli.output import show as line
from polysoma.cli.progress import counting
from polysoma.text import counted

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True)
class Doctor:
    """Says what is wrong with a data set of any known format, and what to do. Exit status 1 where there are errors.

    Examples:
        polysoma doctor data/aloha
        polysoma doctor recordings/so101 --strict --json > report.json
    """

    path: DataPath
    """A folder or file, or hf://user/name on the Hugging Face Hub."""
    strict: bool = False
    """Exit with status 1 for warnings too."""
    json: bool = False
    """Print JSON for programs instead of text for people."""

    def run(self) -> None:
        from polysoma.data.doctor import examine
        from polysoma.data.formats import located

        path = located(self.path)
        with counting("examining") as show:
            found = examine(path, lambda done, total: show(done, total, "episodes"))
        if self.json:
            fields = {"path": str(self.path), "format": found.format, "episodes": found.episodes}
            problems = [dataclasses.asdict(problem) for problem in found.problems]
            print(json.dumps({**fields, "frames": found.frames, "problems": problems}, indent=1))
        else:
            line(f"{self.path}: {found.format}, {counted(found.episodes, 'episode')}, {counted(found.frames, 'frame')}")
            for problem in found.problems:
                line((f"{problem.severity:<8}", _COLOURS[problem.severity]), f" {problem.where}: {problem.what}")
                line((f"         -> {problem.remedy}", "dim"))
            counts = {name: found.count(name) for name in _COLOURS}
            line(", ".join(counted(count, name) for name, count in counts.items()))
        if found.count("error") or (self.strict and found.count("warning")):
            sys.exit(1)

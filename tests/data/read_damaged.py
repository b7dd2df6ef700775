"""A process that reads data sets that may be damaged, for test_corruption.py: libraries in C may take it down.

A line of standard input is a path; a line of standard output says what came of it.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polysoma.data import layout
from polysoma.data.dataset import Dataset
from polysoma.data.formats import open_reader
from polysoma.errors import PolysomaError

MEMORY = 8 * 2**30
SECONDS = 60
"""Whoever takes longer to read a few frames hangs, and is ended with a trace of where."""


def fingerprint(columns: Mapping[str, np.ndarray], *others: Any) -> str:
    """Of all that an episode is."""
    digest = hashlib.sha256(repr(others).encode())
    for name in sorted(columns):
        values = np.ascontiguousarray(columns[name])
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def read_own(path: Path) -> dict[str, Any]:
    """A recording, as training reads it."""
    shutil.rmtree(path / ".cache", ignore_errors=True)
    data = Dataset(path)
    columns = {**data.observations, "action": data.actions, "executed": data.executed}
    episodes = []
    for number, (start, length) in enumerate(zip(data.episode_start, data.episode_length, strict=True)):
        rows = slice(start, start + length)
        told = data.tasks[data.episode_task[number]], data.instructions[data.episode_instruction[number]]
        known = int(data.episode_seed[number]), bool(data.episode_success[number])
        episode = data.episode(number)
        ends = episode.terminated, episode.truncated, episode.rewards is None, episode.final is None
        own = {name: values[rows] for name, values in columns.items()}
        own |= {f"final {name}": value for name, value in (episode.final or {}).items()}
        own |= {} if episode.rewards is None else {"rewards": episode.rewards}
        episodes.append(fingerprint(own, told, known, ends))
    return {"episodes": episodes, "errors": {}, "problems": []}


def read_foreign(path: Path) -> dict[str, Any]:
    """A data set of another library: all episodes that can be read, and why the others cannot, by their numbers."""
    reader = open_reader(path)
    episodes: list[str | None] = []
    errors = {}
    for number in range(len(reader)):
        try:
            final = {f"final {name}": value for name, value in (reader.final(number) or {}).items()}
            told = reader.instructions[number], reader.ending(number)
            episodes.append(fingerprint(reader.read(number) | final, *told))
        except PolysomaError as error:
            episodes.append(None)
            errors[reader.source(number)] = str(error)
    problems = [problem.what for problem in reader.problems() if problem.severity != "note"]
    reader.close()
    return {"episodes": episodes, "errors": errors, "problems": problems}


def main() -> None:
    faulthandler.enable()
    # macOS knows no such limit.
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        path = Path(json.loads(line))
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            own = (path / layout.POLYSOMA).exists()
            answer = read_own(path) if own else read_foreign(path)
        except PolysomaError as error:
            answer = {"refused": str(error)}
        except BaseException:
            answer = {"crashed": traceback.format_exc()}
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

"""Damaged files of every format: thousands of random changes, and what the readers make of them.

    python benchmarks/fuzz.py                  # 500 changes of each format; a quarter of an hour on one core
    python benchmarks/fuzz.py --changes 50 --only rlds

A change is a byte or several, a cut, zeros, more at the end, or the whole file gone. What must not happen: a traceback,
a hang, a reader that takes its process down, and wrong data without an error where a checksum could tell.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import results

FAULTS = ("tracebacks", "hangs", "processes taken down", "unclear or silent")


def damage() -> ModuleType:
    """The tests' own ways to damage files. They need what tests need, which rendering the counts does not."""
    tests = Path(__file__).resolve().parents[1] / "tests"
    sys.path[:0] = [str(tests), str(tests / "data")]
    return importlib.import_module("test_corruption")


def verdict(check: Any, root: Path, guaranteed: bool, truth: dict[str, Any], got: dict[str, Any]) -> str:
    """What came of one change, in a word or two."""
    if "crashed" in got:
        if got["crashed"].startswith("Timeout"):
            return "hangs"
        return "tracebacks" if re.search(r"^\w+(\.\w+)*(Error|Exception)", got["crashed"], re.M) else FAULTS[2]
    try:
        check(root, guaranteed, truth, got)
    except AssertionError:
        return "unclear or silent"
    if "refused" in got:
        return "refused in one line"
    return "some episodes refused" if got["errors"] else "read"


def fuzz(tests: ModuleType, name: str, changes: int, seed: int, home: Path) -> dict[str, int]:
    """Counts of verdicts over this many changes of one format."""
    write, guarantee = tests.FORMATS[name]
    reading = tests.Reading(home)
    root = write(home / "set")
    truth = reading.ask(root)
    files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
    files = [path for path in files if path.stat().st_size and ".cache" not in path.parts]
    rng = np.random.default_rng(seed)
    found: collections.Counter[str] = collections.Counter()
    for _ in range(changes):
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        place = int(rng.integers(len(whole)))
        # Beginnings and ends of files are where formats keep what everything else depends on.
        near = min(place, int(rng.integers(64)))
        place = (place, near, len(whole) - 1 - near)[rng.integers(3)]
        change = sorted(tests.CHANGES)[rng.integers(len(tests.CHANGES))]
        content = tests.CHANGES[change](whole, place, int(rng.integers(1, 256)))
        try:
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            what = verdict(tests.check, root, guarantee(path, content), truth, reading.ask(root))
        finally:
            path.write_bytes(whole)
        found[what] += 1
        if what in FAULTS:
            print(f"{name}: {what}: {change} at {place} of {path.relative_to(root) if path != root else path.name}")
    reading.close()
    return dict(found)


def render() -> str:
    """One sentence with the counts."""
    found = results.read("fuzz")
    told = ", ".join(f"{count:,} {what}" for what, count in found["faults"].items())
    read = ", ".join(f"{count:,} {what}" for what, count in found["all"].items() if what not in FAULTS)
    return (
        f"{found['changes']:,} damaged files of {len(found['formats'])} formats (`python benchmarks/fuzz.py`): {told}; "
        f"{read}.\n"
    )


def main() -> None:
    tests = damage()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=500, help="of each format")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(tests.FORMATS), choices=list(tests.FORMATS))
    arguments = parser.parse_args()
    found = {}
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as home:
            found[name] = fuzz(tests, name, arguments.changes, arguments.seed, Path(home))
        print(name, found[name], flush=True)
    total: collections.Counter[str] = collections.Counter()
    for counts in found.values():
        total.update(counts)
    faults = {fault: total[fault] for fault in FAULTS}
    results.write("fuzz", {"changes": sum(total.values()), "faults": faults, "all": dict(total), "formats": found})
    sys.exit(bool(sum(faults.values())))


if __name__ == "__main__":
    main()

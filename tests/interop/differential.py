"""What the differential checks share: a data set as its format's own library reads it, beside what is read here.

A case is one generated data set, odd on purpose (`hypothesis` draws it). The format's own library writes and reads it;
every number, picture, instruction, reward and end must be what :mod:`polysoma.data.formats` reads. Each check runs in
an environment of its format's libraries and writes its counts to ``benchmarks/results/differential-NAME.json``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks"), str(ROOT / "tests")]

import numpy as np  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import results  # noqa: E402
from polysoma.data.formats import open_reader  # noqa: E402
from polysoma.data.instructions import parts_in  # noqa: E402

WORDS = st.one_of(
    st.sampled_from(["pick up the cube", "drücke den Knopf", "put it \u2028 there", 'say "no"', "a, b\tc", "开门", ""]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30).map(str.strip),
)
"""Instructions as people write them, and worse ones."""


@dataclass
class Truth:
    """One episode as the format's own library reads it.

    Attributes:
        columns: name as the readers call it to ``(T, *shape)``.
        instructions: one a frame; None where the library does not say.
        terminated, truncated, success: None where the library does not say.
        final: observations after the last action by name; None where there are none.
    """

    columns: dict[str, np.ndarray]
    instructions: list[str] | None = None
    terminated: bool | None = None
    truncated: bool | None = None
    success: bool | None = None
    final: dict[str, np.ndarray] | None = None


@dataclass
class Count:
    """What was compared, and what differs."""

    cases: int = 0
    episodes: int = 0
    frames: int = 0
    values: int = 0
    differences: list[str] = field(default_factory=list)
    of_kind: dict[str, int] = field(default_factory=dict)

    def compare(self, kind: str, path: Path, episodes: Sequence[Truth], tolerance: int = 0) -> None:
        """Counts one data set. Pictures may differ by ``tolerance`` levels: other decoders of the same JPEG."""
        self.cases += 1
        self.of_kind[kind] = self.of_kind.get(kind, 0) + 1
        found = list(self._of(path, [each for each in episodes if _length(each)], tolerance))
        self.differences += [f"{kind}, {path.name}: {what}" for what in found]
        for what in found[:5]:
            print(f"DIFFERS {kind} {path}: {what}", flush=True)

    def _of(self, path: Path, episodes: Sequence[Truth], tolerance: int) -> Any:
        try:
            reader = open_reader(path)
            held = [number for number in range(len(reader)) if reader.lengths[number]]
            read = [reader.read(number) for number in held]
            endings = [reader.ending(number) for number in held]
            finals = [reader.final(number) for number in held]
        except Exception as error:
            yield f"{type(error).__name__}: {error}"
            return
        if len(read) != len(episodes):
            yield f"expected {len(episodes)} episodes, got {len(read)}"
            return
        for place, (truth, columns, ending, last) in enumerate(zip(episodes, read, endings, finals, strict=True)):
            self.episodes += 1
            self.frames += _length(truth)
            for name, expected in truth.columns.items():
                if name not in columns:
                    yield f"episode {place}: no column {name}; there are {list(columns)}"
                    continue
                yield from self._values(f"episode {place}, {name}", expected, columns[name], tolerance)
            for name, expected in (truth.final or {}).items():
                if last is None or name not in last:
                    yield f"episode {place}: no last {name}"
                    continue
                yield from self._values(f"episode {place}, last {name}", expected, last[name], tolerance)
            if truth.instructions is not None:
                told = instructions_of(reader, held[place], _length(truth))
                self.values += len(told)
                wrong = [step for step, text in enumerate(told) if text != truth.instructions[step]]
                if wrong:
                    step = wrong[0]
                    yield f"episode {place}, frame {step}: expected {truth.instructions[step]!r}, got {told[step]!r}"
            for name in ("terminated", "truncated", "success"):
                expected = getattr(truth, name)
                self.values += expected is not None
                if expected is not None and getattr(ending, name) != expected:
                    yield f"episode {place}: {name} expected {expected}, got {getattr(ending, name)}"
        reader.close()

    def _values(self, where: str, expected: np.ndarray, got: np.ndarray, tolerance: int) -> Any:
        expected = np.asarray(expected)
        self.values += expected.size
        if expected.size != got.size or expected.shape[:1] != got.shape[:1]:
            yield f"{where}: expected {expected.shape}, got {got.shape}"
            return
        got = got.reshape(expected.shape)
        if tolerance and expected.dtype == np.uint8:
            apart = np.abs(expected.astype(int) - got.astype(int)).max(initial=0)
            if apart > tolerance:
                yield f"{where}: pictures differ by {apart} levels"
        elif not np.array_equal(expected, got.astype(expected.dtype), equal_nan=expected.dtype.kind == "f"):
            wrong = np.argwhere(expected != got)
            yield f"{where}: {len(wrong)} values differ, first at {wrong[:1].tolist()}"


def instructions_of(reader: Any, episode: int, length: int) -> list[str]:
    """The instruction of every frame."""
    parts = parts_in(reader, episode)
    starts = np.array([part.start for part in parts])
    return [parts[int(np.searchsorted(starts, frame, "right")) - 1].instruction for frame in range(length)]


def _length(truth: Truth) -> int:
    return len(next(iter(truth.columns.values())))


Make = Callable[[Any, Path], tuple[list[Truth], Path, int]]
"""Makes one data set in an empty folder: (draw, folder) -> (truth, path, levels that pictures may differ by)."""


def run(name: str, packages: Sequence[str], kinds: dict[str, Make]) -> None:
    """The command of one family of formats: generates, compares, writes the counts; exits 1 if anything differs.

    Args:
        name: of the JSON.
        packages: the libraries whose versions are recorded.
        kinds: what makes the data sets, by name.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=60, help="data sets of each kind")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(kinds))
    arguments = parser.parse_args()
    count = Count()
    scratch = Path(tempfile.mkdtemp(prefix=f"differential-{name}-"))
    for kind in arguments.only:
        _generate(kind, kinds[kind], scratch, count, arguments.cases, arguments.seed)
    results.write(
        f"differential-{name}",
        {
            "libraries": {package: importlib.metadata.version(package) for package in packages},
            "cases": count.cases, "cases of kind": count.of_kind, "episodes": count.episodes, "frames": count.frames,
            "values": count.values, "differences": len(count.differences), "first differences": count.differences[:20],
        },
    )  # fmt: skip
    print(f"{name}: {count.cases} data sets, {count.frames} frames, {count.values} values, "
          f"{len(count.differences)} differences")  # fmt: skip
    sys.exit(bool(count.differences))


def _generate(kind: str, make: Make, scratch: Path, count: Count, cases: int, number: int) -> None:
    """Compares data sets of one kind; those that differ stay in the scratch folder."""
    numbers = itertools.count()

    @seed(number)
    @settings(
        max_examples=cases, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def case(data: Any) -> None:
        folder = scratch / f"{kind.replace(' ', '-')}-{next(numbers)}"
        folder.mkdir()
        before = len(count.differences)
        truth, path, tolerance = make(data.draw, folder)
        count.compare(kind, path, truth, tolerance)
        if len(count.differences) == before:
            shutil.rmtree(folder)

    case()

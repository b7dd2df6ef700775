"""Damage: whatever happens to whichever byte of a data set, it reads as it was written or says which file is bad.

Each example changes one file of a small data set, reads all of it in a process of its own, and puts the file back.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import SEEN_ARM, make_episode
from make_arrays import write_aloha, write_minari, write_robomimic, write_zarr
from make_lerobot import write_v2, write_v3
from make_rlds import write as write_rlds
from polysoma.data.writer import DatasetWriter


def write_own(root: Path) -> Path:
    small = dataclasses.replace(SEEN_ARM.stream("front"), shape=(6, 8, 3))
    body = dataclasses.replace(SEEN_ARM, streams=(SEEN_ARM.streams[0], small, SEEN_ARM.streams[2]))
    with DatasetWriter(root, body) as writer:
        for seed in range(4):
            writer.add(make_episode(body, 3 + seed, seed, instruction=f"go {seed}"))
            if seed == 1:
                writer.flush()
        writer.add_failure("arm-pixels/one", 9)
    return root


def _minari(layout: str) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            return write_minari(root, patch, layout)

    return write


def nothing(path: Path, content: bytes | None) -> bool:
    """Formats without checksums over all of their bytes: a changed number is a number."""
    return False


def all_of_it(path: Path, content: bytes | None) -> bool:
    """Without its description a recording is a LeRobot data set like any other."""
    return path.name != "polysoma.json" or content is not None


def records(path: Path, content: bytes | None) -> bool:
    return ".tfrecord" in path.name


Guarantee = Callable[[Path, bytes | None], bool]
"""Whether this content of a file, None if it is gone, must not give wrong data without an error."""

FORMATS: dict[str, tuple[Callable[[Path], Path], Guarantee]] = {
    "recorded": (write_own, all_of_it),
    "lerobot v3.0": (write_v3, nothing),
    "lerobot v2.1": (lambda root: write_v2(root, kind="image"), nothing),
    "rlds": (write_rlds, records),
    "minari hdf5": (_minari("hdf5"), nothing),
    "minari arrow": (_minari("arrow"), nothing),
    "robomimic": (lambda root: write_robomimic(root.with_suffix(".hdf5")), nothing),
    "aloha": (lambda root: write_aloha(root, False), nothing),
    "aloha jpeg": (lambda root: write_aloha(root, True), nothing),
    "zarr 2": (lambda root: write_zarr(root.with_suffix(".zarr"), 2), nothing),
    "zarr 3": (lambda root: write_zarr(root.with_suffix(".zarr"), 3), nothing),
}


class Reading:
    """The process that reads. It is started again when it was taken down."""

    def __init__(self, home: Path) -> None:
        self._environment = {**os.environ, "XDG_CACHE_HOME": str(home)}
        self._said = home / "stderr"
        self._process: subprocess.Popen[str] | None = None

    def ask(self, path: Path) -> dict[str, Any]:
        if self._process is None:
            command = [sys.executable, str(Path(__file__).with_name("read_damaged.py"))]
            with self._said.open("w") as said:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=said,
                    text=True,
                    env=self._environment,
                )
        process = self._process
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(str(path)) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            self.close()
            return {"crashed": self._said.read_text()}
        return json.loads(line)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reading]:
    process = Reading(tmp_path_factory.mktemp("home"))
    yield process
    process.close()


def flip(content: bytes, place: int, value: int) -> bytes:
    return content[:place] + bytes([content[place] ^ value]) + content[place + 1 :]


def flip_several(content: bytes, place: int, value: int) -> bytes:
    for step in range(5):
        content = flip(content, (place + 7 * step) % len(content), (value + step) % 255 + 1)
    return content


CHANGES: dict[str, Callable[[bytes, int, int], bytes | None]] = {
    "a byte": flip,
    "several bytes": flip_several,
    "the end is cut": lambda content, place, value: content[:place],
    "deleted": lambda content, place, value: None,
    "more at the end": lambda content, place, value: content + bytes([value]) * (1 + place % 300),
    "zeros": lambda content, place, value: (content[:place] + bytes(64))[: len(content)] + content[place + 64 :],
}


@st.composite
def damages(draw: st.DrawFn, files: list[Path]) -> tuple[Path, bytes | None]:
    path = draw(st.sampled_from(files))
    content = path.read_bytes()
    what = draw(st.sampled_from(sorted(CHANGES)))
    # Beginnings and ends of files are where formats keep what everything else depends on.
    place = draw(st.integers(0, len(content) - 1))
    if draw(st.booleans()):
        place = len(content) - 1 - place
    return path, CHANGES[what](content, place, draw(st.integers(1, 255)))


def check(root: Path, guaranteed: bool, truth: dict[str, Any], got: dict[str, Any]) -> None:
    if "crashed" in got:
        # libhdf5 2.0.0 goes round for ever in a heap with an object of no size: nobody above it can stop it.
        assert re.search(r"^Timeout.*\n.*\n  File .*/h5py/", got["crashed"]), got["crashed"]
        return
    if "refused" in got:
        assert str(root) in got["refused"] and "\n" not in got["refused"]
        return
    for number, error in got["errors"].items():
        assert str(root) in error and f"episode {number}" in error and "\n" not in error
    if not guaranteed:
        return
    left = iter(truth["episodes"])
    for episode in got["episodes"]:
        # Those that can be read are right, and in their order.
        assert episode is None or episode in left, "wrong data, and no error"
    if len(got["episodes"]) < len(truth["episodes"]):
        assert len(got["problems"]) > len(truth["problems"]), "episodes are gone, and nobody says so"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_named_or_makes_no_difference(name: str, tmp_path: Path, reading: Reading) -> None:
    write, guarantee = FORMATS[name]
    root = write(tmp_path / "set")
    truth = reading.ask(root)
    assert truth["episodes"] and None not in truth["episodes"] and not truth["errors"]
    files = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else [root]
    files = [path for path in files if path.stat().st_size and ".cache" not in path.parts]

    @settings(max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(damages(files))
    def damaged(damage: tuple[Path, bytes | None]) -> None:
        path, content = damage
        whole = path.read_bytes()
        try:
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            check(root, guarantee(path, content), truth, reading.ask(root))
        finally:
            path.write_bytes(whole)

    damaged()
    assert reading.ask(root)["episodes"] == truth["episodes"]

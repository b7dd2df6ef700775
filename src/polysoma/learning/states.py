"""The last two states of a run on disk, so that no kill, full disk or damaged file loses it.

The newest one is in ``training/``, the one before it in ``.training.old``. Each is a folder of a few files, and of
their SHA-256 in the format of ``sha256sum``. A new one is complete on the disk, as ``.training.new``, before anything
else moves, so at any moment one of the three is whole. Who writes into a run's folder holds a lock on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType

from polysoma.data import storage
from polysoma.errors import PolysomaError
from polysoma.files import TEMPORARY, explain_writing, write_atomically

FOLDER = "training"
SUMS = "SHA256SUMS"
LOCK = ".run.lock"
TERMINATED = 128 + signal.SIGTERM
"""The exit code of a process that was told to leave, and did so with everything saved."""
_NEW, _OLD, _DAMAGED = f".{FOLDER}.new", f".{FOLDER}.old", f".{FOLDER}.damaged"

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Holds the run's folder, which is made: nobody else writes into it until the context ends, or the process.

    Raises:
        PolysomaError: somebody else holds it, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with explain_writing(out):
            got = stack.enter_context(storage.lock(out / LOCK, wait=False))
        if not got:
            raise PolysomaError(f"{out}: another process is writing this run; wait for it or choose another folder")
        yield


def check_free(out: Path) -> None:
    """Raises PolysomaError where somebody holds the run's folder (:func:`alone`)."""
    if (out / LOCK).exists():
        with alone(out):
            pass


def exists(out: Path) -> bool:
    """Whether there is a state, whole or not, in this folder of a run."""
    return (out / FOLDER).exists() or (out / _OLD).exists() or _problem(out / _NEW) is None


def write(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes a state; the newest one until now is the one before it from then on.

    Args:
        out: folder of a run, which the caller holds.
        files: contents by name.

    Raises:
        PolysomaError: it cannot be written; the states until now are as they were.
    """
    current, new, old = out / FOLDER, out / _NEW, out / _OLD
    _remove(new)
    for name, content in files.items():
        write_atomically(new / name, content)
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    write_atomically(new / SUMS, sums.encode())
    with explain_writing(current):
        if current.exists():
            _remove(old)
            os.replace(current, old)
        os.replace(new, current)


def find(out: Path, needed: str) -> tuple[Path, str]:
    """The folder of the newest state that is whole, and a remark: what is wrong with a newer one, or nothing.

    Args:
        out: folder of a run.
        needed: the name of a file of every state.

    Raises:
        PolysomaError: there is none.
    """
    problems: list[str] = []
    for place in (FOLDER, _NEW, _OLD):
        if not (folder := out / place).is_dir():
            continue
        problem = _problem(folder, needed, sums=place == _NEW)
        if problem is None:
            return folder, f"{problems[0]}; going on from the state in {folder}" if problems else ""
        problems.append(problem)
    if not problems:
        raise PolysomaError(f"nothing to resume in {out}: no {out / FOLDER / needed}; start it without --resume")
    raise PolysomaError(f"nothing to resume in {out}: {problems[0]}")


def settle(out: Path, found: Path) -> None:
    """Makes the state that a run goes on from the newest one, and sweeps what killed processes left.

    Args:
        out: folder of the run, which the caller holds.
        found: what :func:`find` found, or ``out / FOLDER`` for a run that begins.
    """
    current = out / FOLDER
    with explain_writing(current):
        if found != current:
            if current.exists():
                _remove(out / _DAMAGED)
                os.replace(current, out / _DAMAGED)
            os.replace(found, current)
        if found.name != _NEW:
            _remove(out / _NEW)
        for left in out.glob(f".{FOLDER}.*"):
            # As versions before called what they had not finished.
            if left.suffix[1:].isdigit():
                _remove(left)
        for folder in (out, current, out / "checkpoint"):
            sweep(folder)


def sweep(folder: Path) -> None:
    """Removes the unfinished files of ours that killed processes left in a folder."""
    for path in folder.glob(f"*{TEMPORARY}"):
        if re.fullmatch(rf".+\.([0-9a-f]{{16}}|\d+){re.escape(TEMPORARY)}", path.name) and not path.is_symlink():
            path.unlink(missing_ok=True)


def _problem(folder: Path, needed: str = "", sums: bool = True) -> str | None:
    """What is wrong with a state; None where it is whole. Those of versions before have no sums."""
    listed = folder / SUMS
    try:
        if not listed.exists():
            missing = sums or not (folder / needed).is_file()
            return f"{listed if sums else folder / needed} is missing" if missing else None
        *lines, rest = listed.read_text().split("\n")
        known = {name: digest for digest, name in (line.split("  ") for line in lines)}
        if rest:
            return f"{listed} is cut off"
        for name in dict.fromkeys((*filter(None, [needed]), *known)):
            with (folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != known.get(name):
                    return f"{folder / name} is damaged: its SHA-256 is not that in {listed}"
    except FileNotFoundError as error:
        return f"{error.filename} is missing"
    except (OSError, ValueError) as error:
        return f"cannot read {folder} ({error})"
    return None


def _remove(folder: Path) -> None:
    """Removes the files of a state, and its folder unless something else is in there."""
    if folder.is_symlink() or not folder.is_dir():
        return
    sweep(folder)
    for path in folder.iterdir():
        if path.suffix in (".safetensors", ".json") or path.name == SUMS:
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def leaving() -> Iterator[Callable[[], bool]]:
    """Catches SIGTERM, and gives a function that says whether it came: then it is time to save and to leave with
    :data:`TERMINATED`. Outside of the main thread it never comes."""
    came = threading.Event()

    def take(number: int, frame: FrameType | None) -> None:
        came.set()

    if threading.current_thread() is not threading.main_thread():
        yield came.is_set
        return
    before = signal.signal(signal.SIGTERM, take)
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)

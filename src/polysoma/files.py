"""Files are written whole or not at all, and what goes wrong is said in one line."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from polysoma.errors import PolysomaError

TEMPORARY = ".tmp"
"""How the names of unfinished files end."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name only when all of it is on the disk.

    Raises:
        PolysomaError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    with explain_writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_atomically(path: Path, content: bytes) -> None:
    """Writes all of ``content`` or leaves ``path`` as it was. Raises as :func:`writing`."""
    with writing(path) as file:
        file.write(content)


@contextlib.contextmanager
def explain_writing(path: Path) -> Iterator[None]:
    """Turns an OSError into a PolysomaError of one line: what could not be written, why and how to continue."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "make it writable"
        raise PolysomaError(
            f"cannot write {path}: {reason(error)}; {advice} and run the same command again: it continues"
        ) from error


def reason(error: BaseException) -> str:
    """The first line of what an error says."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


def _sync_folder(folder: Path) -> None:
    # A rename outlives a power cut only when its folder is on the disk too. Some systems cannot open folders.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

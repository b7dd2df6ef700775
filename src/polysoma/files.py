"""Files are written whole or not at all, and what goes wrong is said in one line.

What is deleted is decided here: folders that hold a mark of their maker (:func:`remove_own`), and unfinished files by
their names (:func:`remove_temporaries`). Links are never followed on the way there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

from polysoma.errors import PolysomaError

TEMPORARY = ".tmp"
"""How the names of unfinished files end."""
_UNFINISHED = re.compile(rf".+\.([0-9a-f]{{16}}|\d+){re.escape(TEMPORARY)}")
"""Their names; those of versions before had the number of a process."""


@contextlib.contextmanager
def writing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """A file that appears under its name only when all of it is on the disk.

    Args:
        path: its name.
        mode: who may do what with it, as far as the user's umask allows.

    Raises:
        PolysomaError: it cannot be written; nothing is left behind.
    """
    if not path.name:
        raise PolysomaError(f"{path}: expected the name of a file")
    # Nobody can put a link where the name of this file will be.
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}{TEMPORARY}")
    with explain_writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb", opener=partial(_new, mode=mode)) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _new(path: str, _flags: int, mode: int) -> int:
    """A descriptor of a new file, to write. Raises OSError where anything is there, a link too."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, mode)


def is_own(folder: Path, mark: str) -> bool:
    """Whether this is a folder, not a link to one, with a file of this name in it, which is no link either."""
    try:
        return stat.S_ISDIR(folder.lstat().st_mode) and stat.S_ISREG((folder / mark).lstat().st_mode)
    except OSError:
        return False


def remove_own(folder: Path, mark: str) -> bool:
    """Deletes a folder if it is one of ours (:func:`is_own`), as far as that is possible. Returns whether it was."""
    if not is_own(folder, mark):
        return False
    # The mark goes last: what a process that is killed meanwhile leaves is still known for ours.
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != mark:
                path.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    return True


def is_unfinished(path: Path) -> bool:
    """Whether a file is called as those that a killed process leaves unfinished."""
    return bool(_UNFINISHED.fullmatch(path.name))


def remove_temporaries(folder: Path) -> None:
    """Deletes the unfinished files that a killed process left anywhere below a folder."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if _UNFINISHED.fullmatch(name) and not path.is_symlink():
                path.unlink()


def write_atomically(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Writes all of ``content`` or leaves ``path`` as it was. Arguments and errors are those of :func:`writing`."""
    with writing(path, mode) as file:
        file.write(content)


def check_writable(*paths: Path) -> None:
    """Finds out before long work whether files can be written under these names; makes the folders for them. Raises
    PolysomaError where one cannot."""
    for path in paths:
        with explain_writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            wrong = errno.EISDIR if path.is_dir() else 0 if os.access(path.parent, os.W_OK) else errno.EACCES
            if wrong:
                raise OSError(wrong, os.strerror(wrong))


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
    if isinstance(error, KeyError) and error.args and " " not in str(error.args[0]):
        # The word alone says nothing.
        return f"there is no {error.args[0]!r}"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


def sync(path: Path) -> None:
    """Puts a file, or the names in a folder, on the disk, as far as the system can."""
    # A rename outlives a power cut only when its folder is on the disk too. Some systems cannot open folders.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

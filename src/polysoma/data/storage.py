"""Files of data sets: JSON, Parquet, checksums. Errors name the file; what is written is whole or not there at all."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from polysoma.data import door
from polysoma.errors import PolysomaError
from polysoma.files import TEMPORARY, explain_writing, is_own, reason, remove_own, write_atomically, writing

_log = logging.getLogger(__name__)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises PolysomaError when the file is missing or damaged."""
    with reading(path):
        return door.read_json(path)


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """These columns of a file, with these types. Raises PolysomaError when it is missing or damaged."""
    with reading(path), door.open_parquet(path) as file:
        return file.read(columns=schema.names, use_threads=False).select(schema.names).cast(schema)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, indent=4, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode())


def write_parquet(path: Path, table: pa.Table, rows_per_group: int | None = None) -> None:
    with writing(path) as file:
        pq.write_table(table, file, rows_per_group, compression="snappy", write_page_checksum=True)


@contextlib.contextmanager
def lock(path: Path, wait: bool, guess: bool = True) -> Iterator[bool]:
    """Holds a lock that ends with the process. Yields whether it was got, or ``guess`` where the system has no locks;
    raises OSError if the file cannot be made."""
    try:
        import fcntl
    except ImportError:  # Windows: one process at a time is then up to the user.
        yield guess
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Where a link has been put in its place, nothing is made at its other end.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError as error:  # Some network file systems have no locks.
            _log.warning("%s: no lock (%s): let no other process write there meanwhile", path.parent, reason(error))
            yield guess
            return
        yield True


@contextlib.contextmanager
def building(target: Path, mark: str) -> Iterator[Path]:
    """An empty hidden folder beside the target that gets its name when all went well and is gone otherwise.

    Args:
        target: what is not there yet.
        mark: the name of a file in the folder meanwhile: it says who made it, and is the lock.

    Raises:
        PolysomaError: something else is in the way, another process writes the target, or it cannot be written.
    """
    folder = target.with_name(f".{target.name}{TEMPORARY}")
    if os.path.lexists(folder) and not is_own(folder, mark):
        raise PolysomaError(f"{folder} is in the way and was not made here; move it to another place")
    with explain_writing(target), lock(folder / mark, wait=False) as alone:
        if not alone:
            raise PolysomaError(f"{target}: another process is writing this data set; wait for it")
        try:
            for left in folder.iterdir():
                if left.name != mark:
                    shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
            yield folder
            os.rename(folder, target)
            (target / mark).unlink()
        except BaseException:
            remove_own(folder, mark)
            raise


@contextlib.contextmanager
def reading(path: Path, held: str = "") -> Iterator[None]:
    """Turns what libraries raise over a missing or damaged file into a PolysomaError that names it and what it held."""
    where = f"{path} ({held})" if held else f"{path}"
    # Of frames, others than those of this file can still be read.
    otherwise = "" if held else ", or delete the whole data set and record it again"
    try:
        yield
    except FileNotFoundError as error:
        raise PolysomaError(f"{where} is missing: copy the data set again from where it came{otherwise}") from error
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise PolysomaError(
            f"cannot read {where}: {reason(error)}; it is damaged or incomplete: copy it again from "
            f"where it came{otherwise}"
        ) from error


def checksum(path: Path) -> str:
    """CRC-32 of a file, in hexadecimal digits."""
    value = 0
    with door.open_bytes(path) as file:
        while piece := file.read(2**20):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"

"""Files are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from polysoma.errors import PolysomaError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file object whose content replaces ``path`` when the block ends well, and vanishes when it does not.

    Raises PolysomaError that names the file and the reason when the disk refuses.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise PolysomaError(
            f"cannot write {path} ({error.strerror or error}): free some space or choose another place, then run the "
            "same command again"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes all of ``content`` or leaves ``path`` as it was. Raises as :func:`writing`."""
    with writing(path) as file:
        file.write(content)

"""Memory of processes that learn: every step frees and asks again for the same large blocks."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import sys
from collections.abc import Iterator

_ALLOCATORS = ("jemalloc", "tcmalloc_minimal")
"""Libraries that find a block of any size at once. glibc walks along lists of all sizes, and a step of many bodies
frees blocks of some thousand sizes."""
_KEEP = "dirty_decay_ms:60000,muzzy_decay_ms:60000"
"""What tells jemalloc to keep freed memory for a minute: kept for ever, it grew to many times what a step needs."""
_RESTARTED = "POLYSOMA_RESTARTED_WITH"
"""The variable that names what a restarted process was given."""


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory instead of handing it back to the system: fresh pages take time each time."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold, mmap_max = -1, -3, -4
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(mmap_max, 0)


@contextlib.contextmanager
def quick_allocator() -> Iterator[None]:
    """Processes that are started meanwhile get their memory from jemalloc or tcmalloc, where this is Linux, one of them
    is installed, and LD_PRELOAD does not say otherwise."""
    before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "MALLOC_CONF")}
    os.environ.update(_wanted())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def restart_with_quick_allocator() -> None:
    """Starts the program of this process again, in the same process, with its memory from jemalloc or tcmalloc; on the
    same conditions as :func:`quick_allocator`, and once. What the restarted program starts itself is as without this.
    To be called before anything is begun."""
    given = os.environ.pop(_RESTARTED, "")
    for name in filter(None, given.split(",")):
        os.environ.pop(name, None)
    wanted = {} if given else _wanted()
    if not wanted or not sys.executable:
        return
    with contextlib.suppress(OSError):
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **wanted, _RESTARTED: ",".join(wanted)})


def _wanted() -> dict[str, str]:
    """The variables with which a process gets its memory quickly; none where it would not, or where the user has said
    how it gets it."""
    found = "LD_PRELOAD" not in os.environ and sys.platform == "linux" and next(_installed(), "")
    if not found:
        return {}
    return {"LD_PRELOAD": found} | ({} if "MALLOC_CONF" in os.environ else {"MALLOC_CONF": _KEEP})


def _installed() -> Iterator[str]:
    for name in _ALLOCATORS:
        if library := ctypes.util.find_library(name):
            yield library

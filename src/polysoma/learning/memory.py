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
_KEEP = "dirty_decay_ms:-1,muzzy_decay_ms:-1"
"""What tells jemalloc to keep freed memory."""


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
    found = "LD_PRELOAD" not in os.environ and sys.platform == "linux" and next(_installed(), "")
    if found:
        os.environ["LD_PRELOAD"] = found
        os.environ.setdefault("MALLOC_CONF", _KEEP)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _installed() -> Iterator[str]:
    for name in _ALLOCATORS:
        if library := ctypes.util.find_library(name):
            yield library

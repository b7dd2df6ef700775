"""Progress of long work deep inside the library, told to whoever listens; nobody by default.

>>> with listening(lambda what, done, total: print(f"{what}: {done} of {total}")):
...     tell("unpacking data/x", 1, 2)
unpacking data/x: 1 of 2
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""Called with what is done, how much of it so far, and of how much."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def tell(what: str, done: int, total: int) -> None:
    """Tells the present listener, if there is one."""
    if (listener := _listener.get()) is not None:
        listener(what, done, total)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Makes this the listener until the context ends."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)

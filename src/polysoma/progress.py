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

_reader: ContextVar[Callable[[str], None] | None] = ContextVar("reader", default=None)
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def tell(what: str, done: int, total: int) -> None:
    """Tells the present listener, if there is one."""
    if (listener := _listener.get()) is not None:
        listener(what, done, total)


def note(text: str) -> None:
    """Says something that people should know, though nothing went wrong, to whoever listens."""
    if (reader := _reader.get()) is not None:
        reader(text)


@contextlib.contextmanager
def listening(listener: Listener, reader: Callable[[str], None] | None = None) -> Iterator[None]:
    """Makes this the listener, and this what notes are given to, until the context ends."""
    before, read_before = _listener.set(listener), _reader.set(reader)
    try:
        yield
    finally:
        _listener.reset(before)
        _reader.reset(read_before)

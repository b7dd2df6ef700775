"""A progress bar with rate and time left; plain lines now and then where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 20.0


@contextlib.contextmanager
def counting(title: str) -> Iterator[Callable[[int, int, str], None]]:
    """Gives a function to call with (done, total, remark)."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.console import Console

    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[remark]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, remark="", total=None)

        def show(done: int, total: int, remark: str) -> None:
            bar.update(task, completed=done, total=total, remark=remark)

        yield show


def unpacking() -> Callable[[Path, int, int], None]:
    """Gives a function to call with (data set, frames so far, of how many), which prints a line now and then."""
    last = time.monotonic()

    def show(path: Path, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES / 4 or (done == total and total > 5000):
            last = time.monotonic()
            print(f"unpacking {path}: {done:,} of {total:,} frames", file=sys.stderr, flush=True)

    return show


def _lines(title: str) -> Callable[[int, int, str], None]:
    began = last = time.monotonic()
    first: int | None = None

    def show(done: int, total: int, remark: str) -> None:
        nonlocal last, first
        # A resumed run begins in the middle; its rate is that of what it has done itself.
        first = done - 1 if first is None else first
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES or done == total:
            last = time.monotonic()
            left = (last - began) / max(done - first, 1) * (total - done)
            print(f"{title} {done}/{total}, {left:.0f} s left; {remark}", file=sys.stderr, flush=True)

    return show

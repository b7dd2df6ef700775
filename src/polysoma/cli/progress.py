"""A progress bar with rate and time left; plain lines now and then where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from polysoma.cli.output import say
from polysoma.errors import PolysomaWarning
from polysoma.progress import listening
from polysoma.text import plain

if TYPE_CHECKING:
    from polysoma.learning.engine import Progress as Steps
    from polysoma.learning.engine import Settings

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
        TextColumn("{task.fields[remark]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, remark="", total=None)

        def show(done: int, total: int, remark: str) -> None:
            bar.update(task, completed=done, total=total, remark=plain(remark))

        yield show


@contextlib.contextmanager
def counting_steps(title: str, steps: int, before: str = "") -> Iterator[Steps]:
    """Gives what a training tells of its steps to: it shows the losses, with ``before`` before them."""
    with counting(title) as show:

        def progress(step: int, losses: dict[str, float]) -> None:
            show(step, steps, before + _shown(losses))

        yield progress


@contextlib.contextmanager
def counting_run(title: str, settings: Settings, out: Path, before: str = "") -> Iterator[Steps]:
    """As :func:`counting_steps`, of a run in the folder ``out``. Where a clock ends it, it shows the time."""
    from polysoma.learning import run_state, states

    if not settings.minutes:
        with counting_steps(title, settings.steps, before) as progress:
            yield progress
        return
    passed = run_state.learnt(out)[1] if states.exists(out) else 0.0
    with _counting_time(title, 60 * settings.minutes, passed) as tell:
        yield lambda step, losses: tell(f"step {step:,}, {before}{_shown(losses)}")


@contextlib.contextmanager
def counting_minutes(title: str, minutes: float, slots: int) -> Iterator[Steps]:
    """Gives what a training that plays tells of its steps to, each of them one frame in each slot: it shows the
    time."""
    with _counting_time(title, 60 * minutes) as tell:
        yield lambda step, losses: tell(f"{step * slots:,} frames")


@contextlib.contextmanager
def _counting_time(title: str, seconds: float, passed: float = 0.0) -> Iterator[Callable[[str], None]]:
    began = time.monotonic() - passed
    with counting(title) as show:
        yield lambda remark: show(int(min(seconds, time.monotonic() - began)), int(seconds), remark)


def _shown(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())


@contextlib.contextmanager
def telling(write: Callable[[str], None] | None = None) -> Iterator[None]:
    """Prints a line now and then about what takes long inside the library, and each note and warning once.

    Args:
        write: takes these lines instead of stderr.
    """
    last = time.monotonic()
    said: set[str] = set()
    written = write or (lambda text: say(text, sys.stderr))

    def note(text: str) -> None:
        # Data sets are opened more than once.
        if text not in said:
            said.add(text)
            written(text)

    def show(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES / 4 or (done == total and total > 5000):
            last = time.monotonic()
            written(f"{what}: {done:,} of {total:,} frames")

    def warn(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, PolysomaWarning):
            note(f"polysoma: {message}")
        else:
            others(message, category, *rest)

    with listening(show, note), warnings.catch_warnings():
        others = warnings.showwarning
        warnings.showwarning = warn  # type: ignore[assignment]
        yield


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
            say(f"{title} {done}/{total}, {left:.0f} s left; {remark}", sys.stderr)

    return show

"""Metrics of a run: JSON lines, and a tracker of accelerate's beside them."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from polysoma.errors import PolysomaError
from polysoma.files import reason, write_atomically

_log = logging.getLogger(__name__)

Tracker = Literal["tensorboard", "wandb", "trackio", "none"]
"""``"tensorboard"`` writes events below the run folder; ``"wandb"`` (https://wandb.ai) and ``"trackio"`` (the same in
a local file) have to be installed, and call the run after its folder."""


def check_tracker(tracker: Tracker) -> None:
    """Raises PolysomaError where the tracker's package is missing."""
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise PolysomaError(
            f"tracker: {tracker} is not installed here: run `pip install {tracker}`, or take another (tracker=none)"
        )


def best_held_out(out: Path) -> tuple[int, dict[str, float]] | None:
    """The step of a run's checkpoint and its loss on what is held out, by what it is of; None where nothing was."""
    prefix = "held_out/"
    rows = [row for line in _lines(out / "metrics.jsonl") if (row := _row(line))]
    losses = [
        (row["step"], {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)})
        for row in rows
    ]
    # As the engine chooses: of equal ones the first.
    return min((one for one in losses if one[1]), key=lambda one: sum(one[1].values()), default=None)


def latest(out: Path, prefix: str) -> dict[str, float]:
    """What a run's last line of metrics with such names says, by their ends; empty where there is none."""
    for row in filter(None, map(_row, reversed(_lines(out / "metrics.jsonl")))):
        if found := {name.removeprefix(prefix): row[name] for name in row if name.startswith(prefix)}:
            return found
    return {}


class Metrics:
    """What a run writes down. What a killed run wrote after its checkpoint is cut off, and a line that it did not end.

    A disk that is full ends no run: what cannot be written is left out, and that is said once.

    Args:
        out: run folder; lines go to ``metrics.jsonl``.
        step: from which the run goes on.
        tracker: where they go, too.
        settings: of the run, for trackers that show them.
        always: what every line says beside its values.

    Raises:
        PolysomaError: the tracker's package is missing, or nothing can be written there.
    """

    def __init__(
        self,
        out: Path,
        step: int,
        tracker: Tracker = "tensorboard",
        settings: Mapping[str, Any] | None = None,
        always: Mapping[str, str] | None = None,
    ) -> None:
        check_tracker(tracker)
        self._always = dict(always or {})
        self._path = out / "metrics.jsonl"
        kept = {line: row for line in _lines(self._path) if (row := _row(line)) and row["step"] <= step}
        write_atomically(self._path, "".join(line + "\n" for line in kept).encode())
        self._began = time.monotonic() - max((row["seconds"] for row in kept.values()), default=0.0)
        self._told: set[str] = set()
        try:
            self._trackers = _started(out, step, tracker, settings or {})
        except OSError as error:
            raise PolysomaError(
                f"tracker: {tracker} cannot write below {out}: {reason(error)}; take another (tracker=none)"
            ) from error

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        row = {"step": step, "seconds": round(time.monotonic() - self._began, 2), **self._always, **values}
        with self._saying(str(self._path)):
            _append(self._path, (json.dumps(row) + "\n").encode())
        for tracker in self._trackers:
            # accelerate does not pass the step on to trackio.
            known = {"steps": step} if tracker.name == "trackio" else {}
            with self._saying(tracker.name):
                tracker.log({**values, **known}, step=step)

    def close(self) -> None:
        for tracker in self._trackers:
            with self._saying(tracker.name):
                tracker.finish()

    @contextlib.contextmanager
    def _saying(self, what: str) -> Iterator[None]:
        """Says once what cannot be written, and goes on."""
        try:
            yield
        except OSError as error:
            if what not in self._told:
                _log.warning("metrics: cannot write %s: %s; the run goes on without", what, reason(error))
            self._told.add(what)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").split("\n") if path.exists() else []
    except OSError as error:
        raise PolysomaError(f"cannot read {path}: {reason(error)}") from error


def _row(line: str) -> dict[str, Any] | None:
    """A line of metrics; None for one that was not finished."""
    try:
        row = json.loads(line)
        return {**row, "step": int(row["step"]), "seconds": float(row["seconds"])}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _append(path: Path, line: bytes) -> None:
    """Appends all of a line, or nothing."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(before)
            raise


def _started(out: Path, step: int, tracker: Tracker, settings: Mapping[str, Any]) -> list[Any]:
    if tracker == "none":
        return []
    from accelerate import Accelerator  # slow to import, needed by the main process alone
    from accelerate.utils import ProjectConfiguration

    named = {"name": out.resolve().name}
    options: dict[Tracker, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1},
        "wandb": named | {"dir": str(out), "config": dict(settings)},
        "trackio": named | {"config": dict(settings)},
    }
    accelerator = Accelerator(log_with=tracker, project_config=ProjectConfiguration(str(out), logging_dir=str(out)))
    project = "tensorboard" if tracker == "tensorboard" else "polysoma"
    accelerator.init_trackers(project, init_kwargs={tracker: options[tracker]})
    if tracker == "tensorboard":
        threading.excepthook = _silent(threading.excepthook)
    return list(accelerator.trackers)


def _silent(before: Callable[[threading.ExceptHookArgs], Any]) -> Callable[[threading.ExceptHookArgs], Any]:
    """TensorBoard's thread prints what it could not write, and raises it where it is told of the next number, too."""

    def hook(said: threading.ExceptHookArgs) -> None:
        if not (isinstance(said.exc_value, OSError) and type(said.thread).__name__ == "_AsyncWriterThread"):
            before(said)

    return hook

"""Metrics of a run: JSON lines, and a tracker of accelerate's beside them."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from polysoma.errors import PolysomaError
from polysoma.files import write_atomically

Tracker = Literal["tensorboard", "wandb", "trackio", "none"]
"""``"tensorboard"`` writes events below the run folder; ``"wandb"`` (https://wandb.ai) and ``"trackio"`` (the same in
a local file) have to be installed, and call the run after its folder."""


def check_tracker(tracker: Tracker) -> None:
    """Raises PolysomaError where the tracker's package is missing."""
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise PolysomaError(
            f"tracker: {tracker} is not installed here: run `pip install {tracker}`, or take another (tracker=none)"
        )


class Metrics:
    """What a run writes down. What a killed run wrote after its checkpoint is cut off.

    Args:
        out: run folder; lines go to ``metrics.jsonl``.
        step: from which the run goes on.
        tracker: where they go, too.
        settings: of the run, for trackers that show them.
        always: what every line says beside its values.

    Raises:
        PolysomaError: the tracker's package is missing.
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
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        write_atomically(self._path, "".join(line + "\n" for line in kept).encode())
        self._began = time.monotonic() - (json.loads(kept[-1])["seconds"] if kept else 0.0)
        self._trackers = _started(out, step, tracker, settings or {})

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        row = {"step": step, "seconds": round(time.monotonic() - self._began, 2), **self._always, **values}
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        for tracker in self._trackers:
            # accelerate does not pass the step on to trackio.
            known = {"steps": step} if tracker.name == "trackio" else {}
            tracker.log({**values, **known}, step=step)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()


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
    return list(accelerator.trackers)

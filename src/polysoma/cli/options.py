"""Which options of a command were given, so that none that would have no effect passes in silence."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from polysoma.errors import PolysomaError
from polysoma.files import write_atomically

BEGUN = "options.json"
"""What a run's command was told when it began, in the folder of the run."""


def given(command: Any, names: Iterable[str]) -> str:
    """Those of these options of a command that are not as by default, as they are written: ``--cell, --edges``; empty
    where all are."""
    usual = {field.name: field.default for field in dataclasses.fields(command)}
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if getattr(command, name) != usual[name])


def check_belongs(command: Any, owner: str, *names: str) -> None:
    """Raises PolysomaError where one of these options is given without that to which it belongs."""
    if not given(command, [owner]) and (strange := given(command, names)):
        raise PolysomaError(f"{strange}: only beside --{owner.replace('_', '-')}, which is not given")


def check_alone(command: Any, owner: str, *names: str) -> None:
    """Raises PolysomaError where one of these options is given beside one that leaves them without effect."""
    if given(command, [owner]) and (strange := given(command, names)):
        raise PolysomaError(f"{strange}: without effect beside --{owner.replace('_', '-')}; leave out one of them")


def can_resume(command: Any) -> bool:
    """Whether ``--resume`` goes on with what this command began. Where only some of its runs can, the command has
    ``resumable``, which says whether this one can."""
    return bool(getattr(command, "resumable", hasattr(command, "resume")))


def keep(command: Any, out: Path) -> None:
    """Writes the options of a command that begins a run into its folder ``out``, for :func:`check_as_begun`. Raises
    PolysomaError where that fails."""
    from polysoma.learning import states

    # A run that is there already keeps its own; whoever trains refuses it.
    if os.environ.get("RANK", "0") == "0" and not states.exists(out):
        write_atomically(out / BEGUN, (json.dumps(_told(command), indent=1) + "\n").encode())


def check_as_begun(command: Any, out: Path, *free: str) -> None:
    """Raises PolysomaError where an option is given that a resumed run does not heed: it does as it began.

    Args:
        command: with ``--resume``.
        out: folder of the run. Runs of before options were kept accept none.
        free: options that have an effect also then.
    """
    from polysoma.learning.run_state import read_table

    began = read_table(out / BEGUN) if (out / BEGUN).exists() else {}
    now, strange = _told(command), []
    for name in now:
        if name not in free and (option := given(command, [name])) and (name not in began or now[name] != began[name]):
            strange.append(f"{option} (it was {json.dumps(began[name])})" if name in began else option)
    if strange:
        raise PolysomaError(f"--resume goes on with {out} as it began: leave out {', '.join(strange)}")


def check_same(command: Any, out: Path, *free: str) -> None:
    """Raises PolysomaError where an option of a resumed run is another one than it began with, be it a default; names
    them as they were. Runs of before options were kept are not checked.

    Args:
        command: with ``--resume``.
        out: folder of the run.
        free: options that may change.
    """
    from polysoma.learning.run_state import read_table

    if not (out / BEGUN).exists():
        return
    began, now = read_table(out / BEGUN), _told(command)
    strange = [name for name in now if name not in free and name in began and now[name] != began[name]]
    if strange:
        were = ", ".join(
            f"--{name.replace('_', '-')} {json.dumps(began[name])}, not {json.dumps(now[name])}" for name in strange
        )
        raise PolysomaError(f"--resume goes on with {out} as it began, with {were}")


def _told(command: Any) -> dict[str, Any]:
    """All options of a command, as JSON reads them again."""
    told: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(command), default=str))
    return told

"""Which options of a command were given, so that none that would have no effect passes in silence."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from polysoma.errors import PolysomaError


def given(command: Any, names: Iterable[str]) -> str:
    """Those of these options of a command that are not as by default, as they are written: ``--cell, --edges``; empty
    where all are."""
    usual = {field.name: field.default for field in dataclasses.fields(command)}
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if getattr(command, name) != usual[name])


def check_belongs(command: Any, owner: str, *names: str) -> None:
    """Raises PolysomaError where one of these options is given without that to which it belongs."""
    if not given(command, [owner]) and (strange := given(command, names)):
        raise PolysomaError(f"{strange}: only beside --{owner.replace('_', '-')}, which is not given")

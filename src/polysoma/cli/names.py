"""What is named on the command line, and how help shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import AfterValidator

from polysoma.nn import device, precision

CheckpointName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
"""A checkpoint as the first word after the command."""
OptionalCheckpoint = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[CHECKPOINT]")]
"""The same where there is a default."""
DataPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
"""A data set as the first word after the command."""
Device = Annotated[
    str,
    tyro.conf.arg(
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where it is computed; auto learns on a GPU where there is one, and acts on the processor.",
    ),
    AfterValidator(device.checked),
]
"""Where a command computes; checked before the command begins."""
Precision = Annotated[
    precision.Wanted,
    tyro.conf.arg(
        help="What products are computed in; auto is what a recipe says, else bfloat16 where the processor has units "
        "for it, else float32. A run that is resumed keeps its own."
    ),
]
"""In what numbers a command computes."""
LimitsFile = Annotated[
    Path | None,
    tyro.conf.arg(
        help="A TOML file of limits by body (docs/guards.md): places, steps, jerk, workspaces. They hold last."
    ),
]
"""Limits that hold last."""
ZonesFile = Annotated[
    Path | None,
    tyro.conf.arg(
        help="A TOML file of zones by body (docs/planning.md), around which a checkpoint that draws its ways plans."
    ),
]
"""Zones to stay out of."""
GuardFolder = Annotated[
    str,
    tyro.conf.arg(
        help="A folder of a guard that was learned from logs (polysoma guard learn): it replaces actions that lead "
        "into dead ends, and says the risk."
    ),
]
"""A guard beside every action; empty for none."""


def named_folder(text: str) -> tuple[str, str]:
    """The name and the folder of ``NAME=FOLDER`` or ``FOLDER``: ``runs/so101/checkpoint`` is called ``so101``."""
    name, sign, folder = text.partition("=")
    if sign:
        return name, folder
    parts = [part for part in Path(text).parts if part != "checkpoint"]
    return (parts[-1] if parts else text), text

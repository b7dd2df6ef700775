"""What is named on the command line, and how help shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

CheckpointName = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
"""A checkpoint as the first word after the command."""
OptionalCheckpoint = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[CHECKPOINT]")]
"""The same where there is a default."""
DataPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATA")]
"""A data set as the first word after the command."""


def named_folder(text: str) -> tuple[str, str]:
    """The name and the folder of ``NAME=FOLDER`` or ``FOLDER``: ``runs/so101/checkpoint`` is called ``so101``."""
    name, sign, folder = text.partition("=")
    if sign:
        return name, folder
    parts = [part for part in Path(text).parts if part != "checkpoint"]
    return (parts[-1] if parts else text), text

"""Names that are given on the command line."""

from __future__ import annotations

from pathlib import Path


def named_folder(text: str) -> tuple[str, str]:
    """The name and the folder of ``NAME=FOLDER`` or ``FOLDER``: ``runs/so101/checkpoint`` is called ``so101``."""
    name, sign, folder = text.partition("=")
    if sign:
        return name, folder
    parts = [part for part in Path(text).parts if part != "checkpoint"]
    return (parts[-1] if parts else text), text

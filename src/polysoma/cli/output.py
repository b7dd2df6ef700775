"""What the command line prints: text out of files as it is, never as markup or escape sequences."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polysoma.text import plain


def say(text: str, file: TextIO | None = None) -> None:
    """Prints lines."""
    print(plain(text, keep="\n"), file=sys.stdout if file is None else file, flush=True)


def show(*parts: str | tuple[str, str]) -> None:
    """Prints one line of parts, of which those with a style are ``(text, style)``."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    Console(highlight=False).print(Text.assemble(*((plain(text), style) for text, style in pairs)))


def add_row(table: Table, *cells: str, style: str = "") -> None:
    """Adds a row to a table."""
    table.add_row(*(Text(plain(cell, keep="\n")) for cell in cells), style=style or None)

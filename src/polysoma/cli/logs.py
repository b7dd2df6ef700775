"""Data sets that commands learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.data.dataset import Dataset


def opened(paths: Sequence[str], purpose: str = "learn from") -> list[Dataset]:
    """Data sets of any known format. Raises PolysomaError where there are none, or one cannot be opened."""
    from polysoma.data.dataset import Dataset
    from polysoma.data.formats import located

    if not paths:
        raise PolysomaError(f"expected one or more data sets to {purpose}, got none")
    return [Dataset(located(Path(path))) for path in paths]

"""Data sets that commands learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.data.dataset import Dataset


def opened(paths: Sequence[str], purpose: str = "learn from") -> list[Dataset]:
    """Data sets of any known format. Raises PolysomaError where there are none, or one cannot be opened."""
    from polysoma.data.dataset import Dataset

    if not paths:
        raise PolysomaError(f"expected one or more data sets to {purpose}, got none")
    return [Dataset.named(path) for path in paths]

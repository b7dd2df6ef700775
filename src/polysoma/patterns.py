"""Patterns of names and paths, in which ``*`` and ``?`` stand for others and all else for itself, brackets too.

Of paths alone brackets may be sets of characters, as in a shell, where nothing is called like that.
"""

from __future__ import annotations

import fnmatch
import glob
from collections.abc import Iterable
from pathlib import Path


def matches(name: str, pattern: str) -> bool:
    """Whether a name is the pattern, or is matched by it: ``matches("so101 [v2]", "so101 [v?]")``."""
    return name == pattern or fnmatch.fnmatchcase(name, _literal(pattern))


def matching(names: Iterable[str], pattern: str) -> list[str]:
    """The names that match."""
    return [name for name in names if matches(name, pattern)]


def expanded(pattern: str) -> list[Path]:
    """What there is at a path, or else what matches it, sorted."""
    if Path(pattern).exists():
        return [Path(pattern)]
    return [Path(path) for path in sorted(glob.glob(_literal(pattern)) or glob.glob(pattern))]


def _literal(pattern: str) -> str:
    return pattern.replace("[", "[[]")

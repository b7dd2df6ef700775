"""The one exception that users meet: a sentence that says what was expected, what came and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class PolysomaError(Exception):
    """A problem that the user can solve. The command line prints its message on one line, without a traceback."""


class SettingError(PolysomaError, ValueError):
    """A setting that cannot be: raised by settings when they are made; :mod:`polysoma.config` adds file and key."""


class PolysomaWarning(UserWarning):
    """What goes on, but perhaps not as the user thinks. The command line prints its message on one line."""


def nearest(name: str, known: Sequence[str], otherwise: str = "there are") -> str:
    """What an error advises instead of a name that is unknown: the names that are like it, or else all there are."""
    near = difflib.get_close_matches(name, known, 3, 0.7)
    return f"did you mean {' or '.join(near)}?" if near else f"{otherwise} {', '.join(known)}"

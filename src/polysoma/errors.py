"""The one exception that users meet: a sentence that says what was expected, what came and what to do."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence

DEBUG = "POLYSOMA_DEBUG"
"""The variable that asks for tracebacks; ``polysoma --debug`` sets it, also for the processes that it starts."""


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


def explain(error: BaseException) -> str:
    """One line for people at a border: the command line, a session, the stage. With :data:`DEBUG` the traceback goes to
    stderr."""
    if os.environ.get(DEBUG):
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, PolysomaError):
        return str(error)
    said = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__

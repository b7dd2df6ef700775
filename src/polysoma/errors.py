"""The one exception that users meet: a sentence that says what was expected, what came and what to do."""

from __future__ import annotations


class PolysomaError(Exception):
    """A problem that the user can solve. The command line prints its message on one line, without a traceback."""


class SettingError(PolysomaError, ValueError):
    """A setting that cannot be: raised by settings when they are made; :mod:`polysoma.config` adds file and key."""


class PolysomaWarning(UserWarning):
    """What goes on, but perhaps not as the user thinks. The command line prints its message on one line."""

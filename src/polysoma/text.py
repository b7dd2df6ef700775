"""Text of others: instructions, names and messages out of files, before people see it or it is written into files."""

from __future__ import annotations

import unicodedata

_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of what follows, so that it reads otherwise than it is."""


def plain(text: str, keep: str = "") -> str:
    """The text with what is no sign made visible: control characters, ends of lines, escape sequences of terminals,
    halves of surrogate pairs. ``"a\\x1b[2J"`` becomes the letters ``a\\x1b[2J``.

    Args:
        text: anything.
        keep: characters that stay as they are, such as ends of lines.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign in keep or not _unseen(sign) else _shown(sign) for sign in text)


def _unseen(sign: str) -> bool:
    # Control, surrogate, line and paragraph separators. Joiners, which emoji and some scripts need, stay.
    return unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or sign in _TURNS


def _shown(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode()

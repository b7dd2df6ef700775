"""Text of others, out of files: instructions, names and messages, before people see them; and lists and numbers of
many things."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of what follows, so that it reads otherwise than it is."""

_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Signs of scripts without spaces between words (Thai, Lao, Burmese, Khmer, Kana, Han): each is a word."""


_ARTICLES = re.compile(r"\b(?:an?|the)\s+", re.IGNORECASE)


def in_word(sign: str) -> bool:
    """Whether words are made of such signs: letters, numbers and the marks that are written on them, but for those of
    scripts without spaces between words, each of which is a word."""
    return unicodedata.category(sign)[0] in "LNM" and not _UNSPACED.match(sign)


def without_articles(instruction: str) -> str:
    """An instruction for those that read no words: "go to a red ball", where there are several, asks for the same as
    "go to the red ball"."""
    return _ARTICLES.sub("", instruction)


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


def some(names: Iterable[object], most: int = 8) -> str:
    """The first of many, and how many more there are: ``"a, b and 3 more"``."""
    every = list(map(str, names))
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def counted(number: int, one: str, many: str = "") -> str:
    """How many there are, with the noun that goes with it: ``"1 body"``, ``"19 bodies"``.

    Args:
        number: how many.
        one: the noun of one.
        many: that of several; empty for ``one`` with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _unseen(sign: str) -> bool:
    # Control, surrogate, line and paragraph separators. Joiners, which emoji and some scripts need, stay.
    return unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or sign in _TURNS


def _shown(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode()

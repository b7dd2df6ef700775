"""Other words for the same instruction, some to train with and some held out to see whether unseen ones work."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np

from polysoma.errors import PolysomaError
from polysoma.files import reason
from polysoma.text import in_word

Split = Literal["train", "held-out"]

SHIPPED = "shipped"
"""Names the paraphrases of the shipped tasks wherever a file is asked for."""


@dataclass(frozen=True)
class Paraphrases:
    """Phrases and what may be said instead.

    An instruction is paraphrased by replacing the phrases that occur in it, longest first, each by one of its
    alternatives; ``{}`` in one of ``frames`` then takes the sentence up. Words around phrases stay.

    Attributes:
        phrases: phrase to alternatives.
        frames: such as ``"please {}"``.
        plain: the share of instructions that :meth:`say` leaves as they are.
    """

    phrases: Mapping[str, Sequence[str]]
    frames: Sequence[str] = ("{}",)
    plain: float = 0.5

    @functools.cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.phrases, key=len, reverse=True)
        # Without any, nothing is replaced.
        return re.compile("|".join(map(_whole, longest_first)) if longest_first else r"(?!)")

    def say(self, instruction: str, rng: np.random.Generator) -> str:
        """The instruction, or a paraphrase of it."""
        if rng.random() < self.plain:
            return instruction

        def other(found: re.Match[str]) -> str:
            if any(map(functools.partial(_in_the_middle, instruction), found.span())):
                return found[0]
            choices = self.phrases[found[0]]
            return choices[int(rng.integers(len(choices)))]

        return self.frames[int(rng.integers(len(self.frames)))].replace("{}", self._pattern.sub(other, instruction))

    def texts(self) -> Iterator[str]:
        """All that paraphrases add to the words of instructions."""
        for choices in self.phrases.values():
            yield from choices
        for frame in self.frames:
            yield frame.replace("{}", "")


@functools.lru_cache
def read_paraphrases(path: str, split: Split, plain: float) -> Paraphrases:
    """Reads one split of a TOML file: ``frames``, and under ``phrases`` a table of phrases; each has a list for each
    split, ``train`` and ``held-out``.

    Args:
        path: a file, or ``"shipped"``.
        split: which lists.
        plain: see :class:`Paraphrases`.

    Raises:
        PolysomaError: no such file, not TOML, or a phrase without alternatives.
    """
    file = resources.files("polysoma") / "data" / "paraphrases.toml" if path == SHIPPED else Path(path)
    try:
        # Editors of Windows begin a file with a mark of its encoding.
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
        frames = _texts(table["frames"][split])
        phrases = {phrase: _texts(lists[split]) for phrase, lists in table["phrases"].items() if phrase}
    except OSError as error:
        raise PolysomaError(f"cannot read paraphrases: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PolysomaError(
            f"{path}: expected [frames] and [phrases.'a phrase'], each with lists `train` and `held-out`: "
            f"{reason(error)}"
        ) from error
    empty = [phrase for phrase, choices in phrases.items() if not choices]
    if empty or not frames:
        raise PolysomaError(f"{path}: no {split} alternatives for {empty or 'frames'}")
    return Paraphrases(phrases, frames, plain)


def _whole(phrase: str) -> str:
    """A pattern of a phrase that does not begin or end in the middle of a word, as far as patterns know letters."""
    start, end = (in_word(phrase[place]) for place in (0, -1))
    return (r"(?<!\w)" if start else "") + re.escape(phrase) + (r"(?!\w)" if end else "")


def _in_the_middle(text: str, place: int) -> bool:
    """Whether what is before a place and what follows it are of the same word. Patterns know no marks."""
    return 0 < place < len(text) and in_word(text[place - 1]) and in_word(text[place])


def _texts(given: object) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        raise TypeError(f"expected a list of texts, got {given!r}"[:200])
    return given

"""Words: texts to the tokens of their words, in any script."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.errors import PolysomaWarning
from polysoma.nn.attention import BLOCKED, Block
from polysoma.nn.packing import Packing
from polysoma.text import in_word

PLACES = 64
"""Words of which each has a place of its own; further ones begin again at the first."""
MOST_WORDS = 512
"""Words of an instruction that a new policy reads."""


def split_words(text: str) -> list[str]:
    """Lower-case words, numbers and single punctuation marks, in any script."""
    text = text.lower()
    if text.isascii():
        return pieces(text)
    words: list[str] = []
    inside = False
    for sign in text:
        part = in_word(sign)
        if part and inside:
            words[-1] += sign
        elif not sign.isspace():
            words.append(sign)
        inside = part
    return words


def pieces(text: str) -> list[str]:
    """Lower-case text as the first policies knew words: those of ASCII, and any other sign by itself."""
    return re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text)


def lacking(words: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """The words that somebody who knows those others does not know, nor all of their pieces."""
    there = set(known)
    return tuple(word for word in words if word not in there and not there.issuperset(pieces(word)))


def build_vocabulary(texts: Iterable[str]) -> list[str]:
    """All words of the texts in alphabetical order. Ids start at 2: 0 is padding, 1 an unknown word."""
    return sorted({word for text in texts for word in split_words(text)})


def warn_of_long(texts: Iterable[str], most: int = MOST_WORDS) -> None:
    """Warns once where texts have words beyond those that are read."""
    every = list(texts)
    long = [(text, words) for text in every if (words := len(split_words(text))) > most]
    if not long:
        return
    text, words = long[0]
    which = f"{len(long)} of {len(every)} instructions have" if len(every) > 1 else "the instruction has"
    warnings.warn(
        f"{which} more words than the {most} that a policy reads, what follows them makes no difference: "
        f"{text[:40]!r}... has {words}",
        PolysomaWarning,
        stacklevel=2,
    )


class TextTokenizer(nn.Module):
    """One token a word, with its neighbours mixed in by one transformer block.

    Args:
        vocabulary: the words it knows.
        width: of tokens.
        heads: of the block.
        own: how many words, the last ones, have a table of their own, which can be trained apart.
        most: how many words of a text are read.
    """

    def __init__(self, vocabulary: Sequence[str], width: int, heads: int, own: int = 0, most: int = MOST_WORDS) -> None:
        super().__init__()
        self.most = most
        self.ids = {word: number for number, word in enumerate(vocabulary, start=2)}
        self.words = nn.Embedding(len(vocabulary) + 2 - own, width, padding_idx=0)
        self.own = nn.Embedding(own, width) if own else None
        self.position = nn.Parameter(torch.randn(PLACES, width) * 0.02)
        self.block = Block(width, heads)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Word ids, int64 ``(B, W)`` padded with 0 to the longest text (at most ``most`` of each are read)."""
        rows = [self.read(text)[: self.most] for text in texts]
        width = max(1, max(map(len, rows)))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])

    def read(self, text: str) -> list[int]:
        """The ids of all words of a text. An unknown word of which some pieces are known is read in pieces."""
        found: list[int] = []
        for word in split_words(text):
            if word in self.ids:
                found.append(self.ids[word])
            else:
                parts = [self.ids.get(piece, 1) for piece in pieces(word)]
                found += parts if max(parts) > 1 else [1]
        return found

    def warn_of_unknown(self, text: str) -> None:
        """Warns once of a text of which no word is known, so that it says no more than any other such text."""
        words = self.read(text)
        if words and set(words) == {1}:
            warnings.warn(f"no word of {text[:40]!r} is known to this policy", PolysomaWarning, stacklevel=2)

    def forward(self, ids: Tensor) -> Tensor:
        """ids ``(B, W)`` to tokens ``(B, W, width)``."""
        words = self.words(ids) if self.own is None else F.embedding(ids, self.table())
        x = words + self.position[torch.arange(ids.shape[1], device=ids.device) % PLACES]
        mask = torch.zeros(ids.shape, device=ids.device).masked_fill_(ids == 0, BLOCKED)[:, None, None]
        # An empty instruction has nothing but padding to look at.
        packing = Packing.where_worthwhile((ids != 0) | (ids == 0).all(1, keepdim=True))
        if packing is None:
            return self.block(x, mask)[0]
        return packing.unpack(self.block(packing.pack(x), mask, packing=packing)[0])

    def table(self) -> Tensor:
        """The vectors of all words, ``(words + 2, width)``, by their ids."""
        return self.words.weight if self.own is None else torch.cat([self.words.weight, self.own.weight])

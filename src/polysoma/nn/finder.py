"""Cameras of which few demonstrations exist: a network that was taught beforehand to find what words name.

:class:`Finder` was taught on pictures of tables that are drawn at random (:mod:`polysoma.simulators.scenes`), of no
robot that it will serve. A policy that learns from ten or twenty demonstrations is given where the named things are in
its pictures and nothing else of them, so there is nothing else that it could learn by heart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.nn.attention import BLOCKED
from polysoma.nn.images import COARSE, EDGE, FINE, SHARPNESS, ImageConfig, PictureNorm, coordinates
from polysoma.nn.named import Parameters
from polysoma.nn.outlines import MEASURES, outlines
from polysoma.nn.waves import waves
from polysoma.nn.words import TextTokenizer

WIDTH, HEADS = 128, 4
NAMED = 2
"""Things that an instruction can name: what is to be moved or reached, and what it is to be put on, into or beside."""
ROWS = 96
"""Rows of the pictures that it was taught on; larger ones are reduced to about as many."""
_BLOCKS = 2


class Finder(nn.Module):
    """Where in pictures the things are that an instruction names, and whether they are to be seen.

    Features at two resolutions, the coarser ones modulated by the words (FiLM, Perez et al. 2018, arXiv 1709.07871),
    are compared with a vector that the words make for each named thing; the cells that answer become a place (a
    spatial softmax, Levine et al. 2016, arXiv 1504.00702).

    Args:
        words: that it knows.
    """

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__()
        self.text = TextTokenizer(words, WIDTH, HEADS)
        self.patches = nn.Conv2d(3, FINE, 8, stride=4, padding=2)
        self.fine = nn.Conv2d(FINE, FINE, 3, padding=1)
        self.down = nn.Conv2d(FINE, COARSE, 3, stride=2, padding=1)
        self.coarse = nn.ModuleList(nn.Conv2d(COARSE, COARSE, 3, padding=1) for _ in range(_BLOCKS))
        self.norms = nn.ModuleList(nn.GroupNorm(8, COARSE) for _ in range(_BLOCKS))
        self.across = nn.Conv2d(FINE, COARSE, 1)
        self.norm = PictureNorm(COARSE, eps=1e-3, affine=True)
        self.film = nn.Linear(WIDTH, 2 * COARSE * _BLOCKS)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.asks = nn.Linear(WIDTH, NAMED)
        self.sought = nn.Linear(WIDTH, COARSE)
        self.there = nn.Linear(COARSE, 1)

    @property
    def words(self) -> dict[str, int]:
        """The numbers of the words that it knows."""
        return self.text.ids

    def read(self, ids: Tensor) -> Tensor:
        """Instructions as numbers of words, int64 ``(B, W)`` padded with 0, to what they make of pictures: ``(B, 2 *
        COARSE * blocks + NAMED * COARSE)``."""
        words = self.text(ids)
        valid = (ids != 0)[..., None]
        mean = (words * valid).sum(1) / valid.sum(1).clamp(min=1)
        share = self.asks(words).float().masked_fill(~valid, BLOCKED).softmax(1).to(words.dtype)
        sought = self.sought(share.transpose(1, 2) @ words)
        return torch.cat([self.film(mean), sought.flatten(1)], 1)

    def maps(self, pictures: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Of pictures uint8 ``(N, height, width, 3)`` and as many results of :meth:`read`: which of the ``height / 4 *
        width / 4`` cells answer, logits float32 ``(N, NAMED, cells)``; and whether each thing is there, logits float32
        ``(N, NAMED)``."""
        x = pictures.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
        x = F.relu(self.patches(x))
        x = F.relu(x + self.fine(x))
        deep = F.relu(self.down(x))
        factors, sought = condition.split([2 * COARSE * _BLOCKS, NAMED * COARSE], 1)
        modulations = factors[..., None, None].chunk(2 * _BLOCKS, 1)
        for number, (convolution, norm) in enumerate(zip(self.coarse, self.norms, strict=True)):
            factor, offset = modulations[2 * number : 2 * number + 2]
            deep = F.relu(deep + norm(convolution(deep)).to(deep.dtype) * (1 + factor) + offset)
        x = self.across(x) + F.interpolate(deep, x.shape[-2:], mode="nearest")
        x = self.norm(x).flatten(2)
        logits = SHARPNESS * COARSE**-0.5 * (sought.unflatten(1, (NAMED, COARSE)).to(x.dtype) @ x).float()
        found = logits.softmax(-1).to(x.dtype) @ x.transpose(1, 2)
        return logits, self.there(found)[..., 0].float()

    def forward(self, pictures: Tensor, condition: Tensor, outlined: bool = False) -> Tensor:
        """As :meth:`maps`, to places: float32 ``(N, NAMED, 3)``, x and y from -EDGE to EDGE, and from 0 to EDGE how
        sure it is that the thing is there. ``outlined`` adds what :func:`~polysoma.nn.outlines.outlines` says. The
        surer, the farther from 0: a place of nothing says nothing."""
        height, width = int(pictures.shape[1]) // 4, int(pictures.shape[2]) // 4
        logits, seen = self.maps(pictures, condition)
        there = torch.sigmoid(2 * seen)[..., None]
        places = logits.softmax(-1) @ coordinates(height, width, logits)
        found = [places * there, EDGE * there]
        if outlined:
            with torch.autocast(pictures.device.type, enabled=False):
                found.append(outlines(pictures, logits) * there)
        return torch.cat(found, -1)


class NamedPlaces(nn.Module):
    """Pictures of any camera to one token each: where the named things are (:class:`Finder`). The finder itself does
    not learn.

    Args:
        config: see :class:`~polysoma.nn.images.ImageConfig`; its words are the finder's.
        roles: names of camera streams.
        width: of tokens.
        vocabulary: the words of the policy, whose numbers instructions come in.
    """

    own: Tensor

    def __init__(self, config: ImageConfig, roles: Sequence[str], width: int, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.finder = Finder(config.words).requires_grad_(False)
        numbers = [0, 1, *(self.finder.words.get(word, 1) for word in vocabulary)]
        self.register_buffer("own", torch.tensor(numbers), persistent=False)
        self.numbers = NAMED * (3 + MEASURES * config.outlines)
        self.out = nn.Linear(self.numbers, width)
        self.waved = nn.Linear(2 * self.numbers * config.waves, width, bias=False) if config.waves else None
        self.roles = Parameters({role: torch.randn(width) * 0.02 for role in sorted(roles)})

    def read(self, words: Tensor, ids: Tensor) -> Tensor:
        """See :meth:`Finder.read`; numbers of words are the policy's."""
        return self.finder.read(self.own[ids]).to(words.dtype)

    def look(self, pictures: Tensor, condition: Tensor) -> Tensor:
        """What the finder says of pictures uint8 ``(N, height, width, 3)`` and as many results of :meth:`read`: float32
        ``(N, numbers)``."""
        return self.finder(reduced(pictures), condition, self.config.outlines).flatten(1)

    def forward(self, pictures: Tensor, condition: Tensor, role: str) -> Tensor:
        """uint8 ``(B, T, height, width, 3)`` of one camera, or what :meth:`look` said of each, float32 ``(B, T,
        numbers)``, to ``(B, T, 1, width)``."""
        batch, time = pictures.shape[:2]
        found = pictures.flatten(0, 1)
        if not pictures.is_floating_point():
            found = self.look(found, condition.repeat_interleave(time, 0))
        token = self.out(found).float()
        if self.waved is not None:
            # A quarter turn for each EDGE is the slowest one.
            token = token + self.waved(waves(found.float(), self.config.waves, math.pi / 2 / EDGE)).float()
        return (token + self.roles[role]).view(batch, time, 1, -1)


def reduced(pictures: Tensor) -> Tensor:
    """uint8 ``(N, height, width, 3)`` with about ROWS rows, by averages over whole blocks of pixels."""
    block = _block(int(pictures.shape[1]))
    if block == 1:
        return pictures
    small = F.avg_pool2d(pictures.permute(0, 3, 1, 2).float(), block)
    return small.round().to(torch.uint8).permute(0, 2, 3, 1)


def reduced_size(height: int, width: int) -> tuple[int, int]:
    """The size of such pictures once they are :func:`reduced`."""
    return height // _block(height), width // _block(height)


def readable(config: ImageConfig, height: int, width: int) -> bool:
    """Whether such eyes can read pictures of this size (:attr:`ImageConfig.least`)."""
    sides = reduced_size(height, width) if config.reduction == "named" else (height, width)
    return all(side >= least for side, least in zip(sorted(sides), config.least, strict=True))


def _block(height: int) -> int:
    """The side in pixels of the blocks whose averages make pictures smaller."""
    return max(1, height // ROWS)


def shipped() -> Path:
    """The folder of the finder that comes with the package: ``finder.safetensors``, ``words.txt`` and
    ``colors.txt``."""
    return Path(str(resources.files("polysoma"))) / "weights" / "finder"


def shipped_words() -> tuple[str, ...]:
    """The words that the shipped finder knows."""
    return tuple((shipped() / "words.txt").read_text(encoding="utf-8").split())


def shipped_colors() -> tuple[str, ...]:
    """Those of its words that are colours."""
    return tuple((shipped() / "colors.txt").read_text(encoding="utf-8").split())


def shipped_weights() -> dict[str, Tensor]:
    """Those of the shipped finder, float32."""
    from safetensors.torch import load_file

    return {name: value.float() for name, value in load_file(shipped() / "finder.safetensors").items()}

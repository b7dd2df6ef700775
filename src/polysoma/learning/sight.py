"""Which eyes a body with new cameras begins with: ones that find what its instructions name, where they do find it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from polysoma.data.mixture import Source
from polysoma.embodiment import Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.nn.finder import Finder, readable, reduced, shipped_colors, shipped_weights, shipped_words
from polysoma.nn.images import ImageConfig
from polysoma.nn.words import split_words

ENOUGH = 0.7
"""The share of episodes at whose beginning the named thing must be seen by a camera."""
_EPISODES = 48


Eyes = Literal["auto", "named", "points"]
_NAMED = ImageConfig(reduction="named", tokens=1, outlines=True, waves=3)


def eyes_for(sources: Sequence[Source], wanted: Eyes = "auto") -> ImageConfig | None:
    """How these bodies' pictures become tokens from now on; None where none of them has a camera.

    Args:
        sources: their demonstrations.
        wanted: ``"named"``, places of what the instructions name (:class:`~polysoma.nn.finder.NamedPlaces`);
            ``"points"``, which are learnt anew (:class:`~polysoma.nn.images.Points`); or ``"auto"``, the former where
            the finder sees what is named at the beginning of most episodes of each body, and else the latter.

    Raises:
        PolysomaError: ``"named"`` is wanted for pictures that are too small for the finder.
    """
    seeing = [source for source in sources if cameras(source.embodiment)]
    if not seeing:
        return None
    if wanted == "named" and (small := [name for source in seeing for name in _too_small(source.embodiment)]):
        raise PolysomaError(
            f"eyes: named needs pictures of {_NAMED.least[0]} pixels a side, those of {', '.join(small)} are smaller"
        )
    if wanted == "named" or (wanted == "auto" and min(map(in_sight, seeing)) >= ENOUGH):
        return dataclasses.replace(_NAMED, words=shipped_words())
    return ImageConfig(reduction="points")


def cameras(body: Embodiment) -> list[str]:
    """The streams of pictures that a body sees."""
    return [stream.name for stream in body.arrays if stream.modality is Modality.IMAGE]


def _too_small(body: Embodiment) -> list[str]:
    """The cameras whose pictures the finder cannot read."""
    return [name for name in cameras(body) if not readable(_NAMED, *body.stream(name).shape[:2])]


@torch.no_grad()
def in_sight(source: Source) -> float:
    """The share of episodes at whose beginning a camera sees what the instruction names first, as far as the shipped
    finder can tell. An instruction without a colour that it knows counts as not seen: shapes
    of things that it was not taught (a banana, say) it takes for others."""
    if _too_small(source.embodiment):
        return 0.0
    finder = Finder(shipped_words()).eval()
    finder.load_state_dict(shipped_weights())
    colors = set(shipped_colors())
    episodes = [(number, int(episode), 0) for number, chosen in enumerate(source.episodes_of()) for episode in chosen]
    picks = np.unique(np.linspace(0, len(episodes) - 1, min(_EPISODES, len(episodes))).astype(int))
    batch = source.ending_at(np.array([episodes[pick] for pick in picks]))
    tasks = range(len(picks)) if batch.task_of is None else batch.task_of.tolist()
    texts = [batch.instructions[task] for task in tasks]
    named = torch.tensor([not colors.isdisjoint(split_words(text)) for text in texts])
    condition = finder.read(finder.text.encode(texts))
    seen = torch.zeros(len(picks), dtype=torch.bool)
    for camera in cameras(source.embodiment):
        seen |= finder.maps(reduced(batch.observations[camera][:, 0]), condition)[1][:, 0] > 0
    return float((seen & named).float().mean())

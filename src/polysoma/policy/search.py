"""A model to search in, of one body whose actions are choices: latents, how choices change them and what that earns,
and what is believed of choices and worth in them (Schrittwieser et al. 2020, "MuZero", arXiv 1911.08265).

:mod:`polysoma.learning.methods.search` learns it from what it plays. Its checkpoint is a folder like any other, and its
planner (:class:`polysoma.acting.searching.SearchPlanner`) is accepted wherever a planner is. It reads no words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, one_hot

from polysoma.config import check, within
from polysoma.embodiment import Embodiment
from polysoma.nn.perceptrons import perceptron
from polysoma.nn.world import BINS, bins, symlog, two_hot_mean
from polysoma.policy import small
from polysoma.policy.rows import RowPolicy, check_choices

KIND = "search"
"""What ``config.json`` calls such a checkpoint."""


@dataclass(frozen=True)
class SearchConfig:
    """What such a model is.

    Attributes:
        embodiment: the one body that it knows.
        width: of latents and hidden layers.
        discount: of a step, in the values that it learnt.

    Raises:
        PolysomaError: actions that are numbers, or a body that senses pictures or nothing.
    """

    embodiment: Embodiment
    width: Annotated[int, within(1, 65_536)] = 128
    discount: Annotated[float, within(0, 1, below=True)] = 0.97

    def __post_init__(self) -> None:
        check(self)
        check_choices(self.embodiment)

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        body = self.embodiment.to_json()
        return {"kind": KIND, "embodiment": body, "width": self.width, "discount": self.discount}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SearchConfig:
        """The inverse of :meth:`to_json`. Raises PolysomaError, in one line."""
        body, stored = small.stored_beside_body(data, _Stored, "a model to search in")
        return SearchConfig(body, stored.width, stored.discount)


@dataclass(frozen=True)
class _Stored:
    """A configuration in JSON, without the embodiment."""

    width: int = 128
    discount: float = 0.97


class SearchPolicy(RowPolicy):
    """Such a model.

    Attributes:
        config: what it is.
        returns: float32 ``(2,)``, the least and the highest return that learning saw, 0 among them; a buffer.
    """

    config: SearchConfig
    returns: Tensor

    def __init__(self, config: SearchConfig) -> None:
        super().__init__(config.embodiment)
        self.config, choices, width = config, config.embodiment.actions.size, config.width
        self._choices = choices
        self.register_buffer("returns", torch.zeros(2))
        self.encode = perceptron(self.seen, width, width, 1)
        self.change = perceptron(width + choices, width + BINS, width, 1)
        self.believe = perceptron(width, choices + BINS, width, 1)
        # Nothing is expected or preferred at first: large rewards and values are the least likely, of both signs alike.
        for part, kept in ((self.change, width), (self.believe, 0)):
            last = part[-1]
            assert isinstance(last, nn.Linear)
            with torch.no_grad():
                last.weight[kept:], last.bias[kept:] = 0, 0
                last.bias[-BINS:] = -2 * symlog(bins(last.bias)).abs()

    @property
    def reach(self) -> float:
        """The range of returns."""
        return float(self.returns[1] - self.returns[0])

    def represent(self, rows: Tensor) -> Tensor:
        """The latents of what is observed: rows ``(B, n)``, float32 or uint8, to ``(B, width)``. All latents have a
        mean of 0 and a standard deviation of 1, so that none runs away in a long search."""
        return self._scaled(self.encode(self.features(rows)))

    def follow(self, latents: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The latents after choices, int64 ``(B,)``, and logits of what these earn, ``(B, BINS)``
        (:func:`~polysoma.nn.world.two_hot_mean`)."""
        given = torch.cat([latents, one_hot(actions, self._choices).to(latents.dtype)], 1)
        changes, earned = self.change(given).split([self.config.width, BINS], 1)
        return self._scaled(latents + changes), earned

    def beliefs(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the choices, ``(B, A)``, and of what latents ``(B, width)`` are worth, ``(B, BINS)``."""
        choices, worth = self.believe(latents).split([self._choices, BINS], 1)
        return choices, worth

    def expect(self, latents: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~polysoma.nn.tree.Model`."""
        after, earned = self.follow(latents, actions)
        return after, two_hot_mean(earned)

    def judge(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~polysoma.nn.tree.Model`."""
        choices, worth = self.beliefs(latents)
        return choices, two_hot_mean(worth)

    def _scaled(self, latents: Tensor) -> Tensor:
        return layer_norm(latents, latents.shape[1:])


def load(path: str | Path) -> SearchPolicy:
    """Loads such a model for use, frozen.

    Raises:
        PolysomaError: there is no checkpoint, it is of another kind, or its weights are damaged or do not fit.
    """
    what = "model to search in (polysoma world play --method search)"
    return small.load(path, KIND, what, SearchConfig.from_json, SearchPolicy)

"""Searching a tree of choices with a learnt model: Gumbel MuZero (Danihelka et al. 2022, openreview bERaNdoegnO).

MuZero (Schrittwieser et al. 2020, arXiv 1911.08265) looks ahead in the latents of its model, guided by what it believes
of choices. With Gumbel noise and sequential halving at the root, few simulations improve on what was believed. Many
trees grow at a time, as arrays, and so do all choices at a root that are tried equally often; nothing recurs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import numpy as np
import torch
from torch import Tensor

from polysoma.config import check, within


class Model(Protocol):
    """What is searched in."""

    def expect(self, latents: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """What follows latents ``(B, D)`` after choices, int64 ``(B,)``: latents, and rewards ``(B,)``."""
        ...

    def judge(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Of latents ``(B, D)``: logits of the choices, ``(B, A)``, and values, ``(B,)``."""
        ...


@dataclass(frozen=True)
class Searching:
    """How thoroughly is searched.

    Attributes:
        simulations: steps of the model from each root.
        considered: choices at the root that are tried at most.
        visits, scale: how much values count beside what was believed before: in logits, ``(visits + most visits) *
            scale`` for the whole range of returns (sigma, equation 8 of the paper, with its numbers for Go).
    """

    simulations: Annotated[int, within(1, 10_000)] = 10
    considered: Annotated[int, within(1, 10_000)] = 16
    visits: Annotated[float, within(0, 10**6)] = 50.0
    scale: Annotated[float, within(0, 10**6)] = 0.5

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        choices: the best ones, with the noise, int64 ``(L,)``.
        policy: the improved chances of all choices, float32 ``(L, A)`` (equation 11).
    """

    choices: np.ndarray
    policy: np.ndarray


@torch.no_grad()
def search(
    model: Model, latents: Tensor, settings: Searching, discount: float, reach: float, noise: np.ndarray
) -> Found:
    """Searches from L roots.

    Args:
        model: what is searched in.
        latents: of the roots, ``(L, D)``.
        settings: see :class:`Searching`.
        discount: of a step.
        reach: the range of returns; values are compared in parts of it. 0 where no return differs from another.
        noise: of Gumbel's distribution, ``(L, A)``, with which choices are drawn from the improved policy; zeros take
            the best one.
    """
    trees = _Trees(model, latents, settings, reach)
    for tried, count in sweeps(min(settings.considered, noise.shape[1]), settings.simulations):
        trees.grow(trees.at_root(noise, tried, count), discount)
    roots = trees.roots
    visits, improved = trees.visits[roots], trees.improved(roots)
    best = np.where(visits == visits.max(1, keepdims=True), noise + improved, -np.inf)
    return Found(best.argmax(1), _softmax(improved))


def sweeps(considered: int, simulations: int) -> list[tuple[int, int]]:
    """How often the choices at the root that are tried together were tried before, and how many they are: sequential
    halving (figure 1 of the paper). All that are considered are tried equally often, then the better half of them, and
    so on."""
    rounds, left, found = max(1, (considered - 1).bit_length()), simulations, list[tuple[int, int]]()
    while left:
        for _ in range(max(1, simulations // (rounds * considered))):
            count = min(considered, left)
            left -= count
            found += [(len(found), count)] if count else []
        considered = max(min(2, considered), considered // 2)
    return found


class _Trees:
    """L trees of nodes that are counted through: tree l's are those from ``l * (simulations + 1)`` on, its root first.

    Attributes:
        roots: int64 ``(L,)``.
        visits: how often each choice was tried, float32 ``(L * nodes, A)``.
    """

    def __init__(self, model: Model, latents: Tensor, settings: Searching, reach: float) -> None:
        self._model, self._settings, self._reach = model, settings, reach
        count, nodes = len(latents), settings.simulations + 1
        self.roots = np.arange(count) * nodes
        logits, values = model.judge(latents)
        size = (count * nodes, logits.shape[1])
        self._latents = latents.new_zeros(len(self.roots) * nodes, latents.shape[1])
        self._latents[torch.from_numpy(self.roots)] = latents
        self._logits, self._chances, self._sums, self._rewards, self.visits = (
            np.zeros(size, np.float32) for _ in range(5)
        )
        self._values = np.zeros(size[0], np.float32)
        self._following = np.full(size, -1)
        self._made = 1
        self._write(self.roots, logits, values)

    def _write(self, at: np.ndarray, logits: Tensor, values: Tensor) -> None:
        """What is believed of nodes ``(N,)``."""
        self._logits[at], self._values[at] = logits.cpu().numpy(), values.cpu().numpy()
        self._chances[at] = _softmax(self._logits[at])

    def improved(self, at: np.ndarray) -> np.ndarray:
        """Logits of the choices in nodes ``(N,)``, with what their values say: ``(N, A)`` (equation 11). What was not
        tried counts as a mix of what the node and the tried ones are worth (equation 33)."""
        visits, chances = self.visits[at], self._chances[at]
        tried, most = visits > 0, visits.max(1, keepdims=True)
        values, total = self._sums[at] / np.maximum(visits, 1), visits.sum(1, keepdims=True)
        weights = chances * tried
        mean = (weights * values).sum(1, keepdims=True) / np.maximum(weights.sum(1, keepdims=True), 1e-9)
        mixed = (self._values[at][:, None] + total * mean) / (1 + total)
        factor = (self._settings.visits + most) * self._settings.scale / self._reach if self._reach else 0.0
        found: np.ndarray = self._logits[at] + factor * np.where(tried, values, mixed)
        return found

    def at_root(self, noise: np.ndarray, tried: int, count: int) -> np.ndarray:
        """The best ``count`` choices at the roots, with noise ``(L, A)``, among those that were tried so often:
        ``(L, count)``."""
        scores = np.where(self.visits[self.roots] == tried, noise + self.improved(self.roots), -np.inf)
        found: np.ndarray = np.argsort(-scores, 1, "stable")[:, :count]
        return found

    def _inside(self, at: np.ndarray) -> np.ndarray:
        """The choices in nodes ``(N,)`` that bring what was tried nearest to the improved policy (equation 14)."""
        visits = self.visits[at]
        found: np.ndarray = (
            _softmax(self.improved(at)) - visits / (1 + visits.sum(1, keepdims=True))
        ).argmax(1)  # fmt: skip
        return found

    def grow(self, choices: np.ndarray, discount: float) -> None:
        """Goes down all trees, by each of these choices ``(L, count)`` first, to a step that was not made yet, makes
        it, and tells all above what it is worth. Below different choices nothing is shared, so all go at once."""
        count = choices.shape[1]
        walks, at, actions = np.arange(choices.size), self.roots.repeat(count), choices.ravel()
        made = at + np.tile(self._made + np.arange(count), len(choices))
        self._made += count
        ends, last, way = at.copy(), actions.copy(), []
        while len(walks):
            way.append((walks, at, actions))
            ends[walks], last[walks] = at, actions
            below = self._following[at, actions]
            deeper = below >= 0
            walks, at = walks[deeper], below[deeper]
            actions = self._inside(at)
        ended = torch.from_numpy(last).to(self._latents.device)
        latents, rewards = self._model.expect(self._latents[torch.from_numpy(ends)], ended)
        logits, values = self._model.judge(latents)
        self._latents[torch.from_numpy(made)] = latents
        self._following[ends, last], self._rewards[ends, last] = made, rewards.cpu().numpy()
        self._write(made, logits, values)
        gained = self._values[made]
        for walks, at, actions in reversed(way):
            gained[walks] = self._rewards[at, actions] + discount * gained[walks]
            self._sums[at, actions] += gained[walks]
            self.visits[at, actions] += 1


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    found: np.ndarray = powers / powers.sum(1, keepdims=True)
    return found

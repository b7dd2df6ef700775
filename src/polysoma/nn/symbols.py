"""Symbols as zeros and ones, and what choices do to them: after a turn a grid shows elsewhere what it showed before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

_WHOLE = 64
"""Bits of a stream that one matrix joins, at most. Of more, cells are joined, and all values go the same way."""
_RIDGE = 1.0
_FEWEST = 8
"""Steps from which it is taken what a choice does."""
_ALIKE = 0.98
"""The part of the steps in which a cell shows what another one showed, if it takes from there what it shows."""
_LEAST = 0.003
"""Chances below are none when symbols are drawn: small errors in many cells would show something everywhere."""


class Grid(NamedTuple):
    """A stream of symbols: so many cells, each of ids that have so many values each."""

    cells: int
    cardinalities: tuple[int, ...]

    @property
    def bits(self) -> int:
        """A 0 or 1 for each value of each id of each cell."""
        return self.cells * sum(self.cardinalities)


class Symbols(nn.Module):
    """Streams of symbols side by side.

    Args:
        grids: the streams.
        choices: among which an action chooses; 1 where actions are numbers, which move nothing by themselves.

    Attributes:
        bits: of all streams.
        moves: of each stream the matrices of the choices, ``(choices, cells, cells)``, by which what a cell shows goes
            to others. They begin as standing still.
        shown: of each stream what cells show beside, float32 ``(choices, cells, values)``.
        loose: float32 ``(choices, bits)``, 0 for what is taken from another cell as it is; a buffer.
    """

    loose: Tensor

    def __init__(self, grids: Sequence[Grid], choices: int) -> None:
        super().__init__()
        self._grids, self._choices = tuple(grids), choices
        self.bits = sum(grid.bits for grid in grids)
        shapes = [
            (grid.bits, 1) if grid.bits <= _WHOLE else (grid.cells, sum(grid.cardinalities)) for grid in self._grids
        ]
        self._shapes = shapes
        self.moves = nn.ParameterList([nn.Parameter(torch.eye(cells).repeat(choices, 1, 1)) for cells, _ in shapes])
        self.shown = nn.ParameterList([nn.Parameter(torch.zeros(choices, *shape)) for shape in shapes])
        self.register_buffer("loose", torch.ones(choices, self.bits), persistent=bool(self._grids))

    def seen(self, ids: Tensor) -> Tensor:
        """Ids ``(..., n)``, the streams one after the other, as float32 ``(..., bits)``."""
        parts, at = [ids.new_zeros((*ids.shape[:-1], 0))], 0
        for grid in self._grids:
            held = ids[..., at : (at := at + grid.cells * len(grid.cardinalities))]
            held = held.unflatten(-1, (grid.cells, -1)).long()
            values = [one_hot(held[..., n], count) for n, count in enumerate(grid.cardinalities)]
            parts.append(torch.cat(values, -1).flatten(-2))
        return torch.cat(parts, -1).float()

    def ids(self, bits: Tensor) -> Tensor:
        """The most probable ids ``(..., n)`` of chances ``(..., bits)``, int64."""
        found = [bits.new_zeros((*bits.shape[:-1], 0), dtype=torch.long)]
        for grid, held in zip(self._grids, self._split(bits), strict=True):
            values = held.unflatten(-1, (grid.cells, -1)).split(grid.cardinalities, -1)
            found.append(torch.stack([one.argmax(-1) for one in values], -1).flatten(-2))
        return torch.cat(found, -1)

    def following(self, bits: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """What an action ``(B, A)`` is expected to make of bits ``(B, bits)``, linearly, and by a ``change`` of what is
        not taken from other cells: alike."""
        choice, parts = self._chosen(action), []
        for held, shape, moves, shown in zip(self._split(bits), self._shapes, self.moves, self.shown, strict=True):
            parts.append((moves[choice] @ held.unflatten(-1, shape) + shown[choice]).flatten(-2))
        return torch.cat(parts, -1) + self.loose[choice] * change

    def settled(self, chances: Tensor, generator: torch.Generator | None) -> Tensor:
        """Symbols of these chances ``(B, bits)``, which need not be quite such: each id is drawn, or the most probable
        one without a generator. Their gradient is that of the chances (straight-through, Bengio et al. 2013)."""
        parts = []
        for grid, held in zip(self._grids, self._split(chances.detach()), strict=True):
            values = held.unflatten(-1, (grid.cells, -1)).split(grid.cardinalities, -1)
            parts.append(torch.cat([one_hot(_drawn(one, generator), one.shape[-1]) for one in values], -1).flatten(-2))
        hard = torch.cat(parts, -1).to(chances.dtype)
        return hard + (chances - chances.detach())

    @torch.no_grad()
    def fit(self, before: Tensor, action: Tensor, after: Tensor) -> None:
        """Takes what choices did in N steps, by ridge regression: bits ``(N, bits)`` before and after, and the actions
        ``(N, A)`` between them. Steps that changed nothing say nothing, and a choice that hardly ever changed something
        stands still."""
        changed = (before != after).any(1)
        before, after, choice = before[changed], after[changed], self._chosen(action)[changed]
        parts = (self._split(before), self._split(after), self._split(self.loose))
        for grid, old, new, loose, shape, moves, shown in zip(
            self._grids, *parts, self._shapes, self.moves, self.shown, strict=True
        ):
            for number in range(self._choices):
                made = choice == number
                if made.sum() < _FEWEST:
                    continue
                x, y = old[made].unflatten(-1, shape), new[made].unflatten(-1, shape)
                if shape[1] > 1:
                    found = _sources(x, y, len(grid.cardinalities))
                    loose[number] = (1 - found.sum(1, keepdim=True)).expand(shape).flatten()
                else:
                    found = _joined(x[..., 0], y[..., 0])
                moves[number] = found
                shown[number] = y.mean(0) - found @ x.mean(0)

    def _split(self, bits: Tensor) -> Sequence[Tensor]:
        return bits.split([grid.bits for grid in self._grids], -1) if self._grids else ()

    def _chosen(self, action: Tensor) -> Tensor:
        """Which choice an action ``(B, A)`` is: int64 ``(B,)``."""
        if self._choices == 1:
            return torch.zeros(len(action), dtype=torch.long, device=action.device)
        return action.argmax(-1)


def _sources(before: Tensor, after: Tensor, ids: int) -> Tensor:
    """From which cell each cell takes what it shows, if from any: ``(cells, cells)`` of 0 and 1. Of N steps of so many
    ids a cell, bits ``(N, cells, values)``."""
    alike = torch.einsum("ndv,nsv->nds", after, before).eq(ids).double().mean(0)
    # Where several do as well, its own.
    share, source = (alike + 1e-6 * torch.eye(len(alike)).to(alike)).max(1)
    return one_hot(source, len(share)).to(before) * (share > _ALIKE)[:, None]


def _joined(before: Tensor, after: Tensor) -> Tensor:
    """What bits become, linearly, by ridge regression of N steps ``(N, bits)``: ``(bits, bits)``."""
    x, change = (before - before.mean(0)).double(), (after - before - (after - before).mean(0)).double()
    identity = torch.eye(x.shape[1]).to(x)
    return (torch.linalg.solve(x.T @ x + _RIDGE * identity, x.T @ change).T + identity).to(before)


def _drawn(chances: Tensor, generator: torch.Generator | None) -> Tensor:
    """Which of the last axis are drawn, in proportion to chances ``(..., values)``: int64 ``(...)``."""
    if generator is None:
        return chances.argmax(-1)
    below = torch.where(chances < _LEAST, 0.0, chances).cumsum(-1)
    place = torch.rand(below.shape[:-1], generator=generator, device=below.device)[..., None] * below[..., -1:]
    return (below <= place).sum(-1).clamp(max=chances.shape[-1] - 1)

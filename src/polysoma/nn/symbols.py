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
    """

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

    def following(self, bits: Tensor, action: Tensor) -> Tensor:
        """What an action ``(B, A)`` is expected to make of bits ``(B, bits)``, linearly, alike."""
        choice, parts = self._chosen(action), []
        for held, shape, moves, shown in zip(self._split(bits), self._shapes, self.moves, self.shown, strict=True):
            parts.append((moves[choice] @ held.unflatten(-1, shape) + shown[choice]).flatten(-2))
        return torch.cat(parts, -1)

    def settled(self, chances: Tensor, generator: torch.Generator | None) -> Tensor:
        """Symbols of these chances ``(B, bits)``, which need not be quite such: each id is drawn, or the most probable
        one without a generator. Their gradient is that of the chances (straight-through, Bengio et al. 2013)."""
        parts = []
        for grid, held in zip(self._grids, self._split(chances.detach()), strict=True):
            values = held.unflatten(-1, (grid.cells, -1)).split(grid.cardinalities, -1)
            parts.append(torch.cat([one_hot(_drawn(one, generator), one.shape[-1]) for one in values], -1).flatten(-2))
        hard = torch.cat(parts, -1).to(chances.dtype)
        return hard + chances - chances.detach()

    @torch.no_grad()
    def fit(self, before: Tensor, action: Tensor, after: Tensor) -> None:
        """Takes what choices did in N steps, by ridge regression: bits ``(N, bits)`` before and after, and the actions
        ``(N, A)`` between them. A choice that was never made stands still."""
        choice = self._chosen(action)
        for old, new, shape, moves, shown in zip(
            self._split(before), self._split(after), self._shapes, self.moves, self.shown, strict=True
        ):
            for number in range(self._choices):
                if not (made := choice == number).any():
                    continue
                x, y = old[made].unflatten(-1, shape).double(), new[made].unflatten(-1, shape).double()
                means = x.mean(0), y.mean(0)
                # A row for each step and value.
                x, change = (x - means[0]).mT.flatten(0, 1), (y - means[1] - x + means[0]).mT.flatten(0, 1)
                square = x.T @ x + _RIDGE * torch.eye(shape[0], dtype=x.dtype, device=x.device)
                found = torch.linalg.solve(square, x.T @ change).T + torch.eye(shape[0]).to(x)
                moves[number] = found.float()
                shown[number] = (means[1] - found @ means[0]).float()

    def _split(self, bits: Tensor) -> Sequence[Tensor]:
        return bits.split([grid.bits for grid in self._grids], -1) if self._grids else ()

    def _chosen(self, action: Tensor) -> Tensor:
        """Which choice an action ``(B, A)`` is: int64 ``(B,)``."""
        if self._choices == 1:
            return torch.zeros(len(action), dtype=torch.long, device=action.device)
        return action.argmax(-1)


def _drawn(chances: Tensor, generator: torch.Generator | None) -> Tensor:
    """Which of the last axis are drawn, in proportion to chances ``(..., values)``: int64 ``(...)``."""
    if generator is None:
        return chances.argmax(-1)
    below = torch.where(chances < _LEAST, 0.0, chances).cumsum(-1)
    place = torch.rand(below.shape[:-1], generator=generator, device=below.device)[..., None] * below[..., -1:]
    return (below <= place).sum(-1).clamp(max=chances.shape[-1] - 1)

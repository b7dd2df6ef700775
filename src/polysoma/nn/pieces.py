"""Short pieces of what a body does and where that takes it, drawn together by flow matching.

Diffuser (Janner et al. 2022, arXiv 2205.09991) draws states and actions as one, so that actions can be judged by where
they lead before any is done: of several draws the one is done that gets nearest, at the least cost. The place and
whatever else the body senses now are told, and so is where it is to go. Ways of many places
(:mod:`polysoma.nn.paths`) say where that is; here is what is done in between, by bodies of any kind.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from polysoma.nn.flow import Guide, cost_of, descended, drawn
from polysoma.nn.paths import timed
from polysoma.nn.perceptrons import ResidualPerceptron
from polysoma.nn.waves import waves

_WAVES, _TIMES = 4, 16
DRAWS = 16
"""Pieces that are drawn for one action."""


class Pieces(ResidualPerceptron):
    """Draws pieces of one body.

    Args:
        seen: numbers that the body senses.
        places: how many of them say where it is.
        actions: numbers of an action.
        steps: of a piece.
        width, depth: of the residual blocks.

    Attributes:
        unit: how far places are from the first one after each step, on average in the logs, ``(steps, places)``.
        near: how far goals were when it learnt, on average.
    """

    unit: Tensor
    near: Tensor
    noise: Tensor

    def __init__(self, seen: int, places: int, actions: int, steps: int, width: int, depth: int) -> None:
        told = seen + places * (1 + 2 * _WAVES) + _TIMES
        super().__init__(steps * (actions + places) + told, steps * (actions + places), width, depth)
        self.steps, self.actions = steps, actions
        self.register_buffer("unit", torch.ones(steps, places))
        self.register_buffer("near", torch.ones(()))
        # Always the same draws: who acts gives the same answer to the same question.
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(DRAWS, steps, actions + places, generator=generator)
        self.register_buffer("noise", noise, persistent=False)

    def measure(self, moved: Tensor, ways: Tensor) -> None:
        """Takes the statistics of pieces: how far their places ``(N, steps, places)`` are from the first one, and of
        ways to goals, ``(N, places)``."""
        self.unit.copy_(moved.square().mean(0).sqrt().clamp(min=1e-6))
        self.near.copy_(ways.norm(dim=-1).mean().clamp(min=1e-6))

    def forward(self, x: Tensor, time: Tensor, seen: Tensor, way: Tensor) -> Tensor:
        """The clean pieces behind noisy ones.

        Args:
            x: ``(B, steps, actions + places)``, normalised.
            time: ``(B,)`` from 0, noise, to 1.
            seen: what is sensed at the beginning, normalised, ``(B, seen)``.
            way: from the place to the goal, ``(B, places)``.
        """
        way = way / self.near
        told = [seen, way, waves(way, _WAVES), waves(time[:, None], _TIMES // 2)]
        return self.blocked(torch.cat([x.flatten(1), *told], 1)).view(x.shape)

    def losses(
        self, actions: Tensor, moved: Tensor, known: Tensor, seen: Tensor, way: Tensor, noise: Tensor, progress: Tensor
    ) -> Tensor:
        """Squared errors ``(B,)`` of what is seen behind noise.

        Args:
            actions: in parts of half the range, ``(B, steps, actions)``.
            moved: places after each step from the first one, ``(B, steps, places)``.
            known: 1 for the steps that were made, ``(B, steps)``; an episode may end within a piece.
            seen, way: as of :meth:`forward`.
            noise: standard normal, ``(B, steps, actions + places)``.
            progress: ``(B,)``, even from 0 to 1.
        """
        clean, time = torch.cat([actions, moved / self.unit], 2), timed(progress)
        found = self(torch.lerp(noise, clean, time[:, None, None]), time, seen, way)
        return ((found - clean).square().mean(2) * known).sum(1) / known.sum(1).clamp(min=1)

    @torch.no_grad()
    def chosen(
        self, seen: Tensor, place: Tensor, way: Tensor, guides: Sequence[Guide] = (), steps: int = 3
    ) -> tuple[Tensor, Tensor]:
        """The best of the pieces that are drawn for each of B states: whose places are nearest to the goal on average,
        with what guides say.

        Args:
            seen, way: as of :meth:`forward`.
            place: where the body is, ``(B, places)``.
            guides: costs of the places, the first one included, ``(N, steps + 1, places)``; their gradients pull.
            steps: from noise to pieces.

        Returns:
            Actions in parts of half the range, ``(B, steps, actions)``, and places ``(B, steps, places)``.
        """
        count = len(seen)
        told = [part.repeat_interleave(DRAWS, 0) for part in (seen, way)]
        here = place.repeat_interleave(DRAWS, 0)[:, None]

        def places(x: Tensor) -> Tensor:
            return torch.cat([here, here + x[..., self.actions :] * self.unit], 1)

        def clean(x: Tensor, time: float) -> Tensor:
            found: Tensor = self(x, torch.full((len(x),), time, device=x.device), *told)
            if not guides:
                return found
            pulled = descended(places(found), guides)[:, 1:] - here
            return torch.cat([found[..., : self.actions], pulled / self.unit], 2)

        times = timed(torch.linspace(0, 1, steps + 1)).tolist()
        x = drawn(self.noise.repeat(count, 1, 1), times, clean)
        reached = places(x)
        away = (reached[:, 1:] - here - told[1][:, None]).norm(dim=-1).mean(1)
        cost = torch.stack([away, *(cost_of(guide, reached) for guide in guides)]).sum(0)
        best = cost.view(count, DRAWS).argmin(1) + DRAWS * torch.arange(count, device=x.device)
        return x[best, :, : self.actions].clamp(-1, 1), reached[best, 1:]

"""Paths drawn by flow matching: whole ways from one place to another, of products alone.

Diffuser (Janner et al. 2022, arXiv 2205.09991) draws trajectories by denoising and sets what is known, start and goal,
in every step (inpainting, section 3.1); costs pull the draws by their gradients (guidance, section 3.2). Here the noise
is taken away along straight lines (flow matching, Lipman et al. 2023, arXiv 2210.02747), which needs few steps; a path
is places evenly spaced along the way, so that near and far goals have as many; and how long the way is to be is told,
so that short ways are asked for instead of hoped for. There are no convolutions: they are slow on processors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from polysoma.nn.flow import Guide, descended, drawn
from polysoma.nn.perceptrons import ResidualPerceptron
from polysoma.nn.waves import waves

_WAVES = 4
_INSIDE = 0.8
"""Repaired waypoints are no farther from a landmark than this part of the spread, as the middles between them count,
too."""
_TIMES = 16
_AT_A_TIME = 256
"""Places whose nearest ones are looked for together."""


class Paths(ResidualPerceptron):
    """Draws paths between places, and knows where logs have been.

    Args:
        places: channels of a place, all of one unit.
        waypoints: of a path, the start and the goal included; evenly spaced along it.
        width, depth: of the residual blocks.
        landmarks: places of the logs that are kept, to say how far a path is from all of them.

    Attributes:
        middle, unit: what places are normalised by, ``(places,)`` and ``()``.
        landmarks: ``(landmarks, places)``.
        spread: no place of the logs was farther than this from a landmark.
        longest: the longest path that was learnt.
        ahead: how far ahead the goals of whoever follows a path were when it learnt, on average.
    """

    middle: Tensor
    unit: Tensor
    landmarks: Tensor
    spread: Tensor
    longest: Tensor
    ahead: Tensor

    def __init__(self, places: int, waypoints: int, width: int, depth: int, landmarks: int = 512) -> None:
        inputs = waypoints * places * (1 + 2 * _WAVES) + 2 * _TIMES
        super().__init__(inputs, waypoints * places, width, depth)
        self.waypoints = waypoints
        self.register_buffer("middle", torch.zeros(places))
        self.register_buffer("unit", torch.ones(()))
        self.register_buffer("landmarks", torch.zeros(landmarks, places))
        for name in ("spread", "longest", "ahead"):
            self.register_buffer(name, torch.ones(()))

    def measure(self, places: np.ndarray, landmarks: np.ndarray, spread: float, longest: float, ahead: float) -> None:
        """Takes the statistics of places, float32 ``(N, places)``, and what else the logs say (see the attributes)."""
        self.middle.copy_(torch.from_numpy(places.mean(0, np.float64)))
        self.unit.fill_(max(float(places.std(0, np.float64).mean()), 1e-6))
        # Fewer places than landmarks: the last one several times.
        self.landmarks.copy_(
            torch.from_numpy(landmarks)[torch.arange(len(self.landmarks)).clamp(max=len(landmarks) - 1)]
        )
        for name, value in (("spread", spread), ("longest", longest), ("ahead", ahead)):
            getattr(self, name).fill_(value)

    def forward(self, x: Tensor, time: Tensor, length: Tensor) -> Tensor:
        """The clean paths behind noisy ones.

        Args:
            x: ``(B, H, places)``, normalised; the first and the last place are known.
            time: ``(B,)`` from 0, noise, to 1.
            length: ``(B,)``, of the clean paths, normalised.
        """
        places = x.flatten(1)
        told = torch.stack([time, length * (self.unit / self.longest)], 1)
        y = self.blocked(torch.cat([places, waves(places, _WAVES), waves(told, _TIMES // 2)], 1))
        return self.inpainted(straight(x) + y.view(x.shape), x)

    def inpainted(self, x: Tensor, known: Tensor) -> Tensor:
        """Paths with the ends of others."""
        return torch.cat([known[:, :1], x[:, 1:-1], known[:, -1:]], 1)

    def losses(self, paths: Tensor, length: Tensor, noise: Tensor, progress: Tensor) -> Tensor:
        """Squared errors ``(B,)`` of what is seen behind noise, in normalised places.

        Args:
            paths: clean, ``(B, H, places)``.
            length: ``(B,)``, how long the ways are.
            noise: standard normal, of the shape of paths.
            progress: ``(B,)``, even from 0 to 1, see :func:`timed`.
        """
        clean, time = (paths - self.middle) / self.unit, timed(progress)
        noisy = self.inpainted(torch.lerp(noise, clean, time[:, None, None]), clean)
        return (self(noisy, time, length / self.unit) - clean).square().mean((1, 2))

    @torch.no_grad()
    def draw(self, ends: Tensor, length: Tensor, noise: Tensor, guides: Sequence[Guide] = (), steps: int = 6) -> Tensor:
        """Paths ``(N, H, places)`` in the unit of places.

        Args:
            ends: start and goal, ``(2, places)`` of all or ``(N, 2, places)``.
            length: ``(N,)``, how long each is to be.
            noise: standard normal ``(N, H, places)``.
            guides: costs whose gradients pull the draws.
            steps: from noise to paths.
        """
        known = ((ends - self.middle) / self.unit).expand(len(noise), 2, -1)
        length = length / self.unit

        def clean(x: Tensor, time: float) -> Tensor:
            seen: Tensor = self(x, torch.full_like(length, time), length)
            if not guides:
                return seen
            return self.inpainted((descended(seen * self.unit + self.middle, guides) - self.middle) / self.unit, x)

        times = timed(torch.linspace(0, 1, steps + 1)).tolist()
        return drawn(self.inpainted(noise, known), times, clean) * self.unit + self.middle

    def away(self, paths: Tensor, known: Tensor | None = None) -> Tensor:
        """How far paths ``(N, H, places)`` lead from all that logs have seen, at most, ``(N,)``; 0 within the spread
        of the landmarks. Middles between waypoints count as well.

        Args:
            paths: in the unit of places.
            known: the landmarks that count, ``(K, places)``; None for all.
        """
        along = between(paths, 2)
        away, _ = nearest(along.flatten(0, 1), self.landmarks if known is None else known)
        return (away.view(along.shape[:2]) - self.spread).clamp(min=0).max(1).values

    def repaired(self, paths: Tensor, known: Tensor | None = None, times: int = 3) -> Tensor:
        """Paths ``(N, H, places)`` whose waypoints are brought back to where logs have been, and made even again: what
        is drawn is right about the way, and cuts corners. A path that leads through a wall gets a long piece there,
        which :meth:`away` sees. The ends stay.

        Args:
            paths, known: as of :meth:`away`.
            times: making even moves waypoints, too.
        """
        known = self.landmarks if known is None else known
        for _ in range(times):
            places = paths[:, 1:-1].flatten(0, 1)
            away, rows = nearest(places, known)
            outside = (away - _INSIDE * self.spread).clamp(min=0) / away.clamp(min=1e-9)
            moved = torch.lerp(places, known[rows], outside[:, None])
            paths = even(torch.cat([paths[:, :1], moved.view_as(paths[:, 1:-1]), paths[:, -1:]], 1))
        return paths


def nearest(places: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of known places ``(K, n)`` to places ``(N, n)``: how far it is, ``(N,)``, and which one, ``(N,)``."""
    middle = known.mean(0)
    centred, turned = (places - middle).detach(), -2 * (known - middle).T
    squares = (known - middle).square().sum(1)
    # Products of a few rows at a time stay in the processor's cache; numpy finds minima several times faster.
    rows = [torch.addmm(squares, part, turned).cpu().numpy().argmin(1) for part in centred.split(_AT_A_TIME)]
    found = torch.from_numpy(np.concatenate(rows)).to(places.device)
    return (places - known[found]).norm(dim=1), found


def timed(progress: Tensor) -> Tensor:
    """Times of progress, both from 0 to 1: more of them near noise, where it is decided which way a path takes. Paths
    are smooth, and little of them is hidden by much noise."""
    return progress.square()


def straight(ends: Tensor) -> Tensor:
    """Straight paths between the ends of paths ``(..., H, places)``, of that shape."""
    part = torch.linspace(0, 1, ends.shape[-2], device=ends.device)[:, None]
    return torch.lerp(ends[..., :1, :], ends[..., -1:, :], part)


def between(paths: Tensor, times: int) -> Tensor:
    """Paths ``(..., H, places)`` with so many pieces for each: ``(..., (H - 1) * times + 1, places)``."""
    parts = torch.arange(times, device=paths.device, dtype=paths.dtype)[:, None] / times
    pieces = torch.lerp(paths[..., :-1, None, :], paths[..., 1:, None, :], parts)
    return torch.cat([pieces.flatten(-3, -2), paths[..., -1:, :]], -2)


def even(paths: Tensor) -> Tensor:
    """The same ways as paths ``(N, H, places)``, with waypoints evenly spaced along them."""
    gone = torch.cat([paths.new_zeros(len(paths), 1), paths.diff(dim=1).norm(dim=-1).cumsum(1)], 1)
    wanted = torch.linspace(0, 1, paths.shape[1], device=paths.device) * gone[:, -1:]
    after = torch.searchsorted(gone, wanted).clamp(1, paths.shape[1] - 1)
    low, high = gone.gather(1, after - 1), gone.gather(1, after)
    part = ((wanted - low) / (high - low).clamp(min=1e-9))[..., None]
    rows = after[..., None].expand(paths.shape)
    return torch.lerp(paths.gather(1, rows - 1), paths.gather(1, rows), part)


def lengths(paths: Tensor) -> Tensor:
    """How long paths ``(..., H, places)`` are, ``(...)``."""
    return paths.diff(dim=-2).norm(dim=-1).sum(-1)

"""Paths drawn by denoising (Diffuser, Janner et al. 2022, arXiv 2205.09991), and a policy that follows them.

What draws (:mod:`polysoma.nn.paths`) learns from paths of the logs, which are joined where pieces are shorter
(:mod:`polysoma.data.paths`). They are paths of places alone: how to get to the next place is known by a linear law of
how the body moves (:mod:`polysoma.nn.steering`), or, where it does not move linearly, by pieces of actions and places
that are drawn together (:mod:`polysoma.nn.pieces`), which learn from pieces of the logs and near goals in hindsight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polysoma.config import check, within
from polysoma.data.paths import joined_paths, landmarks
from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError
from polysoma.learning.method import Metrics, Share
from polysoma.learning.offline import OfflineMethod
from polysoma.nn.pieces import Pieces
from polysoma.policy.skills import Conditioning, SkillPolicy

_FORESEEN, _PIECES = 1 / 3, 5000
"""Seconds of the pieces that the law for near goals is fitted to, and how many are looked at for it and for units."""


@dataclass(frozen=True)
class Diffusion:
    """Settings of paths by denoising.

    Attributes:
        batch: paths, and steps of a log, in each step of learning.
        waypoints: of a path.
        paths: that are drawn from the logs before learning.
        reach: how long they are at most, in ranges of the widest channel of places.
        piece: steps of a piece of actions and places.
        near: discount of a step that weighs how far ahead the goals of pieces are.
    """

    batch: Annotated[int, within(1, 10**6)] = 128
    waypoints: Annotated[int, within(3, 4096)] = 48
    paths: Annotated[int, within(1, 10**7)] = 20_000
    reach: Annotated[float, within(0, 1000, above=True)] = 2.0
    piece: Annotated[int, within(1, 4096)] = 16
    near: Annotated[float, within(0, 1, above=True, below=True)] = 0.93
    kind: Literal["diffusion"] = "diffusion"

    def __post_init__(self) -> None:
        check(self)

    def conditioning(self, goals: bool) -> Conditioning:
        """See :class:`~polysoma.learning.offline.OfflineSettings`."""
        if not goals:
            raise PolysomaError("diffusion learns ways to goals; from rewards there are cloning, iql and td3-bc")
        return "goal"

    def build(self, policy: SkillPolicy, replay: Replay, seed: int = 0) -> OfflineMethod:
        """See :class:`~polysoma.learning.offline.OfflineSettings`. Raises PolysomaError where nothing moves."""
        return _Diffusion(policy, replay, self, seed)


class _Diffusion(OfflineMethod):
    def __init__(self, policy: SkillPolicy, replay: Replay, settings: Diffusion, seed: int) -> None:
        super().__init__(policy, replay, settings.batch, settings.near, seed)
        assert policy.paths is not None
        self._draws = policy.paths
        rng, channels = np.random.default_rng([seed, 3]), policy.config.rows(policy.config.place)
        places = replay.states[:, channels]
        longest = settings.reach * float(np.ptp(places, axis=0).max())
        paths, lengths = joined_paths(replay, channels, settings.paths, settings.waypoints, longest, rng)
        self._paths, self._lengths = torch.from_numpy(paths), torch.from_numpy(lengths)
        known, spread = landmarks(places, len(self._draws.landmarks), rng)
        rows = replay.draw(4096, rng).rows
        ahead = np.linalg.norm(places[replay.future(rows, rng, settings.near)] - places[rows], axis=1).mean()
        self._draws.measure(places, known, spread, longest, float(ahead))
        rows = replay.choose(_PIECES, rng, observed=True)
        if policy.steering is not None:
            frames = max(1, round(_FORESEEN * policy.config.embodiment.rate_hz))
            states, actions, _ = replay.pieces(rows, frames)
            parts = policy.in_parts(torch.from_numpy(actions)).clamp(-1, 1).numpy()
            policy.steering.measure(states[..., policy.config.seen], parts, float(ahead))
        if policy.pieces is not None:
            piece = self._piece(policy.pieces, rows, rng, Share())
            policy.pieces.measure(piece.moved, piece.way)

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng, count = self.rng(step, share), -(-self.batch // share.count)
        which = torch.from_numpy(rng.integers(len(self._paths), size=count))
        clean = self._paths[which].to(share.device)
        path = self._draws.losses(
            clean, self._lengths[which].to(share.device), _normal(rng, clean), _even(rng, clean)
        ).mean()
        losses = {"path": path}
        if self.policy.pieces is not None:
            piece = self._piece(self.policy.pieces, self.replay.choose(count, rng, observed=True), rng, share)
            whole = torch.cat([piece.actions, piece.moved], 2)
            losses["piece"] = self.policy.pieces.losses(*piece, _normal(rng, whole), _even(rng, whole)).mean()
        torch.stack(list(losses.values())).sum().backward()
        return {f"loss/{name}": loss.item() for name, loss in losses.items()} | {"windows": float(count)}

    def _piece(self, pieces: Pieces, rows: np.ndarray, rng: np.random.Generator, share: Share) -> _Piece:
        """Pieces that begin in these rows, and near goals that were reached later: what is done in a step is the mean
        of its frames."""
        policy, stride = self.policy, self.replay.stride
        states, executed, there = self.replay.pieces(rows, pieces.steps * stride)
        reached = self.states(self.replay.future(rows, rng, self.discount), share)
        every = torch.from_numpy(states[:, ::stride]).to(share.device)
        parts = policy.in_parts(torch.from_numpy(executed).to(share.device)).clamp(-1, 1)
        places = policy.places(every)
        return _Piece(
            parts.unflatten(1, (pieces.steps, stride)).mean(2),
            places[:, 1:] - places[:, :1],
            torch.from_numpy(there[:, ::stride].astype(np.float32)).to(share.device),
            policy.state(every[:, 0]),
            policy.places(reached) - places[:, 0],
        )


class _Piece(NamedTuple):
    """What :meth:`~polysoma.nn.pieces.Pieces.losses` takes."""

    actions: Tensor
    moved: Tensor
    known: Tensor
    seen: Tensor
    way: Tensor


def _normal(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(like.shape).astype(np.float32)).to(like.device)


def _even(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.random(len(like)).astype(np.float32)).to(like.device)

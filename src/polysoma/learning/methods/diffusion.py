"""Paths drawn by denoising (Diffuser, Janner et al. 2022, arXiv 2205.09991), and a policy that follows them.

What draws (:mod:`polysoma.nn.paths`) learns from paths of the logs, which are joined where pieces are shorter
(:mod:`polysoma.data.paths`). They are paths of places alone: how to get to the next place is known by a linear law of
how the body moves (:mod:`polysoma.nn.steering`), or, where it does not move linearly, by the actor, which clones
towards near goals in hindsight, as :mod:`~polysoma.learning.methods.cloning` does towards all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch

from polysoma.config import check, within
from polysoma.data.paths import joined_paths, landmarks
from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError
from polysoma.learning.method import Metrics, Share
from polysoma.learning.objectives import regression
from polysoma.learning.offline import OfflineMethod
from polysoma.policy.skills import Conditioning, SkillPolicy

_FORESEEN, _PIECES = 1 / 3, 5000
"""Seconds of the pieces that the law for near goals is fitted to, and how many there are."""


@dataclass(frozen=True)
class Diffusion:
    """Settings of paths by denoising.

    Attributes:
        batch: paths, and steps of a log, in each step of learning.
        waypoints: of a path.
        paths: that are drawn from the logs before learning.
        reach: how long they are at most, in ranges of the widest channel of places.
        near: discount of a step that weighs how far ahead the actor's goals are.
    """

    batch: Annotated[int, within(1, 10**6)] = 128
    waypoints: Annotated[int, within(3, 4096)] = 48
    paths: Annotated[int, within(1, 10**7)] = 20_000
    reach: Annotated[float, within(0, 1000, above=True)] = 2.0
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
        if policy.steering is not None:
            body = policy.config.embodiment
            states, actions = replay.pieces(max(1, round(_FORESEEN * body.rate_hz)), _PIECES, rng)
            parts = policy.in_parts(torch.from_numpy(actions)).clamp(-1, 1).numpy()
            policy.steering.measure(states[..., policy.config.seen], parts, float(ahead))

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng, policy = self.rng(step, share), self.policy
        drawn = self.draw(rng, share)
        reached = self.states(self.replay.future(drawn.steps.rows, rng, self.discount), share)
        told = policy.towards(policy.places(reached))
        action = regression(policy.act(policy.state(drawn.states), told), drawn.actions)
        which = torch.from_numpy(rng.integers(len(self._paths), size=len(drawn.states)))
        clean = self._paths[which].to(share.device)
        noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(np.float32)).to(share.device)
        progress = torch.from_numpy(rng.random(len(clean)).astype(np.float32)).to(share.device)
        path = self._draws.losses(clean, self._lengths[which].to(share.device), noise, progress).mean()
        (action + path).backward()
        losses = {"action": action, "path": path}
        return {f"loss/{name}": loss.item() for name, loss in losses.items()} | {"windows": float(len(clean))}

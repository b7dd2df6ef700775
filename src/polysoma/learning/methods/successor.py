"""Successor features in the space of HILP (Park et al. 2024, arXiv 2402.15567, section 5.3; Barreto et al. 2017, arXiv
1606.05312): what a policy of skills will feel, discounted, for each skill at once.

A skill z is rewarded with ``phi(s') . z``, phi centred, so rewards for being somewhere are skills as well. Features
``F(s, a, z)`` are the discounted sum of phi along the policy of z, and ``F . z`` is the value that the policy climbs,
held to the logs as by TD3+BC (arXiv 2106.06860), since few logs are as broad as those of the paper. The policy learns
and target networks follow at every step, not every second one as in TD3+BC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from polysoma.config import check, within
from polysoma.data.replay import Replay
from polysoma.learning.method import Metrics, Share
from polysoma.learning.methods.hilp import Representing
from polysoma.learning.objectives import regression, td_target
from polysoma.learning.offline import OfflineMethod
from polysoma.nn.perceptrons import Twins, follow, frozen_copy
from polysoma.policy.skills import Conditioning, SkillPolicy


@dataclass(frozen=True)
class Successor:
    """Settings of successor features.

    Attributes:
        batch, nearness, future, target: as of :class:`~polysoma.learning.methods.hilp.Hilp`.
        discount: of a step.
        alpha: how much the value counts beside imitation.
        noise, clip: of target actions, in parts of half the range.
    """

    batch: Annotated[int, within(2, 10**6)] = 256
    discount: Annotated[float, within(0, 1, below=True)] = 0.98
    nearness: Annotated[float, within(0, 1, above=True, below=True)] = 0.5
    future: Annotated[float, within(0, 1)] = 0.625
    target: Annotated[float, within(0, 1, above=True)] = 0.01
    alpha: Annotated[float, within(0, 10**6)] = 2.5
    noise: Annotated[float, within(0, 10)] = 0.2
    clip: Annotated[float, within(0, 10)] = 0.3
    kind: Literal["successor"] = "successor"

    def __post_init__(self) -> None:
        check(self)

    def conditioning(self, goals: bool) -> Conditioning:
        """See :class:`~polysoma.learning.offline.OfflineSettings`."""
        return "skill"

    def build(self, policy: SkillPolicy, replay: Replay, seed: int = 0) -> OfflineMethod:
        """See :class:`~polysoma.learning.offline.OfflineSettings`."""
        return _Successor(policy, replay, self, seed)


class SkillValues(nn.Module):
    """Two values of actions for a skill: successor features along it.

    Args:
        policy: whose states, actions and skills they are of.
    """

    def __init__(self, policy: SkillPolicy) -> None:
        super().__init__()
        config = policy.config
        size = len(config.seen) + config.embodiment.actions.size + config.skill
        self.features = Twins(size, config.skill, config.width, config.depth)

    def forward(self, state: Tensor, actions: Tensor, skill: Tensor) -> Tensor:
        """``(2, B)``, of states and actions as the policy sees them, and skills ``(B, skill)``."""
        found: Tensor = (self.features(state, actions, skill) * skill).sum(-1)
        return found


class _Successor(Representing):
    def __init__(self, policy: SkillPolicy, replay: Replay, settings: Successor, seed: int) -> None:
        super().__init__(policy, replay, settings, seed)
        self._settings, self._q = settings, SkillValues(policy)
        self._slow = frozen_copy(self._q)
        self.modules["q"], self.modules["q_target"] = self._q, self._slow

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng, policy, settings = self.rng(step, share), self.policy, self._settings
        drawn = self.draw(rng, share, observed=True)
        distance, _ = self.distance_loss(drawn, rng, share)
        state, after = policy.state(drawn.states), policy.state(drawn.following)
        noise = torch.from_numpy(rng.standard_normal(tuple(drawn.actions.shape)).astype("float32")).to(share.device)
        with torch.no_grad():
            felt = policy.represent(policy.places(drawn.following))[0]
            felt = felt - felt.mean(0)
            skill = self._skills(felt, rng, share)
            jitter = (settings.noise * noise).clamp(-settings.clip, settings.clip)
            action = (policy.act(after, skill) + jitter).clamp(-1, 1)
            both = self._slow.features(after, action, skill)
            # Of the copy whose value is lower.
            lower = (both * skill).sum(-1).argmin(0)
            goal = td_target(felt, torch.full_like(felt, settings.discount), both[lower, torch.arange(len(lower))])
        missed = (self._q.features(state, drawn.actions, skill) - goal).square().mean((1, 2)).sum()
        own = policy.act(state, skill)
        self._q.requires_grad_(False)  # the policy climbs the values, which do not learn from that
        value = self._q(state, own, skill)[0]
        self._q.requires_grad_(True)
        imitation = regression(own, drawn.actions)
        scale = settings.alpha / value.detach().abs().mean().clamp(min=1e-6)
        (distance + missed + imitation - scale * value.mean()).backward()
        losses = {"distance": distance, "value": missed, "action": imitation}
        return {f"loss/{name}": loss.item() for name, loss in losses.items()} | {"windows": float(len(state))}

    def _skills(self, felt: Tensor, rng: np.random.Generator, share: Share) -> Tensor:
        """Skills to learn, ``(B, skill)``: half drawn evenly, half those that lead to states of the logs."""
        count = len(felt)
        spread = felt.T @ felt / count
        spread = spread + 1e-3 * spread.diagonal().mean() * torch.eye(len(spread), device=felt.device)
        chosen = felt[torch.from_numpy(rng.permutation(count)).to(felt.device)]
        leading = normalize(torch.linalg.solve(spread, chosen.T).T, dim=-1)
        even = self.random_skills(count, rng, share)
        half = torch.arange(count, device=felt.device)[:, None] < count // 2
        return torch.where(half, even, leading)

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: the target networks follow."""
        super().after_step(step)
        follow(self._slow, self._q, self._settings.target)

"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860): the policy climbs the value, held back by what the logs did.

The policy learns in every second step, and target networks follow in these alone, as in TD3 (Fujimoto et al. 2018,
arXiv 1802.09477, algorithm 1).

A policy of skills (:mod:`polysoma.learning.methods.successor`) climbs the value along the one that it follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from polysoma.config import check, within
from polysoma.data.replay import Replay
from polysoma.learning.method import Metrics, Share
from polysoma.learning.methods.successor import SkillValues
from polysoma.learning.objectives import regression, td_target
from polysoma.learning.offline import OfflineMethod, only_without_goals
from polysoma.nn.perceptrons import Twins, follow, frozen_copy
from polysoma.policy.skills import Conditioning, SkillPolicy


@dataclass(frozen=True)
class Td3Bc:
    """Settings of TD3+BC.

    Attributes:
        batch: steps of a log in each step of learning.
        discount: of a step.
        alpha: how much the value counts beside imitation.
        noise, clip: of target actions, in parts of half the range.
        delay: steps of learning from one of the policy, after which target networks follow, to the next.
        target: the part of the way that target networks go each time.
    """

    batch: Annotated[int, within(1, 10**6)] = 256
    discount: Annotated[float, within(0, 1, below=True)] = 0.99
    alpha: Annotated[float, within(0, 10**6)] = 2.5
    noise: Annotated[float, within(0, 10)] = 0.2
    clip: Annotated[float, within(0, 10)] = 0.5
    delay: Annotated[int, within(1, 1000)] = 2
    target: Annotated[float, within(0, 1, above=True)] = 0.005
    kind: Literal["td3-bc"] = "td3-bc"

    def __post_init__(self) -> None:
        check(self)

    def conditioning(self, goals: bool) -> Conditioning:
        """See :class:`~polysoma.learning.offline.OfflineSettings`. Raises PolysomaError where goals are asked for."""
        return only_without_goals(self.kind, goals)

    def build(self, policy: SkillPolicy, replay: Replay, seed: int = 0) -> OfflineMethod:
        """See :class:`~polysoma.learning.offline.OfflineSettings`. Raises PolysomaError without rewards."""
        return _Td3Bc(policy, replay, self, seed)


class _Td3Bc(OfflineMethod):
    def __init__(self, policy: SkillPolicy, replay: Replay, settings: Td3Bc, seed: int) -> None:
        super().__init__(policy, replay, settings.batch, settings.discount, seed)
        replay.need_rewards("td3-bc")
        self._settings, config = settings, policy.config
        self._q: Twins | SkillValues
        if config.conditioning == "skill":
            policy.phi.requires_grad_(False)
            self._q = SkillValues(policy)
        else:
            size = len(config.seen) + config.embodiment.actions.size
            self._q = Twins(size, 1, config.width, config.depth)
        self.modules["q"], self.modules["q_target"] = self._q, frozen_copy(self._q)
        self.modules["actor_target"] = frozen_copy(policy.actor)

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng, policy, settings = self.rng(step, share), self.policy, self._settings
        drawn = self.draw(rng, share)
        state, after = policy.state(drawn.states), policy.state(drawn.following)
        with torch.no_grad():
            skill, later = policy.condition_of(drawn.states), policy.condition_of(drawn.following)
        now, then = (() if one is None else (one,) for one in (skill, later))
        noise = torch.from_numpy(rng.standard_normal(drawn.actions.shape).astype("float32")).to(share.device)
        with torch.no_grad():
            jitter = (settings.noise * noise).clamp(-settings.clip, settings.clip)
            action = (torch.tanh(self.modules["actor_target"](torch.cat([after, *then], -1))) + jitter).clamp(-1, 1)
            least = self.modules["q_target"](after, action, *then).min(0).values
            goal = td_target(drawn.rewards, drawn.discounts, least)
        missed = (self._q(state, drawn.actions, *now) - goal).square().mean(1).sum()
        missed.backward()
        metrics = {"loss/value": missed.item(), "windows": float(len(state))}
        if self._acts(step):
            action = policy.act(state, skill)
            self._q.requires_grad_(False)  # the policy climbs the value, which does not learn from that
            value = self._q(state, action, *now)[0]
            self._q.requires_grad_(True)
            scale = settings.alpha / value.detach().abs().mean().clamp(min=1e-6)
            imitation = regression(action, drawn.actions)
            (imitation - scale * value.mean()).backward()
            metrics["loss/action"] = imitation.item()
        return metrics

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: the target networks follow where the policy has learnt."""
        if self._acts(step - 1):
            follow(self.modules["q_target"], self._q, self._settings.target)
            follow(self.modules["actor_target"], self.policy.actor, self._settings.target)

    def _acts(self, step: int) -> bool:
        """Whether the policy learns, too, after so many steps."""
        return step % self._settings.delay == 0

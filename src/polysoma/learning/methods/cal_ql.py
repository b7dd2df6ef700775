"""Conservative values for going online, after Cal-QL (Nakamoto et al. 2023, arXiv 2303.05479): actions that logs do not
show are worth little, but never less than what the logs earned from there.

Like it, not the same: the policy is one action and climbs the lower value as in TD3 (arXiv 1802.09477), where theirs is
a distribution learnt by soft actor-critic. It learns at every step and the target network follows at every step, as
there, not every second one as in TD3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from polysoma.config import check, within
from polysoma.data.replay import Replay
from polysoma.learning.method import Metrics, Share
from polysoma.learning.objectives import td_target
from polysoma.learning.offline import Drawn, OfflineMethod, only_without_goals
from polysoma.nn.perceptrons import Twins, follow, frozen_copy
from polysoma.policy.skills import Conditioning, SkillPolicy


@dataclass(frozen=True)
class CalQl:
    """Settings of calibrated conservative values.

    Attributes:
        batch: steps of a log in each step of learning.
        discount: of a step.
        conservative: how much it counts that other actions are worth less.
        others: random actions for each step that are looked at.
        noise: of the policy's actions that are looked at, and of target actions, in parts of half the range.
        target: the part of the way that target networks go at each step.
    """

    batch: Annotated[int, within(1, 10**6)] = 256
    discount: Annotated[float, within(0, 1, below=True)] = 0.99
    conservative: Annotated[float, within(0, 10**6)] = 1.0
    others: Annotated[int, within(1, 1000)] = 4
    noise: Annotated[float, within(0, 10)] = 0.2
    target: Annotated[float, within(0, 1, above=True)] = 0.005
    kind: Literal["cal-ql"] = "cal-ql"

    def __post_init__(self) -> None:
        check(self)

    def conditioning(self, goals: bool) -> Conditioning:
        """See :class:`~polysoma.learning.offline.OfflineSettings`. Raises PolysomaError where goals are asked for."""
        return only_without_goals(self.kind, goals)

    def build(self, policy: SkillPolicy, replay: Replay, seed: int = 0) -> OfflineMethod:
        """See :class:`~polysoma.learning.offline.OfflineSettings`. Raises PolysomaError without rewards."""
        return _CalQl(policy, replay, self, seed)


class _CalQl(OfflineMethod):
    def __init__(self, policy: SkillPolicy, replay: Replay, settings: CalQl, seed: int) -> None:
        super().__init__(policy, replay, settings.batch, settings.discount, seed)
        replay.need_rewards("cal-ql")
        self._settings, config = settings, policy.config
        self._q = Twins(len(config.seen) + config.embodiment.actions.size, 1, config.width, config.depth)
        self.modules["q"], self.modules["q_target"] = self._q, frozen_copy(self._q)

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng, policy, settings = self.rng(step, share), self.policy, self._settings
        drawn = self.draw(rng, share)
        state, after = policy.state(drawn.states), policy.state(drawn.following)
        own = policy.act(state)
        with torch.no_grad():
            following = self._near(policy.act(after), rng)
            goal = td_target(drawn.rewards, drawn.discounts, self.modules["q_target"](after, following).min(0).values)
        shown = self._q(state, drawn.actions)
        missed = (shown - goal).square().mean(1).sum()
        others = self._others(state, drawn, own.detach(), following, rng)
        conservative = settings.conservative * (others - shown).mean(1).sum()
        (missed + conservative).backward()
        self._q.requires_grad_(False)  # the policy climbs the values, which do not learn from that
        value = self._q(state, own).min(0).values
        self._q.requires_grad_(True)
        (-value.mean() / value.detach().abs().mean().clamp(min=1e-6)).backward()
        losses = {"loss/value": missed.item(), "loss/conservative": conservative.item()}
        return losses | {"value": value.mean().item(), "windows": float(len(state))}

    def _others(self, state: Tensor, drawn: Drawn, own: Tensor, following: Tensor, rng: np.random.Generator) -> Tensor:
        """What other actions are worth, ``(2, B)``: the soft maximum over random ones and those of the policy, none of
        which counts as less than what the logs earned (equation 5.1)."""
        count, size = self._settings.others, own.shape[-1]
        random = torch.from_numpy(rng.uniform(-1, 1, (count, len(own), size)).astype(np.float32)).to(own.device)
        tried = torch.cat([random, self._near(own, rng)[None], following[None]])
        worth = self._q(state.expand(len(tried), *state.shape), tried)
        earned = torch.from_numpy(self.replay.earned(drawn.steps.rows, self.discount)).to(own.device)
        calibrated = torch.cat([worth[:, :count], torch.maximum(worth[:, count:], earned)], 1)
        found: Tensor = calibrated.logsumexp(1) - float(np.log(len(tried)))
        return found

    def _near(self, actions: Tensor, rng: np.random.Generator) -> Tensor:
        """Actions with noise, ``(B, A)``."""
        noise = torch.from_numpy(rng.standard_normal(tuple(actions.shape)).astype(np.float32)).to(actions.device)
        near: Tensor = (actions + self._settings.noise * noise).clamp(-1, 1)
        return near

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: the target network follows."""
        follow(self.modules["q_target"], self._q, self._settings.target)

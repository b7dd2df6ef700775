"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): the value of the best that logs did in a state, and a
policy that imitates what was better than expected.

Told goals, it learns from no reward at all: every step costs 1 until the goal in hindsight is reached (GCIQL of
OGBench, arXiv 2410.20092). Told a skill that leads somewhere (:mod:`polysoma.learning.methods.hilp`), it learns from
rewards like one that is told nothing, and the representation stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from polysoma.config import check, within
from polysoma.data.replay import Replay
from polysoma.learning.method import Metrics, Share
from polysoma.learning.objectives import advantage_weights, expectile_loss, regression, td_target
from polysoma.learning.offline import Drawn, OfflineMethod
from polysoma.nn.perceptrons import Twins, follow, frozen_copy, perceptron
from polysoma.policy.skills import Conditioning, SkillPolicy


@dataclass(frozen=True)
class ImplicitQ:
    """Settings of IQL.

    Attributes:
        batch: steps of a log in each step of learning.
        discount: of a step.
        expectile: of the values that the logs show; 0.5 is their mean, and 1 their maximum.
        temperature: how much more what was better counts in the policy.
        future: the chance that a value's goal is a state of the same episode, and not any.
        target: the part of the way that target networks go at each step.
    """

    batch: Annotated[int, within(1, 10**6)] = 256
    discount: Annotated[float, within(0, 1, below=True)] = 0.99
    expectile: Annotated[float, within(0, 1, above=True, below=True)] = 0.9
    temperature: Annotated[float, within(0, 10**6)] = 3.0
    future: Annotated[float, within(0, 1)] = 0.625
    target: Annotated[float, within(0, 1, above=True)] = 0.005
    kind: Literal["iql"] = "iql"

    def __post_init__(self) -> None:
        check(self)

    def conditioning(self, goals: bool) -> Conditioning:
        """See :class:`~polysoma.learning.offline.OfflineSettings`."""
        return "goal" if goals else "nothing"

    def build(self, policy: SkillPolicy, replay: Replay, seed: int = 0) -> OfflineMethod:
        """See :class:`~polysoma.learning.offline.OfflineSettings`. Raises PolysomaError without rewards and goals."""
        return _ImplicitQ(policy, replay, self, seed)


class Critic(torch.nn.ModuleDict):
    """What IQL learns beside the policy: ``q``, two of them, and ``value``, of states and what the policy is told.

    Args:
        policy: whose states and actions they judge.
        told: numbers that it is told.
    """

    def __init__(self, policy: SkillPolicy, told: int) -> None:
        config, seen = policy.config, len(policy.config.seen) + told
        q = Twins(seen + config.embodiment.actions.size, 1, config.width, config.depth)
        super().__init__({"q": q, "value": perceptron(seen, 1, config.width, config.depth)})

    def losses(
        self, target: torch.nn.Module, seen: Tensor, following: Tensor, drawn: Drawn, returns: tuple[Tensor, Tensor],
        expectile: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The loss of both values, and the advantage of what was done, ``(B,)``.

        Args:
            target: slow copy of ``q``.
            seen, following: what is seen and told before the step and after it, ``(B, n)``.
            drawn: the step.
            returns: rewards and discounts, ``(B,)`` each.
            expectile: see :class:`ImplicitQ`.
        """
        with torch.no_grad():
            goal = td_target(*returns, self["value"](following)[:, 0])
        missed = (self["q"](seen, drawn.actions) - goal).square().mean(1).sum()
        advantage = self.advantage(target, seen, drawn.actions)
        return missed + expectile_loss(advantage, expectile).mean(), advantage.detach()

    def advantage(self, target: torch.nn.Module, seen: Tensor, actions: Tensor) -> Tensor:
        """How much better actions ``(B, A)`` are than the value of what is seen ``(B, n)``: ``(B,)``, with a gradient
        of the value alone."""
        with torch.no_grad():
            judged = target(seen, actions).min(0).values
        value: Tensor = self["value"](seen)[:, 0]
        return judged - value


class _ImplicitQ(OfflineMethod):
    def __init__(self, policy: SkillPolicy, replay: Replay, settings: ImplicitQ, seed: int) -> None:
        super().__init__(policy, replay, settings.batch, settings.discount, seed)
        self._settings, self._goals = settings, policy.config.conditioning == "goal"
        if not self._goals:
            replay.need_rewards("iql, which is given no goals")
        told = {"nothing": 0, "goal": len(policy.config.place), "skill": policy.config.skill}[
            policy.config.conditioning
        ]
        if policy.config.conditioning == "skill":
            policy.phi.requires_grad_(False)
        self._critic = Critic(policy, told)
        self.modules["critic"], self.modules["target"] = self._critic, frozen_copy(self._critic["q"])

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng, policy, settings = self.rng(step, share), self.policy, self._settings
        # For whoever has a goal it counts alone where steps lead.
        drawn = self.draw(rng, share, observed=self._goals)
        state, after = policy.state(drawn.states), policy.state(drawn.following)
        target, told = self.modules["target"], None
        if self._goals:
            rows = self.goal_rows(drawn.steps.rows, rng, settings.future)
            aim = policy.towards(policy.places(self.states(rows, share)))
            reached = torch.from_numpy(rows == drawn.steps.next_rows).to(share.device)
            # Each step costs 1, also the last one. An end of the task is none for whoever has another goal.
            returns = -torch.ones_like(drawn.discounts), torch.where(reached, 0.0, settings.discount)
            seen, following = torch.cat([state, aim], -1), torch.cat([after, aim], -1)
        else:
            returns, seen, following = (drawn.rewards, drawn.discounts), state, after
            with torch.no_grad():
                told, later = policy.condition_of(drawn.states), policy.condition_of(drawn.following)
            if told is not None and later is not None:
                seen, following = torch.cat([state, told], -1), torch.cat([after, later], -1)
        loss, advantage = self._critic.losses(target, seen, following, drawn, returns, settings.expectile)
        if self._goals:
            # The policy is told places that were reached from here.
            own = self.states(self.replay.future(drawn.steps.rows, rng), share)
            told = policy.towards(policy.places(own))
            with torch.no_grad():
                advantage = self._critic.advantage(target, torch.cat([state, told], -1), drawn.actions)
        weights = advantage_weights(advantage, settings.temperature)
        imitation = regression(policy.act(state, told), drawn.actions, weights)
        (loss + imitation).backward()
        return {"loss/value": loss.item(), "loss/action": imitation.item(), "windows": float(len(state))}

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: the target network follows."""
        follow(self.modules["target"], self._critic["q"], self._settings.target)

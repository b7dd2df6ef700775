"""HILP (Park et al. 2024, "Foundation Policies with Hilbert Representations", arXiv 2402.15567): from logs without
rewards, a space in which distances are times, and a policy that moves along any direction of it.

The representation phi is learnt as a goal-conditioned value, ``V(s, g) = -||phi(s) - phi(g)||``, by an expectile
regression (equation 6). Skills are directions z; a step's reward is ``(phi(s') - phi(s)) . z`` (equation 8), and the
policy learns by IQL. A goal's skill is the direction from phi of here to phi of there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from polysoma.config import check, within
from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError
from polysoma.learning.method import Metrics, Share
from polysoma.learning.methods.iql import Critic
from polysoma.learning.objectives import advantage_weights, regression, td_target, weighted_by_sign
from polysoma.learning.offline import Drawn, OfflineMethod
from polysoma.nn.perceptrons import follow, frozen_copy
from polysoma.policy.skills import Conditioning, SkillPolicy


class Space(Protocol):
    """Settings of a representation, as of :class:`Hilp`."""

    @property
    def batch(self) -> int: ...
    @property
    def discount(self) -> float: ...
    @property
    def nearness(self) -> float: ...
    @property
    def future(self) -> float: ...
    @property
    def target(self) -> float: ...


@dataclass(frozen=True)
class Hilp:
    """Settings of HILP.

    Attributes:
        batch: steps of a log in each step of learning.
        discount: of a step.
        nearness: expectile of the representation: near 1, distances are those of the fastest that was seen.
        expectile, temperature: of the skill policy, as of :class:`~polysoma.learning.methods.iql.ImplicitQ`.
        future: the chance that a goal is a state of the same episode, and not any.
        target: the part of the way that target networks go at each step.
    """

    batch: Annotated[int, within(1, 10**6)] = 256
    discount: Annotated[float, within(0, 1, below=True)] = 0.99
    nearness: Annotated[float, within(0, 1, above=True, below=True)] = 0.95
    expectile: Annotated[float, within(0, 1, above=True, below=True)] = 0.9
    temperature: Annotated[float, within(0, 10**6)] = 10.0
    future: Annotated[float, within(0, 1)] = 0.625
    target: Annotated[float, within(0, 1, above=True)] = 0.005
    kind: Literal["hilp"] = "hilp"

    def __post_init__(self) -> None:
        check(self)

    def conditioning(self, goals: bool) -> Conditioning:
        """See :class:`~polysoma.learning.offline.OfflineSettings`."""
        return "skill"

    def build(self, policy: SkillPolicy, replay: Replay, seed: int = 0) -> OfflineMethod:
        """See :class:`~polysoma.learning.offline.OfflineSettings`."""
        return _Hilp(policy, replay, self, seed)


class Representing(OfflineMethod):
    """Learns the representation; subclasses add what learns to move in its space.

    Args:
        policy: told skills.
        replay: the logs.
        settings: of the representation: ``batch``, ``discount``, ``nearness``, ``future`` and ``target``.
        seed: of all that is drawn.
    """

    def __init__(self, policy: SkillPolicy, replay: Replay, settings: Space, seed: int) -> None:
        super().__init__(policy, replay, settings.batch, settings.discount, seed)
        self._space = settings
        self._phi_target = nn.ModuleList(frozen_copy(one) for one in policy.phi)
        self.modules["phi_target"] = self._phi_target

    def distance_loss(self, drawn: Drawn, rng: np.random.Generator, share: Share) -> tuple[Tensor, Tensor]:
        """Equation 6 for both copies, each of which aims at its own target, and both are weighted alike; and phi of
        where the steps begin, ``(2, B, skill)``."""
        policy, settings = self.policy, self._space
        rows = self.goal_rows(drawn.steps.rows, rng, settings.future)
        here, there = policy.places(drawn.states), policy.places(drawn.following)
        goals = policy.places(self.states(rows, share))
        reached = torch.from_numpy(rows == drawn.steps.next_rows).to(share.device)
        phi = policy.represent(here)

        def slow(places: Tensor) -> Tensor:
            return torch.stack([one(policy.towards(places)) for one in self._phi_target])

        with torch.no_grad():
            aim = slow(goals)
            before, after = -distances(slow(here), aim), -distances(slow(there), aim)
            counts = torch.where(reached, 0.0, settings.discount)
            expected = td_target(torch.full_like(counts, -1.0), counts, after)
            advantage = -1 + counts * after.min(0).values - before.mean(0)
            weights = weighted_by_sign(advantage, settings.nearness)
        now = -distances(phi, policy.represent(goals))
        return (weights * (now - expected).square()).mean(1).sum(), phi

    def random_skills(self, count: int, rng: np.random.Generator, share: Share) -> Tensor:
        """Directions that are drawn evenly, ``(count, skill)``."""
        drawn = rng.standard_normal((count, self.policy.config.skill)).astype("float32")
        return normalize(torch.from_numpy(drawn), dim=-1).to(share.device)

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: the target network follows."""
        follow(self._phi_target, self.policy.phi, self._space.target)


class _Hilp(Representing):
    def __init__(self, policy: SkillPolicy, replay: Replay, settings: Hilp, seed: int) -> None:
        super().__init__(policy, replay, settings, seed)
        self._settings = settings
        self._critic = Critic(policy, policy.config.skill)
        self.modules["critic"], self.modules["target"] = self._critic, frozen_copy(self._critic["q"])

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng, policy, settings = self.rng(step, share), self.policy, self._settings
        drawn = self.draw(rng, share, observed=True)
        distance, now = self.distance_loss(drawn, rng, share)
        with torch.no_grad():
            moved = policy.phi[0](policy.towards(policy.places(drawn.following))) - now[0]
        skill = self.random_skills(len(moved), rng, share)
        state, after = policy.state(drawn.states), policy.state(drawn.following)
        rewards = (moved * skill).sum(-1)
        value, advantage = self._critic.losses(
            self.modules["target"],
            torch.cat([state, skill], -1),
            torch.cat([after, skill], -1),
            drawn,
            (rewards, torch.full_like(rewards, settings.discount)),
            settings.expectile,
        )
        weights = advantage_weights(advantage, settings.temperature)
        imitation = regression(policy.act(state, skill), drawn.actions, weights)
        (distance + value + imitation).backward()
        losses = {"distance": distance, "value": value, "action": imitation}
        return {f"loss/{name}": loss.item() for name, loss in losses.items()} | {"windows": float(len(state))}

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: the target networks follow."""
        super().after_step(step)
        follow(self.modules["target"], self._critic["q"], self._settings.target)


def distances(left: Tensor, right: Tensor) -> Tensor:
    """Euclidean distances of representations ``(..., skill)``, with a gradient also where they are equal."""
    return (left - right).square().sum(-1).clamp(min=1e-6).sqrt()


def skill_for_reward(
    policy: SkillPolicy, replay: Replay, rows: Sequence[int] | np.ndarray, ridge: float = 1.0
) -> Tensor:
    """The skill whose reward is nearest to that of the logs: a unit vector ``(skill,)``, the least squares of rewards
    on ``phi(s') - phi(s)`` (Park et al. 2024, section 5.3; U2O, arXiv 2408.14785), with a ridge; on ``phi(s')`` for
    policies that were rewarded for places (:attr:`~polysoma.policy.skills.SkillConfig.rewarded`).

    Without a ridge, a reward is explained best by directions in which phi hardly moves, times large numbers. Of the
    skill only the direction is left, and along that one the policy hardly learnt to move.

    Args:
        policy: of skills.
        replay: with rewards.
        rows: of :attr:`~polysoma.data.replay.Replay.starts`, the steps whose rewards are looked at; few are enough.
        ridge: how much directions count in which phi hardly moves: those that move less than this times the mean square
            of all are made little of.

    Raises:
        PolysomaError: the data have no rewards, or one that is not finite; all rewards are the same; or the policy is
            told no skills.
    """
    if policy.config.conditioning != "skill":
        raise PolysomaError(
            f"expected a policy that is given skills (hilp), got one that is given {policy.config.conditioning}"
        )
    replay.need_rewards("the skill of a reward")
    steps = replay.steps(np.asarray(rows, np.int64))
    device = policy.fixed.device
    states = (torch.from_numpy(replay.states[rows]).to(device) for rows in (steps.rows, steps.next_rows))
    here, there = map(policy.places, states)
    with torch.no_grad():
        moved = policy.represent(there)[0]
        if policy.config.rewarded == "moves":
            moved = moved - policy.represent(here)[0]
    rewards = torch.from_numpy(steps.rewards).to(device)
    # A reward that is the same everywhere says nothing of where to go. Less its mean it is what rounding left, not 0.
    if (rewards == rewards[0]).all():
        raise PolysomaError(f"the rewards of {len(rewards)} steps are all the same: label others")
    moved, rewards = moved - moved.mean(0), rewards - rewards.mean()
    held = ridge * moved.square().mean() * torch.eye(moved.shape[1], device=device) * len(moved)
    return normalize(torch.linalg.solve(moved.T @ moved + held, moved.T @ rewards), dim=0)

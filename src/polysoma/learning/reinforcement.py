"""What methods share that learn from reward: a correction of a frozen policy, a value beside it, and experience.

All that a step of learning needs of the policy are readouts, which experience holds: the trunk is asked once for each
decision, when it acts. So it stays as it is, and a step costs what small perceptrons cost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.learning.method import Method, Metrics, ParameterGroup, Share
from polysoma.learning.objectives import generalised_advantages
from polysoma.nn.perceptrons import perceptron
from polysoma.policy.policy import Policy
from polysoma.rollout.experience import Collector, Experience, Exploring

_HORIZON_OF_SCALE = 0.99
"""What a batch leaves of the running size of returns."""


@dataclass(frozen=True)
class Sampled:
    """B decisions, flat: ``(B, ...)`` as of :class:`~polysoma.rollout.experience.Experience`; the log-probability with
    which each was drawn, its advantage, and the return that its value aims at."""

    seen: Tensor
    left: Tensor
    base: Tensor
    drawn: Tensor
    before: Tensor
    advantages: Tensor
    returns: Tensor

    def take(self, rows: Tensor) -> Sampled:
        return Sampled(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class RewardSettings(Protocol):
    """A frozen dataclass of settings that builds a method that learns from reward."""

    @property
    def kind(self) -> str: ...
    @property
    def decisions(self) -> int: ...
    @property
    def discount(self) -> float: ...
    @property
    def exploring(self) -> Exploring: ...
    def build(self, policy: Policy, body: str, collector: Collector, seed: int = 0) -> FromReward: ...


class FromReward(Method):
    """Learns the correction of one body from reward. Subclasses say what is learnt of sampled decisions.

    Args:
        policy: with a correction of the body, which alone learns.
        body: its name.
        collector: plays.
        decisions: in each slot, of one batch of experience.
        passes, parts: how often a batch is gone through, and in how many parts.
        trace: lambda of advantages; None for no value: returns as they came.
        anchor: how much it counts how far the policy is from its base: for choices the KL divergence
            (:meth:`divergence`), for numbers the mean squared correction. With a spread s that is ``2 s^2`` times the
            KL divergence of a channel; unlike it, it does not let a wide spread hide a large correction.
        bonus: how much the entropy of what is drawn counts.
        learns_spread: whether the standard deviation of what is drawn learns, too.
        seed: of the order of decisions.
    """

    def __init__(
        self,
        policy: Policy,
        body: str,
        collector: Collector,
        decisions: int,
        passes: int = 1,
        parts: int = 1,
        trace: float | None = 0.95,
        anchor: float = 0.01,
        bonus: float = 0.0,
        learns_spread: bool = False,
        seed: int = 0,
    ) -> None:
        self.collector, self.body = collector, body
        self.decisions, self.passes, self.parts = decisions, passes, parts
        self.trace, self.anchor, self.bonus = trace, anchor, bonus
        policy.requires_grad_(False)
        self.correction = policy.correction(body).requires_grad_(True)
        self.choices = self.correction.choices
        self.value = perceptron(self.correction.seen + 1, 1, 128)
        size = collector.body.actions.size
        spread = nn.Linear(size, 1, bias=False).requires_grad_(learns_spread and not self.choices)
        nn.init.constant_(spread.weight, math.log(collector.exploring.spread))
        self._log_spread = spread.weight
        self.modules = nn.ModuleDict({"policy": policy, "value": self.value, "spread": spread})
        self._rng = torch.Generator().manual_seed(seed)
        self._scale, self._done = 0.0, 0
        self._order: list[Tensor] = []
        self.sampled: Sampled | None = None
        self.reported: Metrics = {}
        self.steps = 0

    def parameter_groups(self) -> list[ParameterGroup]:
        """See :class:`~polysoma.learning.method.Method`. Nothing decays: zero is the base, which ``anchor`` holds."""
        learning = [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]
        return [ParameterGroup(learning, decay=False)]

    def policy_loss(self, sampled: Sampled, log_probability: Tensor) -> Tensor:
        """The loss of the correction over some decisions, a scalar.

        Args:
            sampled: the decisions.
            log_probability: of what was drawn, as it is now, ``(B,)``, with a gradient.
        """
        raise NotImplementedError

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        if self.sampled is None:
            self._collect()
        assert self.sampled is not None
        sampled = self.sampled.take(self._order.pop())
        changes = self.correction(sampled.seen)
        log_probability, entropy = self.log_probability(sampled, changes)
        policy = self.policy_loss(sampled, log_probability)
        far = self.divergence(sampled, changes).mean()
        loss = policy + self.anchor * (far if self.choices else changes.square().mean()) - self.bonus * entropy
        metrics = {"loss/policy": policy.item(), "kl": far.item(), "windows": float(len(changes))}
        if self.trace is not None:
            value = (self._value(sampled.seen, sampled.left) - sampled.returns).square().mean()
            loss = loss + 0.5 * value
            metrics["loss/value"] = value.item()
        loss.backward()
        return metrics | self.reported | {"moved": float(changes.detach().abs().mean())}

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: experience that was gone through is replaced."""
        if not self._order:
            self.sampled = None

    def log_probability(self, sampled: Sampled, changes: Tensor) -> tuple[Tensor, Tensor]:
        """The log-probability of what was drawn ``(B,)`` under these changes ``(B, A)`` or ``(B, names)``, and the mean
        entropy."""
        if self.choices:
            tempered = (sampled.base + changes[:, None]) / self.collector.exploring.temperature
            every = tempered.log_softmax(-1)
            found = every.gather(-1, sampled.drawn[..., None])[..., 0].sum(-1)
            return found, -(every.exp() * every).sum(-1).mean()
        normal = torch.distributions.Normal(changes, self._log_spread[0].exp().expand_as(changes))
        return normal.log_prob(sampled.drawn).sum(-1), normal.entropy().sum(-1).mean()

    def divergence(self, sampled: Sampled, changes: Tensor) -> Tensor:
        """The KL divergence of what is drawn under these changes ``(B, A)`` or ``(B, names)`` from what the base would
        draw with the same spread or temperature, of the whole executed part: ``(B,)``."""
        if self.choices:
            ours, base = (
                (part / self.collector.exploring.temperature).log_softmax(-1)
                for part in (sampled.base + changes[:, None], sampled.base)
            )
            return (ours.exp() * (ours - base)).sum((-1, -2))
        return (changes / self._log_spread[0].detach().exp()).square().sum(-1) / 2

    def spread(self) -> np.ndarray:
        """The standard deviation of what is added to numbers now, in parts of half the range, float32 ``(A,)``."""
        found: np.ndarray = self._log_spread[0].detach().exp().cpu().numpy()
        return found

    def _value(self, seen: Tensor, left: Tensor) -> Tensor:
        found: Tensor = self.value(torch.cat([seen, left[..., None]], -1)).squeeze(-1)
        return found

    @torch.no_grad()
    def _collect(self) -> None:
        experience = self.collector.collect(self.decisions, self.correction.changes, self.spread())
        self.steps += experience.steps
        self.sampled = self._sample(experience)
        rows = len(self.sampled.before)
        for _ in range(self.passes):
            self._order += torch.randperm(rows, generator=self._rng).tensor_split(min(self.parts, rows))
        ended = experience.episodes
        self.reported = {"env_steps": float(self.steps), "reward": float(experience.rewards.mean())}
        if ended:
            self.reported["solved"] = float(np.mean(ended))

    def _sample(self, experience: Experience) -> Sampled:
        device = self._log_spread.device
        seen, left, base, drawn, rewards, discounts = (
            torch.from_numpy(getattr(experience, name)).to(device)
            for name in ("seen", "left", "base", "drawn", "rewards", "discounts")
        )
        none = torch.zeros(len(rewards) + 1, rewards.shape[1], device=device)
        earned = generalised_advantages(rewards, discounts, none, 1.0)
        # Returns of about 1, whatever the unit of rewards.
        self._done += 1
        kept = min(_HORIZON_OF_SCALE, 1 - 1 / self._done)
        self._scale = kept * self._scale + (1 - kept) * float(earned.square().mean())
        rewards = rewards / max(math.sqrt(self._scale), 1e-6)
        values = none if self.trace is None else self._value(seen, left)
        advantages = generalised_advantages(rewards, discounts, values, 1.0 if self.trace is None else self.trace)
        flat = Sampled(
            seen[:-1].flatten(0, 1), left[:-1].flatten(), base.flatten(0, 1), drawn.flatten(0, 1), torch.empty(0),
            advantages.flatten(), (advantages + values[:-1]).flatten(),
        )  # fmt: skip
        before, _ = self.log_probability(flat, self.correction(flat.seen))
        return Sampled(**{**flat.__dict__, "before": before})

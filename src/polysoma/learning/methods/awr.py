"""AWR (Peng et al. 2019, arXiv 1910.00177): imitation of what was done, weighted by how much better than expected it
was. It may learn from what another policy did: random pushes that are held, say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.learning.objectives import advantage_weights, standardised
from polysoma.learning.reinforcement import FromReward, Sampled
from polysoma.policy.policy import Policy
from polysoma.rollout.experience import Collector, Exploring


@dataclass(frozen=True)
class Awr:
    """Settings of AWR.

    Attributes:
        decisions: in each slot, between two times of learning.
        passes, parts: how often these are gone through, and in how many parts.
        discount: of a step of the environment.
        trace: lambda of generalised advantages.
        sharpness: how steeply weights grow with advantages, which are standardised.
        anchor: how much it counts how far the policy is from its base, see
            :class:`~polysoma.learning.reinforcement.FromReward`.
        exploring: see :class:`~polysoma.rollout.experience.Exploring`.
    """

    decisions: Annotated[int, within(1, 10**6)] = 16
    passes: Annotated[int, within(1, 1000)] = 8
    parts: Annotated[int, within(1, 10**4)] = 2
    discount: Annotated[float, within(0, 1)] = 0.985
    trace: Annotated[float, within(0, 1)] = 0.9
    sharpness: Annotated[float, within(0, 1000)] = 1.0
    anchor: Annotated[float, within(0, 10**6)] = 0.1
    exploring: Exploring = Exploring(push=0.03)  # noqa: RUF009  (frozen)
    kind: Literal["awr"] = "awr"

    def __post_init__(self) -> None:
        check(self)

    def build(self, policy: Policy, body: str, collector: Collector, seed: int = 0) -> FromReward:
        """See :class:`~polysoma.learning.reinforcement.RewardSettings`."""
        return _Awr(policy, body, collector, self, seed)


class _Awr(FromReward):
    def __init__(self, policy: Policy, body: str, collector: Collector, settings: Awr, seed: int) -> None:
        self._sharpness = settings.sharpness
        super().__init__(
            policy, body, collector, settings.decisions, settings.passes, settings.parts, settings.trace,
            settings.anchor, seed=seed,
        )  # fmt: skip

    def log_probability(self, sampled: Sampled, changes: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~polysoma.learning.reinforcement.FromReward`. Of numbers it is that of a density whose tails fall
        no faster than at two standard deviations (Huber 1964): a push lies twenty of them away, and its square would
        outweigh hundreds of tries. It is in units of the squared correction, as ``anchor`` is."""
        if self.choices:
            return super().log_probability(sampled, changes)
        spread = torch.from_numpy(self.spread()).to(changes)
        apart = (sampled.drawn - changes) / spread
        far = nn.functional.huber_loss(apart, torch.zeros_like(apart), reduction="none", delta=2.0)
        return -(spread.square() * far).sum(-1), changes.new_zeros(())

    def policy_loss(self, sampled: Sampled, log_probability: Tensor) -> Tensor:
        """See :class:`~polysoma.learning.reinforcement.FromReward`."""
        weights = advantage_weights(standardised(sampled.advantages), self._sharpness, 20.0)
        return -(weights * log_probability).mean()

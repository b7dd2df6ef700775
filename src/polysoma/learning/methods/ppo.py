"""PPO (Schulman et al. 2017, arXiv 1707.06347): steps of a policy gradient that stay near what was played."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from polysoma.config import check, within
from polysoma.learning.objectives import clipped_surrogate, standardised
from polysoma.learning.reinforcement import FromReward, Sampled
from polysoma.policy.policy import Policy
from polysoma.rollout.experience import Collector, Exploring


@dataclass(frozen=True)
class Ppo:
    """Settings of PPO.

    Attributes:
        decisions: in each slot, between two times of learning.
        passes, parts: how often these are gone through, and in how many parts.
        discount: of a step of the environment.
        trace: lambda of generalised advantages.
        clip: how far the ratio of probabilities may go from 1.
        anchor: how much it counts how far the policy is from its base, see
            :class:`~polysoma.learning.reinforcement.FromReward`.
        bonus: how much the entropy of what is drawn counts.
        exploring: see :class:`~polysoma.rollout.experience.Exploring`.
    """

    decisions: Annotated[int, within(1, 10**6)] = 32
    passes: Annotated[int, within(1, 1000)] = 4
    parts: Annotated[int, within(1, 10**4)] = 8
    discount: Annotated[float, within(0, 1)] = 0.985
    trace: Annotated[float, within(0, 1)] = 0.9
    clip: Annotated[float, within(0, 10, above=True)] = 0.2
    anchor: Annotated[float, within(0, 10**6)] = 0.01
    bonus: Annotated[float, within(0, 10**6)] = 0.003
    exploring: Exploring = Exploring()  # noqa: RUF009  (frozen)
    kind: Literal["ppo"] = "ppo"

    def __post_init__(self) -> None:
        check(self)

    def build(self, policy: Policy, body: str, collector: Collector, seed: int = 0) -> FromReward:
        """See :class:`~polysoma.learning.reinforcement.RewardSettings`."""
        return _Ppo(policy, body, collector, self, seed)


class _Ppo(FromReward):
    def __init__(self, policy: Policy, body: str, collector: Collector, settings: Ppo, seed: int) -> None:
        self._clip = settings.clip
        super().__init__(
            policy, body, collector, settings.decisions, settings.passes, settings.parts, settings.trace,
            settings.anchor, settings.bonus, learns_spread=True, seed=seed,
        )  # fmt: skip

    def policy_loss(self, sampled: Sampled, log_probability: Tensor) -> Tensor:
        """See :class:`~polysoma.learning.reinforcement.FromReward`."""
        return clipped_surrogate(log_probability, sampled.before, standardised(sampled.advantages), self._clip)

"""REINFORCE (Williams 1992): the gradient of the log-probability of what was done, times what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import Tensor

from polysoma.config import check, within
from polysoma.learning.objectives import standardised
from polysoma.learning.reinforcement import FromReward, Sampled
from polysoma.policy.policy import Policy
from polysoma.rollout.experience import Collector, Exploring


@dataclass(frozen=True)
class Reinforce:
    """Settings of REINFORCE.

    Attributes:
        baseline: what is taken from the return: ``"none"``, or the ``"value"`` of the state (an actor with a critic).
        decisions: in each slot, between two steps of learning, each of which sees them all.
        discount: of a step of the environment.
        anchor: how much it counts how far the policy is from its base, see
            :class:`~polysoma.learning.reinforcement.FromReward`.
        exploring: see :class:`~polysoma.rollout.experience.Exploring`.
    """

    baseline: Literal["none", "value"] = "value"
    decisions: Annotated[int, within(1, 10**6)] = 32
    discount: Annotated[float, within(0, 1)] = 0.985
    anchor: Annotated[float, within(0, 10**6)] = 0.01
    exploring: Exploring = Exploring()  # noqa: RUF009  (frozen)
    kind: Literal["reinforce"] = "reinforce"

    def __post_init__(self) -> None:
        check(self)

    def build(self, policy: Policy, body: str, collector: Collector, seed: int = 0) -> FromReward:
        """See :class:`~polysoma.learning.reinforcement.RewardSettings`."""
        return _Reinforce(policy, body, collector, self, seed)


class _Reinforce(FromReward):
    def __init__(self, policy: Policy, body: str, collector: Collector, settings: Reinforce, seed: int) -> None:
        self._plain = settings.baseline == "none"
        trace = None if self._plain else 1.0
        super().__init__(policy, body, collector, settings.decisions, trace=trace, anchor=settings.anchor, seed=seed)

    def policy_loss(self, sampled: Sampled, log_probability: Tensor) -> Tensor:
        """See :class:`~polysoma.learning.reinforcement.FromReward`."""
        worth = sampled.advantages if self._plain else standardised(sampled.advantages)
        return -(worth * log_probability).mean()

"""Costs of ways, for :class:`~polysoma.acting.paths.PathSearch`: what else was learnt says how good places are.

Each makes a guide of a network of the same body: it pulls the ways that are drawn, and counts in the choice. Ways are
of places alone, so all else that such a network sees (speeds, the goal) is what it was on average in its logs, and
actions are the middle of their ranges. Zones are costs as well (:func:`~polysoma.acting.paths.penalty`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from polysoma.data.outcomes import Senses
from polysoma.embodiment import ContinuousActions, Embodiment
from polysoma.errors import PolysomaError
from polysoma.nn.flow import Guide
from polysoma.policy.dead_ends import DeadEnds
from polysoma.policy.rewards import RewardModel
from polysoma.policy.skills import SkillPolicy


def time_of(policy: SkillPolicy, place: Sequence[str], weight: float = 0.01) -> Guide:
    """The time that a way takes, by HILP's representation.

    Args:
        policy: of ``skills learn --method hilp``.
        place: names of the channels that ways are of, which the policy's places are, too.
        weight: how long a detour, in the places' unit, one step less is worth.

    Raises:
        PolysomaError: a policy without a representation, or of other places.
    """
    own = policy.config.place
    if policy.config.conditioning != "skill":
        raise PolysomaError("expected a policy of skills (--method hilp), which knows how long ways take")
    if sorted(own) != sorted(place):
        raise PolysomaError(f"expected a policy of the ways' places, {', '.join(place)}, got one of {', '.join(own)}")
    order = [list(place).index(name) for name in own]

    def cost(paths: Tensor) -> Tensor:
        return weight * policy.represent(paths[..., order])[0].diff(dim=-2).norm(dim=-1).sum(-1)

    return cost


def risk_of(values: DeadEnds, place: Sequence[str], weight: float = 1.0) -> Guide:
    """How likely failure is on a way, by a guard's values, on average over its places.

    Args:
        values: of ``guard learn``, of a body whose risks are those of states.
        place: names of the channels that ways are of.
        weight: how long a detour, in the places' unit, is worth a way without any risk instead of certain failure.

    Raises:
        PolysomaError: values of actions, which know no risk of places, or no such channels.
    """
    if not values.config.octaves:
        raise PolysomaError(f"the guard of {values.body.name} knows risks of choices, and none of places")
    states = _states(values.body, place, values.mean)

    def cost(paths: Tensor) -> Tensor:
        rows = states(paths)
        found = values.negative(values.waves(rows.flatten(0, -2))).reshape(2, *rows.shape[:-1])
        return weight * -found.min(0).values.clamp(-1, 0).mean(-1)

    return cost


def score_of(reward: RewardModel, place: Sequence[str], weight: float = 1.0) -> Guide:
    """How bad a way is, by a reward that was learnt from preferences, on average over its places.

    Args:
        reward: of ``reward learn``, of a body whose actions are numbers.
        place: names of the channels that ways are of.
        weight: how long a detour, in the places' unit, a reward that is higher by one standard deviation of its logs is
            worth.

    Raises:
        PolysomaError: actions that are choices, or no such channels.
    """
    body = reward.config.embodiment
    if not isinstance(body.actions, ContinuousActions):
        raise PolysomaError(f"the reward of {body.name} is one of choices, and ways have none")
    states, still = _states(body, place, reward.mean), (reward.low + reward.high) / 2

    def cost(paths: Tensor) -> Tensor:
        rows = states(paths)
        return -weight * reward(rows, still.expand(*rows.shape[:-1], -1)).mean(-1)

    return cost


def _states(body: Embodiment, place: Sequence[str], usual: Tensor) -> Callable[[Tensor], Tensor]:
    """Makes states ``(..., n)`` of places ``(..., places)``: all else is as usual, ``(n,)``."""
    every = Senses.of(body).names
    if unknown := [name for name in place if not name or name not in every]:
        raise PolysomaError(f"place: {body.name} has no channels {unknown}; it has {[name for name in every if name]}")
    # A row for each place, with a 1 where its number stands: products have gradients.
    where = torch.eye(len(every))[[every.index(name) for name in place]]
    rest = usual * (1 - where.sum(0))
    return lambda places: rest + places @ where

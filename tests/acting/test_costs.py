"""Costs of ways that other networks say: which way is taken, and what they are refused for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_paths import search
from test_zones import drive
from torch import Tensor, nn

from make_puck import PUCK
from polysoma.acting.costs import risk_of, score_of, time_of
from polysoma.embodiment import DiscreteActions, Embodiment
from polysoma.errors import PolysomaError
from polysoma.nn.flow import Guide
from polysoma.nn.paths import lengths
from polysoma.policy.dead_ends import DeadEndConfig, DeadEnds
from polysoma.policy.rewards import RewardConfig, RewardModel
from polysoma.policy.skills import SkillConfig, SkillPolicy

PLACE = ("x", "y")
CHOOSES = Embodiment("chooser", PUCK.streams, DiscreteActions(("left", "right")), 20.0)


class Below(nn.Module):
    """Failure is likely where y is below 0.4."""

    def forward(self, waves: Tensor) -> Tensor:
        found = -torch.sigmoid(20 * (0.4 - waves[..., 1]))
        return torch.stack([found, found])


class Above(RewardModel):
    """What is higher is better."""

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        assert actions.shape == (*states.shape[:-1], 2) and not actions.any()
        return states[..., 1]


class Plain(SkillPolicy):
    """Represents a place by itself."""

    def represent(self, places: Tensor) -> Tensor:
        return torch.stack([places, places])


class Uneven(SkillPolicy):
    """The first number of a place counts ten times as much."""

    def represent(self, places: Tensor) -> Tensor:
        return torch.stack([places, places]) * torch.tensor([10.0, 1.0])


def risky() -> DeadEnds:
    values = DeadEnds(DeadEndConfig(PUCK, 8, 1))
    values.negative = Below()  # type: ignore[assignment]
    return values


@pytest.mark.parametrize(
    "guide",
    [risk_of(risky(), PLACE, 4.0), score_of(Above(RewardConfig(PUCK, "go")), PLACE, 4.0)],
    ids=["risk", "score"],
)
def test_the_way_that_is_taken_is_the_one_that_costs_less(guide: Guide) -> None:
    direct, _ = drive(search())
    path, _ = drive(search(guides=[guide]))
    assert np.abs(direct[:, 1]).max() < 0.3 and path[:, 1].max() > 0.4
    assert np.linalg.norm(path[-1] - [2, 0]) < 0.1
    # They pull what is drawn towards what costs less, which is up.
    paths = torch.zeros(3, 5, 2).requires_grad_(True)
    (gradient,) = torch.autograd.grad(guide(paths).sum(), paths)
    assert guide(paths).shape == (3,) and (gradient[..., 1] < 0).all() and not gradient[..., 0].any()


def test_what_ways_do_not_say_is_what_it_was_on_average() -> None:
    seen: list[Tensor] = []

    class Listening(Above):
        def forward(self, states: Tensor, actions: Tensor) -> Tensor:
            seen.append(states)
            return super().forward(states, actions)

    reward = Listening(RewardConfig(PUCK, "go"))
    reward.measure(torch.tensor([[0.0, 0, 1, 4], [0, 0, 3, 8]]))
    score_of(reward, ("y", "x"))(torch.tensor([[[1.0, 2.0]]]))
    assert seen[0].tolist() == [[[2, 1, 2, 6]]]


def test_time_is_how_long_a_way_is_where_places_are_represented() -> None:
    policy = Plain(SkillConfig(PUCK, "skill", PLACE, ("goal_x", "goal_y"), 8, 1))
    paths = torch.randn(4, 9, 2)
    torch.testing.assert_close(time_of(policy, PLACE, 0.5)(paths), 0.5 * lengths(paths))
    uneven = Uneven(SkillConfig(PUCK, "skill", PLACE, ("goal_x", "goal_y"), 8, 1))
    there, back = time_of(uneven, PLACE)(paths), time_of(uneven, PLACE[::-1])(paths.flip(-1))
    torch.testing.assert_close(there, back)


def test_networks_that_know_nothing_of_places_are_refused() -> None:
    with pytest.raises(PolysomaError, match="expected a policy of skills"):
        time_of(SkillPolicy(SkillConfig(PUCK, "goal", PLACE, ("goal_x", "goal_y"), 8, 1)), PLACE)
    with pytest.raises(PolysomaError, match="expected a policy of the ways' places, x, vx, got one of x, y"):
        time_of(Plain(SkillConfig(PUCK, "skill", PLACE, ("goal_x", "goal_y"), 8, 1)), ("x", "vx"))
    with pytest.raises(PolysomaError, match="knows risks of choices, and none of places"):
        risk_of(DeadEnds(DeadEndConfig(CHOOSES, 8, 1, octaves=0)), PLACE)
    with pytest.raises(PolysomaError, match="the reward of chooser is one of choices"):
        score_of(RewardModel(RewardConfig(CHOOSES, "go")), PLACE)
    with pytest.raises(PolysomaError, match=r"puck has no channels \['z'\]"):
        risk_of(risky(), ("x", "z"))

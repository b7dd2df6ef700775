"""Actions as parts of their range: a channel that is fixed has none, and one without limits is said to be that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from conftest import ARM
from polysoma.acting.stream import Serializer
from polysoma.data.statistics import Statistics
from polysoma.embodiment import Channel, ContinuousActions, Embodiment, channels
from polysoma.errors import PolysomaError
from polysoma.policy.dead_ends import DeadEndConfig, DeadEndJudge, DeadEnds
from polysoma.policy.skills import SkillConfig, SkillPolicy
from polysoma.policy.world import WorldConfig, WorldModel

FIXED = dataclasses.replace(
    ARM, actions=ContinuousActions((Channel("dx", "m/s", -1, 3), Channel("brake", "1", 0.5, 0.5)))
)
FREE = dataclasses.replace(ARM, actions=ContinuousActions(channels("dx dy", "m/s")))
DONE = np.array([[-1, 0.5], [0, 0.5], [3, 0.5]], np.float32)
PARTS = np.array([[-1, 0], [-0.5, 0], [1, 0]], np.float32)


def serializer(body: Embodiment) -> Serializer:
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    return Serializer(body, {"state": Statistics.of(rows)}, ["go"])


def test_a_channel_that_is_fixed_is_seen_as_the_same_always() -> None:
    kind = FIXED.actions
    assert isinstance(kind, ContinuousActions)
    np.testing.assert_array_equal(kind.parts(DONE), PARTS)
    model, skills = WorldModel(WorldConfig(FIXED, width=4)), SkillPolicy(SkillConfig(FIXED))
    np.testing.assert_array_equal(model.moves(DONE), PARTS)
    np.testing.assert_array_equal(model.actions(torch.from_numpy(PARTS)), DONE)
    np.testing.assert_array_equal(skills.in_parts(torch.from_numpy(DONE)), PARTS)
    np.testing.assert_array_equal(skills.in_units(torch.from_numpy(PARTS)), DONE)
    ends = DeadEnds(DeadEndConfig(FIXED, 4, 1))
    found = ends.in_parts(torch.from_numpy(DONE)[:, None])
    np.testing.assert_array_equal(found[:, 0], PARTS[:, 0])
    assert (found[:, 1] == found[0, 1]).all() and np.isfinite(
        DeadEndJudge(ends).judge({"state": np.zeros(3)}, DONE).risk
    ).all()
    stream = serializer(FIXED)
    np.testing.assert_allclose([stream.action(ids) for ids in stream.act(DONE)], DONE, atol=0.01)


@pytest.mark.parametrize("made", [WorldConfig, SkillConfig, DeadEndConfig, serializer])
def test_channels_without_limits_are_named(made: Callable[[Embodiment], object]) -> None:
    with pytest.raises(
        PolysomaError, match=r"arm: expected limits of all actions, there are no limits of \['dx', 'dy'\]"
    ):
        made(FREE)

"""What learns computes where it is told: on another device nothing that it makes of arrays is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_improvement import method_of
from test_search import Corridor

from elsewhere import Elsewhere
from make_pocket import Doors, Pocket, still
from make_puck import PUCK, Table, walks
from polysoma.data.replay import Replay
from polysoma.learning.method import Method, Share
from polysoma.learning.methods import dqn
from polysoma.learning.methods.cal_ql import CalQl
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.methods.diffusion import Diffusion
from polysoma.learning.methods.dqn import Dqn
from polysoma.learning.methods.hilp import Hilp
from polysoma.learning.methods.imagination import Exploring, Imagination
from polysoma.learning.methods.iql import ImplicitQ
from polysoma.learning.methods.ppo import Ppo
from polysoma.learning.methods.search import Search
from polysoma.learning.methods.successor import Successor
from polysoma.learning.methods.td3_bc import Td3Bc
from polysoma.learning.methods.world import WorldLearning
from polysoma.learning.offline import OfflineSettings
from polysoma.nn import curves, world
from polysoma.nn.correction import CorrectionConfig
from polysoma.nn.tree import Searching
from polysoma.policy.search import SearchConfig, SearchPolicy
from polysoma.policy.skills import SkillConfig, SkillPolicy
from polysoma.policy.values import ValueConfig, ValuePolicy
from polysoma.policy.world import WorldConfig, WorldModel
from polysoma.rollout.choosing import Slots


def from_reward(choices: bool) -> Method:
    return method_of(Ppo(decisions=2, passes=1, parts=1), *(("doors", Doors) if choices else ("point", Pocket)), 0)


def by_dqn() -> Method:
    slots = Slots("corridor/go", 2, 0, Corridor)
    return Dqn(batch=4).playing(ValuePolicy(ValueConfig(slots.body, 8)), slots, dqn.Exploring(2, 20, 1, 0.0), 0)


def by_search() -> Method:
    settings, slots = Search(batch=4, unrolled=2, ahead=1, searching=Searching(3)), Slots("corridor/go", 2, 0, Corridor)
    return settings.playing(SearchPolicy(SearchConfig(slots.body, 8)), slots, Exploring(2, 60, 200), 0)


def in_imagination(choices: bool) -> Method:
    settings = Imagination(WorldLearning(batch=4, watched=2, ahead=2), starts=8, steps=3)
    slots = Slots("any/go", 2, 0, Corridor if choices else Table)
    model = WorldModel(WorldConfig(slots.body, width=8, rewarded=True, acts=True))
    return settings.playing(model, slots, Exploring(2, 80, 200), 0)


@pytest.fixture
def there() -> Iterator[Elsewhere]:
    yield Elsewhere()
    # Tensors that were made there.
    world._bins.cache_clear()


@pytest.mark.parametrize(
    "make",
    [
        lambda: from_reward(False), lambda: from_reward(True), by_dqn, by_search,
        lambda: in_imagination(False), lambda: in_imagination(True),
    ],
    ids=["reward", "reward-choices", "dqn", "search", "imagination", "imagination-choices"],
)  # fmt: skip
def test_what_learns_from_what_it_plays_learns_on_another_device(make: Callable[[], Method], there: Elsewhere) -> None:
    torch.manual_seed(0)
    method = make()
    with there:
        there.move(method.modules)
        for step in range(2):
            said = method.accumulate(step, Share(device=there.device))
            assert np.isfinite(list(said.values())).all()
            method.after_step(step + 1)


@pytest.mark.parametrize(
    "settings",
    [
        Cloning(8), ImplicitQ(8), ImplicitQ(8, expectile=0.8), Td3Bc(8), CalQl(8), Hilp(8), Successor(8),
        Diffusion(8, waypoints=4, paths=20),
    ],
    ids=["cloning", "iql", "iql-goals", "td3-bc", "cal-ql", "hilp", "successor", "diffusion"],
)  # fmt: skip
def test_what_learns_from_logs_learns_on_another_device(
    settings: OfflineSettings, tmp_path: Path, there: Elsewhere
) -> None:
    told = settings.conditioning(settings in (ImplicitQ(8, expectile=0.8), Diffusion(8, waypoints=4, paths=20)))
    place, goal = ((), ()) if told == "nothing" else (("x", "y"), ("goal_x", "goal_y"))
    waypoints = settings.waypoints if isinstance(settings, Diffusion) else 0
    config = SkillConfig(PUCK, told, place, goal, 8, 1, skill=4, waypoints=waypoints)
    method = settings.build(SkillPolicy(config), Replay([walks(tmp_path, 10)]), 0)
    with there:
        there.move(method.modules)
        for step in range(2):
            assert np.isfinite(list(method.accumulate(step, Share(device=there.device)).values())).all()
            method.after_step(step + 1)


def test_a_correction_looks_at_arrays_from_another_device(there: Elsewhere) -> None:
    correction = still(0).add_correction("point", CorrectionConfig(8, 1, waves=2))
    with there:
        there.move(correction)
        seen = correction.look_at(np.zeros((3, 32), np.float32), [{"state": np.ones(2, np.float32)}] * 3)
        assert seen.shape == (3, correction.seen) and correction.changes(seen).shape == (3, 1)


@pytest.mark.parametrize("curve", ["brush", "exptanh", "integrated"])
def test_curves_are_computed_where_their_amounts_are(curve: curves.Curve, there: Elsewhere) -> None:
    module = torch.nn.ParameterDict(
        {name.replace(".", "_"): value for name, value in curves.new_numbers("a", curve, 2).items()}
    )
    amount, context = torch.rand(5), torch.rand(5, 2)
    with there:
        there.move(module)
        numbers = {f"a.{name.removeprefix('a_')}": value for name, value in module.items()}
        found = curves.value(torch, numbers, "a", curve, amount.to(there.device), context.to(there.device))
    assert found.shape == (5,)

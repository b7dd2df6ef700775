"""Pieces of actions and places: drawn together, judged by where they lead, learnt from logs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from make_puck import PUCK, walks
from polysoma.acting.paths import PathSearch
from polysoma.acting.skills import SkillPlanner
from polysoma.acting.zones import Zones
from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError
from polysoma.learning.engine import Engine
from polysoma.learning.methods.diffusion import Diffusion
from polysoma.learning.skills import engine_settings_for
from polysoma.nn.pieces import Pieces
from polysoma.policy import skills
from polysoma.policy.skills import SkillConfig, SkillPolicy

GOALS = ("x", "y"), ("goal_x", "goal_y")


class Rays(Pieces):
    """Goes straight at one speed, in the direction that the noise says; what is done says it as well."""

    def forward(self, x: Tensor, time: Tensor, seen: Tensor, way: Tensor) -> Tensor:
        noise = self.noise.repeat(len(x) // len(self.noise), 1, 1)[:, 0, 2:]
        ahead = noise / noise.norm(dim=1, keepdim=True)
        steps = torch.arange(1, self.steps + 1)[:, None] / self.steps
        return torch.cat([ahead[:, None].expand(-1, self.steps, -1), ahead[:, None] * steps], 2)


def rays() -> Rays:
    return Rays(2, 2, 2, 4, 8, 1)


def chosen(pieces: Pieces, *ways: tuple[float, float], guides: tuple = ()) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    here = torch.tensor([[5.0, 5.0]] * len(ways))
    done, reached = pieces.chosen(torch.zeros(len(ways), 2), here, torch.tensor(ways), guides)
    return done[:, 0].numpy(), (reached[:, -1] - here).numpy()


def test_what_is_done_is_the_piece_that_gets_nearest_to_the_goal() -> None:
    every = rays().noise[:, 0, 2:]
    every = (every / every.norm(dim=1, keepdim=True)).numpy()
    ways = [(1.0, 0.0), (0.0, 1.0), (-0.6, -0.8)]
    done, reached = chosen(rays(), *ways)
    for way, action, place in zip(np.array(ways), done, reached, strict=True):
        np.testing.assert_allclose(action, every[(every @ way).argmax()], atol=1e-6)
        np.testing.assert_allclose(place, action, atol=1e-6)
    alone, _ = chosen(rays(), ways[1])
    np.testing.assert_array_equal(alone[0], done[1])


def test_a_guide_says_where_not_to_go() -> None:
    def right(places: Tensor) -> Tensor:
        assert places.shape[1:] == (5, 2) and (places[:, 0] == 5).all(), "the place where it is comes first"
        return 0.5 * (places[..., 0] - 5).clamp(min=0).sum(1)

    (free, _), (kept, _) = chosen(rays(), (1.0, 0.2)), chosen(rays(), (1.0, 0.2), guides=(right,))
    assert free[0, 0] > 0.9 and kept[0, 0] < free[0, 0] - 0.1


def test_guides_pull_what_is_drawn() -> None:
    def low(places: Tensor) -> Tensor:
        return (places[:, -1, 1] - 4.5).square() / 2

    (_, free), (_, pulled) = chosen(rays(), (1.0, 0.0)), chosen(rays(), (1.0, 0.0), guides=(low,))
    assert abs(free[0, 1]) < 0.5 and pulled[0, 1] == pytest.approx(-0.5, abs=1e-5), "half a square is moved all the way"


def test_only_steps_that_were_made_are_learnt() -> None:
    pieces = Pieces(3, 2, 1, 4, 8, 1)
    for parameter in pieces.parameters():
        torch.nn.init.zeros_(parameter)
    pieces.unit.fill_(2.0)
    actions, moved = torch.full((1, 4, 1), 3.0), torch.full((1, 4, 2), 4.0)
    known = torch.tensor([[1.0, 1, 0, 0]])
    actions[0, 2:], moved[0, 2:] = 100, 100
    noise = torch.zeros(1, 4, 3)
    loss = pieces.losses(actions, moved, known, torch.zeros(1, 3), torch.ones(1, 2), noise, torch.ones(1) / 2)
    # All zeros are told: the squares of 3, 2 and 2.
    assert loss.tolist() == pytest.approx([17 / 3])


def learnt(folder: Path, seed: int) -> SkillPolicy:
    torch.manual_seed(seed)
    settings = Diffusion(batch=64, waypoints=5, paths=100, piece=4, near=0.75)
    config = SkillConfig(PUCK, "goal", *GOALS, 24, 1, waypoints=5, piece=4)
    built = settings.build(SkillPolicy(config), Replay([walks(folder / "walks", seed=seed)]), seed)
    how = dataclasses.replace(engine_settings_for("diffusion", 250), checkpoint_every=250)
    return skills.load(Engine(built, how).run(folder / "run"))


@pytest.mark.learns
def test_a_body_without_a_law_goes_to_near_goals_by_drawn_pieces(tmp_path: Path) -> None:
    policy = learnt(tmp_path, 0)
    rng = np.random.default_rng(7)
    here, angles = rng.uniform(-1.5, 1.5, (100, 2)), rng.uniform(-np.pi, np.pi, 100)
    way = 0.3 * np.stack([np.cos(angles), np.sin(angles)], 1)
    states = torch.tensor(np.concatenate([here, here + way], 1), dtype=torch.float32)
    done = policy.decide(states).numpy()
    cosines = (done * way).sum(1) / np.linalg.norm(done, axis=1) / np.linalg.norm(way, axis=1)
    assert cosines.mean() > 0.9, "0.995 to 0.998 over ten seeds"
    # The same states alone.
    np.testing.assert_allclose(policy.decide(states[:3]).numpy(), done[:3], atol=1e-5)


def test_zones_of_a_way_guide_the_pieces_of_who_follows_it() -> None:
    config = SkillConfig(PUCK, "goal", *GOALS, 8, 1, waypoints=5, piece=4)
    policy = SkillPolicy(config)
    zones = Zones([{"x": (0.0, 1.0)}])
    free, around = (PathSearch(SkillPlanner(policy), policy, zones=one).planner for one in (None, zones))
    assert isinstance(free, SkillPlanner) and isinstance(around, SkillPlanner)
    assert not free.guides and len(around.guides) == 1
    again = PathSearch(around, policy).planner
    assert isinstance(again, SkillPlanner) and not again.guides


def test_pieces_are_for_policies_that_draw_ways() -> None:
    with pytest.raises(PolysomaError, match="only policies that draw ways"):
        SkillConfig(PUCK, "goal", *GOALS, piece=4)
    config = SkillConfig(PUCK, "goal", *GOALS, waypoints=5, piece=4)
    assert SkillConfig.from_json(config.to_json()) == config and "piece" not in SkillConfig(PUCK).to_json()

"""The way to a goal by halves, in a space of skills that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_graph import Straight

from make_puck import PUCK, SPEED, Along, around, walks
from polysoma.acting.agent import Agent
from polysoma.acting.midpoints import MidpointSearch
from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError
from polysoma.policy.skills import SkillConfig, SkillPolicy, goals_of


def policy(told: str = "skill") -> SkillPolicy:
    place, goal = goals_of(PUCK)
    made = SkillPolicy(SkillConfig(PUCK, told, place, goal, 8, 1, 2))  # type: ignore[arg-type]
    if told == "skill":
        made.phi = torch.nn.ModuleList([Along(), Along()])
    return made


def test_a_planner_that_goes_straight_is_led_around(tmp_path: Path) -> None:
    place, goal, inner = np.zeros(2, np.float32), np.array([2, 0], np.float32), Straight()
    search = MidpointSearch(inner, policy(), Replay([around(tmp_path)]), near=5, best=5)
    half = search.places[np.linalg.norm(search.places - [1, 2], axis=1).argmin()]
    first = MidpointSearch(inner, policy(), Replay([around(tmp_path / "again")]), halves=1, near=5, best=5)
    assert np.linalg.norm(first.next(place, goal) - half) < 0.3
    agent, visited = Agent(search, PUCK, "go"), []
    for _ in range(120):
        place = place + SPEED * agent.act({"state": np.concatenate([place, goal]).astype(np.float32)})
        visited.append(place)
    path = np.array(visited)
    assert np.linalg.norm(path[-1] - goal) < 0.1 and path[:, 1].max() > 1.6


def test_a_near_goal_is_shown_as_it_is(tmp_path: Path) -> None:
    search = MidpointSearch(Straight(), policy(), Replay([around(tmp_path)]), near=5)
    goal = np.array([0.1, 0.4])
    assert (search.next(np.zeros(2), goal) == goal).all()


def test_whoever_knows_no_distances_is_refused(tmp_path: Path) -> None:
    logs = Replay([walks(tmp_path, 5)])
    with pytest.raises(PolysomaError, match="given goal lacks"):
        MidpointSearch(Straight(), policy("goal"), logs)
    blind = SkillPolicy(SkillConfig(PUCK, "skill", ("x", "y"), (), 8, 1, 2))
    with pytest.raises(PolysomaError, match="observes no goal"):
        MidpointSearch(Straight(), blind, logs)

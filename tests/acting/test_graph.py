"""Search over a graph of logs: the way around, shown to a planner that only goes straight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from make_puck import PUCK, SPEED, Along, around
from polysoma.acting.agent import Agent
from polysoma.acting.graph import DataGraph, GraphSearch, Moves, Near, Visits, searching
from polysoma.acting.planner import Plan, Session, TaskPrompt
from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError
from polysoma.rollout.drivers import Checkpoint


class Straight:
    """Goes straight to the goal that it observes."""

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        return Session(prompt)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Any]) -> list[Any]:
        self.seen += [seen["state"][2:].copy() for seen in observations]
        ways = [seen["state"][2:] - seen["state"][:2] for seen in observations]
        return [Plan((way / max(SPEED, np.linalg.norm(way)))[None].astype(np.float32), "straight") for way in ways]


def test_distances_follow_what_was_done(tmp_path: Path) -> None:
    graph = DataGraph(Replay([around(tmp_path)]), ("x", "y"), 0.25, Moves(seen=2))
    assert graph.distance(np.array([0.0, 0.0]), np.array([2.0, 0.0])) > 5
    assert graph.distance(np.array([0.0, 2.0]), np.array([2.0, 2.0])) < 2.6
    # Nobody went back: a way to the start begins near the start.
    node, end = graph.ends(np.array([2.0, 1.0]), np.array([0.0, 1.0]))
    assert graph.nodes[node][0] < 0.5 and graph.nodes[end][0] < 0.5


def test_a_planner_that_goes_straight_is_led_around(tmp_path: Path) -> None:
    logs = around(tmp_path)
    place, goal, inner = np.zeros(2, np.float32), np.array([2, 0], np.float32), Straight()
    search = GraphSearch(inner, DataGraph(Replay([logs]), ("x", "y"), 0.25, Moves(seen=2)), ("goal_x", "goal_y"))
    agent = Agent(search, PUCK, "go")
    visited = []
    for _ in range(120):
        observation = {"state": np.concatenate([place, goal]).astype(np.float32)}
        place = place + SPEED * agent.act(observation)
        visited.append(place)
        assert (observation["state"][2:] == goal).all(), "the observation of whoever asked stays as it is"
    path = np.array(visited)
    assert np.linalg.norm(path[-1] - goal) < 0.1
    assert path[:, 1].max() > 1.6, "it went around"
    asked = np.array(inner.seen)
    assert (np.linalg.norm(asked[:20] - goal, axis=1) > 0.5).all() and (asked[-1] == goal).all()


def along(places: np.ndarray) -> np.ndarray:
    """How long it takes to places on three sides of a square."""
    found: np.ndarray = Along()(torch.from_numpy(places)).numpy()
    return found


def test_edges_are_those_of_a_representation(tmp_path: Path) -> None:
    replay, start, end = Replay([around(tmp_path)]), np.array([0.0, 0.0]), np.array([2.0, 0.0])
    # In the space of the places themselves all that is near is joined, also where no log went: straight on, and back.
    graph = DataGraph(replay, ("x", "y"), 0.25, Near(lambda places: places, cells=9))
    assert graph.distance(start, end) < 2.3
    # A space that knows the way around knows it both ways, in the unit of places, whatever that of its own distances.
    for unit in (1.0, 7.0):
        graph = DataGraph(replay, ("x", "y"), 0.25, Near(lambda places, unit=unit: unit * along(places), cells=2))  # type: ignore[misc]
        assert 5 < graph.distance(start, end) < 8 and 5 < graph.distance(end, start) < 8
        assert np.linalg.norm(graph.subgoal(start, end, 0.6) - [0, 0.7]) < 0.4


def test_what_no_graph_is_of_is_said(tmp_path: Path) -> None:
    logs = around(tmp_path)
    with pytest.raises(PolysomaError, match="was made 1000 times"):
        DataGraph(Replay([logs]), ("x", "y"), 0.25, Moves(seen=1000))
    with pytest.raises(PolysomaError, match=r"no channels \['z'\]"):
        DataGraph(Replay([logs]), ("z",))
    with pytest.raises(PolysomaError, match="above 0"):
        DataGraph(Replay([logs]), ("x", "y"), -1.0)
    graph = DataGraph(Replay([logs]), ("x", "y"), edges=Moves(seen=2))
    with pytest.raises(PolysomaError, match="a channel for each of"):
        GraphSearch(Straight(), graph, ("goal_x",))
    assert searching(Straight(), logs, 0.25).graph.cell == 0.25
    with pytest.raises(PolysomaError, match="says how fast one goes"):
        Near(lambda places: places).join(Visits(np.zeros((1, 2)), 9.0, np.zeros((0, 2), int), np.zeros(0, int)))
    with pytest.raises(PolysomaError, match="edges: expected the graph of logs"):
        Checkpoint("generalist", edges="runs/hilp/checkpoint")

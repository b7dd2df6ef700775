"""Zones: what touches them, what is counted, and ways of a graph around them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_graph import Straight

from make_puck import PUCK, SPEED, walk
from polysoma.acting.agent import Agent
from polysoma.acting.graph import GraphSearch, searching
from polysoma.acting.limits import Limited, Limits
from polysoma.acting.planner import NoPlan
from polysoma.acting.zones import Watched, ZoneCounts, Zones
from polysoma.data.dataset import Dataset
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError

MIDDLE = Zones([{"x": (0.8, 1.2), "y": (-0.5, 0.5)}], margin=0.1)


def test_pieces_touch_a_zone_between_their_ends() -> None:
    boxes = MIDDLE.boxes(("x", "y"))
    start, end = (
        np.array([[0.0, 0], [0, 0], [0, 0.7], [1, 2], [0, 0.55]]),
        np.array([[2.0, 0], [0.7, 0], [2, 0.7], [1, 1], [2, 0.55]]),
    )
    assert boxes.crossed(start, end).tolist() == [True, False, False, False, False]
    assert boxes.crossed(start, end, 0.1).tolist() == [True, False, False, False, True]
    # The other way round, and along a channel that stays: the same.
    assert (boxes.crossed(end, start) == boxes.crossed(start, end)).all()
    assert boxes.crossed(np.array([1.0, 2]), np.array([1.0, -2])) and not boxes.crossed(
        np.array([1.0, 2]), np.array([1.0, 2])
    )
    rng = np.random.default_rng(0)
    start, end = rng.uniform(-1, 2, (2, 500, 2))
    many = np.linspace(start, end, 400, axis=1)
    np.testing.assert_array_equal(boxes.crossed(start, end), boxes.inside(many).any(1) | boxes.crossed(start, end))
    assert (boxes.inside(many).any(1) != boxes.crossed(start, end)).mean() < 0.02


def test_channels_that_are_not_named_are_free() -> None:
    wall = Zones([{"x": (1, 2)}])
    assert wall.boxes(("x", "y")).inside(np.array([[1.5, 9], [0.5, 0]])).tolist() == [True, False]
    with pytest.raises(PolysomaError, match=r"zones of \['x'\]: ways are planned in \['y'\] alone"):
        wall.boxes(("y",))


def test_a_path_may_leave_a_margin_and_come_into_one() -> None:
    boxes = MIDDLE.boxes(("x", "y"))
    away = [[0.75, 0.0], [0.5, 0], [0, 0]]
    paths = np.array(
        [away, away[::-1], [[0.5, 0], [0.75, 0], [0.5, 0]], [[1, 0], [0.5, 0], [0, 0]], [[0.5, 0], [1, 0], [1, 0]]]
    )
    assert boxes.violated(paths).tolist() == [False, False, True, False, True]


def test_a_file_says_which_key_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "zones.toml"
    file.write_text("[puck]\nmargin = 0.1\nzones = [{ x = [0.8, 1.2], y = [-0.5, 0.5] }]\n")
    assert Zones.read(file, [PUCK]) == {"puck": MIDDLE}
    for text, told in (
        ("", "expected a table for a body"),
        ("[cart]\nzones = []", r"cart: expected the table of one of the bodies \['puck'\]"),
        ("[puck]\nzones = [{ z = [0, 1] }]", "puck has no channel 'z'"),
        ("[puck]\nzones = [{ x = [1, 0] }]", "the lower end first"),
        ("[puck]\nzones = [{}]", "zones.0: expected a range"),
        ("[puck]\nzones = []\nmargin = -1", "margin"),
    ):
        file.write_text(text)
        with pytest.raises(PolysomaError, match=told):
            Zones.read(file, [PUCK])


def both_ways(root: Path) -> Dataset:
    """Walks from (0, 0) to (2, 0): straight, and around over (0, 1.4) and (2, 1.4), in one piece each."""
    rng = np.random.default_rng(0)
    with DatasetWriter(root, PUCK) as writer:
        for number in range(60):
            corners = np.array(
                [[[0, 0], [2, 0]], [[0, 0], [0, 1.4]], [[0, 1.4], [2, 1.4]], [[2, 1.4], [2, 0]]][number % 4]
            )
            way = corners[1] - corners[0]
            length = round(float(np.linalg.norm(way)) / SPEED)
            writer.add(walk(rng, corners[0] + 0.05 * rng.normal(size=2), length, number, way))
    return Dataset(root)


def drive(
    planner: GraphSearch | Watched | Limited, goal: tuple[float, float] = (2, 0), steps: int = 80
) -> tuple[np.ndarray, Agent]:
    agent, place, visited = Agent(planner, PUCK, "go"), np.zeros(2, np.float32), []
    for _ in range(steps):
        place = place + SPEED * agent.act({"state": np.array([*place, *goal], np.float32)})
        visited.append(place)
    agent.ended({"state": np.array([*place, *goal], np.float32)})
    return np.array(visited), agent


def test_a_graph_leads_around_a_zone_and_what_enters_is_counted(tmp_path: Path) -> None:
    logs = both_ways(tmp_path)
    direct, told = drive(Watched(searching(Straight(), logs, 0.2), {"puck": MIDDLE}))
    around, other = drive(Watched(searching(Straight(), logs, 0.2, MIDDLE), {"puck": MIDDLE}))
    for path in (direct, around):
        assert np.linalg.norm(path[-1] - [2, 0]) < 0.1
    boxes = MIDDLE.boxes(("x", "y"))
    assert boxes.inside(direct).any() and not boxes.inside(around).any()
    assert told.session.zones is not None and other.session.zones is not None
    assert told.session.zones.episodes == 1 and 2 <= told.session.zones.steps <= 8 and told.session.zones.of == 80
    assert other.session.zones.episodes == 0 and other.session.zones.of == 80


def test_the_last_step_of_an_episode_counts_and_its_beginning_is_no_step() -> None:
    def seen(x: float) -> dict[str, np.ndarray]:
        return {"state": np.array([x, 0, 2, 0], np.float32)}

    def counted(*places: float, end: float) -> ZoneCounts | None:
        agent = Agent(Watched(Straight(), {"puck": MIDDLE}), PUCK, "go")
        for x in places:
            agent.act(seen(x))
        agent.ended(seen(end))
        return agent.session.zones

    assert counted(0.5, 0.7, end=1.0) == ZoneCounts(episodes=1, steps=1, of=2)
    assert counted(0.5, end=1.5) == ZoneCounts(episodes=1, steps=1, of=1), "on the way"
    assert counted(1.0, 1.4, end=1.5) == ZoneCounts(episodes=1, steps=1, of=2)
    assert counted(0.5, end=0.7) == ZoneCounts(episodes=0, steps=0, of=1)


def test_where_no_way_is_left_the_episode_ends(tmp_path: Path) -> None:
    logs = both_ways(tmp_path)
    for zones, goal in ((Zones([{"x": (0.8, 1.2)}]), (2, 0)), (MIDDLE, (1, 0))):
        with pytest.raises(NoPlan, match="every known way"):
            drive(searching(Straight(), logs, 0.2, zones), goal)


def test_limits_hold_around_what_is_watched(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text("[puck]\nplace.dx = [-0.5, 0.5]\n")
    path, agent = drive(Limited(Watched(Straight(), {}), Limits.read(file)), steps=5)
    assert np.diff(path[:, 0]).max() < 0.051 and agent.session.zones is None

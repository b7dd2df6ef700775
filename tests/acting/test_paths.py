"""Drawn ways: judged, chosen, followed, drawn again; and learnt from pieces."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_graph import Straight
from test_zones import MIDDLE, drive
from torch import Tensor

from make_puck import PUCK, around, walks
from planners import Known
from polysoma.acting.opening import open_planner
from polysoma.acting.paths import PathSearch, penalty
from polysoma.acting.planner import NoPlan, TaskPrompt
from polysoma.acting.zones import Zones
from polysoma.errors import PolysomaError
from polysoma.learning.engine import Settings
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.methods.diffusion import Diffusion
from polysoma.learning.optimizers import AdamW
from polysoma.learning.skills import engine_settings, learn
from polysoma.nn.flow import Guide, descended
from polysoma.nn.paths import Paths, between, even, lengths, nearest, straight
from polysoma.policy.skills import SkillConfig, SkillPolicy

ENDS = torch.tensor([[0.0, 0.0], [2.0, 0.0]])


class Bows(Paths):
    """Draws bows of the lengths that are asked for, up or down as the noise says."""

    def draw(self, ends: Tensor, length: Tensor, noise: Tensor, guides: Any = (), steps: int = 8) -> Tensor:
        line = straight(ends[..., [0, *[1] * (self.waypoints - 1)], :])
        side = torch.where(noise[:, 0, 0] > 0, 1.0, -1.0)
        bow = torch.linspace(0, np.pi, self.waypoints).sin()
        high = side * (length.square() - lengths(line).square()).clamp(min=0).sqrt() / 2
        return line + torch.stack([torch.zeros(len(length), self.waypoints), high[:, None] * bow], -1)


def policy(landmarks: Tensor | None = None) -> SkillPolicy:
    """One whose ways are bows, over places of logs that are everywhere, or at these landmarks."""
    made = SkillPolicy(SkillConfig(PUCK, "goal", ("x", "y"), ("goal_x", "goal_y"), 8, 1, waypoints=17))
    everywhere = torch.cartesian_prod(*[torch.linspace(-3, 3, 22)] * 2)
    known = everywhere if landmarks is None else landmarks
    made.paths = Bows(2, 17, 16, 1, len(known))
    made.paths.measure(everywhere.numpy(), known.numpy(), 0.3, 6.0, 0.4)
    return made


def search(**given: Any) -> PathSearch:
    return PathSearch(Straight(), policy(given.pop("landmarks", None)), **given)


def test_the_shortest_way_is_followed_and_around_a_zone_where_there_is_one() -> None:
    boxes = MIDDLE.boxes(("x", "y"))
    direct, _ = drive(search())
    avoiding, agent = drive(search(zones=MIDDLE))
    assert np.abs(direct[:, 1]).max() < 0.3 and boxes.inside(direct).any()
    assert np.linalg.norm(avoiding[-1] - [2, 0]) < 0.1 and not boxes.inside(avoiding).any()
    assert agent.session.way.draws == 1, "a body that follows needs no other way"  # type: ignore[attr-defined]


def test_a_way_keeps_to_what_logs_have_seen() -> None:
    places = torch.cartesian_prod(torch.linspace(-3, 3, 40), torch.linspace(-3, 3, 40))
    seen = places[(places[:, 1] > 0.5) | ((places[:, 0] - 1).abs() > 0.6)]
    path, _ = drive(search(landmarks=seen))
    # Within the spread of the landmarks.
    assert path[:, 1].max() > 0.2 and np.linalg.norm(path[-1] - [2, 0]) < 0.1


def test_another_way_is_drawn_when_the_body_strays_or_the_goal_moves() -> None:
    way = search().way(0)
    goal = np.array([2.0, 0])
    for here, draws in (([0.0, 0], 1), ([0.1, 0.1], 1), ([0.2, -2], 2), ([0.3, -2], 2)):
        found = way.next(np.array(here), goal)
        assert way.draws == draws and 0.3 < np.linalg.norm(found - here) < 0.8
    way.next(np.array([0.3, -2]), np.array([2.0, 1]))
    assert way.draws == 3


def test_another_way_is_drawn_when_the_body_does_not_get_on() -> None:
    way, goal, held = search().way(0), np.array([2.0, 0]), np.array([0.1, 0.0])
    wait = 2 * int(PUCK.rate_hz)
    drawn = []
    for _ in range(3 * (wait + 1) + 1):
        way.next(held, goal)
        drawn.append(way.draws)
    assert drawn[wait - 1] == 1 and drawn[-1] == 4, "every two seconds"
    near = search().way(0)
    for _ in range(3 * wait):
        near.next(np.array([1.9, 0.0]), goal)
    assert near.draws == 1, "at the goal there is nothing to get on to"


def test_where_all_ways_touch_a_zone_the_episode_ends() -> None:
    for zones, goal, told in ((Zones([{"x": (0.8, 1.2)}]), (2, 0), "every way"), (MIDDLE, (1, 0), "the goal is in")):
        with pytest.raises(NoPlan, match=told):
            drive(search(zones=zones), goal)


def test_ways_are_drawn_again_while_the_best_one_leads_where_no_log_has_been(monkeypatch: pytest.MonkeyPatch) -> None:
    places = torch.cartesian_prod(torch.linspace(-3, 3, 40), torch.linspace(-3, 3, 40))
    made = search(landmarks=places[places[:, 1] > -0.5], zones=MIDDLE)
    bow = torch.linspace(0, np.pi, 17).sin()[:, None] * torch.tensor([0.0, 1.0])
    # First far from the logs, then through the zone, then around it.
    rounds = [straight(ENDS[[0, *[1] * 16]])[None] + height * bow for height in (-2.0, 0.0, 1.5)]
    monkeypatch.setattr(made, "_direct", lambda ends, generator: rounds.pop(0))
    monkeypatch.setattr(made, "_by_way_of", lambda ends, generator: rounds.pop(0))
    found = made.drawn(np.zeros(2), np.array([2.0, 0]), torch.Generator())
    assert found[:, 1].max() == pytest.approx(1.5) and not rounds


def test_long_ways_between_near_places_lead_by_way_of_others() -> None:
    """Logs went along three sides of a square, and only short bows are drawn."""
    side = torch.linspace(0, 2, 41)
    nothing = torch.zeros_like(side)
    known = torch.cat([torch.stack(pair, 1) for pair in ((nothing, side), (side, nothing + 2), (nothing + 2, side))])
    made = search(landmarks=known)
    made.paths.spread.fill_(0.1)
    found = made.drawn(np.zeros(2), np.array([2.0, 0]), torch.Generator().manual_seed(0))
    # Direct ones are about 0.1 away.
    assert made.paths.away(torch.from_numpy(found[None]).float()) < 0.08 and found[:, 1].max() > 1


def test_a_guide_decides_which_way_is_taken() -> None:
    def above(paths: Tensor) -> Tensor:
        return 40 * (paths[..., 1] - 0.5).square().mean(1)

    path, _ = drive(search(guides=[above]))
    assert path[:, 1].max() > 0.4


def test_channels_are_read_where_the_body_that_is_driven_has_them() -> None:
    state, words = PUCK.streams
    turned = dataclasses.replace(state, channels=(*state.channels[2:], *state.channels[:2]))
    leading = PathSearch(Known(Straight(), (dataclasses.replace(PUCK, streams=(turned, words)),)), policy())
    seen = {"state": np.array([3, 4, 1, 2], np.float32), "instruction": "go"}
    here, goal = leading.whereabouts(seen)
    assert (here.tolist(), goal.tolist()) == ([1, 2], [3, 4])
    assert leading.towards(seen, np.array([5.0, 6.0]))["state"].tolist() == [5, 6, 1, 2]
    assert seen["state"].tolist() == [3, 4, 1, 2]


def of_all_together(paths: Tensor) -> Tensor:
    return paths.square().mean()


def no_number(paths: Tensor) -> Tensor:
    return float("nan") * paths.sum((1, 2))


def without_slope(paths: Tensor) -> Tensor:
    return (paths[..., 1] - paths[..., 1]).sqrt().sum(1)


@pytest.mark.parametrize(
    ("guide", "told"),
    [
        (of_all_together, r"guide of_all_together: expected 16 costs, one for each that is drawn, got shape \(\)"),
        (no_number, "guide no_number: expected 16 costs, one for each that is drawn, got NaN"),
        (without_slope, r"guides \['without_slope'\]: the gradient of their costs is not a number"),
    ],
)
def test_guides_that_cost_nothing_that_can_be_compared_are_named(guide: Guide, told: str) -> None:
    with pytest.raises(PolysomaError, match=told):
        descended(straight(ENDS[[0, 1, 1]]).repeat(16, 1, 1), [guide])
    if guide is not without_slope:
        with pytest.raises(PolysomaError, match=told):
            drive(search(guides=[guide]))


def test_gradients_lead_out_of_zones() -> None:
    boxes = MIDDLE.boxes(("x", "y"))
    line = torch.tensor([[0.0, 0.42], [1.0, 0.42], [2.0, 0.42]])[None]
    cost = penalty(boxes, 1)
    moved = descended(line, [cost])
    # 0.18 below the margin's end; the other points are outside and stay.
    torch.testing.assert_close(moved[0, 1], torch.tensor([1.0, 0.6]), atol=1e-5, rtol=0)
    assert torch.equal(moved[0, [0, 2]], line[0, [0, 2]]) and cost(moved).item() < 1e-9 < cost(line).item()


def test_ends_are_inpainted_whatever_the_guides_say(tmp_path: Path) -> None:
    paths = Paths(2, 9, 16, 1, 8)
    drawn = paths.draw(ENDS, torch.full((5,), 3.0), torch.randn(5, 9, 2), [lambda x: x.square().sum((1, 2))])
    torch.testing.assert_close(drawn[:, [0, -1]], ENDS.expand(5, 2, 2))
    assert between(drawn, 4).shape == (5, 33, 2)
    torch.testing.assert_close(lengths(between(drawn, 4)), lengths(drawn))


FAST = Settings(
    steps=400, optimizer=AdamW(2e-3, weight_decay=0.0, ema=0.98, final=0.05), precision="float32", tracker="none",
    checkpoint_every=400,
)  # fmt: skip


@pytest.mark.learns
def test_ways_are_learnt_from_pieces_of_one_side(tmp_path: Path) -> None:
    settings = Diffusion(batch=64, waypoints=17, paths=2000, reach=3.0)
    folder = learn([around(tmp_path / "logs")], settings, tmp_path / "run", size=(48, 2), settings=FAST)
    assert isinstance(open_planner(folder), PathSearch)
    path, _ = drive(PathSearch(Straight(), folder), steps=160)
    assert np.linalg.norm(path[-1] - [2, 0]) < 0.1 and path[:, 1].max() > 1.3, "around, as no log went straight"


def test_what_draws_no_paths_says_so(tmp_path: Path) -> None:
    folder = learn([walks(tmp_path / "logs", 10)], Cloning(batch=8), tmp_path / "run", settings=engine_settings(2))
    with pytest.raises(PolysomaError, match="draws no paths"):
        PathSearch(Straight(), folder)
    with pytest.raises(PolysomaError, match="diffusion learns ways to goals"):
        learn([walks(tmp_path / "more", 10)], Diffusion(), tmp_path / "other", goals=False)
    with pytest.raises(PolysomaError, match="waypoints: expected 3 or more"):
        SkillConfig(PUCK, "nothing", waypoints=8)


def test_the_nearest_place_is_found_far_from_the_origin_as_well() -> None:
    generator = torch.Generator().manual_seed(0)
    places, known = (torch.randn(count, 3, generator=generator) for count in (700, 90))
    for offset in (0.0, 5000.0):
        away, rows = nearest(places + offset, known + offset)
        expected = torch.cdist(places.double(), known.double()).min(1)
        torch.testing.assert_close(away.double(), expected.values, atol=2e-3, rtol=0)
        assert (rows == expected.indices).double().mean() > 0.99


def test_ways_that_cut_corners_are_brought_back_and_those_through_walls_stay_seen() -> None:
    """Logs went along two sides of a corner, and on the other side of a wall."""
    line = torch.linspace(0, 2, 81)[:, None]
    nothing = torch.zeros_like(line)
    known = torch.cat([torch.cat([line, nothing], 1), torch.cat([nothing + 2, line], 1), torch.tensor([[0.0, 2.0]])])
    paths = Paths(2, 17, 8, 1, len(known))
    paths.measure(known.numpy(), known.numpy(), 0.05, 6.0, 0.4)
    bow = torch.tensor([[0.0, 0.0], [1.6, 0.4], [2.0, 2.0]])
    cutting = even(torch.cat([straight(bow[None, [0, *[1] * 8]]), straight(bow[None, [1, *[2] * 8]])[:, 1:]], 1))
    through = straight(torch.tensor([[0.0, 0.0]] + [[0.0, 2.0]] * 16))[None]
    drawn = torch.cat([cutting, through])
    assert (paths.away(drawn) > 0.2).all()
    repaired = paths.repaired(drawn)
    torch.testing.assert_close(repaired[:, [0, -1]], drawn[:, [0, -1]])
    assert paths.away(repaired)[0] < 0.1 and paths.away(repaired)[1] > 0.4
    pieces = repaired.diff(dim=1).norm(dim=-1)
    torch.testing.assert_close(pieces, pieces.mean(1, keepdim=True).expand_as(pieces), rtol=0.2, atol=0.0)
    # Without the second side there is no way there.
    assert paths.away(paths.repaired(drawn[:1], known[:81]), known[:81]) > 0.4


def test_a_body_brakes_before_a_zone_and_goes_back_out_of_one() -> None:
    planner = search(zones=MIDDLE)
    boxes = MIDDLE.boxes(("x", "y"))
    assert not boxes.inside(np.array([0.4, 0.0]), boxes.margin) and boxes.inside(np.array([1.0, 0.0]))

    def shown(*places: tuple[float, float]) -> np.ndarray:
        session = planner.start(TaskPrompt(PUCK, "go"), 0)
        for x, y in places:
            seen = session.nearer({"state": np.array([x, y, 2, 0], np.float32)})  # type: ignore[attr-defined]
        goal: np.ndarray = seen["state"][2:]
        return goal

    slow, fast, away = shown((0.39, 0), (0.4, 0)), shown((0.25, 0), (0.4, 0)), shown((0.5, 0), (0.4, 0))
    np.testing.assert_allclose(fast, [-0.05, 0], atol=1e-6, err_msg="it would soon be in the zone")
    assert np.abs(slow - 0.4).max() > 0.1 and np.abs(away - 0.4).max() > 0.1, "it goes on along its way"
    np.testing.assert_allclose(shown((0.4, 0.1), (0.85, 0.1)), [0.4, 0.1], rtol=1e-6)

"""Offline methods on logs of a puck, and what becomes of their checkpoints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from conftest import GOLDEN
from make_puck import PUCK, rows_drawn, spoilt, walk, walks
from polysoma.acting.agent import Agent
from polysoma.acting.opening import open_planner
from polysoma.acting.skills import SkillPlanner
from polysoma.data.dataset import Dataset
from polysoma.data.growing import Growing
from polysoma.data.replay import Replay
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import Channel, ContinuousActions, Modality, Stream
from polysoma.errors import PolysomaError
from polysoma.learning import lineage
from polysoma.learning.engine import Engine
from polysoma.learning.method import Share
from polysoma.learning.methods.cal_ql import CalQl
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.methods.diffusion import Diffusion
from polysoma.learning.methods.hilp import Hilp, skill_for_reward
from polysoma.learning.methods.iql import ImplicitQ
from polysoma.learning.methods.successor import Successor
from polysoma.learning.methods.td3_bc import Td3Bc
from polysoma.learning.objectives import advantage_weights, expectile_loss
from polysoma.learning.skills import aim, check_told, engine_settings, learn
from polysoma.policy import checkpoint, skills
from polysoma.policy.skills import SkillConfig, SkillPolicy, goals_of

FAST = engine_settings(250, 2e-3)


def learnt(folder: Path, method: Any, goals: bool, seed: int = 0, settings: Any = FAST) -> SkillPolicy:
    data = walks(folder / "walks", seed=seed)
    return skills.load(learn([data], method, folder / "run", goals, size=(48, 2), settings=settings, seed=seed))


def actions(policy: SkillPolicy, states: np.ndarray) -> np.ndarray:
    found: np.ndarray = policy.decide(torch.tensor(states, dtype=torch.float32)).numpy()
    return found


def states(seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-2, 2, (200, 4))


def alignment(policy: SkillPolicy) -> float:
    """The mean cosine between actions and the way to the goal."""
    seen = states()
    way, done = seen[:, 2:] - seen[:, :2], actions(policy, seen)
    return float(np.mean((way * done).sum(1) / np.linalg.norm(way, axis=1) / np.linalg.norm(done, axis=1)))


def test_the_expectile_is_the_minimum_of_its_loss() -> None:
    values = torch.linspace(0, 1, 101)
    guesses = torch.linspace(0, 1, 401)
    best = {e: guesses[[expectile_loss(values - g, e).mean() for g in guesses].index(min(
        expectile_loss(values - g, e).mean() for g in guesses))].item() for e in (0.5, 0.9)}  # fmt: skip
    assert best[0.5] == pytest.approx(0.5, abs=0.01)
    # At the expectile e, e times what lies above balances 1 - e times what lies below.
    assert best[0.9] == pytest.approx(0.75, abs=0.01)


def test_weights_of_advantages_are_bounded() -> None:
    weights = advantage_weights(torch.tensor([-1.0, 0.0, 1.0, 100.0]), 2.0)
    torch.testing.assert_close(weights, torch.tensor([np.exp(-2), 1.0, np.exp(2), 100.0], dtype=torch.float32))


@pytest.mark.learns
@pytest.mark.parametrize(("ahead", "mean"), [(0, 20), (4, 4)])
def test_cloning_learns_goals_so_many_steps_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float, mean: float
) -> None:
    replay = Replay([walks(tmp_path / "walks")])
    replay.last[:] = replay.starts.max() + 40
    seen: list[np.ndarray] = []
    draw = Replay.future

    def drawn(self: Replay, rows: np.ndarray, *how: Any) -> np.ndarray:
        rows = np.full(20_000, replay.starts.max())
        seen.append(draw(self, rows, *how) - rows)
        return replay.starts[: len(how[0].random(64))]

    monkeypatch.setattr(Replay, "future", drawn)
    policy = SkillPolicy(SkillConfig(PUCK, "goal", *goals_of(PUCK), 8, 1))
    Cloning(batch=64, ahead=ahead).build(policy, replay).accumulate(0, Share())
    assert seen[0].mean() == pytest.approx(mean, rel=0.1)


@pytest.mark.parametrize("method", [Cloning(batch=64), ImplicitQ(batch=64, discount=0.9)], ids=["cloning", "iql"])
def test_goals_are_gone_to(method: Any, tmp_path: Path) -> None:
    assert alignment(learnt(tmp_path, method, goals=True)) > 0.7


@pytest.mark.learns
def test_hilp_goes_to_goals(tmp_path: Path) -> None:
    method = Hilp(batch=64, discount=0.95, target=0.05)
    assert alignment(learnt(tmp_path, method, goals=True, settings=engine_settings(600, 2e-3))) > 0.5


def test_the_skill_of_a_reward_is_its_direction(tmp_path: Path) -> None:
    place, goal = goals_of(PUCK)
    policy = SkillPolicy(SkillConfig(PUCK, "skill", place, goal, 16, 1, 8))
    # A representation that is known: the plane, turned into eight dimensions.
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0][:, :2]
    policy.phi = torch.nn.ModuleList(torch.nn.Linear(2, 8, bias=False) for _ in range(2))
    with torch.no_grad():
        policy.phi[0].weight.copy_(turned)
    replay = Replay([walks(tmp_path, 40)])
    policy.measure(replay.states)
    rows = replay.starts[::10]
    found = skill_for_reward(policy, replay, rows)
    # What is earned is dx; in phi, x is turned and scaled.
    torch.testing.assert_close(found, turned[:, 0], atol=0.02, rtol=0)


def test_a_reward_that_never_differs_has_no_skill(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path, PUCK) as writer:
        for seed in range(10):
            # The mean of many tenths is not a tenth to the bit.
            alike = np.full(12, 0.1, np.float32)
            writer.add(dataclasses.replace(walk(rng, rng.uniform(-2, 2, 2), 12, seed), rewards=alike))
    replay = Replay([Dataset(tmp_path)])
    policy = SkillPolicy(SkillConfig(PUCK, "skill", *goals_of(PUCK), 16, 1, 8))
    policy.measure(replay.states)
    with pytest.raises(PolysomaError, match="the rewards of 100 steps are all the same"):
        skill_for_reward(policy, replay, replay.starts[:100])


@pytest.mark.parametrize(
    ("method", "goals", "last"),
    [
        (Hilp(batch=64), True, False),
        (Successor(batch=64), True, False),
        (ImplicitQ(batch=64), True, False),
        (ImplicitQ(batch=64), False, True),
    ],
    ids=["hilp", "successor", "iql to goals", "iql by rewards"],
)
def test_where_steps_lead_is_learnt_from_what_was_observed(
    method: Any, goals: bool, last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path, PUCK) as writer:
        for seed in range(6):
            # Ended by the task; what the last action led to was not recorded.
            one = walk(rng, np.zeros(2), 4, seed)
            writer.add(dataclasses.replace(one, terminated=True, truncated=False, final=None))
    drawn = rows_drawn(monkeypatch)
    told = method.conditioning(goals)
    policy = SkillPolicy(SkillConfig(PUCK, told, *goals_of(PUCK) if goals else ((), ()), 16, 1))
    method.build(policy, Replay([Dataset(tmp_path)])).accumulate(0, Share())
    # Of four frames each and a row for what is worth nothing: what the last one earns counts, where it leads does not.
    assert len(drawn[0]) == 64 and (drawn[0] % 5 == 3).any() == last


def test_an_aimed_policy_follows_its_skill_whatever_the_goal(tmp_path: Path) -> None:
    data = walks(tmp_path / "walks", 20)
    run = learn([data], Hilp(batch=8), tmp_path / "run", size=(16, 1), settings=engine_settings(3))
    aimed = aim(run, data, tmp_path / "aimed", share=0.3)
    again, seen = skills.load(tmp_path / "aimed"), states()
    other = np.concatenate([seen[:, :2], seen[::-1, 2:]], 1)
    assert (actions(again, seen) == actions(aimed, other)).all()
    assert not (actions(skills.load(run), seen) == actions(skills.load(run), other)).all()
    with pytest.raises(PolysomaError, match="already holds a checkpoint"):
        aim(run, data, tmp_path / "aimed")


@pytest.mark.learns
def test_successor_features_are_aimed_at_places(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "logs", PUCK) as writer:
        for seed in range(150):
            one = walk(rng, rng.uniform(-2, 2, 2), 12, seed)
            # What is earned is how far along x the puck is.
            writer.add(dataclasses.replace(one, rewards=one.observations["state"][:, 0].copy()))
    data, method = Dataset(tmp_path / "logs"), Successor(batch=64, discount=0.9, target=0.05)
    run = learn([data], method, tmp_path / "run", size=(48, 2), settings=engine_settings(500, 2e-3))
    aimed = aim(run, data, tmp_path / "aimed", share=0.1)
    assert skills.load(tmp_path / "aimed").config.rewarded == "places"
    assert actions(aimed, states() * [1, 1, 0, 0])[:, 0].mean() > 0.3


@pytest.fixture(scope="module")
def along_x(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How far a policy that only imitates the logs goes along x."""
    plain = learnt(tmp_path_factory.mktemp("plain"), Cloning(batch=64), goals=False)
    return float(actions(plain, states())[:, 0].mean())


@pytest.mark.learns
@pytest.mark.parametrize(
    "method", [Cloning(batch=64, best=0.2), ImplicitQ(batch=64, discount=0.9), Td3Bc(batch=64, discount=0.9)],
    ids=["filtered", "iql", "td3-bc"],
)  # fmt: skip
def test_rewards_draw_the_policy_away_from_the_mean_of_the_logs(method: Any, along_x: float, tmp_path: Path) -> None:
    better = actions(learnt(tmp_path, method, goals=False), states())[:, 0].mean()
    assert better > along_x + 0.25


def test_a_killed_run_resumes_to_the_same_bits(tmp_path: Path) -> None:
    data = walks(tmp_path / "walks", 20)
    place, goal = goals_of(PUCK)
    ways = Diffusion(batch=16, waypoints=9, paths=50)
    for kind, method in (
        ("hilp", Hilp(batch=16)),
        ("successor", Successor(batch=16)),
        ("td3-bc", Td3Bc(batch=16)),
        ("diffusion", ways),
    ):

        def engine(method: Any = method) -> Engine:
            torch.manual_seed(0)
            told = method.conditioning(method is ways)
            many = ways.waypoints if method is ways else 0
            config = SkillConfig(PUCK, told, *((), ()) if told == "nothing" else (place, goal), 16, 1, waypoints=many)
            return Engine(method.build(SkillPolicy(config), Replay([data])), engine_settings(12))

        whole = engine().run(tmp_path / f"{kind}-whole")
        engine().run(tmp_path / f"{kind}-halves", until=5)
        halves = engine().run(tmp_path / f"{kind}-halves", resume=True)
        for name, value in safetensors.torch.load_file(whole / "model.safetensors").items():
            assert torch.equal(value, safetensors.torch.load_file(halves / "model.safetensors")[name]), name


def test_targets_of_td3_bc_follow_where_the_policy_learns(tmp_path: Path) -> None:
    policy = SkillPolicy(SkillConfig(PUCK, "nothing", (), (), 16, 1))
    method = Td3Bc(batch=16, delay=3, target=0.1).build(policy, Replay([walks(tmp_path / "walks", 20)]))
    engine, moved = Engine(method, engine_settings(7, 1e-2)), []
    for step in range(7):
        before = {name: dict(method.modules[name].state_dict()) for name in ("q_target", "actor_target", "policy", "q")}
        held = {name: {key: value.clone() for key, value in own.items()} for name, own in before.items()}
        engine.step(step)
        now = {name: method.modules[name].state_dict() for name in held}
        moved.append({name for name, own in held.items() if any(not own[key].equal(now[name][key]) for key in own)})
    everything = {"q_target", "actor_target", "policy", "q"}
    assert moved == [everything, {"q"}, {"q"}, everything, {"q"}, {"q"}, everything]
    # A tenth of the way, to where the step led.
    was, here = held["q_target"]["both.0.0.weight"], method.modules["q"].state_dict()["both.0.0.weight"]
    torch.testing.assert_close(method.modules["q_target"].state_dict()["both.0.0.weight"], was.lerp(here, 0.1))


def test_a_checkpoint_is_a_planner_and_no_transformer(tmp_path: Path) -> None:
    settings = engine_settings(2)
    folder = learn([walks(tmp_path / "walks", 10)], Cloning(batch=8), tmp_path / "run", settings=settings)
    planner = open_planner(folder)
    assert isinstance(planner, SkillPlanner) and checkpoint.bodies(folder) == ["puck"]
    agent = Agent(planner, PUCK, "go")
    action = agent.act({"state": np.array([0, 0, 1, 0], np.float32)})
    assert action.shape == (2,) and (np.abs(action) <= 2).all()
    with pytest.raises(PolysomaError, match="holds a skill policy"):
        checkpoint.load(folder)
    assert "cloning, 2 steps on 10 episodes of puck" in lineage.tell(folder)[0]
    # What a config asks for and what a file holds are compared before anything is loaded.
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"width": 256', '"width": 128'))
    with pytest.raises(PolysomaError, match="does not fit its config"):
        skills.load(folder)
    config.write_text(config.read_text().replace('"width": 128', '"width": -1'))
    with pytest.raises(PolysomaError, match="width"):
        skills.load(folder)


def test_a_golden_skill_policy_acts_as_it_did() -> None:
    """tests/golden/skills, made by tests/golden/make.py with the first code of skill policies."""
    policy = skills.load(GOLDEN / "skills")
    found = actions(policy, np.array([[0.1, 0.2, 0.3, 0.4]]))[0]
    np.testing.assert_allclose(found, json.loads((GOLDEN / "skills-expected.json").read_text()), atol=1e-4)


def test_what_cannot_be_learnt_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with DatasetWriter(tmp_path / "silent", PUCK) as writer:
        for seed in range(3):
            writer.add(dataclasses.replace(walk(rng, np.zeros(2), 5, seed), rewards=None, instruction=f"go {seed}"))
    silent = Dataset(tmp_path / "silent")
    with pytest.raises(PolysomaError, match="follow several instructions"):
        learn([silent], Cloning(), tmp_path / "a", goals=False)
    with pytest.raises(PolysomaError, match="learns from rewards"):
        learn([silent], Td3Bc(), tmp_path / "a", goals=True)
    with DatasetWriter(tmp_path / "alike", PUCK) as writer:
        for seed, told in enumerate(("go to the puck", "go to a puck")):
            writer.add(dataclasses.replace(walk(rng, np.zeros(2), 5, seed), instruction=told))
    learn([Dataset(tmp_path / "alike")], Cloning(batch=4), tmp_path / "b", goals=False, settings=engine_settings(1))
    config = SkillConfig(PUCK)
    with pytest.raises(PolysomaError, match="expected data with rewards"):
        ImplicitQ().build(SkillPolicy(config), Replay([silent]))
    place, goal = goals_of(PUCK)
    assert (place, goal) == (("x", "y"), ("goal_x", "goal_y"))
    policy = SkillPolicy(SkillConfig(PUCK, "skill", place, goal))
    with pytest.raises(PolysomaError, match="expected data with rewards"):
        skill_for_reward(policy, Replay([silent]), [0])
    with pytest.raises(PolysomaError, match=r"no channels \['z'\]"):
        SkillConfig(PUCK, "goal", ("z",))
    blind = SkillPolicy(SkillConfig(PUCK, "goal", ("x", "y")))
    with pytest.raises(PolysomaError, match="no channel of the body says"):
        blind.decide(torch.zeros(1, 4))


def others(root: Path, high: float) -> Dataset:
    """Walks of a puck whose second action channel is always 0, within limits of 0 and ``high``."""
    moves = ContinuousActions((Channel("dx", "1", -2, 2), Channel("dy", "1", 0, high)))
    body = dataclasses.replace(PUCK, actions=moves)
    with DatasetWriter(root, body) as writer:
        for seed in range(6):
            one = walk(np.random.default_rng(seed), np.zeros(2), 12, seed)
            done = one.actions * np.float32([1, 0])
            writer.add(dataclasses.replace(one, embodiment=body, actions=done, executed=done))
    return Dataset(root)


@pytest.mark.parametrize("method", [Cloning(batch=16), Td3Bc(batch=16), Hilp(batch=16)], ids=lambda m: m.kind)
def test_a_channel_that_never_moves_stays_and_the_others_are_learnt(method: Any, tmp_path: Path) -> None:
    goals = not isinstance(method, Td3Bc)
    folder = learn(
        [others(tmp_path / "walks", 0)], method, tmp_path / "run", goals, size=(8, 1), settings=engine_settings(3)
    )
    done = actions(skills.load(folder), states())
    assert np.isfinite(done).all() and (done[:, 1] == 0).all() and np.ptp(done[:, 0]) > 0


def test_actions_without_limits_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match=r"skills of puck: .* no limits of \['dy'\]"):
        learn([others(tmp_path / "walks", np.inf)], Cloning(batch=16), tmp_path / "run")


@pytest.mark.parametrize(
    ("place", "goal"), [(("y",), ("goal_y",)), (("y", "x"), ("goal_y", "goal_x")), (("x", "goal_y"), ())]
)
def test_places_that_are_named_are_gone_to_where_their_goals_are_observed(
    place: tuple[str, ...], goal: tuple[str, ...], tmp_path: Path
) -> None:
    folder = learn(
        [walks(tmp_path / "walks", 5)],
        Cloning(batch=8),
        tmp_path / "run",
        place=place,
        size=(8, 1),
        settings=engine_settings(1),
    )
    config = skills.load(folder).config
    assert (config.place, config.goal) == (place, goal)
    # What it does not see as a goal it sees as its state.
    assert [config.channels[row] for row in config.seen] == [name for name in config.channels if name not in goal]


def test_a_policy_that_nothing_could_tell_where_to_go_is_not_learnt() -> None:
    check_told(PUCK, Cloning(), True, ())
    check_told(PUCK, Cloning(), False, ())
    check_told(PUCK, Hilp(), True, ("x", "goal_y"))
    aimless = dataclasses.replace(PUCK, streams=(Stream("state", Modality.STATE, (2,), PUCK.streams[0].channels[:2]),))
    for method in (Cloning(), ImplicitQ(), Diffusion()):
        with pytest.raises(PolysomaError, match="puck observes no goal, no channels goal_NAME, so nothing would tell"):
            check_told(aimless, method, True, ())


def test_a_reward_that_is_no_number_stops_only_those_who_learn_from_rewards(tmp_path: Path) -> None:
    data = spoilt(tmp_path / "logs")
    told = "logs: the reward of frame 5 of episode 3 is nan"
    for name, method, goals in (
        ("hilp", Hilp(batch=8), True), ("successor", Successor(batch=8), True), ("goals", ImplicitQ(batch=8), True),
        ("imitation", Cloning(batch=8), False),
    ):  # fmt: skip
        run = learn([data], method, tmp_path / name, goals, settings=engine_settings(2))
        assert (run / "config.json").is_file()
    for method in (ImplicitQ(), Td3Bc(), CalQl(), Cloning(best=0.5)):
        with pytest.raises(PolysomaError, match=told):
            learn([data], method, tmp_path / "rewards", False, settings=engine_settings(2))
    assert not (tmp_path / "rewards").exists()
    with pytest.raises(PolysomaError, match=told):
        aim(tmp_path / "hilp/checkpoint", data, tmp_path / "aimed")
    growing = Growing([data], 12, paid=False)
    with pytest.raises(PolysomaError, match=told):
        growing.need_rewards("this")

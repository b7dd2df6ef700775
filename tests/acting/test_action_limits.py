"""Limits hold last, whatever planned, guarded, blended or averaged; and what they change is counted."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro

from conftest import GRID, ROOT
from make_server import client, running
from make_servo import SERVO
from planners import Known, Recording, Replaces
from polysoma.acting.agent import Acting, Agent, act_together, plan_together
from polysoma.acting.guards import Guarded
from polysoma.acting.limiter import Limiter
from polysoma.acting.limits import BodyLimits, Limited, Limits, Near, Workspace
from polysoma.acting.planner import ExpertPlanner, Planner
from polysoma.acting.realtime import RealTime, RealTimeAgent
from polysoma.acting.steps import Bounded
from polysoma.cli.evaluate import Evaluate
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.play.actor import Actor

FULL = """
[servo]
place.wrist = [-2, 3]
step = { wrist = 0.4, elbow = 0.5 }
jerk.wrist = 0.1
workspace.speed = { action = "elbow", scale = 0.1, low = -1, high = 8 }
near = { channel = "elbow", below = 0.2, step = { wrist = 0.1 }, place = { elbow = [-1, 1] } }
"""


def observation(elbow: float = 0.5, wrist: float = -1.0, speed: float = 7.0) -> Observation:
    picture = np.zeros((4, 4, 3), np.uint8)
    joints = np.array([elbow, wrist, speed], np.float32)
    return {"joints": joints, "front": picture, "side": picture, "instruction": "open"}


def goes_to(wrist: float, elbow: float = 0.0, chunk: int = 4) -> Recording:
    return Recording(chunk, lambda session: np.array([wrist, elbow], np.float32))


def agent(planner: Planner, limits: BodyLimits, **acting: float) -> Agent:
    return Agent(Limited(planner, Limits({"servo": limits})), SERVO, "open", Acting(**{"execute": 4} | acting))


def drive(driver: Agent | RealTimeAgent, steps: int) -> np.ndarray:
    return np.stack([driver.act(observation()) for _ in range(steps)])


def test_places_and_steps() -> None:
    driver = agent(goes_to(9.0, 0.5), BodyLimits(place={"wrist": (-2, 0.25)}, step={"wrist": 0.5}))
    np.testing.assert_allclose(drive(driver, 5)[:, 0], [-0.5, 0, 0.25, 0.25, 0.25])
    counts = driver.session.limiter.counts
    assert (counts.actions, counts.changed, counts.place, counts.step, counts.jerk) == (5, 5, 5, 2, 0)


def test_what_keeps_all_limits_stays_as_it_is_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    limiter = Limiter(SERVO, BodyLimits(step={"wrist": 9.0}, jerk={"wrist": 18.0}, place={"elbow": (-3, 3)}))
    actions = rng.uniform(-1, 1, (40, 2)).astype(np.float32)
    np.testing.assert_array_equal(limiter.limit(actions, observation()), actions)
    assert limiter.counts.changed == 0
    # A steady pace is no jerk, however fast.
    limiter = Limiter(SERVO, BodyLimits(jerk={"wrist": 0.1}))
    limiter.executed(np.array([[-3, 0], [-2, 0]], np.float32))
    pace = np.stack([np.arange(-1, 4), np.zeros(5)], 1).astype(np.float32)
    np.testing.assert_array_equal(limiter.limit(pace, observation()), pace)


def test_jerk_speeds_up_and_slows_down_and_does_not_swing_about_its_target() -> None:
    driver = agent(goes_to(1.0), BodyLimits(jerk={"wrist": 0.1}))
    done = drive(driver, 20)[:, 0]
    steps = np.diff(done, prepend=-1.0)
    assert np.abs(np.diff(steps, prepend=0)).max() < 0.1 + 1e-5
    assert (steps > -1e-6).all() and done.max() < 1 + 1e-5
    np.testing.assert_allclose(done[-5:], 1, atol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_places_steps_and_jerk_hold_together_whatever_is_wanted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    limits = BodyLimits(place={"wrist": (-2, 3)}, step={"wrist": 0.4}, jerk={"wrist": 0.1})
    wanted = iter(rng.uniform(-9, 9, (200, 2)).astype(np.float32).repeat(rng.integers(1, 9), 0))
    driver = agent(Recording(4, lambda _: next(wanted)), limits, execute=int(rng.integers(1, 5)))
    done = drive(driver, 40)[:, 0]
    steps = np.diff(done, prepend=-1.0)
    assert done.min() > -2 - 1e-5 and done.max() < 3 + 1e-5
    assert np.abs(steps).max() < 0.4 + 1e-5
    assert np.abs(np.diff(steps, prepend=0)).max() < 0.1 + 1e-5


@pytest.mark.parametrize("first", [9.0, -9.0])
def test_the_first_step_counts_as_the_step_before_the_second(first: float) -> None:
    wanted = iter([first, -first, -first])
    driver = agent(Recording(1, lambda _: np.array([next(wanted), 0], np.float32)), BodyLimits(jerk={"wrist": 0.1}),
                   execute=1)  # fmt: skip
    # From rest at -1 a step of the jerk, then none, then one back.
    sign = np.sign(first)
    np.testing.assert_allclose(drive(driver, 3)[:, 0], [-1 + 0.1 * sign, -1 + 0.1 * sign, -1], atol=1e-6)


def test_a_workspace_lets_nothing_further_out_and_everything_back() -> None:
    box = Workspace("elbow", scale=0.5, low=-1, high=8)
    driver = agent(goes_to(0.0, 4.0, chunk=3), BodyLimits(workspace={"speed": box}), execute=3)
    # At 7, one to go: 2 units of the action; the next actions of the plan have nothing left.
    np.testing.assert_allclose(drive_at(driver, 7.0), 2)
    np.testing.assert_allclose(drive_at(driver, 8.0), 0)
    np.testing.assert_allclose(drive_at(driver, 9.0), 0)
    inwards = agent(goes_to(0.0, -4.0), BodyLimits(workspace={"speed": box}))
    np.testing.assert_allclose(drive_at(inwards, 9.0), -4)
    (plan,) = plan_together([agent(goes_to(0.0, 1.5), BodyLimits(workspace={"speed": box}))], [observation()])
    np.testing.assert_allclose(np.asarray(plan)[:, 1], [1.5, 0.5, 0, 0])
    backwards = Workspace("elbow", scale=-0.5, high=8)
    mirrored = agent(goes_to(0.0, -4.0), BodyLimits(workspace={"speed": backwards}))
    np.testing.assert_allclose(drive_at(mirrored, 7.0), -2)


def drive_at(driver: Agent, speed: float) -> float:
    return float(driver.act(observation(speed=speed))[1])


def test_it_is_slower_while_somebody_is_near() -> None:
    near = Near("speed", below=1.0, step={"wrist": 0.1}, place={"elbow": (-1, 1)})
    driver = agent(goes_to(9.0, 5.0), BodyLimits(step={"wrist": 0.5}, near=near), execute=1)
    np.testing.assert_allclose(driver.act(observation(speed=2)), [-0.5, 5])
    np.testing.assert_allclose(driver.act(observation(speed=0.5)), [-0.4, 1])
    np.testing.assert_allclose(driver.act(observation(speed=2)), [0.1, 5])
    assert driver.session.limiter.counts.near == 1


def test_limits_come_after_guards_averages_blends_and_the_stop() -> None:
    limits = BodyLimits(step={"wrist": 0.1})
    guarded = agent(Guarded(goes_to(0.0), Replaces(np.array([[9.0, 0.0]], np.float32))), limits)
    np.testing.assert_allclose(guarded.act(observation())[0], -0.9)
    bounded = agent(Bounded(goes_to(9.0), {"wrist": 5.0}), limits)
    np.testing.assert_allclose(bounded.act(observation())[0], -0.9)
    averaged = agent(goes_to(9.0), limits, execute=None, ensemble=0.1)
    np.testing.assert_allclose(drive(averaged, 2)[:, 0], [-0.9, -0.8], atol=1e-6)
    way = RealTime(blend=0, latency=0, stop=(9.0, 0.0), limits=Limits({"servo": limits}))
    with way.agent(goes_to(9.0), SERVO, instruction="open") as driver:
        np.testing.assert_allclose(drive(driver, 3)[:, 0], [-0.9, -0.8, -0.7], atol=1e-6)
        driver.scheduler.halt()
        driver.scheduler.answered = lambda *_, **__: None  # type: ignore[method-assign]
        np.testing.assert_allclose(drive(driver, 1)[:, 0], -0.6, atol=1e-6)


def test_they_begin_where_the_body_was_moved_to() -> None:
    limits = BodyLimits(step={"wrist": 0.5})
    driver = agent(goes_to(9.0), limits, execute=1)
    driver.act(observation())
    driver.executed(np.array([-3.0, 0.0], np.float32))
    np.testing.assert_allclose(driver.act(observation())[0], -2.5)
    driver.reset()
    np.testing.assert_allclose(driver.act(observation())[0], -0.5)
    served = agent(goes_to(9.0), limits)
    ways = []
    for count in (2, 0, None):
        (plan,) = plan_together([served], [observation()])
        ways.append(np.asarray(plan)[:, 0].tolist())
        if count is not None:
            served.executed_of_plan(count)
    assert ways == [[-0.5, 0, 0.5, 1], [0.5, 1, 1.5, 2], [0.5, 1, 1.5, 2]]


def test_what_was_executed_beside_a_plan_follows_on_it() -> None:
    limits = BodyLimits(jerk={"wrist": 0.1})
    commands = []
    for told in ("plan", "beside", "alone"):
        driver, said = agent(goes_to(2.0), limits), [0.0]
        for _ in range(20):
            (plan,) = plan_together([driver], [observation()])
            wrist = np.asarray(plan)[:3]
            said += wrist[:, 0].tolist()
            if told == "plan":
                driver.executed_of_plan(3)
            elif told == "beside":
                driver.executed_beside_plan(3, wrist[2])
            else:
                driver.executed(wrist[2])
        commands.append(said)
    assert commands[0] == commands[1]
    assert np.abs(np.diff(commands[0], 2)[1:]).max() < 0.1 + 1e-5
    # Of the last action alone nobody knows how many steps led to it: with a limit of steps it is no more than one.
    limits = BodyLimits(jerk={"wrist": 0.1}, step={"wrist": 0.3})
    driver = agent(goes_to(9.0), limits)
    plan_together([driver], [observation()])
    driver.executed(np.array([5.0, 0.0], np.float32))
    (plan,) = plan_together([driver], [observation()])
    assert np.asarray(plan)[0, 0] <= 5.3 + 1e-5


def test_agents_with_equal_limits_share_a_batch_and_the_planner_hears_what_was_executed() -> None:
    planner = goes_to(9.0)
    acting = Acting(execute=1, limits=Limits({"servo": BodyLimits(step={"wrist": 0.5})}))
    both = [acting.agent(planner, SERVO, instruction="open") for _ in range(2)]
    act_together(both, [observation()] * 2)
    act_together(both, [observation()] * 2)
    assert planner.batches == [2, 2]
    kind, told = planner.sessions[0].told[1]
    assert kind == "executed"
    np.testing.assert_allclose(told, [-0.5, 0])


def test_the_exported_runner_keeps_the_same_limits(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    pytest.importorskip("onnxruntime")
    import edge

    own = read(tmp_path, FULL).bodies["servo"]
    limiter = Limiter(SERVO, own)
    runner = edge.Limits(SERVO.to_json(), json.loads(json.dumps(dataclasses.asdict(own))))
    rng = np.random.default_rng(0)
    for _ in range(200):
        seen = observation(rng.uniform(-1, 2), rng.uniform(-1, 1), rng.uniform(-2, 9))
        wanted = rng.uniform(-9, 9, (4, 2)).astype(np.float32)
        ours = limiter.limit(wanted, seen)
        np.testing.assert_array_equal(runner.limit(wanted, seen), ours)
        limiter.executed(ours[:1])
        runner.executed(ours[0])
    assert runner.counts == dataclasses.asdict(limiter.counts)
    assert min(runner.counts.values()) > 0


def read(folder: Path, text: str) -> Limits:
    (folder / "limits.toml").write_text(text)
    return Limits.read(folder / "limits.toml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a table for each body, got none"),
        ("[servo]\nstep.wrist = 0", r"servo: step.wrist: expected a number above 0"),
        ("[servo]\nsteps.wrist = 1", "unknown key"),
        ("[servo]\nplace.wrist = [2, 1]", "place.wrist: expected the lower end first, got 2 and 1"),
        ('[servo]\nworkspace.speed = { action = "elbow", scale = 0 }', "scale: expected another number than 0"),
        ("[servo]\nstep.knee = 1", r"step.knee: expected an action channel of \['wrist', 'elbow'\], got 'knee'"),
        ("[servo]\nplace.wrist = [20, 30]", "place.wrist: expected a range within -9 to 9, got 20 to 30"),
        ('[servo]\nnear = { channel = "person", below = 1 }', "near.channel: expected a channel of its state"),
        ("[grid]\nstep.x = 1", "expected actions that are numbers, they are choices"),
        ("[panda]\nstep.x = 1", r"limits of \['panda'\]: expected bodies"),
    ],
)
def test_mistakes_are_said_before_anything_moves(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match=problem):
        Limited(Known(goes_to(0), (SERVO, GRID)), read(tmp_path, text))


def test_planners_side_by_side_have_the_limits_of_the_bodies_that_each_knows() -> None:
    limits = Limits({"servo": BodyLimits(step={"wrist": 0.5})})
    one, other = limits.around([Known(Recording(1), (GRID,)), Known(goes_to(9.0), (SERVO,))])
    assert Agent(one, "grid", "go").session.limiter is None
    np.testing.assert_allclose(Agent(other, "servo", "open").act(observation())[0], -0.5)
    with pytest.raises(PolysomaError, match=r"limits of \['servo'\]: expected bodies of \['grid'\]"):
        limits.around([Known(Recording(1), (GRID,))])


def test_an_agent_that_is_told_limits_keeps_them() -> None:
    acting = Acting(execute=4, limits=Limits({"servo": BodyLimits(step={"wrist": 0.5})}))
    np.testing.assert_allclose(Agent(goes_to(9.0), SERVO, "open", acting).act(observation())[0], -0.5)


def test_the_live_page_counts_them() -> None:
    limits = Limits({"pointmaze": BodyLimits(step={"force_x": 0.01})})
    actor = Actor(Limited(ExpertPlanner(), limits), "pointmaze")
    actor.step()
    assert actor.status()["limits"]["actions"] == 1
    actor.close()
    free = Actor(ExpertPlanner(), "pointmaze")
    assert "limits" not in free.status()
    free.close()


def test_a_body_without_limits_is_free_where_the_planner_knows_it_and_refused_where_it_knows_none() -> None:
    limits = Limits({"servo": BodyLimits(step={"wrist": 0.5})})
    assert Agent(Limited(Known(Recording(1), (SERVO, GRID)), limits), "grid", "go").session.limiter is None
    with pytest.raises(PolysomaError, match=r"expected a table for grid, got \['servo'\]"):
        Agent(Limited(Recording(1), limits), GRID, "go")
    with pytest.raises(PolysomaError, match="has limits already"):
        agent(Limited(goes_to(0), limits), BodyLimits())


def test_an_evaluation_counts_what_limits_changed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "limits.toml").write_text("[pointmaze]\nstep = { force_x = 0.01, force_y = 0.01 }")
    words = ["--policy", "expert", "--tasks", "pointmaze/umaze", "--episodes", "1", "--workers", "1"]
    out = tmp_path / "out.json"
    tyro.cli(Evaluate, args=[*words, "--limits", str(tmp_path / "limits.toml"), "--json", str(out)]).run()
    found = json.loads(out.read_text())
    counts = found["limits"]["pointmaze/umaze"]
    assert counts["actions"] == found["tasks"]["pointmaze/umaze"]["steps"][0]
    assert 0 < counts["step"] <= counts["changed"] <= counts["actions"]
    assert found["settings"]["acting"]["limits"]["bodies"]["pointmaze"]["step"] == {"force_x": 0.01, "force_y": 0.01}
    assert f"limits changed {counts['changed']} of {counts['actions']} actions" in capsys.readouterr().out


def test_a_server_keeps_them_and_says_so() -> None:
    limited = Limited(Known(goes_to(9.0), (SERVO,)), Limits({"servo": BodyLimits(step={"wrist": 0.5})}))
    with running(limited) as url, client(url, "servo") as robot:
        for expected in ([-0.5, 0, 0.5, 1], [1.5, 2, 2.5, 3]):
            answer = robot.infer(observation())
            np.testing.assert_allclose(answer["actions"][:, 0], expected)
            assert answer["limited"] == 4

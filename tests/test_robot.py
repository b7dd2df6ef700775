"""examples/robot.py on a simulated SO-101 behind LeRobot's interface of robots."""

from __future__ import annotations

import dataclasses
import runpy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from make_server import running
from polysoma.acting.agent import Agent
from polysoma.acting.planner import ExpertPlanner
from polysoma.acting.realtime import RealTimeAgent
from polysoma.data.statistics import Statistics
from polysoma.embodiment import Modality
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.nn.trunk import TransformerConfig
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy
from polysoma.serving.remote import RemotePlanner
from polysoma.simulators import so101

pytest.importorskip("mujoco")

BODY = dataclasses.replace(so101.SMALL, privileged=())
"""What a policy of this robot is trained on: pictures of 96 x 128."""
MOTORS = [motor.name for motor in so101.EMBODIMENT.stream("state").channels]
RANGE = so101.EMBODIMENT.actions.high - so101.EMBODIMENT.actions.low  # type: ignore[union-attr]


class Clock:
    """Time that passes only where somebody sleeps, or works for ``work`` seconds."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now, self.slept = self.now + seconds, self.slept + seconds


class Robot:
    """A simulated SO-101 as LeRobot's ``Robot``. What its cameras see is noise: it is as large as a camera's frame."""

    def __init__(self, task: str, seed: int, clock: Clock, work: float = 0.01) -> None:
        blind = tuple(stream for stream in so101.EMBODIMENT.streams if stream.modality is not Modality.IMAGE)
        self.environment = so101.So101(task, dataclasses.replace(so101.EMBODIMENT, streams=blind))
        observation, self.info = self.environment.reset(seed=seed)
        self.state, self.words = observation["state"], observation["instruction"]
        self.clock, self.work, self.over = clock, work, False
        self.rng = np.random.default_rng(seed)
        self.commands: list[np.ndarray] = []
        self.looks = 0

    def get_observation(self) -> dict[str, Any]:
        self.looks, self.clock.now = self.looks + 1, self.clock.now + self.work
        frames = {camera: self.rng.integers(0, 256, (480, 640, 3), np.uint8) for camera in so101.CAMERAS}
        return dict(zip(MOTORS, self.state.tolist(), strict=True)) | frames

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        self.commands.append(np.array([action[motor] for motor in MOTORS]))
        observation, _, terminated, truncated, self.info = self.environment.step(self.commands[-1])
        self.state, self.over = observation["state"], terminated or truncated
        return action


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drive(clock: Clock) -> Callable[..., None]:
    found: Callable[..., None] = runpy.run_path(str(ROOT / "examples" / "robot.py"))["drive"]
    found.__globals__["time"] = SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep)
    return found


def driven(robot: Robot) -> Agent:
    """The expert at the controls, that sees what a policy would."""
    return Agent(ExpertPlanner(), BODY, robot.words, expert=robot.environment.expert_action)


def policy() -> Policy:
    known = Statistics.of(np.stack([-RANGE, RANGE]))
    statistics = {BODY.name: {"state": known, "action": known}}
    config = PolicyConfig(
        (BODY,),
        statistics,
        ("cube",),
        {BODY.name: Horizon(chunk=16)},
        width=32,
        trunk=TransformerConfig(depth=1, heads=2),
        heads=2,
    )
    return Policy(config).for_inference()


def test_it_does_what_it_is_told(drive: Callable[..., None], clock: Clock) -> None:
    for seed in range(3):
        robot, began = Robot("so101/pick-up", seed, clock), clock.now
        drive(robot, driven(robot), stop=lambda robot=robot: robot.over)
        assert robot.info["success"]
        assert clock.now - began == pytest.approx(len(robot.commands) / BODY.rate_hz)


def test_every_step_is_bounded_the_first_one_too(drive: Callable[..., None], clock: Clock) -> None:
    robot = Robot("so101/pick-up", 0, clock)
    start = robot.state
    ends = so101.EMBODIMENT.actions.high, so101.EMBODIMENT.actions.low  # type: ignore[union-attr]
    far = Agent(ExpertPlanner(), BODY, "go", expert=lambda: ends[len(robot.commands) // 5 % 2])
    drive(robot, far, share=0.02, stop=lambda: len(robot.commands) == 20)
    steps = np.abs(np.diff([start, *robot.commands], axis=0))
    assert (steps <= 0.02 * RANGE + 1e-4).all() and (steps > 0.02 * RANGE - 1e-4).mean() > 0.9


def test_a_policy_that_takes_its_time(drive: Callable[..., None], clock: Clock) -> None:
    robot = Robot("so101/reach", 0, clock)
    with RealTimeAgent(policy(), BODY.name, robot.words) as agent:
        drive(robot, agent, stop=lambda: len(robot.commands) == 12)
        assert agent.scheduler.ticks.all == robot.looks == 12
    assert np.isfinite(robot.commands).all()


def test_a_served_policy_drives_it_as_one_here_does(drive: Callable[..., None], clock: Clock) -> None:
    own = policy()
    with running(own) as url:
        commands = []
        for planner in (own, RemotePlanner(url)):
            robot = Robot("so101/reach", 0, clock)
            # Both know one body, which need not be named.
            with RealTimeAgent(planner, None, robot.words, latency=2) as agent:
                assert agent.body == BODY
                drive(robot, agent, stop=lambda robot=robot: len(robot.commands) == 20)
            commands.append(robot.commands)
    np.testing.assert_allclose(*commands, atol=1e-3)


def test_a_dry_run_moves_nothing(drive: Callable[..., None], clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    robot = Robot("so101/pick-up", 0, clock)
    drive(robot, driven(robot), dry_run=True, stop=lambda: robot.looks == 3)
    assert not robot.commands and capsys.readouterr().out.count("shoulder_pan.pos") == 3


def test_a_slow_robot_is_not_hurried_afterwards(drive: Callable[..., None], clock: Clock) -> None:
    robot = Robot("so101/reach", 0, clock, work=0.1)

    def stop() -> bool:
        robot.work = 0.1 if robot.looks < 5 else 0.0
        return robot.looks == 10

    began = clock.now
    drive(robot, driven(robot), stop=stop)
    assert clock.now - began == pytest.approx(5 * 0.1 + 5 / BODY.rate_hz)


def test_a_robot_of_another_kind_is_refused_in_one_line(drive: Callable[..., None], clock: Clock) -> None:
    robot = Robot("so101/reach", 0, clock)
    seen = robot.get_observation() | {"front": np.zeros((480, 640, 3), np.uint8)}
    robot.get_observation = lambda: seen  # type: ignore[method-assign]
    with pytest.raises(PolysomaError, match=r"expected the streams \['instruction', 'state', 'top', 'wrist'\], got"):
        drive(robot, driven(robot))
    assert not robot.commands

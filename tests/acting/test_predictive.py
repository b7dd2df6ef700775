"""Model-predictive control of the car, with its own tires and with learnt ones, wherever a planner goes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from polysoma.acting.opening import open_planner
from polysoma.acting.planner import NoPlan, Plan, TaskPrompt
from polysoma.acting.predictive import Looking, PredictivePlanner
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.data.replay import Replay
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.learning.method import Method
from polysoma.learning.methods.dynamics import DynamicsLearning, learn, seeded
from polysoma.policy import checkpoint, dynamics, skills
from polysoma.policy.dynamics import Dynamics, DynamicsConfig, Shape
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from polysoma.simulators.car import CarEnvironment
from polysoma.simulators.car_body import EMBODIMENT, magic
from polysoma.simulators.pointmaze import EMBODIMENT as BALL

SHAPES: tuple[Shape, ...] = ("brush", "exptanh", "integrated", "perceptron")


@pytest.fixture(scope="module")
def driving(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Twelve seconds of noisy driving."""
    folder = tmp_path_factory.mktemp("driving")
    record(["car/drift"], 3, folder, Behaviour(noise=0.5, keep_failures=True, max_steps=200), seed=40)
    return Dataset(folder / "car")


def observed(seeds: range) -> list[dict[str, np.ndarray]]:
    return [CarEnvironment().reset(seed=seed)[0] for seed in seeds]


def test_it_drifts_with_the_tires_of_the_simulator() -> None:
    score = evaluate(PredictivePlanner(magic, Looking(ahead=15)), ["car/drift"], 4, 60, workers=1).tasks["car/drift"]
    assert score.successes >= 3


def test_commands_that_cost_more_are_smoother() -> None:
    """The car drives on, and its steering jerks less."""
    jerks = []
    for effort in (1.0, 10.0):
        planner, car = PredictivePlanner(magic, Looking(ahead=15, effort=effort)), CarEnvironment()
        seen, commands = car.reset(seed=60)[0], []
        session = planner.start(TaskPrompt(EMBODIMENT), 0)
        for _ in range(120):
            (plan,) = planner.plan([session], [seen])
            assert isinstance(plan, Plan)
            commands.append(float(plan.actions[0, 0]))
            seen, _, terminated, _, _ = car.step(plan.actions[0])
            assert not terminated
        jerks.append(np.square(np.diff(commands[40:], 2)).mean())
    assert jerks[1] < 0.5 * jerks[0]


def test_plans_do_not_depend_on_who_else_is_planned_for() -> None:
    planner, seen = PredictivePlanner(magic, Looking(ahead=10, first=2)), observed(range(6))
    together = [planner.start(TaskPrompt(EMBODIMENT), 0) for _ in seen]
    for _ in range(2):
        plans = planner.plan(together, seen)  # type: ignore[arg-type]
    for number, one in enumerate(seen):
        alone = planner.start(TaskPrompt(EMBODIMENT), 0)
        for _ in range(2):
            (plan,) = planner.plan([alone], [one])  # type: ignore[list-item]
        np.testing.assert_allclose(plan.actions, plans[number].actions, atol=1e-5)  # type: ignore[union-attr]


def test_a_model_that_holds_no_drift_has_no_plan_and_leaves_others_alone() -> None:
    planner = PredictivePlanner(lambda xp, front, along, across, load, friction: (0 * front, 0 * along, 0 * across))
    plans = planner.plan([planner.start(TaskPrompt(EMBODIMENT), 0)], observed(range(1)))  # type: ignore[arg-type]
    assert isinstance(plans[0], NoPlan) and "hold no steady drift" in str(plans[0])
    assert evaluate(planner, ["car/drift"], 2, 0, workers=1).tasks["car/drift"].successes == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_learning_lowers_the_error_and_the_checkpoint_drives(driving: Dataset, shape: Shape, tmp_path: Path) -> None:
    out = learn([driving], shape, tmp_path / "run", steps=6)
    assert checkpoint.kind(out) == dynamics.KIND and checkpoint.bodies(out) == ["car"]
    assert dynamics.load(out).config.shape == shape
    assert isinstance(open_planner(out), PredictivePlanner)
    with pytest.raises(PolysomaError, match="holds a grey box, which evaluate"):
        checkpoint.load(out)
    with pytest.raises(PolysomaError, match="holds no skill policy"):
        skills.load(out)


@pytest.mark.learns
def test_tires_are_learnt_from_twelve_seconds(driving: Dataset, tmp_path: Path) -> None:
    out = learn([driving], "exptanh", tmp_path / "run", steps=60, settings=DynamicsLearning(64, 5))
    rng = np.random.default_rng(0)
    slips = [
        torch.from_numpy(rng.uniform(low, high, 500)).float() for low, high in ((-0.4, -0.1), (0.1, 0.4), (0.1, 0.5))
    ]
    loads = torch.full((500,), 8.3), torch.full((500,), 8.3)
    friction = torch.full((500,), 0.9)
    true = torch.stack(magic(torch, *slips, loads, friction))

    def error(model: Dynamics) -> float:
        with torch.no_grad():
            return float((torch.stack(model.forces()(torch, *slips, loads, friction)) - true).square().mean().sqrt())

    first, learnt = error(seeded(DynamicsConfig(EMBODIMENT, "exptanh"), 0)), error(dynamics.load(out))
    assert learnt < 0.7 * first, (first, learnt)


def test_the_command_learns_and_evaluates(driving: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["dynamics", str(driving.root), "--shape", "brush", "--steps", "3", "--out", str(tmp_path / "run")])
    assert f"checkpoint: {tmp_path / 'run' / 'checkpoint'}" in capsys.readouterr().out
    place, told = str(tmp_path / "run" / "checkpoint"), tmp_path / "told.json"
    main(["evaluate", place, "--tasks", "car/drift", "--episodes", "1", "--workers", "1", "--json", str(told)])
    assert json.loads(told.read_text())["hardware"]["backend"] == "numpy"


def test_drives_of_the_planner_become_demonstrations(tmp_path: Path) -> None:
    planner = PredictivePlanner(magic, Looking(ahead=15))
    counts = record(["car/drift"], 1, tmp_path, Behaviour(planner, noise=None, demonstrates=True), seed=60)
    assert counts.kept["car/drift"] == 1
    drive, car = Dataset(tmp_path / "car").episode(0), CarEnvironment()
    assert drive.success
    np.testing.assert_array_equal(drive.actions, drive.executed)
    # Its own actions, and not those that the expert would have taken there.
    car.reset(seed=60)
    apart = []
    for action in drive.actions:
        apart.append(np.abs(car.expert_action() - action).max())
        car.step(action)
    assert max(apart) > 0.01


def test_a_frame_that_was_not_recorded_teaches_nothing_of_tires(driving: Dataset, tmp_path: Path) -> None:
    one = driving.episode(0)
    states = one.observations["state"]
    # As if the task had ended after six frames, with the state that they led to and without it.
    cut = dataclasses.replace(
        one, observations={"state": states[:6]}, actions=one.actions[:6], executed=one.executed[:6], rewards=None,
        terminated=True, truncated=False,
    )  # fmt: skip
    for name, final in (("known", {"state": states[6]}), ("unknown", None)):
        with DatasetWriter(tmp_path / name, EMBODIMENT) as writer:
            writer.add(dataclasses.replace(cut, final=final))

    def build(name: str, ahead: int) -> Method:
        model = seeded(DynamicsConfig(EMBODIMENT), 0)
        return DynamicsLearning(ahead=ahead).build(model, Replay([Dataset(tmp_path / name)]))

    for name, ahead in (("known", 6), ("unknown", 5)):
        build(name, ahead)
    with pytest.raises(PolysomaError, match="expected logs with 7 frames of driving"):
        build("unknown", 6)


def test_what_cannot_be_learnt_is_said(driving: Dataset, tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match="expected the body car, the only one whose mechanics are known"):
        DynamicsConfig(BALL)
    with pytest.raises(PolysomaError, match="expected logs with 301 frames of driving after each other, got none"):
        learn([driving], "brush", tmp_path / "run", settings=DynamicsLearning(ahead=300))

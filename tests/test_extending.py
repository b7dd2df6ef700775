"""The house is open: a method, a planner, a guard and a trunk of one's own, each in one short file of public parts."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ARM, HORIZONS, ROOT, make_episode, make_policy, observe
from polysoma.acting.agent import Acting, Agent
from polysoma.acting.guards import Guarded
from polysoma.acting.policy_planner import PolicyPlanner
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.data.writer import DatasetWriter
from polysoma.learning.engine import Engine, Settings
from polysoma.nn.heads import HeadConfig
from polysoma.policy.policy import Policy

EXTEND = ROOT / "examples" / "extend"


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXTEND / f"{name}.py"))


@pytest.fixture
def rewarded(tmp_path: Path) -> Dataset:
    """Episodes whose return is what their first channel says."""
    with DatasetWriter(tmp_path / "arm", ARM) as writer:
        for seed in range(24):
            episode = make_episode(ARM, 10, seed, "arm/one", "do one")
            place = np.random.default_rng(seed).uniform(-1, 1)
            episode.observations["state"][:] = place
            rewards = np.zeros(10, np.float32)
            rewards[-1] = place
            writer.add(dataclasses.replace(episode, rewards=rewards, terminated=True, truncated=False))
    return Dataset(tmp_path / "arm")


def drawing(rewarded: Dataset) -> Policy:
    """A policy whose head draws."""
    source = Source([rewarded], [1.0], 0.0, horizon=HORIZONS["arm"])
    config = dataclasses.replace(make_policy({"arm": source}, (ARM,)).config, head=HeadConfig("flow"))
    torch.manual_seed(0)
    return Policy(config)


def with_values(rewarded: Dataset, tmp_path: Path, steps: int = 150) -> tuple[Policy, list[float]]:
    policy = drawing(rewarded)
    method = example("value_method")["ValueRegression"](policy, rewarded, discount=1.0)
    losses: list[float] = []
    settings = Settings(steps=steps, tracker="none", checkpoint_every=steps)
    Engine(method, settings).run(tmp_path / "run", progress=lambda step, found: losses.append(found["value"]))
    return policy, losses


def test_files_are_short() -> None:
    files = list(EXTEND.glob("*.py"))
    assert {path.stem for path in files} == {"value_method", "best_of", "fence_guard", "gru_trunk"}
    for path in files:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        assert len(lines) <= 60, f"{path.name}: {len(lines)} lines"


@pytest.mark.learns
def test_a_method_regresses_a_value_readout_on_returns(rewarded: Dataset, tmp_path: Path) -> None:
    before = drawing(rewarded)
    policy, losses = with_values(rewarded, tmp_path)
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])
    # All else is as it was.
    known = policy.state_dict()
    assert all(torch.equal(value, known[name]) for name, value in before.state_dict().items())


def test_a_planner_takes_the_best_of_several_by_their_value(rewarded: Dataset, tmp_path: Path) -> None:
    policy, _ = with_values(rewarded, tmp_path, steps=1)
    policy.requires_grad_(False).eval()

    def imagine(observation: dict[str, Any], actions: np.ndarray) -> dict[str, Any]:
        return {**observation, "state": observation["state"] + np.float32(actions[:, 0].sum())}

    planner = example("best_of")["BestOf"](policy, imagine, count=6)
    asked: list[float] = []
    values = planner.values
    planner.values = lambda body, seen: (asked.extend(found := values(body, seen)), found)[1]
    agent = Agent(planner, "arm", "do one", Acting(execute=2))
    for seed in range(4):
        assert agent.act(observe(ARM, seed)).shape == (2,)
    assert len(asked) == 12 and len(set(asked[:6])) > 1, "two plans of four steps, six draws each"
    (plan,) = planner.plan([planner.start(agent.session.prompt, 0)], [agent.checked(observe(ARM))])
    assert np.isfinite(plan.actions).all()


def test_a_guard_cuts_plans_off_at_a_fence(policy: Policy) -> None:
    fence = example("fence_guard")["Fence"](0, 0, -0.5, 0.5, step_s=10.0)
    guarded = Guarded(PolicyPlanner(policy), fence)
    agent = Agent(guarded, "arm", "do one")
    seen = {**observe(ARM), "state": np.zeros(3, np.float32)}
    place = sum(float(agent.act(seen)[0]) * 10 for _ in range(2))
    assert -0.5 <= place <= 0.5
    outside = {**observe(ARM), "state": np.full(3, 0.9, np.float32)}
    agent.reset("do one")
    with pytest.raises(Exception, match="beyond the fence"):
        agent.act(outside)
    assert agent.session.interventions.stopped == 1


@pytest.mark.learns
def test_a_recurrent_trunk_trains_and_acts(sources: dict[str, Source], tmp_path: Path) -> None:
    from polysoma.learning.method import Ingredients
    from polysoma.learning.methods.imitation import Imitation
    from polysoma.learning.recipe import BodyRecipe

    config = dataclasses.replace(make_policy(sources).config, trunk=example("gru_trunk")["GruConfig"]())
    torch.manual_seed(0)
    policy = Policy(config)
    bodies = {name: BodyRecipe(batch=16) for name in ("arm", "grid")}
    given = Ingredients(policy, [sources["arm"], sources["grid"]], bodies=bodies)
    losses: list[float] = []
    settings = Settings(steps=60, tracker="none", checkpoint_every=60)
    engine = Engine(Imitation().build(given), settings)
    engine.run(tmp_path / "run", progress=lambda step, found: losses.append(sum(found.values())))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:5])
    policy.eval()
    for name in ("arm", "grid"):
        whole = sources[name].draw(4, np.random.default_rng(0))
        alone = whole.take(np.array([0]))
        count = int(alone.lengths[0])
        state = policy.begin(name, alone.texts[0])
        for time in range(count):
            one = dataclasses.replace(
                alone,
                observations={key: value[:, time : time + 1] for key, value in alone.observations.items()},
                previous=alone.previous[:, time : time + 1],
                previous_valid=alone.previous_valid[:, time : time + 1],
                lengths=torch.ones(1, dtype=torch.int64),
            )
            answer = policy.predict(one, [state])
        torch.testing.assert_close(answer, policy.predict(alone), atol=2e-2, rtol=2e-2)

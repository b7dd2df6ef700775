"""DQN from logs and from play, and what becomes of its checkpoints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from polysoma import simulators
from polysoma.acting.opening import open_planner
from polysoma.acting.planner import TaskPrompt
from polysoma.data.dataset import Dataset
from polysoma.data.replay import Made, Replay, Ring, flat
from polysoma.embodiment import (
    INSTRUCTION,
    Channel,
    ContinuousActions,
    DiscreteActions,
    Embodiment,
    Modality,
    Observation,
    Stream,
)
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.learning.methods.cloning import Cloning
from polysoma.learning.methods.dqn import Dqn, Exploring
from polysoma.learning.playing import SEED, play
from polysoma.learning.skills import engine_settings, learn
from polysoma.policy import checkpoint, values
from polysoma.policy.values import ValueConfig, ValuePolicy
from polysoma.rollout.choosing import Slots
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record

TASK = "babyai/GoToRedBallNoDists"
CORRIDOR = Embodiment(
    "corridor",
    (
        Stream("place", Modality.STATE, (1,), (Channel("x", "m"),)),
        Stream("flags", Modality.SYMBOL, (3,), cardinalities=(2, 3, 4)),
        Stream(INSTRUCTION, Modality.TEXT),
    ),
    DiscreteActions(("left", "right")),
    5.0,
)


def rows(values_of: ValuePolicy, count: int = 5) -> np.ndarray:
    body = values_of.config.embodiment
    rng = np.random.default_rng(0)
    shown = {}
    for stream in body.arrays:
        high = np.broadcast_to(stream.cardinalities or 2, stream.shape)
        shown[stream.name] = rng.integers(0, high, (count, *stream.shape))
    return flat(body, shown)


def chain(steps: int, rng: np.random.Generator) -> Made:
    """Steps at random on places 0 to 4; arriving at 4 pays 1 and ends, arriving at 0 pays 0.2 and ends."""
    place = rng.integers(1, 4, steps)
    action = rng.integers(2, size=steps)
    after = place + 2 * action - 1
    rewards = np.where(after == 4, 1.0, np.where(after == 0, 0.2, 0)).astype(np.float32)
    discounts = np.where((after == 4) | (after == 0), 0, 0.9).astype(np.float32)
    seen, following = (flat(CORRIDOR, {"place": p[:, None], "flags": np.zeros((steps, 3))}) for p in (place, after))
    return Made(seen, following, action, rewards, discounts)


@pytest.mark.learns
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("dueling", [True, False])
def test_values_are_those_of_the_best_choices(double: bool, dueling: bool) -> None:
    from polysoma.learning.method import Share
    from polysoma.learning.methods.dqn import _Dqn

    class Chain(_Dqn):
        def draw(self, count: int, rng: np.random.Generator) -> Made:
            return chain(count, rng)

    torch.manual_seed(0)
    policy = ValuePolicy(ValueConfig(CORRIDOR, 32, dueling))
    policy.measure(chain(100, np.random.default_rng(0)).states)
    method = Chain(policy, Dqn(64, 0.9, double, dueling, 0.05), 0)
    optimizer = torch.optim.Adam(policy.parameters(), 5e-3)
    for step in range(500):
        optimizer.zero_grad()
        method.accumulate(step, Share())
        optimizer.step()
        method.after_step(step + 1)
    seen = flat(CORRIDOR, {"place": np.array([[1], [2], [3]]), "flags": np.zeros((3, 3))})
    truth = torch.tensor([[0.2, 0.9], [0.9 * 0.81, 1.0 * 0.9], [0.9 * 0.9, 1.0]])
    truth[0, 1], truth[1, 0] = 0.9 * 0.9, 0.9 * 0.81
    torch.testing.assert_close(policy(torch.from_numpy(seen)).detach(), truth, atol=0.08, rtol=0)


def test_dueling_takes_the_mean_of_advantages_away() -> None:
    policy = ValuePolicy(ValueConfig(CORRIDOR, 8))
    assert policy.value is not None
    seen = torch.from_numpy(rows(policy))
    hidden: list[torch.Tensor] = []
    policy.hidden.register_forward_hook(lambda module, inputs, output: hidden.append(torch.relu(output)))
    found = policy(seen)
    torch.testing.assert_close(found.mean(1), policy.value(hidden[0])[:, 0])


def test_symbols_are_told_apart_and_states_are_measured() -> None:
    policy = ValuePolicy(ValueConfig(CORRIDOR, 8))
    seen = rows(policy, 50)
    seen[:, 0] = np.linspace(10, 20, 50)
    policy.measure(seen)
    assert policy.mean.item() == pytest.approx(15) and policy.scale.item() == pytest.approx(seen[:, 0].std())
    one = seen[:1].repeat(4, 0)
    one[:, 3] = range(4)
    assert len(np.unique(policy(torch.from_numpy(one)).detach()[:, 0].numpy().round(6))) == 4


def test_the_memory_holds_the_last_steps() -> None:
    ring, rng = Ring(CORRIDOR, 10), np.random.default_rng(0)
    for number in range(7):
        steps = chain(4, rng)
        ring.add(dataclasses.replace(steps, rewards=np.full(4, number, np.float32)))
    drawn = ring.draw(400, rng)
    assert len(ring) == 10 and set(drawn.rewards.tolist()) == {4, 5, 6}
    assert drawn.states.dtype == np.float32 and drawn.actions.dtype == np.int64


def row(body: Embodiment, observation: Observation) -> np.ndarray:
    one: np.ndarray = flat(body, {s.name: observation[s.name][None] for s in body.arrays})[0]
    return one


def test_lanes_play_what_the_environment_plays() -> None:
    pytest.importorskip("minigrid")
    slots, environment = Slots(TASK, 2, 7), simulators.make(TASK)
    seen = [environment.reset(seed=7)[0]]
    rng = np.random.default_rng(0)
    for _ in range(300):
        actions = rng.integers(7, size=2)
        np.testing.assert_array_equal(slots.rows[0], row(slots.body, seen[-1]))
        made = slots.step(actions, 0.9)
        observation, reward, terminated, truncated, _ = environment.step(actions[0])
        np.testing.assert_array_equal(made.following[0], row(slots.body, observation))
        assert made.rewards[0] == np.float32(reward) and made.discounts[0] == np.float32(0 if terminated else 0.9)
        seen.append(observation)
        if terminated or truncated:
            break
    assert len(seen) > 5 and slots.steps == 2 * (len(seen) - 1)
    slots.close()


def test_tasks_of_other_words_and_of_numbers_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    with pytest.raises(PolysomaError, match="reads no words"):
        Slots("babyai/GoToLocal", 8, 0)
    # These ask for two different things, those of GoToRedBall for one, in two ways.
    with pytest.raises(PolysomaError, match=r"got 'go to the .* ball' and 'go to the .* ball'"):
        Slots("babyai/GoToRedBlueBall", 8, 0)
    Slots("babyai/GoToRedBall", 16, SEED).close()
    environment = simulators.make("babyai/GoToRedBall")
    words = {environment.reset(seed=seed)[0]["instruction"] for seed in range(SEED, SEED + 16)}
    assert words == {"go to the red ball", "go to a red ball"}
    with pytest.raises(PolysomaError, match="expected discrete actions"):
        play("half-cheetah/run", tmp_path)
    with pytest.raises(PolysomaError, match="expected discrete actions"):
        ValueConfig(dataclasses.replace(CORRIDOR, actions=ContinuousActions((Channel("x", "m", -1, 1),))))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of play."""
    pytest.importorskip("minigrid")
    folder = tmp_path_factory.mktemp("dqn")
    exploring = Exploring(slots=4, first=40, until=100, memory=200)
    play(TASK, folder / "run", steps=30, method=Dqn(batch=8), exploring=exploring, width=16)
    return folder / "run"


def test_what_was_played_is_opened_evaluated_and_recorded(run: Path, tmp_path: Path) -> None:
    folder = run / "checkpoint"
    assert checkpoint.kind(folder) == values.KIND and checkpoint.bodies(folder) == ["babyai"]
    planner, environment = open_planner(folder), simulators.make(TASK)
    observation, _ = environment.reset(seed=0)
    session = planner.start(TaskPrompt(environment.embodiment), 0)
    first, again = planner.plan([session, session], [observation, observation])
    assert first.actions.shape == (1,) and first.actions == again.actions  # type: ignore[union-attr]
    environment.embodiment.check_actions(first.actions)  # type: ignore[union-attr]
    assert len(evaluate(str(folder), [TASK], 2, 1000).tasks[TASK].outcomes) == 2
    with pytest.raises(PolysomaError, match="values of choices"):
        checkpoint.load(folder)
    told = json.loads((folder / "config.json").read_text())
    assert told["lineage"]["tasks"] == [TASK]
    (tmp_path / "config.json").write_text(json.dumps({**told, "width": 17}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(PolysomaError):
        values.load(tmp_path)


def test_the_same_seed_learns_the_same(run: Path, tmp_path: Path) -> None:
    exploring = Exploring(slots=4, first=40, until=100, memory=200)
    play(TASK, tmp_path / "run", steps=30, method=Dqn(batch=8), exploring=exploring, width=16)
    mine, its = (values.load(folder / "checkpoint").state_dict() for folder in (tmp_path / "run", run))
    assert all(torch.equal(mine[name], its[name]) for name in its)


def test_logs_of_choices_are_learnt_from(tmp_path: Path) -> None:
    pytest.importorskip("minigrid")
    record([TASK], 4, tmp_path / "logs", Behaviour(), seed=300_000)
    logs = Dataset(tmp_path / "logs" / "babyai")
    replay = Replay([logs])
    assert replay.states.dtype == np.uint8 and replay.states.shape[1] == 7 * 7 * 3 + 1
    steps = replay.steps(replay.starts)
    assert steps.actions.dtype == np.int64
    np.testing.assert_array_equal(steps.actions, logs.executed)
    folder = learn([logs], Dqn(batch=8), tmp_path / "run", goals=False, size=(16, 1), settings=engine_settings(3))
    assert values.load(folder).config.width == 16
    with pytest.raises(PolysomaError, match="expected states alone"):
        learn([logs], Cloning(batch=8), tmp_path / "other", goals=False)
    with pytest.raises(PolysomaError, match="learns from rewards"):
        learn([logs], Dqn(batch=8), tmp_path / "third")

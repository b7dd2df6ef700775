"""World models that act: the memory of what is played, imagined steps, actors, the search; learnt from logs and by
playing."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from make_puck import PUCK, walk, walks
from polysoma.acting.foreseeing import Foreseen
from polysoma.acting.imagining import Looking, SearchKind, WorldPlanner
from polysoma.acting.opening import open_planner
from polysoma.acting.planner import Plan, TaskPrompt
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.sequences import Memory
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import DiscreteActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.foresight import draw, foresight, read_logs
from polysoma.learning.engine import Engine, Settings
from polysoma.learning.methods.imagination import Exploring, Imagination, _Imagining
from polysoma.learning.methods.world import WorldLearner, WorldLearning, engine_settings, learn
from polysoma.learning.optimizers import AdamW
from polysoma.learning.playing import play_in_imagination
from polysoma.nn.imagination import ActorCritic, dream
from polysoma.policy import checkpoint, world
from polysoma.policy.world import WINDOW, Trace, WorldConfig, WorldModel
from polysoma.rollout.drivers import Checkpoint

FAST = Imagination(WorldLearning(batch=8, watched=2, ahead=2), starts=16, steps=3, discount=0.9, learning_rate=6e-3)
TASK = "inverted-pendulum/balance"
SWITCH = Embodiment(
    "switch", (Stream("state", Modality.STATE, (1,), channels("place", "m", -10, 10)),),
    DiscreteActions(("back", "stay", "on")), 10.0,
)  # fmt: skip


def switches(root: Path) -> Dataset:
    """A place that choices move by 1; being far on is what earns."""
    rng = np.random.default_rng(0)
    with DatasetWriter(root, SWITCH) as writer:
        for number in range(30):
            actions = rng.integers(3, size=10)
            places = np.concatenate([[0.0], np.cumsum(actions - 1)]).astype(np.float32)[:, None]
            writer.add(
                Episode(
                    SWITCH, "switch/go", "", number, False, {"state": places[:-1]}, actions, actions,
                    rewards=places[1:, 0].copy(), truncated=True, final={"state": places[-1]},
                )
            )  # fmt: skip
    return Dataset(root)


def decided(planner: WorldPlanner, observation: Observation, seed: int = 0) -> np.ndarray:
    """The first action of an episode that begins so."""
    (plan,) = planner.plan([planner.start(TaskPrompt(planner.embodiments[0]), seed)], [observation])
    assert isinstance(plan, Plan)
    planner.embodiments[0].check_actions(plan.actions)
    return plan.actions[0]


def puck(x: float = 0.0) -> Observation:
    return {"state": np.array([x, 0, 0, 0], np.float32), "instruction": "go"}


def test_the_memory_holds_whole_pieces_of_the_newest_episodes() -> None:
    memory, rng = Memory(PUCK, 2, 3, 100, longest=8), np.random.default_rng(0)
    time, episode = np.zeros(3), np.arange(3.0)
    for _ in range(200):
        before = np.stack([episode, time], 1)
        ended = rng.random(3) < 0.15
        after = np.stack([episode, time + 1], 1)
        memory.add(before, rng.uniform(-1, 1, (3, 2)).astype(np.float32), time, ended, after, ended)
        episode[ended] += 3
        time = np.where(ended, 0, time + 1)
    assert len(memory) <= 100 and memory.states[:, 0].min() > 30, "what is old is gone"
    for steps in (1, 4, 8):
        rows = memory.rows(steps)
        pieces = memory.pieces(rows, 8)
        assert len(rows) and pieces.known[:, :steps].all()
        assert (pieces.states[..., 0] == pieces.states[:, :1, 0]).all(), "a piece is of one episode"
        moved = np.diff(pieces.states[..., 1], axis=1)
        np.testing.assert_array_equal(moved, pieces.known)
        np.testing.assert_array_equal(pieces.rewards[pieces.known], pieces.states[:, :-1, 1][pieces.known])
        assert not (pieces.over[:, :-1] & pieces.known[:, 1:]).any() and pieces.over.any()
        every = memory.pieces(memory.rows(1), steps)
        paying = memory.rows(1)[(every.rewards * every.known).any(1)]
        np.testing.assert_array_equal(memory.paying(steps), paying)


def test_states_are_made_of_the_last_steps_alone_or_together() -> None:
    torch.manual_seed(0)
    model, rng = WorldModel(WorldConfig(PUCK, width=8)), np.random.default_rng(0)
    rows, actions = rng.normal(size=(12, 4)).astype(np.float32), rng.uniform(-1, 1, (11, 2)).astype(np.float32)
    traces = []
    for length in (0, 2, 11):
        trace = Trace()
        for number in range(length + 1):
            trace.observed(rows[number], np.zeros(0, np.uint8))
            if number < length:
                trace.executed(actions[number])
        traces.append(trace)
    assert [len(trace.states) for trace in traces] == [1, 3, WINDOW + 1]
    together = model.believed(traces)
    for number, trace in enumerate(traces):
        for one, other in zip(model.believed([trace]), together, strict=True):
            torch.testing.assert_close(one[0], other[number])
    traces[1].observed(rows[5], np.zeros(0, np.uint8))
    traces[2].observed(rows[5], np.zeros(0, np.uint8))
    for trace in traces[1:]:
        assert len(trace.states) == 1, "an observation after an action that nobody told begins anew"
        assert not trace.actions


def test_episodes_of_choices_may_be_of_different_ages() -> None:
    planner, seen = (
        WorldPlanner(WorldModel(WorldConfig(SWITCH, width=8, rewarded=True, acts=True))),
        np.zeros(1, np.float32),
    )
    old, new = (planner.start(TaskPrompt(SWITCH), 0) for _ in range(2))
    (plan,) = planner.plan([old], [{"state": seen}])
    assert isinstance(plan, Plan)
    old.executed(plan.actions[0])
    assert all(isinstance(one, Plan) for one in planner.plan([old, new], [{"state": seen}] * 2))


def test_returns_are_divided_by_their_average_range_where_that_is_above_one(tmp_path: Path) -> None:
    model = WorldModel(WorldConfig(SWITCH, width=8, rewarded=True, acts=True))
    mind = model.mind
    assert mind is not None
    method = FAST.build(model, read_logs(model, [switches(tmp_path)]))
    assert isinstance(method, _Imagining)
    for step in range(2000):
        method._range = 1.6 * (step % 2)
        method.after_step(step)
    # The average range is 0.8; the average of ranges of 1 at least is 1.3.
    assert mind.size.item() == pytest.approx(0.8, abs=0.01)
    losses = []
    for size in (0.8, 1.0, 2.0):
        mind.size.fill_(size)
        generator = torch.Generator().manual_seed(0)
        found, _ = method._acting(model.network.start(torch.zeros(5, 1), generator), generator)
        losses.append(found["actor"].item())
    assert losses[0] == losses[1] != losses[2]


def test_gradients_of_imagined_rewards_reach_the_actor_through_the_model() -> None:
    torch.manual_seed(0)
    model = WorldModel(WorldConfig(PUCK, width=8, rewarded=True, acts=True))
    mind, network = model.mind, model.network
    assert mind is not None
    network.linear.weight.data[0, 4], network.earned[6] = 1.0, 1.0  # x goes with the first action, and is earned
    network.range.copy_(torch.tensor([-9.0, 9.0]))
    network.requires_grad_(False)
    came = dream(network, mind, network.start(torch.zeros(5, 4)), 3, torch.Generator().manual_seed(0))
    assert came.features.shape == (4, 5, 2 * 8 + 64) and came.moves.shape == (3, 5, 2)
    assert came.rewards.shape == came.lasting.shape == (3, 5) and (came.moves.abs() <= 1).all()
    came.rewards.sum().backward()
    last = mind.actor[-1]
    assert isinstance(last, torch.nn.Linear) and last.bias.grad is not None
    assert last.bias.grad[0] > 1 and abs(last.bias.grad[1]) < 1e-3
    assert all(parameter.grad is None for parameter in network.parameters())


def test_choices_are_drawn_as_they_are_believed() -> None:
    mind = ActorCritic(4, 3, True, 8)
    last = mind.actor[-1]
    assert isinstance(last, torch.nn.Linear)
    last.bias.data[:] = torch.tensor([0.0, 1.0, -20.0])
    drawn = mind.move(torch.zeros(20_000, 4), torch.Generator().manual_seed(0)).mean(0)
    hoped = 0.99 * torch.tensor([0.0, 1.0, -20.0]).softmax(0) + 0.01 / 3
    torch.testing.assert_close(drawn, hoped, atol=0.01, rtol=0)
    assert mind.move(torch.zeros(1, 4), None).argmax() == 1


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the puck after three steps: what it earns is linear, and known before the first."""
    root = tmp_path_factory.mktemp("searched")
    return learn([walks(root / "logs", 30)], root / "run", 3, 8, settings=WorldLearning(8, 2, 2))


def test_the_search_finds_what_earns_most(searched: Path, tmp_path: Path) -> None:
    planner = open_planner(searched)
    assert isinstance(planner, WorldPlanner) and checkpoint.kind(searched) == world.KIND
    for seed in range(10):
        assert decided(planner, puck(), seed)[0] > 1.0, "right, of -2 to 2"
    model = learn([switches(tmp_path / "logs")], tmp_path / "run", 3, 8, settings=WorldLearning(8, 2, 2))
    for seed in range(10):
        assert decided(WorldPlanner(model, Looking(5)), {"state": np.zeros(1, np.float32)}, seed) == 2
    with pytest.raises(PolysomaError, match="elites: expected at most the 4 samples"):
        Looking(samples=4)


@pytest.mark.parametrize("by", ["cem", "mppi"])
def test_each_search_finds_an_optimum_between_the_limits(by: SearchKind) -> None:
    model = WorldModel(WorldConfig(PUCK, width=8, rewarded=True))
    best, earned = torch.tensor([0.5, -0.25]), model.network.earned
    # -|move - best|^2, but for a constant: what is earned is linear in moves and their squares.
    earned[4:6], earned[10:12] = 2 * best, -torch.ones(2)
    model.network.range.copy_(torch.tensor([-9.0, 9.0]))
    planner, limit = WorldPlanner(model, Looking(5, by=by)), 2.0
    session, moves = planner.start(TaskPrompt(PUCK), 0), []
    for _ in range(12):
        (plan,) = planner.plan([session], [puck()])
        assert isinstance(plan, Plan)
        session.executed(plan.actions[0])
        moves.append(plan.actions[0] / limit)
    # The way that was found is gone on with: what comes first is close, what comes later closer.
    assert np.abs(moves[0] - best.numpy()).max() < 0.45
    assert np.abs(np.mean(moves[4:], 0) - best.numpy()).max() < 0.1


def test_how_a_world_model_is_searched_is_a_choice_of_commands(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planner = open_planner(searched, world_search="mppi")
    assert isinstance(planner, WorldPlanner) and planner.looking == Looking(by="mppi")
    for seed in range(10):
        assert decided(planner, puck(), seed)[0] > 1.0, "right, of -2 to 2"
    assert Checkpoint(str(searched), world_search="mppi")().looking.by == "mppi"  # type: ignore[attr-defined]
    with pytest.raises(SystemExit):
        main(["evaluate", "generalist", "--tasks", "drone/hover", "--world-search", "mppi", "--workers", "1"])
    assert "generalist holds no world model" in capsys.readouterr().err


def test_sessions_do_not_depend_on_what_else_is_planned(searched: Path) -> None:
    planner = WorldPlanner(searched)
    prompt = TaskPrompt(PUCK)
    alone, beside, other = (planner.start(prompt, seed) for seed in (1, 1, 2))
    for step in range(3):
        (first,) = planner.plan([alone], [puck(step)])
        second, _ = planner.plan([beside, other], [puck(step), puck(-step)])
        assert isinstance(first, Plan) and isinstance(second, Plan)
        np.testing.assert_allclose(first.actions, second.actions, atol=1e-4)
        for session in (alone, beside, other):
            session.executed(first.actions[0])


@pytest.mark.learns
def test_an_actor_learns_from_logs_where_to_go(tmp_path: Path) -> None:
    folder = learn([walks(tmp_path / "walks", 60)], tmp_path / "puck", 40, 16, settings=FAST)
    assert decided(WorldPlanner(folder), puck())[0] > 1.0, "right, of -2 to 2"
    folder = learn([switches(tmp_path / "switches")], tmp_path / "switch", 40, 16, settings=FAST)
    assert decided(WorldPlanner(folder), {"state": np.zeros(1, np.float32)}) == 2


@pytest.mark.parametrize(("of_the_model", "of_the_actor"), [(0.0, 1e-3), (2e-3, 1e-3), (1e-3, 4e-3)])
def test_the_model_learns_at_a_rate_of_its_own(tmp_path: Path, of_the_model: float, of_the_actor: float) -> None:
    slow = dataclasses.replace(FAST.world, learning_rate=of_the_model)
    settings = dataclasses.replace(FAST, world=slow, learning_rate=of_the_actor)
    model = WorldModel(WorldConfig(PUCK, width=8, rewarded=True, acts=True))
    method = settings.build(model, read_logs(model, [walks(tmp_path / "logs", 10)]), 0)
    optimizer = AdamW(of_the_actor, warmup=0, weight_decay=0.0, ema=0.0, final=1.0)
    engine = Engine(method, Settings(steps=1, optimizer=optimizer, tracker="none", precision="float32"))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    engine.step(0)
    now = dict(model.named_parameters())
    for part, rate in (("network.", of_the_model), ("mind.", of_the_actor)):
        own = [name for name in before if name.startswith(part)]
        moved = torch.cat([(now[name].detach() - before[name]).abs().flatten() for name in own])
        # The first step of Adam goes as far as the rate.
        assert float(moved.max()) == pytest.approx(rate, rel=0.01)


def test_a_resumed_run_from_logs_comes_to_the_same_bits(tmp_path: Path) -> None:
    logs = walks(tmp_path / "logs", 10)
    whole = learn([logs], tmp_path / "whole", 6, 8, settings=FAST)
    torch.manual_seed(0)
    model = WorldModel(WorldConfig(PUCK, width=8, rewarded=True, acts=True))
    method = FAST.build(model, read_logs(model, [logs]), 0)
    Engine(method, engine_settings(6, FAST.learning_rate)).run(tmp_path / "cut", until=3)
    again = learn([logs], tmp_path / "cut", 6, 8, settings=FAST, resume=True)
    first, second = (world.load(path).state_dict() for path in (whole, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


def lit(root: Path, kind: Modality = Modality.SYMBOL, rare: float = 1.0, blocked: bool = False) -> Dataset:
    """A ring of lights that turns or flips, as symbols or numbers; where the first three are alike a step earns
    ``rare``, else what is left of 1. It may be ``blocked`` from turning where the first light is 0 or 1."""
    rng, size = np.random.default_rng(0), 5
    symbols = kind is Modality.SYMBOL
    lights_of = (
        Stream("lights", kind, (size,), cardinalities=(4,) * size)
        if symbols
        else Stream("lights", kind, (size,), channels=channels("a b c d e"))
    )
    ring = Embodiment("ring", (lights_of,), DiscreteActions(("turn", "flip")), 10.0)
    with DatasetWriter(root / "ring", ring) as writer:
        for number in range(40):
            actions, seen = rng.integers(2, size=14), [rng.integers(4, size=size)]
            for action in actions:
                moved = seen[-1][::-1] if action else np.roll(seen[-1], 1)
                seen.append(seen[-1] if blocked and not action and seen[-1][0] < 2 else moved)
            lights = np.stack(seen).astype(np.uint8 if symbols else np.float32)
            alike = (lights[1:, :3] == lights[1:, :1]).all(1)
            rewards = np.where(alike, rare, 1 - rare).astype(np.float32)
            writer.add(
                Episode(
                    ring, "ring/go", "", number, False, {"lights": lights[:-1]}, actions, actions, rewards=rewards,
                    truncated=True, final={"lights": lights[-1]},
                )
            )  # fmt: skip
    return Dataset(root / "ring")


@pytest.mark.parametrize("kind", [Modality.SYMBOL, Modality.STATE])
def test_what_a_choice_does_to_all_that_is_seen_is_known_before_learning(tmp_path: Path, kind: Modality) -> None:
    data = lit(tmp_path, kind)
    model = world.load(learn([data], tmp_path / "run", 1, 8, held_out=0.2))
    errors = foresight(model, read_logs(model, [data], 0.2), (1, 3))
    found = errors["symbols" if kind is Modality.SYMBOL else "numbers"]
    assert found["model"][0] < 0.3 * found["copy-last"][0]
    assert kind is Modality.SYMBOL or found["linear"][1] < 0.2 * found["copy-last"][1]


def test_it_learns_where_nothing_changes(tmp_path: Path) -> None:
    data = lit(tmp_path, blocked=True)
    model = world.load(learn([data], tmp_path / "run", 60, 16, settings=WorldLearning(32, 2, 2)))
    pieces = read_logs(model, [data]).pieces(np.arange(0, 15 * 40, 15), 1)
    before, after = model.normalised(pieces.states, pieces.pixels).unbind(1)
    with torch.no_grad():
        expected = model.network.imagine(model.network.start(before), model.moves(pieces.actions)[:, 0]).seen
    assert 0.3 < (before == after).all(1).float().mean() < 0.8
    right = (expected == after).all(1).float().mean()
    assert right > 0.85, right


def test_symbols_are_shown_as_the_ids_that_they_are(tmp_path: Path) -> None:
    data = lit(tmp_path)
    model = world.load(learn([data], tmp_path / "run", 1, 8))
    lights, actions = data.observations["lights"][:12], data.executed[:11]
    beside = Foreseen(model)
    for light, action in zip(lights, [*actions, None], strict=True):
        beside.observed({"lights": light})
        if action is not None:
            beside.executed(action)
    shown = beside.beside()
    assert shown is not None and set(shown.names) <= {f"lights {n}" for n in range(5)}
    for name, came, expected in zip(shown.names, shown.came, shown.expected, strict=True):
        assert came.tolist() == lights[:, int(name[-1])].tolist()
        assert (came == expected).mean() > 0.7
    picture = Image.open(io.BytesIO(draw(model, read_logs(model, [data]), 5, held_out=False)))
    assert picture.size == (640, 5 * 90)


def test_models_that_saw_symbols_as_numbers_expect_what_they_expected(tmp_path: Path) -> None:
    body = lit(tmp_path).embodiment
    torch.manual_seed(0)
    before = WorldModel(WorldConfig(body, width=8, bits=False)).eval()
    torch.nn.init.normal_(before.network.linear.weight)
    checkpoint.save(before, tmp_path / "before")
    told = json.loads((tmp_path / "before/config.json").read_text())
    del told["bits"]
    (tmp_path / "before/config.json").write_text(json.dumps(told))
    after = world.load(tmp_path / "before")
    assert after.config.size == 5
    seen, moves = torch.randn(2, 3, 5), torch.eye(2)[torch.tensor([[0, 1, 1], [1, 0, 0]])]
    first, second = (one.expected(one.watched(seen, moves[:, :2]), moves) for one in (before, after))
    assert torch.equal(first, second)


@pytest.mark.parametrize("rare", [1.0, 0.0])
def test_where_few_steps_earn_something_else_rewards_begin_as_those_of_most(tmp_path: Path, rare: float) -> None:
    data = lit(tmp_path, rare=rare)
    assert data.raw_rewards is not None and 0 < (data.raw_rewards == rare).mean() < 0.2
    model = WorldModel(WorldConfig(data.embodiment, width=8, rewarded=True))
    WorldLearner(model, read_logs(model, [data]), WorldLearning(4, 2, 2), 0)
    assert model.network.earned.tolist() == [0.0] * (len(model.network.earned) - 1) + [1 - rare]


def test_an_actor_draws_its_choices_whatever_else_is_planned(tmp_path: Path) -> None:
    body = lit(tmp_path).embodiment
    torch.manual_seed(0)
    planner = WorldPlanner(WorldModel(WorldConfig(body, width=8, rewarded=True, acts=True)).eval())
    light, prompt = {"lights": np.arange(5, dtype=np.uint8) % 4}, TaskPrompt(body, "")
    chosen = []
    for together in (False, True):
        sessions = [planner.start(prompt, seed) for seed in ((1, 2) if together else (1,))]
        for _ in range(30):
            plans = planner.plan(sessions, [light] * len(sessions))
            assert isinstance(plans[0], Plan)
            chosen.append(int(plans[0].actions[0]))
            for session in sessions:
                session.executed(plans[0].actions[0])
    assert set(chosen) == {0, 1} and chosen[:30] == chosen[30:]


def test_rewards_are_foreseen(searched: Path, tmp_path: Path) -> None:
    model = world.load(searched)
    errors = foresight(model, read_logs(model, [walks(tmp_path, 20, 12, 1)]), (2, 5), held_out=False)["rewards"]
    assert errors["model"][0] < 0.1 * errors["copy-last"][0]


def test_a_task_is_played_twice_alike_and_opened_like_a_policy(tmp_path: Path) -> None:
    exploring = Exploring(slots=2, first=60, memory=200)
    for name in ("first", "second"):
        play_in_imagination(TASK, tmp_path / name, steps=4, method=FAST, exploring=exploring, width=8, every=2)
    first, second = (world.load(tmp_path / name / "checkpoint") for name in ("first", "second"))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    told = json.loads((tmp_path / "first/checkpoint/config.json").read_text())
    assert told["acts"] and told["lineage"]["method"] == "imagination" and told["lineage"]["tasks"] == [TASK]
    assert len(evaluate(str(tmp_path / "first/checkpoint"), [TASK], 2, 1000).tasks[TASK].returns) == 2
    with pytest.raises(PolysomaError, match="holds a world model, which evaluate"):
        checkpoint.load(tmp_path / "first/checkpoint")


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["world", "play", TASK, "--minutes", "0.01", "--width", "8", "--out", str(tmp_path / "played")])
    assert "play it with" in capsys.readouterr().out
    walks(tmp_path / "logs", 10)
    main(
        [
            "world",
            "learn",
            str(tmp_path / "logs"),
            "--act",
            "--steps",
            "2",
            "--width",
            "8",
            "--out",
            str(tmp_path / "l"),
        ]
    )
    assert world.load(tmp_path / "l/checkpoint").config.acts


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match="learnt no rewards"):
        WorldPlanner(WorldModel(WorldConfig(PUCK, width=8)))
    model = WorldModel(WorldConfig(PUCK, width=8, rewarded=True, acts=True))
    with DatasetWriter(tmp_path, PUCK) as writer:
        writer.add(dataclasses.replace(walk(np.random.default_rng(0), np.zeros(2), 5, 0), rewards=None))
    with pytest.raises(PolysomaError, match="imagination: expected data with rewards"):
        FAST.build(model, read_logs(model, [Dataset(tmp_path)]))


def test_pieces_that_pay_are_drawn_more_often_where_they_are_few(tmp_path: Path) -> None:
    for rare, most in ((True, False), (False, True)):
        data = lit(tmp_path / str(rare), rare=1.0 if rare else 0.0)
        model = WorldModel(WorldConfig(data.embodiment, width=8, rewarded=True, acts=True))
        logs = read_logs(model, [data])
        method = dataclasses.replace(FAST, paying=0.5).build(model, logs)
        assert isinstance(method, _Imagining)
        drawn, paying = method.drawn_rows(4000, 2, np.random.default_rng(0)), logs.paying(2)
        share = np.isin(paying, method.rows).sum() / len(method.rows)
        assert (share > 0.5) == most
        expected = share if most else 0.5 + 0.5 * share
        assert np.isin(drawn, paying).mean() == pytest.approx(expected, abs=0.04)

"""A search with a learnt model: what it aims at, its losses, what it plays, and what becomes of its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polysoma.acting.opening import open_planner
from polysoma.acting.planner import Plan, TaskPrompt
from polysoma.acting.searching import SearchPlanner
from polysoma.cli import main
from polysoma.data.sequences import Memory, Pieces, drawn_rows
from polysoma.embodiment import INSTRUCTION, DiscreteActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.learning.engine import Engine, Settings
from polysoma.learning.method import Share
from polysoma.learning.methods.imagination import Exploring
from polysoma.learning.methods.search import Consistency, Search, SearchLearner
from polysoma.learning.optimizers import AdamW
from polysoma.learning.playing import play_by_search
from polysoma.nn.tree import Searching
from polysoma.policy import checkpoint, search
from polysoma.policy.search import SearchConfig, SearchPolicy
from polysoma.rollout.choosing import Slots
from polysoma.simulators.environment import Environment

TASK = "babyai/GoToRedBallNoDists"
FAST = Search(batch=8, unrolled=2, ahead=2, searching=Searching(3))
CORRIDOR = Embodiment(
    "corridor",
    (Stream("place", Modality.STATE, (1,), channels("x", "m", 0, 5)), Stream(INSTRUCTION, Modality.TEXT)),
    DiscreteActions(("left", "right")),
    5.0,
)


class Corridor(Environment):
    """Begins at 0 to 4; arriving at 5 earns 1 and ends."""

    embodiment, task, max_steps = CORRIDOR, "corridor/go", 20

    def __init__(self, task: str = "corridor/go") -> None:
        super().__init__()
        self.place, self.steps = 0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.steps = int(self.np_random.integers(5)), 0
        return seen(self.place), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        self.place, self.steps = max(0, self.place + 2 * int(action) - 1), self.steps + 1
        success = self.place == 5
        return seen(self.place), float(success), success, self.steps >= self.max_steps, {"success": success}


def seen(place: int) -> Observation:
    return {"place": np.array([place], np.float32), INSTRUCTION: "go"}


def learner(settings: Search = FAST) -> SearchLearner:
    torch.manual_seed(0)
    policy = SearchPolicy(SearchConfig(CORRIDOR, width=8, discount=0.5))
    return SearchLearner(policy, Memory(CORRIDOR, 1, 1, 10), settings, 0)


def pieces() -> Pieces:
    """Of four steps: one that goes on, one that ends with a success in its second step, one that was cut there."""
    states = np.array([[0, 1, 2, 3, 4], [3, 4, 5, 5, 5], [0, 1, 2, 2, 2]], np.float32)[..., None]
    rewards = np.array([[0, 0, 0, 8], [0, 1, 1, 1], [0, 0, 7, 7]], np.float32)
    over, known = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    over[1, 1], known[1:, 2:] = True, False
    return Pieces(states, np.zeros((3, 5, 0), np.uint8), np.ones((3, 4), np.int64), rewards, over, known)


def test_returns_are_of_what_came_and_of_nothing_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    method = learner(Search(unrolled=2, ahead=2, trace=1.0, searching=Searching(2)))
    aims = method.aims(pieces(), np.random.default_rng(0))
    assert aims.latents.shape == (3, 3, 8) and aims.policies.shape == (3, 3, 2)
    torch.testing.assert_close(aims.policies.sum(2), torch.ones(3, 3))
    # At first nothing is worth anything by itself, so returns are of rewards alone.
    torch.testing.assert_close(aims.returns, torch.tensor([[1.0, 2, 4], [0.5, 1, 0], [0, 0, 0]]))
    assert aims.gone.tolist() == [[False] * 3, [False, False, True], [False] * 3]
    target = method.modules["target"]
    assert isinstance(target, SearchPolicy)
    judge = target.judge
    monkeypatch.setattr(target, "judge", lambda latents: (judge(latents)[0], torch.full((len(latents),), 16.0)))
    aims = method.aims(pieces(), np.random.default_rng(0))
    # What follows the last step counts; that of a piece which was cut is that of its last observation.
    torch.testing.assert_close(aims.returns, torch.tensor([[2.0, 4, 8], [0.5, 1, 0], [4, 8, 16]]))


def test_what_is_not_known_takes_no_part_in_losses() -> None:
    method, drawn = learner(), pieces()
    aims = method.aims(drawn, np.random.default_rng(0))
    weights = torch.ones(3)
    losses = method.losses(drawn, aims, weights)
    changed = Pieces(**{**vars(drawn), "rewards": np.where(drawn.known, drawn.rewards, -5).astype(np.float32)})
    changed.states[2, 3:] = 99
    again = method.losses(changed, method.aims(changed, np.random.default_rng(0)), weights)
    for name, value in losses.items():
        torch.testing.assert_close(again[name], value)
    assert set(losses) == {"policy", "value", "reward", "consistency"}


def test_no_gradient_of_consistency_reaches_what_really_came() -> None:
    torch.manual_seed(0)
    apart = Consistency(8)
    expected, came = (torch.randn(5, 8, requires_grad=True) for _ in range(2))
    apart(expected, came).sum().backward()
    assert came.grad is None and expected.grad is not None and expected.grad.abs().sum() > 0
    given = apart.project[0]
    assert isinstance(given, torch.nn.Linear) and given.weight.grad is not None
    # The projection learns as if the other side were a constant.
    first = given.weight.grad.clone()
    aim = apart.project(came).detach()
    apart.zero_grad()
    (-torch.nn.functional.cosine_similarity(apart.predict(apart.project(expected.detach())), aim)).sum().backward()
    torch.testing.assert_close(given.weight.grad, first)
    same = apart.predict(apart.project(expected)).detach()
    assert (apart(expected, came) >= -1).all() and same.shape == (5, 8)


def test_consistency_alone_moves_the_model_and_its_weight_may_be_0() -> None:
    method, drawn = learner(), pieces()
    losses = method.losses(drawn, method.aims(drawn, np.random.default_rng(0)), torch.ones(3))
    losses["consistency"].backward()
    policy = method.policy
    moved = {name.split(".")[0] for name, one in policy.named_parameters() if one.grad is not None and one.grad.any()}
    assert moved == {"encode", "change"}
    assert all(one.grad is None for one in method.modules["target"].parameters())
    without = learner(Search(batch=8, unrolled=2, ahead=2, consistency=0, searching=Searching(3)))
    assert "consistency" not in without.modules
    same = without.losses(drawn, without.aims(drawn, np.random.default_rng(0)), torch.ones(3))
    for name in ("policy", "value", "reward"):
        torch.testing.assert_close(same[name], losses[name])


def test_pieces_that_pay_are_drawn_more_often_and_count_less_for_values() -> None:
    method, rng = learner(), np.random.default_rng(0)
    memory = Memory(CORRIDOR, 1, 1, 200)
    for step in range(199):
        row, over = np.full((1, 1), step, np.float32), np.array([step % 40 == 39])
        memory.add(row, np.ones(1, np.int64), over.astype(np.float32), over, row + 1, over)
    method.memory, paying = memory, memory.paying(4)
    assert len(paying) == 4 * 4
    rows, weights = drawn_rows(memory.rows(1), paying, 4000, method.settings.paying, rng)
    pays = np.isin(rows, paying)
    assert 0.5 < pays.mean() < 0.6
    assert weights[pays].sum() / weights.sum() == pytest.approx(len(paying) / len(memory.rows(1)), abs=0.01)
    drawn = pieces()
    aims = method.aims(drawn, rng)
    first, second = (method.losses(drawn, aims, torch.tensor(one)) for one in ([1.0, 1.0, 1.0], [9.0, 1.0, 1.0]))
    assert [name for name in first if not torch.equal(first[name], second[name])] == ["value"]


def test_the_target_follows_and_returns_are_remembered() -> None:
    method = learner()
    memory = method.memory
    assert isinstance(memory, Memory)
    row, none = np.zeros((1, 1), np.float32), np.zeros(1, bool)
    memory.add(row, np.ones(1, np.int64), np.ones(1, np.float32), none, row + 1, ~none)
    method.accumulate(0, Share())
    target, policy = method.modules["target"], method.policy
    assert isinstance(target, SearchPolicy)
    weights, followed = policy.believe.state_dict()["0.weight"], target.believe.state_dict()["0.weight"]
    weights += 1
    method.after_step(1)
    torch.testing.assert_close(weights - followed, torch.full_like(weights, 1 - FAST.target))
    assert policy.reach == pytest.approx(1.0)


@pytest.mark.learns
def test_it_learns_where_to_go(tmp_path: Path) -> None:
    slots = Slots("corridor/go", 4, 0, Corridor)
    torch.manual_seed(0)
    policy = SearchPolicy(SearchConfig(CORRIDOR, width=32))
    method = Search(batch=16, unrolled=3, ahead=2, target=0.1).playing(policy, slots, Exploring(4, 40, 500), 0)
    optimizer = AdamW(3e-3, weight_decay=0.0, ema=0.0, final=1.0)
    Engine(method, Settings(steps=100, optimizer=optimizer, tracker="none", precision="float32")).run(tmp_path / "run")
    planner = SearchPlanner(tmp_path / "run" / "checkpoint", temperature=0.0)
    sessions = [planner.start(TaskPrompt(CORRIDOR), place) for place in range(5)]
    plans = planner.plan(sessions, [seen(place) for place in range(5)])
    assert all(isinstance(plan, Plan) and plan.actions[0] == 1 for plan in plans)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of play."""
    pytest.importorskip("minigrid")
    return played(tmp_path_factory.mktemp("search") / "run").parent


def played(out: Path, **more: Any) -> Path:
    exploring = Exploring(slots=3, first=60, memory=150)
    return play_by_search(TASK, out, steps=8, method=FAST, exploring=exploring, width=8, every=4, **more)


def test_a_killed_run_goes_on_to_the_same_bits(run: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(folder: Path) -> Mapping[str, float]:
        raise Killed

    with pytest.raises(Killed):
        played(tmp_path / "cut", evaluate=kill)
    first, second = (search.load(path).state_dict() for path in (run / "checkpoint", tmp_path / "cut" / "checkpoint"))
    assert not all(torch.equal(first[name], second[name]) for name in first)
    again = search.load(played(tmp_path / "cut", resume=True)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_resumed_run_plays_on_as_it_played(run: Path) -> None:
    with pytest.raises(PolysomaError, match=f"3 episodes at a time of {TASK}; got 5 of {TASK}"):
        play_by_search(TASK, run, steps=9, method=FAST, exploring=Exploring(5, 60, 150), width=8, resume=True)
    first, other = (Slots(task, 3, 0, Corridor) for task in ("corridor/go", "corridor/come"))
    with pytest.raises(PolysomaError, match="3 episodes at a time of corridor/go; got 3 of corridor/come"):
        other.load_state(first.state())
    old = {name: one for name, one in first.state().items() if name != "task"}
    other.load_state(old)


def test_slots_go_on_where_they_were() -> None:
    first, second = (Slots("corridor/go", 3, seed, Corridor) for seed in (0, 50))
    rng = np.random.default_rng(0)
    for _ in range(30):
        first.step(rng.integers(2, size=3), 0.9)
    second.load_state(first.state())
    np.testing.assert_array_equal(first.rows, second.rows)
    for _ in range(30):
        actions = rng.integers(2, size=3)
        one, other = first.step(actions, 0.9), second.step(actions, 0.9)
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(other, name), value)
    assert first.episodes == second.episodes and len(first.episodes) > 3 and first.steps == second.steps == 180


def test_what_was_played_is_opened_and_evaluated(run: Path) -> None:
    folder = run / "checkpoint"
    assert checkpoint.kind(folder) == search.KIND and checkpoint.bodies(folder) == ["babyai"]
    told = json.loads((folder / "config.json").read_text())
    assert told["lineage"]["method"] == "search" and told["lineage"]["tasks"] == [TASK]
    planner = open_planner(folder)
    assert isinstance(planner, SearchPlanner)
    rng, body = np.random.default_rng(0), planner.embodiments[0]
    shown = [
        {s.name: rng.integers(0, np.broadcast_to(s.cardinalities, s.shape)).astype(np.uint8) for s in body.arrays}
        for _ in range(3)
    ]
    for _ in range(2):
        alone, beside, others = (
            [planner.start(TaskPrompt(body), seed) for seed in seeds] for seeds in ([1], [1], [2, 3])
        )
        (one,) = planner.plan(alone, shown[:1])
        together = planner.plan([*beside, *others], shown)
        assert isinstance(one, Plan) and isinstance(together[0], Plan)
        body.check_actions(one.actions)
        assert one.actions == together[0].actions
    assert len(evaluate(str(folder), [TASK], 2, 1000).tasks[TASK].outcomes) == 2
    with pytest.raises(PolysomaError, match="holds a model to search in, which evaluate"):
        checkpoint.load(folder)


def test_commands_and_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("minigrid")
    out = ["--out", str(tmp_path / "run"), "--width", "8"]
    main(["world", "play", TASK, "--method", "search", "--minutes", "0.01", *out])
    assert "play it with" in capsys.readouterr().out
    main(["world", "play", TASK, "--method", "search", "--minutes", "0.01", "--resume", *out])
    with pytest.raises(SystemExit):
        main(["world", "play", TASK, "--resume", *out])
    assert "--resume continues runs of --method search" in capsys.readouterr().err
    with pytest.raises(PolysomaError, match="expected discrete actions"):
        play_by_search("inverted-pendulum/balance", tmp_path / "other")

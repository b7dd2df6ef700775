from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import ARM, GRID, check_resuming, make_episode, make_policy
from polysoma.cli import main
from polysoma.data.batch import Batch
from polysoma.data.dataset import Dataset
from polysoma.data.episode import Episode
from polysoma.data.mixture import Source
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.evaluation import comparison
from polysoma.evaluation.comparison import Comparison, compare, title
from polysoma.evaluation.comparison_page import write_page
from polysoma.evaluation.evaluation import Result, Score
from polysoma.learning import lineage
from polysoma.learning.finetuning import (
    few_steps,
    few_steps_recipe,
    meta_recipe_for,
    recipe_for,
    with_steps,
)
from polysoma.learning.methods import meta as module
from polysoma.learning.methods.meta import BodyTasks, MetaLearning, accumulate, inner_loop, learning, mean_loss
from polysoma.learning.preparation import prepare
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import Rehearsal, ingredients, train
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt
from polysoma.policy.methods import AdaptationMethod, MetaAlgorithm
from polysoma.policy.policy import Policy
from polysoma.rollout.drivers import Checkpoint

TASKS = 8
PRACTISED, UNSEEN = tuple(f"arm/{task}" for task in range(6)), ("arm/6", "arm/7")


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """Tasks that nothing but demonstrations tell apart: each always moves in a direction of its own."""
    with DatasetWriter(tmp_path / "family", ARM) as writer:
        for task in range(TASKS):
            angle = 2 * np.pi * task * 3 / TASKS
            for seed in range(4):
                state = np.random.default_rng([task, seed]).standard_normal((6, 3)).astype(np.float32)
                actions = np.tile(np.array([np.cos(angle), np.sin(angle)], np.float32), (6, 1))
                writer.add(Episode(ARM, f"arm/{task}", "go", seed, True, {"state": state}, actions, actions.copy()))
    return tmp_path / "family"


@pytest.fixture
def base(family: Path, tmp_path: Path) -> Path:
    checkpoint.save(make_policy({"arm": Source([Dataset(family)], [1.0], 0.0)}, (ARM,)), tmp_path / "base")
    return tmp_path / "base"


def learnt(base: Path, family: Path, out: Path, meta: MetaLearning, steps: int) -> Path:
    recipe = meta_recipe_for(str(base), [str(family)], "lora", meta, UNSEEN, rank=2, learning_rate=1e-2)
    bodies = {"arm": dataclasses.replace(recipe.bodies["arm"], batch=8, noise=0.0)}
    optimizer = dataclasses.replace(recipe.optimizer, ema=0.9)
    return train(with_steps(dataclasses.replace(recipe, bodies=bodies, optimizer=optimizer), steps), out)


def draw(family: Path, task: str, seed: int) -> Batch:
    return Source([Dataset(family)], [1.0], 0.0).draw(16, np.random.default_rng(seed), tasks=[task])


def after_inner_steps(start: Policy, family: Path, meta: MetaLearning) -> float:
    """The mean loss on other windows of the tasks that it practised."""
    losses = []
    for task in PRACTISED:
        support = [[draw(family, task, seed)] for seed in range(meta.inner_steps)]
        values = inner_loop(start, learning(start), support, meta)
        losses.append(mean_loss(start, values, [draw(family, task, 99)]).item())
    return float(np.mean(losses))


@pytest.mark.learns
@pytest.mark.parametrize(("algorithm", "rate", "steps"), [("maml", 0.01, 40), ("anil", 0.2, 90), ("reptile", 0.03, 40)])
def test_few_steps_go_further_from_a_meta_learnt_start(
    algorithm: MetaAlgorithm, rate: float, steps: int, base: Path, family: Path, tmp_path: Path
) -> None:
    """On tasks that were practised. So few steps carry over to others in most seeds, not in all; benchmarks/meta.py
    measures that."""
    before = (base / checkpoint.WEIGHTS).read_bytes()
    meta = MetaLearning(algorithm, inner_rate=rate, batch=2, renamed=0.0)
    folder = learnt(base, family, tmp_path / "run", meta, steps)
    assert (base / checkpoint.WEIGHTS).read_bytes() == before
    _, plain = prepare(recipe_for(str(base), [str(family)], "lora", rank=2))
    there = after_inner_steps(checkpoint.load_for_training(folder), family, meta)
    # 0.46 to 0.86 over ten seeds.
    assert there < 0.95 * after_inner_steps(plain, family, meta)


def test_the_second_order_is_the_derivative_through_the_steps(
    sources: dict[str, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYSOMA_PRECISION", "float32")
    monkeypatch.setattr(module, "_step_sizes", lambda values, gradients: [torch.ones(()) for _ in values])
    start = adapt(make_policy(sources).train(), Adaptation("head"), [GRID], {}, [])
    # The head is where the loss has no kinks: a few windows, a short step.
    name, meta = "heads.grid.linear.weight", MetaLearning("maml", inner_steps=1, inner_rate=0.01)
    support, query = ([sources["grid"].draw(8, np.random.default_rng(seed))] for seed in (0, 9))
    found = {}
    for algorithm in ("maml", "fomaml"):
        start.zero_grad()
        accumulate(start, [support], query[0], dataclasses.replace(meta, algorithm=algorithm), 1.0)
        found[algorithm] = {key: p.grad.clone() for key, p in learning(start).items() if p.grad is not None}
    assert found["maml"].keys() == found["fomaml"].keys() == learning(start).keys()
    exact, first = found["maml"][name], found["fomaml"][name]
    along = (exact - first) / (exact - first).norm()
    begin, losses = {key: p.detach() for key, p in learning(start).items()}, []
    for distance in (-1e-3, 1e-3):
        there = inner_loop(start, begin | {name: begin[name] + distance * along}, [support], meta)
        losses.append(mean_loss(start, there, query).item())
    slope = (losses[1] - losses[0]) / 2e-3
    assert slope == pytest.approx((exact * along).sum().item(), rel=0.05)
    assert slope != pytest.approx((first * along).sum().item(), rel=0.3)


def test_tensors_move_by_a_share_of_their_size(base: Path, family: Path) -> None:
    _, start = prepare(recipe_for(str(base), [str(family)], "lora", rank=2))
    meta = MetaLearning("fomaml", inner_rate=0.01)
    begin = learning(start)
    end = inner_loop(start, begin, [[draw(family, "arm/0", 0)]], meta)
    heads = inner_loop(start, begin, [[draw(family, "arm/0", 0)]], dataclasses.replace(meta, algorithm="anil"))
    shares = {name: ((end[name] - p).norm() / p.norm()).item() for name, p in begin.items() if p.norm() > 1}
    assert shares and all(0 <= share < 0.0101 for share in shares.values())
    assert max(shares.values()) > 0.005
    assert {name for name, p in begin.items() if not torch.equal(heads[name], p)} == {
        name for name in begin if name.startswith("heads.")
    }


@pytest.mark.parametrize("algorithm", ["maml", "reptile"])
def test_a_killed_run_resumes_to_the_same_bits(
    algorithm: MetaAlgorithm, base: Path, family: Path, tmp_path: Path
) -> None:
    table = {
        "data": [str(family)],
        "bodies": {"arm": {"batch": 4, "noise": 0.01}},
        "init": str(base),
        "adaptation": {"method": "adapter", "rank": 2},
        "meta": {"algorithm": algorithm, "inner_steps": 2, "tasks": 2, "batch": 1},
        "learning_rate": 0.01,
    }
    check_resuming(table, tmp_path)


def test_renamed_tasks_keep_their_data(datasets: dict[str, Path], sources: dict[str, Source]) -> None:
    policy = make_policy(sources)
    said = set()
    for renamed in (0.0, 1.0):
        meta = MetaLearning("reptile", inner_steps=1, tasks=1, renamed=renamed)
        recipe = recipe_from_table(
            {
                "data": [str(datasets["grid"])], "bodies": {"grid": {"batch": 6}}, "init": "x",
                "adaptation": {"method": "head"}, "meta": dataclasses.asdict(meta),
            },
            "test",
        )  # fmt: skip
        tasks = BodyTasks(meta, ingredients(recipe, policy, [sources["grid"]]), sources["grid"])
        for seed in range(8):
            (support,), query = tasks.draw(np.random.default_rng(seed))
            assert len({*support.instructions, *query.instructions}) == 1, "one task has one name"
            said.add((renamed, seed, query.instructions[0], int(query.observations["view"].sum())))
    told = {renamed: {(seed, text) for r, seed, text, _ in said if r == renamed} for renamed in (0.0, 1.0)}
    seen = {renamed: {(seed, pixels) for r, seed, _, pixels in said if r == renamed} for renamed in (0.0, 1.0)}
    assert seen[0.0] == seen[1.0] and told[0.0] != told[1.0]


def test_the_command_and_its_few_steps(
    base: Path, family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "meta"
    main(["meta", str(base), "--data", str(family), "--algorithm", "fomaml", "--method", "head", "--steps", "2",
          "--without", "arm/6,arm/7", "--out", str(out)])  # fmt: skip
    assert "fomaml for head beside" in capsys.readouterr().out
    start = str(out / "checkpoint")
    main(["finetune", start, "--data", str(family), "--demos", "2", "--inner", "--out", str(tmp_path / "few")])
    assert "use it wherever a checkpoint is asked for" in capsys.readouterr().out
    few = tmp_path / "few" / "checkpoint"
    lines = lineage.tell(few)
    assert "head, 3 steps on 32 episodes of arm (family), 2 of each task used" in lines[0]
    assert "the start of head by fomaml for 3 inner steps, 2 steps on" in lines[1] and len(lines) == 3
    policy, adapted = checkpoint.load_all([base, few])
    assert adapted.trunk.norm.weight.data_ptr() == policy.trunk.norm.weight.data_ptr()
    begun = checkpoint.load_for_training(start)
    assert any(not torch.equal(value, begun.own()[name]) for name, value in adapted.own().items())
    with pytest.raises(SystemExit):
        main(["finetune", start, "--data", str(family), "--steps", "5", "--inner", "--out", str(tmp_path / "other")])
    assert "the start says which steps are taken; leave out --steps" in capsys.readouterr().err
    # Again, to the same bits; and it can be trained on like any adaptation.
    again = few_steps(few_steps_recipe(start, [str(family)], 2), tmp_path / "again")
    assert (again / checkpoint.WEIGHTS).read_bytes() == (few / checkpoint.WEIGHTS).read_bytes()
    main(["finetune", start, "--data", str(family), "--steps", "1", "--out", str(tmp_path / "on")])
    assert "head, 1 step on 32 episodes" in lineage.tell(tmp_path / "on" / "checkpoint")[0]


def test_bad_input_is_refused(base: Path, family: Path, datasets: dict[str, Path], tmp_path: Path) -> None:
    def run(start: Path, without: tuple[str, ...] = (), method: AdaptationMethod = "head", **asked: object) -> None:
        meta = MetaLearning(**({"algorithm": "anil"} | asked))  # type: ignore[arg-type]
        train(with_steps(meta_recipe_for(str(start), [str(family)], method, meta, without), 1), tmp_path / "bad")

    with pytest.raises(PolysomaError, match=r"needs more tasks than that to learn from, got 1: arm/0"):
        run(base, tuple(f"arm/{task}" for task in range(1, TASKS)))
    with pytest.raises(PolysomaError, match="anil adapts heads alone"):
        run(base, method="prompt")
    with pytest.raises(PolysomaError, match=r"expected an algorithm of .*'magic'"):
        run(base, algorithm="magic")
    with pytest.raises(PolysomaError, match="inner_rate: expected a number above 0"):
        run(base, inner_rate=0.0)
    with DatasetWriter(tmp_path / "single", ARM) as writer:
        for task in range(2):
            writer.add(make_episode(ARM, 5, task, f"arm/{task}"))
    with pytest.raises(PolysomaError, match="two episodes of each task or more, got one of arm/0, arm/1"):
        train(meta_recipe_for(str(base), [str(tmp_path / "single")], "head", MetaLearning("maml")), tmp_path / "bad")
    recipe = meta_recipe_for(str(base), [str(family)], "head", MetaLearning("maml"))
    bodies = {"arm": dataclasses.replace(recipe.bodies["arm"], weight=2.0, micro_batches=2)}
    with pytest.raises(PolysomaError, match=r"bodies\.arm: meta does not heed weight, micro_batches"):
        train(with_steps(dataclasses.replace(recipe, bodies=bodies), 1), tmp_path / "unheard")
    tuned = train(with_steps(recipe_for(str(base), [str(family)], "head"), 1), tmp_path / "tuned")
    with pytest.raises(PolysomaError, match="learnt beside their base"):
        run(tuned)
    with pytest.raises(PolysomaError, match="make such a start with `polysoma meta`"):
        few_steps_recipe(str(tuned), [str(family)])
    meta = MetaLearning("reptile", inner_steps=1, batch=1)
    folder = str(learnt(base, family, tmp_path / "run", meta, 1))
    with pytest.raises(PolysomaError, match=r"one body that the start knows: expected data of one of \['arm'\]"):
        few_steps(few_steps_recipe(folder, [str(datasets["grid"])]), tmp_path / "few")
    with pytest.raises(PolysomaError, match="no held_out"):
        dataclasses.replace(few_steps_recipe(folder, [str(family)]), held_out=0.1)


def test_starts_are_rows_of_a_comparison(
    base: Path, family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(driver: Checkpoint, tasks: list[str], episodes: int, seed: int) -> Result:
        checkpoint.load(driver.place)
        scores = {t: Score(list(range(episodes)), [True] * episodes, [1] * episodes, [1.0] * episodes) for t in tasks}
        return Result(driver.place, scores, {}, 0.0)

    monkeypatch.setattr(comparison, "evaluate", play)
    cost = Rehearsal(1.0, 1, {}, {}, 1)
    monkeypatch.setattr(comparison, "within", lambda recipe, seconds: (with_steps(recipe, 10), cost))
    starts = [
        str(learnt(base, family, tmp_path / name, MetaLearning(name, inner_steps=steps, batch=1), 1))
        for name, steps in (("reptile", 2), ("anil", 3))
    ]
    asked = Comparison(
        str(base), str(family), ("arm/6",), (2,), ("zero-shot", "inner", "continued"), minutes=0.06, episodes=2,
        starts=tuple(starts),
    )  # fmt: skip
    result = compare(asked, tmp_path / "out")
    rows = {title(row): row for row in result["rows"]}
    assert list(rows) == [
        "zero-shot", "lora by reptile, 2 steps", "lora by anil, 3 steps", "lora by reptile, continued",
        "lora by anil, continued",
    ]  # fmt: skip
    assert rows["lora by anil, continued"]["steps"] == 10
    # More starts may come later, and without any there are no such rows.
    assert len(compare(dataclasses.replace(asked, starts=()), tmp_path / "out")["rows"]) == 1
    write_page(result, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("lora by reptile, 2 steps") >= 1
    other = make_policy({"arm": Source([Dataset(family)], [1.0], 0.0)}, (ARM,), seed=1)
    checkpoint.save(other, tmp_path / "other")
    with pytest.raises(PolysomaError, match="not beside the base of this comparison"):
        compare(dataclasses.replace(asked, base=str(tmp_path / "other")), tmp_path / "third")
    copied = shutil.copytree(starts[0], tmp_path / "copied")
    with pytest.raises(PolysomaError, match="cannot be distinguished"):
        compare(dataclasses.replace(asked, starts=(starts[0], str(copied))), tmp_path / "fourth")

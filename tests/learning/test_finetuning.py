from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
import safetensors.torch
import torch

from conftest import ARM, GRID, HORIZONS, SEEN_ARM, check_resuming, make_episode, make_policy, observe
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source, open_sources
from polysoma.data.windows import gather
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import ContinuousActions, channels
from polysoma.errors import PolysomaError
from polysoma.learning import lineage, run_state
from polysoma.learning.engine import Best
from polysoma.learning.finetuning import LEARNING_RATES, recipe_for, with_steps
from polysoma.learning.methods.imitation import Imitating
from polysoma.learning.preparation import kin, prepare, sources_for
from polysoma.learning.training import recipe_of_run, rehearse, train
from polysoma.nn.heads import HeadConfig
from polysoma.nn.images import ImageConfig
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt
from polysoma.policy.methods import AdaptationMethod

METHODS: tuple[AdaptationMethod, ...] = get_args(AdaptationMethod)


@pytest.fixture
def base(sources: dict[str, Source], tmp_path: Path) -> Path:
    """A checkpoint that knows the grid alone."""
    checkpoint.save(make_policy(sources, (GRID,)), tmp_path / "base")
    return tmp_path / "base"


def tuned(base: Path, data: Path, out: Path, method: AdaptationMethod, steps: int = 4) -> Path:
    recipe = recipe_for(str(base), [str(data)], method, rank=2, tokens=3)
    return train(with_steps(recipe, steps), out)


@pytest.mark.parametrize("method", METHODS)
def test_the_base_computes_the_same_bits_beside_its_adaptations(
    method: AdaptationMethod, base: Path, datasets: dict[str, Path], tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    windows = gather(Dataset(datasets["grid"]), np.arange(4), np.zeros(4, int), HORIZONS["grid"])
    expected = checkpoint.load(base).predict(windows)
    new = tuned(base, datasets["arm"], tmp_path / "new", method)
    known = tuned(base, datasets["grid"], tmp_path / "known", method)
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before
    policy, arm, grid = checkpoint.load_all([base, new, known])
    assert torch.equal(policy.predict(windows), expected)
    assert not torch.equal(grid.predict(windows), expected)
    assert arm.agent("arm", "go").act(observe(ARM)).shape == (2,)
    # One trunk in memory, and little else in the files.
    for adapted in (arm, grid):
        assert adapted.trunk.norm.weight.data_ptr() == policy.trunk.norm.weight.data_ptr()
        assert adapted.shared and not any(name in adapted.own() for name in policy.trunk.state_dict())
    held = safetensors.torch.load_file(new / checkpoint.WEIGHTS)
    assert held.keys() == arm.own().keys()
    assert sum(t.numel() for t in held.values()) < policy.parameter_count() / 2


@pytest.mark.parametrize("kind", ["bins", "flow"])
def test_a_small_network_may_have_a_head_that_chooses(
    kind: Literal["bins", "flow"], base: Path, datasets: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_for(str(base), [str(datasets["arm"])], "small", head=HeadConfig(kind))
    policy = checkpoint.load(train(with_steps(recipe, 1), tmp_path / "run"))
    assert policy.config.head.kind == kind and not policy.config.gated
    assert policy.agent("arm", "go").act(observe(ARM)).shape == (2,)


def test_what_has_the_heads_of_its_base_refuses_another(base: Path, datasets: dict[str, Path]) -> None:
    with pytest.raises(PolysomaError, match="head: expected method small"):
        recipe_for(str(base), [str(datasets["arm"])], "lora", head=HeadConfig("flow"))


@pytest.mark.parametrize("method", ["lora", "adapter", "head"])
def test_an_adaptation_begins_as_its_base(
    method: AdaptationMethod, sources: dict[str, Source], datasets: dict[str, Path]
) -> None:
    policy = make_policy(sources)
    windows = gather(Dataset(datasets["grid"]), np.arange(4), np.zeros(4, int), HORIZONS["grid"])
    adapted = adapt(policy, Adaptation(method), [GRID], {}, ["new", "words"])
    assert torch.equal(adapted.predict(windows), policy.predict(windows))
    assert [body.name for body in adapted.config.embodiments] == ["grid"]
    assert adapted.config.vocabulary == (*policy.config.vocabulary, "new", "words")
    with pytest.raises(PolysomaError, match="stands alone"):
        adapt(adapted, Adaptation(method), [GRID], {}, [])


def test_what_is_shared_takes_no_gradients(sources: dict[str, Source]) -> None:
    policy = make_policy(sources).train()
    adapted = adapt(policy, Adaptation("lora", rank=2), [GRID], {}, ["new"])
    adapted.loss(sources["grid"].draw(4, np.random.default_rng(0))).backward()
    learning = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert learning == set(adapted.own())
    assert any(name.endswith("qkv.b") for name in learning) and "text.own.weight" in learning
    assert all(parameter.grad is None for parameter in policy.trunk.parameters())


def test_running_statistics_of_the_base_do_not_learn(sources: dict[str, Source]) -> None:
    pixels = sources["arm-pixels"].embodiment
    policy = make_policy(sources, (pixels,)).train()
    adapted = adapt(policy, Adaptation("head"), [pixels], {}, []).train()
    buffers = {name: value.clone() for name, value in policy.named_buffers()}
    adapted.loss(sources["arm-pixels"].draw(4, np.random.default_rng(0))).backward()
    assert all(torch.equal(value, buffers[name]) for name, value in policy.named_buffers())


def test_a_killed_adaptation_resumes_to_the_same_bits(base: Path, datasets: dict[str, Path], tmp_path: Path) -> None:
    table = {
        "data": [str(datasets["arm"])],
        "bodies": {"arm": {"batch": 8}},
        "init": str(base),
        "adaptation": {"method": "lora", "rank": 2},
        "held_out": 0.3,
    }
    check_resuming(table, tmp_path)


def test_more_data_continue_an_adaptation(base: Path, datasets: dict[str, Path], tmp_path: Path) -> None:
    first = tuned(base, datasets["arm"], tmp_path / "first", "lora")
    with DatasetWriter(tmp_path / "week two", ARM) as writer:
        for seed in range(4):
            writer.add(make_episode(ARM, 9, seed, "arm/three", "wave politely"))
    recipe = recipe_for(str(first), [str(tmp_path / "week two")], None, learning_rate=0.0)
    second = train(with_steps(recipe, 1), tmp_path / "second")
    windows = gather(Dataset(datasets["arm"]), np.arange(4), np.zeros(4, int), HORIZONS["arm"])
    old, new = checkpoint.load(first), checkpoint.load(second)
    assert torch.equal(old.predict(windows), new.predict(windows))
    assert {"wave", "politely"} <= set(new.config.vocabulary) - set(old.config.vocabulary)
    lines = lineage.tell(second)
    assert [line.split(":")[0].split(" ")[0] for line in lines] == [str(second), str(first), str(base)]
    assert "lora, 1 step on 4 episodes of arm (week two)" in lines[0] and "no more is known" in lines[2]
    with pytest.raises(PolysomaError, match="continued by the same, not by all weights"):
        train(with_steps(recipe_for(str(first), [str(datasets["arm"])], "full"), 1), tmp_path / "third")


def test_another_base_is_refused(
    base: Path, sources: dict[str, Source], datasets: dict[str, Path], tmp_path: Path
) -> None:
    folder = tuned(base, datasets["arm"], tmp_path / "run", "head", steps=1)
    checkpoint.save(make_policy(sources, (GRID,), seed=1), base)
    with pytest.raises(PolysomaError, match="get the weights that it was made from"):
        checkpoint.load(folder)


def test_full_fine_tuning_is_a_checkpoint_that_stands_alone(
    base: Path, datasets: dict[str, Path], tmp_path: Path
) -> None:
    recipe = recipe_for(str(base), [str(datasets["arm"])], "full", demonstrations=2, held_out=0.0)
    policy = checkpoint.load(train(with_steps(recipe, 1), tmp_path / "run"))
    assert not policy.shared and {body.name for body in policy.config.embodiments} == {"arm", "grid"}


def test_what_is_kept_is_half_of_what_is_learnt_from(base: Path, datasets: dict[str, Path], tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "new", ARM) as writer:
        for seed in range(4):
            writer.add(make_episode(ARM, 20, seed, "arm/three", "do one"))
    kept = [str(datasets["arm"]), str(datasets["grid"])]
    alone = recipe_for(str(base), [str(tmp_path / "new")], "full", held_out=0.0)
    recipe = recipe_for(str(base), [str(tmp_path / "new")], "full", held_out=0.0, keep=kept)
    assert not alone.task_weights and recipe.data == (str(tmp_path / "new"), *kept)
    assert recipe.bodies["arm"].batch == 2 * alone.bodies["arm"].batch
    source = open_sources(recipe.folders(), {}, {"arm": 0.0}, recipe.task_weights)[0]
    drawn = source.draw(1000, np.random.default_rng(0)).texts
    # Of the three tasks two are old; "do one" is said for an old one as well.
    assert 0.2 < sum(text == "do two" for text in drawn) / 1000 < 0.3
    policy = checkpoint.load(train(with_steps(recipe, 1), tmp_path / "run"))
    assert {body.name for body in policy.config.embodiments} == {"arm", "grid"}


def test_the_best_checkpoint_is_kept_and_patience_ends(
    base: Path, datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([3.0, 1.0, 2.0, 1.5, 0.5])
    monkeypatch.setattr(Imitating, "held_out", lambda self: {"arm": next(losses)})
    recipe = recipe_for(str(base), [str(datasets["arm"])], "head", held_out=0.1)
    recipe = dataclasses.replace(with_steps(recipe, 8), patience=2)
    folder = train(recipe, tmp_path / "run")
    assert checkpoint.read_config(folder)["lineage"]["steps"] == 2
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["held_out/arm"] for line in lines if "held_out/arm" in line] == [3.0, 1.0, 2.0, 1.5]
    assert max(line["step"] for line in lines) == 4
    assert Best(1, 2.0).after(2, 2.0) == Best(1, 2.0, 1)


def test_of_few_episodes_none_is_held_out(
    base: Path, datasets: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = [str(datasets["arm"])]
    assert recipe_for(str(base), data, "head").held_out == 0
    assert recipe_for(str(base), data, "head", held_out=0.2).held_out == 0.2
    monkeypatch.setattr("polysoma.learning.finetuning._HOLDS_OUT", 8)
    assert recipe_for(str(base), data, "head").held_out == 0.1
    # Of two tasks with four episodes each.
    assert recipe_for(str(base), data, "head", 3).held_out == 0


def test_episodes_held_out_are_of_every_task_and_apart(sources: dict[str, Source]) -> None:
    source = sources["grid"]
    learnt, apart = source.split(0, 0.25)
    assert apart is not None and (learnt.episodes, apart.episodes) == (6, 2)
    assert len(learnt) + len(apart) == len(source) and apart.tasks == source.tasks
    # However much is held out, something is learnt of every task.
    learnt, apart = source.split(2, 0.99)
    assert apart is not None and (learnt.episodes, apart.episodes) == (2, 2) and learnt.drawn == source.drawn
    few, apart = source.split(3, 0.0)
    assert few.episodes == 6 and apart is None
    dataset = source.datasets[0]
    first = few.draw(200, np.random.default_rng(0))
    held = {tuple(dataset.observations["view"][start].ravel()) for start in dataset.episode_start[6:]}
    assert not held & {tuple(frame.ravel()) for window in first.observations["view"] for frame in window}


def test_statistics_are_of_the_episodes_that_are_used(sources: dict[str, Source]) -> None:
    few, _ = sources["arm"].split(1, 0.0)
    dataset = sources["arm"].datasets[0]
    frames = dataset.episode_length[:2].sum()
    np.testing.assert_allclose(
        few.statistics()["state"].mean, dataset.observations["state"][:frames].mean(0), rtol=1e-5
    )


def test_it_says_what_it_costs_and_does_it(
    base: Path, datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["finetune", str(base), "--data", str(datasets["arm"]), "--out", str(tmp_path / "run"), "--steps", "3"]
    main([*arguments, "--method", "prompt"])
    said = capsys.readouterr().out
    assert "prompt fine-tuning of" in said and "3 steps of" in said and "MB stored" in said
    assert checkpoint.bodies(tmp_path / "run" / "checkpoint") == ["arm"]
    main(["lineage", str(tmp_path / "run" / "checkpoint")])
    assert "prompt, 3 steps on 8 episodes of arm" in capsys.readouterr().out
    cost = rehearse(with_steps(recipe_for(str(base), [str(datasets["arm"])], "prompt", tokens=3), 10))
    policy = checkpoint.load_for_training(tmp_path / "run" / "checkpoint")
    # Five tokens more than here.
    assert sum(cost.learning.values()) + 5 * 32 == sum(value.numel() for value in policy.own().values())


def test_windows_of_one_frame_are_not_split(base: Path, datasets: dict[str, Path]) -> None:
    def parts(body: str, history: int | None) -> int:
        return recipe_for(str(base), [str(datasets[body])], "small", history=history).bodies[body].micro_batches

    assert [parts("arm", None), parts("arm", 1), parts("arm", 4), parts("arm-pixels", 1)] == [1, 1, 2, 2]


def test_new_cameras_get_eyes_that_learn(base: Path, datasets: dict[str, Path], tmp_path: Path) -> None:
    """Whatever the method: by a small network from nothing, or by a tokenizer beside that of the base."""
    data = str(datasets["arm-pixels"])
    recipe = recipe_for(str(base), [data], None)
    assert recipe.init == "" and recipe.images == ImageConfig(reduction="points") and recipe.gated == ("arm",)
    # It is commanded by dx and dy, of which its state does not speak.
    assert recipe.bodies["arm-pixels"].previous_action and not SEEN_ARM.positions
    assert not recipe_for(str(base), [data], None, previous_action=False).bodies["arm-pixels"].previous_action
    small = checkpoint.load(train(with_steps(recipe, 1), tmp_path / "small"))
    assert [body.name for body in small.config.embodiments] == ["arm-pixels"] and small.config.width == 128
    # It knows these bodies alone, so that all its weights go on learning.
    again = recipe_for(str(tmp_path / "small" / "checkpoint"), [data], None)
    assert again.adaptation is None and again.init and again.images is None and again.bodies["arm-pixels"].random_shift
    for method in ("lora", "head"):
        recipe = recipe_for(str(base), [data], method)
        policy = checkpoint.load_for_training(train(with_steps(recipe, 1), tmp_path / method))
        assert policy.config.images.reduction == "points" and policy.config.gated == ("arm",)
        assert policy.eyes() and policy.eyes() <= policy.own().keys()
        # More data continue it with its own eyes.
        more = with_steps(recipe_for(str(tmp_path / method / "checkpoint"), [data], None), 1)
        continued = checkpoint.load_for_training(train(more, tmp_path / f"{method} continued"))
        assert continued.config.images == policy.config.images and continued.eyes() <= continued.own().keys()
    with pytest.raises(PolysomaError, match="nothing that it could keep"):
        recipe_for(str(base), [data], "small", keep=[str(datasets["grid"])])


def test_a_new_body_begins_as_one_whose_channels_are_called_alike(
    sources: dict[str, Source], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And from nothing where the base knows none."""
    other = dataclasses.replace(ARM, name="other", body="other", rate_hz=20)
    with DatasetWriter(tmp_path / "other", other) as writer:
        for seed in range(4):
            writer.add(make_episode(other, 6, seed))
    data = [str(tmp_path / "other")]
    checkpoint.save(make_policy(sources), tmp_path / "arms")
    recipe = recipe_for(str(tmp_path / "arms"), data, None)
    assert recipe.adaptation is not None and recipe.adaptation.method == "lora" and not recipe.gated
    assert recipe.optimizer.learning_rate == pytest.approx(0.1 * LEARNING_RATES["lora"])
    command = ["finetune", str(tmp_path / "arms"), "--data", *data, "--steps", "1", "--out", str(tmp_path / "run")]
    main([*command, "--no-check"])
    assert "other begins as arm, whose channels are called alike" in capsys.readouterr().out
    # It looks as far ahead as the arm, of which an action takes twice as long.
    policy = checkpoint.load(tmp_path / "run" / "checkpoint")
    assert policy.horizon("other").chunk == 2 * HORIZONS["arm"].chunk
    # What goes on with it is as gentle.
    again = recipe_for(str(tmp_path / "run" / "checkpoint"), data, None)
    assert again.optimizer.learning_rate == recipe.optimizer.learning_rate
    assert [kin(one, sources_for(one)[0]) for one in (recipe, again)] == [{"other": "arm"}, {}]
    alone = recipe_for(str(base), data, None)
    assert not alone.init and alone.gated == ("other",)


@pytest.mark.parametrize("commands", ["dx dy", "turn lift"])
def test_eyes_of_its_own_leave_those_of_the_base(
    commands: str, sources: dict[str, Source], datasets: dict[str, Path], tmp_path: Path
) -> None:
    """They begin as the base's for a body that begins as one of the base's, and are new for others."""
    actions = ContinuousActions(channels(commands, "m/s", -1, 1))
    known = SEEN_ARM.stream("front")
    streams = tuple(dataclasses.replace(s, name="side") if s is known else s for s in SEEN_ARM.streams)
    body = dataclasses.replace(SEEN_ARM, name="newcomer", body="newcomer", streams=streams, actions=actions)
    with DatasetWriter(tmp_path / "newcomer", body) as writer:
        for seed in range(4):
            writer.add(make_episode(body, 6, seed))
    base, data = str(tmp_path / "seeing"), [str(tmp_path / "newcomer")]
    checkpoint.save(make_policy(sources, (SEEN_ARM,)), tmp_path / "seeing")
    windows = gather(Dataset(datasets["arm-pixels"]), np.arange(4), np.zeros(4, int), HORIZONS["arm-pixels"])
    expected = checkpoint.load(base).predict(windows)
    alike = commands == "dx dy"
    assert bool(recipe_for(base, data, None).init) == alike
    recipe = recipe_for(base, data, "lora")
    _, begins = prepare(recipe)
    policy, adapted = checkpoint.load_all([base, train(with_steps(recipe, 2), tmp_path / "run")])
    assert torch.equal(policy.predict(windows), expected)
    assert policy.config.images.reduction == "grid"
    assert adapted.config.images.reduction == ("grid" if alike else "points")
    assert adapted.eyes() and adapted.eyes() <= adapted.own().keys()
    if alike:
        theirs, mine, learnt = (one.images.state_dict() for one in (policy, begins, adapted) if one.images is not None)
        assert all(torch.equal(mine[name], value) for name, value in theirs.items() if "front" not in name)
        assert not torch.equal(learnt["patches.weight"], theirs["patches.weight"])
        # Eyes that are asked for are new.
        assert recipe_for(base, data, "lora", eyes="points").images == ImageConfig(reduction="points")
    assert adapted.agent("newcomer", "go").act(observe(body)).shape == (2,)


def test_it_learns_other_words(base: Path, datasets: dict[str, Path], tmp_path: Path) -> None:
    words = tmp_path / "words.toml"
    words.write_text('[frames]\ntrain = ["{}"]\n[phrases]\n"do one" = { train = ["perform first"] }\n')
    run = tmp_path / "run"
    main(
        [
            "finetune",
            str(base),
            "--data",
            str(datasets["arm"]),
            "--out",
            str(run),
            "--steps",
            "2",
            "--paraphrases",
            str(words),
        ]
    )
    assert "perform" in checkpoint.load(run / "checkpoint").config.vocabulary
    assert recipe_of_run(run).paraphrases == str(words)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "1"], "--data"),
        (["--data", "nowhere"], "no data set matches 'nowhere'"),
        (["--data", "ARM", "--held-out", "1.5"], "held_out: expected a number from 0 to below 1, got 1.5"),
        (["--data", "ARM", "--rank", "0", "--method", "lora"], "rank: expected a number from 1 to 65,536, got 0"),
    ],
)
def test_bad_input_is_refused(
    arguments: list[str], message: str, base: Path, datasets: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(datasets["arm"]) if word == "ARM" else word for word in arguments]
    with pytest.raises(SystemExit):
        main(["finetune", str(base), *given])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("optimizer", ["adamw", "schedule-free"])
def test_fine_tuning_goes_by_the_clock(
    optimizer: str, base: Path, datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    # Ten seconds pass between any two looks at the clock.
    now = iter(range(0, 10**6, 10))
    monkeypatch.setattr("polysoma.learning.engine.time.monotonic", lambda: float(next(now)))
    out = tmp_path / "run"
    main(["finetune", str(base), "--data", str(datasets["arm"]), "--optimizer", optimizer, "--minutes", "0.01",
          "--tracker", "none", "--out", str(out)])  # fmt: skip
    recipe = recipe_of_run(out)
    assert (recipe.optimizer.kind, recipe.minutes, recipe.tracker) == (optimizer, 0.01, "none")
    assert checkpoint.read_config(out / "checkpoint")["lineage"]["steps"] == run_state.learnt(out)[0] == 1
    said = capsys.readouterr().out
    # What fits into so little time is at least ten steps in what is said before.
    assert "about 10 steps of" in said and "use it wherever a checkpoint is asked for" in said
    again = ["finetune", str(base), "--data", str(datasets["arm"]), "--resume", "--no-check", "--out", str(out)]
    main(["finetune", "--resume", "--no-check", "--out", str(out)])
    main([*again, "--minutes", "0.01", "--skip-damaged"])
    assert run_state.learnt(out)[0] == 1
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*again, "--minutes", "5", "--rank", "4"])
    assert "leave out --minutes (it was 0.01), --rank (it was 8)" in " ".join(capsys.readouterr().err.split())

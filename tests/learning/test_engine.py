"""The engine with methods of one's own, optimisers, trackers, and what is checked before a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from conftest import make_policy
from make_runs import rows, state, tiny
from polysoma import simulators
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.learning.engine import UNBOUNDED, Engine, Settings
from polysoma.learning.method import Ingredients, Method, Metrics, Share
from polysoma.learning.methods.imitation import Imitation
from polysoma.learning.optimizers import AdamW, ScheduleFreeAdamW
from polysoma.learning.preparation import sources_for
from polysoma.learning.recipe import Recipe
from polysoma.learning.training import recipe_of_run, train
from polysoma.policy import checkpoint


class Critic(Method):
    """The policy imitates, while a critic with a target network and a counter learn beside it."""

    def __init__(self, given: Ingredients) -> None:
        torch.manual_seed(1)
        critic, target = nn.Linear(3, 1), nn.Linear(3, 1).requires_grad_(False)
        self.modules = nn.ModuleDict({"policy": given.policy, "critic": critic, "target": target})
        self.imitation = Imitation().build(given)
        self.seen = torch.zeros((), dtype=torch.int64)

    def accumulate(self, step: int, share: Share) -> Metrics:
        metrics = self.imitation.accumulate(step, share)
        x = torch.from_numpy(np.random.default_rng(step).standard_normal((8, 3), np.float32)).to(share.device)
        with share.autocast():
            loss = (
                (self.modules["critic"](x) - 0.9 * self.modules["target"](x) - x.sum(1, keepdim=True)).square().mean()
            )
        loss.backward()
        return metrics | {"loss/critic": loss.item()}

    def after_step(self, step: int) -> None:
        self.seen += step
        with torch.no_grad():
            for slow, now in zip(self.modules["target"].parameters(), self.modules["critic"].parameters(), strict=True):
                slow.lerp_(now, 0.1)

    def state(self) -> Mapping[str, Tensor]:
        return {"seen": self.seen}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.seen = tensors["seen"].clone()


def assert_resumes(recipe: Recipe, out: Path, method: type[Method] | None = None) -> dict[str, Tensor]:
    train(recipe, out / "whole", method=method)
    train(recipe, out / "parts", until=3, method=method)
    train(recipe, out / "parts", resume=True, method=method)
    whole, parts = state(out / "whole"), state(out / "parts")
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    files = [(out / run / "checkpoint" / "model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert files[0] == files[1]
    return whole


@pytest.mark.parametrize("optimizer", ["adamw", "schedule-free"])
def test_everything_of_a_method_of_ones_own_is_resumed(
    optimizer: str, datasets: dict[str, Path], tmp_path: Path
) -> None:
    # A checkpoint at the break in both runs, since the best one counts.
    recipe = tiny(datasets, optimizer={"kind": optimizer, "warmup": 2}, checkpoint_every=3, held_out=0.25)
    whole = assert_resumes(recipe, tmp_path, Critic)
    assert whole["method.seen"] == 1 + 2 + 3 + 4 + 5 + 6
    assert {"modules.critic.weight", "modules.target.weight", "optimizer.critic.weight.exp_avg_sq"} <= whole.keys()
    assert ("average.critic.weight" in whole) == (optimizer == "adamw") and "average.target.weight" not in whole
    assert not torch.equal(whole["modules.critic.weight"], whole["modules.target.weight"])
    assert rows(tmp_path / "whole")[0]["loss/critic"] > 0
    # What is shipped is the policy alone.
    assert checkpoint.load(tmp_path / "whole/checkpoint").config.embodiments[0].name == "arm"
    with pytest.raises(PolysomaError, match="is of another method or policy: it also holds critic"):
        train(recipe, tmp_path / "whole", resume=True)


class Counting(Critic):
    """A critic whose buffers count batches in whole numbers."""

    def __init__(self, given: Ingredients) -> None:
        super().__init__(given)
        self.modules["critic"] = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    def after_step(self, step: int) -> None:
        self.seen += step


def test_counters_among_buffers_are_resumed_and_have_no_average(datasets: dict[str, Path], tmp_path: Path) -> None:
    whole = assert_resumes(tiny(datasets, checkpoint_every=3), tmp_path, Counting)
    counts = [whole[f"{kind}.critic.1.num_batches_tracked"].item() for kind in ("modules", "average")]
    assert counts == [6, 6] and not whole["average.critic.1.running_mean"].equal(whole["modules.critic.1.running_mean"])


class Pulling(Method):
    """Pulls all parameters towards one."""

    def __init__(self, **modules: nn.Module) -> None:
        self.modules = nn.ModuleDict(modules)

    def accumulate(self, step: int, share: Share) -> Metrics:
        loss = sum(((p - 1) ** 2).mean() for p in self.modules.parameters())
        assert isinstance(loss, Tensor)
        loss.backward()
        return {"loss/all": loss.item(), "windows": 1.0}


def test_an_engine_needs_no_recipe(sources: dict[str, Source], tmp_path: Path) -> None:
    seen: list[Metrics] = []
    settings = Settings(steps=30, optimizer=AdamW(0.05, warmup=1), log_every=10, tracker="none")
    policy = make_policy(sources)
    folder = Engine(Pulling(policy=policy), settings).run(
        tmp_path / "run", progress=lambda step, losses: seen.append(losses), evaluate=lambda folder: {"arm/one": 0.5}
    )
    assert len(seen) == 30 and seen[-1]["all"] < 0.1 * seen[0]["all"]
    assert checkpoint.load_for_training(folder).config.embodiments == policy.config.embodiments
    written = rows(tmp_path / "run")
    assert [row["step"] for row in written] == [10, 20, 30, 30] and written[-1]["success/arm/one"] == 0.5
    assert not list((tmp_path / "run").glob("tensorboard*"))
    with pytest.raises(PolysomaError, match="hold the policy as 'policy', got NoneType among \\['other'\\]"):
        Engine(Pulling(other=policy), settings)
    with pytest.raises(PolysomaError, match="at least one"):
        Engine(Pulling(policy=policy.requires_grad_(False)), settings)


def test_schedule_free_steps_are_those_of_the_paper() -> None:
    """Algorithm 1 written with x and z, against y alone, in float64."""
    torch.manual_seed(0)
    y = nn.Parameter(torch.randn(5, dtype=torch.float64))
    optimizer = ScheduleFreeAdamW([y], 0.1, (0.9, 0.95), weight_decay=0.1)
    x, z = y.detach().clone(), y.detach().clone()
    square, total = torch.zeros_like(x), 0.0
    for step in range(20):
        rate = optimizer.param_groups[0]["lr"] = 0.1 * min(1.0, (step + 1) / 5)
        expected = 0.1 * z + 0.9 * x
        torch.testing.assert_close(y.detach(), expected)
        gradient = 2 * (expected - torch.arange(5))
        square = 0.95 * square + 0.05 * gradient**2
        z = z - rate * (gradient / ((square / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8) + 0.1 * expected)
        total += rate**2
        x = (1 - rate**2 / total) * x + rate**2 / total * z
        y.grad = 2 * (y.detach() - torch.arange(5))
        optimizer.step()
        torch.testing.assert_close(optimizer.average(y), x)


def test_what_schedule_free_ships_is_its_average(datasets: dict[str, Path], tmp_path: Path) -> None:
    recipe = tiny(datasets, optimizer={"kind": "schedule-free", "warmup": 2})
    assert_resumes(recipe, tmp_path)
    held = state(tmp_path / "whole")
    shipped = safetensors.torch.load_file(tmp_path / "whole/checkpoint/model.safetensors")
    name = "trunk.blocks.0.up.weight"
    y, z = held[f"modules.policy.{name}"], held[f"optimizer.policy.{name}.z"]
    torch.testing.assert_close(shipped[name], y + (y - z) / 9)
    assert not torch.equal(shipped[name], y) and held[f"optimizer.policy.{name}.weight_sum"].dtype == torch.float64


def test_a_clock_ends_a_run_at_any_step(
    datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 10**6, 10))
    monkeypatch.setattr("polysoma.learning.engine.time.monotonic", lambda: float(next(now)))
    recipe = tiny(datasets, optimizer={"kind": "schedule-free"}, steps=1000, minutes=1)
    train(recipe, tmp_path / "run", until=2)
    train(recipe, tmp_path / "run", resume=True)
    last = rows(tmp_path / "run")[-1]["step"]
    assert 2 < last < 10
    # Its time is over, and resuming does not add any.
    train(recipe, tmp_path / "run", resume=True)
    assert rows(tmp_path / "run")[-1]["step"] == last
    assert checkpoint.read_config(tmp_path / "run/checkpoint")["lineage"]["steps"] == last


def test_a_schedule_follows_the_clock_of_a_run_that_it_ends(
    datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps take five seconds each, as where a machine is busy at first, and all others one."""
    clock = [0.0]
    monkeypatch.setattr("polysoma.learning.engine.time.monotonic", lambda: clock[0])

    class Waking(Critic):
        def accumulate(self, step: int, share: Share) -> Metrics:
            clock[0] += 5.0 if step < 3 else 1.0
            return super().accumulate(step, share)

    recipe = tiny(
        datasets, steps=UNBOUNDED, minutes=1, checkpoint_minutes=0.125, optimizer={"kind": "adamw", "warmup": 1}
    )
    # Where it was broken off after 15 seconds, it goes on by what is left of its time.
    assert_resumes(recipe, tmp_path, Waking)
    rates = [row["learning_rate"] for row in rows(tmp_path / "whole")]
    assert len(rates) == 3 + 45
    after = {seconds: rates[3 + seconds - 15] for seconds in (15, 30, 45)}
    expected = {seconds: 1e-3 * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * seconds / 60))) for seconds in after}
    assert after == pytest.approx(expected, rel=0.2) and rates[-1] < 0.02 * rates[0]


def test_playing_at_checkpoints_takes_no_time_of_training(
    sources: dict[str, Source], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, played = [0.0], []
    monkeypatch.setattr("polysoma.learning.engine.time.monotonic", lambda: clock[0])

    class Ticking(Pulling):
        def accumulate(self, step: int, share: Share) -> Metrics:
            clock[0] += 1.0
            return super().accumulate(step, share)

    def play(folder: Path) -> dict[str, float]:
        clock[0] += 100.0
        played.append(checkpoint.read_config(folder))
        return {}

    settings = Settings(steps=UNBOUNDED, minutes=1, checkpoint_minutes=0.25, log_every=1, tracker="none")
    Engine(Ticking(policy=make_policy(sources)), settings).run(tmp_path / "run", evaluate=play)
    assert rows(tmp_path / "run")[-1]["step"] == 60 and len(played) == 4


def test_trackers(datasets: dict[str, Path], tmp_path: Path) -> None:
    train(tiny(datasets), tmp_path / "run", until=3)
    train(tiny(datasets), tmp_path / "run", resume=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    written = [row for row in rows(tmp_path / "run") if "loss/arm" in row]
    assert [event.step for event in events.Scalars("loss/arm")] == [row["step"] for row in written]
    assert [event.value for event in events.Scalars("loss/arm")] == pytest.approx([row["loss/arm"] for row in written])
    with pytest.raises(PolysomaError, match=r"tracker: expected 'tensorboard', .* or 'none', got 'paper'"):
        tiny(datasets, tracker="paper")
    train(tiny(datasets, tracker="none"), tmp_path / "plain")
    assert not (tmp_path / "plain" / "tensorboard").exists() and rows(tmp_path / "plain")


def test_a_tracker_that_is_missing_is_told_before_the_run(
    datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PolysomaError, match="tracker: wandb is not installed here: run `pip install wandb`"):
        train(tiny(datasets, tracker="wandb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": {"*/leg": 2.0}}, r"weights: no data set matches '\*/leg'; there are .*arm"),
        ({"task_weights": {"arm/won": 0.0}}, "task_weights: no task matches 'arm/won'; did you mean arm/two"),
        ({"evaluation": {"tasks": ["metaworld/reech"]}}, "evaluation.tasks: no task matches 'metaworld/reech'"),
        ({"evaluation": {"tasks": ["pointmaze/*"]}}, "evaluation.tasks: .* is of pointmaze; what is trained is arm"),
        (
            {"evaluation": {"tasks": ["pointmaze/*"], "episodes": 0}},
            "evaluation.episodes: expected .* 1,000,000, got 0",
        ),
        ({"bodies": {"arm": {"estimation": 1.0}}}, r"bodies.arm.estimation: .*no privileged states"),
        ({"bodies": {"arm": {"goals": 0.5}}}, r"bodies.arm.goals: .*images.goals"),
        (
            {"bodies": {"arm": {"goals": 0.5}, "arm-pixels": {}}, "images": {"goals": True}, "data": ["data/*"]},
            "bodies.arm.goals: .*the body needs a camera",
        ),
        ({"bodies": {"arm": {"shots": 2}}}, r"bodies.arm.shots: .*previous_action"),
        ({"init": "nowhere"}, "no checkpoint at nowhere"),
        ({"relative": ["leg"]}, r"relative: no data of the bodies \['leg'\]"),
        ({"renewed": ["armm"]}, r"renewed: no body of the recipe is called 'armm'; did you mean arm\?"),
        ({"trainable": [""]}, "trainable: no parameter is, or begins with, "),
        ({"trainable": ["wheels."]}, r"trainable: no parameter is, or begins with, \['wheels\.'\]"),
        ({"paraphrases": "no.toml"}, "no.toml"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(
    changes: dict[str, object], message: str, datasets: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def evaluate(folder: Path, tasks: tuple[str, ...], episodes: int, seed: int) -> dict[str, float]:
        raise AssertionError("played")

    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolysomaError, match=message):
        train(tiny(datasets, **changes), tmp_path / "run", evaluate=evaluate)
    assert not (tmp_path / "run").exists()


def test_bodies_that_are_not_trained_may_have_weights(datasets: dict[str, Path], tmp_path: Path) -> None:
    data = [str(datasets["arm"]), str(datasets["grid"])]
    weights = {str(datasets["grid"]): 2.0}
    recipe = tiny(datasets, data=data, weights=weights, task_weights={"grid/*": 2.0, "drone/*": 0.0}, steps=1)
    assert "drone" in simulators.families()
    train(recipe, tmp_path / "run")
    assert recipe_of_run(tmp_path / "run") == recipe


def test_something_is_left_to_learn_from_however_much_is_held_out(datasets: dict[str, Path], tmp_path: Path) -> None:
    sources, held_out = sources_for(tiny(datasets, held_out=0.99))
    assert [source.episodes for source in (*sources, *held_out)] == [2, 6]

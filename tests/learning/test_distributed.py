"""Training in several processes: what is seen does not depend on their number, not even when it changes on the way."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import safetensors.torch
import torch
from torch import nn

from conftest import make_policy
from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.learning import distributed
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.distributed import learn_on
from polysoma.learning.engine import Engine, Settings
from polysoma.learning.method import Ingredients, Method, Metrics, Share
from polysoma.learning.methods import imitation
from polysoma.learning.optimizers import AdamW
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.policy.policy import Policy

SCRIPT = """
import json, os, shutil, sys
from pathlib import Path
from types import SimpleNamespace
import torch
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.learning import distributed
from polysoma.learning.methods import imitation
from polysoma.learning.training import train
from polysoma.learning.recipe import recipe_from_table

draw, shard, placed = Source.draw, distributed.shard, imitation.placed

def watched(self, count, rng, goals=False, share=(0, 1), showing=None):
    windows = draw(self, count, rng, goals, share, showing)
    if torch.is_inference_mode_enabled():  # these only measure
        return windows
    stream = windows.embodiment.arrays[0].name
    rows = [windows.observations[stream][row].numpy().tobytes().hex() for row in range(len(windows))]
    with open(f"{now.log}-{os.environ['RANK']}", "a") as file:
        file.writelines(f"{windows.embodiment.name} {row}\\n" for row in rows)
    return windows

def measured(policy, accelerator):
    shard(policy, accelerator)
    blocks = list(policy.trunk.blocks.parameters())
    held = [sum(p.numel() for p in blocks), sum(distributed.local(p).numel() for p in blocks)]
    Path(f"{now.log}.held-{accelerator.process_index}").write_text(json.dumps(held))

Source.draw, distributed.shard = watched, measured
# Each run ends the process group; the next one here needs it still.
end, torch.distributed.destroy_process_group = torch.distributed.destroy_process_group, lambda group=None: None
for job in json.loads(sys.argv[1]):
    now = SimpleNamespace(**job)
    if now.begin_with and now.begin_with != now.run:
        if os.environ["RANK"] == "0":
            shutil.copytree(now.begin_with, now.run)
        torch.distributed.barrier()
    imitation.placed = placed if now.apart else lambda costs, windows, processes: dict.fromkeys(costs)
    try:
        train(recipe_from_table(now.table, "test"), Path(now.run), bool(now.begin_with), now.until)
    except PolysomaError as error:
        if not now.fails:
            raise
        Path(f"{now.log}.error-{os.environ['RANK']}").write_text(str(error))
end()
"""


class Job(NamedTuple):
    """One call of ``train`` in every process.

    Attributes:
        table: the recipe.
        run: its folder.
        log: what the files begin with in which each process writes what it saw.
        begin_with: a run that it goes on from, in a copy unless it is ``run`` itself.
        until: the step after which it stops.
        apart: whether bodies may be placed on processes; otherwise all share the windows of each body.
        fails: whether each process may write what was wrong instead.
    """

    table: dict[str, object]
    run: Path
    log: Path
    begin_with: Path | None = None
    until: int | None = None
    apart: bool = True
    fails: bool = False


def launch(processes: int, folder: Path, *jobs: Job) -> None:
    """Starts these processes, as users do, and does one job after another in them."""
    script = folder / "watched.py"
    script.write_text(SCRIPT)
    arguments = json.dumps([job._asdict() for job in jobs], default=str)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    ended = subprocess.run(
        [sys.executable, *launcher, str(script), arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr


class Tables(NamedTuple):
    """What the two processes were told to do: a recipe of bodies that are placed, one of windows that are shared, and
    one of a body with fewer windows than processes, sharded."""

    placed: dict[str, object]
    shared: dict[str, object]
    too_few: dict[str, object]


def tables(datasets: dict[str, Path]) -> Tables:
    both: dict[str, object] = {"data": [str(datasets["arm"]), str(datasets["grid"])], "warmup": 1}
    return Tables(
        both
        | {
            "bodies": {"arm": {"batch": 7}, "grid": {"batch": 1}},
            "policy": {"width": 32, "depth": 1, "heads": 2},
            "steps": 4,
            "checkpoint_every": 2,
        },
        both
        | {
            "bodies": {"arm": {"batch": 8, "parts": 3}, "grid": {"batch": 5, "parts": 2}},
            "policy": {"width": 32, "depth": 2, "heads": 2},
            "steps": 6,
            "checkpoint_every": 2,
            "held_out": 0.25,
        },
        {
            "data": [str(datasets["arm"])],
            "bodies": {"arm": {"batch": 1}},
            "policy": {"width": 32, "depth": 1, "heads": 2},
            "sharding": "full",
            "steps": 1,
        },
    )


@pytest.fixture(scope="module")
def ran(_recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tables, Path]:
    """What two processes did, in a folder of runs: to start them takes longer than what they do. Each test has runs of
    its own there."""
    folder = tmp_path_factory.mktemp("two-processes")
    asked = tables({name: _recorded / name for name in ("arm", "grid")})
    sharded = asked.shared | {"sharding": "full"}
    none, mixed, full = (folder / name for name in ("none", "mixed", "full"))
    # A mean over all windows is not the mean of means over halves of them.
    halves = functools.partial(Job, log=folder / "log", apart=False)
    launch(
        2,
        folder,
        Job(asked.placed, folder / "two", folder / "shared", until=2),
        halves(asked.shared, none, until=2),
        halves(sharded, mixed, begin_with=none, until=4),
        halves(asked.shared, none, begin_with=none, until=4),
        halves(sharded, full, until=4),
        Job(asked.too_few, folder / "refused", folder / "refused", fails=True),
    )
    return asked, folder


def lines(windows: Batch) -> list[str]:
    """What tells each of these windows from others."""
    stream = windows.embodiment.arrays[0].name
    return [f"{windows.embodiment.name} {row.numpy().tobytes().hex()}" for row in windows.observations[stream]]


def test_two_processes_then_one_see_what_one_sees(
    ran: tuple[Tables, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, folder = ran[0].placed, ran[1]
    halves = [(folder / f"shared-{rank}").read_text().splitlines() for rank in range(2)]
    # The grid's one window a step is the first process's, and the arm's seven the other's.
    assert [len(half) for half in halves] == [2 * 1, 2 * 7]
    draw, seen = Source.draw, []

    def watched(*arguments: Any, **options: Any) -> Batch:
        windows = draw(*arguments, **options)
        if not torch.is_inference_mode_enabled():
            seen.extend(lines(windows))
        return windows

    # One process: this one.
    monkeypatch.setattr(Source, "draw", watched)
    train(recipe_from_table(table, "test"), folder / "two", resume=True)
    together = sorted([*halves[0], *halves[1], *seen])
    seen.clear()
    train(recipe_from_table(table, "test"), tmp_path / "one")
    assert sorted(seen) == together
    assert (folder / "two/checkpoint/model.safetensors").is_file()


def test_sharded_training_ends_where_unsharded_training_does(ran: tuple[Tables, Path]) -> None:
    table, folder = ran[0].shared, ran[1]
    none, mixed, full = (folder / name for name in ("none", "mixed", "full"))
    for rank in range(2):
        every, here = json.loads((folder / f"log.held-{rank}").read_text())
        assert here == pytest.approx(every / 2, rel=0.02)
    assert_same_state(mixed, none)
    assert_same_state(full, none)
    losses = [
        [json.loads(line)["held_out/arm"] for line in lines if "held_out/arm" in line]
        for lines in ((run / "metrics.jsonl").read_text().splitlines() for run in (none, full))
    ]
    assert len(losses[0]) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-4)
    # One process that has everything ends both.
    for run in (none, full):
        train(recipe_from_table(table, "test"), run, resume=True)
    assert_same_state(full, none)


def assert_same_state(folder: Path, expected: Path) -> None:
    """All that a run resumes from is the same but for the order in which floats were added."""
    ours, theirs = (safetensors.torch.load_file(run / "training/training.safetensors") for run in (folder, expected))
    assert ours.keys() == theirs.keys() and any("exp_avg" in name for name in ours)
    for name, value in theirs.items():
        found = ours[name]
        if name.endswith("qkv.bias"):
            # What is added to all keys changes no attention: its gradient is rounding alone, of which Adam makes steps.
            found, value = (torch.cat([part.chunk(3)[0], part.chunk(3)[2]]) for part in (found, value))
        torch.testing.assert_close(found, value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def test_a_body_with_fewer_windows_than_processes_counts_as_much_as_in_one(
    sources: dict[str, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imitation, "placed", lambda costs, windows, processes: dict.fromkeys(costs))
    monkeypatch.setattr(distributed, "summed", lambda metrics, device: dict(metrics))
    bodies = {"grid": BodyRecipe(batch=1)}
    policy = make_policy(sources)
    method = imitation.Imitation().build(Ingredients(policy, [sources["grid"]], bodies=bodies))
    losses, gradients = [], []
    for count in (1, 4):
        policy.zero_grad()
        losses.append(method.accumulate(0, Share(0, count))["loss/grid"])
        gradients.append({name: p.grad / count for name, p in policy.named_parameters() if p.grad is not None})
    assert losses[0] == losses[1] and gradients[0]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


class Together:
    """Stands in for accelerate in a thread of its own: what it reduces it exchanges with the others."""

    device = torch.device("cpu")

    def __init__(self, index: int, barrier: threading.Barrier, given: dict[int, torch.Tensor]) -> None:
        self.process_index, self.num_processes, self.is_main_process = index, barrier.parties, not index
        self._barrier, self._given = barrier, given

    def reduce(self, value: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "mean"
        self._given[self.process_index] = value
        self._barrier.wait()
        found = torch.stack([self._given[index] for index in range(self.num_processes)]).mean(0)
        self._barrier.wait()
        return found


class Places(Method):
    """One part learns in both processes, one in the second alone, as of a body that is placed there, one in the first
    step alone. The first two take the statistics of what they see, as eyes do."""

    def __init__(self, policy: Policy) -> None:
        torch.manual_seed(0)
        parts = {name: nn.BatchNorm1d(2) for name in ("both", "second")} | {"seldom": nn.Linear(2, 2)}
        self.modules = nn.ModuleDict({"policy": policy.requires_grad_(False), **parts})

    def accumulate(self, step: int, share: Share) -> Metrics:
        seen = torch.randn(8, 2, generator=torch.Generator().manual_seed(step * share.count + share.index))
        names = ["both", *(["second"] if share.index else []), *(["seldom"] if step == 0 else [])]
        loss = torch.stack([(self.modules[name](seen) - 1).square().mean() for name in names]).sum()
        loss.backward()
        return {"loss/all": loss.item()}


def test_what_one_process_alone_sees_is_in_all_and_what_none_sees_stays(sources: dict[str, Source]) -> None:
    barrier, given = threading.Barrier(2, timeout=60), dict[int, torch.Tensor]()
    methods = [Places(make_policy(sources)) for _ in range(2)]
    settings = Settings(steps=4, optimizer=AdamW(0.1, warmup=0, weight_decay=0.5, ema=0.0), tracker="none")

    def learn(index: int) -> list[dict[str, torch.Tensor]]:
        engine, states = Engine(methods[index], settings, cast(Any, Together(index, barrier, given))), []
        for step in range(4):
            engine.step(step)
            states.append({name: value.clone() for name, value in methods[index].modules.state_dict().items()})
        return states

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(learn, range(2))
    counters = {name for name in first[-1] if "batches" in name}
    assert all(torch.equal(first[-1][name], second[-1][name]) for name in first[-1].keys() - counters)
    # As with one process: neither momentum nor decay moves what nobody uses.
    assert torch.equal(first[0]["seldom.weight"], first[-1]["seldom.weight"])
    alone = nn.BatchNorm1d(2)
    for step in range(4):
        alone(torch.randn(8, 2, generator=torch.Generator().manual_seed(2 * step + 1)))
    torch.testing.assert_close(first[-1]["second.running_mean"], alone.running_mean)
    assert not torch.equal(first[-1]["both.running_mean"], first[-1]["second.running_mean"])


def test_sharding_needs_work_for_every_process(ran: tuple[Tables, Path], tmp_path: Path) -> None:
    table, folder = ran[0].too_few, ran[1]
    for rank in range(2):
        assert "each of 2 processes needs one of either kind" in (folder / f"refused.error-{rank}").read_text()
    train(recipe_from_table(table, "test"), tmp_path / "alone")
    with pytest.raises(PolysomaError, match="test: sharding: expected 'none' or 'full', got 'half'"):
        recipe_from_table(table | {"sharding": "half"}, "test")


def test_learning_goes_where_accelerate_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE", "WORLD_SIZE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for left in ("auto", "cuda"):
        learn_on(left)
        assert not {"ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"} & set(os.environ)
    learn_on("cpu")
    learn_on("cuda:1")
    assert os.environ["ACCELERATE_USE_CPU"] == "true" and os.environ["ACCELERATE_TORCH_DEVICE"] == "cuda:1"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PolysomaError, match="leave out its number"):
        learn_on("cuda:1")

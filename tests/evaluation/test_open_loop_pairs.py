"""Policies compared on the same frames of recorded episodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import ARM, GRID, make_episode
from make_runs import tiny
from make_servo import CHUNK, SERVO, copies, last, servo_episode, source_of
from polysoma.cli import main
from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.evaluation.intervals import episodes_difference
from polysoma.evaluation.open_loop import open_loop
from polysoma.evaluation.open_loop_pairs import common, paired
from polysoma.evaluation.recorded import RecordedEpisodes
from polysoma.horizon import Horizon
from polysoma.learning.training import train
from polysoma.policy.policy import Policy


def driver(predict: Callable[[Batch], Tensor], source: Source, learnt: Source | None = None) -> RecordedEpisodes:
    return RecordedEpisodes(
        cast(Policy, SimpleNamespace(predict=predict)), source, learnt, f"{source.episodes} episodes"
    )


def off(batch: Batch) -> Tensor:
    """The last command and a bit, for two more actions than others predict."""
    return last(batch, batch.previous)[:, None].repeat(1, CHUNK + 2, 1) + 0.5


@pytest.fixture
def episodes() -> list[Any]:
    return [servo_episode(seed, 6 + seed, ("open", "close")[seed % 2]) for seed in range(6)]


def test_errors_are_those_of_each_alone_and_differences_are_theirs(tmp_path: Path, episodes: list[Any]) -> None:
    source = source_of(tmp_path / "short", SERVO, episodes, Horizon(chunk=CHUNK))
    longer = source_of(tmp_path / "long", SERVO, episodes, Horizon(chunk=CHUNK + 2))
    found = paired({"a": driver(copies, source), "b": driver(off, longer)})
    alone = open_loop(copies, source, permutations=0)
    assert found.policies["a"].places == pytest.approx(alone.errors["policy"].places)
    assert found.policies["a"].chunk == pytest.approx(alone.errors["policy"].chunk)
    assert found.policies["a"].chunk_difference is None
    assert found.controls.keys() == {"mean", "stay", "repeat"}
    assert found.controls["stay"].chunk == pytest.approx(alone.errors["stay"].chunk)
    # Copying is what the control does: nothing between them, in any resample.
    assert found.controls["repeat"].chunk_difference == (0, 0, 0)
    # Chunks of five are compared as far as those of three.
    other = open_loop(off, longer, permutations=0).errors["policy"]
    row = found.policies["b"]
    assert row.places == pytest.approx(other.places[:CHUNK]) and row.first == pytest.approx(other.first)
    assert row.first_difference is not None and row.chunk_difference is not None
    assert row.first_difference[0] == pytest.approx(row.first - found.policies["a"].first)
    difference, low, high = row.chunk_difference
    assert difference == pytest.approx(row.chunk - found.policies["a"].chunk) and low < difference < high


def test_only_episodes_that_count_for_all_are_compared(tmp_path: Path, episodes: list[Any]) -> None:
    source = source_of(tmp_path, SERVO, episodes, Horizon(chunk=CHUNK))
    learnt, apart = source.split(0, 0.4)
    assert apart is not None and apart.episodes == 2
    found = paired({"a": driver(copies, source), "b": driver(copies, apart, learnt)})
    assert found.episodes == 2 and "a: 6 episodes" in found.which and "perceptron" in found.controls
    assert found.policies["b"].chunk_difference == (0, 0, 0)
    with pytest.raises(PolysomaError, match="no episode of two frames counts for all of them"):
        paired({"a": driver(copies, learnt), "b": driver(copies, apart)})


def test_choices_are_compared_as_well(tmp_path: Path) -> None:
    episodes = [make_episode(GRID, 6 + seed, seed, "grid/one", f"do {seed % 2}") for seed in range(4)]
    source = source_of(tmp_path, GRID, episodes, Horizon())

    def always(choice: int) -> Callable[[Batch], Tensor]:
        return lambda batch: torch.eye(3)[choice].log().expand(len(batch), 1, 3)

    found = paired({"one": driver(always(1), source), "two": driver(always(2), source)})
    done = np.concatenate([episode.actions[1:] for episode in episodes])
    assert found.choices and found.policies["one"].chunk == pytest.approx((done != 1).mean())
    difference = found.policies["two"].chunk_difference
    assert difference is not None and difference[0] == pytest.approx((done != 2).mean() - (done != 1).mean())


def test_bodies_that_one_does_not_know_are_left_out_or_refused(tmp_path: Path, episodes: list[Any]) -> None:
    source = source_of(tmp_path / "servo", SERVO, episodes, Horizon(chunk=CHUNK))
    grid = source_of(tmp_path / "grid", GRID, [make_episode(GRID, 6, 0, "grid/one")], Horizon())
    both, one = [driver(copies, source), driver(copies, grid)], [driver(copies, source)]
    assert common({"a": both, "b": one}).keys() == {"servo"}
    with pytest.raises(PolysomaError, match="a body that all checkpoints know"):
        common({"a": [both[1]], "b": one})


def test_an_interval_is_as_wide_as_episodes_differ() -> None:
    counts = np.full(40, 10)
    rng = np.random.default_rng(0)
    each = rng.normal(0.5, 0.2, 40)
    difference, low, high = episodes_difference(each * counts, np.zeros(40), counts)
    assert difference == pytest.approx(each.mean())
    assert high - low == pytest.approx(2 * 1.96 * each.std() / np.sqrt(40), rel=0.1)
    # The same frames in one episode would say nothing.
    assert episodes_difference(np.array([3.0]), np.array([1.0]), np.array([4])) == (0.5, 0.5, 0.5)


def test_the_command_compares_checkpoints_without_a_simulator(
    datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = str(train(tiny(datasets, held_out=0.25), tmp_path / "first"))
    second = str(train(tiny(datasets, held_out=0.25, seed=1), tmp_path / "second"))
    out = tmp_path / "out"
    main(["compare", first, second, "--data", str(datasets["arm"]), "--out", str(out)])
    told = json.loads((out / "results.json").read_text())
    (body,) = told["bodies"]
    assert told["checkpoints"] == [first, second] and body["which"] == "2 of 8 episodes, held out in training"
    assert body["controls"].keys() == {"mean", "repeat", "perceptron"}
    said, page = capsys.readouterr().out, (out / "index.html").read_text()
    for row in (*body["policies"].values(), *body["controls"].values()):
        assert f"{row['chunk']:.3f}" in said and f"{row['chunk']:.3f}" in page
    assert f"{body['policies'][second]['chunk_difference'][0]:+.3f}" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a"], "two or more different checkpoints"),
        (["a", "a"], "two or more different checkpoints"),
        (["a", "b", "--demos", "5", "--old", "x"], "leave out --demos, --old"),
        (["--held-out", ".5", "--tasks", "arm/one"], "--held-out: only where checkpoints are compared"),
        ([], "polysoma compare A B --data FOLDER"),
    ],
)
def test_mixed_questions_are_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", *words, "--data", "nowhere"])
    assert told in " ".join(capsys.readouterr().err.split())


def test_data_of_nobody_are_refused(
    datasets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DatasetWriter(tmp_path / "arm", ARM) as writer:
        writer.add(make_episode(ARM, 1, 0))
    made = [str(train(tiny(datasets, seed=seed), tmp_path / str(seed))) for seed in (0, 1)]
    with pytest.raises(SystemExit):
        main(["compare", *made, "--data", str(tmp_path / "arm"), "--out", str(tmp_path / "out")])
    assert "no episode of two frames counts for all" in capsys.readouterr().err

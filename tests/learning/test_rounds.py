"""Interactive imitation from end to end, with a family of one's own: Gymnasium's cart pole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import ROOT
from make_runs import state as run_tensors
from polysoma import simulators
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.errors import PolysomaError, PolysomaWarning
from polysoma.learning import round_state, rounds
from polysoma.learning.recipe import Recipe, recipe_from_table
from polysoma.learning.rounds import pictures_last, train_in_rounds
from polysoma.rollout.jobs import Job


@pytest.fixture(autouse=True)
def _cartpole(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(simulators.FAMILIES_VARIABLE, str(ROOT / "examples" / "cartpole.py"))
    simulators.families.cache_clear()
    yield
    simulators.families.cache_clear()


def recipe(**changes: Any) -> Recipe:
    method = {"kind": "interactive", "tasks": ["cartpole/*"], "rounds": 3, "demonstrations": 5, "episodes": 3}
    method |= {"workers": 1} | changes.pop("method", {})
    table = {"policy": {"width": 16, "depth": 1, "heads": 1}, "steps": 12, "checkpoint_every": 2, "log_every": 1}
    table |= {"warmup": 2, "tracker": "none", "bodies": {"cartpole": {"batch": 8, "noise": 0.01}}}
    return recipe_from_table(table | {"method": method} | changes, "test")


def recorded(out: Path) -> dict[str, list[tuple[int, int, str]]]:
    """Of each data set the seed, the length and the executed actions of its episodes, in their order."""
    found = {}
    for folder in sorted(path.parent.parent for path in (out / "data").glob("*/*/*/meta/info.json")):
        data = Dataset(folder)
        found[folder.relative_to(out).as_posix()] = [
            (episode.seed, len(episode), episode.executed.tobytes().hex())
            for episode in (data.episode(number) for number in range(len(data.episode_length)))
        ]
    return found


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / round_state.LOG).read_text().splitlines()]


class Killed(BaseException):
    pass


def kill_at(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Ends the process, as it were, at the place-th of the moments at which anything is written or told."""
    left = iter(range(place))
    save, tell = round_state.State.save, rounds._Rounds._told

    def dying(method: Any) -> Any:
        def called(self: Any, *arguments: Any) -> None:
            if next(left, None) is None:
                raise Killed
            method(self, *arguments)

        return called

    monkeypatch.setattr(round_state.State, "save", dying(save))
    monkeypatch.setattr(rounds._Rounds, "_told", dying(tell))


def test_a_killed_run_ends_with_the_bits_of_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "GROUP", 2)
    monkeypatch.setattr(rounds, "SAVED_EVERY_S", 0.0)
    # An episode is 200 frames long: three demonstrations come on top of the first five.
    made = recipe(method={"frames": 1600, "later_demonstrations": 4})
    whole = train_in_rounds(made, tmp_path / "whole")
    assert whole.phase == "done" and [line["phase"] for line in lines(tmp_path / "whole")] == [
        "record", "learn", "play"] * 3  # fmt: skip
    out, kills = tmp_path / "killed", 0
    for place in (1, 3, 6, 9, 4, 7, 5, 2, 8, 11, 6):
        with monkeypatch.context() as patch:
            kill_at(patch, place)
            try:
                train_in_rounds(made, out, resume=round_state.exists(out))
            except Killed:
                kills += 1
    state = train_in_rounds(made, out, resume=True)
    assert kills >= 5 and state.phase == "done"
    assert recorded(out) == recorded(tmp_path / "whole")
    assert [len(recorded(out)[f"data/demonstrations/{number}/cartpole"]) for number in (1, 2, 3)] == [8, 4, 4]
    one, two = run_tensors(out), run_tensors(tmp_path / "whole")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    timeless = [{**line, "seconds": 0} for line in lines(out)]
    assert timeless == [{**line, "seconds": 0} for line in lines(tmp_path / "whole")]


def test_what_is_recorded_and_told(tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    state = train_in_rounds(recipe(method={"frames": 1200}), tmp_path, tell=lambda *said: told.append(said))
    found = recorded(tmp_path)
    assert list(found) == [
        *(f"data/demonstrations/{number}/cartpole" for number in (1, 2, 3)),
        *(f"data/visited/{number}/cartpole" for number in (1, 2)),
    ]
    seeds = [seed for name, episodes in found.items() for seed, *_ in episodes]
    assert len(seeds) == len(set(seeds)) and max(seeds) < rounds.END_OF_SEEDS
    assert min(seeds) >= rounds.DEMONSTRATION_SEEDS
    data = Dataset(tmp_path / "data/visited/1/cartpole")
    assert (np.asarray(data.actions) != np.asarray(data.executed)).any(), "the expert says what it would have done"
    done, total, _ = zip(*told, strict=True)
    assert list(done) == sorted(done) and set(total) == {1000} and done[-1] == 1000
    assert "round 3 of 3" in told[-1][2]
    table = (tmp_path / round_state.TABLE).read_text()
    assert table.count("## Round") == 3 and "| cartpole | 1.00 |" in table
    # Which half of the track is told in words, of which a policy as small as this one makes little yet.
    heard = [line["words"]["cartpole"] for line in lines(tmp_path) if line["phase"] == "learn"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert heard == [round(rows[step - 1]["words/cartpole"], 4) for step in (4, 8, 12)] and any(heard)
    played = [line["tasks"]["cartpole/balance"]["trials"] for line in lines(tmp_path) if line["phase"] == "play"]
    assert played == [3, 3, 3] and state.attempted == {"cartpole/balance": 9}


@pytest.mark.parametrize(("frames", "share", "recorded_first"), [(0, 0.15, 22), (100_000, 0.2, 30)])
def test_minutes_are_kept_by_a_clock(
    frames: int, share: float, recorded_first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time passes where something is done: four seconds an episode, and three around each learning."""
    clock = [0.0]
    monkeypatch.setattr(rounds.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(rounds, "GROUP", 1)
    learnt: list[float] = []

    def learn(count: int, given: Recipe, out: Path, resume: bool, until: int | None, progress: Any) -> Path:
        learnt.append(60 * given.minutes)
        clock[0] += learnt[-1] - sum(learnt[-2:-1]) + 3
        return out

    play = rounds._Rounds._take

    def slowly(self: Any, *arguments: Any) -> None:
        clock[0] += 4
        play(self, *arguments)

    monkeypatch.setattr(rounds, "train_in_processes", learn)
    monkeypatch.setattr(rounds.run_state, "learnt", lambda out: (len(learnt), learnt[-1]))
    monkeypatch.setattr(rounds._Rounds, "_take", slowly)
    # What plays is the expert, as nothing was learnt.
    monkeypatch.setattr(rounds, "Checkpoint", lambda *_, **__: "expert")
    method = {"demonstrations": 100, "episodes": 6, "frames": frames}
    timed = recipe(minutes=10, optimizer={"kind": "schedule-free"}, method=method)
    state = train_in_rounds(timed, tmp_path)
    assert 560 <= state.spent <= 600, "it ends in time, and does not leave much of it"
    spent = {phase: sum(one["seconds"] for one in lines(tmp_path) if one["phase"] == phase) for phase in
             ("record", "learn", "play")}  # fmt: skip
    assert spent["record"] <= share * 600 + 0.1 * (1 - share) * 600 and spent["learn"] > (0.75 - share) * 600
    trials = [one["tasks"]["cartpole/balance"]["trials"] for one in lines(tmp_path) if one["phase"] == "play"]
    assert trials == [6, 6, 6], "there was time for all of them"
    first = lines(tmp_path)[0]["tasks"]["cartpole/balance"]["trials"]
    assert first == recorded_first, "as many as its share of time allows"


def test_what_is_late_is_measured_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds.allocation, "learning_seconds", lambda *_: 1.0)
    hasty = recipe(minutes=0.01, optimizer={"kind": "schedule-free"}, method={"rounds": 1})
    state = train_in_rounds(hasty, tmp_path)
    assert state.spent > 1 and state.counts == {}
    tried = [line["tasks"]["cartpole/balance"]["trials"] for line in lines(tmp_path) if line["phase"] != "learn"]
    assert tried == [5, 3]


def test_tasks_without_a_demonstration_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = recipe(method={"tasks": ["drone/hover", "drone/ring"]}, bodies={})
    run = rounds._Rounds(made, made.method, tmp_path, False, None)  # type: ignore[arg-type]

    def play(kind: str, *_: Any) -> None:
        run.state.counts["drone/hover"], run.state.longest["drone/hover"] = round_state.Count(1, 1, 1, 9), 9

    monkeypatch.setattr(run, "_play_all", play)
    with pytest.warns(PolysomaWarning, match="no demonstration of drone/ring was recorded"):
        run._record()
    assert run.state.phase == "learn"


def test_weights_of_the_recipe_count(tmp_path: Path) -> None:
    first, *others = simulators.match_tasks("drone/*")
    made = recipe(method={"tasks": ["drone/*"]}, bodies={}, task_weights={first: 0.0})
    run = rounds._Rounds(made, made.method, tmp_path, False, None)  # type: ignore[arg-type]
    run.state.longest = dict.fromkeys([first, *others], 10)
    run.state.plan = dataclasses.replace(run.state.plan, effort=dict.fromkeys([first, *others], 1.7))
    changed, _ = run._recipe_of_round()
    assert changed.task_weights == {first: 0.0, **dict.fromkeys(others, 1.7)}


def test_what_takes_longest_is_recorded_last() -> None:
    names = ["metaworld-pixels/reach", "fetch/reach", "metaworld-pixels/reach", "metaworld-pixels/push", "fetch/push"]
    order = [group[0].seed for group in pictures_last([[Job(name, seed)] for seed, name in enumerate(names)])]
    assert order == [0, 1, 4, 2, 3], "one group of each body, then what needs no pictures"


def test_the_command_in_two_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'steps = 4\ntracker = "none"\n[method]\nkind = "interactive"\ntasks = ["cartpole/*"]\nrounds = 1\n'
        "demonstrations = 4\nepisodes = 2\n[policy]\nwidth = 16\ndepth = 1\nheads = 1\n"
    )
    main(["train", str(path), "--out", str(tmp_path / "run")])
    said = capsys.readouterr().out
    assert "rounds.md" in said and "of 2 attempts on development seeds" in said
    with pytest.raises(SystemExit):
        main(["train", str(path), "--out", str(tmp_path / "run")])
    assert "already holds a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"method": {"tasks": []}}, "expected at least one task"),
        ({"method": {"tasks": ["cartpole/walk"]}}, "no task matches"),
        ({"method": {"visited": 1.0}}, "visited"),
        ({"held_out": 0.1, "patience": 2}, "leave out held_out, patience"),
        ({"evaluation": {"tasks": ["cartpole/*"]}}, "leave out evaluation.tasks"),
        ({"minutes": 5}, "schedule-free"),
        ({"steps": 2}, "one for each of 3 rounds"),
        ({"bodies": {"rover": {}}}, "rover have no tasks"),
        ({"bodies": {"cartpole": {"estimation": 1.0}}}, "estimation: its data hold no privileged states"),
        ({"paraphrases": "nowhere.toml"}, "cannot read paraphrases"),
        ({"init": "runs/nowhere"}, "runs/nowhere"),
        ({"data": ["runs/nowhere/*"]}, "no data set matches 'runs/nowhere/"),
        ({"relative": ["drone"]}, "relative: no data of the bodies"),
        ({"task_weights": {"cartpole/walk": 2}}, "task_weights: no task matches 'cartpole/walk'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_done(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(PolysomaError, match=expected):
        train_in_rounds(recipe(**changes), tmp_path / "run")
    assert not round_state.exists(tmp_path / "run")


def test_a_resumed_run_keeps_its_tasks_and_goes_on_for_more_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resumed(rounds: int = 2, **changes: Any) -> round_state.State:
        return train_in_rounds(recipe(method={"rounds": rounds}, **changes), tmp_path, resume=True)

    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            train_in_rounds(recipe(method={"rounds": 2}), tmp_path)
    with pytest.raises(PolysomaError, match=r"began with: tasks\.0 'cartpole/balance', not 'drone/hover'"):
        train_in_rounds(recipe(method={"tasks": ["drone/hover"]}, bodies={}), tmp_path, resume=True)
    assert resumed(steps=6).steps == 6, "how long it is to be may change on the way"
    assert resumed(steps=6).round == 1, "all is done already"
    for number, steps, expected in (
        (1, 6, "is in its round 2, got 1"),
        (2, 8, "all 2 rounds are done; to go on, ask for more"),
        (3, 6, "steps: 6 are spent in 2 of 3 rounds; expected more, got 6"),
    ):
        with pytest.raises(PolysomaError, match=expected):
            resumed(number, steps=steps)
    with pytest.raises(PolysomaError, match=r"^minutes: .* in 2 of 3 rounds; expected more, got 0\.001"):
        resumed(3, minutes=0.001, optimizer={"kind": "schedule-free"})
    state = resumed(3, steps=9)
    assert (state.round, state.steps, state.phase) == (2, 9, "done")
    assert state.attempted == {"cartpole/balance": 9} and len(lines(tmp_path)) == 9
    assert "data/demonstrations/3/cartpole" in recorded(tmp_path)


def test_other_processes_stay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with rounds._alone(tmp_path), pytest.raises(PolysomaError, match="another process"):
        train_in_rounds(recipe(), tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PolysomaError, match="without torchrun"):
        train_in_rounds(recipe(), tmp_path)


def test_an_expert_that_never_succeeds_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = type(simulators.make("cartpole/balance"))
    monkeypatch.setattr(environment, "expert_action", lambda self: np.int64(0))
    with pytest.raises(PolysomaError, match="no demonstration of cartpole"):
        train_in_rounds(recipe(), tmp_path)

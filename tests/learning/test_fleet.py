from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as MessageProto

from conftest import ARM, HORIZONS, ROOT, make_episode, make_policy
from polysoma.cli import main
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.data.windows import gather
from polysoma.data.writer import DatasetWriter
from polysoma.errors import PolysomaError
from polysoma.learning import federation, lineage, states
from polysoma.learning.federation import client_app, read_change, server_app
from polysoma.learning.fleet import Change, Robot, Rounds, Shared, averaged, begun, join, robots_in, shared_by
from polysoma.learning.method import Share
from polysoma.learning.methods.imitation import Imitation
from polysoma.learning.simulated_fleet import SimulatedGrid, home_of, simulate
from polysoma.learning.training import ingredients
from polysoma.policy import checkpoint

ROUNDS = Rounds(rounds=4, robots=2, reconstruction=2, steps=2)


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A fleet's beginning, which knows no bodies."""
    checkpoint.save(begun(["do one two"], 32, 2, 2), tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def robots(tmp_path: Path) -> list[list[str]]:
    """Three arms with data of their own, whose numbers can be told apart."""
    for robot in range(3):
        with DatasetWriter(tmp_path / "robots" / str(robot) / "arm", ARM) as writer:
            for seed in range(6):
                task = ("one", "two")[seed % 2]
                writer.add(make_episode(ARM, 6 + seed, 10 * robot + seed, f"arm/{task}", f"do {task}"))
    return [list(found) for found in robots_in([str(tmp_path / "robots" / "*")]).values()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "checkpoint" / checkpoint.WEIGHTS)


def test_messages_hold_nothing_local(base: str, robots: list[list[str]], tmp_path: Path) -> None:
    wires: list[bytes] = []
    simulate(base, robots, dataclasses.replace(ROUNDS, kept=True), tmp_path / "run", watch=wires.append)
    shared = shared_by(checkpoint.load_for_training(base))
    local = [Robot(base, data) for data in robots]
    own = [safetensors.torch.load_file(path) for path in (tmp_path / "run" / "robots").glob("*/*/*.safetensors")]
    secrets = [value for kept in own for value in kept.values()]
    assert secrets
    for robot, data in zip(local, robots, strict=True):
        apart = robot.policy.names_of("body", "readout")
        secrets += [value for name, value in robot.policy.state_dict().items() if name in apart]
        for streams in robot.policy.config.statistics.values():
            secrets += [torch.tensor(array) for known in streams.values() for array in known.arrays().values()]
        dataset = Dataset(Path(data[0]))
        secrets += [torch.tensor(row) for row in np.concatenate([dataset.observations["state"], dataset.actions], 1)]
    numbers = [value.numpy().astype(np.float32) for value in secrets if value.numel() > 1 and value.count_nonzero()]
    assert len(wires) == 2 * ROUNDS.rounds * ROUNDS.robots and len(numbers) > 200
    for wire in wires:
        message = message_from_proto(MessageProto.FromString(wire))
        (arrays,) = message.content.array_records.values()
        assert arrays and arrays.keys() <= shared.keys()
        assert all(tuple(array.shape) == shared[name].shape for name, array in arrays.items())
        numbers_beside = {name for record in message.content.metric_records.values() for name in record}
        asked = {name for record in message.content.config_records.values() for name in record}
        assert numbers_beside in (set(), {"windows", "loss"})
        assert asked in (set(), {"round", "base", *(field.name for field in dataclasses.fields(Rounds))})
        assert not any(number.tobytes() in wire for number in numbers)
        assert not any(word in wire for word in (b"arm", b"heads.", b"bodies.", b"do one", str(tmp_path).encode()))


def test_the_mean_is_weighted_by_windows_of_those_who_moved_a_tensor() -> None:
    changes = [
        Change({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([4.0])}, 1, 0.0),
        Change({"a": torch.tensor([5.0, 6.0])}, 3, 0.0),
    ]
    mean = averaged(changes)
    assert mean["a"].tolist() == [4.0, 5.0] and mean["b"].tolist() == [4.0]
    shared = Shared({"a": torch.zeros(2), "b": torch.ones(1)}, {})
    for expected in ([2.0, 2.5], [5.0, 6.25]):
        shared.step(mean, dataclasses.replace(ROUNDS, server_rate=0.5, momentum=0.5))
        assert shared.tensors["a"].tolist() == expected


def test_one_robot_with_one_step_is_plain_training_of_the_shared_part(base: str, robots: list[list[str]]) -> None:
    rounds = dataclasses.replace(ROUNDS, rounds=1, robots=1, steps=1, reconstruction=0, one_model=False)
    shared = {name: value.clone() for name, value in shared_by(checkpoint.load_for_training(base)).items()}
    change, own = Robot(base, robots[0]).answer(shared, rounds, 1)
    # The same by hand: the other half of the episodes, one step of AdamW, what is local as it begins.
    robot = Robot(base, robots[0])
    policy = robot.policy.train()
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name in shared)
    (query,) = robot.halves(np.random.default_rng([rounds.seed, 1]))[1]
    method = Imitation().build(ingredients(robot.recipe, policy, [query]))
    optimizer = torch.optim.AdamW(
        [
            {"params": group.parameters, "weight_decay": robot.recipe.optimizer.weight_decay if group.decay else 0.0}
            for group in method.parameter_groups()
        ],
        rounds.rate,
        betas=(0.9, 0.95),
    )
    method.accumulate(1, Share(precision=policy.precision))
    torch.nn.utils.clip_grad_norm_([p for p in policy.parameters() if p.requires_grad], robot.recipe.grad_clip)
    optimizer.step()
    server = Shared(dict(shared), {})
    server.step(averaged([change]), rounds)
    for name, parameter in policy.named_parameters():
        if name in shared:
            torch.testing.assert_close(server.tensors[name], parameter.detach())
        else:
            assert torch.equal(own[name], parameter)
    assert change.windows == len(query)


def test_what_robots_draw_is_of_the_fleets_seed(
    base: str, robots: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    robot, shared = Robot(base, robots[0]), shared_by(checkpoint.load_for_training(base))
    monkeypatch.setattr(Robot, "halves", lambda self, rng: (self.sources, self.sources))
    first, again, other = (
        robot.answer(shared, dataclasses.replace(ROUNDS, seed=seed), 1)[0].tensors for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_what_is_local_moves_first_and_what_is_shared_afterwards(base: str, robots: list[list[str]]) -> None:
    shared = {name: value.clone() for name, value in shared_by(checkpoint.load_for_training(base)).items()}
    robot = Robot(base, robots[0])
    change, own = robot.answer(shared, ROUNDS, 1)
    again, same = robot.answer(shared, ROUNDS, 1)
    assert all(torch.equal(value, again.tensors[name]) for name, value in change.tensors.items())
    assert all(torch.equal(value, same[name]) for name, value in own.items())
    assert {"trunk.blocks.0.qkv.weight", "text.words.weight"} <= change.tensors.keys()
    beginning = Robot(base, robots[0]).policy.own()
    assert not any(torch.equal(value, beginning[name]) for name, value in own.items() if name.startswith("heads."))
    _, further = robot.answer(shared, ROUNDS, 2, own)
    _, anew = robot.answer(shared, ROUNDS, 2)
    assert not torch.equal(further["heads.arm.linear.weight"], anew["heads.arm.linear.weight"])
    with pytest.raises(PolysomaError, match="another base"):
        robot.answer({name: value for name, value in shared.items() if name != "trunk.norm.weight"}, ROUNDS, 1)


@pytest.mark.parametrize("kept", [True, False])
def test_a_resumed_fleet_ends_as_an_uninterrupted_one(
    kept: bool, base: str, robots: list[list[str]], tmp_path: Path
) -> None:
    rounds = dataclasses.replace(ROUNDS, kept=kept, momentum=0.5)
    simulate(base, robots, rounds, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(count: int) -> Callable[[bytes], None]:
        left = iter(range(count))

        def watch(wire: bytes) -> None:
            if next(left, None) is None:
                raise Killed

        return watch

    # In the middle of a round, after one of its robots has answered.
    with pytest.raises(Killed):
        simulate(base, robots, rounds, tmp_path / "parts", watch=kill(6))
    with pytest.raises(PolysomaError, match="already holds a run"):
        simulate(base, robots, rounds, tmp_path / "parts")
    simulate(base, robots, rounds, tmp_path / "parts", resume=True)
    other = dataclasses.replace(rounds, rounds=9, steps=rounds.steps + 1, momentum=0.25)
    with pytest.raises(
        PolysomaError, match=rf"parts: .* began with: steps {rounds.steps}, not \d; momentum 0.5, not 0.25;"
    ):
        simulate(base, robots, other, tmp_path / "parts", resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    logs = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "parts")
    ]
    assert [row["loss"] for row in logs[0]] == [row["loss"] for row in logs[1]]
    assert [row["step"] for row in logs[1]] == [1, 2, 3, 4] and logs[1][0]["bytes_sent"] > 100_000
    with pytest.raises(PolysomaError, match="nothing to resume"):
        simulate(base, robots, rounds, tmp_path / "none", resume=True)


def test_robots_that_fail_are_left_out(
    base: str,
    robots: list[list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    honest = Robot.answer

    def broken(self: Robot, *args: object) -> tuple[Change, dict[str, torch.Tensor]]:
        change, own = honest(self, *args)  # type: ignore[arg-type]
        if self.recipe.data == tuple(robots[0]):
            raise ValueError("a secret of this robot")
        if self.recipe.data == tuple(robots[1]):
            change = dataclasses.replace(change, tensors={n: v * float("nan") for n, v in change.tensors.items()})
        return change, own

    monkeypatch.setattr(Robot, "answer", broken)
    wires: list[bytes] = []
    rounds = dataclasses.replace(ROUNDS, robots=3, rounds=2)
    with caplog.at_level(logging.WARNING):
        simulate(base, robots, rounds, tmp_path / "run", watch=wires.append)
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert len(said) == 4 and "robot 1 is left out: ValueError" in said[0]
    assert "robot 2 is left out: its change is not finite" in said[1]
    assert not any(b"a secret" in wire for wire in wires)
    monkeypatch.undo()
    # Only the third one's data have spoken.
    simulate(base, robots[2:], dataclasses.replace(rounds, robots=1), tmp_path / "alone")
    torch.testing.assert_close(weights(tmp_path / "run"), weights(tmp_path / "alone"))
    monkeypatch.setattr(Robot, "answer", broken)
    with pytest.raises(PolysomaError, match="round 1: no robot gave an answer"):
        simulate(base, robots[:2], ROUNDS, tmp_path / "nobody")


def test_answers_are_checked(base: str) -> None:
    shared = shared_by(checkpoint.load_for_training(base))
    good = {"trunk.norm.weight": torch.ones(32)}

    def answered(tensors: dict[str, torch.Tensor], windows: int = 5, loss: float = 0.1) -> Change | str:
        counts = MetricRecord({"windows": windows, "loss": loss})
        return read_change(RecordDict({"change": ArrayRecord(tensors), "counts": counts}), shared)

    assert isinstance(answered(good), Change)
    assert "not of what is shared" in str(answered({"heads.arm.linear.weight": torch.ones(2)}))
    assert "not of what is shared" in str(answered({"trunk.norm.weight": torch.ones(3)}))
    assert "not finite" in str(answered(good, windows=0)) and "not finite" in str(answered(good, loss=float("nan")))
    assert "cannot be read" in str(read_change(RecordDict({"change": ArrayRecord(good)}), shared))


def test_a_robot_of_another_base_refuses(base: str, robots: list[list[str]], tmp_path: Path) -> None:
    checkpoint.save(begun(["do one two"], 32, 2, 2, seed=1), tmp_path / "other")
    grid = SimulatedGrid(base, robots, tmp_path / "run" / "robots")
    grid.configs[0]["base"] = str(tmp_path / "other")
    simulate(base, robots, ROUNDS, tmp_path / "first")
    task = ConfigRecord({"round": 1, "base": checkpoint.weights_sha256(base), **dataclasses.asdict(ROUNDS)})
    shared = ArrayRecord(shared_by(checkpoint.load_for_training(base)))
    content = RecordDict({"shared": shared, "task": task})
    asked = [Message(content, node, "train", group_id="1") for node in (1, 2)]
    replies = list(grid.send_and_receive(asked))
    assert [reply.has_error() for reply in replies] == [True, False]
    found = checkpoint.weights_sha256(tmp_path / "other")[:12]
    assert f"another base: the fleet's is {checkpoint.weights_sha256(base)[:12]}..., the robot's {found}" in str(
        replies[0].error.reason
    )


def test_the_server_app_is_what_simulate_runs(base: str, robots: list[list[str]], tmp_path: Path) -> None:
    simulate(base, robots, ROUNDS, tmp_path / "simulated")
    config = {"base": base, "out": str(tmp_path / "run"), "rounds": 4, "robots": 2, "reconstruction": 2, "steps": 2}
    grid = SimulatedGrid(base, robots, tmp_path / "run" / "robots")
    for told in grid.configs:
        del told["own"]  # Nothing is kept, so robots need no folder for it.
    server_app(grid, Context(1, 1, {}, RecordDict(), dict(config)))
    simulated, served = weights(tmp_path / "simulated"), weights(tmp_path / "run")
    assert all(torch.equal(value, served[name]) for name, value in simulated.items())
    for wrong, message in (({**config, "local": 3}, "unknown"), ({"base": base}, "lacks 'out'")):
        with pytest.raises(PolysomaError, match=message):
            server_app(grid, Context(1, 1, {}, RecordDict(), wrong))
    assert client_app is federation.client_app


@pytest.mark.parametrize(("lacking", "kept"), [("base", False), ("data", False), ("own", True)])
def test_what_a_robots_configuration_lacks_is_named(
    lacking: str, kept: bool, base: str, robots: list[list[str]], tmp_path: Path
) -> None:
    grid = SimulatedGrid(base, robots, tmp_path / "robots")
    for told in grid.configs:
        del told[lacking]
    with pytest.raises(PolysomaError, match=f"no robot gave an answer .the robot's configuration lacks '{lacking}'"):
        federation.federate(grid, base, dataclasses.replace(ROUNDS, kept=kept), tmp_path / "run")


def test_what_flower_submits_has_every_setting_of_the_rounds() -> None:
    """Flower refuses to change what is not there."""
    app = tomllib.loads((ROOT / "integrations" / "flower" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    settings = {name.replace("-", "_"): value for name, value in app["config"].items()}
    for name in ("base", "out", "resume"):
        del settings[name]
    assert settings == dataclasses.asdict(Rounds())


def test_a_robot_joins_by_fine_tuning_its_head(
    base: str, robots: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beginning_at, run = tmp_path / "begun", tmp_path / "run"
    beginning = ["fleet", "begin", "--words", "do one", "do two", "--width", "32", "--depth", "2", "--heads", "2"]
    main([*beginning, "--out", str(beginning_at)])
    few = ["--rounds", "2", "--robots-per-round", "2", "--steps", "2", "--reconstruction", "2", "--kept"]
    main(["fleet", "simulate", str(beginning_at), "--data", str(tmp_path / "robots" / "[01]"), *few, "--out", str(run)])
    shared, first = run / "checkpoint", run / "own" / "0"
    assert f"polysoma finetune {first} --data {robots[0][0]}" in capsys.readouterr().out
    # A robot that took part goes on from what it kept.
    (home,) = (path for path in (run / "robots").glob("*/*") if path.parent == home_of(robots[0], run / "robots"))
    kept = safetensors.torch.load_file(home / "000002.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in checkpoint.load_for_training(first).own().items())
    main(["finetune", str(first), "--data", *robots[0], "--steps", "2", "--out", str(tmp_path / "went-on")])
    main(["fleet", "join", str(shared), "--data", *robots[0], "--own", str(home.parent), "--out", str(run / "same")])
    assert (run / "same" / checkpoint.WEIGHTS).read_bytes() == (first / checkpoint.WEIGHTS).read_bytes()
    for where, message in ((shared, "holds nothing that was kept"), (beginning_at, "is not what a fleet came to")):
        with pytest.raises(PolysomaError, match=message):
            join(str(where), robots[2], run / "nowhere", tmp_path / "x")
    main(["finetune", str(shared), "--data", *robots[2], "--method", "head", "--steps", "4", "--out",
          str(tmp_path / "joined")])  # fmt: skip
    joined = checkpoint.load(tmp_path / "joined" / "checkpoint")
    windows = gather(Dataset(Path(robots[2][0])), np.arange(2), np.zeros(2, int), HORIZONS["arm"])
    assert joined.predict(windows).shape == (2, HORIZONS["arm"].chunk, 2)
    assert joined.own().keys() <= joined.names_of("body", "readout")
    assert "2 rounds of a fleet, 2 robots each" in lineage.tell(tmp_path / "joined" / "checkpoint")[1]
    with pytest.raises(SystemExit):
        main([*beginning, "--out", str(beginning_at)])
    assert "already holds a checkpoint" in capsys.readouterr().err


def test_one_model_for_all_shares_tokenizers_and_heads_too(base: str, robots: list[list[str]], tmp_path: Path) -> None:
    rounds = dataclasses.replace(ROUNDS, one_model=True)
    with pytest.raises(PolysomaError, match="does not know the bodies"):
        Robot(base, robots[0], one_model=True)
    checkpoint.save(make_policy({"arm": Source([Dataset(Path(robots[0][0]))], [1.0], 0.0)}, (ARM,)), tmp_path / "one")
    folder = simulate(str(tmp_path / "one"), robots, rounds, tmp_path / "run")
    assert checkpoint.load(folder).embodiment("arm") == ARM
    assert not (tmp_path / "run" / "robots").exists()


def test_settings_and_folders_are_checked(base: str, robots: list[list[str]], tmp_path: Path) -> None:
    for wrong in ({"rounds": 0}, {"steps": 0}, {"rate": 0.0}, {"momentum": 1.0}):
        with pytest.raises(PolysomaError, match=f"{next(iter(wrong))}: expected a number"):
            Rounds(**wrong)  # type: ignore[arg-type]
    with pytest.raises(PolysomaError, match="at least 4 robots"):
        simulate(base, robots, dataclasses.replace(ROUNDS, robots=4), tmp_path / "run")
    with pytest.raises(PolysomaError, match="is a data set or holds one"):
        robots_in([str(tmp_path / "nothing" / "*")])


def test_recordings_below_the_run_folder_are_never_deleted(base: str, robots: list[list[str]], tmp_path: Path) -> None:
    """The robots' data lie where a fleet keeps what its robots keep."""
    before = {path: path.read_bytes() for path in (tmp_path / "robots").rglob("*.parquet")}
    left = tmp_path / "robots" / "0123456789ab" / "9876543210ab"
    left.mkdir(parents=True)
    (left / "000001.safetensors").write_bytes(b"of a run that was killed in its first round")
    (left / "own.safetensors").write_bytes(b"of somebody else")
    simulate(base, robots, dataclasses.replace(ROUNDS, rounds=1), tmp_path)
    assert before and {path: path.read_bytes() for path in before} == before
    assert [path.name for path in left.iterdir()] == ["own.safetensors"]


def test_a_fleet_is_saved_twice_held_alone_and_leaves_when_it_is_told(
    base: str, robots: list[list[str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"

    def leave(done: int, total: int, remark: str) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with states.alone(out), pytest.raises(PolysomaError, match="another process is writing this run"):
        simulate(base, robots, ROUNDS, out)
    with pytest.raises(SystemExit) as info:
        simulate(base, robots, ROUNDS, out, progress=leave)
    assert info.value.code == 143 and "told to leave, saved at round 2" in caplog.text
    # The newest state is damaged, so its round is done again.
    file = out / "training" / federation.STATE_FILE
    file.write_bytes(file.read_bytes()[:-1])
    seen: list[int] = []
    simulate(base, robots, ROUNDS, out, resume=True, progress=lambda done, total, remark: seen.append(done))
    simulate(base, robots, ROUNDS, tmp_path / "whole")
    assert seen == [2, 3, 4] and "is damaged: its SHA-256" in caplog.text
    whole = weights(tmp_path / "whole")
    assert all(torch.equal(value, whole[name]) for name, value in weights(out).items())

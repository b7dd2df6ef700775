"""What keeps runs from being lost: two states with checksums, a lock, kills at any moment, SIGTERM, full disks."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import make_lerobot
from make_runs import rows, state, tiny
from polysoma.data.dataset import Dataset
from polysoma.data.description import write_schema
from polysoma.data.formats import open_reader
from polysoma.data.schema import schema_of, schema_path
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.learning import states
from polysoma.learning.metrics import Metrics
from polysoma.learning.recipe import Recipe
from polysoma.learning.training import recipe_of_run, rehearse, train
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig

FILE = "state.json"


def content(number: int) -> dict[str, bytes]:
    return {FILE: json.dumps({"number": number}).encode() * 50, "more.safetensors": bytes([number]) * 5000}


def number_in(out: Path) -> int:
    folder, _ = states.find(out, FILE)
    held = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != states.SUMS}
    (number,) = (number for number in range(9) if content(number) == held)
    return number


def names(out: Path) -> set[str]:
    return {path.name for path in out.iterdir()}


def test_the_last_two_states_are_kept_and_checked(tmp_path: Path) -> None:
    for number in range(3):
        states.write(tmp_path, content(number))
    assert names(tmp_path) == {"training", ".training.old"} and number_in(tmp_path) == 2
    assert states.find(tmp_path, FILE) == (tmp_path / "training", "")
    file = tmp_path / "training" / "more.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    folder, remark = states.find(tmp_path, FILE)
    assert folder == tmp_path / ".training.old" and number_in(tmp_path) == 1
    assert "more.safetensors is damaged: its SHA-256" in remark and remark.endswith(
        f"going on from the state in {folder}"
    )
    # The whole one survives although it is the older of the two, at any moment.
    states.settle(tmp_path, folder)
    assert names(tmp_path) == {"training", ".training.damaged"} and number_in(tmp_path) == 1
    states.write(tmp_path, content(4))
    (tmp_path / "training" / FILE).unlink()
    assert number_in(tmp_path) == 1
    (tmp_path / ".training.old" / states.SUMS).write_text("no sums")
    with pytest.raises(PolysomaError, match=f"nothing to resume in .*{FILE} is missing"):
        states.find(tmp_path, FILE)


def test_a_changed_byte_of_any_file_is_noticed(tmp_path: Path) -> None:
    states.write(tmp_path, content(1))
    states.write(tmp_path, content(2))
    for file in sorted((tmp_path / "training").iterdir()):
        whole = file.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 60)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert number_in(tmp_path) == 1, (file.name, place)
        for length in (0, 1, len(whole) - 1):
            file.write_bytes(whole[:length])
            assert number_in(tmp_path) == 1, (file.name, length)
        file.write_bytes(whole)
    assert number_in(tmp_path) == 2


def test_states_of_versions_before_have_no_sums(tmp_path: Path) -> None:
    states.write(tmp_path, content(1))
    (tmp_path / "training" / states.SUMS).unlink()
    assert number_in(tmp_path) == 1
    # They were killed between their two renames at times, and left folders with the number of a process.
    os.rename(tmp_path / "training", tmp_path / ".training.old")
    (tmp_path / ".training.123").mkdir()
    (tmp_path / ".training.123" / "training.safetensors.123.tmp").write_bytes(b"half")
    (tmp_path / "metrics.jsonl.123.tmp").write_bytes(b"half")
    (tmp_path / "thesis.tmp").write_bytes(b"not ours")
    folder, _ = states.find(tmp_path, FILE)
    states.settle(tmp_path, folder)
    assert number_in(tmp_path) == 1 and names(tmp_path) == {"training", "thesis.tmp"}


def killed_at(moment: int, work: Callable[[], None]) -> bool:
    """Does some work in a process of its own that dies at its ``moment``-th change of the disk. Whether it did."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    left = itertools.count(moment, -1)
    for name in ("replace", "unlink", "rmdir", "fsync", "mkdir"):
        before = getattr(os, name)

        def counted(*args: object, before: Callable[..., None] = before, **options: object) -> None:
            if next(left) == 0:
                os._exit(9)
            before(*args, **options)

        setattr(os, name, counted)
    with contextlib.suppress(BaseException):
        work()
        os._exit(0)
    os._exit(1)


def test_a_kill_at_any_moment_leaves_a_whole_state_and_no_junk(tmp_path: Path) -> None:
    states.write(tmp_path, content(0))
    states.write(tmp_path, content(1))
    for moment in range(100):
        out = tmp_path / "copies" / str(moment)
        shutil.copytree(tmp_path, out, ignore=shutil.ignore_patterns("copies"))
        died = killed_at(moment, lambda out=out: states.write(out, content(2)))
        assert number_in(out) in (1, 2)
        folder, _ = states.find(out, FILE)
        states.settle(out, folder)
        assert names(out) <= {"training", ".training.old"} and number_in(out) in (1, 2)
        if not died:
            break
    assert not died and moment > 15


def test_a_folder_is_written_by_one_run_alone(datasets: dict[str, Path], tmp_path: Path) -> None:
    recipe = tiny(datasets)
    with states.alone(tmp_path / "run"), pytest.raises(PolysomaError, match="run: another process is writing this run"):
        train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", until=2)
    with states.alone(tmp_path / "run"), pytest.raises(PolysomaError, match="another process is writing"):
        train(recipe, tmp_path / "run", resume=True)
    train(recipe, tmp_path / "run", resume=True)


def test_a_file_system_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", flock)
    with states.alone(tmp_path / "run"):
        pass
    assert "run: no lock (No locks available): let no other process write there" in caplog.text


def leaving_at(step: int) -> Callable[[int, dict[str, float]], None]:
    def progress(done: int, losses: dict[str, float]) -> None:
        # What is told of a step comes after the question of whether to leave.
        if done == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


@pytest.mark.parametrize("changes", [{}, {"held_out": 0.25, "patience": 9}, {"optimizer": {"kind": "schedule-free"}}])
def test_sigterm_saves_and_leaves_and_the_rest_is_bit_identical(
    changes: dict[str, object], datasets: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny(datasets, checkpoint_every=3, **changes)
    handler = signal.getsignal(signal.SIGTERM)
    train(recipe, tmp_path / "whole")
    for step in (2, 5):
        with pytest.raises(SystemExit) as info:
            train(recipe, tmp_path / "parts", resume=step > 2, progress=leaving_at(step))
        assert info.value.code == 143 and f"told to leave, saved at step {step}" in caplog.text
        assert "--resume" not in caplog.text, "who calls this may not have it"
    assert signal.getsignal(signal.SIGTERM) is handler
    train(recipe, tmp_path / "parts", resume=True)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert whole.keys() == parts.keys() and all(whole[name].equal(parts[name]) for name in whole)
    files = [(tmp_path / run / "checkpoint" / "model.safetensors").read_bytes() for run in ("whole", "parts")]
    assert files[0] == files[1]
    assert [row["step"] for row in rows(tmp_path / "parts")] == [row["step"] for row in rows(tmp_path / "whole")]


def test_a_damaged_state_falls_back_to_the_one_before(
    datasets: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny(datasets, checkpoint_every=2)
    train(recipe, tmp_path / "run", until=4)
    expected = train(recipe, tmp_path / "whole")
    file = tmp_path / "run" / "training" / "training.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-100] ^= 1
    file.write_bytes(damaged)
    assert recipe_of_run(tmp_path / "run") == recipe
    seen: list[int] = []
    found = train(recipe, tmp_path / "run", resume=True, progress=lambda step, losses: seen.append(step))
    assert "training.safetensors is damaged: its SHA-256 is not that in" in caplog.text and seen == [3, 4, 5, 6]
    assert (found / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()


def test_a_full_disk_while_a_state_is_saved_loses_nothing(datasets: dict[str, Path], tmp_path: Path) -> None:
    recipe = tiny(datasets, tracker="none")
    train(recipe, tmp_path / "whole")
    train(recipe, tmp_path / "run", until=2)
    with (
        files_up_to(5000),
        pytest.raises(PolysomaError, match=r"cannot write .*: it continues"),
    ):
        train(recipe, tmp_path / "run", resume=True)
    train(recipe, tmp_path / "run", resume=True)
    whole, parts = state(tmp_path / "whole"), state(tmp_path / "run")
    assert all(whole[name].equal(parts[name]) for name in whole)
    files = {path.name for path in (tmp_path / "run").rglob("*")}
    assert not any(name.endswith((".tmp", ".new")) for name in files)


def policy_is_missing(run: Path) -> None:
    shutil.rmtree(run / ".training.old")
    (run / "training" / "policy.json").unlink()


def policy_of_a_run_before_is_missing(run: Path) -> None:
    policy_is_missing(run)
    (run / "training" / states.SUMS).unlink()


def recipe_is_cut(run: Path) -> None:
    (run / "training" / states.SUMS).unlink()
    path = run / "training" / "recipe.json"
    path.write_text(path.read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (policy_is_missing, "nothing to resume in .*policy.json is missing"),
        (policy_of_a_run_before_is_missing, r"cannot read .*policy.json \(No such file"),
        (recipe_is_cut, "cannot read .*recipe.json .*: it is missing or damaged"),
    ],
)
def test_what_is_missing_is_named_in_one_line(
    damage: Callable[[Path], None], message: str, datasets: dict[str, Path], tmp_path: Path
) -> None:
    recipe = tiny(datasets)
    train(recipe, tmp_path / "run", until=4)
    damage(tmp_path / "run")
    with pytest.raises(PolysomaError, match=message) as info:
        train(recipe, tmp_path / "run", resume=True)
    assert "\n" not in str(info.value)


def test_another_optimizer_does_not_resume(datasets: dict[str, Path], tmp_path: Path) -> None:
    train(tiny(datasets), tmp_path / "run", until=2)
    other = tiny(datasets, optimizer={"kind": "schedule-free"})
    with pytest.raises(PolysomaError, match=r"optimizer\.kind was adamw so far; .* with schedule-free"):
        train(other, tmp_path / "run", resume=True)


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes: as a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_metrics_on_a_full_disk_end_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics(tmp_path, 0, "none")
    metrics.write(1, {"loss": 1.0})
    with files_up_to((tmp_path / "metrics.jsonl").stat().st_size + 10):
        metrics.write(2, {"loss": 2.0})
        metrics.write(3, {"loss": 3.0})
    metrics.write(4, {"loss": 4.0})
    assert [row["step"] for row in rows(tmp_path)] == [1, 4]
    assert caplog.text.count("metrics.jsonl: ") == 1 and "the run goes on without" in caplog.text


@pytest.mark.parametrize("half", ['{"step": 3, "sec', "[1]", "{}", '{"step": "x", "seconds": 1}', "\ufffd", "null"])
def test_a_line_that_was_not_finished_blocks_nothing(half: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "seconds": 5.0}\n{"step": 2, "seconds": 9.0}\n' + half)
    metrics = Metrics(tmp_path, 1, "none")
    metrics.write(2, {"loss": 1.0})
    assert [row["step"] for row in rows(tmp_path)] == [1, 2] and rows(tmp_path)[-1]["seconds"] >= 5


def test_what_tensorboard_cannot_write_is_one_line(
    datasets: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("in the way")
    with pytest.raises(PolysomaError, match=r"tracker: tensorboard cannot write below .*tracker=none"):
        train(tiny(datasets), tmp_path / "run")
    metrics = Metrics(tmp_path / "other", 0)
    with files_up_to(10):
        for step in range(1, 400):
            metrics.write(step, {"loss": 1.0})
        metrics.close()
    assert caplog.text.count("cannot write tensorboard") == 1 and "Traceback" not in capfd.readouterr().err


def test_without_a_tracker_its_package_is_not_needed(
    datasets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert sum(rehearse(tiny(datasets), 1).learning.values()) > 0
    train(tiny(datasets, tracker="none"), tmp_path / "run")
    with pytest.raises(PolysomaError, match="tracker: tensorboard is not installed"):
        train(tiny(datasets), tmp_path / "other")


def test_a_resumed_run_keeps_its_inferred_limits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_lerobot.write_v2(tmp_path / "data" / "arm", kind="image")
    recipe = tiny({"arm": data}, bodies={"test-arm": {"batch": 4}})
    folder = train(recipe, tmp_path / "run", until=3)
    (before,) = read_policy(folder).embodiments
    shutil.rmtree(data)
    monkeypatch.setattr(make_lerobot, "LENGTHS", (*make_lerobot.LENGTHS, 12))
    make_lerobot.write_v2(data, kind="image")
    assert before.differences(Dataset(data).embodiment), "more data moved the limits"
    train(recipe, tmp_path / "run", resume=True)
    (after,) = read_policy(folder).embodiments
    assert after == before and "test-arm keeps its limits; those inferred from more data differ" in caplog.text
    # What is fine-tuned with more data keeps those of its base.
    tuned = train(dataclasses.replace(recipe, init=str(folder), steps=1), tmp_path / "tuned")
    assert read_policy(tuned).embodiments == (before,)
    # A description says what limits are, and so it is not passed over.
    write_schema(schema_of(open_reader(data)), schema_path(data))
    with pytest.raises(PolysomaError, match="is not the one of this data: actions: "):
        train(dataclasses.replace(recipe, init=str(folder)), tmp_path / "described")


def read_policy(folder: Path) -> PolicyConfig:
    return PolicyConfig.from_json(checkpoint.read_config(folder))


def test_a_resumed_run_keeps_its_horizons(datasets: dict[str, Path], tmp_path: Path) -> None:
    """Runs of before may hold some that neither their recipe nor today's defaults say."""

    def recipe(**looks: int) -> Recipe:
        return tiny({"arm": datasets["grid"]}, bodies={"grid": {"batch": 4, **looks}})

    train(recipe(chunk=3, history=2), tmp_path / "run", until=2)
    with pytest.raises(PolysomaError, match=r"bodies\.grid: the run has .*chunk=3.*: a resumed run keeps its own"):
        train(recipe(chunk=4), tmp_path / "run", resume=True)
    folder = train(recipe(), tmp_path / "run", resume=True)
    assert read_policy(folder).horizons["grid"] == Horizon(history=2, chunk=3)

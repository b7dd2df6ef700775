"""Data sets of other libraries, from a folder to a trained policy: description, reading, conversion, a page."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import ROOT
from make_lerobot import LENGTHS, NAMES, TASKS, changed, numbers, pictures, write_v2, write_v3
from polysoma.cli import main
from polysoma.data.cache import caches
from polysoma.data.convert import convert
from polysoma.data.dataset import Dataset
from polysoma.data.description import read_schema, write_schema
from polysoma.data.formats import open_reader
from polysoma.data.images import resized
from polysoma.data.schema import infer, schema_of, schema_path
from polysoma.data.view import view
from polysoma.embodiment import ContinuousActions, DiscreteActions, Modality
from polysoma.errors import PolysomaError
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.policy import checkpoint
from polysoma.progress import listening

REAL = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_body_is_inferred_from_names_and_numbers(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    schema = schema_of(open_reader(root))
    body = schema.embodiment
    assert (body.name, body.rate_hz) == ("test-arm", 10.0)
    assert {stream.name: stream.modality for stream in body.arrays} == {
        "state": Modality.STATE, "front": Modality.IMAGE
    }  # fmt: skip
    assert [(c.name, c.unit) for c in body.stream("state").channels] == list(
        zip(NAMES, ("rad", "rad", "1"), strict=True)
    )
    assert isinstance(body.actions, ContinuousActions)
    values = np.concatenate([numbers(seed, length)["action"] for seed, length in enumerate(LENGTHS)])
    # Room on either side of what was recorded.
    assert (body.actions.low < values.min(0)).all() and (body.actions.high > values.max(0)).all()
    assert (body.actions.high - body.actions.low < 1.2 * (values.max(0) - values.min(0))).all()


def test_degrees_arms_and_sizes(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    path = root / "meta/info.json"
    described = json.loads(path.read_text())
    names = ["left_waist", "right_waist", "right_gripper"]
    for key in ("action", "observation.state"):
        described["features"][key]["names"] = names
    path.write_text(json.dumps(described))
    for data in (root / "data").rglob("*.parquet"):
        held = pq.read_table(data)
        far = np.stack(held["action"].to_pylist()).astype(np.float32) * 100
        column = pa.FixedSizeListArray.from_arrays(pa.array(far.ravel()), 3)
        pq.write_table(held.set_column(held.schema.get_field_index("action"), "action", column), data)
    body = infer(open_reader(root)).embodiment
    assert isinstance(body.actions, ContinuousActions)
    assert [(c.unit, c.group) for c in body.actions.channels] == [
        ("deg", "left_arm"), ("deg", "right_arm"), ("1", "right_arm")
    ]  # fmt: skip


def test_a_description_survives_its_file_and_is_read_when_edited(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    reader = open_reader(root)
    schema = infer(reader)
    write_schema(schema, schema_path(root))
    assert read_schema(schema_path(root)) == schema == schema_of(reader)
    text = schema_path(root).read_text()
    schema_path(root).write_text(text.replace('name = "test-arm"', 'name = "mine"').replace("[32, 32]", "[16, 24]"))
    body = schema_of(reader).embodiment
    assert body.name == "mine" and body.stream("front").shape == (16, 24, 3)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate_hz = 10.0", 'rate_hz = "ten"', "rate_hz: expected a number, got 'ten'"),
        ("rate_hz = 10.0", "rate_hz = 10.0\nchunks = 4", "unknown key chunks; did you mean chunk"),
        ('column = "observation.state"', 'column = "observation.stat"', "state: there is no column 'observation.stat'"),
        ('column = "observation.state"', 'column = "observation.images.front"', "expected 3 numbers a frame"),
        ("size = [32, 32]", "size = [0, 32]", r"size must be \[height, width\]"),
        ("[actions]", "[actionz]", "unknown key actionz"),
        ("name = ", "name ", "not valid TOML"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    reader = open_reader(root)
    write_schema(infer(reader), schema_path(root))
    path = schema_path(root)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(PolysomaError, match=message):
        schema_of(reader)


def test_foreign_data_are_read_like_our_own_and_left_alone(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    before = files_of(root)
    calls: list[tuple[str, int, int]] = []
    with listening(lambda *told: calls.append(told)):
        dataset = Dataset(root)
    assert calls == [(f"unpacking {root}", done, 23) for done in (7, 11, 23)]
    assert len(dataset) == 23 and dataset.instructions == TASKS
    assert dataset.tasks == [f"test-arm/{text}" for text in TASKS] and dataset.episode_task.tolist() == [0, 1, 0]
    for number, (start, length) in enumerate(zip(dataset.episode_start, dataset.episode_length, strict=True)):
        rows = slice(start, start + length)
        np.testing.assert_array_equal(dataset.actions[rows], numbers(number, length)["action"])
        np.testing.assert_array_equal(dataset.observations["state"][rows], numbers(number, length)["observation.state"])
        off = np.abs(dataset.observations["front"][rows].astype(int) - pictures(number, length)).mean()
        assert off < 8
    assert dataset.executed is dataset.actions and isinstance(dataset.observations["front"], np.memmap)
    # From the cache now.
    with listening(lambda *told: calls.append(told)):
        again = Dataset(root)
    assert len(calls) == 3 and np.array_equal(again.actions, dataset.actions)
    assert files_of(root) == before


def test_the_cache_follows_the_source(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    first = Dataset(root).actions[0].copy()
    path = root / "data/chunk-000/episode_000000.parquet"
    held = pq.read_table(path)
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(21, np.float32)), 3)
    pq.write_table(held.set_column(held.schema.get_field_index("action"), "action", column), path)
    assert first.any() and not Dataset(root).actions[0].any()
    write_schema(infer(open_reader(root)), schema_path(root))
    schema_path(root).write_text(schema_path(root).read_text().replace("[32, 32]", "[8, 8]"))
    assert Dataset(root).observations["front"].shape == (23, 8, 8, 3)


def test_many_pictures_are_unpacked_by_several_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Dataset(write_v3(tmp_path / "set"))
    monkeypatch.setattr("polysoma.data.foreign._WORTH_THREADS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    calls: list[tuple[str, int, int]] = []
    # A copy, because not even x264 on one thread writes the same file every time.
    with listening(lambda *told: calls.append(told)):
        together = Dataset(shutil.copytree(tmp_path / "set", tmp_path / "same"))
    assert calls[-1][1:] == (23, 23) and len(calls) == 3
    np.testing.assert_array_equal(alone.observations["front"], together.observations["front"])
    np.testing.assert_array_equal(alone.actions, together.actions)


def test_a_script_without_a_main_guard_opens_films(tmp_path: Path) -> None:
    root, script = write_v3(tmp_path / "set"), tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from polysoma.data import foreign\n"
        "from polysoma.data.dataset import Dataset\n"
        "foreign._WORTH_THREADS, foreign.os.cpu_count = 1, lambda: 2\n"
        f"print(len(Dataset(Path({str(root)!r}))))\n"
    )
    # It would wait for ever for processes that run it again.
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.stdout == "23\n", done.stderr


def test_an_error_in_another_thread_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_v3(tmp_path / "set")
    (root / "videos/observation.images.front/chunk-000/file-001.mp4").write_bytes(b"no film")
    monkeypatch.setattr("polysoma.data.foreign._WORTH_THREADS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    with pytest.raises(PolysomaError, match=r"cannot read .*file-001.mp4"):
        Dataset(root)
    assert caches() == []


def test_caches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (write_v3(tmp_path / f"set-{number}") for number in range(3))
    Dataset(first)
    (one,) = caches()
    monkeypatch.setenv("POLYSOMA_CACHE_GB", str(2.5 * one.bytes / 1e9))
    Dataset(second)
    os.utime(one.folder, (1, 1))
    Dataset(first)  # Used again, so it is the younger one now.
    (two,) = [cache for cache in caches() if cache.folder != one.folder]
    os.utime(two.folder, (2, 2))
    Dataset(third)
    assert len(caches()) == 2 and one.folder.exists() and not two.folder.exists()
    monkeypatch.setenv("POLYSOMA_CACHE_GB", "0.00001")
    monkeypatch.setenv("POLYSOMA_CACHE", "raw")
    with pytest.raises(PolysomaError, match=r"a cache of .* GB is needed, and 1e-05 GB are allowed"):
        Dataset(second)
    monkeypatch.setenv("POLYSOMA_CACHE_GB", "much")
    with pytest.raises(PolysomaError, match="expected a number of gigabytes, got 'much'"):
        Dataset(second)


def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    path = root / "data/chunk-000/episode_000001.parquet"
    held = pq.read_table(path)
    rows = numbers(1, 4)["action"]
    rows[2, 1] = np.nan
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3)
    pq.write_table(held.set_column(held.schema.get_field_index("action"), "action", column), path)
    with pytest.raises(PolysomaError, match=r"set, episode 1: action is nan at frame 2, channel 1; .*doctor"):
        Dataset(root)
    with pytest.raises(PolysomaError, match="episode 1"):
        convert(root, tmp_path / "whole")
    done = convert(root, tmp_path / "part", skip=True)
    assert done.written == 2 and len(done.skipped) == 1 and "episode 1" in done.skipped[0]
    assert len(Dataset(tmp_path / "part")) == LENGTHS[0] + LENGTHS[2]


def test_conversion_continues_where_it_stopped(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    before = files_of(root)

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        convert(root, tmp_path / "out", progress=kill)
    done = convert(root, tmp_path / "out")
    assert (done.written, done.there) == (1, 2)
    ours, theirs = Dataset(tmp_path / "out"), Dataset(root)
    assert ours.embodiment == theirs.embodiment and ours.tasks == theirs.tasks
    np.testing.assert_array_equal(ours.actions, theirs.actions)
    np.testing.assert_array_equal(ours.observations["front"], theirs.observations["front"])
    assert files_of(root) == before
    with pytest.raises(PolysomaError, match="recorded by polysoma"):
        convert(tmp_path / "out", tmp_path / "again")
    assert schema_of(open_reader(tmp_path / "out")).embodiment == theirs.embodiment
    with pytest.raises(PolysomaError, match="must not lie in one another"):
        convert(root, root / "inside")


def test_a_policy_trains_on_foreign_and_own_data_together(tmp_path: Path) -> None:
    foreign = write_v3(tmp_path / "set")
    convert(foreign, tmp_path / "own")
    table = {
        "data": [str(foreign), str(tmp_path / "own")],
        "bodies": {"test-arm": {"batch": 4, "colour": 0.1}},
        "policy": {"width": 32, "depth": 1, "heads": 2},
        "steps": 2,
        "warmup": 1,
    }
    policy = checkpoint.load(train(recipe_from_table(table, "test"), tmp_path / "run"))
    agent = policy.agent("test-arm", TASKS[0])
    action = agent.act({"state": np.zeros(3, np.float32), "front": np.zeros((32, 32, 3), np.uint8)})
    assert action.shape == (3,) and np.isfinite(action).all()


def test_two_data_sets_that_differ_name_both(tmp_path: Path) -> None:
    for number, size in enumerate((32, 16)):
        root = write_v3(tmp_path / f"set-{number}")
        write_schema(infer(open_reader(root)), schema_path(root))
        schema_path(root).write_text(schema_path(root).read_text().replace("[32, 32]", f"[{size}, {size}]"))
    table = {"data": [str(tmp_path / "set-*")], "bodies": {"test-arm": {}}, "steps": 1}
    with pytest.raises(
        PolysomaError, match=r"set-1.*differs from that of .*set-0: .*\(16, 16, 3\), not .*\(32, 32, 3\)"
    ):
        train(recipe_from_table(table, "test"), tmp_path / "run")


def test_choices_become_discrete_actions(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    path = root / "meta/info.json"
    described = json.loads(path.read_text())
    described["features"]["action"] = {"dtype": "int64", "shape": [1], "names": None}
    path.write_text(json.dumps(described))
    for episode, length in enumerate(LENGTHS):
        data = root / f"data/chunk-000/episode_{episode:06d}.parquet"
        held = pq.read_table(data)
        column = pa.array(np.arange(length) % 3)
        pq.write_table(held.set_column(held.schema.get_field_index("action"), "action", column), data)
    dataset = Dataset(root)
    assert dataset.embodiment.actions == DiscreteActions(("action_0", "action_1", "action_2"))
    assert dataset.actions[:7].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_pictures_shrink_by_averaging() -> None:
    stripes = np.zeros((1, 8, 8, 3), np.uint8)
    stripes[:, :, ::2] = 200
    small = resized(stripes, (4, 4, 3))
    assert small.shape == (1, 4, 4, 3) and np.abs(small.astype(int) - 100).max() < 30
    assert resized(stripes, (8, 8, 3)) is stripes


def test_a_page_shows_pictures_numbers_and_what_is_missing(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set")
    (root / "videos/observation.images.front/chunk-000/file-001.mp4").unlink()
    view(root, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("<h2>") == 3 and page.count("<video") == 2 and page.count("<svg") == 9
    assert "file-001.mp4 is missing" in page and "elbow.pos" in page and TASKS[1] in page
    with pytest.raises(PolysomaError, match="no episode 7"):
        view(root, tmp_path / "page.html", [7])


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = 0
        try:
            main(list(arguments))
        except SystemExit as done:
            code = int(done.code or 0)
        return code, *capsys.readouterr()

    root = write_v3(tmp_path / "set")
    code, told, _ = run("data", "info", str(root))
    assert code == 0 and "3 episodes, 23 frames" in told and "test-arm" in told
    assert run("data", "schema", str(root))[0] == 0 and schema_path(root).exists()
    code, _, wrong = run("data", "schema", str(root))
    assert code == 1 and "--force" in wrong
    assert "3 episodes written" in run("data", "convert", str(root), str(tmp_path / "out"))[1]
    assert run("data", "view", str(root), "--out", str(tmp_path / "v.html"), "--episodes", "1")[0] == 0
    assert run("doctor", str(tmp_path / "out"))[0] == 0
    changed(root, total_frames=1)
    code, told, _ = run("doctor", str(root), "--json")
    assert code == 1 and json.loads(told)["problems"][0]["severity"] == "error"
    assert "of 100 GB" in run("data", "cache", "--clear")[1]
    code, told, _ = run("data")
    assert code == 0 and "data convert" in told
    code, _, wrong = run("data", "infos")
    assert code == 2 and "no command 'data infos'" in wrong


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real recordings in shared/data beside the repository")
def test_real_recordings_are_read_checked_converted_and_trained_on(tmp_path: Path) -> None:
    so101, bridge = REAL / "so101_real", REAL / "bridge_rlds"
    assert set(open_reader(so101).missing()) == {"observation.images.front", "observation.images.top"}
    arm, widow = Dataset(so101), Dataset(bridge)
    assert len(arm) == 1492 and {c.unit for c in arm.embodiment.stream("state").channels} == {"deg", "1"}
    assert len(widow.episode_length) == 25 and {s.name for s in widow.embodiment.arrays} >= {"state", "image_0"}
    assert convert(bridge, tmp_path / "bridge").written == 25
    table = {
        "data": [str(so101), str(tmp_path / "bridge")],
        "bodies": {body.name: {"batch": 4} for body in (arm.embodiment, widow.embodiment)},
        "policy": {"width": 32, "depth": 1, "heads": 2},
        "steps": 3,
        "warmup": 1,
    }
    policy = checkpoint.load(train(recipe_from_table(table, "test"), tmp_path / "run"))
    assert len(policy.config.embodiments) == 2

"""Edits and differences of data sets: what is written is what was asked for, and nothing else changes."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import ARM, GRID, SEEN_ARM, make_episode
from make_arrays import write_robomimic, write_zarr
from make_lerobot import LENGTHS, TASKS, changed, drop_columns, numbers, write_v2, write_v3
from polysoma.cli import main
from polysoma.data import layout, storage
from polysoma.data.dataset import Dataset
from polysoma.data.diff import diff
from polysoma.data.doctor import examine
from polysoma.data.edit import Crop, Edit, edit
from polysoma.data.episode import Episode
from polysoma.data.formats import open_reader
from polysoma.data.numbering import UNNUMBERED, listed
from polysoma.data.to_minari import to_minari
from polysoma.data.view import view
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError

COUNT = 10


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def recorded(root: Path, body: Embodiment = SEEN_ARM, count: int = COUNT, first: int = 0) -> Path:
    """Episodes of two tasks, in several files, with a failure of the expert."""
    with DatasetWriter(root, body) as writer:
        for number in range(first, first + count):
            task = f"{body.name}/{'even' if number % 2 == 0 else 'odd'}"
            writer.add(make_episode(body, 4 + number, number, task, f"do {'even' if number % 2 == 0 else 'odd'}"))
            if number % 4 == 3:
                writer.flush()
        writer.add_failure(f"{body.name}/even", 99)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def same(one: Episode, other: Episode, instruction: str | None = None) -> None:
    """Whether two episodes are equal, but for the words."""
    assert (one.task, one.seed, one.success) == (other.task, other.seed, other.success)
    assert one.instruction == (other.instruction if instruction is None else instruction)
    assert (one.terminated, one.truncated) == (other.terminated, other.truncated)
    for name in ("actions", "executed", "rewards"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.final is not None and other.final is not None
    for mine, theirs in ((one.observations, other.observations), (one.final, other.final)):
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])


def test_actions_are_taken_from_later_frames(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set", ARM)
    done = edit(root, tmp_path / "new", Edit(shift_actions=2))
    assert done.changes == ["the action of each frame is that of 2 frames later"]
    old, new = Dataset(root), Dataset(tmp_path / "new")
    for number in range(COUNT):
        before, after = old.episode(number), new.episode(number)
        assert len(after) == len(before) - 2 and after.final is not None and after.rewards is not None
        np.testing.assert_array_equal(after.actions, before.actions[2:])
        np.testing.assert_array_equal(after.executed, before.executed[2:])
        np.testing.assert_array_equal(after.observations["state"], before.observations["state"][:-2])
        np.testing.assert_array_equal(after.final["state"], before.observations["state"][-2])
        assert before.rewards is not None
        # Success is earned by the last frame: what is left out of the end still counts.
        np.testing.assert_array_equal(after.rewards[:-1], before.rewards[:-3])
        assert after.rewards[-1] == before.rewards[-3:].sum() != 0
    with pytest.raises(PolysomaError, match="an episode has 4 frames"):
        edit(root, tmp_path / "none", Edit(shift_actions=4))


@pytest.mark.parametrize("body", [ARM, GRID, SEEN_ARM], ids=lambda body: body.name)
def test_episodes_that_are_kept_are_as_they_were(body: Embodiment, tmp_path: Path) -> None:
    root = recorded(tmp_path / "set", body)
    before = contents(root)
    done = edit(root, tmp_path / "new", Edit(delete=frozenset({0, 7, 8})))
    assert contents(root) == before
    assert done.written == {tmp_path / "new": (7, sum(4 + n for n in (1, 2, 3, 4, 5, 6, 9)))}
    assert "3 of 10 episodes are left out: 0, 7 to 8" in done.changes
    old, new = Dataset(root), Dataset(tmp_path / "new")
    assert new.embodiment == body and new.failures == old.failures == {f"{body.name}/even": [99]}
    for place, number in enumerate((1, 2, 3, 4, 5, 6, 9)):
        same(new.episode(place), old.episode(number))
    stats = json.loads((tmp_path / "new" / layout.STATS).read_text())
    actions = np.asarray(new.actions, np.float64).reshape(len(new), -1)
    np.testing.assert_allclose(np.ravel(stats["action"]["mean"]), actions.mean(0), rtol=1e-6)
    np.testing.assert_allclose(np.ravel(stats["action"]["max"]), actions.max(0))
    assert stats["action"]["count"] == [len(new)]
    # Both say the same: keep and delete are two sides of one thing.
    edit(root, tmp_path / "kept", Edit(keep=frozenset({1, 2, 3, 4, 5, 6, 9})))
    assert diff(tmp_path / "new", tmp_path / "kept").lines == ()


def test_damaged_files_of_deleted_episodes_do_not_matter(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set", ARM)
    file = root / "data/chunk-000/file-001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(PolysomaError, match=r"file-001.parquet \(episodes 4 to 7\)"):
        edit(root, tmp_path / "new", Edit(delete=frozenset({0})))
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))
    edit(root, tmp_path / "new", Edit(delete=frozenset({4, 5, 6, 7})))
    assert Dataset(tmp_path / "new").episode_seed.tolist() == [0, 1, 2, 3, 8, 9]


def lerobot_with_gaps(root: Path) -> Path:
    """Of episodes 0, 1 and 2, the second one was taken out, files and all; the last one is the first one once more."""
    write_v2(root, kind="image")
    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[2] |= {"episode_index": 12, "length": LENGTHS[0]}
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (rows[0], rows[2])))
    first, second, third = sorted((root / "data").rglob("*.parquet"))
    held = pq.read_table(first)
    place = held.schema.get_field_index("episode_index")
    held = held.set_column(place, "episode_index", pa.array([12] * len(held)))
    pq.write_table(held, third.with_name("episode_000012.parquet"))
    for path in (second, third):
        path.unlink()
    changed(root, total_episodes=2, total_frames=2 * LENGTHS[0])
    return root


def recorded_with_gaps(root: Path) -> Path:
    """A recording of ours, of whose episodes somebody took one out and left the others their numbers."""
    one = make_episode(ARM, 7, 0)
    with DatasetWriter(root, ARM) as writer:
        writer.add(one, dataclasses.replace(one, seed=1))
    for path in (root / "meta/episodes").rglob("*.parquet"):
        held = pq.read_table(path)
        pq.write_table(held.set_column(0, "episode_index", pa.array([0, 12])), path)
    for path in (root / "data").rglob("*.parquet"):
        held = pq.read_table(path)
        numbers = pa.array([12 * n for n in held["episode_index"].to_pylist()])
        pq.write_table(held.set_column(held.schema.get_field_index("episode_index"), "episode_index", numbers), path)
    about = storage.read_json(root / layout.POLYSOMA)
    storage.write_json(root / layout.POLYSOMA, about | {"checksums": {}})
    return root


def robomimic_with_gaps(root: Path) -> Path:
    with h5py.File(write_robomimic(root.with_suffix(".hdf5")), "r+") as file:
        for name in sorted(set(file["data"]) - {"demo_0"}):
            del file["data"][name]
        file.copy("data/demo_0", "data/demo_12")
    return root.with_suffix(".hdf5")


def minari_with_gaps(root: Path) -> Path:
    target = root.with_name("set-v0")
    to_minari(recorded(root, ARM, 1), target)
    with h5py.File(target / "data/main_data.hdf5", "r+") as file:
        file.copy("episode_0", "episode_12")
    return target


@pytest.mark.parametrize(
    "write", [lerobot_with_gaps, recorded_with_gaps, robomimic_with_gaps, minari_with_gaps], ids=lambda f: f.__name__
)
def test_numbers_are_those_of_the_files_where_some_are_missing(
    write: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the doctor names, an edit takes: two episodes that are the same are called 0 and 12."""
    root = write(tmp_path / "set")
    assert Dataset(root).episode_number.tolist() == [0, 12]
    (problem,) = (problem for problem in examine(root).problems if "are the same" in problem.what)
    assert problem.what == "episodes 0, 12 are the same" and "--delete 12 --out" in problem.remedy
    new = tmp_path / "new"
    main(shlex.split(problem.remedy.partition("`polysoma ")[2].partition("`")[0].replace("NEW", str(new))))
    assert "1 of 2 episodes are left out: 12" in capsys.readouterr().out
    assert Dataset(new).episode_seed.tolist() == [0]
    with pytest.raises(PolysomaError, match=r"there is no episode 1; there are 0, 12"):
        edit(root, tmp_path / "none", Edit(delete=frozenset({1})))
    main(["data", "view", str(root), "--episodes", "12", "--out", str(tmp_path / "view.html")])
    assert "<h2>Episode 12 " in (tmp_path / "view.html").read_text()
    with pytest.raises(PolysomaError, match=r"there is no episode 1; there are 0, 12"):
        view(root, tmp_path / "none.html", [1])


def test_numbers_that_do_not_tell_episodes_apart_are_not_used(tmp_path: Path) -> None:
    root = robomimic_with_gaps(tmp_path / "set")
    with h5py.File(root, "r+") as file:
        file.move("data/demo_12", "data/demo_00")
    reader = open_reader(root)
    assert [reader.source(episode) for episode in range(2)] == [0, 1] and UNNUMBERED in reader.remarks
    edit(root, tmp_path / "new", Edit(delete=frozenset({1})))


def test_episodes_that_hold_nothing_to_learn_may_be_named(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    lines[1]["length"] = 0
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    edit(root, tmp_path / "new", Edit(delete=frozenset({0, 1})))
    assert Dataset(tmp_path / "new").episode_seed.tolist() == [2]


def test_words_are_corrected(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set", ARM)
    change = Edit(instructions=(("do odd", "do it oddly"), (frozenset({3, 4}), "do three or four")))
    done = edit(root, tmp_path / "new", change)
    old, new = Dataset(root), Dataset(tmp_path / "new")
    told = ["do even", "do it oddly"] * 5
    told[3] = told[4] = "do three or four"
    for number in range(COUNT):
        same(new.episode(number), old.episode(number), told[number])
    assert "4 episodes have the instruction 'do it oddly' instead of 'do odd'" in done.changes
    edit(root, tmp_path / "all", Edit(instructions=((None, "do"),)))
    assert Dataset(tmp_path / "all").instructions == ["do"]
    with pytest.raises(PolysomaError, match=r"no episode has the instruction 'do od'; they have 'do even', 'do odd'"):
        edit(root, tmp_path / "none", Edit(instructions=(("do od", "x"),)))


def test_tasks_of_other_formats_are_called_after_their_words(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    edit(root, tmp_path / "new", Edit(instructions=((TASKS[0], "lift the red cube"),)))
    new = Dataset(tmp_path / "new")
    assert new.tasks == ["test-arm/lift the red cube", f"test-arm/{TASKS[1]}"]
    assert new.instructions == ["lift the red cube", TASKS[1]]
    np.testing.assert_array_equal(new.actions, np.concatenate([numbers(e, n)["action"] for e, n in enumerate(LENGTHS)]))


def test_pictures_are_cropped_and_streams_renamed(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set")
    change = Edit(crop={"front": Crop(2, 20, 5, 30)}, rename={"front": "top", "arm-pixels": "arm-2", "state": "where"})
    done = edit(root, tmp_path / "new", change)
    old, new = Dataset(root), Dataset(tmp_path / "new")
    assert (new.embodiment.name, new.embodiment.body) == ("arm-2", old.embodiment.body)
    assert new.embodiment.stream("top").shape == (18, 25, 3)
    assert [stream.name for stream in new.embodiment.privileged] == ["where"]
    assert new.tasks == ["arm-2/even", "arm-2/odd"] and new.failures == {"arm-2/even": [99]}
    np.testing.assert_array_equal(new.observations["top"][:], old.observations["front"][:][:, 2:20, 5:30])
    np.testing.assert_array_equal(new.final["top"][:], old.final["front"][:][:, 2:20, 5:30])
    np.testing.assert_array_equal(new.observations["where"], old.observations["state"])
    assert "front: of pictures of 24x32, rows 2 to 19 and columns 5 to 29 stay: 18x25" in done.changes
    assert "front is called top" in done.changes


def test_pictures_of_others_stay_as_large_as_they_are(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    edit(root, tmp_path / "new", Edit(reencode=True))
    shape = tuple(features["observation.images.front"]["shape"])
    new, old = Dataset(tmp_path / "new"), open_reader(root)
    assert new.embodiment.stream("front").shape == shape
    film = np.concatenate([old.read(e, ["observation.images.front"])["observation.images.front"] for e in range(3)])
    np.testing.assert_array_equal(new.observations["front"][:], film)
    # A copy in another format is equal.
    assert diff(root, tmp_path / "new").lines == ()


def test_data_sets_are_merged(tmp_path: Path) -> None:
    first, second = recorded(tmp_path / "one", ARM, 4), recorded(tmp_path / "two", ARM, 3, 20)
    done = edit(first, tmp_path / "new", Edit(merge=(second,), delete=frozenset({1})))
    assert done.written == {tmp_path / "new": (6, 4 + 6 + 7 + 24 + 25 + 26)}
    new = Dataset(tmp_path / "new")
    assert new.episode_seed.tolist() == [0, 2, 3, 20, 21, 22]
    same(new.episode(4), Dataset(second).episode(1))
    assert new.failures == {"arm/even": [99, 99]}
    with pytest.raises(PolysomaError, match="two is of another body than"):
        edit(recorded(tmp_path / "grid", GRID), tmp_path / "x", Edit(merge=(second,)))
    foreign = write_v2(tmp_path / "a", kind="image")
    other = write_v2(tmp_path / "b", kind="image")
    drop_columns(other, "next.reward")
    with pytest.raises(PolysomaError, match="b: there are no rewards, which the other data sets have"):
        edit(foreign, tmp_path / "x", Edit(merge=(other,)))


def test_shares_are_of_every_task_and_apart(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set", ARM)
    done = edit(root, tmp_path / "new", Edit(split={"train": 0.8, "test": 0.2}))
    assert [count for count, _ in done.written.values()] == [8, 2]
    train, test = Dataset(tmp_path / "new/train"), Dataset(tmp_path / "new/test")
    assert sorted([*train.episode_seed.tolist(), *test.episode_seed.tolist()]) == list(range(COUNT))
    assert sorted(test.tasks) == ["arm/even", "arm/odd"]
    old = Dataset(root)
    for part in (train, test):
        for number, seed in enumerate(part.episode_seed.tolist()):
            same(part.episode(number), old.episode(seed))
    edit(root, tmp_path / "again", Edit(split={"train": 0.8, "test": 0.2}))
    assert diff(tmp_path / "again/test", tmp_path / "new/test").lines == ()
    edit(root, tmp_path / "named", Edit(split={"a": frozenset(range(7)), "b": frozenset({7, 8, 9})}))
    assert Dataset(tmp_path / "named/b").episode_seed.tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Edit(), "nothing is to be changed"),
        (Edit(delete=frozenset({10})), "there is no episode 10; there are 0 to 9"),
        (Edit(delete=frozenset(range(10))), "no episode would be left"),
        (Edit(rename={"fornt": "x"}), "there is no stream 'fornt'; there are"),
        (Edit(rename={"front": "tip"}), "stream names must differ"),
        (Edit(rename={"front": "action"}), "no array stream can be called"),
        (Edit(crop={"tip": Crop(0, 1, 0, 1)}), "tip holds no pictures"),
        (Edit(crop={"front": Crop(0, 25, 0, 1)}), "rows 0:25 and columns 0:1 are not within pictures of 24x32"),
        (Edit(crop={"front": Crop(5, 5, 0, 1)}), "are not within"),
        (Edit(split={"a": 0.5, "b": 0.4}), "expected shares that come to 1"),
        (Edit(split={"a": 0.5, "b": frozenset({1})}), "got both"),
        (Edit(split={"a": frozenset({1}), "b": frozenset({1})}), "episode 1 is in a and b"),
        (Edit(split={"a": frozenset({1})}), "9 episodes are in no part, such as 0"),
        (Edit(split={"../a": 1.0}), "is no name of a folder"),
        (Edit(split={"a": 0.99, "b": 0.01}), "no episode would be in b"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(change: Edit, message: str, tmp_path: Path) -> None:
    root = recorded(tmp_path / "set")
    before = contents(root)
    with pytest.raises(PolysomaError, match=message):
        edit(root, tmp_path / "new", change)
    assert contents(root) == before and {path.name for path in tmp_path.iterdir()} == {"set"}


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set", ARM, 2)
    for name in ("there", ".new.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("mine")
    with pytest.raises(PolysomaError, match="there is there already"):
        edit(root, tmp_path / "there", Edit(reencode=True))
    with pytest.raises(PolysomaError, match="in the way and was not made here"):
        edit(root, tmp_path / "new", Edit(reencode=True))
    with pytest.raises(PolysomaError, match="must not lie in one another"):
        edit(root, root / "new", Edit(reencode=True))
    assert all((tmp_path / name / "precious").read_text() == "mine" for name in ("there", ".new.tmp"))


def test_a_killed_edit_begins_anew(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set", ARM, 2)
    left = tmp_path / ".new.tmp"
    (left / "data/chunk-000").mkdir(parents=True)
    (left / "data/chunk-000/file-000.parquet").write_bytes(b"half of it")
    (left / "polysoma-edit.lock").touch()
    with storage.lock(left / "polysoma-edit.lock", wait=False), pytest.raises(PolysomaError, match="another process"):
        edit(root, tmp_path / "new", Edit(reencode=True))
    edit(root, tmp_path / "new", Edit(reencode=True))
    assert diff(root, tmp_path / "new").lines == () and not left.exists()


def test_differences_are_named(tmp_path: Path) -> None:
    body = SEEN_ARM
    with DatasetWriter(tmp_path / "a", body) as one, DatasetWriter(tmp_path / "b", body) as other:
        for number in range(4):
            episode = make_episode(body, 6, number)
            if number != 3:
                one.add(episode)
            if number == 0:
                continue
            if number == 1:
                seen = {name: values.copy() for name, values in episode.observations.items()}
                seen["front"][4, 3, 2, 1] ^= 8
                rewards = episode.rewards.copy()  # type: ignore[union-attr]
                rewards[2:4] += 0.5
                changed = {"observations": seen, "rewards": rewards, "instruction": "stop", "terminated": False}
                episode = Episode(**{**vars(episode), **changed})
            other.add(episode)
    found = diff(tmp_path / "a", tmp_path / "b")
    assert (found.pairs, found.frames) == (2, 12)
    assert found.lines == (
        "1 episodes are in the first alone: 0",
        "1 episodes are in the second alone: 2",
        "episode 1 (0 in the second): instruction: 'go', 'stop' in the second",
        "episode 1 (0 in the second): terminated: True, False in the second",
        "episode 1 (0 in the second): rewards: 2 of 6 frames differ, by up to 0.5, first at frame 2",
        "episode 1 (0 in the second): front: 1 of 6 pictures differ, by up to 8 of 255 levels, first at frame 4",
    )
    assert diff(tmp_path / "a", tmp_path / "a").lines == ()


def test_different_bodies_are_named(tmp_path: Path) -> None:
    root = recorded(tmp_path / "set", SEEN_ARM, 2)
    edit(root, tmp_path / "new", Edit(crop={"front": Crop(0, 12, 0, 32)}))
    assert diff(root, tmp_path / "new").lines == ("body: stream 'front': image (12, 32, 3), not image (24, 32, 3)",)
    foreign = write_zarr(tmp_path / "x.zarr", 2)
    lines = diff(root, foreign).lines
    assert any(line.startswith("body: name: x, not arm-pixels") for line in lines)
    assert "rewards: there are some, there are none in the second" in lines


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recorded(tmp_path / "set")
    new = tmp_path / "new"
    main(
        ["data", "edit", str(root), "--delete", "0,2-3", "--set-instruction", "do odd=do [it]", "4=go = on", "--rename",
         "front=top", "--crop-pictures", "front=0:12,1:31", "--split", "train=0.5", "test=.5", "--out", str(new)]
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "3 of 10 episodes are left out: 0, 2 to 3" in said and "'do [it]' instead of 'do odd'" in said
    assert f"{root} is as it was" in said and "episodes," in said
    parts = [Dataset(new / name) for name in ("train", "test")]
    told = {(int(d.episode_seed[n]), d.episode(n).instruction) for d in parts for n in range(len(d.episode_seed))}
    assert told == {(1, "do [it]"), (4, "go = on"), (5, "do [it]"), (6, "do even"), (7, "do [it]"), (8, "do even"),
                    (9, "do [it]")}  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["data", "diff", str(new / "train"), str(new / "test")])
    assert ended.value.code == 1 and "compared: different" in capsys.readouterr().out
    main(["data", "diff", str(root), str(root)])
    assert f"{COUNT} episodes with {sum(4 + n for n in range(COUNT))} frames compared: equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--delete", "3-1"], "--delete: expected numbers such as 3,7-9, got '3-1'"),
        (["--keep", "x"], "--keep: expected numbers"),
        (["--rename", "front"], "--rename: expected NAME=VALUE, got 'front'"),
        (["--crop-pictures", "front=1:2"], "expected STREAM=TOP:BOTTOM,LEFT:RIGHT, got 'front=1:2'"),
        (["--split", "train=many"], "--split: expected numbers"),
        ([], "nothing is to be changed"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = recorded(tmp_path / "set", ARM, 2)
    with pytest.raises(SystemExit) as ended:
        main(["data", "edit", str(root), *arguments, "--out", str(tmp_path / "new")])
    error = capsys.readouterr().err
    assert ended.value.code == 1 and message in error and error.count("\n") == 1


def test_numbers_for_people() -> None:
    assert listed([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8" and listed([]) == ""


def test_columns_that_are_left_out_are_named(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["observation.images.deep"] = {"dtype": "image", "shape": [4, 4, 1], "names": None}
    changed(root, features=features)
    done = edit(root, tmp_path / "new", Edit(reencode=True))
    assert any("observation.images.deep is left out" in line for line in done.changes)

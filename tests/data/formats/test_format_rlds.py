"""RLDS data sets: what is in them comes out, and what damage does to them."""

from __future__ import annotations

import itertools
import json
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from make_rlds import (
    EPISODES,
    INSTRUCTIONS,
    LENGTHS,
    NAMES,
    TRUTH,
    block,
    bytes_list,
    crc32c,
    described,
    example,
    float_list,
    image,
    int64_list,
    masked,
    picture_file,
    record,
    tensor,
    write,
)
from polysoma.data.dataset import Dataset
from polysoma.data.doctor import examine
from polysoma.data.formats.rlds import RldsReader, is_rlds
from polysoma.errors import PolysomaError

REAL = ROOT.parent / "shared" / "data" / "bridge_rlds"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that no test changes."""
    return write(tmp_path_factory.mktemp("rlds") / "toy_arm" / "2.1.0")


def shard(root: Path, split: str = "train") -> Path:
    return next(iter(sorted(root.glob(f"*-{split}.tfrecord*"))))


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, values in got.items():
        assert values.shape == expected[name].shape, name
        assert np.array_equal(values, expected[name]), name


def test_the_writers_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283


# --- what is there


def test_all_columns_come_out_as_they_went_in(whole: Path) -> None:
    reader = RldsReader(whole)
    assert len(reader) == len(LENGTHS) and reader.lengths.tolist() == list(LENGTHS)
    assert reader.lengths.dtype == np.int64
    assert reader.format == "RLDS 2.1.0 (tfrecord)" and reader.robot == "toy_arm" and reader.fps is None
    assert set(reader.columns) == set(TRUTH[0])
    for number, expected in enumerate(TRUTH):
        got = reader.read(number)
        assert list(got) == list(reader.columns)
        assert_same(got, expected)
        for name, values in got.items():
            column = reader.columns[name]
            assert values.dtype == column.dtype == expected[name].dtype, name
            assert values.shape[1:] == column.shape
            assert column.picture == name.startswith("observation.images.")
            values += values  # nobody else's memory


def test_actions_of_several_parts_are_one_with_names(whole: Path) -> None:
    column = RldsReader(whole).columns["action"]
    assert column.names == NAMES and column.shape == (5,) and column.dtype == np.float64


def test_one_action_tensor_stays_as_it_is(tmp_path: Path) -> None:
    features = described()
    inner = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    inner["action"] = tensor("float32", 3)

    def change(seed: int, held: dict[str, bytes]) -> None:
        held["steps/action"] = held.pop("steps/action/world_vector")

    reader = RldsReader(write(tmp_path / "set", change, features))
    column = reader.columns["action"]
    assert column.names is None and column.shape == (3,) and column.dtype == np.float32
    assert np.array_equal(reader.read(0, ["action"])["action"], TRUTH[0]["action"][:, :3])


def test_instructions_and_successes(whole: Path) -> None:
    reader = RldsReader(whole)
    assert list(reader.instructions) == INSTRUCTIONS
    assert reader.successes is not None and reader.successes.tolist() == [False, True, False, True]


def test_instructions_among_the_observations_and_none_at_all(tmp_path: Path) -> None:
    features = described()
    inner = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    del inner["language_instruction"], features["featuresDict"]["features"]["episode_metadata"]

    def nothing(seed: int, held: dict[str, bytes]) -> None:
        del held["steps/language_instruction"], held["episode_metadata/success"], held["episode_metadata/file_path"]

    reader = RldsReader(write(tmp_path / "none", nothing, features))
    assert list(reader.instructions) == [""] * len(LENGTHS) and reader.successes is None

    def moved(seed: int, held: dict[str, bytes]) -> None:
        held["steps/observation/natural_language_instruction"] = held["steps/language_instruction"]
        nothing(seed, held)

    observation = inner["observation"]["featuresDict"]["features"]
    observation["natural_language_instruction"] = tensor("string")
    reader = RldsReader(write(tmp_path / "moved", moved, features))
    assert list(reader.instructions) == INSTRUCTIONS
    assert not any(problem.where.endswith("natural_language_instruction") for problem in reader.problems())


def test_some_columns_alone(whole: Path) -> None:
    reader = RldsReader(whole)
    names = ["reward", "observation.images.wrist"]
    got = reader.read(2, names)
    assert list(got) == names
    assert_same(got, TRUTH[2])
    assert reader.read(2, []) == {}
    with pytest.raises(PolysomaError, match=r"no columns \['observation.cloud'\]"):
        reader.read(0, ["observation.cloud"])
    for number in (-1, len(LENGTHS)):
        with pytest.raises(PolysomaError, match=f"no episode {number}"):
            reader.read(number)


def test_an_episode_without_steps(tmp_path: Path) -> None:
    def empty(seed: int, held: dict[str, bytes]) -> None:
        if seed == 1:
            held.update({key: bytes_list([]) for key in held if key.startswith("steps/")})

    reader = RldsReader(write(tmp_path / "set", empty))
    assert reader.lengths.tolist() == [5, 0, 7, 3] and reader.instructions[1] == ""
    for name, values in reader.read(1).items():
        assert values.shape == (0, *reader.columns[name].shape) and values.dtype == reader.columns[name].dtype


def test_what_is_a_data_set(whole: Path, tmp_path: Path) -> None:
    assert is_rlds(whole) and is_rlds(whole.parent)
    assert not is_rlds(whole.parent.parent)
    assert not is_rlds(shard(whole)) and not is_rlds(tmp_path) and not is_rlds(tmp_path / "nowhere")
    (tmp_path / "features.json").write_text("{}")
    (tmp_path / "records.tfrecord").write_bytes(b"")
    assert not is_rlds(tmp_path)
    with pytest.raises(PolysomaError, match=r"features\.json"):
        RldsReader(tmp_path)
    reader = RldsReader(whole.parent)
    assert reader.path == whole.parent and len(reader) == len(LENGTHS)
    assert_same(reader.read(3), TRUTH[3])


def test_the_newest_version_is_read(tmp_path: Path) -> None:
    for version in ("9.0.0", "10.0.0", "2.0.0"):
        write(tmp_path / version)
    reader = RldsReader(tmp_path)
    assert all(file.parent.name == "10.0.0" and file.is_file() for file in reader.files())
    found = [problem.what for problem in reader.problems() if problem.where == "10.0.0"]
    assert len(found) == 1 and "2.0.0, 9.0.0" in found[0]


def test_files_are_those_that_the_frames_depend_on(whole: Path) -> None:
    assert sorted(RldsReader(whole).files()) == sorted(whole.iterdir())


def test_opening_does_not_read_pictures(tmp_path: Path) -> None:
    def large(seed: int, held: dict[str, bytes]) -> None:
        held["steps/observation/front"] = bytes_list([bytes(2**18)] * LENGTHS[seed])

    root = write(tmp_path / "set", large)
    RldsReader(root)
    tracemalloc.start()
    RldsReader(root)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shard(root).stat().st_size > 2**20 and peak < 2**18


def test_the_package_that_is_missing_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(PolysomaError, match="google-crc32c"):
        RldsReader(whole)


# --- problems


def test_what_is_left_out_is_noted_and_nothing_else(whole: Path) -> None:
    found = list(RldsReader(whole).problems())
    assert {problem.severity for problem in found} == {"note"}
    names = ("cloud", "depth", "remark", "words")
    assert sorted(problem.where for problem in found) == [f"steps/observation/{name}" for name in names]


def serious(root: Path) -> list[tuple[str, str, str]]:
    found = RldsReader(root).problems()
    return [(problem.severity, problem.where, problem.what) for problem in found if problem.severity != "note"]


def test_splits_without_files_and_shards_that_are_gone(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    shard(root, "val").unlink()
    (one,) = serious(root)
    assert one[:2] == ("warning", "split val") and "1 of its 1 files" in one[2]
    shard(root).unlink()
    assert [(severity, where) for severity, where, _ in serious(root)] == [
        ("warning", "split train"), ("warning", "split val")
    ]  # fmt: skip
    reader = RldsReader(root)
    assert reader.lengths.tolist() == [LENGTHS[2]]
    assert_same(reader.read(0), TRUTH[2])
    for split, counts in (("train", "1 of 2"), ("val", "1 of 1")):
        assert f"{counts} files of {split} are not there: their episodes are left out" in reader.remarks


def test_a_file_cut_between_two_records(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    data = shard(root).read_bytes()
    shard(root).write_bytes(data[: 16 + struct.unpack("<Q", data[:8])[0]])
    (one,) = serious(root)
    assert one[:2] == ("error", shard(root).name) and "holds 1 episodes" in one[2] and "says 2" in one[2]
    shard(root).write_bytes(b"")
    assert [what[0] for what in serious(root)] == ["error"]
    for path in root.glob("*.tfrecord*"):
        path.write_bytes(b"")
    # Without any episode there is still a diagnosis.
    assert "error" in {problem.severity for problem in examine(root).problems}


def test_splits_and_lists_that_nobody_describes(tmp_path: Path) -> None:
    root = write(tmp_path / "set", lambda seed, held: held.update({"steps/secret": int64_list([1])}))
    info = json.loads((root / "dataset_info.json").read_text())
    del info["splits"][1]
    (root / "dataset_info.json").write_text(json.dumps(info))
    assert [found[:2] for found in serious(root)] == [("warning", "steps/secret"), ("warning", "split val")]


def test_a_damaged_record_is_found_and_the_others_are_read(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    data = bytearray(shard(root).read_bytes())
    data[data.index(b"\xff\xd8\xff") + 40] ^= 1  # in a picture
    shard(root).write_bytes(data)
    reader = RldsReader(root)
    for names in (None, ["reward"]):
        with pytest.raises(PolysomaError, match=rf"{shard(root).name}, episode 0.*checksum"):
            reader.read(0, names)
    assert_same(reader.read(1), TRUTH[1])
    (one,) = serious(root)
    assert one[:2] == ("error", f"{shard(root).name}, episode 0") and "checksum" in one[2]


# --- damage


def tried(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call returns, or the error that it raises."""
    try:
        return call(*arguments)
    except PolysomaError as error:
        return error


def outcomes(root: Path, blamed: str) -> int:
    """Asserts that all that can be read is right, and that errors name the file. The number of right episodes."""
    right = 0
    reader = tried(RldsReader, root)
    if isinstance(reader, PolysomaError):
        assert blamed in str(reader)
        return 0
    assert len(reader) <= len(LENGTHS)
    for number in range(len(reader)):
        got = tried(reader.read, number)
        if isinstance(got, PolysomaError):
            assert blamed in str(got) and f"episode {number}" in str(got)
            continue
        # A file that is cut between two records lacks episodes, and those of the next files move up.
        which = INSTRUCTIONS.index(reader.instructions[number])
        assert which == number or len(reader) < len(LENGTHS)
        assert list(got) == list(reader.columns) and set(got) == set(TRUTH[which])
        assert_same(got, TRUTH[which])
        assert reader.lengths[number] == LENGTHS[which] and reader.successes[number] == bool(which % 2)
        right += 1
    if right < len(LENGTHS):
        assert any(problem.severity == "error" for problem in reader.problems())
    return right


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    kind = rng.integers(4)
    place = int(rng.integers(len(data)))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + data[place + int(rng.integers(1, 40)) :]
    result = bytearray(data)
    for offset in range(int(rng.integers(1, 5))) if kind == 2 else rng.integers(0, len(data), 3):
        result[(place + offset) % len(data)] = rng.integers(256)
    return bytes(result)


def test_damaged_records_are_an_error_or_make_no_difference(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    path = shard(root)
    data, rights = path.read_bytes(), []
    for seed in range(400):
        path.write_bytes(damaged(data, np.random.default_rng(seed)))
        rights.append(outcomes(root, path.name))
    assert 0 in rights and 2 in rights and 3 in rights
    path.write_bytes(data)
    assert outcomes(root, path.name) == len(LENGTHS)


def test_damage_under_right_checksums_is_an_error_or_fits(tmp_path: Path) -> None:
    """Whoever writes wrong data with a right checksum cannot be found out, but crashes nothing."""
    root = write(tmp_path / "set")
    path, data = shard(root, "val"), example(EPISODES[3][0])
    for seed in range(200):
        path.write_bytes(record(damaged(data, np.random.default_rng(seed))))
        reader = tried(RldsReader, root)
        got = reader if isinstance(reader, PolysomaError) else tried(reader.read, 3)
        if isinstance(got, PolysomaError):
            assert path.name in str(got) and "episode 3" in str(got)
        else:
            shapes = {name: (int(reader.lengths[3]), *column.shape) for name, column in reader.columns.items()}
            assert {name: values.shape for name, values in got.items()} == shapes


def test_damage_at_every_byte_of_a_records_framing(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    path = shard(root)
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    for place in (*range(40), *range(size + 12, size + 40)):
        for flip in (1, 128, 255):
            path.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            assert outcomes(root, path.name) < len(LENGTHS)


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json"])
def test_damaged_descriptions(tmp_path: Path, name: str) -> None:
    """JSON has no checksums: what is read under its name is right, and what is not read is spoken of."""
    root = write(tmp_path / "set")
    path = root / name
    text, opened = path.read_bytes(), 0
    usual = len(list(RldsReader(root).problems()))
    for seed in range(300):
        path.write_bytes(damaged(text, np.random.default_rng(seed)))
        reader = tried(RldsReader, root)
        if isinstance(reader, PolysomaError):
            assert str(root) in str(reader)
            continue
        opened += 1
        for number, column in itertools.product(range(len(reader)), reader.columns):
            got = tried(reader.read, number, [column])
            if isinstance(got, PolysomaError):
                assert f"episode {number}" in str(got)
            elif column == "action" and reader.columns[column].names:
                chosen = [NAMES.index(channel) for channel in reader.columns[column].names]
                assert np.array_equal(got[column], TRUTH[number][column][:, chosen])
            elif column in TRUTH[number]:
                assert np.array_equal(got[column], TRUTH[number][column])
        if set(reader.columns) != set(TRUTH[0]) or reader.columns["action"].names != NAMES:
            assert len(list(reader.problems())) > usual
    assert opened > 10


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**40, 10**6])
def test_absurd_lengths_of_records(tmp_path: Path, length: int) -> None:
    root = write(tmp_path / "set")
    head = struct.pack("<Q", length)
    shard(root).write_bytes(head + masked(head) + b"x" * 100)
    with pytest.raises(PolysomaError, match=rf"{shard(root).name}, episode 0.*needs {length + 16} bytes"):
        RldsReader(root)


def bomb() -> bytes:
    return bytes_list([zlib.compress(bytes(2**26))] * LENGTHS[0])


PNG = picture_file(np.zeros((4, 4, 3), np.uint8), "PNG")
HUGE = PNG[:16] + struct.pack(">II", 60000, 60000) + PNG[24:]
WRONG: dict[str, tuple[str, bytes]] = {
    "a list that ends after its message": ("steps/reward", block(2, b"\x0a\xff\xff\xff\xff\x7f")),
    "a varint without an end": ("steps/observation/mode", block(3, block(1, b"\xff" * 11 + b"\x01"))),
    "a varint that is cut": ("steps/observation/mode", block(3, block(1, b"\x01\x02\x03\x04\x85"))),
    "a lone varint without an end": ("steps/observation/mode", block(3, b"\x08" + b"\xff" * 12)),
    "a length without an end": ("steps/reward", b"\x12" + b"\xff" * 12),
    "floats that are cut": ("steps/reward", block(2, block(1, bytes(19)))),
    "too few values": ("steps/observation/state", float_list(np.zeros((4, 3)))),
    "no whole number of steps": ("steps/observation/state", float_list(np.zeros(14))),
    "too many pictures": ("steps/observation/wrist", bytes_list([b""] * 6)),
    "too few bytes": ("steps/observation/touch", bytes_list([bytes(6)] * 4 + [bytes(5)])),
    "no zlib": ("steps/observation/sound", bytes_list([b"not zlib!!"] * 5)),
    "a bomb": ("steps/observation/sound", bomb()),
    "integers for floats": ("steps/reward", int64_list([1, 2, 3, 4, 5])),
    "floats for integers": ("steps/observation/mode", float_list([1, 2, 3, 4, 5])),
    "bytes for floats": ("steps/reward", bytes_list([b"abc"] * 5)),
    "numbers for pictures": ("steps/observation/wrist", int64_list([1, 2, 3, 4, 5])),
    "integers that do not fit": ("steps/observation/mode", int64_list([0, 1, 2, 3, 2**31])),
    "a truth value of 2": ("steps/observation/mask", int64_list([2] * 20)),
    "two kinds": ("steps/reward", float_list([0.0] * 5) + int64_list([])),
    "another kind": ("steps/reward", block(4, b"")),
    "a field in a list that there is not": ("steps/reward", block(2, block(2, bytes(20)))),
    "a group": ("steps/reward", block(2, b"\x0b\x0c")),
    "no picture": ("steps/observation/wrist", bytes_list([b"GIF89a" + bytes(20)] * 5)),
    "half a picture": ("steps/observation/wrist", bytes_list([PNG[:40]] * 5)),
    "a picture of another size": ("steps/observation/wrist", bytes_list([PNG] * 5)),
    "an absurd picture": ("steps/observation/wrist", bytes_list([HUGE] * 5)),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_lists_with_right_checksums(tmp_path: Path, what: str) -> None:
    key, value = WRONG[what]
    column = key.removeprefix("steps/").replace("/", ".")
    column = column.replace(".wrist", ".images.wrist")
    root = write(tmp_path / "set", lambda seed, held: held.update({key: value}) if seed == 0 else None)
    reader = RldsReader(root)
    tracemalloc.start()
    with pytest.raises(PolysomaError, match=rf"{shard(root).name}, episode 0"):
        reader.read(0, [column])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21
    assert_same(reader.read(0, ["action", "observation.left.force"]), TRUTH[0])
    assert_same(reader.read(1), TRUTH[1])
    if "picture" not in what or what.startswith(("too", "numbers")):
        assert [found[:2] for found in serious(root)] == [("error", f"{shard(root).name}, episode 0")]


@pytest.mark.parametrize(
    "key", ["steps/reward", "steps/is_first", "steps/language_instruction", "steps/action/terminate"]
)
def test_a_list_that_is_missing(tmp_path: Path, key: str) -> None:
    root = write(tmp_path / "set", lambda seed, held: held.pop(key) if seed == 1 else None)
    with pytest.raises(PolysomaError, match=f"{shard(root).name}, episode 1: there is no {key}"):
        RldsReader(root).read(1)


@pytest.mark.parametrize("data", [b"", b"\x00" * 50, b"\x0a\x05abc", b"\x12\x00", b"\x0f" * 9, block(1, block(1, b""))])
def test_records_that_are_no_examples(tmp_path: Path, data: bytes) -> None:
    root = write(tmp_path / "set")
    shard(root).write_bytes(record(data))
    reader = RldsReader(root)
    with pytest.raises(PolysomaError, match=rf"{shard(root).name}, episode 0"):
        reader.read(0)
    assert list(reader.absent([])) == [0]
    # The file held two records.
    assert_same(reader.read(1), TRUTH[2])
    for path in root.glob("*.tfrecord*"):
        path.write_bytes(record(data))
    with pytest.raises(PolysomaError, match=rf"{shard(root).name}, episode 0"):
        RldsReader(root)


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("wrist", image(60000, 60000, "png")),
        ("wrist", image(0, 16, "png")),
        ("touch", tensor("bfloat16", 2)),
        ("touch", tensor("complex64", 2)),
        ("touch", {"pythonClassName": "a.b.ClassLabel", "classLabel": {"numClasses": "3"}}),
    ],
)
def test_features_that_are_not_read(tmp_path: Path, name: str, feature: dict[str, Any]) -> None:
    features = described()
    inner = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    inner["observation"]["featuresDict"]["features"][name] = feature
    reader = RldsReader(write(tmp_path / "set", features=features))
    assert f"steps/observation/{name}" in [problem.where for problem in reader.problems()]
    assert not any(column.endswith(name) for column in reader.columns)


def test_absurd_shapes_of_numbers(tmp_path: Path) -> None:
    features = described()
    inner = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    inner["action"]["featuresDict"]["features"]["world_vector"] = tensor("float32", 10**12, 10**12)
    for name, shape in (("state", (10**30,)), ("touch", (2**62, 2**62))):
        inner["observation"]["featuresDict"]["features"][name]["tensor"]["shape"]["dimensions"] = list(map(str, shape))
    reader = RldsReader(write(tmp_path / "set", features=features))
    assert reader.columns["action"].names is None
    for column in ("action", "observation.state", "observation.touch"):
        with pytest.raises(PolysomaError, match="episode 2"):
            reader.read(2, [column])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"featuresDict": 1}', '{"featuresDict": {"features": {}}}', "[" * 100_000, "\udcff",
     '{"featuresDict": {"features": {"steps": {"sequence": {"feature": {"featuresDict": {"features": {}}}}}}}}'],
)  # fmt: skip
def test_descriptions_of_something_else(tmp_path: Path, text: str) -> None:
    root = write(tmp_path / "set")
    (root / "features.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PolysomaError, match=r"features\.json"):
        RldsReader(root)


def test_files_that_are_gone(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    reader = RldsReader(root)
    shard(root).unlink()
    with pytest.raises(PolysomaError, match=r"tfrecord-00000-of-00002, episode 1.*is missing"):
        reader.read(1)
    (root / "dataset_info.json").unlink()
    with pytest.raises(PolysomaError, match=r"dataset_info\.json is missing"):
        RldsReader(root)


# --- the real thing


@pytest.mark.skipif(not REAL.is_dir(), reason="needs shared/data/bridge_rlds beside the repository")
def test_real_trajectories_of_a_widowx_arm() -> None:
    assert is_rlds(REAL) and is_rlds(REAL / "1.0.0")
    reader = RldsReader(REAL)
    assert reader.format == "RLDS 1.0.0 (tfrecord)" and reader.robot == "bridge_dataset"
    assert len(reader) == 25 and reader.lengths.min() > 0 and reader.successes is None
    cameras = [f"observation.images.image_{number}" for number in range(4)]
    assert set(reader.columns) == {*cameras, "observation.state", "action", "reward", "discount", "terminated"}
    assert "put cup from counter or drying rack into sink" in reader.instructions
    for number, length in enumerate(reader.lengths):
        frames = reader.read(number)
        assert frames["action"].shape == frames["observation.state"].shape == (length, 7)
        assert frames["action"].dtype == np.float32 and np.abs(frames["action"]).max() < 10
        assert np.isfinite(frames["observation.state"]).all() and frames["reward"].shape == (length,)
        for camera in cameras:
            assert frames[camera].shape == (length, 64, 64, 3) and frames[camera].dtype == np.uint8
        assert frames[cameras[0]].std() > 10
    (missing,) = reader.problems()
    assert missing.severity == "warning" and missing.where == "split val"


@pytest.mark.parametrize(
    ("lacking", "truncated", "noted"),
    [(("is_terminal",), [True, True, False], False), (("is_terminal", "discount", "is_first"), [False] * 3, True)],
)
def test_without_is_terminal_ends_are_truncated_or_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: tuple[str, ...], truncated: list[bool], noted: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = write(tmp_path / "set", lambda seed, held: [held.pop(f"steps/{name}") for name in lacking])
    features = described()
    steps = features["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    for name in lacking:
        del steps[name]
    (root / "features.json").write_text(json.dumps(features))
    data = Dataset(root)
    # A discount of 0 tells of the third, which has two frames; the one of one step is an observation alone.
    assert data.episode_length.tolist() == [4, 6, 2] and data.episode_truncated.tolist() == truncated
    assert data.episode_terminated.tolist() == [False, False, not noted]
    told = [problem for problem in examine(root).problems if "how episodes ended is not known" in problem.what]
    assert [problem.severity for problem in told] == ["note"] * noted

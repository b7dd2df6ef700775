"""LeRobot data sets as other people's recorders and converters write them, and as they lie in public repositories."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conftest import ROOT
from make_lerobot import FPS, LENGTHS, NAMES, TASKS, add_columns, changed, numbers, pictures, write_v2, write_v3
from polysoma.cli import main
from polysoma.data.cache import user_cache
from polysoma.data.convert import convert
from polysoma.data.dataset import Dataset
from polysoma.data.description import write_schema
from polysoma.data.doctor import examine
from polysoma.data.formats import open_reader
from polysoma.data.formats.lerobot_columns import channel_names
from polysoma.data.formats.lerobot_words import words
from polysoma.data.schema import schema_of
from polysoma.data.video import encode_video
from polysoma.embodiment import DiscreteActions
from polysoma.errors import PolysomaError

REAL = ROOT.parent / "shared" / "data"
FILM = "videos/chunk-000/observation.images.front/episode_{:06d}.mp4"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tables(root: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    for path in (root / "data").rglob("*.parquet"):
        pq.write_table(change(pq.read_table(path)), path)


def put(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


def features(root: Path) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((root / "meta/info.json").read_text())["features"]
    return held


def renamed(root: Path, names: dict[str, str]) -> None:
    tables(root, lambda table: table.rename_columns([names.get(name, name) for name in table.column_names]))
    changed(root, features={names.get(name, name): about for name, about in features(root).items()})


# Which words.


def test_the_words_are_those_of_the_frames_whatever_tables_and_statistics_say(tmp_path: Path) -> None:
    """lerobot's own merging gives tasks new numbers in the frames and leaves what is said of episodes as it was."""
    root = write_v3(tmp_path / "set")
    tables(root, lambda table: put(table, "task_index", pa.array([1 - n for n in table["task_index"].to_pylist()])))
    assert list(open_reader(root).instructions) == [TASKS[1], TASKS[0], TASKS[1]]


# Which rows.


@pytest.mark.parametrize("told", [[0, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 7]])
def test_rows_are_those_of_the_episode_whatever_the_tables_say(told: list[int], tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(put(table, "data/file_index", pa.array(told)), path)
    for order in ((0, 1, 2), (2, 1, 0)):
        reader = open_reader(root)
        for episode in order:
            np.testing.assert_array_equal(reader.read(episode)["action"], numbers(episode, LENGTHS[episode])["action"])
    found = {(problem.severity, problem.where) for problem in examine(root).problems}
    assert ("warning", "meta/episodes") in found and not [where for severity, where in found if severity == "error"]


def test_rows_of_nobody_are_an_error(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")

    def mixed(table: pa.Table) -> pa.Table:
        held = table["episode_index"].to_numpy().copy()
        held[np.flatnonzero(held == 1)[:1]] = 0
        return put(table, "episode_index", pa.array(held))

    tables(root, mixed)
    with pytest.raises(PolysomaError, match=r"file-000\.parquet, episode 1: expected 4 of its rows .* episode 0"):
        open_reader(root).read(1)


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_rows_in_another_order_than_their_pictures_are_an_error(version: str, tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set") if version == "v2" else write_v3(tmp_path / "set")
    tables(root, lambda table: table.take(pa.array([1, 0, *range(2, len(table))])))
    with pytest.raises(PolysomaError, match="episode 0: its rows are not in the order of their frames: 0 comes after"):
        open_reader(root).read(0)
    # Two recordings in one episode are in order.
    twice = pa.array([0, 1, 2, 3, 0, 1, 2])
    one = write_v2(tmp_path / "twice")
    path = one / "data/chunk-000/episode_000000.parquet"
    pq.write_table(put(pq.read_table(path), "frame_index", twice), path)
    assert near(open_reader(one).read(0)["observation.images.front"], pictures(0, LENGTHS[0]))


def test_frames_without_text_belong_to_what_was_said_before() -> None:
    tasks, frames = {0: "pick", 1: "", 2: "place"}, np.array([1, 0, 0, 1, 1, 2, 2, 1, 0])
    texts, changes = words([None], tasks, [None], lambda _: frames, False)
    assert texts == ["pick"]
    assert [(part.start, part.instruction) for part in changes[0]] == [(0, "pick"), (5, "place"), (8, "pick")]
    assert words([None], tasks, [None], lambda _: np.array([1, 1]), False) == ([""], {})


def test_an_episode_that_is_listed_twice_is_one(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    lines = (root / "meta/episodes.jsonl").read_text().splitlines()
    (root / "meta/episodes.jsonl").write_text("\n".join([*lines, lines[1]]))
    assert Dataset(root).episode_length.tolist() == list(LENGTHS)
    assert any("1 episodes are listed more than once" in remark for remark in schema_of(open_reader(root)).remarks)


def test_the_first_episode_may_be_empty(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    lines[0]["length"] = 0
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    path = root / "data/chunk-000/episode_000000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert Dataset(root).episode_length.tolist() == list(LENGTHS[1:])


# Which pictures.


def film(root: Path, episode: int, frames: np.ndarray, fps: float) -> None:
    (root / FILM.format(episode)).write_bytes(encode_video(list(frames), fps))


def near(got: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(got.astype(int) - expected).mean((1, 2, 3)).max() < 8)


def test_a_film_of_twice_the_rate_is_read_by_time(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    twice = pictures(2, 12).repeat(2, 0)
    twice[1::2] = 255 - twice[1::2]
    film(root, 2, twice, 2 * FPS)
    held = features(root)
    held["observation.images.front"]["info"] = {"video.fps": 2 * FPS}
    changed(root, features=held)
    reader = open_reader(root)
    assert any("runs at 20 frames a second" in remark for remark in schema_of(reader).remarks)
    assert near(reader.read(2)["observation.images.front"], pictures(2, 12))
    for start, stop in ((5, 9), (11, 12), (0, 1), (3, 10)):
        assert near(reader.window(2, start, stop)["observation.images.front"], pictures(2, 12)[start:stop])


def test_rows_that_were_taken_out_are_found_by_their_times(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    film(root, 2, pictures(2, 12).repeat(2, 0)[:24], 2 * FPS)
    changed(root, fps=2 * FPS)
    # Every second row of a recording at 20 Hz; nobody changed the rate, and the film is whole.
    reader = open_reader(root)
    assert near(reader.read(2)["observation.images.front"], pictures(2, 12))


@pytest.mark.parametrize("times", [np.zeros(12), 100.0 * np.arange(12), np.full(12, np.nan)])
def test_times_that_are_none_are_not_believed(times: np.ndarray, tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    film(root, 2, np.concatenate([pictures(2, 12), pictures(1, 4)]), FPS)
    path = root / "data/chunk-000/episode_000002.parquet"
    pq.write_table(put(pq.read_table(path), "timestamp", pa.array(times.astype(np.float32))), path)
    assert near(open_reader(root).read(2)["observation.images.front"], pictures(2, 12))
    assert any(problem.where == "timestamp" for problem in examine(root).problems)


def test_a_film_that_is_slower_than_the_table_is_called_so(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    film(root, 2, pictures(2, 6), FPS / 2)
    with pytest.raises(PolysomaError, match="has 5 frames a second, the table 10"):
        open_reader(root).read(2)


def test_films_of_rounded_rates_are_read_frame_by_frame(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    length = 240
    frames = np.zeros((length, 32, 32, 3), np.uint8)
    frames[:] = (np.arange(length) % 2 * 200)[:, None, None, None]
    lines = [{"episode_index": 0, "tasks": TASKS[:1], "length": length}]
    (root / "meta/episodes.jsonl").write_text(json.dumps(lines[0]))
    path = root / "data/chunk-000/episode_000000.parquet"
    table = pa.concat_tables([pq.read_table(path)] * 40).slice(0, length)
    pq.write_table(put(table, "timestamp", pa.array(np.arange(length, dtype=np.float32) / FPS)), path)
    film(root, 0, frames, FPS * 1000 / 1004)
    reader = open_reader(root)
    assert near(reader.window(0, 220, 240)["observation.images.front"], frames[220:240])
    assert near(reader.read(0)["observation.images.front"], frames)


def test_a_film_with_a_hole_is_an_error(tmp_path: Path) -> None:
    import av

    root = write_v2(tmp_path / "set")
    with av.open(str(root / FILM.format(2)), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for number, picture in enumerate(pictures(2, 12)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number + 3 * (number >= 6)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(PolysomaError, match=r"episode_000002\.mp4, episode 2: .*no frame at second 0\.[67]"):
        open_reader(root).read(2)


def test_pictures_are_turned_as_their_exif_says(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    sensor = np.zeros((32, 32, 3), np.uint8)
    sensor[:16] = 255
    for orientation, turned in ((1, sensor), (3, sensor[::-1]), (6, np.rot90(sensor, -1)), (8, np.rot90(sensor))):
        file, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(sensor).save(file, "JPEG", exif=exif, quality=95)
        cell = pa.array([{"bytes": file.getvalue(), "path": None}])
        tables(root, lambda t, c=cell: put(t, "observation.images.front", pa.concat_arrays([c] * len(t))))  # type: ignore[misc]
        got = open_reader(root).read(0)["observation.images.front"][0].astype(int)
        assert np.abs(got - turned).mean() < 4, orientation


# Which words.


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_words_may_change_within_an_episode(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")

    def halves(table: pa.Table) -> pa.Table:
        return put(table, "task_index", pa.array(np.arange(len(table)) >= 3).cast(pa.int64()))

    tables(root, halves)
    jsonl(
        root / "meta/episodes.jsonl",
        [{"episode_index": n, "tasks": TASKS, "length": length} for n, length in enumerate(LENGTHS)],
    )
    data = Dataset(root)
    assert data.episode_length.tolist() == [3, 4, 3, 1, 3, 9]
    assert [data.instructions[n] for n in data.episode_instruction] == TASKS * 3
    assert len(set(data.episode_seed.tolist())) == 6
    for number, (begin, length) in enumerate(zip(data.episode_start, data.episode_length, strict=True)):
        source, first = number // 2, 3 * (number % 2)
        expected = numbers(source, LENGTHS[source])["action"][first : first + length]
        np.testing.assert_array_equal(data.actions[begin : begin + length], expected)
        seen = pictures(source, LENGTHS[source])[first : first + length]
        assert near(data.observations["front"][begin : begin + length], seen)
    assert data.episode_truncated[::2].all() and not data.episode_terminated.any()
    # Converted, and once more after a kill: the same six.
    assert convert(root, tmp_path / "copy").written == 6 and convert(root, tmp_path / "copy").there == 6
    np.testing.assert_array_equal(Dataset(tmp_path / "copy").actions, data.actions)
    assert any("several instructions" in problem.what for problem in examine(root).problems)


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("told", [["TODO"], None])
def test_the_table_of_tasks_has_the_last_word(version: str, told: list[str] | None, tmp_path: Path) -> None:
    if version == "v2":
        root = write_v2(tmp_path / "set", kind="image")
        rows = [{"episode_index": n, "length": length, "tasks": told or []} for n, length in enumerate(LENGTHS)]
        jsonl(root / "meta/episodes.jsonl", rows)
    else:
        root = write_v3(tmp_path / "set", "image")
        path = root / "meta/episodes/chunk-000/file-000.parquet"
        table = pq.read_table(path)
        pq.write_table(put(table, "tasks", pa.array([told] * 3)) if told else table.drop_columns(["tasks"]), path)
    assert list(open_reader(root).instructions) == [TASKS[0], TASKS[1], TASKS[0]]


def test_a_table_that_lacks_a_task_gives_no_other_one(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    jsonl(root / "meta/tasks.jsonl", [{"task_index": 0, "task": TASKS[0]}])
    assert list(open_reader(root).instructions) == [TASKS[0], TASKS[1], TASKS[0]]


def test_words_that_are_none(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    lines = [{"task_index": 0, "task": "a\ud800b"}, {"task_index": 1, "task": None}]
    (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, lines)))
    jsonl(root / "meta/episodes.jsonl", [{"episode_index": n, "length": length} for n, length in enumerate(LENGTHS)])
    assert list(open_reader(root).instructions) == ["a?b", "", "a?b"]
    assert convert(root, tmp_path / "copy").written == 3
    jsonl(root / "meta/tasks.jsonl", [{"task_index": 0, "task": ["a"]}])
    with pytest.raises(PolysomaError, match=r"tasks\.jsonl: expected a task in words, got \['a'\]"):
        open_reader(root)


def test_files_of_windows_begin_with_a_mark(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    write_schema(schema_of(open_reader(root)), root / "embodiment.toml")
    for name in ("meta/info.json", "meta/tasks.jsonl", "embodiment.toml"):
        (root / name).write_bytes(b"\xef\xbb\xbf" + (root / name).read_bytes())
    assert Dataset(root).instructions == list(TASKS)


def test_written_statistics_tell_tasks_without_a_look_at_frames(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    jsonl(root / "meta/tasks.jsonl", [{"task_index": 0, "task": TASKS[1]}, {"task_index": 1, "task": TASKS[0]}])
    jsonl(
        root / "meta/episodes_stats.jsonl",
        [{"episode_index": n, "stats": {"task_index": {"min": [n % 2], "max": [n % 2]}}} for n in range(3)],
    )
    for path in (root / "data").rglob("*.parquet"):
        path.unlink()
    assert list(open_reader(root).instructions) == [TASKS[1], TASKS[0], TASKS[1]]


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\n", "方"])
def test_words_may_hold_any_letter(letter: str, tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    text = f"pick up{letter}the cube"
    jsonl(root / "meta/tasks.jsonl", [{"task_index": n, "task": text} for n in range(2)])
    rows = [{"episode_index": n, "tasks": [text], "length": length} for n, length in enumerate(LENGTHS)]
    jsonl(root / "meta/episodes.jsonl", rows)
    assert set(open_reader(root).instructions) == {text}


@pytest.mark.parametrize("told", ["lift the cube", 3, {"a": 1}, [], None])
def test_a_list_of_words_may_be_anything(told: Any, tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    rows = [{"episode_index": n, "tasks": told, "length": length} for n, length in enumerate(LENGTHS)]
    jsonl(root / "meta/episodes.jsonl", rows)
    (root / "meta/tasks.jsonl").unlink()
    assert set(open_reader(root).instructions) == {told if isinstance(told, str) else ""}


# Which columns.


@pytest.mark.parametrize("kind", [pa.large_list(pa.float32()), pa.list_(pa.float64()), pa.large_list(pa.float64())])
def test_columns_may_be_nested_otherwise(kind: pa.DataType, tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    tables(root, lambda table: put(table, "action", table["action"].cast(pa.list_(kind.value_type)).cast(kind)))
    np.testing.assert_array_equal(open_reader(root).read(1)["action"], numbers(1, LENGTHS[1])["action"])
    holes = pa.array([[1.0, 2.0, None]] * 23, pa.list_(pa.float32()))
    tables(root, lambda table: put(table, "action", holes.slice(0, len(table))))
    with pytest.raises(PolysomaError, match="values are missing"):
        open_reader(root).read(1)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["a", "b"], ("a", "b")),
        ([["a", "b"]], ("a", "b")),
        ([[["a"], ["b"]]], ("a", "b")),
        ({"motors": ["a", "b"]}, ("a", "b")),
        ({"left": ["a"], "right": [["b"]]}, ("a", "b")),
        ({"b": 1, "a": 0}, ("a", "b")),
        ({"b": None, "a": None}, ("b", "a")),
        ({"b": 2, "a": 1}, ("a", "b")),
        ({"b": 1.0, "a": 0.0}, ("a", "b")),
        ({"1": "b", "0": "a"}, ("a", "b")),
        ({"b": 7, "a": 3}, None),
        ({"arm": [0, 1], "gripper": [2]}, None),
        ([0, 1], None),
        (["a", None], None),
        (["a", "a"], None),
        (None, None),
        ([], None),
    ],
)
def test_names_of_channels(given: Any, names: tuple[str, ...] | None) -> None:
    assert channel_names(given) == names


def test_openpis_names(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    names = {"observation.state": "state", "action": "actions", "observation.images.front": "wrist_image"}
    renamed(root, names)
    reader = open_reader(root)
    held = reader.read(1)
    np.testing.assert_array_equal(held["action"], numbers(1, 4)["action"])
    np.testing.assert_array_equal(held["observation.state"], numbers(1, 4)["observation.state"])
    assert reader.columns["action"].names == tuple(NAMES)
    schema = schema_of(reader)
    assert {stream.name for stream in schema.embodiment.arrays} == {"state", "wrist_image"}
    assert "actions is taken for action" in schema.remarks and len(Dataset(root)) == sum(LENGTHS)


def test_one_column_a_joint(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")

    def apart(table: pa.Table) -> pa.Table:
        for name in ("observation.state", "action"):
            rows = np.stack(table[name].to_numpy(zero_copy_only=False))
            table = table.drop_columns([name])
            for place, joint in enumerate(NAMES):
                table = table.append_column(f"{name.removesuffix('.state')}.{joint}", pa.array(rows[:, place]))
        return table

    tables(root, apart)
    scalar = {"dtype": "float32", "shape": [1], "names": None}
    kept = {name: about for name, about in features(root).items() if name not in ("observation.state", "action")}
    parts = {f"{stem}.{joint}": scalar for stem in ("observation", "action") for joint in NAMES}
    changed(root, features=kept | parts)
    reader = open_reader(root)
    assert reader.columns["action"].names == reader.columns["observation.state"].names == tuple(NAMES)
    held = reader.window(2, 4, 9, ["action", "observation.state"])
    for name, values in numbers(2, 12).items():
        np.testing.assert_array_equal(held[name], values[4:9])
    assert Dataset(root).embodiment.actions.size == 3
    assert not [problem for problem in examine(root).problems if problem.severity == "error"]


def test_modality_json_names_parts_and_words(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    held = features(root)
    for name in ("observation.state", "action"):
        held[name]["names"] = None
    told = "annotation.human.task_description"
    changed(root, features=held)
    add_columns(root, {told: [np.full(length, 1) for length in LENGTHS]})
    slices = {"arm": {"start": 0, "end": 2}, "hand": {"start": 2, "end": 3}}
    annotation = {"human.task_description": {"original_key": told}}
    (root / "meta/modality.json").write_text(json.dumps({"state": slices, "action": slices, "annotation": annotation}))
    reader = open_reader(root)
    assert reader.columns["action"].names == reader.columns["observation.state"].names == ("arm_0", "arm_1", "hand")
    assert set(reader.instructions) == {TASKS[1]}
    # What is in no part keeps its place; what is no description says nothing.
    (root / "meta/modality.json").write_text(json.dumps({"action": {"arm": {"start": 0, "end": 2}}, "state": 3}))
    columns = open_reader(root).columns
    assert columns["action"].names == ("arm_0", "arm_1", "action_2") and columns["observation.state"].names is None


def test_columns_without_a_place_are_said(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    add_columns(root, {name: [np.zeros((n, 2), np.float32) for n in LENGTHS] for name in ("force", "actions")})
    schema = schema_of(open_reader(root))
    for name in ("force", "actions"):
        assert any(remark.startswith(f"{name} is left out: observations are called") for remark in schema.remarks)
    assert not any("timestamp" in remark or "next." in remark for remark in schema.remarks)


def test_dtypes_and_shapes_in_other_words(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    held = features(root)
    held["action"] |= {"dtype": "torch.float32", "shape": 3}
    held["observation.state"]["dtype"] = "Float32"
    changed(root, features=held)
    np.testing.assert_array_equal(Dataset(root).actions[: LENGTHS[0]], numbers(0, LENGTHS[0])["action"])
    held["action"]["dtype"] = "decimal"
    changed(root, features=held)
    with pytest.raises(PolysomaError, match="action cannot be read: columns of decimal are not read"):
        schema_of(open_reader(root))


def test_an_action_that_is_true_or_false_is_a_choice(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    tables(root, lambda table: put(table, "action", pa.array([n % 2 == 0 for n in range(len(table))])))
    changed(root, features=features(root) | {"action": {"dtype": "bool", "shape": [1], "names": None}})
    data = Dataset(root)
    assert data.embodiment.actions == DiscreteActions(("action_0", "action_1"))
    assert data.actions[: LENGTHS[0]].tolist() == [1, 0, 1, 0, 1, 0, 1]


def test_shapes_of_billions_are_left_out(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    held = features(root)
    held["observation.vast"] = {"dtype": "float32", "shape": [10**30], "names": None}
    held["observation.none"] = {"dtype": "float32", "shape": [0], "names": None}
    changed(root, features=held)
    (root / "meta/modality.json").write_text(json.dumps({"state": {"a": {"start": 0, "end": 10**30}}}))
    assert set(open_reader(root).left_out) >= {"observation.vast", "observation.none"}


def test_an_action_that_cannot_be_told_has_a_remedy(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    renamed(root, {"action": "commanded"})
    with pytest.raises(PolysomaError, match=r'embodiment\.toml with the line `column = "NAME"` under \[actions\]'):
        schema_of(open_reader(root))


def test_what_is_left_out_is_said_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    held = features(root)
    for name, shape in (("gray", [32, 32, 1]), ("rgba", [32, 32, 4])):
        held[f"observation.images.{name}"] = {"dtype": "image", "shape": shape, "names": None}
    held["observation.brain"] = {"dtype": "bfloat16", "shape": [3], "names": None}
    changed(root, features=held)
    for command in (["data", "info", str(root)], ["data", "convert", str(root), str(tmp_path / "copy")]):
        main(command)
        said = capsys.readouterr().out
        assert all(name in said for name in ("gray", "rgba", "observation.brain")), command
    main(["data", "schema", str(root)])
    assert "observation.images.gray is left out" in (root / "embodiment.toml").read_text()


def test_next_success_that_is_never_true_is_a_failure(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    flags = [np.zeros(length, bool) for length in LENGTHS]
    flags[1][2] = True
    add_columns(root, {"next.success": flags})
    assert Dataset(root).episode_success.tolist() == [False, True, False]
    assert [open_reader(root).ending(episode).success for episode in range(3)] == [False, True, False]
    convert(root, tmp_path / "copy")
    assert Dataset(tmp_path / "copy").episode_success.tolist() == [False, True, False]
    pytest.importorskip("h5py")
    main(["data", "convert", str(root), str(tmp_path / "arm-v0"), "--format", "minari"])
    assert open_reader(tmp_path / "arm-v0").successes.tolist() == [False, True, False]  # type: ignore[union-attr]


def test_joined_tables_that_leave_our_own_columns_empty(tmp_path: Path) -> None:
    root = write_v3(tmp_path / "set", "image")
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    for name, values in (("success", [False, None, True]), ("terminated", [True, None, None])):
        table = table.append_column(f"polysoma/{name}", pa.array(values, pa.bool_()))
    pq.write_table(table.append_column("polysoma/truncated", pa.nulls(3, pa.bool_())), path)
    endings = [open_reader(root).ending(episode) for episode in range(3)]
    assert [ending.success for ending in endings] == [False, True, True]
    assert [ending.terminated for ending in endings] == [True, False, False]


# Which files.


def test_placeholders_and_version_of_a_hand_written_info(tmp_path: Path) -> None:
    for number, (write, version, template) in enumerate(
        [
            (write_v2, "v2.1", "data/chunk-{chunk_index:03d}/episode_{episode_index:06d}.parquet"),
            (write_v2, "v2.1", "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"),
            (write_v3, "v3.0", "data/chunk-{episode_chunk:03d}/file-{episode_index:03d}.parquet"),
            (write_v3, "v3.0", None),
        ]
    ):
        root = write(tmp_path / f"set-{number}", kind="image")  # type: ignore[operator]
        changed(root, data_path=template, codebase_version=None, fps=None)
        reader = open_reader(root)
        assert reader.format == f"LeRobotDataset {version}" and reader.fps is None
        np.testing.assert_array_equal(reader.read(2)["action"], numbers(2, 12)["action"])
        assert any("codebase_version" in remark for remark in schema_of(reader).remarks)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data_path": "data/{nothing}.parquet"}, r"info\.json: data_path: .* asks for \{nothing\}, which is none of"),
        ({"features": None}, "expected `features`"),
        ({"features": {"action": {"dtype": "float32"}}}, "action: expected dtype and shape, shape is missing"),
    ],
)
def test_what_is_missing_is_named(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    changed(root, **fields)
    with pytest.raises(PolysomaError, match=message):
        open_reader(root).read(0)


def test_missing_films_are_found_at_once_and_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_v2(tmp_path / "set")
    truth = Dataset(root).actions.copy()
    (root / FILM.format(1)).unlink()
    with monkeypatch.context() as patch:
        # No picture is decoded before.
        patch.setattr("polysoma.data.video.Video.read", lambda *args: pytest.fail("decoded"))
        with pytest.raises(PolysomaError, match=r"1 of 3 episodes cannot be read \(1\): .*000001\.mp4"):
            Dataset(root)
        with pytest.raises(PolysomaError, match=r"--skip-damaged"):
            convert(root, tmp_path / "copy")
    data = Dataset(root, skip_damaged=True)
    assert list(data.left_out) == [1] and data.episode_seed.tolist() == [0, 2]
    np.testing.assert_array_equal(data.actions, np.concatenate([truth[:7], truth[11:]]))
    # One that cannot be decoded, too; it is found once.
    (root / FILM.format(0)).write_bytes(b"no film")
    for _ in range(2):
        data = Dataset(root, skip_damaged=True)
        assert sorted(data.left_out) == [0, 1] and data.episode_seed.tolist() == [2]
        np.testing.assert_array_equal(data.actions, truth[11:])
    # So it is where the note about it is damaged.
    (note,) = user_cache(root).glob("*.unread.json")
    for content in ("{", '{"one": "gone"}'):
        note.write_text(content)
        assert sorted(Dataset(root, skip_damaged=True).left_out) == [0, 1]
    main(["data", "convert", str(root), str(tmp_path / "copy"), "--skip-damaged"])
    said = capsys.readouterr().out
    assert "1 episode written" in said and "episode_000000.mp4" in said and "episode_000001.mp4" in said


def test_the_doctor_counts_missing_films(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set")
    for episode in (0, 2):
        (root / FILM.format(episode)).unlink()
    found = [problem for problem in examine(root).problems if "missing" in problem.what]
    assert [(problem.where, problem.what) for problem in found if problem.where.startswith("observation")] == [
        ("observation.images.front", f"2 of its videos are missing, such as {FILM.format(0)}")
    ]


# Recordings of real robots, where they are at hand.


def real(name: str) -> Path:
    if not (REAL / name).is_dir():
        pytest.skip(f"there is no {REAL / name}")
    return REAL / name


@pytest.mark.parametrize(("name", "episodes", "frames", "channel"), [
    ("g1_real", 24, 7812, "kLeftShoulderPitch"), ("cr5_real", 24, 5438, "joint_0_vel"),
])  # fmt: skip
def test_real_recordings_are_read_as_they_lie(name: str, episodes: int, frames: int, channel: str) -> None:
    reader = open_reader(real(name))
    assert (len(reader), int(reader.lengths.sum())) == (episodes, frames) and "" not in reader.instructions
    schema = schema_of(reader)
    assert not [remark for remark in schema.remarks if "have no names" in remark]
    assert (reader.columns["action"].names or ())[0] == channel
    (camera,) = [name for name, column in reader.columns.items() if column.picture]
    last = int(reader.lengths[5]) - 1
    whole, end = reader.window(5, last - 3, last + 1, [camera]), reader.window(5, last, last + 1, [camera])
    np.testing.assert_array_equal(whole[camera][-1:], end[camera])
    assert reader.absent(list(reader.columns)) == {}


def test_a_real_recording_without_its_films_says_so() -> None:
    reader = open_reader(real("so101_real"))
    assert sorted(reader.missing()) == ["observation.images.front", "observation.images.top"]
    assert {stream.name for stream in schema_of(reader).embodiment.arrays} == {"state"}
    assert len(reader.absent(list(reader.columns))) == 4
    assert sum(problem.severity == "error" for problem in examine(real("so101_real")).problems) == 2


@pytest.mark.parametrize(
    ("scale", "unit", "remark"),
    [(1.0, "rad", None), (60.0, "deg", "is a guess from numbers up to"), (2000.0, "1", "are ticks of servos")],
)
def test_units_that_are_guessed_are_named_as_guesses(
    scale: float, unit: str, remark: str | None, tmp_path: Path
) -> None:
    root = write_v2(tmp_path / "set", kind="image")

    def scaled(table: pa.Table) -> pa.Table:
        rows = np.stack(table["action"].to_numpy(zero_copy_only=False))
        rows = (1 + rows - rows.min()) * scale
        return put(table, "action", pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 3))

    tables(root, scaled)
    schema = schema_of(open_reader(root))
    assert [channel.unit for channel in schema.embodiment.actions.channels][:2] == [unit, unit]  # type: ignore[union-attr]
    told = [text for text in schema.remarks if text.startswith("action: ") and "numbers up to" in text]
    assert [remark in text for text in told] == [True] if remark else not told  # type: ignore[operator]


@pytest.mark.parametrize(("pixels", "unit"), [(0.5, "m"), (512.0, "unknown")])
def test_places_that_are_no_metres_are_not_called_so(
    pixels: float, unit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    held = features(root)
    held["action"]["names"] = ["x", "y", "gripper"]
    changed(root, features=held)

    def scaled(table: pa.Table) -> pa.Table:
        rows = np.stack(table["action"].to_numpy(zero_copy_only=False))
        rows = (rows - rows.min()) / np.ptp(rows) * (pixels, pixels, 1)
        return put(table, "action", pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), 3))

    tables(root, scaled)
    main(["data", "info", str(root)])
    said = " ".join(capsys.readouterr().out.split())
    assert said.count(f" {unit} moves") == 2
    unknown = "(x, y) are pixels or millimetres, say, and hardly metres: their unit is unknown"
    assert (unknown in said) == (unit == "unknown")
    # What names tell is a guess as well, and called so.
    assert ("units are guesses from names: " in said and "m for x, y" in said) == (unit == "m")


def test_times_of_the_day_and_rows_that_were_cut_at_the_beginning(tmp_path: Path) -> None:
    for number, begins in enumerate((0.0, 1.7e9)):
        root = write_v2(tmp_path / f"set-{number}")
        # The film has three more frames, at its beginning where times say so, else at its end.
        frames = np.concatenate([pictures(2, 12), pictures(2, 3)])
        film(root, 2, frames, FPS)
        path = root / "data/chunk-000/episode_000002.parquet"
        first = 3 if begins == 0 else 0
        times = begins + (first + np.arange(12)) / FPS
        pq.write_table(put(pq.read_table(path), "timestamp", pa.array(times)), path)
        held = features(root)
        held["timestamp"]["dtype"] = "float64"
        changed(root, features=held)
        assert near(open_reader(root).read(2)["observation.images.front"], frames[first : first + 12])


def test_pictures_of_sixteen_bits_are_not_squeezed_into_eight(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    file = io.BytesIO()
    Image.fromarray(np.full((32, 32), 3000, np.uint16)).save(file, "PNG")
    cell = pa.array([{"bytes": file.getvalue(), "path": None}])
    tables(root, lambda t: put(t, "observation.images.front", pa.concat_arrays([cell] * len(t))))
    with pytest.raises(PolysomaError, match="expected a picture of 8 bits a colour"):
        open_reader(root).read(0)

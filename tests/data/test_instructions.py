"""Words: wherever they lie in the files, and where they change within an episode."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from make_arrays import minari, write_minari
from make_lerobot import LENGTHS, TASKS, numbers, table, write_v2
from make_rlds import LENGTHS as STEPS
from make_rlds import TEXT, TRUTH, bytes_list, described, write
from polysoma.data import layout
from polysoma.data.convert import convert
from polysoma.data.dataset import Dataset, DatasetWriter
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import Part
from polysoma.data.formats.words import parts_of
from polysoma.data.instructions import cut, parts_in
from polysoma.data.schema import schema_of
from polysoma.errors import PolysomaError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        ([], [(0, "")]),
        (["", " "], [(0, "")]),
        (["a", "a"], [(0, "a")]),
        (["", "a", "a"], [(0, "a")]),
        (["a", "", "a", "b", "b", ""], [(0, "a"), (3, "b")]),
        (["", "a", "b", "a"], [(0, "a"), (2, "b"), (3, "a")]),
    ],
)
def test_texts_of_frames_become_parts(texts: list[str], parts: list[tuple[int, str]]) -> None:
    assert [(part.start, part.instruction) for part in parts_of(texts)] == parts


def rlds(root: Path, texts: dict[str, Any], without: str = "steps/language_instruction") -> Path:
    """A data set whose texts are these, each from an episode's number of steps to its values."""
    features = described()
    inner = features["featuresDict"]["features"]
    step = inner["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    del step["language_instruction"]
    for key in texts:
        folder, _, name = key.rpartition("/")
        places = {
            "steps": step, "steps/observation": step["observation"]["featuresDict"]["features"],
            "episode_metadata": inner["episode_metadata"]["featuresDict"]["features"],
        }  # fmt: skip
        places[folder][name] = TEXT

    def change(seed: int, held: dict[str, bytes]) -> None:
        del held[without]
        for key, values in texts.items():
            held[key] = bytes_list([text.encode() for text in values(seed, STEPS[seed])])

    return write(root, change, features)


SAID: dict[str, dict[str, Any]] = {
    "from step 1 on": {"steps/language_instruction": lambda seed, n: ["", *[f"go {seed}"] * n][-max(n, 1) :]},
    "at step 0 alone": {"steps/language_instruction": lambda seed, n: [f"go {seed}"] + [""] * (n - 1)},
    "of the episode": {"episode_metadata/language_instruction": lambda seed, n: [f"go {seed}"]},
    "second describer": {
        "steps/language_instruction": lambda seed, n: [""] * n,
        "steps/language_instruction_2": lambda seed, n: [f"go {seed}"] * n,
    },
    "among the observations": {"steps/observation/natural_language_instruction": lambda seed, n: [f"go {seed}"] * n},
    "plain": {"steps/instruction": lambda seed, n: [f"go {seed}"] * n},
}  # fmt: skip


@pytest.mark.parametrize("where", SAID)
def test_words_of_rlds_are_found(where: str, tmp_path: Path) -> None:
    reader = open_reader(rlds(tmp_path / "set", SAID[where]))
    assert list(reader.instructions) == [f"go {seed}" for seed in range(len(STEPS))]
    assert not reader.changes
    assert not any(problem.severity == "error" for problem in reader.problems())


def test_an_episode_of_rlds_is_cut_where_its_words_change(tmp_path: Path) -> None:
    root = rlds(
        tmp_path / "set",
        {"steps/language_instruction": lambda seed, n: ["open"] * (n - n // 2) + [f"close {seed}"] * (n // 2)},
    )
    reader = open_reader(root)
    # The reader gives whole episodes, and says what each is told.
    assert reader.lengths.tolist() == list(STEPS)
    assert parts_in(reader, 0) == [Part(0, "open"), Part(3, "close 0")] and parts_in(reader, 1) == [Part(0, "open")]
    data = Dataset(root)
    # The last step of each is an observation alone.
    parts = [(0, 0, 3), (0, 3, 4), (2, 0, 4), (2, 4, 6), (3, 0, 2)]
    assert data.episode_length.tolist() == [stop - start for _, start, stop in parts]
    assert [data.instructions[number] for number in data.episode_instruction] == [
        "open", "close 0", "open", "close 2", "open"
    ]  # fmt: skip
    for number, (seed, start, stop) in enumerate(parts):
        episode, truth = data.episode(number), TRUTH[seed]
        np.testing.assert_array_equal(episode.actions, truth["action"][start:stop])
        np.testing.assert_array_equal(episode.rewards, truth["reward"][start:stop])
        np.testing.assert_array_equal(episode.observations["front"], data.observations["front"][_rows(data, number)])
        assert episode.final is not None
        np.testing.assert_array_equal(episode.final["state"], truth["observation.state"][stop])
        ends = stop == STEPS[seed] - 1
        assert (episode.terminated, episode.truncated) == ((seed % 2 == 1, seed % 2 == 0) if ends else (False, True))
    convert(root, tmp_path / "out")
    own = Dataset(tmp_path / "out")
    assert own.episode_length.tolist() == data.episode_length.tolist() and own.instructions == data.instructions


def _rows(data: Dataset, number: int) -> slice:
    begin = int(data.episode_start[number])
    return slice(begin, begin + int(data.episode_length[number]))


@pytest.mark.parametrize("layout", ["hdf5", "arrow"])
def test_missions_that_change(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    texts = [["open", "open", "close", "close"], ["open"] * 3]

    class Told(EpisodeBuffer):  # type: ignore[misc]
        pass

    real = minari.create_dataset_from_buffers

    def create(name: str, buffers: list[Any], **about: Any) -> Any:
        changed = []
        for buffer in buffers:
            seen = dict(buffer.observations)
            count = len(seen["mission"])
            seen["mission"] = (texts[buffer.id % 2] + ["close"] * count)[:count] if buffer.id == 0 else ["open"] * count
            changed.append(Told(**{**vars(buffer), "observations": seen}))
        return real(name, changed, **about)

    monkeypatch.setattr(minari, "create_dataset_from_buffers", create)
    root = write_minari(tmp_path, monkeypatch, layout)
    data = Dataset(root)
    assert data.episode_length.tolist() == [2, 3, 8, 3]
    assert [data.instructions[number] for number in data.episode_instruction] == ["open", "close", "open", "open"]
    first = data.episode(0)
    assert first.final is not None and (first.terminated, first.truncated) == (False, True)
    np.testing.assert_array_equal(first.final["state"], data.episode(1).observations["state"][0])


def test_whole_episodes_stay_as_they_are(tmp_path: Path) -> None:
    reader = open_reader(write_v2(tmp_path / "set", kind="image"))
    assert cut(reader) is reader


def retold(root: Path, *words: str) -> None:
    """Changes the instructions of all episodes."""
    lines = [json.loads(line) for line in (root / "meta/episodes.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(line | {"tasks": [words[n % len(words)]]}) + "\n" for n, line in enumerate(lines))
    (root / "meta/episodes.jsonl").write_text(text)
    tasks = "".join(json.dumps({"task_index": n, "task": words[n % len(words)]}) + "\n" for n in range(2))
    (root / "meta/tasks.jsonl").write_text(tasks)


def test_corrected_words_never_double_a_conversion(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    retold(root, "pikc it up")
    convert(root, tmp_path / "out")
    retold(root, "pick it up")
    with pytest.raises(PolysomaError, match=r"episode 0 is there as .*pikc it up.* calls it .*pick it up"):
        convert(root, tmp_path / "out")
    assert Dataset(tmp_path / "out").episode_length.tolist() == list(LENGTHS)
    assert convert(root, tmp_path / "new").written == 3
    again = convert(root, tmp_path / "new")
    assert (again.written, again.there) == (0, 3)
    own = Dataset(tmp_path / "new")
    assert own.instructions == ["pick it up"] != TASKS
    np.testing.assert_array_equal(own.actions, np.concatenate([numbers(e, n)["action"] for e, n in enumerate(LENGTHS)]))


def write_numbered(root: Path, seeds: Sequence[int]) -> Path:
    """A data set of v2.1 whose episodes have the numbers of these seeds, of 8 frames and up."""
    write_v2(root, kind="image")
    lines = [{"episode_index": n, "tasks": TASKS[:1], "length": 8 + seed} for n, seed in enumerate(seeds)]
    (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for place, seed in enumerate(seeds):
        pq.write_table(table(seed, 8 + seed, 0, "image"), root / f"data/chunk-000/episode_{place:06d}.parquet")
    return root


def test_a_conversion_goes_on_after_more_was_recorded(tmp_path: Path) -> None:
    convert(write_numbered(tmp_path / "set", [0, 1]), tmp_path / "out")
    before = Dataset(tmp_path / "out").embodiment
    shutil.rmtree(tmp_path / "set")
    done = convert(write_numbered(tmp_path / "set", [0, 1, 2]), tmp_path / "out")
    assert (done.written, done.there) == (1, 2) and any("limits of actions stay" in note for note in done.notes)
    own = Dataset(tmp_path / "out")
    assert own.embodiment == before and own.episode_length.tolist() == [8, 9, 10]


def test_a_conversion_goes_on_that_was_killed_at_its_beginning(tmp_path: Path) -> None:
    root = write_numbered(tmp_path / "set", [0, 1])
    DatasetWriter(tmp_path / "out", schema_of(open_reader(root)).embodiment).close()
    done = convert(root, tmp_path / "out")
    assert (done.written, done.there) == (2, 0)


@pytest.mark.parametrize(
    ("seeds", "message"), [([1, 2], "episode 0 is there with 8 frames"), ([0, 1], "episode 1 is there with other act")]
)
def test_a_conversion_never_mixes_what_was_recorded_anew(seeds: list[int], message: str, tmp_path: Path) -> None:
    root = write_numbered(tmp_path / "set", [0, 1])
    convert(root, tmp_path / "out")
    described = layout.read_polysoma(tmp_path / "out")
    if seeds == [0, 1]:
        path = root / "data/chunk-000/episode_000001.parquet"
        held = pq.read_table(path)
        place = held.schema.get_field_index("action")
        # The same length and range.
        pq.write_table(held.set_column(place, "action", held["action"].take(pa.array(range(8, -1, -1)))), path)
    else:
        shutil.rmtree(root)
        write_numbered(root, seeds)
    with pytest.raises(PolysomaError, match=message):
        convert(root, tmp_path / "out")
    assert layout.read_polysoma(tmp_path / "out") == described
    assert Dataset(tmp_path / "out").episode_length.tolist() == [8, 9]

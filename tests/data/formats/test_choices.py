"""Actions that are choices, or lie in several arrays, as Minari writes the spaces of Gymnasium."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from make_arrays import LENGTHS, write_minari_spaces
from make_lerobot import LENGTHS as FRAMES
from make_lerobot import add_columns, drop_columns, write_v2
from polysoma.data.convert import convert
from polysoma.data.dataset import Dataset
from polysoma.data.description import read_schema, write_schema
from polysoma.data.formats import open_reader
from polysoma.data.schema import infer, schema_path
from polysoma.embodiment import ContinuousActions, DiscreteActions
from polysoma.errors import PolysomaError

BOX = spaces.Box(-1, 1, (3,), np.float32)
LAYOUTS = pytest.mark.parametrize("layout", ["hdf5", "arrow"])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


CHOICES: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
    "from 5 on": (spaces.Discrete(3, start=5), [(5,), (6,), (7,)]),
    "from -1 on": (spaces.Discrete(3, start=-1), [(-1,), (0,), (1,)]),
    "several": (spaces.MultiDiscrete([3, 4]), list(itertools.product(range(3), range(4)))),
    "several with starts": (
        spaces.MultiDiscrete([2, 2], start=[1, -1]), [(1, -1), (1, 0), (2, -1), (2, 0)]
    ),
    "a table": (spaces.MultiDiscrete([[2, 2], [2, 3]]), list(itertools.product((0, 1), (0, 1), (0, 1), (0, 1, 2)))),
    "bits": (spaces.MultiBinary(3), list(itertools.product(range(2), repeat=3))),
    "by name": (
        spaces.Dict({"b": spaces.Discrete(2, start=3), "a": spaces.Discrete(2)}), [(0, 3), (0, 4), (1, 3), (1, 4)]
    ),
}  # fmt: skip


@LAYOUTS
@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_choices(name: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space, values = CHOICES[name]
    root, truth = write_minari_spaces(tmp_path, monkeypatch, layout, BOX, space)
    reader = open_reader(root)
    rows = []
    for episode, actions in enumerate(truth):
        parts = [actions[key] for key in sorted(actions)] if isinstance(actions, dict) else [actions]
        flat = np.concatenate([np.reshape(part, (LENGTHS[episode], -1)) for part in parts], 1)
        # The reader gives what Minari gives.
        np.testing.assert_array_equal(reader.read(episode)["action"].reshape(LENGTHS[episode], -1), flat)
        rows += [values.index(tuple(row)) for row in flat.tolist()]
    schema = infer(reader)
    assert schema.embodiment.actions == DiscreteActions(
        tuple("action_" + "_".join(map(str, value)) for value in values)
    )
    assert Dataset(root).actions.tolist() == rows
    write_schema(schema, schema_path(root))
    assert read_schema(schema_path(root)) == schema
    convert(root, tmp_path / "out")
    assert Dataset(tmp_path / "out").actions.tolist() == rows == Dataset(root).actions.tolist()


@LAYOUTS
def test_actions_in_parts_are_one(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = spaces.Box(-1, 1, (2,), np.float32)
    space = spaces.Dict({"grip": spaces.Box(0, 1, (1,), np.float64), "arm": spaces.Tuple((wide, BOX))})
    root, truth = write_minari_spaces(tmp_path, monkeypatch, layout, BOX, space)
    body = infer(open_reader(root)).embodiment
    assert isinstance(body.actions, ContinuousActions)
    arm = [f"arm._index_0_{n}" for n in range(2)] + [f"arm._index_1_{n}" for n in range(3)]
    assert [channel.name for channel in body.actions.channels] == [*arm, "grip"]
    parts = [np.concatenate([*acts["arm"], acts["grip"]], 1).astype(np.float32) for acts in truth]
    np.testing.assert_array_equal(Dataset(root).actions, np.concatenate(parts))


@LAYOUTS
def test_observations_in_tuples(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spaces.Tuple((BOX, spaces.Discrete(4), spaces.Dict({"q": BOX})))
    root, _ = write_minari_spaces(tmp_path, monkeypatch, layout, seen, BOX)
    data = Dataset(root)
    assert {name: values.shape[1:] for name, values in data.observations.items()} == {
        "_index_0": (3,), "_index_1": (1,), "_index_2.q": (3,)
    }  # fmt: skip
    import minari

    theirs = [minari.load_dataset("toys/any-v0")[number].observations for number in range(len(LENGTHS))]
    for name, of in (("_index_0", lambda o: o[0]), ("_index_2.q", lambda o: o[2]["q"])):
        truth = np.concatenate([of(seen)[:-1] for seen in theirs])
        np.testing.assert_array_equal(data.observations[name], truth)
        np.testing.assert_array_equal(data.final[name], np.stack([of(seen)[-1] for seen in theirs]))


@LAYOUTS
@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Dict({"a": BOX, "g": spaces.Discrete(3)}), "partly numbers and partly choices.*actions/g is Discrete"),
        (spaces.MultiDiscrete([20, 20]), "at most 256 choices as actions, got 400"),
        (spaces.MultiBinary(40), "at most 256 choices"),
    ],
)
def test_actions_that_are_not_read_are_named(
    space: Any, message: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = write_minari_spaces(tmp_path, monkeypatch, layout, BOX, space)
    with pytest.raises(PolysomaError, match=message):
        open_reader(root)


def test_numbers_that_stand_for_no_choice_are_refused(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    drop_columns(root, "action")
    add_columns(root, {"action": [np.arange(length) % 3 - 1 for length in FRAMES]})
    schema = infer(open_reader(root))
    assert schema.embodiment.actions == DiscreteActions(("action_-1", "action_0", "action_1"))
    np.testing.assert_array_equal(schema.chosen("x", np.array([[1], [-1]])), [2, 0])
    for wrong in (2, 0.5):
        with pytest.raises(PolysomaError, match=f"x: expected choices -1 to 1, got {wrong} at frame 1"):
            schema.chosen("x", np.array([[1], [wrong]]))
    write_schema(schema, schema_path(root))
    schema_path(root).write_text(schema_path(root).read_text().replace("[[-1], [0], [1]]", "[[-1], [0]]"))
    with pytest.raises(PolysomaError, match="values: expected the numbers of each of 3 names"):
        read_schema(schema_path(root))

"""Names of columns that mean something else here, that two columns share, or that PyTorch does not take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conftest import ARM, ROOT
from make_arrays import LENGTHS as ARRAY_LENGTHS
from make_arrays import h5py, write_robomimic
from make_lerobot import LENGTHS, add_columns, changed, drop_columns, numbers, pictures, write_v2
from polysoma.data.convert import convert
from polysoma.data.dataset import Dataset
from polysoma.data.description import read_schema, write_schema
from polysoma.data.formats import open_reader
from polysoma.data.schema import infer, schema_path
from polysoma.embodiment import Embodiment, Modality, Stream, channels
from polysoma.errors import PolysomaError
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.nn import precision
from polysoma.policy import checkpoint


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def arm(root: Path, **columns: list[np.ndarray]) -> Path:
    """An arm without pictures, and what else there is of each episode."""
    write_v2(root, kind="image")
    drop_columns(root, "observation.images.front")
    add_columns(root, columns)
    return root


def rows(size: int, shift: float = 0) -> list[np.ndarray]:
    """Values for each episode, all different."""
    return [shift + np.arange(n * size, dtype=np.float32).reshape(n, size) + 100 * e for e, n in enumerate(LENGTHS)]


def acts(root: Path, out: Path, **observation: np.ndarray) -> np.ndarray:
    """What a policy that learnt from a data set a little does."""
    table = {
        "data": [str(root)], "steps": 2, "optimizer": {"warmup": 1}, "bodies": {"test-arm": {"batch": 4}},
        "policy": {"width": 16, "depth": 1, "heads": 2},
    }  # fmt: skip
    folder = train(recipe_from_table(table, "test"), out)
    agent = checkpoint.load(folder).agent("test-arm", "drop it")
    action = agent.act(observation)
    assert isinstance(action, np.ndarray)
    return action


def test_an_observation_called_action_is_never_the_target(tmp_path: Path) -> None:
    nothing = np.zeros((1, 3), np.float32)
    before = [np.concatenate([nothing, numbers(e, n)["action"][:-1]]) for e, n in enumerate(LENGTHS)]
    root = arm(tmp_path / "set", **{"observation.action": before})
    schema = infer(open_reader(root))
    assert schema.columns == {
        "state": "observation.state", "observed_action": "observation.action", "action": "action"
    }  # fmt: skip
    assert any("observed_action" in remark for remark in schema.remarks)
    data = Dataset(root)
    truth = np.concatenate([numbers(e, n)["action"] for e, n in enumerate(LENGTHS)])
    np.testing.assert_array_equal(data.actions, truth)
    np.testing.assert_array_equal(data.observations["observed_action"], np.concatenate(before))


def test_an_observation_called_instruction_is_a_state(tmp_path: Path) -> None:
    root = arm(tmp_path / "set", **{"observation.instruction": rows(5)})
    data = Dataset(root)
    np.testing.assert_array_equal(data.observations["observed_instruction"], np.concatenate(rows(5)))
    assert data.instructions == ["lift the cube", "drop it"]


def test_a_camera_and_a_state_of_one_name_are_two_streams(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    add_columns(root, {"observation.front": rows(2)})
    body = infer(open_reader(root)).embodiment
    assert {stream.name: stream.modality for stream in body.arrays} == {
        "state": Modality.STATE, "front": Modality.IMAGE, "front_state": Modality.STATE
    }  # fmt: skip
    np.testing.assert_array_equal(Dataset(root).observations["front_state"], np.concatenate(rows(2)))


def test_two_cameras_that_would_be_called_alike_are_both_read(tmp_path: Path) -> None:
    root = write_v2(tmp_path / "set", kind="image")
    drop_columns(root, "observation.images.front")
    one = [pictures(e, n) for e, n in enumerate(LENGTHS)]
    other = [255 - picture for picture in one]
    add_columns(root, {"observation.image": one, "image": other})
    data = Dataset(root)
    np.testing.assert_array_equal(data.observations["image"][:], np.concatenate(one))
    np.testing.assert_array_equal(data.observations["image_2"][:], np.concatenate(other))


def test_groups_in_groups_and_dots_in_names_stay_apart(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            length = len(demo["actions"])
            demo["obs/arm/q"] = np.full((length, 2), 1.0)
            demo["obs/arm.q"] = np.full((length, 2), 2.0)
    held = open_reader(path).read(0)
    values = sorted(float(held[name][0, 0]) for name in ("observation.arm.q", "observation.arm.q_2"))
    assert values == [1, 2]
    assert set(ARRAY_LENGTHS) == set(open_reader(path).lengths.tolist())


@pytest.mark.parametrize(
    "name", ["state.joint_position", "type", "values", "length", "previous", "half", "forward", "T_destination", "a%2E"]
)
def test_a_policy_trains_acts_and_is_exported_with_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime", reason="exporting needs pip install 'polysoma[export]'")
    root = arm(tmp_path / "set", **{f"observation.{name}": rows(2)})
    state = np.zeros(3, np.float32)
    action = acts(root, tmp_path / "run", state=state, **{name: np.zeros(2, np.float32)})
    assert action.shape == (3,) and np.isfinite(action).all()
    from polysoma.policy.export import export_onnx

    policy = checkpoint.load_for_training(tmp_path / "run" / "checkpoint")
    export_onnx(policy, "test-arm", tmp_path / "arm.onnx")
    monkeypatch.setenv(precision.VARIABLE, "float32")
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import edge

    runner = edge.Runner(str(tmp_path / "arm.onnx"), "drop it")
    other = checkpoint.load(tmp_path / "run" / "checkpoint").agent("test-arm", "drop it")
    seen = {"state": np.ones(3, np.float32), name: np.full(2, 2, np.float32)}
    np.testing.assert_allclose(runner.act(seen)[0], other.act(seen), atol=1e-4)


def test_a_robot_with_a_dot_in_its_name(tmp_path: Path) -> None:
    root = arm(tmp_path / "set")
    schema = infer(open_reader(root))
    write_schema(schema, schema_path(root))
    text = schema_path(root).read_text().replace('name = "test-arm"', 'name = "arm.v2"', 1)
    schema_path(root).write_text(text)
    table = {
        "data": [str(root)], "steps": 1, "optimizer": {"warmup": 1}, "bodies": {"arm.v2": {"batch": 4}},
        "policy": {"width": 16, "depth": 1, "heads": 2},
    }  # fmt: skip
    folder = train(recipe_from_table(table, "test"), tmp_path / "run")
    assert checkpoint.load(folder).embodiment("arm.v2").name == "arm.v2"


def test_a_body_has_no_array_called_as_its_action() -> None:
    for name in ("action", "instruction"):
        with pytest.raises(PolysomaError, match="no array stream can be called"):
            Embodiment("arm", (Stream(name, Modality.STATE, (2,), channels("x y")),), ARM.actions, 10)


def test_names_in_any_script_survive_the_description(tmp_path: Path) -> None:
    names = ["Gelenk \u00fc", "\U0001f9be grip", 'line\nfeed\x7f\x1b[2J \\ " #']
    root = arm(tmp_path / "set")
    described = open_reader(root).info["features"]  # type: ignore[attr-defined]
    described["action"]["names"] = names
    described["observation.odd\n[x] = 1"] = {"dtype": "string", "shape": [1], "names": None}
    changed(root, features=described, robot_type="\U0001f9be\n[arm]")
    schema = infer(open_reader(root))
    write_schema(schema, tmp_path / "arm.toml")
    again = read_schema(tmp_path / "arm.toml")
    assert again.embodiment == schema.embodiment
    assert [channel.name for channel in again.embodiment.actions.channels] == names  # type: ignore[union-attr]


def test_a_conversion_keeps_all_columns(tmp_path: Path) -> None:
    added = {"observation.action": rows(3), "observation.images.x": rows(2), "observation.a.b": rows(1)}
    root = arm(tmp_path / "set", **added)
    convert(root, tmp_path / "out")
    ours, theirs = Dataset(tmp_path / "out"), Dataset(root)
    assert set(ours.observations) == {"state", "observed_action", "x", "a.b"}
    for name, values in theirs.observations.items():
        np.testing.assert_array_equal(ours.observations[name], values)

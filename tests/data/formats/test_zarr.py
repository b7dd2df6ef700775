"""Diffusion Policy's zarr folders: pictures of all kinds of numbers, files that were not copied, flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from make_arrays import zarr
from polysoma.data.convert import convert
from polysoma.data.dataset import Dataset
from polysoma.data.doctor import examine
from polysoma.data.formats import open_reader
from polysoma.data.formats.reader import Ending
from polysoma.data.schema import schema_of
from polysoma.errors import PolysomaError

ENDS = (20, 40)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(root: Path, version: int = 2, **arrays: Any) -> Path:
    """A replay buffer of two episodes, in chunks of five frames."""
    group = zarr.open_group(str(root), mode="w", zarr_format=version)
    state = np.arange(ENDS[-1] * 2, dtype=np.float32).reshape(-1, 2) + 1
    for name, values in ({"action": state + 5, "state": state} | arrays).items():
        chunks = (5, *values.shape[1:])
        group.create_array(f"data/{name}", shape=values.shape, dtype=values.dtype, chunks=chunks)[:] = values
    group.create_array("meta/episode_ends", data=np.array(ENDS))
    return root


PICTURES = np.random.default_rng(0).integers(0, 256, (ENDS[-1], 8, 12, 3)).astype(np.uint8)
MASK = (PICTURES > 127).astype(np.uint8)
DARK = np.where(np.arange(ENDS[-1])[:, None, None, None] < 39, 0, PICTURES)
DIM = 1.25


@pytest.mark.parametrize(
    ("stored", "truth"),
    [
        (PICTURES, PICTURES),
        (PICTURES.astype(np.float32), PICTURES),
        (PICTURES.astype(np.int64), PICTURES),
        (PICTURES.astype(np.uint16), PICTURES),
        (PICTURES.astype(np.float32) / 255, PICTURES),
        (PICTURES.astype(np.float64) / 255, PICTURES),
        (PICTURES.astype(np.uint16) * 257, PICTURES),
        (DARK.astype(np.uint16) * 257, DARK),
        (np.maximum(DARK.astype(np.uint16) * 257, 200), np.maximum(DARK, 1)),
        (MASK.astype(np.float32), MASK * 255),
        (DARK.astype(np.float32), DARK),
        (DARK.astype(np.float32) / 255, DARK),
        (np.maximum(DARK, DIM).astype(np.float32), np.maximum(DARK, 1)),
    ],
    ids=["bytes", "floats of 255", "integers", "shorts of 255", "floats of 1", "doubles of 1", "shorts of 65535",
         "black shorts of 65535", "dark shorts of 65535", "masks", "dark floats of 255", "dark floats of 1",
         "dim floats of 255"],
)  # fmt: skip
def test_pictures_of_any_numbers(stored: np.ndarray, truth: np.ndarray, tmp_path: Path) -> None:
    root = write(tmp_path / "set.zarr", img=stored)
    reader = open_reader(root)
    np.testing.assert_array_equal(
        np.concatenate([reader.read(0)["observation.images.img"], reader.read(1)["observation.images.img"]]), truth
    )
    np.testing.assert_array_equal(Dataset(root).observations["img"][:], truth)


def test_pictures_whose_white_is_unknown_are_left_out_by_name(tmp_path: Path) -> None:
    root = write(tmp_path / "set.zarr", img=PICTURES.astype(np.uint16) + 300)
    schema = schema_of(open_reader(root))
    assert [stream.name for stream in schema.embodiment.arrays] == ["state"]
    assert any("img is left out: pictures of uint16 with values up to" in remark for remark in schema.remarks)


def test_fractions_that_exceed_one_are_not_taken_for_nearly_black(tmp_path: Path) -> None:
    bright = PICTURES.astype(np.float32) / 255
    bright[0, 3, 3, 0] = 1.0001
    schema = schema_of(open_reader(write(tmp_path / "set.zarr", img=bright)))
    told = "img is left out: pictures of float32 with values up to 1.0001: which number is white"
    assert any(told in remark for remark in schema.remarks)


def test_pixels_that_fit_no_white_are_an_error(tmp_path: Path) -> None:
    odd = PICTURES.astype(np.float32) / 255
    odd[17, 3, 3, 0] = 1.5
    root = write(tmp_path / "set.zarr", img=odd)
    with pytest.raises(PolysomaError, match=r"img, episode 0: expected pixels of 0 to 1, got 0.0 to 1.5"):
        open_reader(root).read(0)
    assert open_reader(root).read(1)["observation.images.img"].max() == 255


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", ["action", "state", "img"])
def test_a_file_that_was_not_copied_never_reads_as_zeros(name: str, version: int, tmp_path: Path) -> None:
    root = write(tmp_path / "set.zarr", version, img=PICTURES)
    key = ".".join(["4"] + ["0"] * (3 if name == "img" else 1))
    (root / "data" / name / (key if version == 2 else "c/" + key.replace(".", "/"))).unlink()
    column = {"action": "action", "state": "observation.state", "img": "observation.images.img"}[name]
    reader = open_reader(root)
    np.testing.assert_array_equal(reader.read(0, ["action"])["action"][:, 0], np.arange(20) * 2 + 6)
    with pytest.raises(PolysomaError, match=f"data/{name}, episode 1: the file .* is missing"):
        reader.read(1, [column])
    assert any(column in remark and "frames 20 to 24" in remark for remark in schema_of(reader).remarks)
    (problem,) = (problem for problem in examine(root).problems if problem.where == column)
    assert problem.severity == "error" and "5 of 40 frames" in problem.what
    with pytest.raises(PolysomaError, match="is missing"):
        convert(root, tmp_path / "out")
    done = convert(root, tmp_path / "out", skip=True)
    assert (done.there, done.written, len(done.skipped)) == (1, 0, 1)


def test_zeros_that_nobody_wrote_are_zeros(tmp_path: Path) -> None:
    """zarr writes no file where a chunk is what it reads as anyway."""
    force = np.zeros((ENDS[-1], 2), np.float32)
    force[11] = 3
    root = write(tmp_path / "set.zarr", force=force, reward=np.zeros(ENDS[-1], np.float32))
    assert not (root / "data/force/0.0").exists()
    data = Dataset(root)
    np.testing.assert_array_equal(data.observations["force"], force)
    assert data.rewards is not None and not data.rewards.any()
    found = {problem.where: problem.severity for problem in examine(root).problems if "not there" in problem.what}
    assert found == {"observation.force": "warning", "reward": "warning"}


def test_missing_ends_are_an_error(tmp_path: Path) -> None:
    root = write(tmp_path / "set.zarr")
    (root / "meta/episode_ends/0").unlink()
    with pytest.raises(PolysomaError, match="episode_ends/0 is missing"):
        open_reader(root)


def test_flags_are_no_observations(tmp_path: Path) -> None:
    done = np.isin(np.arange(ENDS[-1]), [19])
    root = write(
        tmp_path / "set.zarr", done=done, reward=np.ones((ENDS[-1], 1), np.float32), timestamp=np.arange(40) / 10.0,
        success=np.zeros((ENDS[-1], 3), bool),
    )  # fmt: skip
    reader = open_reader(root)
    assert set(reader.columns) == {"action", "observation.state", "done", "reward", "timestamp"}
    assert [reader.ending(number) for number in range(2)] == [Ending(True, False), Ending(False, True)]
    assert "success" in reader.left_out
    assert Dataset(root).rewards is not None


def test_rewards_of_several_numbers_are_left_out_by_name(tmp_path: Path) -> None:
    root = write(tmp_path / "set.zarr", reward=np.ones((ENDS[-1], 2), np.float32))
    assert any("reward is left out" in remark for remark in schema_of(open_reader(root)).remarks)
    assert Dataset(root).rewards is None


def test_frames_of_no_episode_are_said(tmp_path: Path) -> None:
    root = write(tmp_path / "set.zarr")
    assert not any("after the last" in remark for remark in open_reader(root).remarks)
    zarr.open_group(str(root), mode="a")["meta/episode_ends"][:] = np.array([20, 37])
    reader = open_reader(root)
    assert reader.lengths.tolist() == [20, 17]
    assert "3 frames after the last of meta/episode_ends are left out" in reader.remarks


def test_ends_of_episodes_are_whole_numbers(tmp_path: Path) -> None:
    root = write(tmp_path / "set.zarr")
    zarr.open_group(str(root), mode="a")["meta"].create_array(
        "episode_ends", data=np.array([20.5, 40.0]), overwrite=True
    )
    with pytest.raises(PolysomaError, match="meta/episode_ends does not count up"):
        open_reader(root)

"""Formats that keep whole arrays: robomimic and ALOHA (HDF5), Diffusion Policy (zarr), Minari (HDF5 and Arrow).

Files are written by h5py, zarr and Minari themselves.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polysoma.data.formats import is_dataset, open_reader
from polysoma.data.formats.hdf5 import Hdf5Reader
from polysoma.data.formats.minari import MinariReader
from polysoma.data.formats.zarr_buffer import ZarrReader
from polysoma.data.schema import infer
from polysoma.embodiment import DiscreteActions
from polysoma.errors import PolysomaError

h5py = pytest.importorskip("h5py", reason="reading HDF5 needs pip install 'polysoma[data]'")
zarr = pytest.importorskip("zarr", reason="reading zarr needs pip install 'polysoma[data]'")
minari = pytest.importorskip("minari", reason="Minari's files are written by Minari: pip install 'polysoma[dev]'")

LENGTHS = (5, 8, 3)
SHAPE = (12, 16, 3)


def numbers(seed: int, length: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, size]).normal(size=(length, size)).astype(np.float32)


def pictures(seed: int, length: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (length, 3, 4, 3), np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)


def jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def write_robomimic(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
        # Written out of order, with two digits: episodes are in the order of their numbers.
        for seed in (2, 0, 1):
            demo = data.create_group(f"demo_{(0, 2, 10)[seed]}")
            length = LENGTHS[seed]
            demo.attrs["num_samples"] = length
            demo.attrs["ep_meta"] = json.dumps({"lang": f"lift {seed}"})
            demo["actions"] = numbers(seed, length, 7).astype(np.float64)
            demo["rewards"], demo["dones"] = np.arange(length, dtype=np.float64), np.zeros(length, np.int64)
            demo["states"] = numbers(seed, length, 30)
            demo["obs/robot0_eef_pos"] = numbers(seed, length, 3)
            demo["obs/agentview_image"] = pictures(seed, length)
            demo["next_obs/robot0_eef_pos"] = numbers(seed, length, 3)
    return path


def write_aloha(folder: Path, coded: bool) -> Path:
    folder.mkdir()
    for seed, length in enumerate(LENGTHS):
        with h5py.File(folder / f"episode_{(0, 2, 10)[seed]}.hdf5", "w") as file:
            file.attrs["sim"], file.attrs["language_instruction"] = True, f"lift {seed}"
            file["action"] = numbers(seed, length, 7)
            file["observations/qpos"] = numbers(seed, length, 3)
            seen = pictures(seed, length)
            if coded:
                files = [np.frombuffer(jpeg(picture), np.uint8) for picture in seen]
                padded = np.zeros((length, max(map(len, files))), np.uint8)
                for row, content in enumerate(files):
                    padded[row, : len(content)] = content
                seen = padded
            file["observations/images/cam_high"] = seen
    return folder


def write_zarr(folder: Path, version: int) -> Path:
    root = zarr.open_group(str(folder), mode="w", zarr_format=version)
    data, meta = root.create_group("data"), root.create_group("meta")

    def add(group: Any, name: str, values: np.ndarray) -> None:
        group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(4, *values.shape[1:]))[:] = values

    add(data, "action", np.concatenate([numbers(seed, n, 7) for seed, n in enumerate(LENGTHS)]))
    add(data, "state", np.concatenate([numbers(seed, n, 3) for seed, n in enumerate(LENGTHS)]))
    # As in Push-T: pixels in floats.
    add(data, "img", np.concatenate([pictures(seed, n) for seed, n in enumerate(LENGTHS)]).astype(np.float32))
    add(meta, "episode_ends", np.cumsum(LENGTHS))
    return folder


def write_minari(folder: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> Path:
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    sensed = spaces.Dict(
        {
            "state": spaces.Box(-9, 9, (3,), np.float32),
            "camera": spaces.Box(0, 255, SHAPE, np.uint8),
            "mission": spaces.Text(32, charset="abcdefghijklmnopqrstuvwxyz 0123456789"),
        }
    )
    buffers = [
        EpisodeBuffer(
            id=seed,
            observations={
                "state": numbers(seed, length + 1, 3),
                "camera": pictures(seed, length + 1),
                "mission": [f"lift {seed}"] * (length + 1),
            },
            actions=numbers(seed, length, 7),
            rewards=np.arange(length, dtype=np.float64).tolist(),
            terminations=[False] * length,
            truncations=[False] * (length - 1) + [True],
            infos={"success": [False] * length + [seed != 1]},
        )
        for seed, length in enumerate(LENGTHS)
    ]
    minari.create_dataset_from_buffers(
        "arm/lift-v0", buffers, env=None, observation_space=sensed, action_space=spaces.Box(-9, 9, (7,), np.float32),
        data_format=layout, jpeg_encoding=False, algorithm_name="none", author="none", author_email="a@b.c",
        code_permalink="none",
    )  # fmt: skip
    return folder / "arm/lift-v0"


Write = Callable[[Path, pytest.MonkeyPatch], Path]
FORMATS: dict[str, tuple[type, Write]] = {
    "robomimic": (Hdf5Reader, lambda path, patch: write_robomimic(path / "demo.hdf5")),
    "aloha": (Hdf5Reader, lambda path, patch: write_aloha(path / "aloha", False)),
    "aloha jpeg": (Hdf5Reader, lambda path, patch: write_aloha(path / "aloha", True)),
    "zarr 2": (ZarrReader, lambda path, patch: write_zarr(path / "pusht.zarr", 2)),
    "zarr 3": (ZarrReader, lambda path, patch: write_zarr(path / "pusht.zarr", 3)),
    "minari hdf5": (MinariReader, lambda path, patch: write_minari(path, patch, "hdf5")),
    "minari arrow": (MinariReader, lambda path, patch: write_minari(path, patch, "arrow")),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_reads_what_was_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, write = FORMATS[name]
    path = write(tmp_path, monkeypatch)
    assert is_dataset(path)
    reader = open_reader(path)
    assert type(reader) is kind and reader.lengths.tolist() == list(LENGTHS)
    if "zarr" not in name:
        assert list(reader.instructions) == ["lift 0", "lift 1", "lift 2"]
    (camera,) = [column for column, about in reader.columns.items() if about.picture]
    (state,) = [c for c, about in reader.columns.items() if c.startswith("observation.") and not about.picture]
    assert reader.columns[camera].shape == SHAPE and reader.columns["action"].dtype == np.float32
    for episode in (2, 0, 1):
        held, length = reader.read(episode), LENGTHS[episode]
        np.testing.assert_array_equal(held["action"], numbers(episode, length, 7))
        # Minari has one observation more, drawn with the others.
        more = length + 1 if "minari" in name else length
        np.testing.assert_array_equal(held[state], numbers(episode, more, 3)[:length])
        off = np.abs(held[camera].astype(int) - pictures(episode, more)[:length]).mean()
        assert off < (6 if "jpeg" in name else 1e-9) and held[camera].dtype == np.uint8
        part = reader.window(episode, 1, 3, ["action"])
        np.testing.assert_array_equal(part["action"], held["action"][1:3])
    assert [problem for problem in reader.problems() if problem.severity != "note"] == []
    schema = infer(reader)
    assert schema.embodiment.actions.size == 7 and len(schema.embodiment.arrays) == 2
    with pytest.raises(PolysomaError, match="no episode 3"):
        reader.read(3)


def test_what_formats_say_about_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    robomimic = open_reader(write_robomimic(tmp_path / "demo.hdf5"))
    assert (robomimic.robot, robomimic.fps) == ("Lift", 20.0) and "reward" in robomimic.columns
    assert {problem.where for problem in robomimic.problems()} >= {"states", "next_obs/robot0_eef_pos"}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_successes_of_minari(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for layout in ("hdf5", "arrow"):
        reader = open_reader(write_minari(tmp_path / layout, monkeypatch, layout))
        assert reader.successes is not None and reader.successes.tolist() == [True, False, True]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("layout", ["hdf5", "arrow"])
def test_choices_and_plain_observations(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    flags = [False] * 6
    buffer = EpisodeBuffer(
        id=0, observations=numbers(0, 7, 4), actions=np.array([0, 1, 2, 0, 1, 2]), rewards=[0.0] * 6,
        terminations=flags, truncations=flags, infos={},
    )  # fmt: skip
    minari.create_dataset_from_buffers(
        "cart/pole-v0", [buffer], env=None, observation_space=spaces.Box(-9, 9, (4,), np.float32),
        action_space=spaces.Discrete(3), data_format=layout, algorithm_name="none", author="none",
        author_email="a@b.c", code_permalink="none",
    )  # fmt: skip
    reader = open_reader(tmp_path / "cart/pole-v0")
    assert reader.read(0)["action"].tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(reader.read(0)["observation.state"], numbers(0, 7, 4)[:6])
    assert infer(reader).embodiment.actions == DiscreteActions(("action_0", "action_1", "action_2"))


def test_what_is_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_0"].attrs["num_samples"] = 99
        del file["data/demo_2/obs/robot0_eef_pos"]
        file["data/demo_2/obs/robot0_eef_pos"] = numbers(1, 4, 3)
    reader = open_reader(path)
    assert any("num_samples is 99" in problem.what for problem in reader.problems())
    with pytest.raises(PolysomaError, match=r"demo.hdf5, episode 1: .*holds 4 rows of 8"):
        reader.read(1)
    root = write_zarr(tmp_path / "pusht.zarr", 2)
    zarr.open_group(str(root), mode="a")["meta/episode_ends"][:] = np.array([5, 13, 14])
    reader = open_reader(root)
    assert {p.what for p in reader.problems()} == {"2 frames after the last episode"}
    zarr.open_group(str(root), mode="a")["meta/episode_ends"][:] = np.array([5, 4, 16])
    with pytest.raises(PolysomaError, match="does not count up"):
        open_reader(root)
    zarr.open_group(str(root), mode="a")["meta/episode_ends"][:] = np.array([5, 13, 99])
    with pytest.raises(PolysomaError, match="holds 16 frames, meta/episode_ends needs 99"):
        open_reader(root)


def test_links_out_of_a_file_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.hdf5", "w") as file:
        file["x"] = np.zeros((5, 3), np.float32)
    path = write_robomimic(tmp_path / "demo.hdf5")
    with h5py.File(path, "a") as file:
        file["data/demo_0/obs/secret"] = h5py.ExternalLink(str(tmp_path / "secret.hdf5"), "/x")
    with pytest.raises(PolysomaError, match="obs/secret leads to another file"):
        open_reader(path)


def test_other_files_are_not_taken_for_data(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["weights"] = np.zeros(3)
    with pytest.raises(PolysomaError, match=r"other.hdf5.*expected groups data/demo_0"):
        open_reader(tmp_path / "other.hdf5")
    (tmp_path / "text.hdf5").write_text("not one")
    assert not is_dataset(tmp_path / "text.hdf5") and not is_dataset(tmp_path)


FUZZ = """
import sys
from pathlib import Path
import numpy as np
from polysoma.data.formats import is_dataset, open_reader
from polysoma.errors import PolysomaError

root, damaged = Path(sys.argv[1]), Path(sys.argv[2])
import shutil
rng = np.random.default_rng(0)
files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file()) if root.is_dir() else [Path(".")]
refused = 0
for case in range(40):
    if damaged.exists():
        shutil.rmtree(damaged) if damaged.is_dir() else damaged.unlink()
    shutil.copytree(root, damaged) if root.is_dir() else shutil.copy(root, damaged)
    path = damaged / files[case % len(files)] if root.is_dir() else damaged
    content = bytearray(path.read_bytes())
    where = int(rng.integers(len(content)))
    if case % 3 == 0:
        content = content[:where]
    else:
        content[where] ^= int(rng.integers(1, 256))
    path.write_bytes(content)
    try:
        if is_dataset(damaged):
            reader = open_reader(damaged)
            for episode in range(len(reader)):
                reader.read(episode)
            list(reader.problems())
    except PolysomaError as error:
        assert str(damaged) in str(error), error
        refused += 1
print(refused)
"""


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_never_crashes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, because HDF5 is a C library that reads what a damaged file tells it to."""
    path = FORMATS[name][1](tmp_path, monkeypatch)
    damaged = tmp_path / f"damaged{path.suffix}"
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(path), str(damaged)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 3
    shutil.rmtree(damaged, ignore_errors=True)

"""Data sets of robomimic, ALOHA, Diffusion Policy and Minari, written by h5py, zarr and Minari themselves."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from polysoma.data.formats.hdf5 import Hdf5Reader
from polysoma.data.formats.minari import MinariReader
from polysoma.data.formats.zarr_buffer import ZarrReader

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
            demo["rewards"] = np.arange(length, dtype=np.float64)
            demo["dones"] = ((np.arange(length) == length - 1) & (seed != 1)).astype(np.int64)
            demo["states"] = numbers(seed, length, 30)
            state, seen = numbers(seed, length + 1, 3), pictures(seed, length + 1)
            demo["obs/robot0_eef_pos"], demo["obs/agentview_image"] = state[:-1], seen[:-1]
            demo["next_obs/robot0_eef_pos"], demo["next_obs/agentview_image"] = state[1:], seen[1:]
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
            terminations=[False] * (length - 1) + [seed != 1],
            truncations=[False] * (length - 1) + [seed != 2],
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


def stacked(space: Any, samples: list[Any]) -> Any:
    """Samples of a space as Minari's buffers hold them: arrays of rows in the structure of the space."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {name: stacked(part, [sample[name] for sample in samples]) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(part, [sample[place] for sample in samples]) for place, part in enumerate(space.spaces))
    return samples if isinstance(space, spaces.Text) else np.stack(samples)


def write_minari_spaces(
    folder: Path, monkeypatch: pytest.MonkeyPatch, layout: str, observed: Any, moved: Any
) -> tuple[Path, list[Any]]:
    """Minari's own data set of any spaces, and what it gives back of the actions of each episode."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    observed.seed(1)
    moved.seed(2)
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=stacked(observed, [observed.sample() for _ in range(length + 1)]),
            actions=stacked(moved, [moved.sample() for _ in range(length)]),
            rewards=[1.0] * length,
            terminations=[False] * (length - 1) + [True],
            truncations=[False] * length,
            infos={},
        )
        for number, length in enumerate(LENGTHS)
    ]
    minari.create_dataset_from_buffers(
        "toys/any-v0", buffers, env=None, observation_space=observed, action_space=moved, data_format=layout,
        jpeg_encoding=False, algorithm_name="none", author="none", author_email="a@b.c", code_permalink="none",
    )  # fmt: skip
    held = minari.load_dataset("toys/any-v0")
    return folder / "toys/any-v0", [held[number].actions for number in range(len(LENGTHS))]

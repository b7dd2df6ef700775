"""Minari, robomimic and Diffusion Policy's zarr: everything is read here as minari, robomimic and zarr read it.

Run it in an environment of their libraries (robomimic needs `pip install --no-deps robomimic`, and torch):

    python tests/interop/check_differential_arrays.py --cases 40
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import differential  # (first: it sets the paths)
import numpy as np
from differential import WORDS, Truth
from hypothesis import strategies as st

Draw = Callable[[Any], Any]
SIDES = st.sampled_from([(8, 12, 3), (16, 16, 3)])


def _values(rng: np.random.Generator, shape: tuple[int, ...], kind: Any) -> np.ndarray:
    kind = np.dtype(kind)
    if kind.kind in "iu":
        return rng.integers(0, 200, shape).astype(kind)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)).astype(kind)


def _read(values: np.ndarray) -> np.ndarray:
    """Fractions are float32 here, whatever they were."""
    return values.astype(np.float32) if values.dtype.kind == "f" else values


# --- Minari


def minari_set(draw: Draw, folder: Path) -> tuple[list[Truth], Path, int]:
    """Spaces of all kinds, in both layouts."""
    import minari
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer

    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    layout, coded = draw(st.sampled_from(["hdf5", "arrow"])), draw(st.booleans())
    box = spaces.Box(-np.inf, np.inf, (draw(st.integers(1, 6)),), draw(st.sampled_from([np.float32, np.float64])))
    sensed: spaces.Space[Any] = box
    if draw(st.booleans()):
        parts: dict[str, spaces.Space[Any]] = {"state": box}
        if draw(st.booleans()):
            parts["deep"] = spaces.Dict({"er": spaces.Box(-9, 9, (2,), np.float32), "n": spaces.Discrete(7)})
        if draw(st.booleans()):
            parts["camera"] = spaces.Box(0, 255, draw(SIDES), np.uint8)
        if draw(st.booleans()):
            parts["mission"] = spaces.Text(64, charset="abcdefghijklmnopqrstuvwxyz 0123456789")
        sensed = spaces.Dict(parts)
    acting: spaces.Space[Any] = draw(
        st.sampled_from(
            [
                spaces.Box(-1, 1, (3,), np.float32), spaces.Box(-1, 1, (2,), np.float64), spaces.Discrete(4),
                spaces.Discrete(3, start=5), spaces.MultiDiscrete([3, 2]), spaces.MultiBinary(3),
            ]
        )
    )  # fmt: skip
    buffers = []
    for number in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 9))
        told = f"do {rng.integers(9)}"
        ended = bool(draw(st.booleans()))
        buffers.append(
            EpisodeBuffer(
                id=number,
                observations=_sampled(rng, sensed, length + 1, told),
                actions=_sampled(rng, acting, length, told),
                rewards=rng.standard_normal(length).tolist(),
                terminations=[False] * (length - 1) + [ended],
                truncations=[False] * (length - 1) + [not ended],
                infos={"success": [False] * length + [ended]},
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "odd/set-v0", buffers, env=None, observation_space=sensed, action_space=acting, data_format=layout,
            jpeg_encoding=coded, algorithm_name="none", author="none", author_email="a@b.c", code_permalink="none",
        )  # fmt: skip
        episodes = list(minari.load_dataset("odd/set-v0").iterate_episodes())
    found = []
    for episode in episodes:
        length = len(episode.rewards)
        seen = {name: values for name, values in _leaves(episode.observations) if values.dtype.kind in "fiub"}
        columns = {name: _read(values[:length]) for name, values in seen.items()}
        columns |= {"action": _read(np.asarray(episode.actions)), "reward": _read(np.asarray(episode.rewards))}
        words = dict(_leaves(episode.observations)).get("observation.mission")
        found.append(
            Truth(
                columns,
                ["" if words is None else str(words[0])] * length,
                bool(episode.terminations[-1]), bool(episode.truncations[-1]),
                bool(np.any(episode.infos["success"])),
                {name: _read(values[length]) for name, values in seen.items()},
            )
        )  # fmt: skip
    return found, folder / "odd/set-v0", 0


def _sampled(rng: np.random.Generator, space: Any, length: int, told: str) -> Any:
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        return {name: _sampled(rng, inner, length, told) for name, inner in space.items()}
    if isinstance(space, spaces.Text):
        return [told] * length
    if isinstance(space, spaces.Box) and space.dtype != np.uint8:
        return _values(rng, (length, *space.shape), space.dtype).clip(space.low, space.high)
    space.seed(int(rng.integers(2**31)))
    return np.stack([np.asarray(space.sample()) for _ in range(length)])


def _leaves(values: Any, path: str = "") -> list[tuple[str, np.ndarray]]:
    if isinstance(values, dict):
        return [leaf for name, inner in values.items() for leaf in _leaves(inner, f"{path}.{name}" if path else name)]
    array = np.asarray(values)
    picture = array.dtype == np.uint8 and array.ndim == 4
    return [(f"observation.{'images.' * picture}{path or 'state'}", array)]


# --- robomimic


def robomimic_set(draw: Draw, folder: Path) -> tuple[list[Truth], Path, int]:
    """As robomimic's own scripts write it; read by its SequenceDataset."""
    import h5py
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    path = folder / "demo.hdf5"
    seen: dict[str, tuple[tuple[int, ...], str]] = {
        "joints": ((draw(st.integers(1, 7)),), draw(st.sampled_from(["f4", "f8"])))
    }
    if draw(st.booleans()):
        seen["agentview_image"] = draw(SIDES), "u1"
    if draw(st.booleans()):
        seen["gripper"] = (2,), "f8"
    size, nexts = draw(st.integers(1, 7)), draw(st.booleans())
    numbers = draw(st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True))
    lengths = {number: draw(st.integers(1, 9)) for number in numbers}
    words = draw(WORDS)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Odd", "type": 1, "env_kwargs": {"control_freq": 20}})
        data.attrs["total"] = sum(lengths.values())
        if words:
            data.attrs["problem_info"] = json.dumps({"language_instruction": words})
        for number, length in lengths.items():
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = length
            demo["actions"] = _values(rng, (length, size), "f8").clip(-1, 1)
            demo["rewards"] = rng.random(length)
            demo["dones"] = np.arange(length) == length - 1
            demo["states"] = rng.random((length, 5))
            for key, (shape, kind) in seen.items():
                all_of_it = _values(rng, (length + 1, *shape), kind)
                demo[f"obs/{key}"] = all_of_it[:-1]
                if nexts:
                    demo[f"next_obs/{key}"] = all_of_it[1:]
    modalities = {
        "low_dim": [key for key in seen if "image" not in key],
        "rgb": [key for key in seen if "image" in key],
    }
    obs_utils.initialize_obs_utils_with_obs_specs({"obs": modalities})
    theirs = _sequence_dataset(SequenceDataset, path, list(seen), nexts)
    rows = [theirs[row] for row in range(len(theirs))]
    found, begin = [], 0
    # robomimic orders demonstrations by number; so does the reader.
    for number in sorted(numbers):
        own = rows[begin : begin + lengths[number]]
        begin += lengths[number]
        columns = {
            f"observation.{'images.' * ('image' in key)}{key}": _read(np.concatenate([row["obs"][key] for row in own]))
            for key in seen
        }
        columns["action"] = _read(np.concatenate([row["actions"] for row in own]))
        columns["reward"] = _read(np.concatenate([row["rewards"] for row in own]))
        final = None
        if nexts:
            final = {
                f"observation.{'images.' * ('image' in key)}{key}": _read(own[-1]["next_obs"][key][0]) for key in seen
            }
        found.append(Truth(columns, [words] * len(own), bool(own[-1]["dones"][0]), final=final))
    return found, path, 0


def _sequence_dataset(kind: Any, path: Path, keys: list[str], nexts: bool) -> Any:
    return kind(
        hdf5_path=str(path), obs_keys=keys, dataset_keys=("actions", "rewards", "dones"), frame_stack=1, seq_length=1,
        pad_frame_stack=True, pad_seq_length=True, get_pad_mask=False, goal_mode=None, hdf5_cache_mode=None,
        hdf5_use_swmr=False, hdf5_normalize_obs=False, load_next_obs=nexts,
    )  # fmt: skip


# --- zarr


def zarr_set(draw: Draw, folder: Path) -> tuple[list[Truth], Path, int]:
    """Chunks and codecs of all kinds, in both versions."""
    import zarr

    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    version = draw(st.sampled_from([2, 3]))
    path = folder / "set.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=version)
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    total = sum(lengths)
    arrays: dict[str, np.ndarray] = {
        "action": _values(rng, (total, draw(st.integers(1, 7))), draw(st.sampled_from(["f4", "f8"])))
    }
    arrays["state"] = _values(rng, (total, draw(st.integers(1, 5))), draw(st.sampled_from(["f4", "f8", "i4", "i8"])))
    if draw(st.booleans()):
        arrays["img"] = rng.integers(0, 256, (total, *draw(SIDES))).astype(draw(st.sampled_from(["u1", "f4"])))
    if draw(st.booleans()):
        arrays["reward"] = _values(rng, (total,), "f4")
    for key, values in arrays.items():
        chunks = (draw(st.integers(1, total)), *values.shape[1:])
        options: dict[str, Any] = {}
        if draw(st.booleans()):
            options["compressors"] = None
        if version == 3 and draw(st.booleans()):
            options["shards"] = (chunks[0] * draw(st.integers(1, 3)), *values.shape[1:])
        if draw(st.booleans()):
            options["order" if version == 2 else "fill_value"] = "F" if version == 2 else 1
        made = root.create_array(f"data/{key}", shape=values.shape, dtype=values.dtype, chunks=chunks, **options)
        made[:] = values
    ends = root.create_array("meta/episode_ends", shape=(len(lengths),), dtype="i8")
    ends[:] = np.cumsum(lengths)
    theirs = zarr.open_group(path, mode="r")
    found, begin = [], 0
    for end in theirs["meta/episode_ends"][:]:
        columns = {}
        for key in arrays:
            values = np.asarray(theirs[f"data/{key}"][begin:end])
            name = {"action": "action", "reward": "reward", "img": "observation.images.img"}.get(
                key, f"observation.{key}"
            )
            columns[name] = values.round().astype(np.uint8) if key == "img" else _read(values)
        found.append(Truth(columns))
        begin = int(end)
    return found, path, 0


if __name__ == "__main__":
    made = {"minari": minari_set, "robomimic": robomimic_set, "zarr": zarr_set}
    differential.run("arrays", ["minari", "robomimic", "zarr", "h5py"], made)

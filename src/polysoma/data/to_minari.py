"""Out to Minari: a data set of any known format in the HDF5 layout of Minari 0.5, without Minari.

Rewards, terminations and truncations are those of the source; where it does not say how an episode ended, no step ends
it. What Minari wants and the source does not have is filled in and marked: rewards are NaN, and the last of the T + 1
observations is there twice. Attributes of the episode say so (``rewards_known``, ``final_observation_known``).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from polysoma.data import storage, stored
from polysoma.data.convert import Converted, check_apart
from polysoma.data.damage import check_present
from polysoma.data.description import write_schema
from polysoma.data.episode import Episode
from polysoma.data.formats.minari import FINAL_KNOWN, REWARDS_KNOWN
from polysoma.data.formats.reader import ACTION
from polysoma.data.origin import opened
from polysoma.data.schema import Schema, schema_path
from polysoma.embodiment import INSTRUCTION, Embodiment, Modality
from polysoma.errors import PolysomaError
from polysoma.files import write_atomically
from polysoma.streams import TEXT_CHARACTERS

_VERSION = "0.5.4"
"""Of Minari, whose layout this is: earlier ones take large pictures for JPEG files."""
_LOCK = "polysoma-conversion.lock"
"""In the folder that is being written: it says who made it, too."""
_NAME = re.compile(r"[-\w]+-v\d+")
_UNKNOWN = {
    "rewards": "have no rewards in the source: NaN is written",
    "last": "have no observation after their last action: the last one is written twice",
    "end": "do not say how they ended: they neither terminate nor are truncated",
}
_FASTEST = 1
"""Of the compression levels: pictures are compressed without loss, one by one."""


def to_minari(
    source: Path, target: Path, skip: bool = False, progress: Callable[[int, int], None] | None = None
) -> Converted:
    """Writes all episodes as a Minari data set, one episode after the other, with the description that lets
    :mod:`polysoma.data.schema` know channels, units and the rate again.

    The folder appears under its name when all of it is written; a killed conversion begins anew.

    Args:
        source: a folder or file of any known format, also one that polysoma recorded.
        target: a new folder whose name ends in a version, as Minari wants it: ``"so101-v0"``.
        skip: whether to leave out episodes that cannot be read.
        progress: called with (episodes so far, of how many).

    Raises:
        PolysomaError: there is no data set, the target exists or has another kind of name, h5py is not installed, an
            episode cannot be read, or the disk is full.
    """
    try:
        import h5py
    except ImportError as error:
        raise PolysomaError(
            "writing Minari's files needs h5py, not installed here: run `pip install 'polysoma[data]'`"
        ) from error
    check_apart(source, target)
    name = _identity(target)
    if target.exists():
        raise PolysomaError(f"{target} is there already; name a new folder, or delete it")
    result, unknown = Converted(), Counter[str]()
    with opened(source, full_size=False) as origin, storage.building(target, _LOCK) as folder:
        everything = list(range(len(origin)))
        if skip:
            everything, result.skipped = origin.readable(everything, origin.absent)
            if not everything:
                raise PolysomaError(f"{source}: there are no episodes in it that can be read")
        else:
            check_present(source, origin.absent, len(origin.known))
        (folder / "data").mkdir()
        with h5py.File(folder / "data/main_data.hdf5", "w", track_order=True) as file:
            steps = 0
            for _, episode in origin.episodes(everything):
                _write(file, result.written, episode, origin.seeded)
                unknown["rewards"] += episode.rewards is None
                unknown["last"] += episode.final is None
                unknown["end"] += not (episode.terminated or episode.truncated)
                steps += len(episode)
                result.written += 1
                if progress is not None:
                    progress(result.written, len(everything))
        with open(folder / "data/main_data.hdf5", "rb+") as written:
            os.fsync(written)
            megabytes = os.fstat(written.fileno()).st_size / 1e6
        body = origin.embodiment
        about = {
            "dataset_id": name,
            "minari_version": _VERSION,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "total_episodes": result.written,
            "total_steps": steps,
            "dataset_size": round(megabytes, 1),
            "observation_space": json.dumps(_space(_observations(body, origin.index.instructions))),
            "action_space": json.dumps(_space(body.action_space())),
        }
        # Symbols have no place in a description.
        if all(stream.modality is not Modality.SYMBOL for stream in body.streams):
            columns = {stream.name: stored.stream_key(body, stream) for stream in body.arrays}
            plain = dataclasses.replace(body, privileged=())
            write_schema(Schema(plain, columns | {ACTION: ACTION}), schema_path(folder))
        write_atomically(folder / "data/metadata.json", json.dumps(about).encode())
    counted = (f"{unknown[what]:,} episodes {text}" for what, text in _UNKNOWN.items() if unknown[what])
    result.notes = [*origin.remarks, *counted]
    return result


def _identity(target: Path) -> str:
    """What Minari calls the data set: its folder's name, with the folders below Minari's own where it lies there."""
    if not _NAME.fullmatch(target.name):
        raise PolysomaError(f"{target}: Minari wants a name of letters, digits, - and _ with a version: so101-v0")
    home = Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari/datasets").resolve()
    where = target.resolve()
    return where.relative_to(home).as_posix() if where.is_relative_to(home) else target.name


def _write(file: Any, number: int, episode: Episode, seeded: bool) -> None:
    import h5py

    steps, told = len(episode), episode.instruction.replace("\0", "")
    group = file.create_group(f"episode_{number}")
    group.attrs.update(
        {"id": number, "total_steps": steps, "task": episode.task, INSTRUCTION: told, "success": bool(episode.success)}
    )
    group.attrs.update({REWARDS_KNOWN: episode.rewards is not None, FINAL_KNOWN: episode.final is not None})
    if seeded:
        group.attrs["seed"] = episode.seed
    observed = group.create_group("observations")
    for stream in episode.embodiment.streams:
        if stream.modality is Modality.TEXT:
            observed.create_dataset(stream.name, data=[told] * (steps + 1), dtype=h5py.string_dtype())
        elif stream.modality is Modality.IMAGE:
            pictures = _one_more(episode, stream.name)
            packed = {"chunks": (1, *stream.shape), "compression": "gzip", "compression_opts": _FASTEST}
            observed.create_dataset(stream.name, data=pictures, **packed)
        else:
            observed.create_dataset(stream.name, data=_one_more(episode, stream.name))
    last = np.arange(steps) == steps - 1
    group.create_dataset("actions", data=episode.actions)
    rewards = np.full(steps, np.nan) if episode.rewards is None else episode.rewards.astype(np.float64)
    group.create_dataset("rewards", data=rewards)
    group.create_dataset("terminations", data=last & episode.terminated)
    group.create_dataset("truncations", data=last & episode.truncated)
    infos = group.create_group("infos")
    infos.create_dataset("success", data=np.arange(steps + 1) == (steps if episode.success else -1))
    infos.create_dataset("executed_action", data=episode.executed)
    for stream in episode.embodiment.privileged:
        infos.create_dataset(f"privileged/{stream.name}", data=_one_more(episode, stream.name))


def _one_more(episode: Episode, stream: str) -> np.ndarray:
    rows = episode.observations[stream]
    return np.concatenate([rows, rows[-1:] if episode.final is None else episode.final[stream][None]])


def _observations(body: Embodiment, told: list[str]) -> spaces.Dict:
    """The body's space, with room for all that was said."""
    senses = dict(body.observation_space().spaces)
    for stream in body.streams:
        if stream.modality is Modality.TEXT:
            characters = "".join(sorted(set(TEXT_CHARACTERS).union(*told)))
            most = max(512, *(len(text) for text in told))
            senses[stream.name] = spaces.Text(most, min_length=0, charset=characters)
    return spaces.Dict(senses)


def _space(space: gymnasium.Space[Any]) -> dict[str, Any]:
    """As Minari writes it in JSON, where a limit that does not exist is Infinity."""
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "subspaces": {name: _space(part) for name, part in space.spaces.items()}}
    if isinstance(space, spaces.Text):
        lengths = {"max_length": space.max_length, "min_length": space.min_length}
        return {"type": "Text", **lengths, "charset": space.characters}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "dtype": "int64", "start": int(space.start), "n": int(space.n)}
    assert isinstance(space, spaces.Box)
    limits = {"low": space.low.tolist(), "high": space.high.tolist()}
    return {"type": "Box", "dtype": str(space.dtype), "shape": list(space.shape), **limits}

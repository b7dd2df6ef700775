"""The files of a data set: the LeRobotDataset v3.0 layout, and how they are written whole or not at all.

``data/chunk-000/file-000.parquet`` holds frames and ``meta/episodes/chunk-000/file-000.parquet`` says which episodes
they are. An episode exists when the latter does. All other files under ``meta`` can be made again from these two;
``meta/polysoma.json`` adds what the layout has no place for: the embodiment, failures of the expert, and checksums of
the files of frames and episodes, because Parquet has them for its pages alone.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from polysoma.data.images import decode_image, encode_png
from polysoma.embodiment import DiscreteActions, Embodiment, Modality, Stream
from polysoma.errors import PolysomaError
from polysoma.files import reason, writing
from polysoma.horizon import Horizon

FORMAT_VERSION = 1
LEROBOT_VERSION = "v3.0"
FILES_PER_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO, STATS, TASKS, POLYSOMA = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/polysoma.json"

_CHECKSUMS = "checksums"
_PIECE_BYTES = 2**26
_IMAGES_PER_FILE = 8

ACTION = "action"
EXECUTED = "executed_action"

_TASK, _SEED, _SUCCESS = "polysoma/task", "polysoma/seed", "polysoma/success"
EPISODES_SCHEMA = pa.schema(
    [
        ("episode_index", pa.int64()),
        ("tasks", pa.list_(pa.string())),
        ("length", pa.int64()),
        ("data/chunk_index", pa.int64()),
        ("data/file_index", pa.int64()),
        ("dataset_from_index", pa.int64()),
        ("dataset_to_index", pa.int64()),
        ("meta/episodes/chunk_index", pa.int64()),
        ("meta/episodes/file_index", pa.int64()),
        (_TASK, pa.string()),
        (_SEED, pa.int64()),
        (_SUCCESS, pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Feature:
    """One column of frames: its dtype, the shape of one value and, for channels, their names.

    Images are uint8 ``(height, width, 3)`` and lie in the files as PNG.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None
    image: bool = False

    @property
    def bytes(self) -> int:
        """Of one value in memory."""
        return self.dtype.itemsize * int(np.prod(self.shape))

    def to_json(self) -> dict[str, Any]:
        names = None if self.names is None else list(self.names)
        return {"dtype": "image" if self.image else self.dtype.name, "shape": list(self.shape), "names": names}

    def to_arrow(self, values: np.ndarray) -> pa.Array:
        """``(N, *shape)`` as a column; values of shape (1,) become scalars, as LeRobot stores them."""
        if self.image:
            files = pa.array([encode_png(picture) for picture in values], pa.binary())
            return pa.StructArray.from_arrays([files, pa.nulls(len(files), pa.string())], ["bytes", "path"])
        column = pa.array(np.ascontiguousarray(values, self.dtype).reshape(-1))
        if self.shape != (1,):
            for size in reversed(self.shape):
                column = pa.FixedSizeListArray.from_arrays(column, size)
        return column

    def to_numpy(self, column: pa.Array) -> np.ndarray:
        """The inverse of :meth:`to_arrow`; accepts lists of any nesting. Raises ValueError for a damaged image."""
        rows = len(column)
        if self.image:
            pictures = np.empty((rows, *self.shape), np.uint8)
            for row, file in enumerate(column.field("bytes")):
                pictures[row] = decode_image(file.as_py(), self.shape)
            return pictures
        while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
            column = column.flatten()
        values: np.ndarray = column.to_numpy(zero_copy_only=False)
        return values.astype(self.dtype, copy=False).reshape(rows, *self.shape)


def stream_key(body: Embodiment, stream: Stream) -> str:
    """The column of a stream. Privileged ones are called otherwise, so that nobody takes them for observations."""
    if stream in body.privileged:
        return f"privileged.{stream.name}"
    return f"observation.{'images.' if stream.modality is Modality.IMAGE else ''}{stream.name}"


def body_features(body: Embodiment) -> dict[str, Feature]:
    """The columns that depend on the body, by name."""
    features = {}
    for stream in body.recorded:
        image = stream.modality is Modality.IMAGE
        names = ("height", "width", "channels") if image else tuple(channel.name for channel in stream.channels) or None
        features[stream_key(body, stream)] = Feature(np.dtype(stream.dtype), stream.shape, names, image)
    if isinstance(body.actions, DiscreteActions):
        action = Feature(np.dtype(np.int64), (1,), ("action",))
    else:
        action = Feature(np.dtype(np.float32), (body.actions.size,), tuple(c.name for c in body.actions.channels))
    return features | {ACTION: action, EXECUTED: action}


def all_features(body: Embodiment) -> dict[str, Feature]:
    """All columns of frames, by name, in the order in which they are stored."""
    integer = Feature(np.dtype(np.int64), (1,))
    counters = dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), integer)
    return body_features(body) | {"timestamp": Feature(np.dtype(np.float32), (1,))} | counters


@dataclass(frozen=True)
class EpisodeIndex:
    """The recorded episodes: arrays of length E, and the task names and instructions that they point to."""

    start: np.ndarray
    length: np.ndarray
    task: np.ndarray
    instruction: np.ndarray
    seed: np.ndarray
    success: np.ndarray
    file: np.ndarray
    tasks: list[str]
    instructions: list[str]

    @property
    def frames(self) -> int:
        return int(self.length.sum())

    def files(self) -> list[tuple[int, int]]:
        """(number, frames) of the data files, in the order of their frames."""
        numbers, which = np.unique(self.file, return_inverse=True)
        frames = np.bincount(which, weights=self.length).astype(np.int64)
        return list(zip(numbers.tolist(), frames.tolist(), strict=True))

    def held(self, number: int) -> str:
        """The episodes in the data file of this number, for people."""
        episodes = np.flatnonzero(self.file == number)
        return f"episode {episodes[0]}" if len(episodes) == 1 else f"episodes {episodes[0]} to {episodes[-1]}"


def numbered(root: Path, path: str, number: int) -> Path:
    """The file of this number: 1000 files fill a chunk."""
    return root / path.format(chunk_index=number // FILES_PER_CHUNK, file_index=number % FILES_PER_CHUNK)


def episode_files(root: Path) -> list[Path]:
    return sorted((root / "meta/episodes").glob("chunk-*/file-*.parquet"))


def read_episodes(root: Path) -> EpisodeIndex:
    """All recorded episodes.

    Instructions and tasks are numbered by first appearance, so that the numbers in the frames stay right without
    ``tasks.parquet``, which is written later than the episodes.

    Raises:
        PolysomaError: a file is missing or damaged, or the files do not follow one another.
    """
    known = checksums(root)
    for name in known:
        with reading(root / name):
            (root / name).stat()
    paths = episode_files(root)
    columns = [n for n in EPISODES_SCHEMA.names if not n.startswith("meta/") and n != "episode_index"]
    schema = pa.schema([EPISODES_SCHEMA.field(name) for name in columns])
    tables = [read_parquet(path, schema) for path in paths]
    for path in paths:
        with reading(path):
            check(root, path, known)
    table = pa.concat_tables(tables) if tables else schema.empty_table()
    length = table["length"].to_numpy()
    end = np.cumsum(length, dtype=np.int64)
    if not np.array_equal(table["dataset_to_index"].to_numpy(), end):
        raise PolysomaError(
            f"{root}: the files under meta/episodes do not follow one another, so one is missing or was changed; "
            "copy the data set again from where it came, or delete it and record it again"
        )
    task = table[_TASK].combine_chunks().dictionary_encode()
    instruction = table["tasks"].combine_chunks().flatten().dictionary_encode()
    return EpisodeIndex(
        start=end - length,
        length=length,
        task=task.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        instruction=instruction.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        seed=table[_SEED].to_numpy(),
        success=table[_SUCCESS].to_numpy().astype(bool),
        file=table["data/chunk_index"].to_numpy() * FILES_PER_CHUNK + table["data/file_index"].to_numpy(),
        tasks=task.dictionary.to_pylist(),
        instructions=instruction.dictionary.to_pylist(),
    )


def data_files(root: Path, index: EpisodeIndex) -> list[Path]:
    """The files of frames that the episodes are in. Raises PolysomaError when one is missing."""
    paths = [numbered(root, DATA_PATH, number) for number, _ in index.files()]
    for (number, _), path in zip(index.files(), paths, strict=True):
        with reading(path, index.held(number)):
            path.stat()
    return paths


def read_frames(
    root: Path, index: EpisodeIndex, features: Mapping[str, Feature]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Frames in order, in pieces of at most 64 MB: (first frame, column name to ``(n, *shape)``).

    Raises:
        PolysomaError: a file is missing, damaged or holds another number of frames than the episodes say.
    """
    known = checksums(root)
    begin, rows = 0, max(1, _PIECE_BYTES // sum(feature.bytes for feature in features.values()))
    for number, frames in index.files():
        path = numbered(root, DATA_PATH, number)
        with reading(path, index.held(number)):
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                held = file.metadata.num_rows
                if held != frames:
                    raise ValueError(f"expected {frames} frames, got {held}")
                for batch in file.iter_batches(rows, columns=list(features), use_threads=False):
                    yield begin, {name: feature.to_numpy(batch[name]) for name, feature in features.items()}
                    begin += batch.num_rows
            check(root, path, known)


def read_some_images(root: Path, index: EpisodeIndex, name: str, feature: Feature) -> np.ndarray:
    """A few pictures of every file: uint8 ``(n, height, width, 3)``. Raises as :func:`read_frames`."""
    pieces = []
    for path in data_files(root, index):
        with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
            batch = next(file.iter_batches(_IMAGES_PER_FILE, columns=[name], use_threads=False))
            pieces.append(feature.to_numpy(batch[name]))
    return np.concatenate(pieces)


def checksum(path: Path) -> str:
    """CRC-32 of a file, in hexadecimal digits."""
    value = 0
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            value = zlib.crc32(piece, value)
    return f"{value:08x}"


def checksums(root: Path) -> dict[str, str]:
    """What was written, by the names of the files below ``root``. Files that are not listed are not checked: versions
    before wrote no checksums, and a process may be killed before it writes them."""
    path = root / POLYSOMA
    held = read_json(path).get(_CHECKSUMS, {}) if path.exists() else {}
    with reading(path):
        return {str(name): str(value) for name, value in dict(held).items()}


def check(root: Path, path: Path, known: Mapping[str, str]) -> None:
    """Raises ValueError when a file is not the one whose checksum is known."""
    expected = known.get(path.relative_to(root).as_posix())
    if expected is not None and checksum(path) != expected:
        raise ValueError(f"its checksum is not that in {POLYSOMA}")


def read_polysoma(root: Path) -> tuple[Embodiment, dict[str, list[int]]]:
    """The embodiment and the seeds of failed expert episodes by task.

    Raises:
        PolysomaError: not a data set, not one of this library, a newer format, or damaged.
    """
    path = root / POLYSOMA
    if not path.exists():
        if (root / INFO).exists():
            raise PolysomaError(
                f"{root}: this LeRobot data set was not recorded by polysoma (it has no {POLYSOMA}), so nothing is "
                "added to it; record into another folder, or copy it with `polysoma data convert`"
            )
        raise PolysomaError(f"{root}: not a data set: expected {INFO} in this folder")
    data = read_json(path)
    version = data.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise PolysomaError(f"{path}: expected a format_version, got {version!r}")
    if version > FORMAT_VERSION:
        raise PolysomaError(
            f"{root}: recorded in format {version}, and this version of polysoma reads up to format "
            f"{FORMAT_VERSION}; upgrade polysoma"
        )
    with reading(path):
        failures = {str(task): [int(seed) for seed in seeds] for task, seeds in dict(data.get("failures", {})).items()}
    try:
        return Embodiment.from_json(data.get("embodiment", {})), failures
    except PolysomaError as error:
        raise PolysomaError(f"{path}: {error}") from error


def read_old_horizon(root: Path) -> Horizon | None:
    """The horizon of a policy that the first format kept in the embodiment; None where there is none."""
    data = read_json(root / POLYSOMA).get("embodiment", {})
    return Horizon.of_old_embodiment(data) if isinstance(data, dict) else None


def write_polysoma(
    root: Path, body: Embodiment, failures: Mapping[str, list[int]], checksums: Mapping[str, str]
) -> None:
    """The inverse of :func:`read_polysoma` and :func:`checksums`."""
    held = {"embodiment": body.to_json(), "failures": failures, _CHECKSUMS: checksums}
    write_json(root / POLYSOMA, {"format_version": FORMAT_VERSION, **held})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises PolysomaError when the file is missing or damaged."""
    with reading(path):
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("expected a JSON object")
        return data


def read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    """These columns of a file, with these types. Raises PolysomaError when it is missing or damaged."""
    with reading(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return file.read(columns=schema.names, use_threads=False).select(schema.names).cast(schema)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, indent=4, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path) as file:
        file.write(text.encode())


def write_parquet(path: Path, table: pa.Table, rows_per_group: int | None = None) -> None:
    with writing(path) as file:
        pq.write_table(table, file, rows_per_group, compression="snappy", write_page_checksum=True)


@contextlib.contextmanager
def lock(path: Path, wait: bool) -> Iterator[bool]:
    """Holds a lock that ends with the process. Yields whether it was got; raises OSError if the file cannot be made."""
    try:
        import fcntl
    except ImportError:  # Windows: one process at a time is then up to the user.
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        except OSError:  # Some network file systems have no locks.
            pass
        yield True


@contextlib.contextmanager
def reading(path: Path, held: str = "") -> Iterator[None]:
    """Turns what libraries raise over a missing or damaged file into a PolysomaError that names it and what it held."""
    where = f"{path} ({held})" if held else f"{path}"
    try:
        yield
    except FileNotFoundError as error:
        raise PolysomaError(
            f"{where} is missing: copy the data set again from where it came, or delete the whole data "
            "set and record it again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise PolysomaError(
            f"cannot read {where}: {reason(error)}; it is damaged or incomplete: copy it again from "
            "where it came, or delete the whole data set and record it again"
        ) from error

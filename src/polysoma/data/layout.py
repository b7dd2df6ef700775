"""The files of a data set: the LeRobotDataset v3.0 layout, and what is added to it.

``data/chunk-000/file-000.parquet`` holds frames and ``meta/episodes/chunk-000/file-000.parquet`` says which episodes
they are. An episode exists when the latter does. All other files under ``meta`` can be made again from these two;
``meta/polysoma.json`` adds what the layout has no place for: the embodiment, failures of the expert, and checksums of
the files of frames and episodes, because Parquet has them for its pages alone.

Format 2 adds to format 1 what an episode earned and how it ended. Frames have LeRobot's columns ``next.reward`` (where
there are rewards), ``next.done`` and ``next.success``; the tables of episodes say ``polysoma/terminated`` and
``polysoma/truncated``; and ``final/chunk-000/file-000.parquet`` holds one row for each episode of the same file whose
last observation is known (``polysoma/final``). It lies outside of ``data``, because LeRobot takes all that is in there
for frames. Format 1 is read: its episodes have no rewards, no ends and no last observations.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from polysoma.data.damage import Damaged
from polysoma.data.door import inside, open_parquet
from polysoma.data.numbering import numbers_of
from polysoma.data.storage import checksum, read_json, read_parquet, reading, write_json
from polysoma.data.stored import FORMAT_VERSION, Feature
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon

LEROBOT_VERSION = "v3.0"
FILES_PER_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FINAL_PATH = "final/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO, STATS, TASKS, POLYSOMA = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/polysoma.json"

_CHECKSUMS, _EPISODES = "checksums", "meta/episodes/"
_PIECE_BYTES = 2**26
_IMAGES_PER_FILE = 8


_TASK, _SEED, SUCCESS = "polysoma/task", "polysoma/seed", "polysoma/success"
TERMINATED, TRUNCATED, HAS_FINAL = "polysoma/terminated", "polysoma/truncated", "polysoma/final"
_REWARDED = "polysoma/rewards"
_SINCE_2 = (TERMINATED, TRUNCATED, _REWARDED, HAS_FINAL)
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
        (SUCCESS, pa.bool_()),
        *((name, pa.bool_()) for name in _SINCE_2),
    ]
)


@dataclass(frozen=True)
class EpisodeIndex:
    """The recorded episodes: arrays of length E, and the task names and instructions that they point to.

    ``number`` is what the files call an episode (:meth:`polysoma.data.formats.reader.Reader.source`), ``final`` says
    whose last observation is known, ``rewards`` whether all of them have rewards (else none has).
    """

    number: np.ndarray
    start: np.ndarray
    length: np.ndarray
    task: np.ndarray
    instruction: np.ndarray
    seed: np.ndarray
    success: np.ndarray
    file: np.ndarray
    tasks: list[str]
    instructions: list[str]
    terminated: np.ndarray
    truncated: np.ndarray
    final: np.ndarray
    rewards: bool

    @property
    def frames(self) -> int:
        return int(self.length.sum())

    def files(self) -> list[tuple[int, int]]:
        """(number, frames) of the data files, in the order of their frames."""
        return self._counted(self.length)

    def final_files(self) -> list[tuple[int, int]]:
        """(number, rows) of the files of last observations, in the order of their rows."""
        return [(number, rows) for number, rows in self._counted(self.final) if rows]

    def places(self) -> list[tuple[str, int]]:
        """All files: what its name is made of, and its number."""
        held = [(DATA_PATH, self.files()), (FINAL_PATH, self.final_files())]
        return [(template, number) for template, files in held for number, _ in files]

    def _counted(self, rows: np.ndarray) -> list[tuple[int, int]]:
        numbers, which = np.unique(self.file, return_inverse=True)
        counts = np.bincount(which, weights=rows).astype(np.int64)
        return list(zip(numbers.tolist(), counts.tolist(), strict=True))

    def held(self, number: int) -> str:
        """The episodes in the data file of this number, for people."""
        episodes = self.number[self.file == number]
        return f"episode {episodes[0]}" if len(episodes) == 1 else f"episodes {episodes[0]} to {episodes[-1]}"

    @contextlib.contextmanager
    def damaging(self, root: Path, template: str, number: int) -> Iterator[Path]:
        """Gives a file of this number, and names its episodes where it cannot be read.

        Raises:
            Damaged: instead of what is raised over a missing or damaged file.
        """
        path = numbered(root, template, number)
        try:
            with reading(path, self.held(number)):
                yield path
        except PolysomaError as error:
            numbers = self.number[self.file == number].tolist()
            message = f"{error}, or leave its episodes out with --skip-damaged (`polysoma data edit` has it too)"
            raise Damaged(message, dict.fromkeys(numbers, str(error))) from error

    def without(self, numbers: Collection[int]) -> EpisodeIndex:
        """The episodes that lie in no file with one of these: a file is as it was written, or all of it is damaged."""
        kept = ~np.isin(self.file, self.file[np.isin(self.number, list(numbers))])
        rows = {
            field.name: getattr(self, field.name)[kept]
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        return dataclasses.replace(self, **{**rows, "start": np.cumsum(rows["length"]) - rows["length"]})


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
        PolysomaError: a table of episodes is missing or damaged, they do not follow one another, or only some episodes
            have rewards. Whether their frames are there, :func:`data_files` tells.
    """
    known = checksums(root)
    for name in known:
        if name.startswith(_EPISODES):
            with reading(root / name):
                (root / name).stat()
    paths = episode_files(root)
    columns = [n for n in EPISODES_SCHEMA.names if not n.startswith("meta/")]
    schema = pa.schema([EPISODES_SCHEMA.field(name) for name in columns])
    tables = [_read_table(path, schema) for path in paths]
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
    rewarded = table[_REWARDED].to_numpy()
    if rewarded.any() and not rewarded.all():
        raise PolysomaError(
            f"{root}: some episodes have rewards and others have none; put those without into a data set of their own"
        )
    task = table[_TASK].combine_chunks().dictionary_encode()
    instruction = table["tasks"].combine_chunks().flatten().dictionary_encode()
    numbers = numbers_of(table["episode_index"].to_pylist())
    return EpisodeIndex(
        number=np.arange(len(length)) if numbers is None else numbers,
        start=end - length,
        length=length,
        task=task.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        instruction=instruction.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        seed=table[_SEED].to_numpy(),
        success=table[SUCCESS].to_numpy().astype(bool),
        file=table["data/chunk_index"].to_numpy() * FILES_PER_CHUNK + table["data/file_index"].to_numpy(),
        tasks=task.dictionary.to_pylist(),
        instructions=instruction.dictionary.to_pylist(),
        terminated=table[TERMINATED].to_numpy().astype(bool),
        truncated=table[TRUNCATED].to_numpy().astype(bool),
        final=table[HAS_FINAL].to_numpy().astype(bool),
        rewards=bool(rewarded.any()),
    )


def _read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """A table of episodes; what format 1 does not have is False."""
    with reading(path), open_parquet(path) as file:
        lacks = [name for name in _SINCE_2 if name not in file.schema_arrow.names]
    table = read_parquet(path, pa.schema([field for field in schema if field.name not in lacks]))
    for name in lacks:
        table = table.append_column(schema.field(name), pa.repeat(pa.scalar(False), len(table)))
    return table.select(schema.names)


def data_files(root: Path, index: EpisodeIndex) -> list[Path]:
    """The files of frames and of last observations of the episodes. Raises Damaged when one is missing."""
    paths = []
    for template, number in index.places():
        with index.damaging(root, template, number) as path:
            path.stat()
        paths.append(path)
    return paths


def read_frames(
    root: Path, index: EpisodeIndex, features: Mapping[str, Feature], only: int | None = None
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Frames in order, in pieces of at most 64 MB: (first frame, column name to ``(n, *shape)``); of all files, or only
    of the one of this number.

    Raises:
        Damaged: a file is missing, damaged or holds another number of frames than the episodes say.
    """
    yield from _read_rows(root, index, DATA_PATH, _these(index.files(), only), features)


def read_finals(
    root: Path, index: EpisodeIndex, features: Mapping[str, Feature], only: int | None = None
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Last observations in the order of the episodes that have them, otherwise as :func:`read_frames`."""
    yield from _read_rows(root, index, FINAL_PATH, _these(index.final_files(), only), features)


def _these(files: list[tuple[int, int]], only: int | None) -> list[tuple[int, int]]:
    return files if only is None else [(number, rows) for number, rows in files if number == only]


def _read_rows(
    root: Path, index: EpisodeIndex, template: str, files: Iterable[tuple[int, int]], features: Mapping[str, Feature]
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    known = checksums(root)
    begin, piece = 0, max(1, _PIECE_BYTES // sum(feature.bytes for feature in features.values()))
    for number, rows in files:
        with index.damaging(root, template, number) as path:
            with open_parquet(path) as file:
                held = file.metadata.num_rows
                if held != rows:
                    raise ValueError(f"expected {rows} frames, got {held}")
                for batch in file.iter_batches(piece, columns=list(features), use_threads=False):
                    yield begin, {name: feature.to_numpy(batch[name]) for name, feature in features.items()}
                    begin += batch.num_rows
            check(root, path, known)


def read_some_images(root: Path, index: EpisodeIndex, name: str, feature: Feature) -> np.ndarray:
    """A few pictures of every file: uint8 ``(n, height, width, 3)``. Raises as :func:`read_frames`."""
    pieces = []
    for number, _ in index.files():
        path = numbered(root, DATA_PATH, number)
        with reading(path), open_parquet(path) as file:
            batch = next(file.iter_batches(_IMAGES_PER_FILE, columns=[name], use_threads=False))
            pieces.append(feature.to_numpy(batch[name]))
    return np.concatenate(pieces)


def checksums(root: Path) -> Mapping[str, str]:
    """What was written, by the names of the files below ``root``. Files that are not listed are not checked: versions
    before wrote no checksums, and a process may be killed before it writes them."""
    path = root / POLYSOMA
    return _named(root, *_version(path)) if path.exists() else {}


@functools.lru_cache(maxsize=8)
def _named(root: Path, *version: int) -> Mapping[str, str]:
    """The checksums in :data:`POLYSOMA`, which are asked for with each file."""
    path = root / POLYSOMA
    held = _parsed(path, *version).get(_CHECKSUMS, {})
    with reading(path):
        named = {str(name): str(value) for name, value in dict(held).items()}
        for name in named:
            inside(root, name)
        return MappingProxyType(named)


def check(root: Path, path: Path, known: Mapping[str, str]) -> None:
    """Raises ValueError when a file is not the one whose checksum is known."""
    expected = known.get(path.relative_to(root).as_posix())
    if expected is not None and checksum(path) != expected:
        raise ValueError(f"its checksum is not that in {POLYSOMA}")


def _description(root: Path) -> Mapping[str, Any]:
    """What is in :data:`POLYSOMA`, which is asked for several times when a data set is opened."""
    path = root / POLYSOMA
    return _parsed(path, *_version(path))


def _version(path: Path) -> tuple[int, int, int]:
    with reading(path):
        about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns


@functools.lru_cache(maxsize=8)
def _parsed(path: Path, *_version: int) -> Mapping[str, Any]:
    return read_json(path)


def format_version(root: Path) -> int:
    """In which format a data set was recorded. Raises as :func:`read_polysoma`."""
    version = _description(root).get("format_version")
    if not isinstance(version, int) or version < 1:
        raise PolysomaError(f"{root / POLYSOMA}: expected a format_version, got {version!r}")
    if version > FORMAT_VERSION:
        raise PolysomaError(
            f"{root}: recorded in format {version}, and this version of polysoma reads up to format "
            f"{FORMAT_VERSION}; upgrade polysoma"
        )
    return version


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
    format_version(root)
    data = _description(root)
    with reading(path):
        failures = {str(task): [int(seed) for seed in seeds] for task, seeds in dict(data.get("failures", {})).items()}
    try:
        return Embodiment.from_json(data.get("embodiment", {})), failures
    except PolysomaError as error:
        raise PolysomaError(f"{path}: {error}") from error


def read_old_horizon(root: Path) -> Horizon | None:
    """The horizon of a policy that the first format kept in the embodiment; None where there is none."""
    data = _description(root).get("embodiment", {})
    return Horizon.of_old_embodiment(data) if isinstance(data, dict) else None


def write_polysoma(
    root: Path,
    body: Embodiment,
    failures: Mapping[str, list[int]],
    checksums: Mapping[str, str],
    version: int = FORMAT_VERSION,
) -> None:
    """The inverse of :func:`read_polysoma` and :func:`checksums`."""
    # What the first format says of a policy's horizon, inside of the embodiment, stays.
    described = body.to_json() if version == FORMAT_VERSION else _description(root)["embodiment"]
    held = {"embodiment": described, "failures": failures, _CHECKSUMS: checksums}
    write_json(root / POLYSOMA, {"format_version": version, **held})

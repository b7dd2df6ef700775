"""Recording: episodes become a LeRobotDataset v3.0 that survives being killed at any moment."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from polysoma.data import layout, storage, stored
from polysoma.data.episode import Episode
from polysoma.data.statistics import Accumulator
from polysoma.data.stored import Feature
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.files import explain_writing, is_unfinished, remove_temporaries

FLUSH_FRAMES = 20_000
FLUSH_BYTES = 2**28
FLUSH_SECONDS = 60.0
GROUP_BYTES = 2**22
"""Of frames in memory that a row group of a file holds: one picture at a random place costs reading so much."""


class DatasetWriter:
    """Creates a data set, or continues one of the same embodiment.

    Episodes wait in memory and are written about every 20,000 frames, 256 MB or minute, whichever comes first. Each
    flush adds one file of frames, one of last observations, and then one of episodes; the latter's appearance is what
    makes them exist. All episodes of a data set have rewards or none has. Nothing is added to data sets of format 1,
    which have no place for rewards and ends.

    Attributes:
        done: (task, seed) of all episodes so far, successes and failures.
        failures: seeds of failed expert episodes, by task.

    Raises:
        PolysomaError: the folder holds another embodiment or is not a data set of this library, another process is
            recording into it, or a file is damaged or cannot be written.
    """

    def __init__(self, root: Path, embodiment: Embodiment) -> None:
        self.root = Path(root)
        self.embodiment = embodiment
        self.done: set[tuple[str, int]] = set()
        self.failures: dict[str, list[int]] = {}
        self._checksums: dict[str, str] = {}
        self._closed = False
        self._file = self._episodes = self._frames = 0
        self._flushed = time.monotonic()
        self._version = stored.FORMAT_VERSION
        self._rewards: bool | None = None
        self._buffer: list[Episode] = []
        self._buffered_frames = 0
        self._unsaved = False
        self._lock = contextlib.ExitStack()
        self._acquire()
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise

    def add(self, *episodes: Episode) -> None:
        """Adds episodes; writes them and those before when enough have come together. These here are written all at
        once: a process that is killed leaves all of them or none.

        Raises:
            PolysomaError: an episode is of another embodiment, it has rewards and others have none or the other way
                round, the data set is of format 1, or writing failed (the episodes stay in memory).
        """
        for episode in episodes:
            self._check(episode)
            self._buffer.append(episode)
            self._buffered_frames += len(episode)
            self.done.add((episode.task, episode.seed))
        self._flush_when_due()

    def _check(self, episode: Episode) -> None:
        if episode.embodiment != self.embodiment:
            raise PolysomaError(f"{self.root}: {_difference(self.embodiment, episode.embodiment)}")
        if self._version < stored.FORMAT_VERSION:
            raise PolysomaError(
                f"{self.root}: this data set is of format {self._version}, which has no place for rewards and ends of "
                "episodes; it stays readable, but record into another folder and name both in the recipe"
            )
        if self._rewards is None:
            self._rewards = episode.rewards is not None
        elif self._rewards != (episode.rewards is not None):
            held, got = ("rewards", "none") if self._rewards else ("no rewards", "some")
            raise PolysomaError(
                f"{self.root}: the episodes of this data set have {held}, this one has {got}; "
                "record into another folder"
            )

    def add_failure(self, task: str, seed: int) -> None:
        """Counts an expert's episode that failed and is not kept. It is stored with the next flush."""
        self.failures.setdefault(task, []).append(int(seed))
        self.done.add((task, int(seed)))
        self._unsaved = True
        self._flush_when_due()

    def flush(self) -> None:
        """Writes all that waits in memory. Raises PolysomaError when that fails; nothing in memory is lost then."""
        if self._closed:
            raise PolysomaError(f"{self.root}: this writer is closed; open another one to record more")
        if self._buffer:
            # Episodes come last: with their table they exist.
            for template, table in (
                (layout.DATA_PATH, self._frames_table()),
                (layout.FINAL_PATH, self._final_table()),
                (layout.EPISODES_PATH, self._episodes_table()),
            ):
                if table is not None:
                    path = layout.numbered(self.root, template, self._file)
                    grouped = template != layout.EPISODES_PATH
                    storage.write_parquet(path, table, max(1, GROUP_BYTES // self._frame_bytes) if grouped else None)
                    self._checksums[path.relative_to(self.root).as_posix()] = storage.checksum(path)
            self._unsaved = True
            self._episodes += len(self._buffer)
            self._frames += self._buffered_frames
            self._file += 1
            self._buffer, self._buffered_frames = [], 0
            self._write_metadata()
        if self._unsaved:
            self._write_polysoma()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Writes what waits in memory and brings the statistics up to date. Further calls do nothing."""
        if self._closed:
            return
        try:
            self.flush()
            self._write_statistics()
        finally:
            self._closed = True
            self._lock.close()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What interrupted the recording says more than that it could then not be saved either.
        with contextlib.suppress(PolysomaError) if kind else contextlib.nullcontext():
            self.close()

    def _acquire(self) -> None:
        with explain_writing(self.root):
            if not self._lock.enter_context(storage.lock(self.root / ".writer.lock", wait=False)):
                self._lock.close()
                raise PolysomaError(f"{self.root}: another process is recording into this data set; wait for it")

    def _open(self) -> None:
        described = (self.root / layout.POLYSOMA).exists() or (self.root / layout.INFO).exists()
        if not described:
            self._check_empty()
        if described:
            held, self.failures = layout.read_polysoma(self.root)
            self._version = layout.format_version(self.root)
            self._checksums = dict(layout.checksums(self.root))
            if held != self.embodiment:
                raise PolysomaError(f"{self.root}: {_difference(held, self.embodiment)}")
        index = layout.read_episodes(self.root)
        self._file = int(index.file.max()) + 1 if len(index.file) else 0
        self._episodes, self._frames = len(index.length), index.frames
        if self._episodes:
            self._rewards = index.rewards
        else:
            self._version = stored.FORMAT_VERSION
        self._instructions = {text: number for number, text in enumerate(index.instructions)}
        self.done = {
            (index.tasks[task], seed) for task, seed in zip(index.task.tolist(), index.seed.tolist(), strict=True)
        }
        self.done |= {(task, seed) for task, seeds in self.failures.items() for seed in seeds}
        if described:
            self._remove_orphans(set(layout.data_files(self.root, index)))
        # The embodiment goes first: with it the folder can be continued, whatever happens next.
        self._write_polysoma()
        self._write_metadata()
        self._write_statistics()

    def _check_empty(self) -> None:
        """Raises PolysomaError where there are files of a data set, but nothing that says they are ours."""
        for folder in ("data", "final", "meta"):
            for path in (self.root / folder).rglob("*"):
                if path.is_file() and not is_unfinished(path):
                    raise PolysomaError(
                        f"{self.root}: expected an empty folder or a data set of polysoma's, found {path} and no "
                        f"{layout.POLYSOMA}"
                    )

    def _remove_orphans(self, known: set[Path]) -> None:
        with explain_writing(self.root):
            for folder in ("data", "final"):
                for path in (self.root / folder).glob("chunk-*/file-*.parquet"):
                    linked = any(place.is_symlink() for place in (path, path.parent, self.root / folder))
                    if path not in known and not linked:
                        path.unlink()
            for folder in ("data", "final", "meta"):
                remove_temporaries(self.root / folder)

    def _flush_when_due(self) -> None:
        full = self._buffered_frames >= min(FLUSH_FRAMES, FLUSH_BYTES // self._frame_bytes)
        if full or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self.flush()

    @property
    def _features(self) -> dict[str, Feature]:
        return stored.all_features(self.embodiment, bool(self._rewards), self._version)

    @property
    def _frame_bytes(self) -> int:
        return sum(feature.bytes for feature in self._features.values())

    def _frames_table(self) -> pa.Table:
        buffer = self._buffer
        length = np.array([len(episode) for episode in buffer], np.int64)
        number = self._episodes + np.arange(len(buffer))
        tasks = [self._instructions.setdefault(e.instruction, len(self._instructions)) for e in buffer]
        frame = np.concatenate([np.arange(n) for n in length])
        last = frame == np.repeat(length, length) - 1
        ended = np.array([episode.terminated or episode.truncated for episode in buffer], bool)
        values = {
            stored.ACTION: np.concatenate([episode.actions for episode in buffer]),
            stored.EXECUTED: np.concatenate([episode.executed for episode in buffer]),
            stored.DONE: last & np.repeat(ended, length),
            stored.SUCCEEDED: last & np.repeat([bool(episode.success) for episode in buffer], length),
            "timestamp": frame / self.embodiment.rate_hz,
            "frame_index": frame,
            "episode_index": np.repeat(number, length),
            "index": self._frames + np.arange(len(frame)),
            "task_index": np.repeat(tasks, length),
        }
        for stream in self.embodiment.recorded:
            arrays = [episode.observations[stream.name] for episode in buffer]
            values[stored.stream_key(self.embodiment, stream)] = np.concatenate(arrays)
        if self._rewards:
            values[stored.REWARD] = np.concatenate([e.rewards for e in buffer if e.rewards is not None])
        return pa.table({name: feature.to_arrow(values[name]) for name, feature in self._features.items()})

    def _final_table(self) -> pa.Table | None:
        """The last observations of those episodes that have them."""
        finals = [episode.final for episode in self._buffer if episode.final is not None]
        if not finals:
            return None
        features = stored.final_features(self.embodiment)
        return pa.table(
            {
                stored.FINAL + key: features[stored.FINAL + key].to_arrow(np.stack([final[name] for final in finals]))
                for name, key in ((s.name, stored.stream_key(self.embodiment, s)) for s in self.embodiment.recorded)
            }
        )

    def _episodes_table(self) -> pa.Table:
        buffer = self._buffer
        length = np.array([len(episode) for episode in buffer], np.int64)
        end = self._frames + np.cumsum(length)
        number = self._episodes + np.arange(len(buffer))
        chunk, file = (np.full(len(buffer), n) for n in divmod(self._file, layout.FILES_PER_CHUNK))
        columns = [
            number,
            [[episode.instruction] for episode in buffer],
            length,
            chunk,
            file,
            end - length,
            end,
            chunk,
            file,
            [episode.task for episode in buffer],
            [episode.seed for episode in buffer],
            [bool(episode.success) for episode in buffer],
            [bool(episode.terminated) for episode in buffer],
            [bool(episode.truncated) for episode in buffer],
            [episode.rewards is not None for episode in buffer],
            [episode.final is not None for episode in buffer],
        ]
        arrays = [pa.array(c, type=field.type) for c, field in zip(columns, layout.EPISODES_SCHEMA, strict=True)]
        return pa.Table.from_arrays(arrays, schema=layout.EPISODES_SCHEMA)

    def _write_metadata(self) -> None:
        storage.write_parquet(self.root / layout.TASKS, tasks_table(list(self._instructions)))
        storage.write_json(self.root / layout.INFO, self._info())

    def _write_polysoma(self) -> None:
        layout.write_polysoma(self.root, self.embodiment, self.failures, self._checksums, self._version)
        self._unsaved = False

    def _info(self) -> dict[str, Any]:
        rate = self.embodiment.rate_hz
        return {
            "codebase_version": layout.LEROBOT_VERSION,
            "robot_type": self.embodiment.name,
            "total_episodes": self._episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._instructions),
            "chunks_size": layout.FILES_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(rate) if float(rate).is_integer() else rate,
            "splits": {"train": f"0:{self._episodes}"},
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH,
            "features": {name: feature.to_json() for name, feature in self._features.items()},
        }

    def _write_statistics(self) -> None:
        if self._frames == self._described_frames():
            return
        index = layout.read_episodes(self.root)
        columns = {name: feature for name, feature in self._features.items() if not feature.image}
        accumulators = {name: Accumulator(self._frames, int(np.prod(f.shape))) for name, f in columns.items()}
        for _, frames in layout.read_frames(self.root, index, columns):
            for name, values in frames.items():
                accumulators[name].add(values.reshape(len(values), -1))
        shapes = {name: feature.shape for name, feature in columns.items()}
        for name in self._features.keys() - columns.keys() if self._frames else ():
            pixels = layout.read_some_images(self.root, index, name, self._features[name]).reshape(-1, 3)
            accumulators[name] = Accumulator(len(pixels), 3)
            accumulators[name].add(pixels / np.float32(255))
            shapes[name] = (3, 1, 1)  # As LeRobot has it.
        stats = {}
        for name, accumulator in accumulators.items():
            shape = shapes[name]
            stats[name] = {key: value.reshape(shape).tolist() for key, value in accumulator.result().items()}
            stats[name]["count"] = [accumulator.count]
        storage.write_json(self.root / layout.STATS, stats)

    def _described_frames(self) -> int:
        path = self.root / layout.STATS
        try:
            return int(json.loads(path.read_text())["index"]["count"][0])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return 0


def tasks_table(instructions: list[str]) -> pa.Table:
    """LeRobot's table of tasks: a pandas frame whose index is the instruction, made without pandas."""
    index = "__index_level_0__"
    table = pa.table(
        {"task_index": pa.array(range(len(instructions)), pa.int64()), index: pa.array(instructions, pa.string())}
    )

    def described(name: str | None, field: str, kind: str, numpy: str) -> dict[str, Any]:
        return {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy, "metadata": None}

    # Without this note pandas reads the instructions as a column, and LeRobot finds no task by its number.
    pandas = {
        "index_columns": [index],
        "column_indexes": [described(None, None, "unicode", "object") | {"metadata": {"encoding": "UTF-8"}}],  # type: ignore[arg-type]
        "columns": [
            described("task_index", "task_index", "int64", "int64"),
            described(None, index, "unicode", "object"),
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.3",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _difference(held: Embodiment, given: Embodiment) -> str:
    text = f"this data set is of the embodiment {held.name}, got {given.name}"
    if held.name == given.name:
        text += f" with other {'; '.join(given.differences(held))}"
    return f"{text}; record into another folder"

"""Reading: a data set as memory-mapped arrays.

Frames are unpacked once into one file a column, so that a random window costs a copy and memory holds what is in use
alone (:mod:`polysoma.data.cache`). Data sets recorded here have these files in a folder ``.cache``; those of other
libraries stay as they are, and theirs lie in the user's cache folder. A cache is named after the files that it was made
from.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from polysoma.data import layout
from polysoma.data.cache import Columns, cached, fingerprint, user_cache
from polysoma.data.episode import Episode
from polysoma.data.foreign import Foreign, Progress
from polysoma.data.formats import open_reader
from polysoma.data.layout import EpisodeIndex
from polysoma.data.recorded import Recorded
from polysoma.data.schema import schema_of, schema_path
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import DiscreteActions
from polysoma.errors import PolysomaError

__all__ = ["Dataset", "DatasetWriter"]


class Dataset:
    """The episodes of one embodiment. ``len()`` is the number of frames N; E is the number of episodes.

    Data sets of other formats (:mod:`polysoma.data.formats`) are what the description next to them says, or what can be
    inferred (:mod:`polysoma.data.schema`). They have neither seeds nor labels apart from what was executed.

    Args:
        root: the folder or file.
        progress: called with (frames unpacked, of how many) while a cache is made.

    Attributes:
        embodiment: the body.
        tasks: task names such as ``"babyai/GoToLocal"``.
        instructions: the different instructions.
        episode_start: int64 (E,), the first frame.
        episode_length: int64 (E,), frames.
        episode_task: int64 (E,), indices into ``tasks``.
        episode_instruction: int64 (E,), indices into ``instructions``.
        episode_seed: int64 (E,).
        episode_success: bool (E,).
        observations: array streams by name, privileged ones too, ``(N, *stream.shape)`` of the stream's dtype,
            read-only. Pictures may be :class:`polysoma.data.pictures.Pictures` instead of an array.
        actions: the expert's labels, float32 (N, A) in the channels' units, or int64 (N,), read-only.
        executed: what was executed, as ``actions``.
        failures: seeds of failed expert episodes, by task.
        old_horizon: the policy's horizon that data sets and descriptions of the first format hold; None for others.

    Raises:
        PolysomaError: not a data set of a known format, a newer one, no episodes yet, or a damaged file.
    """

    def __init__(self, root: Path, progress: Progress | None = None) -> None:
        self.root = Path(root)
        if (self.root / layout.POLYSOMA).exists():
            index, columns = self._open_own()
        else:
            index, columns = self._open_foreign(progress)
        self.tasks, self.instructions = index.tasks, index.instructions
        self.episode_start, self.episode_length = index.start, index.length
        self.episode_task, self.episode_instruction = index.task, index.instruction
        self.episode_seed, self.episode_success = index.seed, index.success
        self._frames = index.frames
        streams = self.embodiment.recorded
        self.observations = {stream.name: columns[layout.stream_key(self.embodiment, stream)] for stream in streams}
        self.actions = columns[layout.ACTION][:]
        self.executed = columns[layout.EXECUTED][:] if layout.EXECUTED in columns else self.actions
        if isinstance(self.embodiment.actions, DiscreteActions):
            self.actions, self.executed = self.actions[:, 0], self.executed[:, 0]

    def _open_own(self) -> tuple[EpisodeIndex, Columns]:
        recorded = Recorded(self.root)
        self.embodiment, self.failures = recorded.embodiment, recorded.failures
        self.old_horizon = recorded.old_horizon
        name = fingerprint(self.root, recorded.files(), recorded.frames, recorded.features)
        return recorded.index, cached(name, recorded, [self.root / ".cache", user_cache(self.root)])

    def _open_foreign(self, progress: Progress | None) -> tuple[EpisodeIndex, Columns]:
        reader = open_reader(self.root)
        try:
            schema = schema_of(reader)
            self.embodiment, self.failures = schema.embodiment, {}
            self.old_horizon = schema.old_horizon
            foreign = Foreign(reader, schema, progress)
            files = [path for path in (*reader.files(), schema_path(self.root)) if path.exists()]
            name = fingerprint(self.root, files, foreign.frames, foreign.features)
            return foreign.index, cached(name, foreign, [user_cache(self.root)])
        finally:
            # Pictures that are streamed open what they need again.
            reader.close()

    def __len__(self) -> int:
        return self._frames

    def episode(self, number: int) -> Episode:
        """One episode, checked; its arrays are read-only and lie in the mapped files. Raises PolysomaError when there
        is no such episode."""
        if not 0 <= number < len(self.episode_length):
            raise PolysomaError(f"{self.root}: there is no episode {number}; there are {len(self.episode_length)}")
        begin = int(self.episode_start[number])
        frames = slice(begin, begin + int(self.episode_length[number]))
        return Episode(
            self.embodiment,
            self.tasks[self.episode_task[number]],
            self.instructions[self.episode_instruction[number]],
            int(self.episode_seed[number]),
            bool(self.episode_success[number]),
            {name: values[frames] for name, values in self.observations.items()},
            self.actions[frames],
            self.executed[frames],
        )

    def first_of_each_task(self, count: int) -> list[int]:
        """The numbers of the first episodes of each task; of all of them for 0."""
        ranks: dict[int, int] = {}
        chosen = []
        for number, task in enumerate(self.episode_task.tolist()):
            ranks[task] = ranks.get(task, 0) + 1
            if not count or ranks[task] <= count:
                chosen.append(number)
        return chosen

    @functools.cached_property
    def spreads(self) -> dict[str, np.ndarray]:
        """Of privileged streams by name: the standard deviation of each channel within each task, float32
        ``(tasks, size)``."""
        task = self.episode_task.repeat(self.episode_length)
        result = {}
        for stream in self.embodiment.privileged:
            values = self.observations[stream.name]
            rows = [values[task == number].std(0, np.float64) for number in range(len(self.tasks))]
            result[stream.name] = np.stack(rows).astype(np.float32)
        return result

"""Reading: a data set as memory-mapped arrays.

Frames are unpacked once into one file a column, so that a random window costs a copy and memory holds what is in use
alone (:mod:`polysoma.data.cache`). Data sets recorded here have these files in a folder ``.cache``; those of other
libraries stay as they are, and theirs lie in the user's cache folder. A cache is named after the files that it was made
from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from polysoma import progress
from polysoma.data import layout, storage, stored
from polysoma.data.cache import OWN, Columns, cached, fingerprint, user_cache
from polysoma.data.damage import Damaged, check_present, left_out
from polysoma.data.episode import Episode
from polysoma.data.foreign import ENDING, Foreign, absent_in
from polysoma.data.formats import located, open_reader
from polysoma.data.layout import EpisodeIndex
from polysoma.data.pictures import StreamedPictures
from polysoma.data.recorded import Recorded
from polysoma.data.schema import schema_of, schema_path
from polysoma.data.writer import DatasetWriter
from polysoma.embodiment import DiscreteActions
from polysoma.errors import PolysomaError

__all__ = ["Dataset", "DatasetWriter"]


_Held = TypeVar("_Held", Foreign, Recorded)


class Dataset:
    """The episodes of one embodiment. ``len()`` is the number of frames N; E is the number of episodes.

    Data sets of other formats (:mod:`polysoma.data.formats`) are what the description next to them says, or what can be
    inferred (:mod:`polysoma.data.schema`). They have neither seeds nor labels apart from what was executed.

    Args:
        root: the folder or file.
        skip_damaged: whether episodes of which a file is missing or cannot be read are left out, instead of an error.
            Pictures that are streamed are then looked at once, the first time that these files are opened.

    Attributes:
        left_out: the numbers of such episodes in the files, and what is wrong with each.
        embodiment: the body.
        inferred: whether that is what can be inferred from the data of another format, without a description.
        tasks: task names such as ``"babyai/GoToLocal"``.
        instructions: the different instructions.
        episode_number: int64 (E,), what the files call it; parts of one have the same.
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
        raw_rewards: as :attr:`rewards`, of which some may not be finite: for whoever need not learn from them.
        episode_terminated: bool (E,), whether the task itself ended the episode.
        episode_truncated: bool (E,), whether something else did (:class:`polysoma.data.episode.Episode`).
        final: the streams of ``observations`` after the last action of those F episodes that know it, by name,
            ``(F, *stream.shape)``; empty where none does. :meth:`next_observations` says whose they are.
        failures: seeds of failed expert episodes, by task.
        old_horizon: the policy's horizon that data sets and descriptions of the first format hold; None for others.

    Raises:
        PolysomaError: not a data set of a known format, a newer one, no episodes yet, or a damaged file.
    """

    def __init__(self, root: Path, skip_damaged: bool = False) -> None:
        self.root = Path(root)
        self.left_out: dict[int, str] = {}
        self.inferred = False
        if (self.root / layout.POLYSOMA).exists():
            index, columns = self._open_own(skip_damaged)
        else:
            index, columns = self._open_foreign(skip_damaged)
        self.tasks, self.instructions = index.tasks, index.instructions
        self.episode_start, self.episode_length = index.start, index.length
        self.episode_task, self.episode_instruction = index.task, index.instruction
        self.episode_seed, self.episode_success = index.seed, index.success
        self.episode_terminated, self.episode_truncated = index.terminated, index.truncated
        self.episode_number, self._has_final = index.number, index.final
        self._frames = index.frames
        streams = self.embodiment.recorded
        self.observations = {stream.name: columns[stored.stream_key(self.embodiment, stream)] for stream in streams}
        self.final = {
            stream.name: columns[stored.FINAL + stored.stream_key(self.embodiment, stream)]
            for stream in streams
            if index.final.any()
        }
        self.raw_rewards = columns[stored.REWARD][:][:, 0] if index.rewards else None
        self.actions = columns[stored.ACTION][:]
        self.executed = columns[stored.EXECUTED][:] if stored.EXECUTED in columns else self.actions
        if isinstance(self.embodiment.actions, DiscreteActions):
            self.actions, self.executed = self.actions[:, 0], self.executed[:, 0]

    @classmethod
    def named(cls, place: str) -> Dataset:
        """The data set at a path, or that of a name on the Hub (``hf://user/name``)."""
        return cls(located(Path(place)))

    def _open_own(self, skip_damaged: bool) -> tuple[EpisodeIndex, Columns]:
        recorded = Recorded(self.root)
        self.embodiment, self.failures = recorded.embodiment, recorded.failures
        self.old_horizon = recorded.old_horizon
        absent = recorded.absent()
        if not skip_damaged:
            check_present(self.root, absent, len(recorded.index.length))
        folders = [self.root / OWN, user_cache(self.root)]
        recorded, columns = self._readable(recorded.without, absent, recorded.files(), folders, skip_damaged)
        return recorded.index, columns

    def _open_foreign(self, skip_damaged: bool) -> tuple[EpisodeIndex, Columns]:
        reader = open_reader(self.root)
        try:
            schema = schema_of(reader)
            self.embodiment, self.failures = schema.embodiment, {}
            self.inferred = not schema_path(self.root).exists()
            self.old_horizon = schema.old_horizon
            files = [path for path in (*reader.files(), schema_path(self.root)) if path.exists()]
            absent = absent_in(reader, schema)
            if not skip_damaged:
                check_present(self.root, absent, len(reader))
            make = functools.partial(Foreign, reader, schema)
            foreign, columns = self._readable(make, absent, files, [user_cache(self.root)], skip_damaged)
            terminated, truncated, success = columns[ENDING][:].T
            index = dataclasses.replace(foreign.index, terminated=terminated, truncated=truncated, success=success)
            return index, columns
        finally:
            # Pictures that are streamed open what they need again.
            reader.close()

    def _readable(
        self,
        make: Callable[[Collection[int]], _Held],
        absent: Mapping[int, str],
        files: Sequence[Path],
        folders: Sequence[Path],
        skip_damaged: bool,
    ) -> tuple[_Held, Columns]:
        """The episodes, and their columns; if damaged ones are skipped, of those that can be read.

        Args:
            make: gives all episodes but those of these numbers.
            absent: the numbers of episodes of which a file is missing, and which.
            files: what the columns depend on.
            folders: where there may be a cache of them.
            skip_damaged: fills :attr:`left_out` instead of raising an error.
        """
        # What was found out once need not be found again, as long as the files are the same.
        note = user_cache(self.root) / f"{fingerprint(self.root, files, 0, {})}.unread.json"
        known = _noted(note) if skip_damaged else None
        self.left_out = {**absent, **(known or {})}
        while True:
            origin = make(self.left_out)
            try:
                columns = cached(fingerprint(self.root, files, origin.frames, origin.features), origin, folders)
                streamed = any(isinstance(column, StreamedPictures) for column in columns.values())
                if not skip_damaged or not streamed or known is not None:
                    break
                damaged = origin.damaged()
            except Damaged as error:
                if not skip_damaged:
                    raise
                damaged = {**origin.damaged(), **error.episodes}
            known = self.left_out = {**self.left_out, **damaged}
            with contextlib.suppress(PolysomaError):
                storage.write_json(note, {str(number): why for number, why in known.items()})
            if not damaged:
                break
        for line in left_out(self.left_out):
            progress.note(f"{self.root}: {line}")
        return origin, columns

    def __len__(self) -> int:
        return self._frames

    def episode(self, number: int) -> Episode:
        """One episode, checked; its arrays are read-only and lie in the mapped files. Raises PolysomaError when there
        is no such episode."""
        if not 0 <= number < len(self.episode_length):
            raise PolysomaError(f"{self.root}: there is no episode {number}; there are {len(self.episode_length)}")
        begin = int(self.episode_start[number])
        frames = slice(begin, begin + int(self.episode_length[number]))
        row = self._final_rows[number]
        return Episode(
            self.embodiment,
            self.tasks[self.episode_task[number]],
            self.instructions[self.episode_instruction[number]],
            int(self.episode_seed[number]),
            bool(self.episode_success[number]),
            {name: values[frames] for name, values in self.observations.items()},
            self.actions[frames],
            self.executed[frames],
            None if self.raw_rewards is None else self.raw_rewards[frames],
            bool(self.episode_terminated[number]),
            bool(self.episode_truncated[number]),
            None if row < 0 else {name: np.asarray(values[row]) for name, values in self.final.items()},
        )

    @functools.cached_property
    def rewards(self) -> np.ndarray | None:
        """What each executed action earned, float32 (N,), read-only; None where the source has no rewards.

        Raises:
            PolysomaError: one is not finite.
        """
        if self.raw_rewards is None or np.isfinite(self.raw_rewards).all():
            return self.raw_rewards
        frame = int(np.flatnonzero(~np.isfinite(self.raw_rewards))[0])
        episode = int(self.episode_of(np.array(frame)))
        raise PolysomaError(
            f"{self.root}: the reward of frame {frame - self.episode_start[episode]} of episode "
            f"{self.episode_number[episode]} is {self.raw_rewards[frame]}; `polysoma data convert --skip-damaged` "
            "leaves such episodes out"
        )

    def episode_of(self, frames: np.ndarray) -> np.ndarray:
        """The episodes that frames are of: int64, of the shape of ``frames``."""
        return np.searchsorted(self.episode_start, frames, side="right") - 1

    def next_observations(
        self, frames: np.ndarray, streams: Sequence[str] | None = None
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What was observed after the actions of these frames, never taken from another episode.

        Args:
            frames: int64 ``(...)``, below N.
            streams: names of what is read; None for all of ``observations``.

        Returns:
            Streams by name, ``(..., *stream.shape)``; and bool ``(...)``, whether the next observation is known. That
            of an episode's last frame is not where its source does not have it, or has numbers that are not finite:
            there stands the frame's own observation.
        """
        episode = self.episode_of(frames)
        inside = frames + 1 < self.episode_start[episode] + self.episode_length[episode]
        row = np.where(inside, -1, self._final_rows[episode])
        later, final = np.where(inside, frames + 1, frames), row >= 0
        result = {}
        for name in self.observations if streams is None else streams:
            values = np.asarray(self.observations[name][later])
            if final.any():
                values[final] = self.final[name][row[final]]
            result[name] = values
        return result, inside | final

    @functools.cached_property
    def _final_rows(self) -> np.ndarray:
        """Where in ``final`` the last observation of each episode is, int64 (E,); -1 for none, or no finite one."""
        rows = np.where(self._has_final, np.cumsum(self._has_final) - 1, -1)
        for values in self.final.values():
            if values.dtype.kind == "f":
                finite = np.isfinite(values[:]).all(axis=tuple(range(1, len(values.shape))))
                rows[self._has_final] = np.where(finite, rows[self._has_final], -1)
        return rows

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
    def task_std(self) -> dict[str, np.ndarray]:
        """Of privileged streams by name: the standard deviation of each channel within each task, float32
        ``(tasks, size)``."""
        task = self.episode_task.repeat(self.episode_length)
        result = {}
        for stream in self.embodiment.privileged:
            values = self.observations[stream.name]
            rows = [values[task == number].std(0, np.float64) for number in range(len(self.tasks))]
            result[stream.name] = np.stack(rows).astype(np.float32)
        return result


def _noted(note: Path) -> dict[int, str] | None:
    """What was found out about episodes that cannot be read; None where that is not known, or cannot be read itself."""
    with contextlib.suppress(PolysomaError, ValueError):
        if note.is_file():
            return {int(number): str(why) for number, why in storage.read_json(note).items()}
    return None

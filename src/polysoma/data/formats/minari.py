"""Minari 0.5 data sets on disk, in HDF5 and in Arrow, without Minari.

An episode of T steps has T + 1 observations; the last one, after which nothing was done, is :meth:`MinariReader.final`.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polysoma.data import door
from polysoma.data.formats.hdf5 import observation_name, unknown
from polysoma.data.formats.minari_episodes import ArrowEpisode, Hdf5Episode, HeldEpisode
from polysoma.data.formats.minari_spaces import box_limits, choice_count, choice_numbers, leaf_spaces, space_of
from polysoma.data.formats.naming import unused
from polysoma.data.formats.reader import (
    ACTION,
    MOST_CHOICES,
    REWARD,
    TERMINATED,
    TRUNCATED,
    Column,
    Ending,
    Part,
    Problem,
    Reader,
    reading,
)
from polysoma.data.formats.words import parts_of
from polysoma.data.numbering import UNNUMBERED, numbers_of
from polysoma.errors import PolysomaError

METADATA = "data/metadata.json"
_HDF5 = "data/main_data.hdf5"
_TOLD = ("observations/mission", "observations/instruction")
_SUCCESS = ("infos/success", "infos/is_success")
_FLAGS = {"terminations": TERMINATED, "truncations": TRUNCATED}
REWARDS_KNOWN, FINAL_KNOWN = "rewards_known", "final_observation_known"
"""Attributes of episodes that are False where :mod:`polysoma.data.to_minari` had to fill in what Minari wants."""


def is_minari(path: Path) -> bool:
    """Whether this folder says that it is a Minari data set."""
    return (path / METADATA).is_file()


class MinariReader(Reader):
    """A Minari data set. Raises PolysomaError when it is of another layout, or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with reading(self.path / METADATA):
            about = door.read_json(self.path / METADATA)
            layout = str(about["data_format"])
            if layout not in ("hdf5", "arrow"):
                raise PolysomaError(f"{self.path}: Minari's layout {layout!r}; this reads hdf5 and arrow")
            self._arrow = layout == "arrow"
            self._about: dict[str, Any] = about
            self._spaces = {
                "observations": space_of(about, "observation_space"),
                "actions": space_of(about, "action_space"),
            }
        self.format = f"Minari {layout}"
        self.robot = str(about.get("dataset_id") or self.path.name).replace("/", " ")
        self.left_out: dict[str, str] = {}
        self._unrewarded: set[int] = set()
        self.changes: dict[int, tuple[Part, ...]] = {}
        self.columns = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._numbers = self._arrow_numbers() if self._arrow else self._hdf5_numbers()
        self.numbers = numbers_of(self._numbers)
        self.remarks = [UNNUMBERED] if self.numbers is None else []
        lengths, instructions, successes, finals = [], [], [], []
        for episode in range(len(self._numbers)):
            with reading(self._file(episode), self.source(episode)), self._held(episode) as held:
                length = self._length(held)
                # What is in an episode without frames cannot be told.
                if not self.columns and (length or episode == len(self._numbers) - 1):
                    self._describe(held, length)
                self._describe_rewards(held, episode, length)
                lengths.append(length)
                parts = parts_of(held.texts(_TOLD)[: max(1, length)])
                instructions.append(parts[0].instruction)
                if len(parts) > 1:
                    self.changes[episode] = parts
                successes.append(held.any(_SUCCESS))
                seen = [path for (path, *_) in self._paths.values() if path.startswith("observations")]
                finals.append(length > 0 and held.says(FINAL_KNOWN) and all(held.rows(path) > length for path in seen))
        self.lengths, self.instructions = np.array(lengths, np.int64), instructions
        self.finals = np.array(finals, bool) if any(finals) else None
        if REWARD not in self.columns:
            self.left_out["rewards"] = "the data set that this one was made from has none"
        self._successes = successes
        if None not in successes:
            self.successes = np.array(successes, bool)

    def _arrow_numbers(self) -> list[int]:
        with reading(self.path / "data"):
            return sorted(int(folder.name) for folder in (self.path / "data").iterdir() if folder.name.isdigit())

    def _hdf5_numbers(self) -> list[int]:
        with reading(self.path / _HDF5), door.open_hdf5(self.path / _HDF5) as file:
            names = [name.removeprefix("episode_") for name in file]
            return sorted(int(name) for name in names if name.isdigit())

    def _file(self, episode: int) -> Path:
        return self.path / (f"data/{self._numbers[episode]}" if self._arrow else _HDF5)

    def _held(self, episode: int) -> HeldEpisode:
        if self._arrow:
            return ArrowEpisode(self._file(episode), self._spaces)
        return Hdf5Episode(self._file(episode), f"episode_{self._numbers[episode]}")

    def _length(self, held: HeldEpisode) -> int:
        path = next((path for path in held.paths() if f"{path}/".startswith("actions/")), None)
        if path is None:
            raise ValueError(f"there are no actions; there are {held.paths()}")
        return held.rows(path)

    def _describe(self, held: HeldEpisode, length: int) -> None:
        self._describe_actions(held, length)
        for path in held.paths():
            if path.startswith(("infos/", "actions/")) or path in (*_TOLD, "actions", "rewards"):
                continue
            column = held.column(path, length)
            if column is None:
                self.left_out[path] = "neither numbers nor pictures"
                continue
            plain = path.removeprefix("observations").removeprefix("/")
            name = _FLAGS.get(path) or observation_name(plain or "observation", column)
            if path == "observations" and not column.picture:
                name = "observation.state"
            name = unused(name, self.columns)
            self.columns[name], self._paths[name] = column, (path,)

    def _describe_rewards(self, held: HeldEpisode, episode: int, length: int) -> None:
        """Rewards are there where one episode has some: :mod:`polysoma.data.to_minari` fills in what it has not."""
        if "rewards" not in held.paths() or not held.says(REWARDS_KNOWN):
            self._unrewarded.add(episode)
        elif length and REWARD not in self.columns and (column := held.column("rewards", length)) is not None:
            self.columns[REWARD], self._paths[REWARD] = column, ("rewards",)

    def _describe_actions(self, held: HeldEpisode, length: int) -> None:
        """Actions may lie in several arrays: a dictionary or a tuple of spaces. They are one here, in the order of the
        spaces."""
        parts = dict(leaf_spaces(self._spaces["actions"], "actions"))
        paths = [path for path in (parts or held.paths()) if f"{path}/".startswith("actions/")]
        found = {path: held.column(path, length) for path in paths}
        if unread := [path for path, column in found.items() if column is None or column.picture]:
            raise PolysomaError(f"{self.path}: expected numbers as actions, {', '.join(unread)} are something else")
        columns = [column for column in found.values() if column is not None]
        counts = [choice_count(parts.get(path, {})) for path in paths]
        choices = None
        if any(counts):
            if not all(counts):
                raise PolysomaError(
                    f"{self.path}: actions that are partly numbers and partly choices are not read: "
                    + ", ".join(f"{path} is {space.get('type')}" for path, space in parts.items())
                )
            if (number := math.prod(counts)) > MOST_CHOICES:
                raise PolysomaError(
                    f"{self.path}: expected at most {MOST_CHOICES} choices as actions, got {number} ("
                    + ", ".join(f"{path} is {space.get('type')}" for path, space in parts.items()) + ")"
                )  # fmt: skip
            choices = tuple(
                itertools.product(*(numbers for space in parts.values() for numbers in choice_numbers(space)))
            )
        if len(paths) == 1:
            column = dataclasses.replace(columns[0], choices=choices)
        else:
            names = []
            for path, part in zip(paths, columns, strict=True):
                stem, size = path.removeprefix("actions/").replace("/", "."), math.prod(part.shape)
                names += [stem] if size == 1 else [f"{stem}_{number}" for number in range(size)]
            dtype = np.result_type(*(part.dtype for part in columns))
            column = Column((len(names),), dtype, tuple(names), choices=choices)
        limits = box_limits(parts[path] for path in paths if path in parts)
        if limits is not None and len(limits[0]) == math.prod(column.shape):
            column = dataclasses.replace(column, limits=limits)
        self.columns[ACTION], self._paths[ACTION] = column, tuple(paths)

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """See :meth:`Reader.window`."""
        rows, names = self.rows(episode, start, stop), self.wanted(columns)
        length = int(self.lengths[episode])
        with reading(self._file(episode), self.source(episode)), self._held(episode) as held:
            return {name: self._values(held, episode, name, length, rows) for name in names}

    def _values(self, held: HeldEpisode, episode: int, name: str, length: int, rows: slice) -> np.ndarray:
        about, paths = self.columns[name], self._paths[name]
        if name == REWARD and episode in self._unrewarded:
            return unknown(about, rows)
        if len(paths) == 1:
            return held.values(paths[0], about, length, rows)
        count, parts = rows.stop - rows.start, []
        for path in paths:
            part = held.column(path, length)
            if part is None:
                raise ValueError(f"{path} holds no numbers")
            parts.append(held.values(path, part, length, rows).reshape(count, -1))
        return np.concatenate(parts, 1, dtype=about.dtype).reshape(count, *about.shape)

    def ending(self, episode: int, held: Mapping[str, np.ndarray] | None = None) -> Ending:
        """See :meth:`Reader.ending`: some episodes may say whether they succeeded and others not."""
        found = super().ending(episode, held)
        return dataclasses.replace(found, success=self._successes[episode])

    def _final(self, episode: int, columns: Collection[str]) -> dict[str, np.ndarray]:
        length = int(self.lengths[episode])
        with reading(self._file(episode), self.source(episode)), self._held(episode) as held:
            last = slice(length, length + 1)
            return {name: self._values(held, episode, name, length + 1, last)[0] for name in columns}

    def files(self) -> list[Path]:
        """See :meth:`Reader.files`."""
        return sorted(path for path in (self.path / "data").rglob("*") if path.is_file())

    def problems(self) -> Iterator[Problem]:
        """See :meth:`Reader.problems`: columns that are left out, and totals that disagree."""
        yield from super().problems()
        for key, held in (("total_episodes", len(self)), ("total_steps", int(self.lengths.sum()))):
            if self._about.get(key) != held:
                yield Problem(
                    "error", METADATA, f"{key} is {self._about.get(key)}, the episodes come to {held}",
                    "copy the data set again from where it came",
                )  # fmt: skip

"""RLDS data sets (Open X-Embodiment) as TensorFlow Datasets stores them, read without TensorFlow.

``features.json`` says what a step is. A record of a TFRecord file is one episode: a ``tf.train.Example``, which maps
``steps/observation/state`` and the like to one list over all steps. Opening hops from record to record and, in them,
from list to list, so pictures are not touched; the checksum of a record's data is checked whenever it is read.

All steps are frames. By the definition of RLDS the action, the reward and the discount of a step that ``is_last`` mean
nothing: it is what was observed after the last action, and so it is learnt (:attr:`RldsReader.ends_observed`).
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from polysoma.data import door
from polysoma.data.formats.naming import unused
from polysoma.data.formats.reader import ACTION, DISCOUNT, TERMINATED, Part, Problem, Reader, reading
from polysoma.data.formats.rlds_features import (
    ABOUT,
    FEATURES,
    Leaf,
    column_name,
    column_of,
    instruction_leaves,
    leaf_of,
    leaves_of,
)
from polysoma.data.formats.tfrecord import checksum, features_of, record_size
from polysoma.data.formats.words import parts_of
from polysoma.data.images import decode_image
from polysoma.errors import PolysomaError

INFO = "dataset_info.json"
_SHARD = re.compile(r".+-(\w+)\.tfrecord-(\d+)-of-(\d+)")
_SUCCESS = f"{ABOUT}success"
_LAST = "steps/is_last"
_BOUNDS = {"steps/is_first": slice(1, None), "steps/is_last": slice(0, -1)}
"""Flags, and the steps at which they must not be set."""


def is_rlds(path: Path) -> bool:
    """Whether a folder is an RLDS data set, or holds versions of one (``1.0.0``)."""
    return bool(_versions(path))


def _versions(path: Path) -> list[Path]:
    """The folder itself, or those of the versions in it, oldest first."""
    if _holds_records(path):
        return [path]
    numbered = (folder for folder in path.glob("*.*.*") if re.fullmatch(r"\d+\.\d+\.\d+", folder.name))
    found = [folder for folder in numbered if _holds_records(folder)]
    return sorted(found, key=lambda folder: [int(number) for number in folder.name.split(".")])


def _holds_records(path: Path) -> bool:
    return (path / FEATURES).is_file() and any(_SHARD.fullmatch(file.name) for file in path.glob("*.tfrecord*"))


class RldsReader(Reader):
    """An RLDS data set; of several versions in the folder the newest is read.

    Lengths and instructions are taken without reading whole records, so where a checksum is wrong they may be too;
    :meth:`window` and :meth:`problems` tell.

    Raises:
        PolysomaError: there is none, a file is missing, descriptions or the records' framing are damaged, or no record
            holds what they describe.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._versions = _versions(self.path)
        if not self._versions:
            raise PolysomaError(f"{path}: expected an RLDS data set: {FEATURES} and NAME-SPLIT.tfrecord-00000-of-00001")
        self._folder = self._versions[-1]
        self._shards = sorted(file for file in self._folder.glob("*.tfrecord*") if _SHARD.fullmatch(file.name))
        with reading(self._folder / INFO):
            info = door.read_json(self._folder / INFO)
            self.robot, self.format = str(info["name"]), f"RLDS {info['version']} (tfrecord)"
            self._splits = {
                str(split["name"]): [int(count) for count in split.get("shardLengths", ())]
                for split in info.get("splits", ())
            }
        with reading(self._folder / FEATURES):
            self._describe_columns(door.read_json(self._folder / FEATURES))
        self._index()

    def _describe_columns(self, features: dict[str, Any]) -> None:
        top = dict(features["featuresDict"]["features"])
        if "sequence" not in top.get("steps", {}):
            raise PolysomaError(f"{self._folder / FEATURES}: no RLDS data set: it describes no sequence 'steps'")
        top["steps"] = top["steps"]["sequence"]["feature"]
        found = {key: leaf_of(key, leaf) for name, feature in top.items() for key, leaf in leaves_of(feature, name)}
        leaves = {key: leaf for key, leaf in found.items() if isinstance(leaf, Leaf)}
        steps = [leaf for leaf in leaves.values() if leaf.key.startswith("steps/")]
        if not steps:
            raise PolysomaError(f"{self._folder / FEATURES}: nothing that it describes in a step can be read")
        self._known = set(found)
        self.left_out = {key: why for key, why in found.items() if isinstance(why, str) and key.startswith("steps/")}
        small = [leaf for leaf in steps if leaf.kind == "number"] or steps
        self._counted = leaves.get("steps/is_first") or min(small, key=lambda leaf: leaf.size)
        self._bounds = {key: leaves[key] for key in _BOUNDS if key in leaves and leaves[key].kind == "number"}
        self._told = instruction_leaves(leaves)
        last = leaves.get(_LAST)
        self._last = last if last and last.kind == "number" and last.size == 1 else None
        success = leaves.get(_SUCCESS)
        self._succeeded = success if success and success.kind == "number" else None
        self._sources: dict[str, list[Leaf]] = {}
        for leaf in steps:
            if name := column_name(leaf):
                # An action may lie in several lists; all else is one.
                name = name if name == ACTION else unused(name, self._sources)
                self._sources.setdefault(name, []).append(leaf)
            elif leaf.kind != "number" and leaf not in self._told:
                self.left_out[leaf.key] = f"{leaf.kind}s here are not read"
        self.columns = {name: column_of(name, sources) for name, sources in self._sources.items()}

    def _index(self) -> None:
        self._places: list[tuple[Path, int, int]] = []
        self._unknown: set[str] = set()
        self._records = dict.fromkeys(self._shards, 0)
        self._unread: dict[int, str] = {}
        lengths, instructions, successes, observed = [], [], [], []
        self.changes: dict[int, tuple[Part, ...]] = {}
        wanted = {leaf.key for leaf in (self._counted, self._succeeded, self._last, *self._told) if leaf}
        for path in self._shards:
            with reading(path), door.open_bytes(path) as file:
                begin, end = 0, file.seek(0, io.SEEK_END)
                while begin < end:
                    number, steps, parts, success, ends = len(self._places), 0, parts_of(()), True, False
                    with reading(path, number):
                        size = record_size(file, begin, end)
                    try:
                        with reading(path, number):
                            found = features_of(file, begin + 12, begin + 12 + size, wanted)
                            steps, parts, success, ends = self._episode(found)
                            self._unknown |= found.keys() - self._known
                    except PolysomaError as error:
                        # One of many records; whoever needs it is told so (:meth:`absent`).
                        self._unread[number] = str(error)
                    lengths.append(steps)
                    instructions.append(parts[0].instruction)
                    successes.append(success)
                    observed.append(ends)
                    if len(parts) > 1:
                        self.changes[number] = parts
                    self._places.append((path, begin + 12, size))
                    self._records[path] += 1
                    begin += size + 16
        if self._unread and len(self._unread) == len(self._places):
            raise PolysomaError(next(iter(self._unread.values())))
        self.lengths, self.instructions = np.array(lengths, np.int64), instructions
        self.successes = np.array(successes, bool) if self._succeeded else None
        self.ends_observed = np.array(observed, bool) if any(observed) else None
        self.remarks = self._remarks(sum(observed))

    def _episode(self, found: dict[str, bytes | None]) -> tuple[int, tuple[Part, ...], bool, bool]:
        """Steps, words, whether it succeeded, and whether the last step is an observation alone."""
        steps = self._counted.parse(found)[1]
        parts, success = self._said(found, steps), True
        last: Any = self._last.parse(found)[0] if self._last else ()
        if self._succeeded:
            (value,) = self._succeeded.parse(found)[0]
            success = bool(np.any(value))
        return steps, parts, success, len(last) > 0 and bool(np.any(last[-1]))

    def _remarks(self, observed: int) -> list[str]:
        found = []
        if observed:
            found.append(
                f"the last step of {observed:,} of {len(self.lengths):,} episodes is what was observed after the last "
                "action (is_last): its action, reward and discount are not learnt"
            )
        if not {TERMINATED, DISCOUNT} & set(self.columns):
            found.append("neither is_terminal nor discount is there: how episodes ended is not known")
        splits, there = Counter[str](), Counter[str]()
        # How many files a split has is said by the names of those that are there, and elsewhere for those without any.
        shards = {split: len(counts) for split, counts in self._splits.items()}
        for path, records in self._records.items():
            if match := _SHARD.fullmatch(path.name):
                splits[match[1]] += records
                there[match[1]] += 1
                shards[match[1]] = int(match[3])
        found += [
            f"{count - there[split]:,} of {count:,} files of {split} are not there: their episodes are left out"
            for split, count in shards.items()
            if there[split] < count
        ]
        if len(splits) > 1:
            several = ", ".join(f"{count:,} of {split}" for split, count in splits.items())
            found.append(
                f"all splits are read, {several}: to keep some for tests, give each split's files a folder of its own"
            )
        return found

    def _said(self, found: dict[str, bytes | None], steps: int) -> tuple[Part, ...]:
        """The instruction of an episode: by the first of the texts that says anything."""
        for leaf in self._told:
            texts = [str(text, "utf-8", "replace") for text in leaf.parse(found)[0]]
            if leaf.key.startswith("steps/") and len(texts) != steps:
                raise ValueError(f"{leaf.key} has {len(texts)} steps, {self._counted.key} has {steps}")
            parts = parts_of(texts)
            if parts[0].instruction:
                return parts
        return parts_of(())

    def _load(self, episode: int, leaves: Collection[Leaf]) -> dict[str, Any]:
        """Lists by key. Raises ValueError when the record is damaged or a list has another number of steps."""
        path, begin, size = self._places[episode]
        with door.open_bytes(path) as file:
            file.seek(begin)
            data, known = file.read(size), file.read(4)
        if len(known) != 4 or checksum(data) != known:
            raise ValueError("the checksum of the record is not that of its data")
        found = features_of(io.BytesIO(data), 0, size, {leaf.key for leaf in leaves})
        lists: dict[str, Any] = {}
        for leaf in leaves:
            lists[leaf.key], steps = leaf.parse(found)
            if steps != self.lengths[episode]:
                raise ValueError(f"{leaf.key} has {steps} steps, {self._counted.key} has {self.lengths[episode]}")
        return lists

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """See :meth:`Reader.window`: the whole record is read, because its checksum is that of all of it."""
        self.check_episode(episode)
        if episode in self._unread:
            raise PolysomaError(self._unread[episode])
        rows, names = self.rows(episode, start, stop), self.wanted(columns)
        with reading(self._places[episode][0], episode):
            lists = self._load(episode, [leaf for name in names for leaf in self._sources[name]])
            return {name: self._frames(name, lists, rows) for name in names}

    def _frames(self, name: str, lists: dict[str, Any], rows: slice) -> np.ndarray:
        column, leaves = self.columns[name], self._sources[name]
        if not column.picture:
            count = rows.stop - rows.start
            parts = [lists[leaf.key][rows].reshape(count, leaf.size) for leaf in leaves]
            return np.concatenate(parts, 1, dtype=column.dtype).reshape(count, *column.shape)
        files = lists[leaves[0].key][rows]
        # Zeros take memory only where a picture is put: a wrong shape costs none.
        pictures = np.zeros((len(files), *column.shape), np.uint8)
        for place, file in enumerate(files):
            if len(file):
                try:
                    pictures[place] = decode_image(bytes(file), column.shape)
                except Exception as error:
                    raise ValueError(f"{name}, frame {rows.start + place}: {error}") from error
        return pictures

    def files(self) -> list[Path]:
        """See :meth:`Reader.files`."""
        return [self._folder / FEATURES, self._folder / INFO, *self._shards]

    def absent(self, columns: Collection[str]) -> dict[int, str]:
        """See :meth:`Reader.absent`: those whose records are damaged so that not even their steps can be counted."""
        return self._unread

    def problems(self) -> Iterator[Problem]:
        """See :meth:`Reader.problems`: what is left out, shards against ``dataset_info.json``, and every record."""
        if len(self._versions) > 1:
            older = ", ".join(folder.name for folder in self._versions[:-1])
            yield Problem("note", self._folder.name, f"is read; {older} lie beside it", "open their folders for those")
        yield from super().problems()
        for key in sorted(self._unknown):
            if not any(key.startswith(f"{known}/") for known in self._known):
                yield Problem(
                    "warning", key, f"lies in the records, {FEATURES} does not describe it", f"copy {FEATURES} again"
                )
        yield from self._shard_problems()
        every = [leaf for leaves in self._sources.values() for leaf in leaves]
        every += [leaf for leaf in self._told if leaf.key.startswith("steps/")]
        astray = []
        for episode, (path, _, _) in enumerate(self._places):
            try:
                with reading(path, episode):
                    lists = self._load(episode, [*every, *self._bounds.values()])
            except PolysomaError as error:
                yield Problem("error", f"{path.name}, episode {episode}", str(error), "copy this file again")
                continue
            if any(np.any(lists[key][inside]) for key, inside in _BOUNDS.items() if key in self._bounds):
                astray.append(episode)
        if astray:
            yield Problem(
                "warning", " and ".join(_BOUNDS), f"amidst {len(astray)} episodes, such as {astray[0]}",
                "see whether several episodes were joined to one",
            )  # fmt: skip

    def _shard_problems(self) -> Iterator[Problem]:
        held: dict[str, dict[int, tuple[str, int]]] = {}
        for path, records in self._records.items():
            if match := _SHARD.fullmatch(path.name):
                held.setdefault(match[1], {})[int(match[2])] = path.name, records
        copy = "copy the data set again if it should be complete"
        for split, expected in self._splits.items():
            shards = held.pop(split, {})
            gone = [number for number in range(len(expected)) if number not in shards]
            if gone:
                what = (
                    f"{len(gone)} of its {len(expected)} files are missing, {sum(expected[n] for n in gone)} episodes"
                )
                yield Problem("warning", f"split {split}", what, copy)
            for number, (name, records) in shards.items():
                if number >= len(expected) or records != expected[number]:
                    told = expected[number] if number < len(expected) else "nothing of it"
                    yield Problem("error", name, f"holds {records} episodes, {INFO} says {told}", copy)
        for split in held:
            yield Problem("warning", f"split {split}", f"has files, {INFO} does not name it", copy)

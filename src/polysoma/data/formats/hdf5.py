"""HDF5 files of robomimic, and of ALOHA and ACT.

robomimic's data sets are one file with a group ``data/demo_N`` for each episode; ALOHA's are a folder with a file
``episode_N.hdf5`` for each. Links out of files are not followed (:mod:`polysoma.data.door`).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polysoma.data import door
from polysoma.data.formats.naming import unused
from polysoma.data.formats.reader import (
    ACTION,
    DONE,
    OBSERVATION,
    PICTURE,
    REWARD,
    Column,
    Ending,
    Problem,
    Reader,
    reading,
)
from polysoma.data.images import decode_image, image_shape
from polysoma.data.numbering import UNNUMBERED, numbers_of
from polysoma.errors import PolysomaError
from polysoma.text import some

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
HDF5_SUFFIXES = (".hdf5", ".h5", ".hdf")
_MOST_BYTES = 8 * 2**30
"""Of one column of one episode: more is taken for damage."""
_INSTRUCTIONS = ("language_instruction", "lang", "instruction", "task")


def is_hdf5(path: Path) -> bool:
    """Whether this is an HDF5 file, or a folder of files ``episode_N.hdf5``."""
    if path.is_dir():
        return any(_NUMBERED.fullmatch(file.name) for file in path.glob("episode_*.hdf5"))
    return path.suffix in HDF5_SUFFIXES and door.begins_with(path, _SIGNATURE)


def column_of(shape: tuple[int, ...], dtype: np.dtype) -> Column | None:
    """What an array ``(T, *shape)`` is; None where it is neither numbers nor pictures."""
    if dtype.kind not in "fiub":
        return None
    if len(shape) == 3 and shape[2] == 3 and dtype == np.uint8:
        return Column(shape, dtype, picture=True)
    return Column(shape, np.dtype(np.float32) if dtype.kind == "f" else dtype)


def observation_name(path: str, column: Column) -> str:
    """The column's name in the readers' vocabulary."""
    return (PICTURE if column.picture else OBSERVATION) + path.replace("/", ".")


def unknown(about: Column, rows: slice) -> np.ndarray:
    """What stands for numbers that an episode does not have and others do: NaN where there is such a thing."""
    count = rows.stop - rows.start
    return np.full((count, *about.shape), np.nan if about.dtype.kind == "f" else 0, about.dtype)


def rows_of(array: Any, about: Column, length: int, rows: slice, coded: bool = False) -> np.ndarray:
    """Some of the first ``length`` rows of an HDF5 array. Raises ValueError when it is shorter or of another kind."""
    if array.shape[:1] < (length,):
        raise ValueError(f"{array.name} holds {array.shape[0] if array.shape else 1} rows of {length}")
    if coded:
        pictures = np.empty((rows.stop - rows.start, *about.shape), np.uint8)
        for place, row in enumerate(range(rows.start, rows.stop)):
            pictures[place] = decode_image(np.asarray(array[row], np.uint8).tobytes(), about.shape)
        return pictures
    if array.shape[1:] != about.shape or array.dtype.kind not in "fiub":
        raise ValueError(f"{array.name}: expected rows of shape {about.shape}, got {array.dtype} of {array.shape[1:]}")
    if (rows.stop - rows.start) * array.dtype.itemsize * int(np.prod(about.shape)) > _MOST_BYTES:
        raise ValueError(f"{array.name} claims more than {_MOST_BYTES >> 30} GB")
    values: np.ndarray = array[rows]
    return values.astype(about.dtype, copy=False)


class Hdf5Reader(Reader):
    """A robomimic file, or a folder of ALOHA's. Raises PolysomaError when it is neither, or damaged."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.left_out: dict[str, str] = {}
        self._coded: set[str] = set()
        self._problems: list[Problem] = []
        self._unread: dict[int, str] = {}
        self._paths: dict[str, str] = {}
        self.remarks: list[str] = []
        self.columns = {}
        self._lacking: dict[str, set[int]] = {}
        if self.path.is_dir():
            found = [(int(match[1]), file) for file in self.path.iterdir() if (match := _NUMBERED.fullmatch(file.name))]
            self._episodes = [(file, "/") for _, file in sorted(found)]
            self._number([number for number, _ in sorted(found)])
            self._open_aloha()
            return
        with reading(self.path), door.open_hdf5(self.path) as file:
            robomimic = "data" in file
            if not robomimic and "action" not in file:
                raise self._unknown(sorted(file))
            if robomimic:
                self._open_robomimic(file)
        if not robomimic:
            self._episodes = [(self.path, "/")]
            self._open_aloha()

    def _unknown(self, names: list[str]) -> PolysomaError:
        """About a file that is whole, and not for this reader."""
        return PolysomaError(
            f"{self.path}: an HDF5 file of a layout that is not known here: expected groups data/demo_0, ... "
            f"(robomimic) or an array action beside observations (ALOHA), got {some(names) or 'nothing'}"
        )

    def _open_robomimic(self, file: Any) -> None:
        demos = sorted((int(match[1]), name) for name in file["data"] if (match := re.fullmatch(r"demo_(\d+)", name)))
        if not demos:
            raise self._unknown([f"data/{name}" for name in sorted(file["data"])])
        about = _json(file["data"].attrs.get("env_args"))
        rate = (about.get("env_kwargs") or {}).get("control_freq")
        self.format, self.robot = "robomimic HDF5", str(about.get("env_name") or "")
        self.fps = float(rate) if isinstance(rate, int | float) and rate > 0 else None
        told = str(_json(file["data"].attrs.get("problem_info")).get("language_instruction") or "")
        self._episodes = [(self.path, f"data/{name}") for _, name in demos]
        self._number([number for number, _ in demos])
        lengths, instructions, finals = [], [], []
        for number, (_, name) in enumerate(demos):
            demo = file["data"][name]
            length = int(demo["actions"].shape[0])
            lengths.append(length)
            held = demo.attrs.get("num_samples", length)
            if held != length:
                self._problems.append(
                    Problem("error", f"data/{name}", f"num_samples is {held}, there are {length} actions",
                            "copy the file again, or leave the episode out")
                )  # fmt: skip
            instructions.append(str(_json(demo.attrs.get("ep_meta")).get("lang") or "") or told)
            # What is in an episode without frames cannot be told.
            if not self.columns and (length or number == len(demos) - 1):
                self._describe(demo.leaves(), length, {"actions": ACTION}, "obs/", ("obs/",))
            self._describe_outcomes(demo, number, length)
            finals.append(
                length > 0 and all(_NEXT + path in demo for path in self._paths.values() if path.startswith("obs/"))
            )
        if isinstance(masks := file.get("mask"), Mapping) and masks:
            listed = ", ".join(f"mask/{name}" for name in sorted(masks)[:8])
            self.remarks.append(f"all demonstrations are read, whatever {listed} list")
        self.lengths, self.instructions = np.array(lengths, np.int64), instructions
        self.finals = np.array(finals, bool) if any(finals) else None
        for path in self._paths.values() if any(finals) else ():
            # Of the observations after each action only the last one is needed: the others are those of the next frame.
            self.left_out.pop(_NEXT + path, None)

    def _number(self, found: list[int]) -> None:
        self.numbers = numbers_of(found)
        if self.numbers is None:
            self.remarks.append(UNNUMBERED)

    def _describe_outcomes(self, demo: Any, number: int, length: int) -> None:
        """Rewards and ends, which some demonstrations may lack: those of people beside those of a policy."""
        for path, name in _OUTCOMES.items():
            if path not in demo:
                self._lacking.setdefault(name, set()).add(number)
            elif length and name not in self.columns and demo[path].shape[:1] == (length,):
                column = column_of(demo[path].shape[1:], demo[path].dtype)
                if column is not None:
                    self.columns[name], self._paths[name] = column, path
                    self.left_out.pop(path, None)

    def ending(self, episode: int, held: Mapping[str, np.ndarray] | None = None) -> Ending:
        """See :meth:`Reader.ending`: where an episode does not say how it ended, others may."""
        if episode in self._lacking.get(DONE, ()):
            return Ending()
        return super().ending(episode, held)

    def _open_aloha(self) -> None:
        self.format = "ALOHA HDF5"
        lengths, instructions = [], []
        for number, (path, _) in enumerate(self._episodes):
            try:
                with reading(path, self.source(number)), door.open_hdf5(path) as file:
                    length, told = int(file["action"].shape[0]), _told(file)
                    if not self.columns and (length or number == len(self._episodes) - 1):
                        rate = file.attrs.get("fps")
                        self.fps = float(rate) if rate is not None and float(rate) > 0 else None
                        named = {"action": ACTION, "reward": REWARD}
                        self._describe(file.leaves(), length, named, "observations/", ("observations/images/",))
            except PolysomaError as error:
                # One of many files; whoever needs it is told so (:meth:`absent`).
                self._unread[number] = str(error)
                length, told = 0, ""
                if len(self._unread) == len(self._episodes):
                    raise
            lengths.append(length)
            instructions.append(told)
        self.lengths, self.instructions = np.array(lengths, np.int64), instructions
        if not self.columns:
            raise PolysomaError(next(iter(self._unread.values())))

    def _describe(
        self, arrays: dict[str, Any], length: int, named: dict[str, str], observations: str, coded: tuple[str, ...]
    ) -> None:
        self._paths, self.columns = {}, {}
        for path, array in arrays.items():
            shape, column = array.shape[1:], None
            if array.shape[:1] == (length,) and length:
                if path.startswith(observations) and len(shape) <= 1 and self._is_coded(path, array, coded):
                    first = image_shape(np.asarray(array[0], np.uint8).tobytes())
                    column = Column(first, np.dtype(np.uint8), picture=True)
                    self._coded.add(path)
                else:
                    column = column_of(shape, array.dtype)
            name = named.get(path)
            if name is None and path.startswith(observations) and column is not None:
                plain = path.removeprefix(observations)
                name = observation_name(plain.removeprefix("images/") if column.picture else plain, column)
            if name is None or column is None:
                self.left_out[path] = f"{array.dtype} of shape {array.shape} is not read"
            else:
                name = unused(name, self.columns)
                self.columns[name] = column
                self._paths[name] = path
        if ACTION not in self.columns:
            self.columns = {}
            raise ValueError(f"the array {next(iter(named))} does not hold one row of numbers a frame")

    def _is_coded(self, path: str, array: Any, prefixes: tuple[str, ...]) -> bool:
        """Whether rows are files of pictures: JPEG begins with the bytes FF D8, PNG with 89 50."""
        if not path.startswith(prefixes) or array.dtype.kind not in "uO":
            return False
        if array.dtype.kind == "u" and (array.dtype != np.uint8 or array.ndim != 2):
            return False
        return np.asarray(array[0], np.uint8)[:2].tolist() in ([0xFF, 0xD8], [0x89, 0x50])

    def window(
        self, episode: int, start: int, stop: int, columns: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """See :meth:`Reader.window`: only what these frames need is read."""
        rows, names = self.rows(episode, start, stop), self.wanted(columns)
        if episode in self._unread:
            raise PolysomaError(self._unread[episode])
        return self._arrays(episode, rows, names, "")

    def _final(self, episode: int, columns: Collection[str]) -> dict[str, np.ndarray]:
        length = int(self.lengths[episode])
        held = self._arrays(episode, slice(length - 1, length), columns, _NEXT)
        return {name: values[0] for name, values in held.items()}

    def _arrays(self, episode: int, rows: slice, names: Collection[str], prefix: str) -> dict[str, np.ndarray]:
        path, group = self._episodes[episode]
        length = int(self.lengths[episode])
        with reading(path, self.source(episode)), door.open_hdf5(path) as file:
            arrays = file[group].leaves()
            found = {n: prefix + self._paths[n] for n in names if episode not in self._lacking.get(n, ())}
            missing = [where for where in found.values() if where not in arrays]
            if missing:
                raise ValueError(f"there is no {', '.join(missing)}")
            values = {
                name: rows_of(arrays[where], self.columns[name], length, rows, self._paths[name] in self._coded)
                for name, where in found.items()
            }
            return {n: values[n] if n in values else unknown(self.columns[n], rows) for n in names}

    def files(self) -> list[Path]:
        """See :meth:`Reader.files`."""
        return list(dict.fromkeys(path for path, _ in self._episodes))

    def absent(self, columns: Collection[str]) -> dict[int, str]:
        """See :meth:`Reader.absent`: those whose file could not be opened."""
        return self._unread

    def problems(self) -> Iterator[Problem]:
        """See :meth:`Reader.problems`: columns that are left out, and lengths that disagree."""
        yield from self._problems
        for episode, why in self._unread.items():
            yield Problem(
                "error", self._episodes[episode][0].name, why, "copy it again; --skip-damaged leaves the episode out"
            )
        yield from super().problems()


_OUTCOMES = {"rewards": REWARD, "dones": DONE}
_NEXT = "next_"
"""Before the path of an observation: robomimic's name of the one after the action."""
_NUMBERED = re.compile(r"episode_(\d+)\.hdf5")


def _json(text: Any) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none."""
    with contextlib.suppress(TypeError, ValueError):
        value = json.loads(text)
        if isinstance(value, dict):
            return value
    return {}


def _told(file: Any) -> str:
    for name in _INSTRUCTIONS:
        value = file.attrs.get(name)
        if value is None and name in file and file[name].shape == ():
            value = file[name][()]
        if isinstance(value, bytes | str):
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return ""

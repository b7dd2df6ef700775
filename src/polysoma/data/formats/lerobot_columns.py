"""What the columns of a LeRobotDataset are: ``features`` of its ``meta/info.json``, and GR00T's ``meta/modality.json``.

LeRobot calls what is sensed ``observation.*`` and what is done ``action``. Other people's converters say ``state`` and
``actions`` (openpi), write one column a joint (``action.left_elbow.pos``), or slices with names of their own (GR00T).
What can be told from such names is taken for what it says, with a remark for people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polysoma.data import stored
from polysoma.data.formats.naming import unused
from polysoma.data.formats.reader import (
    ACTION,
    DONE,
    OBSERVATION,
    PICTURE,
    REWARD,
    SUCCESS,
    TERMINATED,
    TRUNCATED,
    Column,
)  # fmt: skip
from polysoma.text import some

STATE = OBSERVATION + "state"
_CALLED = {
    "next.reward": REWARD, "next.done": DONE, "next.terminated": TERMINATED, "next.truncated": TRUNCATED,
    "next.success": SUCCESS, "is_terminal": TERMINATED,
}  # fmt: skip
"""What LeRobot, and converters from RLDS, call the columns of the readers' vocabulary."""
_LARGEST, _NAMED = 2**28, 4096
"""Numbers of a value, and channels that get names: ``meta/info.json`` may be damaged and speak of billions."""


@dataclass
class Described:
    """What a data set holds.

    Attributes:
        columns: by name in the readers' vocabulary.
        keys: column name to the columns of the files that stand in it, one after the other; mostly one.
        videos: those of the files' columns that are films.
        rates: of those of which it is said: frames a second.
        left_out: columns of the files that are not read, and why.
        remarks: what was concluded from names, for people.
    """

    columns: dict[str, Column] = field(default_factory=dict)
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    videos: list[str] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def describe(features: Mapping[str, Any], modality: Mapping[str, Any]) -> Described:
    """What the columns are.

    Args:
        features: of ``meta/info.json``, by column.
        modality: the content of ``meta/modality.json``, or nothing.

    Raises:
        ValueError: a feature does not say of what dtype or shape it is.
    """
    found = Described()
    for key, feature in features.items():
        if key not in stored.COUNTERS:
            _describe(str(key), _checked(str(key), feature), found)
    parts = _Parts(modality)
    for name, column in found.columns.items():
        if names := parts.names(found.keys[name][0], column):
            found.columns[name] = Column(column.shape, column.dtype, names)
            found.remarks.append(f"{name}: names of channels are those of the parts in meta/modality.json")
    _find_action(found, parts)
    _find_state(found)
    return found


def _checked(key: str, feature: Any) -> Mapping[str, Any]:
    lacks = [what for what in ("dtype", "shape") if not isinstance(feature, Mapping) or what not in feature]
    if lacks:
        raise ValueError(f"features: {key}: expected dtype and shape, {' and '.join(lacks)} is missing")
    return feature


def _describe(key: str, feature: Mapping[str, Any], found: Described) -> None:
    kind, shape = str(feature["dtype"]).removeprefix("torch.").lower(), feature["shape"]
    shape = (shape,) if isinstance(shape, int) else tuple(int(size) for size in shape)
    if min(shape, default=1) < 1 or math.prod(shape) > _LARGEST:
        found.left_out[key] = f"values of shape {shape} are not read"[:200]
        return
    if kind in ("video", "image"):
        about = {**(feature.get("info") or {}), **(feature.get("video_info") or {})}
        if about.get("video.is_depth_map"):
            found.left_out[key] = "depth maps are not read"
            return
        if len(shape) == 3 and shape[0] == 3 and shape[2] != 3:
            shape = (shape[1], shape[2], shape[0])
        if len(shape) != 3 or shape[2] != 3:
            found.left_out[key] = f"pictures of shape {shape} are not read"
            return
        name = unused(PICTURE + key.removeprefix(PICTURE).removeprefix(OBSERVATION), found.columns)
        found.columns[name] = Column(shape, np.dtype(np.uint8), picture=True)
        if kind == "video":
            found.videos.append(key)
            if isinstance(rate := about.get("video.fps"), int | float) and rate > 0:
                found.rates[key] = float(rate)
    else:
        dtype = _dtype(kind)
        if dtype is None:
            found.left_out[key] = f"columns of {kind} are not read"
            return
        shape = () if shape == (1,) and key != ACTION and not key.startswith(OBSERVATION) else shape
        name = _CALLED.get(key, key)
        # A column that is called so already comes first.
        name = key if name in found.columns else name
        names = channel_names(feature.get("names"))
        found.columns[name] = Column(shape, dtype, names if names and len(names) == np.prod(shape) else None)
    found.keys[name] = (key,)


def _dtype(kind: str) -> np.dtype | None:
    try:
        dtype = np.dtype(kind)
    except TypeError:
        return None
    return dtype if dtype.kind in "fiub" else None


def channel_names(given: Any) -> tuple[str, ...] | None:
    """Names of channels: a list, which may be nested; a table of lists; or a table of names to places."""
    if isinstance(given, dict):
        places = list(given.values())
        if all(str(name).isdecimal() for name in given) and all(isinstance(place, str) for place in places):
            # Places to names.
            given = {name: int(place) for place, name in given.items()}
            places = list(given.values())
        if places and all(type(place) in (int, float) for place in places):
            # Counted from 0 or from 1; other numbers are no places, and the order of a table is none.
            first = min(places)
            counted = first in (0, 1) and sorted(places) == [first + n for n in range(len(places))]
            given = sorted(given, key=given.__getitem__) if counted else []
        elif any(isinstance(part, list) for part in places):
            given = [part for part in places if isinstance(part, list)]
        else:
            given = list(given)
    names = tuple(_flat(given)) if isinstance(given, list) else ()
    named = all(isinstance(name, str) for name in names)
    return names if names and named and len(set(names)) == len(names) else None


def _flat(given: list[Any]) -> list[Any]:
    return [name for part in given for name in (_flat(part) if isinstance(part, list) else [part])]


class _Parts:
    """GR00T's description: slices of columns, by part."""

    def __init__(self, modality: Mapping[str, Any]) -> None:
        self._slices: dict[str, list[tuple[int, int, str]]] = {}
        self.actions: list[str] = []
        for kind, default in (("state", STATE), ("action", ACTION)):
            for part, about in _table(modality.get(kind)).items():
                begin, end, key = about.get("start"), about.get("end"), str(about.get("original_key") or default)
                if type(begin) is int and type(end) is int and 0 <= begin < end:
                    self._slices.setdefault(key, []).append((begin, end, str(part)))
                    if kind == "action" and key not in self.actions:
                        self.actions.append(key)

    def names(self, key: str, column: Column) -> tuple[str, ...] | None:
        """Names of a column's channels after their parts, where it has none of its own; others keep their places."""
        if column.names or column.picture or len(column.shape) != 1 or column.shape[0] > _NAMED:
            return None
        size, names = column.shape[0], {}
        for begin, end, part in self._slices.get(key, ()):
            for place in range(begin, min(end, size)):
                names[place] = part if end - begin == 1 else f"{part}_{place - begin}"
        stem = key.removeprefix(OBSERVATION)
        listed = tuple(names.get(place, f"{stem}_{place}") for place in range(size))
        return listed if names and len(set(listed)) == size else None


def _table(given: Any) -> dict[str, dict[str, Any]]:
    return {str(k): v for k, v in given.items() if isinstance(v, dict)} if isinstance(given, dict) else {}


def annotations_in(modality: Mapping[str, Any]) -> list[str]:
    """The columns that say by its number what is to be done, as ``meta/modality.json`` tells."""
    return [str(v.get("original_key") or f"annotation.{k}") for k, v in _table(modality.get("annotation")).items()]


def _find_action(found: Described, parts: _Parts) -> None:
    if ACTION in found.columns:
        return
    for chosen in (
        ["actions"],
        [name for name in found.columns if name.startswith((f"{ACTION}.", f"{ACTION}s."))],
        parts.actions,
    ):
        if chosen and all(name in found.columns and _is_row(found.columns[name]) for name in chosen):
            _join(found, ACTION, chosen)
            return


def _find_state(found: Described) -> None:
    seen = [name for name, c in found.columns.items() if name.startswith(OBSERVATION) and not c.picture]
    joints = [name for name in seen if found.columns[name].shape in ((), (1,))]
    if STATE not in found.columns and len(joints) > 1 and len(found.keys.get(ACTION, ())) > 1:
        # Whoever writes one column for each joint's action means one state as well.
        _join(found, STATE, [name for name in seen if _is_row(found.columns[name])])
    if seen or ACTION not in found.columns:
        return
    for stem in ("state", "states"):
        for chosen in ([stem], [name for name in found.columns if name.startswith(f"{stem}.")]):
            if chosen and all(name in found.columns and _is_row(found.columns[name]) for name in chosen):
                _join(found, STATE, chosen)
                return
    others = [name for name, c in found.columns.items() if not c.picture and _is_row(c) and _is_sensed(name)]
    for name in others:
        _join(found, OBSERVATION + name, [name])


def _is_row(column: Column) -> bool:
    return not column.picture and len(column.shape) <= 1


def _is_sensed(name: str) -> bool:
    own = (ACTION, *_CALLED, *_CALLED.values(), "timestamp", "discount")
    return name not in own and not name.startswith(("annotation", "next.", f"{ACTION}.")) and "index" not in name


def _join(found: Described, name: str, parts: Sequence[str]) -> None:
    """Makes one column of some, one after the other. Channels are called after their parts where there are several."""
    columns = [found.columns.pop(part) for part in parts]
    keys = [key for part in parts for key in found.keys.pop(part)]
    names: list[str] = []
    for part, column in zip(parts, columns, strict=True):
        size, stem = int(np.prod(column.shape)), part
        for prefix in (PICTURE, OBSERVATION, f"{ACTION}s.", f"{ACTION}.", "states.", "state."):
            stem = stem.removeprefix(prefix)
        own = (stem,) if size == 1 else tuple(f"{stem}_{place}" for place in range(min(size, _NAMED)))
        names += column.names or (() if len(parts) == 1 else own)
    size = sum(int(np.prod(column.shape)) for column in columns)
    known = tuple(names) if len(names) == size == len(set(names)) else None
    found.columns[name] = Column((size,), np.result_type(*(column.dtype for column in columns)), known)
    found.keys[name] = tuple(keys)
    found.remarks.append(f"{some(parts)} {'is' if len(parts) == 1 else 'are'} taken for {name}")

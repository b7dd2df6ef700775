"""What ``features.json`` of an RLDS data set says of the lists of a record, and what columns they become."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from polysoma.data.formats.reader import ACTION, DISCOUNT, OBSERVATION, PICTURE, REWARD, TERMINATED, Column
from polysoma.data.formats.tfrecord import values_of

FEATURES = "features.json"
_ACTION, _SEEN = "steps/action", "steps/observation/"
_SAID = re.compile(r"(natural_)?(language_)?instruction(_\d+)?")
"""Names of texts that say what to do; data sets that were described by several people number them."""
ABOUT = "episode_metadata/"
_CALLED = {"steps/reward": REWARD, "steps/discount": DISCOUNT, "steps/is_terminal": TERMINATED}
_DTYPE = re.compile("bool|u?int(8|16|32|64)|float(16|32|64)")
_LARGEST = 2**28
"""Numbers of a picture. Empty files become black pictures, whose size nothing but ``features.json`` tells."""
_NAMED = 4096
"""Channels of actions that get names: ``features.json`` may be damaged and speak of billions."""


@dataclass(frozen=True)
class Leaf:
    """One list of a record: ``"number"``, ``"picture"`` or ``"text"`` values of this shape, one after the other."""

    key: str
    kind: str
    shape: tuple[int, ...]
    dtype: np.dtype
    packing: str = "none"

    @property
    def size(self) -> int:
        """Numbers or texts of a step."""
        return math.prod(self.shape)

    def parse(self, features: dict[str, bytes | None]) -> tuple[np.ndarray | list[memoryview], int]:
        """Numbers ``(T, *shape)`` of the dtype, or files or texts; and T. Raises ValueError when they do not fit."""
        feature = features.get(self.key)
        if feature is None:
            raise ValueError(f"there is no {self.key} in the record")
        values = values_of(feature)
        if self.kind == "number":
            values = self._numbers(values)
        elif not isinstance(values, list):
            raise ValueError(f"{self.key} holds numbers, {FEATURES} says {self.kind}s")
        each = 1 if self.kind == "picture" else self.size
        steps, rest = divmod(len(values), each)
        if rest:
            raise ValueError(f"{self.key} holds {len(values)} values, a step has {each}")
        return values if isinstance(values, list) else values.reshape(steps, *self.shape), steps

    def _numbers(self, values: np.ndarray | list[memoryview]) -> np.ndarray:
        if isinstance(values, list):
            each = self.size * self.dtype.itemsize
            if self.packing == "zlib":
                # Room for one byte too many: enough to tell, and a small file cannot unpack to gigabytes.
                values = [memoryview(zlib.decompressobj().decompress(value, each + 1)) for value in values]
            if any(len(value) != each for value in values):
                raise ValueError(f"{self.key} does not hold {each} bytes in each step")
            dtype = np.dtype(np.uint8) if self.dtype.kind == "b" else self.dtype.newbyteorder("<")
            numbers = np.frombuffer(b"".join(values), dtype)
        elif (values.dtype.kind == "f") != (self.dtype.kind == "f"):
            raise ValueError(f"{self.key} holds {values.dtype.name} values, {FEATURES} says {self.dtype.name}")
        else:
            # TensorFlow Datasets stores the bits of uint64 as int64.
            numbers = values.view(np.uint64) if self.dtype == np.uint64 else values
        cast = numbers.astype(self.dtype)
        if self.dtype.kind != "f" and not np.array_equal(cast, numbers):
            raise ValueError(f"{self.key} holds values that do not fit into {self.dtype.name}")
        return cast


def leaves_of(feature: dict[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if "featuresDict" in feature:
        for name, inner in feature["featuresDict"]["features"].items():
            yield from leaves_of(inner, f"{key}/{name}" if key else name)
    else:
        yield key, feature


def leaf_of(key: str, feature: dict[str, Any]) -> Leaf | str:
    """What a leaf of ``features.json`` is, or why it is not read."""
    if "text" in feature:
        return Leaf(key, "text", (), np.dtype(object))
    about = feature.get("image") or feature.get("tensor")
    if about is None:
        return f"{str(feature.get('pythonClassName')).rpartition('.')[2]} features are not read"
    shape, dtype = tuple(int(size) for size in about["shape"].get("dimensions", ())), str(about["dtype"])
    if min(shape, default=1) < 1:
        return f"values of shape {shape}, where sizes differ from step to step, are not read"
    if "image" in feature:
        if dtype != "uint8" or len(shape) != 3 or shape[2] not in (1, 3, 4) or math.prod(shape) > _LARGEST:
            return f"pictures of {dtype} and shape {shape} are not read"
        return Leaf(key, "picture", (*shape[:2], 3), np.dtype(np.uint8))
    if dtype in ("string", "object"):
        return Leaf(key, "text", shape, np.dtype(object))
    if not _DTYPE.fullmatch(dtype):
        return f"tensors of {dtype} are not read"
    return Leaf(key, "number", shape, np.dtype(dtype), str(about.get("encoding") or "none"))


def column_name(leaf: Leaf) -> str | None:
    name = leaf.key.removeprefix(_SEEN).replace("/", ".")
    if leaf.key.startswith(_SEEN):
        return {"number": OBSERVATION + name, "picture": PICTURE + name}.get(leaf.kind)
    if leaf.kind == "number" and f"{leaf.key}/".startswith(f"{_ACTION}/"):
        return ACTION
    return _CALLED.get(leaf.key) if leaf.kind == "number" else None


def column_of(name: str, leaves: list[Leaf]) -> Column:
    first = leaves[0]
    if name != ACTION or first.key == _ACTION:
        shape = () if name in _CALLED.values() and first.size == 1 else first.shape
        return Column(shape, first.dtype, picture=first.kind == "picture")
    size, names = sum(leaf.size for leaf in leaves), []
    for leaf in leaves if size <= _NAMED else []:
        stem = leaf.key.removeprefix(f"{_ACTION}/").replace("/", ".")
        names += [stem] if leaf.size == 1 else [f"{stem}_{number}" for number in range(leaf.size)]
    return Column((size,), np.result_type(*(leaf.dtype for leaf in leaves)), tuple(names) or None)


def instruction_leaves(leaves: dict[str, Leaf]) -> list[Leaf]:
    """The texts that say what to do, those of steps before those of whole episodes."""
    found = []
    for folder in ("steps/", _SEEN, ABOUT):
        called = [leaf for key, leaf in leaves.items() if _SAID.fullmatch(key.removeprefix(folder))]
        found += sorted((leaf for leaf in called if leaf.kind == "text" and leaf.size == 1), key=lambda leaf: leaf.key)
    return list(dict.fromkeys(found))

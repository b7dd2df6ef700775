"""Gymnasium's spaces as Minari writes them in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


def leaf_spaces(space: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where the arrays of a space lie below a path, and their spaces."""
    inner = inner_spaces(space)
    for name, part in inner.items():
        yield from leaf_spaces(part, f"{path}/{name}")
    if space and not inner:
        yield path, space


def inner_spaces(space: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of a dictionary or a tuple of spaces by name."""
    parts = space.get("subspaces")
    named = parts.items() if isinstance(parts, dict) else ((f"_index_{n}", part) for n, part in enumerate(parts or ()))
    return {str(name): part for name, part in named if isinstance(part, dict)}


def _ranges(space: dict[str, Any]) -> list[tuple[int, int]]:
    """Of each number of a choice: the first value and how many there are; nothing where a space is none of choices."""
    kind = space.get("type")
    if kind == "Discrete":
        return [(int(space.get("start") or 0), int(space["n"]))]
    if kind == "MultiDiscrete":
        counts = np.ravel(space["nvec"]).astype(int).tolist()
        starts = np.ravel(space.get("start") or [0] * len(counts)).astype(int).tolist()
        return list(zip(starts, counts, strict=True))
    if kind == "MultiBinary":
        return [(0, 2)] * math.prod(np.ravel(space["n"]).astype(int).tolist())
    return []


def choice_count(space: dict[str, Any]) -> int:
    """How many choices there are; 0 where a space is none of choices."""
    ranges = _ranges(space)
    return math.prod(count for _, count in ranges) if ranges else 0


def choice_numbers(space: dict[str, Any]) -> list[range]:
    """The values that each number of a choice can have."""
    return [range(start, start + count) for start, count in _ranges(space)]


def box_limits(spaces: Iterable[dict[str, Any]]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The least and the greatest of each number of several boxes, one after the other; None where a space is no box,
    or has an end that is not finite."""
    low: list[float] = []
    high: list[float] = []
    for space in spaces:
        if space.get("type") != "Box":
            return None
        size = math.prod(np.ravel(space["shape"]).astype(int).tolist())
        low += np.broadcast_to(np.ravel(space["low"]).astype(float), size).tolist()
        high += np.broadcast_to(np.ravel(space["high"]).astype(float), size).tolist()
    return (tuple(low), tuple(high)) if low and np.isfinite([low, high]).all() else None


def space_of(about: dict[str, Any], key: str) -> dict[str, Any]:
    """The space under a key of Minari's metadata; empty where there is none."""
    text = about.get(key)
    space = json.loads(text) if isinstance(text, str) else text
    return space if isinstance(space, dict) else {}

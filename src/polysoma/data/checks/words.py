"""How episodes are called in findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from polysoma.text import some


def are(episodes: Sequence[int], one: str = "is", many: str = "are") -> str:
    """The verb that goes with so many episodes."""
    return one if len(episodes) == 1 else many


def listed(episodes: Iterable[int]) -> str:
    """These episodes: ``"episodes 1, 2"``."""
    numbers = list(episodes)
    return f"{'episode' if len(numbers) == 1 else 'episodes'} {some(numbers)}"

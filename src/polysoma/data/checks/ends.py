"""Ends, outcomes and rewards of episodes that contradict one another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polysoma.data import remedies
from polysoma.data.checks.numbers import NumberSummary
from polysoma.data.checks.words import are, listed
from polysoma.data.formats.reader import DONE, OBSERVATION, REWARD, TERMINATED, Ending, Problem, Reader
from polysoma.errors import PolysomaError


class Ends:
    """How episodes end, and what does not go together with it."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._endings: dict[int, Ending] = {}
        self._early: list[int] = []
        self._broken: list[int] = []
        self._unread: dict[int, str] = {}

    def add(self, episode: int, held: dict[str, np.ndarray]) -> None:
        """Takes an episode by its place and columns."""
        number = self._reader.source(episode)
        self._endings[number] = self._reader.ending(episode, held)
        if any(np.any(held[name][:-1]) for name in (TERMINATED, DONE) if name in held):
            self._early.append(number)
        numbers = [name for name in held if name.startswith(OBSERVATION)]
        try:
            final = self._reader.final(episode, numbers) or {}
        except PolysomaError as error:
            final = {}
            self._unread[number] = str(error)
        if not all(np.isfinite(values).all() for values in final.values()):
            self._broken.append(number)

    def problems(self, rewards: NumberSummary | None) -> Iterator[Problem]:
        """What was found in all of them, of rewards too where there are some."""
        if rewards is not None and rewards.count and (rewards.low == 0).all() and (rewards.high == 0).all():
            yield Problem("note", REWARD, "is 0 in all frames", "nothing, unless you want to learn from rewards")
        failed = [number for number, ending in self._endings.items() if ending.success is False]
        if failed:
            yield Problem(
                "note", "episodes", f"{listed(failed)} did not succeed",
                f"leave them out unless they shall teach: {remedies.without(self._reader, failed)}",
            )  # fmt: skip
        if self._early:
            yield Problem(
                "warning", "episodes", f"{listed(self._early)} {are(self._early, 'goes', 'go')} on after their end",
                "see whether several episodes were joined to one; only the flag of the last frame counts",
            )  # fmt: skip
        known = any(ending.terminated or ending.truncated for ending in self._endings.values())
        odd = [n for n, ending in self._endings.items() if ending.success and not ending.terminated] if known else []
        if odd:
            yield Problem(
                "note", "episodes", f"{listed(odd)} succeeded without being terminated",
                "nothing, if success is judged at a time limit; else learning from rewards expects more to come",
            )  # fmt: skip
        if self._broken:
            yield Problem(
                "warning", "episodes",
                f"the observation after the last action of {listed(self._broken)} is not finite",
                "nothing: it counts as unknown",
            )  # fmt: skip
        if self._unread:
            yield Problem(
                "error", "episodes",
                f"the observation after the last action of {listed(self._unread)} cannot be read: "
                f"{next(iter(self._unread.values()))}",
                f"{remedies.COPY}, or {remedies.skipped(self._reader)}",
            )  # fmt: skip

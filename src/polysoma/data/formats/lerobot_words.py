"""The instructions of a LeRobotDataset: each frame has the number of its task, and a table has the words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from polysoma.data import door, layout
from polysoma.data.formats.reader import Part, reading

LINES = "meta/tasks.jsonl"
MANY_STATISTICS = "meta/episodes_stats.jsonl"

Numbers = Callable[[int], np.ndarray]
"""Gives the numbers of the tasks of an episode's frames, int64 ``(T,)``."""


def read_tasks(root: Path) -> dict[int, str]:
    """The words of each task by its number; empty where there is no such table."""
    if (root / LINES).is_file():
        with reading(root / LINES):
            return {int(row["task_index"]): _text(row["task"]) for row in door.read_json_lines(root / LINES)}
    path = root / layout.TASKS
    if not path.is_file():
        return {}
    with reading(path), door.open_parquet(path) as file:
        table = file.read(use_threads=False)
        # A pandas frame, whose index may have any name.
        texts = [name for name in table.column_names if pa.types.is_string(t := table.schema.field(name).type)
                 or pa.types.is_large_string(t)]  # fmt: skip
        if "task_index" not in table.column_names or not texts:
            raise ValueError(f"expected columns task_index and of texts, got {table.column_names}")
        numbers = table["task_index"].to_pylist()
        return {int(number): _text(text) for number, text in zip(numbers, table[texts[0]].to_pylist(), strict=True)}


def _text(told: Any) -> str:
    if not isinstance(told, str | None):
        raise ValueError(f"expected a task in words, got {told!r}"[:200])
    return told or ""


def read_constant(root: Path, key: str) -> dict[int, int]:
    """Of episodes of v2 by number, the task that all of their frames have, where written statistics say so.

    Args:
        root: of the data set.
        key: the column of the numbers of tasks.
    """
    found: dict[int, int] = {}
    if (root / MANY_STATISTICS).is_file():
        with reading(root / MANY_STATISTICS):
            for row in door.read_json_lines(root / MANY_STATISTICS):
                about = (row.get("stats") or {}).get(key) or {}
                _note(found, int(row["episode_index"]), about.get("min"), about.get("max"))
    return found


def _note(found: dict[int, int], number: int, low: Any, high: Any) -> None:
    least, most = np.asarray(low).reshape(-1), np.asarray(high).reshape(-1)
    if least.dtype.kind in "iuf" and len(least) == len(most) == 1 and least[0] == most[0] == int(least[0]):
        found[number] = int(least[0])


def words(
    told: Sequence[Any], tasks: dict[int, str], constant: Sequence[int | None], numbers: Numbers, trusted: bool
) -> tuple[list[str], dict[int, tuple[Part, ...]]]:
    """The instruction of each episode at its beginning, and the parts of those in which that changes.

    Args:
        told: what the table of episodes says; None where it says nothing. Somebody who corrects the words does so in
            the table of tasks, where LeRobot looks them up, so that one counts.
        tasks: by number.
        constant: the number of the task that all frames of an episode have, None where that is not known.
        numbers: reads them from the frames.
        trusted: whether the table of episodes can stand for the frames where it agrees with that of tasks.
    """
    said = [_list(names) for names in told]
    known = set(tasks.values())
    texts: list[str] = []
    changes: dict[int, tuple[Part, ...]] = {}
    # Words that stand for one task alone, which the tables of tasks and of episodes agree on, need no look at frames.
    every = {name for own in said for name in own}
    agree = trusted and {own[0] for own in said if own} <= known and len(known) == len(tasks)
    # Where one thing is told alone, it is that of the only task, however it was called before.
    alone = len(tasks) == 1 and len(every) <= 1
    for episode, own in enumerate(said):
        number = constant[episode]
        if number is not None and number in tasks:
            texts.append(tasks[number])
        elif not tasks or (len(own) == 1 and agree):
            texts.append(own[0] if own else "")
        elif alone:
            texts.append(next(iter(tasks.values())))
        else:
            held = numbers(episode)
            begins = np.flatnonzero(np.diff(held, prepend=held[:1] - 1)).tolist() if len(held) else []
            parts = [Part(at, tasks.get(int(held[at]), own[0] if len(own) == 1 else "")) for at in begins]
            # Frames without text have the instruction that was given last before them, or first after them.
            parts = [part for part in parts if part.instruction.strip()]
            parts = [part for n, part in enumerate(parts) if not n or part.instruction != parts[n - 1].instruction]
            parts[:1] = [Part(0, part.instruction) for part in parts[:1]]
            texts.append(parts[0].instruction if parts else (own[0] if own else ""))
            if len(parts) > 1:
                changes[episode] = tuple(parts)
    return texts, changes


def _list(names: Any) -> list[str]:
    if isinstance(names, str):
        return [names]
    return [str(name) for name in names] if isinstance(names, list | tuple | np.ndarray) else []

"""Simulated bodies: every family lists its tasks and makes its environments."""

from __future__ import annotations

import fnmatch
import importlib.util
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.simulators import babyai, drone, metaworld, rover
from polysoma.simulators.environment import Environment

FAMILIES: tuple[ModuleType, ...] = (metaworld, babyai, drone, rover)


def embodiments() -> dict[str, Embodiment]:
    """All simulated bodies by name."""
    return {family.EMBODIMENT.name: family.EMBODIMENT for family in FAMILIES}


def tasks_of(body: str) -> tuple[str, ...]:
    """The full names of a family's tasks."""
    return next((family.TASKS for family in FAMILIES if family.EMBODIMENT.name == body), ())


def match_tasks(patterns: str | list[str] | tuple[str, ...]) -> list[str]:
    """The tasks that match any of the patterns (comma-separated or a list; ``*`` matches anything).

    Raises:
        PolysomaError: a pattern matches no task; the message lists the nearest names.
    """
    wanted = patterns.split(",") if isinstance(patterns, str) else list(patterns)
    everything = [task for family in FAMILIES for task in family.TASKS]
    chosen: list[str] = []
    for pattern in (text.strip() for text in wanted):
        found = fnmatch.filter(everything, pattern)
        if not found:
            raise PolysomaError(f"no task matches {pattern!r}; {_suggestion(pattern, everything)}")
        chosen += [task for task in found if task not in chosen]
    return chosen


def check_installed(tasks: Iterable[str]) -> None:
    """Raises PolysomaError that names the command to run when the simulator of one of the tasks is not installed."""
    for task in tasks:
        required = next((family.REQUIRES for family in FAMILIES if task in family.TASKS), ())
        missing = [name for name in required if importlib.util.find_spec(name) is None]
        if missing:
            raise PolysomaError(
                f"{task} needs {', '.join(missing)}, not installed here: run `pip install 'polysoma[sim]'`"
            )


def make(task: str, **options: Any) -> Environment:
    """Makes the environment of a task. Making one may be slow, resetting it is not: keep and reuse it.

    Args:
        task: full name, ``"family/task"``.
        options: of the family's own ``make``, e.g. ``wind=2.0`` (m/s) for the drone.

    Raises:
        PolysomaError: there is no such task, its simulator is not installed, or it has no such option.
    """
    for family in FAMILIES:
        if task in family.TASKS:
            check_installed([task])
            try:
                environment: Environment = family.make(task, **options)
            except TypeError as error:
                raise PolysomaError(f"{task}: {error}") from error
            return environment
    match_tasks([task])
    raise PolysomaError(f"{task!r} is a pattern; name one task")


def _suggestion(pattern: str, tasks: list[str]) -> str:
    family, _, _ = pattern.partition("/")
    near = [task for task in tasks if task.startswith(family + "/")]
    if near:
        return f"{family} has {', '.join(task.partition('/')[2] for task in near)}"
    return "tasks are called family/name; families: " + ", ".join(embodiments())

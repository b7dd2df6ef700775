"""Simulated bodies: every family lists its tasks and makes its environments.

Families of one's own join in when the environment variable ``POLYSOMA_FAMILIES`` names their Python files (several are
separated as in ``PATH``); each defines a ``FAMILY``. Worker processes inherit the variable.

Importing this module registers the shipped tasks with Gymnasium: ``gymnasium.make("polysoma/drone-ring")`` is
``make("drone/ring")``. They end their episodes themselves. With ``instruction=False`` observations are arrays alone,
for libraries that know no text.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gymnasium

from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError, explain
from polysoma.horizon import Horizon
from polysoma.simulators import (
    aloha,
    atari,
    babyai,
    car,
    drone,
    fetch,
    gym_mujoco,
    metaworld,
    minatar,
    pointmaze,
    quadruped,
    rover,
    so101,
)
from polysoma.simulators.environment import Environment, Family
from polysoma.task import body_of

FAMILIES_VARIABLE = "POLYSOMA_FAMILIES"


def _from_files(paths: str) -> Iterator[Family]:
    for path in filter(None, paths.split(os.pathsep)):
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        if spec is None or spec.loader is None or not Path(path).is_file():
            raise PolysomaError(f"{FAMILIES_VARIABLE} names {path!r}, which is not a Python file")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise PolysomaError(f"{FAMILIES_VARIABLE}: {path} cannot be read: {explain(error)}") from error
        family = getattr(module, "FAMILY", None)
        if not isinstance(family, Family):
            raise PolysomaError(f"{path} defines no FAMILY (a polysoma.simulators.environment.Family)")
        strangers = [task for task in family.tasks if not task.startswith(family.embodiment.name + "/")]
        if strangers:
            raise PolysomaError(f"{path}: tasks are called {family.embodiment.name}/name, got {strangers}")
        yield family


@functools.cache
def families() -> dict[str, Family]:
    """All families by the names of their bodies. Raises PolysomaError when one of one's own cannot be used."""
    own = _from_files(os.environ.get(FAMILIES_VARIABLE, ""))
    return {family.embodiment.name: family for family in (*_shipped(), *own)}


def _shipped() -> list[Family]:
    shipped = [module.FAMILY for module in (metaworld, babyai, drone, rover, aloha, fetch, pointmaze)]
    shipped += [drone.LARGE_FAMILY, *quadruped.FAMILIES, *gym_mujoco.FAMILIES, *so101.FAMILIES]
    shipped += [car.FAMILY, minatar.FAMILY, atari.FAMILY, metaworld.BEHIND, rover.OVERVIEW, drone.CHASE]
    shipped += [metaworld.PIXELS_128, aloha.WRISTS]
    return shipped + [module.PIXELS for module in (metaworld, babyai, drone, rover, aloha)]


def embodiments() -> dict[str, Embodiment]:
    """All simulated bodies by name."""
    return {name: family.embodiment for name, family in families().items()}


def recommended_horizon(body: str) -> Horizon | None:
    """What a family recommends for its body; None for a body that no family is of."""
    return families()[body].horizon if body in families() else None


def tasks_of(body: str) -> tuple[str, ...]:
    """The full names of a family's tasks."""
    return families()[body].tasks if body in families() else ()


def match_tasks(patterns: str | list[str] | tuple[str, ...], bodies: Iterable[str] | None = None) -> list[str]:
    """The tasks that match any of the patterns (comma-separated or a list; ``*`` matches anything).

    Args:
        patterns: full names, or patterns of them.
        bodies: whose tasks there are to choose from; None for all.

    Raises:
        PolysomaError: a pattern matches no task; the message lists the nearest names.
    """
    wanted = patterns.split(",") if isinstance(patterns, str) else list(patterns)
    everything = [task for body in (families() if bodies is None else bodies) for task in tasks_of(body)]
    chosen: list[str] = []
    for pattern in (text.strip() for text in wanted):
        found = fnmatch.filter(everything, pattern)
        if not found:
            raise PolysomaError(f"no task matches {pattern!r}; {_suggestion(pattern, everything)}")
        chosen += [task for task in found if task not in chosen]
    return chosen


def check_installed(tasks: Iterable[str]) -> None:
    """Raises PolysomaError that names the command to run when the simulator of one of the tasks is not installed."""
    for body in sorted({body_of(task) for task in tasks}):
        if body in families():
            families()[body].check_installed()


def make(task: str, render_mode: str | None = None, **options: Any) -> Environment:
    """Makes the environment of a task. Making one may be slow, resetting it is not: keep and reuse it.

    Args:
        task: full name, ``"family/task"``.
        render_mode: None or ``"rgb_array"``, for Gymnasium's ``render()``.
        options: of the family's own environments, e.g. ``wind=2.0`` (m/s) for the drone.

    Raises:
        PolysomaError: there is no such task, its simulator is not installed, or it has no such option.
    """
    family = families().get(body_of(task))
    if family is None or task not in family.tasks:
        match_tasks([task])
        raise PolysomaError(f"{task!r} is a pattern; name one task")
    if render_mode not in (None, "rgb_array"):
        raise PolysomaError(f"{task}: render_mode is None or 'rgb_array', got {render_mode!r}")
    environment = family.make(task, **options)
    environment.render_mode = render_mode
    return environment


def registered(
    task: str, render_mode: str | None = None, instruction: bool = True, **options: Any
) -> gymnasium.Env[Any, Any]:
    """What ``gymnasium.make`` calls: :func:`make`, on demand without the text of the instruction. Raises PolysomaError
    as :func:`make`.

    Args:
        task, render_mode, options: see :func:`make`.
        instruction: whether observations hold it.
    """
    environment = make(task, render_mode, **options)
    if instruction:
        return environment
    return gymnasium.wrappers.FilterObservation(environment, [stream.name for stream in environment.embodiment.arrays])


def _suggestion(pattern: str, tasks: list[str]) -> str:
    family, _, _ = pattern.partition("/")
    near = [task for task in tasks if task.startswith(family + "/")]
    if near:
        return f"{family} has {', '.join(task.partition('/')[2] for task in near)}"
    if family in families():
        return f"the policy does not know {family}; it knows {', '.join(dict.fromkeys(map(body_of, tasks)))}"
    names = dict.fromkeys(body_of(task) for task in tasks)
    return "tasks are called family/name; families: " + ", ".join(names)


for _family in _shipped():
    for _task in _family.tasks:
        gymnasium.register(
            f"polysoma/{_task.replace('/', '-')}", "polysoma.simulators:registered", kwargs={"task": _task}
        )

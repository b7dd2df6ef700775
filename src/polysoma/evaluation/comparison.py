"""Comparison: which way of learning a body from a few demonstrations, how long, and how good.

Every way gets the same demonstrations and the same time, and plays the same seeds. What a comparison has found is kept
cell by cell, so a killed one continues.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate, hardware, versions
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.files import write_atomically
from polysoma.learning import run_state, states
from polysoma.learning.finetuning import (
    LEARNING_RATES,
    few_steps,
    few_steps_recipe,
    meta_of,
    recipe_for,
    within,
)
from polysoma.learning.methods.meta import MetaLearning
from polysoma.learning.recipe import PolicySize, Recipe
from polysoma.learning.training import recipe_of_run, train
from polysoma.nn.precision import Wanted, chosen
from polysoma.policy import checkpoint
from polysoma.policy.methods import FinetuningMethod
from polysoma.rollout.drivers import Checkpoint
from polysoma.task import body_of

ComparedMethod = Literal[
    "zero-shot", "retrieval", "prompt", "head", "adapter", "lora", "full", "scratch", "specialist", "inner", "continued"
]
"""``"zero-shot"`` and ``"retrieval"`` train nothing; ``"scratch"`` is a new policy of the base's size; ``"specialist"``
is one that has all demonstrations. ``"inner"`` takes a few gradient steps from a meta-learnt start, ``"continued"``
trains on from there. The others are methods of fine-tuning."""

METHODS: tuple[ComparedMethod, ...] = get_args(ComparedMethod)
_ONCE = ("zero-shot", "specialist")
"""Methods that do not depend on how many demonstrations there are."""
_FROM_STARTS = ("inner", "continued")
"""Methods that there are for each of a comparison's starts."""


@dataclass(frozen=True)
class Comparison:
    """What is to be compared.

    Attributes:
        base: the checkpoint to start from.
        data: a data set of demonstrations.
        tasks: full names of what is played.
        demonstrations: of each task; each number is a column.
        methods: see :data:`ComparedMethod`.
        minutes: of training for each method.
        episodes: of each task.
        seed: of the first episode of each task.
        old_tasks: what the base could do before, to see what is forgotten.
        old_episodes: of each of these.
        starts: checkpoints from meta-learning beside the base, for the methods that begin with one.
        precision: what all is computed in (:mod:`polysoma.nn.precision`).
        device: where checkpoints are played; where they learn is the process's own
            (:func:`polysoma.learning.distributed.learn_on`).
    """

    base: str
    data: str
    tasks: tuple[str, ...]
    demonstrations: tuple[int, ...]
    methods: tuple[ComparedMethod, ...] = METHODS
    minutes: float = 10.0
    episodes: int = 20
    seed: int = 9000
    old_tasks: tuple[str, ...] = ()
    old_episodes: int = 5
    starts: tuple[str, ...] = ()
    precision: Wanted = "auto"
    device: str = "auto"


Cell = dict[str, Any]
"""One method with one number of demonstrations, as JSON: ``way`` (the method), ``start`` (what a meta-learnt one is
called, or empty), ``demonstrations``, ``outcomes`` by task, ``minutes``, ``steps``, ``megabytes``, and ``old``
(outcomes on the old tasks, or None where the base is untouched)."""


class _Try(NamedTuple):
    """What fills a cell. ``start`` is the checkpoint that training begins with."""

    way: ComparedMethod
    demonstrations: int
    start: str

    @property
    def name(self) -> str:
        """Of its files."""
        if self.way in _FROM_STARTS:
            return f"{self.way}-{checkpoint.weights_sha256(self.start)[:8]}-{self.demonstrations}"
        return self.way if self.way in _ONCE else f"{self.way}-{self.demonstrations}"


def title(row: Mapping[str, Any]) -> str:
    """What a row of the table is called."""
    if row["way"] not in _FROM_STARTS:
        return str(row["way"])
    return f"{row['start']}, {row['steps']} steps" if row["way"] == "inner" else f"{row['start']}, continued"


def compare(
    comparison: Comparison, out: Path, progress: Callable[[int, int, str], None] | None = None
) -> dict[str, Any]:
    """Trains and plays every cell that ``out`` does not hold yet. Returns all as JSON (also in ``out/results.json``).

    Args:
        comparison: what is to be compared.
        out: folder of the runs and results.
        progress: called with (cells done, of how many, what comes next).

    Raises:
        PolysomaError: no data, an unknown task or method, or ``out`` holds another comparison.
    """
    unknown = sorted(set(comparison.methods) - set(METHODS))
    if unknown or not comparison.demonstrations or not comparison.tasks:
        raise PolysomaError(
            f"compare: expected demonstrations, tasks and methods of {', '.join(METHODS)}, got {unknown}"
        )
    asked = dataclasses.asdict(comparison) | {"base_sha256": checkpoint.weights_sha256(comparison.base)}
    called = {start: _called(start, asked["base_sha256"]) for start in comparison.starts}
    if len(set(called.values())) < len(called):
        raise PolysomaError(f"compare: starts of the same kind cannot be distinguished in one table: {called}")
    _check_same(out / "comparison.json", json.loads(json.dumps(asked)))
    todo = [
        _Try(way, count, start)
        for way in comparison.methods
        for start in (comparison.starts if way in _FROM_STARTS else (comparison.base,))
        for count in ((0,) if way in _ONCE else comparison.demonstrations)
        if not (way in ("zero-shot", "retrieval") and not _knows(comparison))
    ]
    cells = []
    for number, tried in enumerate(todo):
        if progress is not None:
            progress(number, len(todo), tried.name)
        file = out / f"{tried.name}.json"
        if not file.exists():
            write_atomically(file, json.dumps(_cell(comparison, tried, out / tried.name)).encode())
        cells.append({"start": called.get(tried.start, ""), **json.loads(file.read_text())})
    if progress is not None:
        progress(len(todo), len(todo), "done")
    result = {
        "comparison": asked,
        "versions": versions(),
        "hardware": hardware(chosen("cpu", comparison.precision)),
        "rows": _rows(cells),
    }
    write_atomically(out / "results.json", (json.dumps(result | {"cells": cells}, indent=1) + "\n").encode())
    return result | {"cells": cells}


def _check_same(file: Path, asked: dict[str, Any]) -> None:
    if not file.exists():
        write_atomically(file, (json.dumps(asked, indent=1) + "\n").encode())
        return
    held = {"precision": "auto", "device": "auto", **json.loads(file.read_text())}
    # More methods, starts and numbers of demonstrations may be asked for later.
    fixed = asked.keys() - {"methods", "demonstrations", "starts"}
    changed = {key: (held.get(key), asked[key]) for key in sorted(fixed) if held.get(key) != asked[key]}
    if changed:
        raise PolysomaError(f"{file.parent} holds another comparison: {changed}; choose another --out")


def _called(start: str, base_sha256: str) -> str:
    """What a start is called. Raises PolysomaError where it is not meta-learnt, or beside another base."""
    algorithm = meta_of(start).algorithm
    adaptation = checkpoint.config_of(start).adaptation
    assert adaptation is not None
    if adaptation.base_sha256 != base_sha256:
        raise PolysomaError(
            f"{start} starts beside {adaptation.base} ({adaptation.base_sha256[:12]}), not beside the base of this "
            f"comparison ({base_sha256[:12]})"
        )
    return f"{adaptation.method} by {algorithm}"


def _knows(comparison: Comparison) -> bool:
    bodies = {body_of(task) for task in comparison.tasks}
    return bodies <= set(checkpoint.bodies(comparison.base))


def _cell(comparison: Comparison, tried: _Try, run: Path) -> Cell:
    way, count = tried.way, tried.demonstrations
    driver, minutes, steps, megabytes = comparison.base, 0.0, 0, 0.0
    retrieve = (comparison.data, count) if way == "retrieval" else None
    if way not in ("zero-shot", "retrieval"):
        began = time.monotonic()
        folder, steps, seconds = _trained(comparison, tried, run)
        # Of a run that was killed and went on, those before count, too.
        minutes = max(time.monotonic() - began, seconds) / 60
        driver = str(folder)
        megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    player = Checkpoint(driver, retrieve=retrieve, precision=comparison.precision, device=comparison.device)
    result = evaluate(player, comparison.tasks, comparison.episodes, comparison.seed)
    old = None
    if way == "full" and comparison.old_tasks:
        # Only this one touches what other bodies use.
        old = _outcomes(driver, comparison)
    return {
        "way": way,
        "demonstrations": count,
        "outcomes": {task: [int(outcome) for outcome in score.outcomes] for task, score in result.tasks.items()},
        "minutes": round(minutes, 2),
        "steps": steps,
        "megabytes": round(megabytes, 2),
        "old": old,
        "old_of_base": _outcomes(comparison.base, comparison) if old is not None else None,
    }


def _outcomes(driver: str, comparison: Comparison) -> list[int]:
    player = Checkpoint(driver, precision=comparison.precision, device=comparison.device)
    played = evaluate(player, comparison.old_tasks, comparison.old_episodes, comparison.seed)
    return [int(outcome) for score in played.tasks.values() for outcome in score.outcomes]


def _trained(comparison: Comparison, tried: _Try, run: Path) -> tuple[Path, int, float]:
    """The folder of the checkpoint, the steps that led to it, and the seconds that its run remembers of them."""
    if tried.way == "inner":
        recipe = few_steps_recipe(tried.start, [comparison.data], tried.demonstrations)
        assert isinstance(recipe.method, MetaLearning)
        steps = recipe.method.inner_steps
        return few_steps(dataclasses.replace(recipe, precision=comparison.precision), run), steps, 0.0
    if states.exists(run):
        train(recipe_of_run(run), run, resume=True)
    else:
        recipe = dataclasses.replace(_recipe(comparison, tried), precision=comparison.precision)
        recipe, _ = within(recipe, 60 * comparison.minutes)
        train(recipe, run)
    return run / "checkpoint", *run_state.learnt(run)


def _recipe(comparison: Comparison, tried: _Try) -> Recipe:
    way, count = tried.way, tried.demonstrations
    if way == "continued":
        return recipe_for(tried.start, [comparison.data], None, count)
    if way in get_args(FinetuningMethod):
        return recipe_for(comparison.base, [comparison.data], way, count)  # type: ignore[arg-type]
    config = checkpoint.config_of(comparison.base)
    # Nothing is known that could be lost, so it may learn faster.
    recipe = recipe_for(comparison.base, [comparison.data], "full", count, learning_rate=2 * LEARNING_RATES["full"])
    size = PolicySize(config.width, config.trunk.depth, config.heads, config.adapters, config.waves, config.film)
    # A new body has the head of one that begins from nothing, not that of its kin.
    own = recipe_for(comparison.base, [comparison.data], "small", count, head=config.head)
    bodies = {
        name: dataclasses.replace(how, previous_action=own.bodies[name].previous_action)
        for name, how in recipe.bodies.items()
        if name not in config.horizons
    }
    gated = set(own.gated) - {body.body for body in config.embodiments} if config.adapters == "linear" else set()
    return dataclasses.replace(
        recipe, init="", policy=size, images=config.images, head=config.head, gated=tuple(sorted(gated)),
        bodies={**recipe.bodies, **bodies},
    )  # fmt: skip


def _rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What the table shows of each cell: rate of success with its interval, the difference to the specialist on the
    same seeds, costs, and what old tasks lost."""
    specialist = next((_flat(cell) for cell in cells if cell["way"] == "specialist"), None)
    rows = []
    for cell in cells:
        outcomes = _flat(cell)
        row: dict[str, Any] = {
            "way": cell["way"],
            "start": cell["start"],
            "demonstrations": cell["demonstrations"],
            "successes": sum(outcomes),
            "trials": len(outcomes),
            "rate": sum(outcomes) / len(outcomes),
            "interval": wilson(sum(outcomes), len(outcomes)),
            "minutes": cell["minutes"],
            "steps": cell["steps"],
            "megabytes": cell["megabytes"],
        }
        if specialist is not None:
            row["minus_specialist"] = paired_difference(outcomes, specialist)
        if cell["old"] is not None:
            row["forgotten"] = paired_difference(cell["old_of_base"], cell["old"])
        elif cell["way"] not in ("scratch", "specialist"):
            row["forgotten"] = (0.0, 0.0, 0.0)
        rows.append(row)
    return rows


def _flat(cell: Cell) -> list[bool]:
    return [bool(outcome) for outcomes in cell["outcomes"].values() for outcome in outcomes]

"""Training by a recipe: ``polysoma train``, ``polysoma finetune`` and ``polysoma meta``.

Everything drawn at random is a function of (seed, step, process), so a run that was killed and resumed ends with the
very bits of one that was not.
"""

from __future__ import annotations

import dataclasses
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.learning import lineage, preparation, run_state, states
from polysoma.learning.distributed import accelerator_here
from polysoma.learning.engine import Engine, Progress
from polysoma.learning.looking import CachedFeatures, look_once
from polysoma.learning.method import Ingredients, Method
from polysoma.learning.metrics import check_tracker
from polysoma.learning.recipe import Recipe, recipe_from_table
from polysoma.nn.precision import Wanted
from polysoma.policy.policy import Policy

if TYPE_CHECKING:
    import accelerate

Evaluate = Callable[[Path, tuple[str, ...], int, int], dict[str, float]]
"""A quick evaluation: (checkpoint, tasks, episodes, seed) to the success rate of each task."""

_KEPT = (
    "policy", "images", "head", "init", "renewed", "relative", "gated", "frames_per_demonstration", "adaptation",
)  # fmt: skip
"""Keys of recipes of which a policy is made, which a resumed run has already."""


def train(
    recipe: Recipe,
    out: Path,
    resume: bool = False,
    until: int | None = None,
    progress: Progress | None = None,
    evaluate: Evaluate | None = None,
    method: Callable[[Ingredients], Method] | None = None,
) -> Path:
    """Trains, and returns the folder of the checkpoint, ``out/checkpoint``: see :meth:`Engine.run`.

    Args:
        recipe: what to train on and how.
        out: run folder.
        resume: continue the run in ``out``. Data sets are read anew: episodes recorded meanwhile take part.
        until: stop after this step (with a checkpoint that resumes), e.g. to record with the policy so far.
        progress: called after every step with the step and the mean loss of each body.
        evaluate: called at every checkpoint when the recipe asks for it.
        method: builds a method of one's own from what the recipe gives, instead of the recipe's ``method``.

    Raises:
        PolysomaError: the recipe cannot be followed (:func:`~polysoma.learning.preparation.check`), a run folder that
            is taken, nothing to resume, another policy than that of a run to resume, or a loss that is not finite.
    """
    accelerator = accelerator_here()
    if accelerator.is_main_process:
        states.check_free(out)
    run_state.check_folder(out, resume)
    check_tracker(recipe.tracker)
    training = states.find(out, run_state.STATE_FILE)[0] if resume else None
    if training is not None:
        _check_kept(recipe, training)
    asked = recipe.evaluation
    plays = evaluate is not None and bool(asked.tasks)
    sources, held_out = preparation.sources_for(recipe, training, backwards=accelerator.process_index % 2 == 1)
    bodies = [source.embodiment for source in (*sources, *held_out)]
    preparation.check(recipe, bodies, accelerator.num_processes, plays)
    engine, _ = _engine(recipe, sources, held_out, training, accelerator, method)

    def quick(folder: Path) -> dict[str, float]:
        assert evaluate is not None
        return evaluate(folder, asked.tasks, asked.episodes, asked.seed)

    about = lineage.describe(recipe, sources)
    return engine.run(out, resume, until, progress, quick if plays else None, about)


def _check_kept(recipe: Recipe, training: Path) -> None:
    """Raises PolysomaError where a run's state is of another policy than the recipe asks for."""
    path = training / run_state.RECIPE_FILE
    tables = (dataclasses.asdict(one) for one in (recipe_from_table(run_state.read_table(path), str(path)), recipe))
    had, now = ({name: value for name, value in table.items() if name in _KEPT} for table in tables)
    run_state.check_kept(had, now, training)


def _engine(
    recipe: Recipe,
    sources: list[Source],
    held_out: list[Source],
    training: Path | None,
    accelerator: accelerate.Accelerator,
    method: Callable[[Ingredients], Method] | None = None,
) -> tuple[Engine, list[tuple[CachedFeatures, np.ndarray]]]:
    torch.manual_seed(recipe.seed)
    policy = preparation.policy_for(recipe, sources, training)
    preparation.check_policy(recipe, policy)
    preparation.freeze(policy, recipe.trainable)
    seen = look_once(recipe, policy, [*sources, *held_out])
    build = method or recipe.method.build
    return Engine(build(ingredients(recipe, policy, sources, held_out)), recipe, accelerator), seen


def ingredients(
    recipe: Recipe, policy: Policy, sources: list[Source], held_out: list[Source] | None = None
) -> Ingredients:
    """What this recipe gives its method."""
    return Ingredients(policy, sources, held_out or [], recipe.bodies, recipe.paraphrases, recipe.seed, recipe.init)


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What a training will cost, as a few steps of it did here.

    Attributes:
        seconds: of one step.
        memory: of the whole process in bytes, at most.
        learning, frozen: how many parameters of each part of the policy are trained, and how many stay as they are.
        stored: bytes of the checkpoint.
        once: seconds of looking at pictures that are looked at once (:mod:`polysoma.learning.looking`).
        kin: the names of bodies that begin as a known one, to the name of that (:mod:`polysoma.policy.kin`).
    """

    seconds: float
    memory: int
    learning: dict[str, int]
    frozen: dict[str, int]
    stored: int
    once: float = 0.0
    kin: dict[str, str] = dataclasses.field(default_factory=dict)


def rehearse(recipe: Recipe, steps: int = 4) -> Rehearsal:
    """Takes a few steps whose result is thrown away, and says what they cost. Raises PolysomaError as :func:`train`."""
    accelerator = accelerator_here()
    sources, held_out = preparation.sources_for(recipe)
    preparation.check(recipe, [source.embodiment for source in (*sources, *held_out)], accelerator.num_processes)
    engine, seen = _engine(recipe, sources, held_out, None, accelerator)
    times = []
    for step in range(steps):
        began = time.monotonic()
        # Of the same pictures again, only the first step says how long looking takes.
        engine.step(0 if seen else step)
        times.append(time.monotonic() - began)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if accelerator.device.type == "cuda":
        memory = torch.cuda.max_memory_allocated()
    policy = engine.policy
    counts: dict[bool, dict[str, int]] = {True: {}, False: {}}
    for name, parameter in policy.named_parameters():
        parts = counts[parameter.requires_grad]
        part = name.partition(".")[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    # The first step also pays for what is made once.
    stored = 4 * sum(value.numel() for value in policy.own().values())
    each = torch.tensor([min(times[1:] or times), sum(one.left(episodes) for one, episodes in seen)])
    # All processes must plan alike.
    seconds, once = cast(torch.Tensor, accelerator.reduce(each.to(accelerator.device), "mean")).tolist()
    kin = preparation.kin(recipe, sources)
    return Rehearsal(seconds, memory, counts[True], counts[False], stored, once, kin)


def recipe_of_run(out: Path, precision: Wanted = "auto") -> Recipe:
    """The recipe with which the run in ``out`` was last saved, with another precision unless ``"auto"``. Raises
    PolysomaError when there is none."""
    if not states.exists(out):
        raise PolysomaError(f"no run in {out}: there is no {out / states.FOLDER}")
    path = states.find(out, run_state.STATE_FILE)[0] / run_state.RECIPE_FILE
    table = run_state.read_table(path)
    return recipe_from_table(table if precision == "auto" else table | {"precision": precision}, str(path))

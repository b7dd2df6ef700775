"""Gram matrices: what the linear maps of a policy are given by data, for merging."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.data.mixture import open_sources
from polysoma.errors import PolysomaError
from polysoma.learning.augmentation import augmented
from polysoma.learning.imitation import recipe_of_run, sources_for
from polysoma.learning.recipe import BodyRecipe, Recipe
from polysoma.policy import checkpoint
from polysoma.policy.merging import Grams
from polysoma.policy.policy import bfloat16

_AT_ONCE = 64
"""Windows of one body that are looked at together."""


def input_grams(run: Path, rounds: int = 8) -> Grams:
    """What the linear maps and tables of embeddings of a run's checkpoint are given.

    Args:
        run: folder of a training or fine-tuning, whose data still are where they were.
        rounds: of windows drawn from the data, in each of which every body has about as many windows as in a step.

    Raises:
        PolysomaError: no run there, or its data are gone.
    """
    return _grams(run / "checkpoint", recipe_of_run(run), rounds)


def grams_on(policy: str | Path, folders: Sequence[str], rounds: int = 8) -> Grams:
    """What the maps of a checkpoint are given by data sets of bodies that it knows, all bodies alike.

    Args:
        policy: a checkpoint.
        folders: of data sets, where ``*`` is expanded.
        rounds: of 64 windows of every body.

    Raises:
        PolysomaError: no data set there, or of a body that the checkpoint does not know.
    """
    known = {body.name for body in checkpoint.load_for_training(policy).config.embodiments}
    recipe = Recipe(data=tuple(folders), bodies={})
    bodies = {source.embodiment.name: BodyRecipe() for source in open_sources(recipe.folders(), {}, {})}
    if unknown := bodies.keys() - known:
        raise PolysomaError(
            f"{policy} has no {', '.join(sorted(unknown))} to keep: it knows {', '.join(sorted(known))}"
        )
    return _grams(policy, dataclasses.replace(recipe, bodies=bodies), rounds)


@torch.inference_mode()
def _grams(path: str | Path, recipe: Recipe, rounds: int) -> Grams:
    sources, _ = sources_for(recipe)
    policy = checkpoint.load_for_training(path).eval()
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def seen(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if isinstance(module, nn.Embedding):
                number, found = given[0].numel(), torch.bincount(given[0].flatten(), minlength=module.num_embeddings)
            else:
                x = nn.functional.pad(given[0].float().flatten(0, -2), (0, 1), value=1.0)
                number, found = len(x), x.T @ x
            sums[name] = found.double() + sums.get(name, 0.0)
            counts[name] = counts.get(name, 0) + number

        return seen

    for name, module in policy.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.register_forward_pre_hook(watch(name, module))
    rng = np.random.default_rng(recipe.seed)
    for source in sources:
        body, statistics = recipe.bodies[source.embodiment.name], policy.config.statistics[source.embodiment.name]
        left = rounds * body.batch
        while left > 0:
            windows = augmented(source.draw(min(left, _AT_ONCE), rng), body, statistics, None, rng)
            left -= _AT_ONCE
            with bfloat16(policy.device):
                policy.loss(windows)
    return {name: value.cpu() / counts[name] for name, value in sums.items()}

"""Gram matrices: what the linear maps of a fine-tune are given by the data that it learnt from, for merging."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.learning.augmentation import augmented
from polysoma.learning.preparation import sources_for
from polysoma.learning.training import recipe_of_run
from polysoma.nn.device import acting_on
from polysoma.policy import checkpoint
from polysoma.policy.merging import Grams

_AT_ONCE = 64
"""Windows of one body that are looked at together."""


@torch.inference_mode()
def input_grams(run: Path, rounds: int = 8, device: str = "cpu", precision: str | None = None) -> Grams:
    """What the linear maps and tables of embeddings of a run's checkpoint are given.

    Args:
        run: folder of a training or fine-tuning, whose data still are where they were.
        rounds: of windows drawn from the data, in each of which every body has about as many windows as in a step.
        device, precision: where and in what it is computed, as for :func:`polysoma.policy.checkpoint.load`.

    Raises:
        PolysomaError: no run there, its data are gone, or a device or precision that cannot be had.
    """
    recipe = recipe_of_run(run)
    sources, _ = sources_for(recipe)
    policy = checkpoint.load_for_training(run / "checkpoint").eval().to(acting_on(device)).compute_in(precision)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, module: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def seen(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if isinstance(module, nn.Embedding):
                number, found = given[0].numel(), torch.bincount(given[0].flatten(), minlength=module.num_embeddings)
            else:
                x = nn.functional.pad(given[0].float().flatten(0, -2), (0, 1), value=1.0)
                number, found = len(x), x.T @ x
            sums[name] = found.cpu().double() + sums.get(name, 0.0)
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
            with policy.autocast():
                policy.loss(windows)
    return {name: value / counts[name] for name, value in sums.items()}

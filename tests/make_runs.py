"""Tiny trainings, and what they leave in their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from polysoma.learning.recipe import Recipe, recipe_from_table


def tiny(datasets: dict[str, Path], **changes: object) -> Recipe:
    """A recipe of six steps on the data set ``"arm"``, but for these keys."""
    table = {
        "data": [str(path) for name, path in datasets.items() if name == "arm"],
        "bodies": {"arm": {"batch": 8}},
        "policy": {"width": 16, "depth": 1, "heads": 1},
        "steps": 6,
        "checkpoint_every": 2,
        "log_every": 1,
    }
    # Where a test does not say itself how long the rate grows.
    warmup = {} if "optimizer" in changes else {"warmup": 2}
    return recipe_from_table(table | warmup | changes, "test")


def state(run: Path) -> dict[str, Tensor]:
    """The tensors that a run would resume from."""
    return safetensors.torch.load_file(run / "training" / "training.safetensors")


def rows(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

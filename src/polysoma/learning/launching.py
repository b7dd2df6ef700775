"""Learning in several processes of this machine that are started here, as ``torchrun`` would start them."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import torch

from polysoma.learning.engine import Progress
from polysoma.learning.memory import quick_allocator
from polysoma.learning.recipe import Recipe
from polysoma.learning.training import train
from polysoma.rollout.workers import in_processes, telling_failures, unless_failed


def train_in_processes(
    count: int, recipe: Recipe, out: Path, resume: bool, until: int | None, progress: Progress
) -> Path:
    """As :func:`~polysoma.learning.training.train`, in so many processes of one thread each; 1 is this process itself.

    Raises:
        PolysomaError: as there; or a process died.
    """
    if count == 1:
        return train(recipe, out, resume, until, progress)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    trained = in_processes(_train, range(count), count, count, port, recipe, out, resume, until)
    with quick_allocator():
        for step, losses in unless_failed(trained):
            progress(step, losses)
    return out / "checkpoint"


def _train(
    todo: Any, done: Any, count: int, port: int, recipe: Recipe, out: Path, resume: bool, until: int | None
) -> None:
    with telling_failures(done):
        rank = str(todo.get())
        about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
        os.environ.update(about | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
        torch.set_num_threads(1)
        train(recipe, out, resume, until, lambda step, losses: done.put((step, losses)))
        done.put(None)

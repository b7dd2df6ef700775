"""Learning a task by playing it, from nothing but its reward: ``polysoma skills play`` and ``polysoma world play``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from polysoma.learning import lineage
from polysoma.learning.engine import Engine, Progress, Settings
from polysoma.learning.method import Method
from polysoma.learning.methods import imagination
from polysoma.learning.methods.dqn import Dqn, Exploring
from polysoma.learning.methods.imagination import Imagination
from polysoma.learning.methods.search import Search
from polysoma.learning.optimizers import AdamW
from polysoma.policy.search import SearchConfig, SearchPolicy
from polysoma.policy.values import ValueConfig, ValuePolicy
from polysoma.policy.world import WorldConfig, WorldModel
from polysoma.rollout.choosing import Slots

SEED = 500_000
"""Of the first episode that is played; seeds of evaluations lie below."""
LEARNING_RATE = 5e-4
_AVERAGE = 0.98
"""Of weights that learn in imagination, for the checkpoints: what an actor does changes much from step to step."""


def play(
    task: str,
    out: Path,
    minutes: float = 0.0,
    steps: int = 10**9,
    method: Dqn | None = None,
    exploring: Exploring | None = None,
    width: int = 128,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    every: int = 5000,
    progress: Progress | None = None,
    evaluate: Callable[[Path], Mapping[str, float]] | None = None,
) -> Path:
    """Learns a task by DQN, and returns the folder of the checkpoint, ``out/checkpoint``. A run that was killed begins
    anew: what it had played is not saved; its last checkpoint is there.

    Args:
        task: full name, of a body whose actions are choices.
        out: folder of the run.
        minutes, steps: of learning, after which it stops, whichever comes first. Each step of learning is one step in
            each of ``exploring.slots`` environments.
        method, exploring: see :class:`~polysoma.learning.methods.dqn.Dqn` and
            :class:`~polysoma.learning.methods.dqn.Exploring`.
        width: of the hidden layer.
        learning_rate: constant.
        seed: of all that is drawn but the episodes, whose seeds count on from :data:`SEED`.
        every: steps between checkpoints.
        progress: called after every step.
        evaluate: as for :meth:`~polysoma.learning.engine.Engine.run`.

    Raises:
        PolysomaError: actions that are numbers, words that differ from episode to episode, pictures, or as
            :meth:`~polysoma.learning.engine.Engine.run`.
    """
    method, exploring = method or Dqn(), exploring or Exploring()

    def built(slots: Slots) -> Method:
        return method.playing(ValuePolicy(ValueConfig(slots.body, width, method.dueling)), slots, exploring, seed)

    settings = _settings(minutes, steps, learning_rate, every)
    return _learnt(task, exploring.slots, seed, built, method.kind, out, settings, progress, evaluate)


def play_in_imagination(
    task: str,
    out: Path,
    minutes: float = 0.0,
    steps: int = 10**9,
    method: Imagination | None = None,
    exploring: imagination.Exploring | None = None,
    width: int = 64,
    seed: int = 0,
    every: int = 1000,
    progress: Progress | None = None,
    evaluate: Callable[[Path], Mapping[str, float]] | None = None,
) -> Path:
    """Learns a task by a world model and an actor that learns in it, and returns the folder of the checkpoint,
    ``out/checkpoint``. As with :func:`play`, a run that was killed begins anew.

    Args:
        task: full name, of a body that senses no pictures.
        out: folder of the run.
        minutes, steps: of learning, after which it stops, whichever comes first. Each step of learning is one step in
            each of ``exploring.slots`` environments.
        method, exploring: see :class:`~polysoma.learning.methods.imagination.Imagination` and its ``Exploring``.
        width: of all layers.
        seed: of all that is drawn but the episodes, whose seeds count on from :data:`SEED`.
        every: steps between checkpoints.
        progress: called after every step.
        evaluate: as for :meth:`~polysoma.learning.engine.Engine.run`.

    Raises:
        PolysomaError: words that differ from episode to episode, pictures, or as
            :meth:`~polysoma.learning.engine.Engine.run`.
    """
    method, exploring = method or Imagination(), exploring or imagination.Exploring()

    def built(slots: Slots) -> Method:
        model = WorldModel(WorldConfig(slots.body, width=width, rewarded=True, acts=True))
        return method.playing(model, slots, exploring, seed)

    settings = _settings(minutes, steps, method.learning_rate, every, _AVERAGE)
    return _learnt(task, exploring.slots, seed, built, method.kind, out, settings, progress, evaluate)


def play_by_search(
    task: str,
    out: Path,
    minutes: float = 0.0,
    steps: int = 10**9,
    method: Search | None = None,
    exploring: imagination.Exploring | None = None,
    width: int = 64,
    seed: int = 0,
    every: int = 1000,
    resume: bool = False,
    progress: Progress | None = None,
    evaluate: Callable[[Path], Mapping[str, float]] | None = None,
) -> Path:
    """Learns a task by a search with a model that learns beside it, and returns the folder of the checkpoint,
    ``out/checkpoint``. A run that was killed goes on from its last checkpoint, to the same bits where the environments
    depend on nothing but seeds and actions.

    Args:
        task: full name, of a body whose actions are choices and which senses no pictures.
        method: see :class:`~polysoma.learning.methods.search.Search`.
        resume: continue the run in ``out``.
        out, minutes, steps, exploring, width, seed, every, progress, evaluate: as of :func:`play_in_imagination`.

    Raises:
        PolysomaError: actions that are numbers, words that differ from episode to episode, pictures, or as
            :meth:`~polysoma.learning.engine.Engine.run`.
    """
    method, exploring = method or Search(), exploring or imagination.Exploring()

    def built(slots: Slots) -> Method:
        return method.playing(SearchPolicy(SearchConfig(slots.body, width)), slots, exploring, seed)

    settings = _settings(minutes, steps, method.learning_rate, every)
    return _learnt(task, exploring.slots, seed, built, method.kind, out, settings, progress, evaluate, resume)


def _settings(minutes: float, steps: int, learning_rate: float, every: int, average: float = 0.0) -> Settings:
    optimizer = AdamW(learning_rate, weight_decay=0.0, ema=average, final=1.0)
    return Settings(
        steps=steps, minutes=minutes, optimizer=optimizer, grad_clip=10.0, precision="float32", tracker="none",
        checkpoint_every=every, log_every=min(every, 500),
    )  # fmt: skip


def _learnt(
    task: str,
    count: int,
    seed: int,
    build: Callable[[Slots], Method],
    kind: str,
    out: Path,
    settings: Settings,
    progress: Progress | None,
    evaluate: Callable[[Path], Mapping[str, float]] | None,
    resume: bool = False,
) -> Path:
    """Runs the method that is built for so many slots of a task, and closes them."""
    about = lineage.from_nothing(kind, ()) | {"tasks": [task]}
    with contextlib.closing(Slots(task, count, SEED)) as slots:
        torch.manual_seed(seed)
        return Engine(build(slots), settings).run(out, resume, progress=progress, evaluate=evaluate, lineage=about)

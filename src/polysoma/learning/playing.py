"""Learning a task whose actions are choices by playing it, from nothing but its reward: ``polysoma skills play``."""

from __future__ import annotations

from pathlib import Path

import torch

from polysoma.learning.engine import Engine, Progress, Settings
from polysoma.learning.methods.dqn import Dqn, Exploring
from polysoma.learning.optimizers import AdamW
from polysoma.policy.values import ValueConfig, ValuePolicy
from polysoma.rollout.choosing import Slots

SEED = 500_000
"""Of the first episode that is played; seeds of evaluations lie below."""
LEARNING_RATE = 5e-4


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
    progress: Progress | None = None,
) -> Path:
    """Learns a task by DQN, and returns the folder of the checkpoint, ``out/checkpoint``. A run that was killed begins
    anew: what it had played is not saved; the checkpoint of every 5,000 steps is there.

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
        progress: called after every step.

    Raises:
        PolysomaError: actions that are numbers, words that differ from episode to episode, pictures, or as
            :meth:`~polysoma.learning.engine.Engine.run`.
    """
    method, exploring = method or Dqn(), exploring or Exploring()
    slots = Slots(task, exploring.slots, SEED)
    torch.manual_seed(seed)
    optimizer = AdamW(learning_rate, weight_decay=0.0, ema=0.0, final=1.0)
    settings = Settings(
        steps=steps, minutes=minutes, optimizer=optimizer, grad_clip=10.0, precision="float32", tracker="none",
        checkpoint_every=5000, log_every=500,
    )  # fmt: skip
    try:
        built = method.playing(ValuePolicy(ValueConfig(slots.body, width, method.dueling)), slots, exploring, seed)
        about = {"method": method.kind, "data": [], "parent": None, "tasks": [task]}
        return Engine(built, settings).run(out, progress=progress, lineage=about)
    finally:
        slots.close()

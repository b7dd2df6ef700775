"""The names of the methods of fine-tuning, apart from all that is slow to import."""

from __future__ import annotations

from typing import Literal

AdaptationMethod = Literal["head", "lora", "adapter", "prompt"]
"""See :class:`polysoma.policy.adaptation.Adaptation`."""

FinetuningMethod = Literal["full", "lora", "adapter", "head", "prompt", "small"]
"""An adaptation; ``"full"`` for training all weights; or ``"small"`` for a small network of one's own, from nothing."""

OptimizerKind = Literal["adamw", "schedule-free"]
"""See :mod:`polysoma.learning.optimizers`."""

MetaAlgorithm = Literal["maml", "fomaml", "reptile", "anil"]
"""See :mod:`polysoma.learning.methods.meta`."""

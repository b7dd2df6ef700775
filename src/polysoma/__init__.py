"""Polysoma: one transformer policy that drives many bodies."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.acting.agent import Acting, Agent
    from polysoma.embodiment import Channel, ContinuousActions, DiscreteActions, Embodiment, Modality, Stream
    from polysoma.policy.checkpoint import load, save
    from polysoma.policy.policy import Policy
    from polysoma.simulators import make

__version__ = "0.1.0"

__all__ = [
    "Acting",
    "Agent",
    "Channel",
    "ContinuousActions",
    "DiscreteActions",
    "Embodiment",
    "Modality",
    "Policy",
    "PolysomaError",
    "Stream",
    "load",
    "make",
    "save",
]


_HOMES = {
    "polysoma.embodiment": ("Channel", "ContinuousActions", "DiscreteActions", "Embodiment", "Modality", "Stream"),
    "polysoma.acting.agent": ("Acting", "Agent"),
    "polysoma.policy.checkpoint": ("load", "save"),
    "polysoma.policy.policy": ("Policy",),
    "polysoma.simulators": ("make",),
}


def __getattr__(name: str) -> Any:
    # torch takes over a second to import, and a robot that only asks a server has neither torch nor Gymnasium.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'polysoma' has no attribute {name!r}")

"""Polysoma: one transformer policy that drives many bodies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polysoma.embodiment import Channel, ContinuousActions, DiscreteActions, Embodiment, Modality, Stream
from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    from polysoma.policy.agent import Acting, Agent
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


def __getattr__(name: str) -> Any:
    # torch takes over a second to import; those who only describe bodies or record should not wait for it.
    if name in ("load", "save"):
        from polysoma.policy import checkpoint

        return getattr(checkpoint, name)
    if name in ("Acting", "Agent"):
        from polysoma.policy import agent

        return getattr(agent, name)
    if name == "Policy":
        from polysoma.policy.policy import Policy

        return Policy
    if name == "make":
        from polysoma.simulators import make

        return make
    raise AttributeError(f"module 'polysoma' has no attribute {name!r}")

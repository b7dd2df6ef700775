"""What a policy remembers of an episode: its task, and the frames so far. It belongs to an agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polysoma.nn.trunk import State


@dataclass(frozen=True)
class PolicyState:
    """One task and the frames that followed.

    Attributes:
        instruction: what was read.
        conditioning: what it makes of streams that are read in its light, by stream, ``(1, ...)`` each.
        trunk: what the trunk remembers of the task and of the frames.
    """

    instruction: str
    conditioning: dict[str, Tensor]
    trunk: State

    @property
    def frames(self) -> int:
        """How many frames are remembered."""
        return self.trunk.frames

    def forget_frames(self) -> None:
        """Keeps the task alone."""
        self.trunk.forget_frames()


def conditioning_of(states: Sequence[PolicyState]) -> dict[str, Tensor]:
    """Those of several states, ``(B, ...)`` each."""
    if len(states) == 1:
        return states[0].conditioning
    return {name: torch.cat([state.conditioning[name] for state in states]) for name in states[0].conditioning}

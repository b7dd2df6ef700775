"""Meta-World's basketball with "object lost": a ball that rolls out of the expert's reach ends the episode.

The body, the scene and the expert are the shipped ones, so that its policies drive it, and guards of it judge them.
Elsewhere ``POLYSOMA_FAMILIES=benchmarks/worlds/lost_object.py`` puts it in the place of the shipped tasks. A ball that
is dropped or hit rolls away and does not come back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from polysoma.embodiment import Observation
from polysoma.simulators import metaworld
from polysoma.simulators.metaworld import MetaWorld

REACH = np.array([[-0.3, 0.4, -0.05], [0.3, 1.0, 1.0]])
"""Metres: where the ball is not lost, from and to. It begins within 0.1 m of x = 0, and the hoop is there, too."""
_OBJECT = slice(4, 7)


class LostObject(MetaWorld):
    """A task whose first object must stay within reach."""

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """See :class:`~polysoma.simulators.environment.Environment`: a lost object ends the episode."""
        seen, reward, terminated, truncated, info = super().step(action)
        place = self._state[_OBJECT]
        lost = not info["success"] and bool((place < REACH[0]).any() or (place > REACH[1]).any())
        return seen, reward, terminated or lost, truncated and not lost, info


FAMILY = replace(metaworld.FAMILY, tasks=("metaworld/basketball-v3",), build=LostObject)

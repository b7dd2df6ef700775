"""A quadruped that is drawn at random, to be a body that no weights have met: it walks as it is told.

``DRAWN_LEGS=7`` in the environment draws another one: how long the links of its legs are, how far apart the legs, how
heavy it is, and how stiffly its joints hold what is commanded. All else is as of the Go1. ``POLYSOMA_FAMILIES`` names
this file.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np

from polysoma.horizon import Horizon
from polysoma.simulators.environment import Family
from polysoma.simulators.quadruped import FAMILIES, HEIGHT, LEGS, STIFFNESS, Quadruped, model_of

_RNG = np.random.default_rng([int(os.environ.get("DRAWN_LEGS", "1")), 20])
THIGH, CALF = _RNG.uniform(0.85, 1.15, 2)
"""How many times as long as the Go1's."""
APART, MASS, STIFF = _RNG.uniform((0.85, 0.8, 0.8), (1.2, 1.3, 1.2))
"""How many times as far from the front to the hind legs, as heavy and as stiff."""

EMBODIMENT = dataclasses.replace(FAMILIES[0].embodiment, name="drawn-legs", body="drawn-legs")


class DrawnLegs(Quadruped):
    """See :class:`~polysoma.simulators.quadruped.Quadruped`."""

    height, stiffness = HEIGHT * (THIGH + CALF) / 2, STIFFNESS * STIFF

    def __init__(self, task: str) -> None:
        super().__init__(EMBODIMENT, task)

    def _load(self) -> Any:
        model = self._mujoco.MjModel.from_xml_string(model_of("go1"))
        for leg in LEGS:
            hip, thigh, calf = (model.body(f"{leg}_{link}").id for link in ("hip", "thigh", "calf"))
            model.body_pos[hip, 0] *= APART
            model.body_pos[calf] *= THIGH
            for link, longer in ((thigh, THIGH), (calf, CALF)):
                model.geom_pos[model.geom_bodyid == link, 2] *= longer
                model.body_ipos[link, 2] *= longer
        model.body_mass *= MASS
        model.body_inertia *= MASS
        self._mujoco.mj_setConst(model, self._mujoco.MjData(model))
        return model


FAMILY = Family(
    EMBODIMENT, ("drawn-legs/velocity", "drawn-legs/words"), ("mujoco",), DrawnLegs, horizon=Horizon(chunk=4)
)

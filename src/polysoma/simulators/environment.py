"""What every simulated task offers: a Gymnasium environment with a body, an instruction and an expert."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from polysoma.embodiment import Embodiment, Observation


class Environment(gymnasium.Env[Observation, Any]):
    """One task of one embodiment.

    ``reset(seed=n)`` gives the same episode for the same ``n``, in any process and after any other episode. An episode
    ends (``terminated``) at its first success or when it cannot succeed any more, and is cut (``truncated``) after
    ``max_steps`` steps. ``info["success"]`` is a bool at every step. Observations follow
    ``embodiment.observation_space()``, text stream ``"instruction"`` included; actions ``embodiment.action_space()``.

    Attributes:
        task: full name, ``"family/task"``.
        max_steps: the length at which an episode is cut.
        expert_noise: the standard deviation of the action noise (DART, Laskey et al. 2017) with which demonstrations
            of this task are best recorded, as a fraction of half the action range; 0 where noise does not help.
    """

    embodiment: Embodiment
    task: str
    max_steps: int
    expert_noise: float = 0.0

    def __init__(self) -> None:
        self.observation_space = self.embodiment.observation_space()
        self.action_space = self.embodiment.action_space()

    def expert_action(self) -> np.ndarray | int:
        """The expert's clean action in the present state, whoever brought the body there. Called once a step at most.

        Raises ExpertFailed when the expert finds no action (a recording drops the episode).
        """
        raise NotImplementedError

    def render_frame(self, size: int = 240) -> np.ndarray:
        """A picture of the present state for people: uint8 of shape ``(size, size, 3)``."""
        raise NotImplementedError


class ExpertFailed(Exception):
    """The expert gave up: no plan, an internal error, or out of time."""

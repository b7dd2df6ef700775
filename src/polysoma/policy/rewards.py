"""A reward that is learnt from ranked clips: an ensemble of perceptrons that says how good a step of one body is.

:mod:`polysoma.learning.methods.preferences` learns it; ``polysoma improve --reward`` plays for it. Its checkpoint is a
folder like any other and drives nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.data.outcomes import Senses
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment, Observation
from polysoma.errors import PolysomaError
from polysoma.nn.perceptrons import perceptron
from polysoma.policy import small
from polysoma.policy.small import SmallPolicy
from polysoma.text import without_articles

KIND = "reward"
"""What ``config.json`` calls such a checkpoint."""


@dataclass(frozen=True)
class RewardConfig:
    """What a learnt reward is of.

    Attributes:
        embodiment: the body, which senses numbers or symbols.
        instruction: what it is told; the reward reads no words.
        width, depth: of the perceptrons.
        members: how many there are.

    Raises:
        PolysomaError: a body that senses neither numbers nor symbols.
    """

    embodiment: Embodiment
    instruction: str
    width: Annotated[int, within(1, 65_536)] = 256
    depth: Annotated[int, within(1, 64)] = 1
    members: Annotated[int, within(1, 64)] = 5

    def __post_init__(self) -> None:
        check(self)
        Senses.of(self.embodiment)

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        rest = {name: value for name, value in vars(self).items() if name != "embodiment"}
        return {"kind": KIND, "embodiment": self.embodiment.to_json(), **rest}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RewardConfig:
        """The inverse of :meth:`to_json`. Raises PolysomaError, in one line."""
        body, stored = small.stored_beside_body(data, _Stored, "a reward")
        return RewardConfig(body, **vars(stored))


@dataclass(frozen=True)
class _Stored:
    """A configuration in JSON, without the embodiment."""

    instruction: str
    width: int
    depth: int
    members: int


class RewardModel(SmallPolicy):
    """How good steps are: the mean of the members, each with a mean of 0 and a standard deviation of 1 over the logs
    (Christiano et al. 2017, section 2.2). Only differences mean something: of a reward that was learnt from clips of
    one length, any number may be added to all steps.

    Attributes:
        config: what it is.
        members: perceptrons from what was observed after an action, and the action, to a number.
    """

    mean: Tensor
    scale: Tensor
    middle: Tensor
    spread: Tensor
    low: Tensor
    high: Tensor
    config: RewardConfig

    def __init__(self, config: RewardConfig) -> None:
        super().__init__()
        self.config = config
        self.senses = Senses.of(config.embodiment)
        states, actions = len(self.senses.place), config.embodiment.actions
        self.register_buffer("mean", torch.zeros(states))
        self.register_buffer("scale", torch.ones(states))
        self.register_buffer("middle", torch.zeros(config.members))
        self.register_buffer("spread", torch.ones(config.members))
        if isinstance(actions, ContinuousActions):
            finite = np.isfinite(actions.low) & np.isfinite(actions.high)
            low, high = (np.where(finite, part, side) for part, side in ((actions.low, -1), (actions.high, 1)))
            self.register_buffer("low", torch.from_numpy(low.astype(np.float32)), persistent=False)
            self.register_buffer("high", torch.from_numpy(high.astype(np.float32)), persistent=False)
        self.members = nn.ModuleList(
            perceptron(states + actions.size, 1, config.width, config.depth) for _ in range(config.members)
        )

    def measure(self, states: Tensor) -> None:
        """Takes what states ``(N, n)`` are scaled by from these. Channels that never change are not scaled."""
        deviation = states.std(0, correction=0)
        self.mean.copy_(states.mean(0))
        self.scale.copy_(torch.where(deviation > 1e-6, deviation, 1))

    def inputs(self, states: Tensor, actions: Tensor) -> Tensor:
        """What members see of states ``(..., n)`` and the actions before them, float32 ``(..., A)`` or int64 ``(...)``:
        float32 ``(..., n + A)``."""
        if isinstance(self.config.embodiment.actions, DiscreteActions):
            done = nn.functional.one_hot(actions, self.config.embodiment.actions.size).float()
        else:
            done = 2 * (actions - self.low) / (self.high - self.low).clamp(min=1e-6) - 1
        return torch.cat([(states - self.mean) / self.scale, done], -1)

    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """The reward of steps, ``(...)``."""
        seen = self.inputs(states, actions)
        every = torch.stack([member(seen)[..., 0] for member in self.members], -1)
        found: Tensor = ((every - self.middle) / self.spread).mean(-1)
        return found

    @torch.no_grad()
    def normalise(self, states: Tensor, actions: Tensor) -> None:
        """Gives each member a mean of 0 and a standard deviation of 1 over these steps."""
        seen = self.inputs(states, actions)
        for number, member in enumerate(self.members):
            found = member(seen)[..., 0]
            self.middle[number] = found.mean()
            self.spread[number] = found.std(correction=0).clamp(min=1e-6)

    @torch.no_grad()
    def of(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The reward of steps ``(N, n)`` and ``(N, A)`` or ``(N,)``, float32 ``(N,)``."""
        found: np.ndarray = self(torch.from_numpy(states), torch.from_numpy(actions)).numpy()
        return found

    def check(self, body: Embodiment, instruction: str) -> None:
        """Raises PolysomaError where it was learnt of another body, or of other words."""
        mine = self.config
        if body != mine.embodiment:
            differing = "; ".join(body.differences(mine.embodiment))
            raise PolysomaError(f"the reward is of another body than {body.name}: {differing}")
        if without_articles(instruction) != without_articles(mine.instruction):
            raise PolysomaError(
                f"the reward was learnt where {body.name} was told {mine.instruction!r}, and this task says "
                f"{instruction!r}: learn one from logs of this task"
            )

    def judge(self, reached: Sequence[Observation], actions: np.ndarray) -> np.ndarray:
        """The reward of N actions, float32 ``(N, A)`` or int64 ``(N,)``, from what was observed after each, float32
        ``(N,)``."""
        frames = {name: np.stack([seen[name] for seen in reached]) for name in self.senses.streams}
        return self.of(self.senses.of_frames(frames), actions)


def load(path: str | Path) -> RewardModel:
    """Loads a reward for use, frozen.

    Raises:
        PolysomaError: there is no checkpoint, it is of another kind, or its weights are damaged or do not fit.
    """
    return small.load(path, KIND, "reward (polysoma reward learn)", RewardConfig.from_json, RewardModel)

"""Values of choices: a small network that says what each choice of one body is worth, and drives it by the best one.

It is what DQN makes (:mod:`polysoma.learning.methods.dqn`), of bodies that sense numbers and symbols and whose actions
are choices. Its checkpoint is a folder like any other, and its planner
(:class:`polysoma.acting.values.ValuePlanner`) is accepted wherever a planner is. It reads no words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.embodiment import Embodiment
from polysoma.policy import small
from polysoma.policy.rows import RowPolicy, check_choices

KIND = "values"
"""What ``config.json`` calls such a checkpoint."""


@dataclass(frozen=True)
class ValueConfig:
    """What such a policy is.

    Attributes:
        embodiment: the one body that it drives.
        width: of the hidden layer.
        dueling: whether the value of a state and the advantages of choices are apart (Wang et al. 2016, arXiv
            1511.06581).

    Raises:
        PolysomaError: actions that are numbers, or a body that senses pictures or nothing.
    """

    embodiment: Embodiment
    width: Annotated[int, within(1, 65_536)] = 128
    dueling: bool = True

    def __post_init__(self) -> None:
        check(self)
        check_choices(self.embodiment)

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        return {"kind": KIND, "embodiment": self.embodiment.to_json(), "width": self.width, "dueling": self.dueling}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ValueConfig:
        """The inverse of :meth:`to_json`. Raises PolysomaError, in one line."""
        body, stored = small.stored_beside_body(data, _Stored, "values of choices")
        return ValueConfig(body, stored.width, stored.dueling)


@dataclass(frozen=True)
class _Stored:
    """A configuration in JSON, without the embodiment."""

    width: int = 128
    dueling: bool = True


class ValuePolicy(RowPolicy):
    """Values of one body's choices, from rows as :func:`polysoma.data.replay.flat` makes them. All that is seen goes
    into one hidden layer.

    Attributes:
        config: what it is.
    """

    config: ValueConfig

    def __init__(self, config: ValueConfig) -> None:
        super().__init__(config.embodiment)
        self.config = config
        self.hidden = nn.Linear(self.seen, config.width)
        self.advantage = nn.Linear(config.width, config.embodiment.actions.size)
        self.value = nn.Linear(config.width, 1) if config.dueling else None

    def forward(self, rows: Tensor) -> Tensor:
        """The value of each choice, ``(B, choices)``, of rows ``(B, n)``, float32 or uint8."""
        hidden = torch.relu(self.hidden(self.features(rows)))
        advantage: Tensor = self.advantage(hidden)
        if self.value is None:
            return advantage
        return self.value(hidden) + advantage - advantage.mean(1, keepdim=True)

    @torch.no_grad()
    def decide(self, rows: np.ndarray) -> np.ndarray:
        """The best choices, int64 ``(B,)``, for rows ``(B, n)``."""
        found: np.ndarray = self(self.taken(rows)).argmax(1).cpu().numpy()
        return found


def load(path: str | Path) -> ValuePolicy:
    """Loads such a policy for use, frozen.

    Raises:
        PolysomaError: there is no checkpoint, it is of another kind, or its weights are damaged or do not fit.
    """
    return small.load(path, KIND, "values of choices (polysoma skills play)", ValueConfig.from_json, ValuePolicy)

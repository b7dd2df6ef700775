"""What offline methods share: a skill policy, steps of logs as tensors, and goals in hindsight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.data.replay import Replay, Steps
from polysoma.errors import PolysomaError
from polysoma.learning.method import Method, Share
from polysoma.policy.skills import Conditioning, SkillPolicy


class OfflineSettings(Protocol):
    """A frozen dataclass of settings that builds an offline method."""

    @property
    def kind(self) -> str:
        """What it is called."""
        ...

    @property
    def batch(self) -> int:
        """Steps of a log in each step of learning."""
        ...

    def conditioning(self, goals: bool) -> Conditioning:
        """What its policy is told, where goals are asked for or not. Raises PolysomaError where it cannot be."""
        ...

    def build(self, policy: SkillPolicy, replay: Replay, seed: int = 0) -> Method:
        """The method that improves this policy by these logs."""
        ...


@dataclass(frozen=True)
class Drawn:
    """B steps as tensors: states ``(B, channels)`` as they were observed, actions ``(B, A)`` in parts of half the
    range, and rewards and discounts ``(B,)``."""

    steps: Steps
    states: Tensor
    following: Tensor
    actions: Tensor
    rewards: Tensor
    discounts: Tensor


class OfflineMethod(Method):
    """Learns a skill policy from a replay. Subclasses draw with :meth:`draw`.

    Args:
        policy: to learn; takes the statistics of the states.
        replay: the logs.
        batch: steps of a log in each step of learning, of all processes together.
        discount: of a step of the log.
        seed: of all that is drawn.

    Attributes:
        gain, offset: rewards are taken times the first plus the second.
    """

    def __init__(self, policy: SkillPolicy, replay: Replay, batch: int, discount: float, seed: int) -> None:
        if policy.config.embodiment != replay.embodiment:
            raise PolysomaError(
                f"expected logs of the policy's body, {policy.config.embodiment.name}, got {replay.embodiment.name}"
            )
        self.policy, self.replay, self.discount = policy, replay, discount
        self.batch, self.seed = batch, seed
        policy.measure(replay.known())
        self.gain, self.offset = 1.0, 0.0
        self.modules = nn.ModuleDict({"policy": policy})
        self._states = torch.from_numpy(replay.states)

    def rng(self, step: int, share: Share) -> np.random.Generator:
        """What draws in one step of one process."""
        return share.rng(self.seed, step)

    def draw(
        self, rng: np.random.Generator, share: Share, rows: np.ndarray | None = None, observed: bool = False
    ) -> Drawn:
        """This process's part of a batch, evenly from ``rows``, from the steps that lead to what was ``observed``, or
        from all steps."""
        count = -(-self.batch // share.count)
        chosen = self.replay.choose(count, rng, observed) if rows is None else rows[rng.integers(len(rows), size=count)]
        steps = self.replay.steps(chosen, self.discount)
        return Drawn(
            steps,
            self.states(steps.rows, share),
            self.states(steps.next_rows, share),
            self.policy.in_parts(torch.from_numpy(steps.actions).to(share.device)).clamp(-1, 1),
            torch.from_numpy(steps.rewards).to(share.device) * self.gain + self.offset,
            torch.from_numpy(steps.discounts).to(share.device),
        )

    def states(self, rows: np.ndarray, share: Share) -> Tensor:
        """States of these rows as they were observed, ``(B, channels)``."""
        return self._states[torch.from_numpy(rows)].to(share.device)

    def goal_rows(self, rows: np.ndarray, rng: np.random.Generator, future: float) -> np.ndarray:
        """Goals for values: with a chance ``future`` a state that followed, as far ahead as the discount weighs it,
        and else any state of the logs."""
        ahead = self.replay.future(rows, rng, self.discount)
        anywhere = self.replay.anywhere(len(rows), rng)
        return np.where(rng.random(len(rows)) < future, ahead, anywhere)


def only_without_goals(kind: str, goals: bool) -> Conditioning:
    """For methods that know rewards alone. Raises PolysomaError where goals are asked for."""
    if goals:
        raise PolysomaError(f"{kind} learns from rewards; for goals there are cloning, iql and hilp")
    return "nothing"

"""DQN (Mnih et al. 2015, Nature 518): values of choices by Q-learning, from a memory of what was done or from logs.

Both of its usual improvements are on by default: double Q-learning (van Hasselt et al. 2016, arXiv 1509.06461), where
one network chooses and the other one judges, and dueling networks (Wang et al. 2016, arXiv 1511.06581), which are a
matter of the policy (:class:`polysoma.policy.values.ValueConfig`). The target network follows a little at every step
(Lillicrap et al. 2015, arXiv 1509.02971), where that of the paper is a copy made every 10,000 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import smooth_l1_loss

from polysoma.config import check, within
from polysoma.data.replay import Made, Replay, Ring
from polysoma.learning.method import Method, Metrics, Share
from polysoma.learning.objectives import td_target
from polysoma.nn.perceptrons import follow, frozen_copy
from polysoma.policy.values import ValuePolicy
from polysoma.rollout.choosing import Slots


@dataclass(frozen=True)
class Exploring:
    """How DQN plays while it learns.

    Attributes:
        slots: environments at a time; each is stepped once for each step of learning.
        first: steps of the environments, at random, before learning begins.
        until: steps of the environments after which the share of random choices, 1 at first, is ``least``.
        least: see ``until``.
        memory: steps that are kept to learn from.
    """

    slots: Annotated[int, within(1, 10_000)] = 8
    first: Annotated[int, within(1, 10**8)] = 2000
    until: Annotated[int, within(1, 10**12)] = 50_000
    least: Annotated[float, within(0, 1)] = 0.05
    memory: Annotated[int, within(1, 10**8)] = 100_000

    def __post_init__(self) -> None:
        check(self)

    def share(self, steps: int) -> float:
        """The share of random choices after so many steps of the environments."""
        return 1 - (1 - self.least) * min(1.0, steps / self.until)


@dataclass(frozen=True)
class Dqn:
    """Settings of DQN.

    Attributes:
        batch: steps in each step of learning.
        discount: of a step.
        double: whether the network that learns chooses what the target network judges.
        dueling: see :class:`~polysoma.policy.values.ValueConfig`.
        target: the part of the way that the target network goes at each step.
    """

    batch: Annotated[int, within(1, 10**6)] = 32
    discount: Annotated[float, within(0, 1, below=True)] = 0.99
    double: bool = True
    dueling: bool = True
    target: Annotated[float, within(0, 1, above=True)] = 0.005
    kind: Literal["dqn"] = "dqn"

    def __post_init__(self) -> None:
        check(self)

    def build(self, policy: ValuePolicy, replay: Replay, seed: int = 0) -> Method:
        """The method that learns from logs. Raises PolysomaError where they have no rewards."""
        return _FromLogs(policy, replay, self, seed)

    def playing(self, policy: ValuePolicy, slots: Slots, exploring: Exploring, seed: int = 0) -> Playing:
        """The method that learns from what it plays."""
        return Playing(policy, slots, self, exploring, seed)


class _Dqn(Method):
    """Learns the values; subclasses say from what, with :meth:`draw`."""

    def __init__(self, policy: ValuePolicy, settings: Dqn, seed: int) -> None:
        self.policy, self.settings, self.seed = policy, settings, seed
        self.modules = nn.ModuleDict({"policy": policy, "target": frozen_copy(policy)})

    def draw(self, count: int, rng: np.random.Generator) -> Made:
        """Steps to learn from."""
        raise NotImplementedError

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng = share.rng(self.seed, step)
        drawn = self.draw(-(-self.settings.batch // share.count), rng)
        seen, after, actions, rewards, discounts = (
            torch.from_numpy(part).to(share.device)
            for part in (drawn.states, drawn.following, drawn.actions, drawn.rewards, drawn.discounts)
        )
        with torch.no_grad():
            judged = self.modules["target"](after)
            chosen = self.policy(after) if self.settings.double else judged
            goal = td_target(rewards, discounts, judged.gather(1, chosen.argmax(1, keepdim=True))[:, 0])
        values = self.policy(seen).gather(1, actions[:, None])[:, 0]
        loss = smooth_l1_loss(values, goal)
        loss.backward()
        return {"loss/value": loss.item(), "value": float(values.detach().mean()), "windows": float(len(seen))}

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: the target network follows."""
        follow(self.modules["target"], self.policy, self.settings.target)


class _FromLogs(_Dqn):
    """DQN from logs. Choices that logs do not show are believed as the network says: good logs try all of them."""

    def __init__(self, policy: ValuePolicy, replay: Replay, settings: Dqn, seed: int) -> None:
        replay.need_rewards("dqn")
        policy.measure(replay.states)
        self._replay = replay
        super().__init__(policy, settings, seed)

    def draw(self, count: int, rng: np.random.Generator) -> Made:
        """See :class:`_Dqn`."""
        replay = self._replay
        steps = replay.draw(count, rng, self.settings.discount)
        found = replay.states[steps.rows], replay.states[steps.next_rows]
        return Made(*found, steps.actions, steps.rewards, steps.discounts)


class Playing(_Dqn):
    """DQN from what it plays, which cannot be resumed: neither games nor their memory are saved.

    Args:
        policy: to learn.
        slots: where it plays.
        settings, exploring: see :class:`Dqn` and :class:`Exploring`.
        seed: of all that is drawn but the episodes.
    """

    def __init__(self, policy: ValuePolicy, slots: Slots, settings: Dqn, exploring: Exploring, seed: int) -> None:
        super().__init__(policy, settings, seed)
        self.slots, self._exploring = slots, exploring
        self._rng = np.random.default_rng([seed, 31])
        self._memory = Ring(slots.body, exploring.memory)
        while slots.steps < exploring.first:
            self._play(1.0)
        policy.measure(self._memory.draw(exploring.first, np.random.default_rng([seed, 32])).states)
        self.modules["target"] = frozen_copy(policy)

    def draw(self, count: int, rng: np.random.Generator) -> Made:
        """See :class:`_Dqn`."""
        return self._memory.draw(count, rng)

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        return super().accumulate(step, share) | self.slots.metrics(100)

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: it plays on."""
        super().after_step(step)
        self._play(self._exploring.share(self.slots.steps))

    def _play(self, random: float) -> None:
        """One step of every slot, with this share of random choices."""
        slots = self.slots
        count, choices = len(slots.rows), slots.body.actions.size
        chosen = self._rng.integers(choices, size=count)
        greedy = self._rng.random(count) >= random
        if greedy.any():
            chosen[greedy] = self.policy.decide(slots.rows[greedy])
        self._memory.add(slots.step(chosen, self.settings.discount))

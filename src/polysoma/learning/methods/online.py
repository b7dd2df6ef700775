"""Online: any method that learns from logs goes on learning while its policy acts, from the logs and what it does.

U2O (Kim et al. 2024, "Unsupervised-to-Online Reinforcement Learning", arXiv 2408.14785) is this with a HILP policy, its
values, and one fixed skill; offline-to-online IQL is the same with a policy of one reward. Nothing else is changed
when it goes online.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from polysoma.config import check, within
from polysoma.data.growing import Growing
from polysoma.embodiment import ContinuousActions
from polysoma.learning.method import Method, Metrics, Share
from polysoma.learning.offline import OfflineMethod
from polysoma.rollout.choosing import Slots

_PIECE = 100
"""Frames after which what a slot did is added, also where its episode goes on."""


@dataclass(frozen=True)
class Acting:
    """How a policy acts while it learns.

    Attributes:
        noise: the standard deviation of what is added to its actions, in parts of half the range.
        hold: frames for which what was drawn is kept: noise that changes at every frame leads nowhere.
        frames: in each slot, from one step of learning to the next.
        first: frames of all slots before learning begins.
    """

    noise: Annotated[float, within(0, 10)] = 0.1
    hold: Annotated[int, within(1, 10**6)] = 5
    frames: Annotated[int, within(1, 10**6)] = 1
    first: Annotated[int, within(0, 10**9)] = 500

    def __post_init__(self) -> None:
        check(self)


class Online(Method):
    """A method that learns from a replay, which grows while it does. It cannot be resumed: neither episodes nor what
    was done are saved.

    Args:
        inner: the method, on ``replay``.
        replay: see :class:`~polysoma.data.growing.Growing`.
        slots: where the policy acts.
        acting: see :class:`Acting`.
        seed: of the noise.
    """

    def __init__(self, inner: OfflineMethod, replay: Growing, slots: Slots, acting: Acting, seed: int) -> None:
        self.modules, self._inner = inner.modules, inner
        self._policy, self._replay, self.slots, self._acting = inner.policy, replay, slots, acting
        self._rng = np.random.default_rng([seed, 41])
        self._noise = np.zeros((len(slots.rows), self._policy.reach.numel()), np.float32)
        self._held = 0
        self._states: list[list[np.ndarray]] = [[] for _ in slots.rows]
        self._actions: list[list[np.ndarray]] = [[] for _ in slots.rows]
        self._rewards: list[list[float]] = [[] for _ in slots.rows]

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        return self._inner.accumulate(step, share) | self.slots.metrics(20)

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: it acts on."""
        self._inner.after_step(step)
        self.act(self._acting.frames * len(self.slots.rows))

    def act(self, frames: int) -> None:
        """So many frames of all slots together, at least."""
        end = self.slots.steps + frames
        while self.slots.steps < end:
            self._act()

    def cut(self) -> None:
        """Adds what slots did so far, also where episodes go on."""
        for n, own in enumerate(self._states):
            if own:
                self._add(n, self.slots.rows[n], over=False)

    def _act(self) -> None:
        """One frame in every slot."""
        slots, policy, acting = self.slots, self._policy, self._acting
        if not self._held:
            self._noise = self._rng.normal(0, acting.noise, self._noise.shape).astype(np.float32)
            self._held = acting.hold
        self._held -= 1
        device = policy.mean.device
        noise = torch.from_numpy(self._noise).to(device)
        parts = policy.in_parts(policy.decide(torch.from_numpy(slots.rows).to(device))) + noise
        actions = policy.in_units(parts.clamp(-1, 1)).cpu().numpy()
        # Rounding may lead out of the limits by a bit.
        limits = slots.body.actions
        assert isinstance(limits, ContinuousActions)
        actions = np.clip(actions, np.float32(limits.low), np.float32(limits.high))
        made = slots.step(actions, 1.0)
        for n, ended in enumerate(slots.ended):
            self._states[n].append(made.states[n])
            self._actions[n].append(actions[n])
            self._rewards[n].append(float(made.rewards[n]))
            if ended or len(self._states[n]) >= _PIECE:
                self._add(n, made.following[n], over=bool(ended and made.discounts[n] == 0))

    def _add(self, slot: int, after: np.ndarray, over: bool) -> None:
        """Adds what a slot did since it last was added; ``after`` is what it led to."""
        did, earned = self._actions[slot], self._rewards[slot]
        self._replay.add(np.stack([*self._states[slot], after]), np.stack(did), np.array(earned, np.float32), over)
        self._states[slot], self._actions[slot], self._rewards[slot] = [], [], []

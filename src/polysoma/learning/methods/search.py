"""A search with a learnt model, which learns from what it plays: MuZero (Schrittwieser et al. 2020, arXiv 1911.08265)
in a small size, with Gumbel's search (Danihelka et al. 2022, openreview bERaNdoegnO).

Two things are as in EfficientZero (Ye et al. 2021, arXiv 2111.00210). What the model expects is pulled towards how what
was really observed then is represented (equation 3, consistency; its weight may be 0). And what is aimed at is made
anew each time a step is drawn, policies by another search and returns by the values of now, both of a network that
follows. That network also represents what was observed, as in SPR (Schwarzer et al. 2021, arXiv 2007.05929).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from polysoma.config import KIND, check, within
from polysoma.data.sequences import Memory, Pieces, Rows, drawn_rows
from polysoma.learning.method import Method, Metrics, Share
from polysoma.learning.methods.imagination import Exploring
from polysoma.learning.methods.world import masked
from polysoma.learning.objectives import generalised_advantages
from polysoma.nn.perceptrons import follow, frozen_copy
from polysoma.nn.tree import Searching, search
from polysoma.nn.world import two_hot_loss
from polysoma.policy.search import SearchPolicy
from polysoma.rollout.choosing import Slots


@dataclass(frozen=True)
class Search:
    """Settings.

    Attributes:
        batch: pieces of episodes in each step of learning.
        unrolled: steps of a piece in which the model goes on alone.
        ahead: steps after those, whose rewards returns see, too.
        paying: the part of the pieces that are drawn among those in which something is earned, which may be rare (as
            for UNREAL's rewards, Jaderberg et al. 2017, arXiv 1611.05397); the others are drawn evenly.
        trace: lambda of returns; 1 takes all rewards of a piece as they came.
        consistency, value: weights of these losses, beside 1 for rewards and policies. That of consistency is
            EfficientZero's, whose weight of values is a quarter. Without consistency nothing of it is computed.
        target: the part of the way that the network which is aimed at goes at each step.
        searching: how thoroughly is searched, in playing and for what is aimed at.
        learning_rate: constant.
        kind: what lineages call it.
    """

    batch: Annotated[int, within(1, 10**6)] = 32
    unrolled: Annotated[int, within(1, 1000)] = 5
    ahead: Annotated[int, within(0, 1000)] = 5
    paying: Annotated[float, within(0, 1)] = 0.5
    trace: Annotated[float, within(0, 1)] = 0.95
    consistency: Annotated[float, within(0, 1000)] = 2.0
    value: Annotated[float, within(0, 1000)] = 1.0
    target: Annotated[float, within(0, 1, above=True)] = 0.02
    searching: Annotated[Searching, KIND] = Searching()  # noqa: RUF009  (frozen)
    learning_rate: Annotated[float, within(0, 10)] = 2e-3
    kind: Literal["search"] = "search"

    def __post_init__(self) -> None:
        check(self)

    def playing(self, policy: SearchPolicy, slots: Slots, exploring: Exploring, seed: int = 0) -> Method:
        """The method that learns from what it plays."""
        return Playing(policy, slots, self, exploring, seed)


class Consistency(nn.Module):
    """How far expected latents are from those that came: SimSiam (Chen and He 2021, arXiv 2011.10566). Both sides are
    standardised over the batch, as there: with a norm of each latent alone all of them became the same.

    Args:
        width: of latents.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(*_standardised(width), nn.ReLU(), *_standardised(width))
        self.predict = nn.Sequential(*_standardised(width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, expected: Tensor, came: Tensor) -> Tensor:
        """Latents ``(B, width)`` to ``(B,)``, from -1, alike, to 1. No gradient goes to ``came`` or its projection."""
        with torch.no_grad():
            aim = self.project(came)
        return -cosine_similarity(self.predict(self.project(expected)), aim)


def _standardised(width: int) -> tuple[nn.Module, nn.Module]:
    """A linear layer whose outputs are standardised over the batch."""
    return nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, track_running_stats=False)


@dataclass(frozen=True)
class Aims:
    """What B pieces aim at in their first K + 1 observations.

    Attributes:
        latents: of what was observed, ``(B, K + 1, width)``.
        policies: ``(B, K + 1, A)``.
        returns: ``(B, K + 1)``; 0 after the end of the task.
        gone: bool ``(B, K + 1)``, whether the task had ended.
    """

    latents: Tensor
    policies: Tensor
    returns: Tensor
    gone: Tensor


class SearchLearner(Method):
    """Learns the model from pieces of episodes.

    Args:
        policy: to learn.
        memory: to learn from.
        settings: see :class:`Search`.
        seed: of all that is drawn.
    """

    def __init__(self, policy: SearchPolicy, memory: Rows, settings: Search, seed: int) -> None:
        self.policy, self.memory, self.settings, self.seed = policy, memory, settings, seed
        self.modules = nn.ModuleDict({"policy": policy, "target": frozen_copy(policy)})
        if settings.consistency:
            self.modules["consistency"] = Consistency(policy.config.width)
        self._returns = policy.returns.clone()

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        settings, rng = self.settings, share.rng(self.seed, step)
        count, steps = -(-settings.batch // share.count), settings.unrolled + settings.ahead
        rows, weights = drawn_rows(self.memory.rows(1), self.memory.paying(steps), count, settings.paying, rng)
        drawn = self.memory.pieces(rows, steps)
        aims = self.aims(drawn, rng)
        losses = self.losses(drawn, aims, self.policy.taken(weights))
        torch.stack(list(losses.values())).sum().backward()
        # Where nothing pays, nothing is worth more than anything else.
        self._returns = torch.stack([aims.returns.min(), aims.returns.max()]).cpu()
        told = {f"loss/{name}": value.item() for name, value in losses.items()}
        return told | {"value": float(aims.returns.mean()), "windows": float(count)}

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: what is aimed at follows."""
        follow(self.modules["target"], self.policy, self.settings.target)
        low, high = self._returns
        self.policy.returns[0].clamp_(max=float(low))
        self.policy.returns[1].clamp_(min=float(high))

    @torch.no_grad()
    def aims(self, drawn: Pieces, rng: np.random.Generator) -> Aims:
        """What pieces aim at. ``rng`` draws the noise of the searches."""
        target, settings, discount = self.modules["target"], self.settings, self.policy.config.discount
        assert isinstance(target, SearchPolicy)
        seen = self.policy.taken(drawn.states)
        latents = target.represent(seen.flatten(0, 1))
        values = target.judge(latents)[1].unflatten(0, seen.shape[:2])
        known, over, rewards = map(self.policy.taken, (drawn.known, drawn.over, drawn.rewards))
        # What is after the end of an episode stands still, so that its value passes through.
        discounts = torch.where(over, 0.0, torch.where(known, discount, 1.0))
        rewards = torch.where(known, rewards, 0.0)
        gained = generalised_advantages(rewards.T, discounts.T, values.T, settings.trace).T
        kept = settings.unrolled + 1
        gone = torch.cat([torch.zeros_like(over[:, :1]), over.cumsum(1) > 0], 1)[:, :kept]
        returns = torch.where(gone, 0.0, torch.cat([gained + values[:, :-1], values[:, -1:]], 1)[:, :kept])
        roots = latents.unflatten(0, seen.shape[:2])[:, :kept]
        noise = rng.gumbel(size=(roots.shape[0] * kept, self.policy.config.embodiment.actions.size))
        found = search(target, roots.flatten(0, 1), settings.searching, discount, self.policy.reach, noise)
        policies = self.policy.taken(found.policy).unflatten(0, roots.shape[:2])
        return Aims(roots, policies, returns, gone)

    def losses(self, drawn: Pieces, aims: Aims, weights: Tensor) -> dict[str, Tensor]:
        """The losses, means over the steps that count; for values each weighs as much as its piece, ``(B,)``."""
        policy, settings = self.policy, self.settings
        actions, known = policy.taken(drawn.actions), policy.taken(drawn.known)[:, : settings.unrolled]
        latents, earned = [policy.represent(policy.taken(drawn.states[:, 0]))], []
        for number in range(settings.unrolled):
            # Half of the gradient goes on to the step before (appendix G of MuZero).
            before = (latents[-1] + latents[-1].detach()) / 2
            after, logits = policy.follow(before, actions[:, number])
            latents.append(after)
            earned.append(logits)
        unrolled = torch.stack(latents, 1)
        choices, worth = policy.beliefs(unrolled.flatten(0, 1))
        real = torch.cat([torch.ones_like(known[:, :1]), known], 1)
        # After its end a task is worth nothing and earns nothing, whatever is chosen.
        counted = known | aims.gone[:, :-1]
        rewards = torch.where(known, policy.taken(drawn.rewards)[:, : settings.unrolled], 0.0)
        missed = {
            "policy": (-(aims.policies.flatten(0, 1) * choices.log_softmax(1)).sum(1), real & ~aims.gone, 1.0),
            "value": (
                two_hot_loss(worth, aims.returns.flatten()),
                (real | aims.gone) * weights[:, None],
                settings.value,
            ),
            "reward": (two_hot_loss(torch.stack(earned, 1).flatten(0, 1), rewards.flatten()), counted, 1.0),
        }
        if settings.consistency:
            apart = self.modules["consistency"](unrolled[:, 1:].flatten(0, 1), aims.latents[:, 1:].flatten(0, 1))
            missed["consistency"] = (apart, known, settings.consistency)
        return {
            name: weight * masked(values.unflatten(0, where.shape).unbind(1), where)
            for name, (values, where, weight) in missed.items()
        }


class Playing(SearchLearner):
    """Learns from what it plays. A resumed run goes on with the memory and the episodes that it had.

    Args:
        policy: to learn.
        slots: where it plays.
        settings, exploring: see :class:`Search` and :class:`~polysoma.learning.methods.imagination.Exploring`.
        seed: of all that is drawn but the episodes.
    """

    def __init__(self, policy: SearchPolicy, slots: Slots, settings: Search, exploring: Exploring, seed: int) -> None:
        self.slots = slots
        rows = slots.rows
        self._memory = Memory(slots.body, rows.shape[1], exploring.slots, exploring.memory, kind=rows.dtype)
        while slots.steps < exploring.first or not len(self._memory):
            rng = np.random.default_rng([seed, 31, slots.steps])
            self._play(np.stack([slots.body.actions.sample(rng) for _ in rows]))
        policy.measure(self._memory.states)
        super().__init__(policy, self._memory, settings, seed)

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        return super().accumulate(step, share) | self.slots.metrics(20)

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: it plays on."""
        super().after_step(step)
        policy, slots = self.policy, self.slots
        rng = np.random.default_rng([self.seed, 33, slots.steps])
        noise = rng.gumbel(size=(len(slots.rows), slots.body.actions.size))
        with torch.no_grad():
            latents = policy.represent(policy.taken(slots.rows))
        found = search(policy, latents, self.settings.searching, policy.config.discount, policy.reach, noise)
        self._play(found.choices)

    def state(self) -> Mapping[str, Tensor]:
        """See :class:`~polysoma.learning.method.Method`."""
        parts = {"memory": self._memory.state(), "slots": self.slots.state()}
        return {f"{part}.{name}": torch.from_numpy(one) for part, held in parts.items() for name, one in held.items()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See :class:`~polysoma.learning.method.Method`."""
        for part, held in (("memory.", self._memory), ("slots.", self.slots)):
            held.load_state({name[len(part) :]: one.numpy() for name, one in tensors.items() if name.startswith(part)})

    def _play(self, actions: np.ndarray) -> None:
        """One step of every slot."""
        made = self.slots.step(actions, 1.0)
        self._memory.add(
            made.states, made.actions, made.rewards, made.discounts == 0, made.following, self.slots.ended
        )  # fmt: skip

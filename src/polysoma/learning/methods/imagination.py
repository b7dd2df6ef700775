"""Acting in imagination: an actor and a critic that learn from what a world model expects, which learns beside them.

DreamerV3 (Hafner et al. 2023, arXiv 2301.04104, section "Critic and actor learning"): lambda returns of imagined steps,
a two-hot critic, returns divided by their range, and entropy. Choices learn by REINFORCE, as there; numbers by the
gradient of the imagined returns, through the model, as in the first Dreamer (Hafner et al. 2020, arXiv 1912.01603):
models of robots that begin with what is linear have good gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from polysoma.config import KIND, check, within
from polysoma.data.sequences import Memory, Rows, Sequences, drawn_rows
from polysoma.learning.method import Method, Metrics, ParameterGroup, Share, decaying
from polysoma.learning.methods.world import WorldLearner, WorldLearning
from polysoma.learning.objectives import generalised_advantages
from polysoma.nn.imagination import ActorCritic, dream
from polysoma.nn.perceptrons import follow, frozen_copy
from polysoma.nn.world import Believed, two_hot_loss, two_hot_mean
from polysoma.policy.world import WINDOW, Trace, WorldModel
from polysoma.rollout.choosing import Slots

_FOLLOW = 0.02
"""The part of the way that the critic which judges goes at each step (the paper's)."""
_RANGE = 0.01
"""The part of a step's range of returns in its running average (the paper's)."""


@dataclass(frozen=True)
class Imagination:
    """Settings.

    Attributes:
        world: how the model learns, and at which rate.
        starts: states at most from which steps are imagined, in each step of learning.
        steps: that are imagined.
        discount: of a step.
        trace: lambda of returns.
        paying: the part of the pieces that the model learns from which is drawn among those in which something is
            earned, where these are fewer than half.
        bonus: how much entropy counts, for numbers (the paper's).
        choosing: the same for choices: at the paper's they are made before much is known, at rates that are 25 times
            the paper's.
        learning_rate: of the actor and the critic. From logs both rates are peaks; while playing they are constant.
        kind: what lineages call it.
    """

    world: Annotated[WorldLearning, KIND] = WorldLearning(  # noqa: RUF009  (frozen)
        batch=32, watched=WINDOW, ahead=6, learning_rate=1e-3
    )
    starts: Annotated[int, within(1, 10**6)] = 128
    steps: Annotated[int, within(1, 1000)] = 15
    discount: Annotated[float, within(0, 1, below=True)] = 0.99
    trace: Annotated[float, within(0, 1)] = 0.95
    paying: Annotated[float, within(0, 1)] = 0.25
    bonus: Annotated[float, within(0, 1000)] = 3e-4
    choosing: Annotated[float, within(0, 1000)] = 1e-2
    learning_rate: Annotated[float, within(0, 10, above=True)] = 1e-3
    kind: Literal["imagination"] = "imagination"

    def __post_init__(self) -> None:
        check(self)

    def build(self, model: WorldModel, logs: Sequences, seed: int = 0) -> Method:
        """The method that learns from these logs. Raises PolysomaError where they are of another body, or have no
        rewards."""
        return _Imagining(model, logs, self, seed)

    def playing(self, model: WorldModel, slots: Slots, exploring: Exploring, seed: int = 0) -> Method:
        """The method that learns from what it plays."""
        return _Playing(model, slots, self, exploring, seed)


@dataclass(frozen=True)
class Exploring:
    """How it plays while it learns.

    Attributes:
        slots: environments at a time; each is stepped once for each step of learning.
        first: steps of the environments, at random, before learning begins.
        memory: steps that are kept to learn from.
    """

    slots: Annotated[int, within(1, 10_000)] = 4
    first: Annotated[int, within(1, 10**8)] = 400
    memory: Annotated[int, within(100, 10**8)] = 100_000

    def __post_init__(self) -> None:
        check(self)


class _Imagining(WorldLearner):
    """Learns the model, and in it the actor and the critic, from logs."""

    def __init__(self, model: WorldModel, logs: Rows, settings: Imagination, seed: int) -> None:
        logs.need_rewards("imagination")
        assert model.mind is not None
        super().__init__(model, logs, settings.world, seed)
        self.mind: ActorCritic = model.mind
        self.imagination, self._range = settings, 0.0
        self.modules["judge"] = frozen_copy(self.mind.critic)

    def parameter_groups(self) -> list[ParameterGroup]:
        """See :class:`~polysoma.learning.method.Method`. The model learns at a rate of its own."""
        own = self.settings.learning_rate / self.imagination.learning_rate
        return [replace(group, rate=own) for group in decaying(self.model.network)] + decaying(self.mind)

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        losses, count, states, generator = self.drawn(step, share)
        # A generator draws where it is, as the states are.
        order = torch.randperm(len(states.seen), generator=generator, device=states.seen.device)
        chosen = order[: self.imagination.starts]
        acted, told = self._acting(Believed(*(one[chosen] for one in states)), generator)
        losses |= acted
        torch.stack(list(losses.values())).sum().backward()
        return {f"loss/{name}": value.item() for name, value in losses.items()} | told | {"windows": float(count)}

    def drawn_rows(self, count: int, steps: int, rng: np.random.Generator) -> np.ndarray:
        """See :class:`~polysoma.learning.methods.world.WorldLearner`; some of them where something is earned, if that
        is rare. Where most steps earn something it is what earns nothing that matters, such as a fall."""
        paying = self.logs.paying(steps)
        paying = paying[np.isin(paying, self.rows)]
        rare = 2 * len(paying) < len(self.rows)
        return drawn_rows(self.rows, paying, count, self.imagination.paying if rare else 0.0, rng)[0]

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: what judges follows."""
        follow(self.modules["judge"], self.mind.critic, _FOLLOW)
        self.mind.size.lerp_(torch.full_like(self.mind.size, self._range), _RANGE)

    def _acting(self, start: Believed, generator: torch.Generator) -> tuple[dict[str, Tensor], Metrics]:
        """The losses of the actor and the critic over imagined steps from states on."""
        settings, mind, network = self.imagination, self.mind, self.model.network
        # The model learns from what came alone.
        network.requires_grad_(False)
        with torch.set_grad_enabled(not mind.choices):
            came = dream(network, mind, start, settings.steps, generator)
            discounts = settings.discount * came.lasting
            values = two_hot_mean(self.modules["judge"](came.features))
            returns = generalised_advantages(came.rewards, discounts, values, settings.trace) + values[:-1]
        network.requires_grad_(True)
        # How probable it is to come so far.
        reached = torch.cat([torch.ones_like(discounts[:1]), discounts[:-1]]).cumprod(0).detach()
        features, aim = came.features[:-1].detach(), returns.detach()
        likely, size = mind.likely(features), mind.size.clamp(min=1)
        if mind.choices:
            gained = (aim - values[:-1]) / size
            gain = likely.log_prob(came.moves.argmax(-1)) * gained
        else:
            gain = returns / size
        entropy, bonus = likely.entropy(), settings.choosing if mind.choices else settings.bonus
        low, high = torch.quantile(aim, torch.tensor([0.05, 0.95], device=aim.device))
        self._range = float(high - low)
        critic = two_hot_loss(mind.critic(features).flatten(0, 1), aim.flatten())
        losses = {
            "actor": -(reached * (gain + bonus * entropy)).mean(),
            "critic": (reached.flatten() * critic).mean(),
        }
        return losses, {"value": float(aim.mean()), "entropy": float(entropy.detach().mean())}


class _Playing(_Imagining):
    """Learns from what it plays, and cannot be resumed: neither episodes nor their memory are saved.

    Args:
        model: to learn.
        slots: where it plays.
        settings, exploring: see :class:`Imagination` and :class:`Exploring`.
        seed: of all that is drawn but the episodes.
    """

    def __init__(self, model: WorldModel, slots: Slots, settings: Imagination, exploring: Exploring, seed: int) -> None:
        self.slots, self._rng = slots, np.random.default_rng([seed, 31])
        self._generator: torch.Generator | None = None
        rows = slots.rows
        self._memory = Memory(slots.body, rows.shape[1], exploring.slots, exploring.memory, kind=rows.dtype)
        self._traces = [Trace() for _ in range(exploring.slots)]
        self._look()
        while slots.steps < exploring.first or not len(self._memory):
            self._play(np.stack([slots.body.actions.sample(self._rng) for _ in self._traces]))
        super().__init__(model, self._memory, settings, seed)

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        self.rows = self._memory.rows(1)
        return super().accumulate(step, share) | self.slots.metrics(20)

    def after_step(self, step: int) -> None:
        """See :class:`~polysoma.learning.method.Method`: it plays on."""
        super().after_step(step)
        if self._generator is None:
            self._generator = torch.Generator(self.model.mean.device).manual_seed(self.seed)
        with torch.no_grad():
            features = self.model.believed(self._traces).features
            self._play(self.model.actions(self.mind.move(features, self._generator)))

    def _play(self, actions: np.ndarray) -> None:
        """One step of every slot."""
        made = self.slots.step(actions, 1.0)
        over, ended = made.discounts == 0, self.slots.ended
        self._memory.add(made.states, made.actions, made.rewards, over, made.following, ended)
        for slot, (trace, action) in enumerate(zip(self._traces, actions, strict=True)):
            if ended[slot]:
                self._traces[slot] = Trace()
            else:
                trace.executed(action)
        self._look()

    def _look(self) -> None:
        for trace, row in zip(self._traces, self.slots.rows, strict=True):
            trace.observed(row.astype(np.float32), np.zeros(0, np.uint8))

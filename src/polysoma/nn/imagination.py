"""An actor and a critic on the states of a world model (Hafner et al. 2023, "DreamerV3", arXiv 2301.04104)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from polysoma.nn.perceptrons import perceptron
from polysoma.nn.world import BINS, Believed, WorldNetwork, joined, two_hot_mean

_SPREAD = (0.1, 1.0)
"""Standard deviations of numbers that are drawn, in parts of half the range (the paper's)."""


class ActorCritic(nn.Module):
    """What to do in a state, and what it is worth.

    Args:
        features: of a state.
        actions: of an action.
        choices: whether they are choices.
        width: of the hidden layers.

    Attributes:
        size: float32, how large returns are: their range from the 5th to the 95th percentile, averaged over steps of
            learning from 0 on; a buffer. Gains are divided by it where it is above 1, so that small ones, which may be
            noise, are not made large.
    """

    size: Tensor

    def __init__(self, features: int, actions: int, choices: bool, width: int) -> None:
        super().__init__()
        self.choices, self.count = choices, actions
        self.actor = perceptron(features, actions if choices else 2 * actions, width)
        self.critic = perceptron(features, BINS, width)
        self.register_buffer("size", torch.zeros(()))
        for last in (self.actor[-1], self.critic[-1]):
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def likely(self, features: Tensor) -> torch.distributions.Distribution:
        """What may be done in states ``(B, features)``: categoricals with 1 % uniform chances, or normals of moves."""
        found = self.actor(features)
        if self.choices:
            return torch.distributions.Categorical(
                probs=0.99 * found.softmax(-1) + 0.01 / self.count, validate_args=False
            )
        least, most = _SPREAD
        mean, spread = found.chunk(2, -1)
        normal = torch.distributions.Normal(mean.tanh(), least + (most - least) * spread.sigmoid(), False)
        return torch.distributions.Independent(normal, 1, False)

    def move(self, features: Tensor, generator: torch.Generator | None) -> Tensor:
        """A move ``(B, actions)`` that is drawn, or the most probable one without a generator. Numbers take gradients
        through what draws them, as if moves were not cut to -1 to 1."""
        likely = self.likely(features)
        if isinstance(likely, torch.distributions.Categorical):
            chances = likely.probs
            chosen = (
                chances.argmax(-1) if generator is None else torch.multinomial(chances, 1, generator=generator)[:, 0]
            )
            return one_hot(chosen, self.count).to(chances.dtype)
        move = likely.mean
        if generator is not None:
            noise = torch.randn(move.shape, generator=generator, device=move.device)
            move = move + likely.stddev * noise
        return move + (move.clamp(-1, 1) - move).detach()

    def worth(self, features: Tensor) -> Tensor:
        """The value of states ``(..., features)``: ``(...)``."""
        return two_hot_mean(self.critic(features))


class Dream(NamedTuple):
    """T imagined steps from B states.

    Attributes:
        features: of the states, ``(T + 1, B, features)``.
        moves: ``(T, B, actions)``.
        rewards, lasting: what the moves earn and the chance that the task goes on after them, ``(T, B)``.
    """

    features: Tensor
    moves: Tensor
    rewards: Tensor
    lasting: Tensor


def dream(network: WorldNetwork, mind: ActorCritic, state: Believed, steps: int, generator: torch.Generator) -> Dream:
    """What is expected to come from states on, by the actor's own moves. Gradients go through all but into what the
    actor sees."""
    states, moves = [state], list[Tensor]()
    for _ in range(steps):
        moves.append(mind.move(states[-1].features.detach(), generator))
        states.append(network.imagine(states[-1], moves[-1], generator))
    before, after = joined(states[:-1]), joined(states[1:])
    rewards = expected_reward(network, before, torch.cat(moves), after)
    lasting = network.goes_on(after.features)[:, 0].sigmoid()
    features = torch.stack([one.features for one in states])
    return Dream(features, torch.stack(moves), rewards.unflatten(0, (steps, -1)), lasting.unflatten(0, (steps, -1)))


def expected_reward(network: WorldNetwork, before: Believed, move: Tensor, after: Believed) -> Tensor:
    """What a move is expected to earn, ``(B,)``."""
    simple, rest = network.earns(before, move, after)
    return simple + two_hot_mean(rest)

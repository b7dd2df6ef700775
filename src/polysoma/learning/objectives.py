"""What methods share: drawing windows for a step, losses over them, and those of offline reinforcement learning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.data.paraphrases import Paraphrases, read_paraphrases
from polysoma.data.windows import DemonstrationSampler
from polysoma.learning.bodies import BodyRecipe
from polysoma.policy.policy import Policy

HELD_OUT_WINDOWS = 256


def paraphrases_for(name: str) -> Paraphrases | None:
    """The words that training says half of its instructions in; None for no name. Raises as
    :func:`~polysoma.data.paraphrases.read_paraphrases`."""
    return read_paraphrases(name, "train", plain=0.5) if name else None


def showing(body: BodyRecipe, frames: int, rng: np.random.Generator) -> DemonstrationSampler | None:
    """How many episodes a step's windows are shown, of ``frames`` frames: the same for all, so that none is padding."""
    if not body.shots:
        return None
    choices = [0, *(2**power for power in range(body.shots.bit_length()))]
    return DemonstrationSampler(choices[int(rng.integers(len(choices)))], frames, body.observation_only, rng)


def targets(parts: Sequence[Batch]) -> int:
    """How many true actions the loss of these windows is over."""
    return sum(int(part.action_valid.sum()) for part in parts if part.action_valid is not None)


def split_by_length(batch: Batch, parts: int) -> Iterator[Batch]:
    """Windows as micro-batches of about the same length, so that padding is little."""
    words = np.array([len(text.split()) for text in batch.texts])
    order = np.argsort(2 * batch.lengths.numpy() + words, kind="stable")
    for rows in np.array_split(order, min(parts, len(order))):
        yield batch.take(rows)


def held_out_loss(policy: Policy, source: Source, body: BodyRecipe) -> float:
    """The mean loss on windows of episodes apart, shown as many episodes as training shows at most. The same windows
    every time, so that losses can be compared."""
    torch.manual_seed(0)
    how = DemonstrationSampler(
        body.shots, policy.config.frames_per_demonstration, body.observation_only, np.random.default_rng(1)
    )
    windows = source.draw(HELD_OUT_WINDOWS, np.random.default_rng(0), showing=how)
    return sum(policy.loss(part).item() for part in split_by_length(windows, 4)) / targets([windows])


def expectile_loss(difference: Tensor, expectile: float | Tensor) -> Tensor:
    """The squared difference, weighted by ``expectile`` where it is 0 or more and by ``1 - expectile`` elsewhere, so
    that its minimum is that expectile (Kostrikov et al. 2021, "IQL", arXiv 2110.06169, equation 5). Of the shape of
    ``difference``."""
    return weighted_by_sign(difference, expectile) * difference.square()


def weighted_by_sign(advantage: Tensor, expectile: float | Tensor) -> Tensor:
    """The weights of :func:`expectile_loss`, by an advantage that need not be what is squared (arXiv 2402.15567)."""
    return torch.where(advantage >= 0, expectile, 1 - expectile)


def td_target(rewards: Tensor, discounts: Tensor, following: Tensor) -> Tensor:
    """What a value aims at: the rewards and the discounted value of what follows. Takes no gradient."""
    return (rewards + discounts * following).detach()


def advantage_weights(advantage: Tensor, temperature: float, most: float = 100.0) -> Tensor:
    """Weights of advantage-weighted regression, ``exp(temperature * advantage)`` and at most ``most`` (Peng et al.
    2019, arXiv 1910.00177; equation 7 of IQL). Take no gradient."""
    return (temperature * advantage).exp().clamp(max=most).detach()


def regression(predicted: Tensor, actions: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean squared error of actions ``(B, A)``, weighted by ``(B,)`` where there are weights."""
    missed = (predicted - actions).square().mean(-1)
    return missed.mean() if weights is None else (weights * missed).mean()


def pairwise_logistic(difference: Tensor, better: Tensor) -> Tensor:
    """The loss of ranked pairs, each the negative log-probability of what was said of it where the first is the better
    one with a chance of ``sigmoid(difference)`` (Bradley and Terry 1952; Christiano et al. 2017, arXiv 1706.03741,
    equation 1). A scalar.

    Args:
        difference: the scores of the first less those of the second, ``(...)``.
        better: how far the first is the better one, from 0 to 1, of the same shape.
    """
    return torch.nn.functional.binary_cross_entropy_with_logits(difference, better)


def generalised_advantages(rewards: Tensor, discounts: Tensor, values: Tensor, trace: float) -> Tensor:
    """Advantages of T decisions in L slots, ``(T, L)`` (Schulman et al. 2016, arXiv 1506.02438, equation 16; decisions
    that last k steps discount by ``gamma**k``).

    Args:
        rewards: ``(T, L)``.
        discounts: ``(T, L)``, of what follows; 0 where an episode is over.
        values: ``(T + 1, L)``; zeros give returns as far as they were seen, with ``trace`` 1.
        trace: lambda; 1 takes rewards as they came, 0 the value of what follows.
    """
    found, after = [], torch.zeros_like(rewards[0])
    for t in reversed(range(len(rewards))):
        after = rewards[t] + discounts[t] * (values[t + 1] + trace * after) - values[t]
        found.append(after)
    return torch.stack(found[::-1])


def clipped_surrogate(log_probability: Tensor, before: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """PPO's loss (Schulman et al. 2017, arXiv 1707.06347, equation 7), a scalar.

    Args:
        log_probability: of what was done, ``(B,)``, with a gradient.
        before: the same when it was done, ``(B,)``.
        advantage: ``(B,)``.
        clip: how far the ratio of probabilities may go from 1.
    """
    ratio = (log_probability - before).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def standardised(values: Tensor) -> Tensor:
    """With mean 0 and standard deviation 1, of the same shape; a value alone becomes 0."""
    if values.numel() < 2:
        return torch.zeros_like(values)
    return (values - values.mean()) / values.std().clamp(min=1e-6)

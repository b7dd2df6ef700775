"""A recurrent latent world model on plain numbers (Hafner et al. 2023, "DreamerV3", arXiv 2301.04104).

A GRU remembers, and a vector of categoricals says what the memory cannot know. The prior draws them from the memory
alone, the posterior from what was observed, too. What differs from the paper: the state also holds the observation as
it is believed to be, and the decoder says how that *changes*. A vector of categoricals is too coarse for places in
millimetres; a sum of changes is not.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from polysoma.nn.perceptrons import perceptron
from polysoma.nn.symbols import Grid, Symbols
from polysoma.nn.waves import waves

UNIFORM = 0.01
"""The part of every categorical that is uniform, so that no KL is infinite (section "World model learning")."""
_APART = 2048
"""Numbers that the linear parts of choices see together, at most."""
_SLOWEST = 1.5
"""Of the waves: radians for each standard deviation."""
BINS = 63
_REACH = 10.0
"""Rewards are told apart between ``-symexp(10)`` and ``symexp(10)``."""


class Believed(NamedTuple):
    """A state of the model: ``memory (..., width)``, ``latent (..., groups * classes)``, of which each group is
    one-hot, ``seen (..., numbers)``, the observation, normalised, ``code (..., width)``, how that is encoded, and
    ``bits (..., bits)``, what it shows of symbols, normalised."""

    memory: Tensor
    latent: Tensor
    seen: Tensor
    code: Tensor
    bits: Tensor

    @property
    def features(self) -> Tensor:
        """What heads see, ``(..., 2 * width + groups * classes + bits)``: bits too, as the linear part of the model
        moves them, so that the code learns little of them."""
        return torch.cat([self.memory, self.latent, self.code, self.bits], -1)


class WorldNetwork(nn.Module):
    """The network.

    Args:
        numbers: of an observation.
        direct: how many of them, the first ones, also change linearly with :meth:`given`. Of pixels, the last ones, a
            part is kept, each by itself.
        actions: of an action.
        choices: whether these are choices, each of which has a linear part of its own where they are not too many.
        width: of the memory and of all hidden layers.
        groups, classes: of the latent.
        octaves: of the waves through which a perceptron of its own sees the expected numbers to say how pixels change;
            0 where one perceptron says how both change.
        grids: of symbols, whose bits lie between numbers and pixels.

    Attributes:
        sizes: how many numbers, bits and pixels an observation has.
        step: float32 ``(numbers,)``, the size of the changes that the decoder's outputs are parts of; a buffer.
        earned: float32 ``(3 * direct + 2 * actions + 1,)``, the reward as a linear function of :meth:`told`; a buffer.
        range: float32 ``(2,)``, between which that is taken; a buffer.
        usual, spread: float32 ``(bits,)``, by which heads see bits normalised, so that rare ones count; buffers.
    """

    step: Tensor
    earned: Tensor
    range: Tensor
    usual: Tensor
    spread: Tensor

    def __init__(
        self,
        numbers: int,
        direct: int,
        actions: int,
        choices: bool,
        width: int,
        groups: int,
        classes: int,
        octaves: int = 0,
        grids: Sequence[Grid] = (),
    ) -> None:
        super().__init__()
        self.symbols = Symbols(grids, actions if choices else 1)
        bits = self.symbols.bits
        self.sizes = (direct, bits, numbers - direct - bits)
        self.groups, self.classes, self.direct, self.octaves = groups, classes, direct, octaves
        latent = groups * classes
        self.register_buffer("step", torch.ones(numbers))
        self.register_buffer("earned", torch.zeros(3 * direct + 2 * actions + 1))
        self.register_buffer("range", torch.zeros(2))
        self.register_buffer("usual", torch.zeros(bits), persistent=bits > 0)
        self.register_buffer("spread", torch.ones(bits), persistent=bits > 0)
        self.encode = perceptron(numbers, width, width, 1)
        self.mix = nn.Sequential(nn.Linear(latent + width + actions, width), nn.LayerNorm(width), nn.GELU())
        self.memory = nn.GRUCell(width, width)
        self.prior = perceptron(width, latent, width, 1)
        self.posterior = perceptron(2 * width, latent, width, 1)
        self.change = perceptron(width + latent, direct + bits if octaves else numbers, width, 1)
        self.apart = choices and direct * actions <= _APART
        given = direct + actions + self.apart * direct * actions
        self.linear = nn.Linear(given, max(direct, 1))
        if not direct:
            # PyTorch warns where it is asked for no outputs at all.
            self.linear.weight, self.linear.bias = nn.Parameter(torch.zeros(0, given)), nn.Parameter(torch.zeros(0))
        self.keep = nn.Parameter(torch.ones(numbers - direct - bits))
        self.reward = perceptron(2 * width + latent + bits, BINS, width, 1)
        self.goes_on = perceptron(2 * width + latent + bits, 1, width, 1)
        lasts = [self.linear, self.reward[-1], self.change[-1]]
        if octaves:
            # What a camera shows follows from where things are, finely: the latent is too coarse for that.
            seen = direct * (1 + 2 * octaves) + bits
            self.look = perceptron(width + latent + seen, numbers - direct - bits, 2 * width, 1)
            lasts.append(self.look[-1])
        # Something blocks the way, or not: both at once would be no picture of anything.
        self.alters = perceptron(width + latent + bits + actions, 1, width, 1) if bits else None
        lasts += [] if self.alters is None else [self.alters[-1]]
        for last in lasts:
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def start(self, seen: Tensor, generator: torch.Generator | None = None) -> Believed:
        """The state at an observation ``(B, numbers)``, before which nothing is known."""
        memory, code = seen.new_zeros(len(seen), self.memory.hidden_size), self.encode(symlog(seen))
        chances = self.chances(self.posterior(torch.cat([memory, code], -1)))
        return self._believed(memory, self.drawn(chances, generator), seen, code)

    def observe(
        self, state: Believed, action: Tensor, seen: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Believed, Tensor, Tensor, Tensor]:
        """The state after an action, once what follows was observed.

        Args:
            state: before.
            action: ``(B, actions)``.
            seen: what was observed then, ``(B, numbers)``.
            generator: draws the latent; None takes the most probable.

        Returns:
            The state, whose ``seen`` is the observation; the reconstruction of it, ``(B, numbers)``; and the chances of
            the posterior and of the prior, ``(B, groups, classes)``.
        """
        memory, code = self.remember(state, action), self.encode(symlog(seen))
        prior = self.chances(self.prior(memory))
        posterior = self.chances(self.posterior(torch.cat([memory, code], -1)))
        latent = self.drawn(posterior, generator)
        after = self._believed(memory, latent, seen, code)
        rebuilt = self.following(state, action, memory, latent, altered(state.bits, after.bits))
        return after, rebuilt, posterior, prior

    def imagine(self, state: Believed, action: Tensor, generator: torch.Generator | None = None) -> Believed:
        """The state after an action ``(B, actions)`` as it is expected. ``generator`` draws the latent and symbols;
        None takes the most probable."""
        return self.foresee(state, action, generator)[0]

    def foresee(
        self, state: Believed, action: Tensor, generator: torch.Generator | None, changed: Tensor | None = None
    ) -> tuple[Believed, Tensor]:
        """As :meth:`imagine`, and what is expected to be observed, ``(B, numbers)``: of symbols the chances.
        ``changed``, bool ``(B,)``, says whether symbols change, if that is known."""
        memory = self.remember(state, action)
        latent = self.drawn(self.chances(self.prior(memory)), generator)
        if changed is None and self.alters is not None:
            likely = self.alter(state, action, memory, latent).sigmoid()
            place = 0.5 if generator is None else torch.rand(likely.shape, generator=generator, device=likely.device)
            changed = likely > place
        after = self.following(state, action, memory, latent, changed)
        numbers, bits, pixels = after.split(self.sizes, 1)
        seen = torch.cat([numbers, self.symbols.settled(bits, generator), pixels], 1) if bits.shape[1] else after
        return self._believed(memory, latent, seen, self.encode(symlog(seen))), after

    def alter(self, state: Believed, action: Tensor, memory: Tensor, latent: Tensor) -> Tensor:
        """Logits ``(B,)`` of an action's changing any symbol; of a body that senses some."""
        assert self.alters is not None
        logits: Tensor = self.alters(torch.cat([memory, latent, state.bits, action], -1))[:, 0]
        return logits

    def earns(self, before: Believed, action: Tensor, after: Believed) -> tuple[Tensor, Tensor]:
        """The reward of an action ``(B, actions)``: what is linear in it, ``(B,)``, and logits of the rest, ``(B,
        BINS)`` (:func:`two_hot_mean`)."""
        simple = self.told(before.seen, action, after.seen) @ self.earned
        return simple.clamp(self.range[0], self.range[1]), self.reward(after.features)

    def told(self, before: Tensor, action: Tensor, after: Tensor) -> Tensor:
        """What rewards are often linear in: numbers before and after an action, the action, and the squares of the
        latter two, as in quadratic costs; and 1. Of observations ``(B, numbers)``."""
        before, after = before[:, : self.direct], after[:, : self.direct]
        return torch.cat([before, action, after, action.square(), after.square(), torch.ones_like(action[:, :1])], -1)

    def remember(self, state: Believed, action: Tensor) -> Tensor:
        """The memory after an action, ``(B, width)``."""
        mixed = self.mix(torch.cat([state.latent, state.code, action], -1))
        remembered: Tensor = self.memory(mixed, state.memory)
        return remembered

    def following(
        self, state: Believed, action: Tensor, memory: Tensor, latent: Tensor, changed: Tensor | None
    ) -> Tensor:
        """The observation after an action: the one before, and how it changes; symbols only where ``changed``, bool
        ``(B,)``."""
        numbers, bits, pixels = state.seen.split(self.sizes, 1)
        size_of_numbers, size_of_bits, size_of_pixels = self.step.split(self.sizes)
        simple = size_of_numbers * self.linear(self.given(numbers, action))
        known = torch.cat([memory, latent], -1)
        change = self.change(known)
        own = change[:, : self.direct + bits.shape[1]]
        after = numbers + simple + size_of_numbers * own[:, : self.direct]
        if bits.shape[1]:
            moved = self.symbols.following(bits, action, size_of_bits * own[:, self.direct :])
            bits = moved if changed is None else torch.where(changed[:, None], moved, bits)
        if self.octaves:
            look = self.look(torch.cat([known, after, waves(after, self.octaves, _SLOWEST), bits], -1))
        else:
            look = change[:, own.shape[1] :]
        return torch.cat([after, bits, self.keep * pixels + size_of_pixels * look], -1)

    def given(self, numbers: Tensor, action: Tensor) -> Tensor:
        """What numbers ``(B, direct)`` are expected to change linearly with: themselves, the action ``(B, actions)``,
        and, where each choice has a part of its own, the numbers for the choice that was made: what a turn does to all
        that is seen is linear in it."""
        parts = [numbers, action]
        if self.apart:
            parts.append((action[:, :, None] * numbers[:, None]).flatten(1))
        return torch.cat(parts, -1)

    def chances(self, logits: Tensor) -> Tensor:
        """Chances ``(..., groups, classes)`` of logits ``(..., groups * classes)``."""
        chances = logits.unflatten(-1, (self.groups, self.classes)).softmax(-1)
        return (1 - UNIFORM) * chances + UNIFORM / self.classes

    def _believed(self, memory: Tensor, latent: Tensor, seen: Tensor, code: Tensor) -> Believed:
        return Believed(memory, latent, seen, code, (seen.split(self.sizes, 1)[1] - self.usual) / self.spread)

    def drawn(self, chances: Tensor, generator: torch.Generator | None) -> Tensor:
        """A latent of these chances, whose gradient is theirs (straight-through, Bengio et al. 2013)."""
        if generator is None:
            chosen = chances.argmax(-1)
        else:
            rows = chances.detach().reshape(-1, self.classes)
            chosen = torch.multinomial(rows, 1, generator=generator).reshape(chances.shape[:-1])
        hard = one_hot(chosen, self.classes).to(chances.dtype)
        return (hard + chances - chances.detach()).flatten(-2)


def altered(before: Tensor, after: Tensor) -> Tensor:
    """Whether any of the bits ``(..., bits)`` changed: bool ``(...)``."""
    return (before != after).any(-1)


def joined(states: Sequence[Believed]) -> Believed:
    """T states of ``(B, ...)`` as one of ``(T * B, ...)``."""
    return Believed(*(torch.cat(parts) for parts in zip(*states, strict=True)))


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL of categoricals ``(..., groups, classes)``, summed over groups: ``(...)``, in nats."""
    return (first * (first.log() - second.log())).sum((-1, -2))


def symlog(values: Tensor) -> Tensor:
    """``sign(x) log(1 + |x|)`` (DreamerV3, equation 9)."""
    return values.sign() * values.abs().log1p()


def symexp(values: Tensor) -> Tensor:
    """The inverse of :func:`symlog`."""
    return values.sign() * values.abs().expm1()


def bins(like: Tensor) -> Tensor:
    """The values that classes of a two-hot head stand for, ``(BINS,)``."""
    return _bins(like.device)


@functools.cache
def _bins(device: torch.device) -> Tensor:
    # It may be asked for in inference mode first, and be learnt with later.
    with torch.inference_mode(False):
        return symexp(torch.linspace(-_REACH, _REACH, BINS, device=device))


def two_hot_loss(logits: Tensor, values: Tensor) -> Tensor:
    """Cross entropy with the two classes next to values ``(N,)``, weighted such that their mean is the value
    (DreamerV3, equation 10): ``(N,)``, of logits ``(N, BINS)``."""
    places = bins(values)
    values = values.clamp(places[0], places[-1])
    upper = torch.searchsorted(places, values.contiguous()).clamp(1, BINS - 1)
    low, high = places[upper - 1], places[upper]
    part = ((values - low) / (high - low))[:, None]
    target = part * one_hot(upper, BINS) + (1 - part) * one_hot(upper - 1, BINS)
    return cross_entropy(logits, target, reduction="none")


def two_hot_mean(logits: Tensor) -> Tensor:
    """The values that logits ``(..., BINS)`` expect, ``(...)``."""
    # Summed from both ends, so that equal chances of opposite values are exactly 0.
    weighed = logits.softmax(-1) * bins(logits)
    half = BINS // 2
    return (weighed[..., :half] + weighed[..., half + 1 :].flip(-1)).sum(-1) + weighed[..., half]

"""Learning a world model (:mod:`polysoma.policy.world`) from logs: what was observed and earned after what was done.

The losses are those of DreamerV3 (Hafner et al. 2023, arXiv 2301.04104, section "World model learning"), with one more:
after some observed steps the model goes on alone, drawing from its prior, and what it expects is compared with what
came (overshooting, as in PlaNet, Hafner et al. 2019, arXiv 1811.04551, section 4, on observations instead of latents).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

from polysoma.config import check, within
from polysoma.data.dataset import Dataset
from polysoma.data.sequences import Pieces, Rows, Sequences
from polysoma.errors import PolysomaError
from polysoma.learning import lineage, run_state, states
from polysoma.learning.engine import Engine, Progress, Settings
from polysoma.learning.method import Method, Metrics, Share
from polysoma.learning.optimizers import AdamW
from polysoma.nn.world import Believed, altered, divergence, joined, two_hot_loss
from polysoma.policy.world import WorldConfig, WorldModel, flat

_SPREAD_ROWS = 4096
"""Rows that statistics are taken of, where there are more: pixels are many."""
_RIDGE, _RIDGE_OF_CHOICES = 1e-3, 1.0
"""The latter where each choice has a linear part of its own, of which a few steps tell."""
_RARE = 0.1
"""Standard deviations of bits below are taken for this one."""
_LEAST = 0.02
"""Standard deviations: changes below are not told apart from none."""


@dataclass(frozen=True)
class WorldLearning:
    """Settings.

    Attributes:
        batch: pieces of episodes in each step of learning.
        watched: steps of a piece that are observed.
        ahead: steps after those, which the model expects alone.
        free: nats of KL that cost nothing, in each step of each piece.
        prior, posterior: weights of the KL for the prior and for the posterior. They are a tenth of the paper's, since
            errors of observations are means over numbers here, not sums.
        learning_rate: the peak.
        kind: what lineages call it.
    """

    batch: Annotated[int, within(1, 10**6)] = 64
    watched: Annotated[int, within(1, 1000)] = 4
    ahead: Annotated[int, within(1, 1000)] = 12
    free: Annotated[float, within(0, 1000)] = 1.0
    prior: Annotated[float, within(0, 1000)] = 0.1
    posterior: Annotated[float, within(0, 1000)] = 0.01
    learning_rate: Annotated[float, within(0, 10)] = 6e-3
    kind: Literal["world"] = "world"

    def __post_init__(self) -> None:
        check(self)

    def build(self, model: WorldModel, logs: Sequences, seed: int = 0) -> Method:
        """The method that improves this model by these logs. Raises PolysomaError where they are of another body, or
        have no two observations one after the other."""
        return WorldLearner(model, logs, self, seed)


class Learning(Protocol):
    """Settings of what learns a world model, alone or with what acts in it."""

    @property
    def kind(self) -> str:
        """What lineages call it."""
        ...

    @property
    def learning_rate(self) -> float:
        """The peak."""
        ...

    def build(self, model: WorldModel, logs: Sequences, seed: int = 0) -> Method:
        """The method. Raises PolysomaError where it cannot learn from these logs."""
        ...


class WorldLearner(Method):
    """Learns the model.

    Args:
        model: to learn, which takes the statistics of the logs.
        logs: to learn from.
        settings: see :class:`WorldLearning`.
        seed: of all that is drawn.

    Attributes:
        rows: from which pieces begin: any, as what a piece lacks at the end of an episode counts nothing.

    Raises:
        PolysomaError: logs of another body, without a step, or where rewards are learnt with one that is not finite.
    """

    def __init__(self, model: WorldModel, logs: Rows, settings: WorldLearning, seed: int) -> None:
        if logs.embodiment != model.config.embodiment:
            raise PolysomaError(
                f"expected logs of the model's body, {model.config.embodiment.name}, got {logs.embodiment.name}"
            )
        if model.config.rewarded:
            logs.need_rewards("the world model")
        self.modules = nn.ModuleDict({"policy": model})
        self.model, self.logs, self.settings, self.seed = model, logs, settings, seed
        self.rows = logs.rows(1)
        self._measure()

    def _measure(self) -> None:
        """Takes the statistics of observations and of how they change within 1, 2, ... steps."""
        model, logs, count = self.model, self.logs, self.settings.ahead
        some = self.rows[:: -(-len(self.rows) // _SPREAD_ROWS)]
        numbers, states = model.config.number_size, model.config.state_size
        model.mean.zero_()
        model.scale.fill_(1)
        first = model.normalised(logs.states[some], logs.pixels[some])
        mean, scale = first.mean(0), first.std(0, unbiased=False)
        # All pixels are of one size, so that those which hardly change stay unimportant; bits stay as they are.
        scale[states:] = scale[states:].square().mean().sqrt()
        model.network.usual.copy_(mean[numbers:states])
        model.network.spread.copy_(scale[numbers:states].clamp(min=_RARE))
        mean[numbers:states], scale[numbers:states] = 0, 1
        model.mean.copy_(mean)
        model.scale.copy_(torch.where(scale < 1e-6, torch.ones_like(scale), scale))
        first, spread = (first - mean) / model.scale, list[Tensor]()
        for ahead in range(1, count + 1):
            far = logs.following(some) >= ahead
            if not far.any():
                # No episode is so long.
                spread.append(spread[-1])
                continue
            moved = model.normalised(logs.states[some[far] + ahead], logs.pixels[some[far] + ahead]) - first[far]
            size = moved.square().mean(0).sqrt()
            for part in (size[numbers:states], size[states:]):
                part.copy_(part.square().mean().sqrt())
            spread.append(size)
        model.network.step.copy_(spread[0])
        self._spread = torch.stack(spread).clamp(min=_LEAST)
        # What is linear is known before the first step, and need not be learnt.
        weights = linear_changes(model, logs, some)
        size = model.network.step[:numbers]
        parts = torch.where(size > 1e-6, weights / size.clamp(min=1e-6), torch.zeros_like(weights))
        if model.config.rewarded:
            linear_rewards(model, logs, some)
        with torch.no_grad():
            model.network.linear.weight.copy_(parts[:-1].T)
            model.network.linear.bias.copy_(parts[-1])
            drawn = logs.pieces(some, 1)
            before, later = model.normalised(drawn.states, drawn.pixels)[..., numbers:].unbind(1)
            bits = states - numbers
            model.network.symbols.fit(before[:, :bits], model.moves(drawn.actions)[:, 0], later[:, :bits])
            if model.network.alters is not None:
                last, often = model.network.alters[-1], altered(before[:, :bits], later[:, :bits]).float().mean()
                assert isinstance(last, nn.Linear)
                last.bias.fill_(float(often.logit(eps=1e-3)))
            pixels, later = before[:, bits:], later[:, bits:]
            # Those that never change stay.
            power = (pixels * pixels).mean(0)
            kept = ((pixels * later).mean(0) / power.clamp(min=_RIDGE)).clamp(0, 1)
            model.network.keep.copy_(torch.where(power < _RIDGE, torch.ones_like(kept), kept))

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        losses, count, _, _ = self.drawn(step, share)
        torch.stack(list(losses.values())).sum().backward()
        return {f"loss/{name}": value.item() for name, value in losses.items()} | {"windows": float(count)}

    def drawn(self, step: int, share: Share) -> tuple[dict[str, Tensor], int, Believed, torch.Generator]:
        """The losses of this process's part of a step, how many pieces they are of, the states that were observed in
        them and from which the task goes on, ``(N, ...)``, without gradients, and what draws on."""
        settings, rng = self.settings, share.rng(self.seed, step)
        count = -(-settings.batch // share.count)
        steps = settings.watched + settings.ahead
        pieces = self.logs.pieces(self.drawn_rows(count, steps, rng), steps)
        generator = torch.Generator(share.device).manual_seed(int(rng.integers(2**62)))
        return *self._losses(pieces, count, generator), generator

    def drawn_rows(self, count: int, steps: int, rng: np.random.Generator) -> np.ndarray:
        """From where ``count`` pieces of so many steps begin, int64 ``(count,)``."""
        return self.rows[rng.integers(len(self.rows), size=count)]

    def _losses(self, drawn: Pieces, count: int, generator: torch.Generator) -> tuple[dict[str, Tensor], int, Believed]:
        model, settings, network = self.model, self.settings, self.model.network
        seen, moves = model.normalised(drawn.states, drawn.pixels), model.moves(drawn.actions)
        known, over, rewards = (
            torch.from_numpy(one).to(seen.device) for one in (drawn.known, drawn.over, drawn.rewards)
        )
        spread = self._spread.to(seen.device)
        states = [network.start(seen[:, 0], generator)]
        observed, dynamics, representation = [], [], []
        for number in range(settings.watched):
            after = seen[:, number + 1]
            state, rebuilt, posterior, prior = network.observe(states[-1], moves[:, number], after, generator)
            observed.append(self._missed(rebuilt, after, spread[0]))
            # Each step's own nats are free, before their mean: one that is far off does not hide behind the others.
            dynamics.append(divergence(posterior.detach(), prior).clamp(min=settings.free))
            representation.append(divergence(posterior, prior.detach()).clamp(min=settings.free))
            states.append(state)
        expected, bits = [], seen.split(network.sizes, -1)[1]
        changed = altered(bits[:, :-1], bits[:, 1:])
        for number in range(settings.ahead):
            at = settings.watched + number
            state, after = network.foresee(states[-1], moves[:, at], generator, changed[:, at])
            states.append(state)
            expected.append(self._missed(after, seen[:, at + 1], spread[number]))
        early, late = known[:, : settings.watched], known[:, settings.watched :]
        losses = {"observed": masked(observed, early), "expected": masked(expected, late)}
        losses["prior"] = settings.prior * masked(dynamics, early)
        losses["posterior"] = settings.posterior * masked(representation, early)
        before, following = joined(states[:-1]), joined(states[1:])
        ends = binary_cross_entropy_with_logits(
            network.goes_on(following.features)[:, 0], 1 - over.T.flatten().float(), reduction="none"
        )
        weights = known.T.flatten().float()
        least = weights.sum().clamp(min=1)
        losses["end"] = (weights * ends).sum() / least
        # These do not shape the states: what rewards asked of them made observations much worse foreseen.
        still = [Believed(*(one.detach() for one in states)) for states in (before, following)]
        made = moves.transpose(0, 1).flatten(0, 1)
        if network.alters is not None:
            logits = network.alter(still[0], made, still[1].memory, still[1].latent)
            wrong = binary_cross_entropy_with_logits(logits, changed.T.flatten().float(), reduction="none")
            losses["altered"] = (weights * wrong).sum() / least
        if model.config.rewarded:
            simple, logits = network.earns(still[0], made, still[1])
            rest = two_hot_loss(logits, rewards.T.flatten() - simple.detach())
            losses["reward"] = (weights * rest).sum() / least
        return losses, count, self._living(states[: settings.watched + 1], known, over)

    def _living(self, states: list[Believed], known: Tensor, over: Tensor) -> Believed:
        """Those observed states that were and after which the task went on."""
        steps = len(states) - 1
        went_on = torch.cat([torch.ones_like(known[:, :1]), (known & ~over)[:, :steps]], 1).T.flatten()
        return Believed(*(one.detach()[went_on] for one in joined(states)))

    def _missed(self, expected: Tensor, came: Tensor, spread: Tensor) -> Tensor:
        """The errors ``(B,)``, compared with how much changes in that time: numbers, bits and pixels weigh the same."""
        parts = ((expected - came) / spread).split(self.model.network.sizes, 1)
        return torch.stack(
            [
                smooth_l1_loss(part, torch.zeros_like(part), beta=2.0, reduction="none").mean(1)
                for part in parts
                if part.shape[1]
            ]
        ).sum(0)


def masked(values: Sequence[Tensor], known: Tensor) -> Tensor:
    """The mean of T values ``(B,)`` over what of ``(B, T)`` is known; 0 for nothing."""
    return (torch.stack(list(values), 1) * known).sum() / known.sum().clamp(min=1)


def linear_rewards(model: WorldModel, logs: Rows, rows: np.ndarray) -> None:
    """Takes the part of the reward that is linear in :meth:`~polysoma.nn.world.WorldNetwork.told`, by ridge regression
    over the steps from ``rows``, and between what rewards lie. Where that explains less than half of how rewards
    differ, as where few steps are paid for, it is their median: errors of it would be everywhere, and what acts in
    imagination would go where they are largest."""
    drawn = logs.pieces(rows, 1)
    seen, moves = model.normalised(drawn.states, drawn.pixels), model.moves(drawn.actions)
    given = model.network.told(seen[:, 0], moves[:, 0], seen[:, 1]).double()
    rewards = torch.from_numpy(drawn.rewards[:, 0]).to(given)
    square = given.T @ given + _RIDGE * torch.eye(given.shape[1], device=given.device, dtype=given.dtype)
    found = torch.linalg.solve(square, given.T @ rewards)
    if (given @ found - rewards).var() > rewards.var() / 2:
        found = torch.zeros_like(found)
        # The last of what is told is 1.
        found[-1] = rewards.median()
    model.network.earned.copy_(found)
    model.network.range.copy_(torch.stack([rewards.min(), rewards.max()]))


def linear_changes(model: WorldModel, logs: Rows, rows: np.ndarray) -> Tensor:
    """How the normalised numbers of an observation (not its pixels) change in a step, linearly in what
    :meth:`~polysoma.nn.world.WorldNetwork.given` says, by ridge regression over the steps from ``rows``: float32
    ``(inputs + 1, numbers)``, the last row added to all."""
    drawn, numbers = logs.pieces(rows, 1), model.config.number_size
    seen = model.normalised(drawn.states, drawn.pixels)[..., :numbers]
    given = model.network.given(seen[:, 0], model.moves(drawn.actions)[:, 0])
    given = torch.cat([given, torch.ones_like(given[:, :1])], 1).double()
    ridge = (_RIDGE_OF_CHOICES if model.network.apart else _RIDGE) * torch.eye(given.shape[1]).to(given)
    square = given.T @ given + ridge
    return torch.linalg.solve(square, given.T @ (seen[:, 1] - seen[:, 0]).double()).float()


def engine_settings(steps: int, learning_rate: float = WorldLearning.learning_rate) -> Settings:
    """What suits a small recurrent network: a rate that falls, and the mean of the last weights."""
    optimizer = AdamW(learning_rate, warmup=min(20, steps), weight_decay=0.0, ema=0.95)
    every = min(steps, 500)
    return Settings(
        steps=steps, optimizer=optimizer, grad_clip=10.0, precision="float32", tracker="none", checkpoint_every=every
    )


def learn(
    datasets: Sequence[Dataset],
    out: Path,
    steps: int = 1000,
    width: int = 128,
    picture: int = 32,
    settings: Learning | None = None,
    held_out: float = 0.0,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Learns a world model from logs, and returns the folder of the checkpoint, ``out/checkpoint``.

    Args:
        datasets: of one body.
        out: folder of the run.
        steps: of learning.
        width: of its layers.
        picture: pixels of a side that pictures are shrunk to.
        settings: None for the defaults; :class:`~polysoma.learning.methods.imagination.Imagination` for a model that
            also learns to act.
        held_out: the part of the episodes that it never sees, see :class:`~polysoma.data.sequences.Sequences`.
        seed: of all that is drawn.
        resume: continue the run in ``out``.
        progress: called after every step.

    Raises:
        PolysomaError: logs from which this cannot be learnt, or as :meth:`~polysoma.learning.engine.Engine.run`.
    """
    if not datasets:
        raise PolysomaError("expected one or more data sets to learn from, got none")
    settings, rewarded = settings or WorldLearning(), all(dataset.raw_rewards is not None for dataset in datasets)
    config = WorldConfig(
        datasets[0].embodiment, picture=picture, width=width, rewarded=rewarded, acts=settings.kind != "world"
    )
    if resume and states.exists(out):
        # A run of before there were octaves goes on without them.
        begun = run_state.read_table(states.find(out, run_state.POLICY_FILE)[0] / run_state.POLICY_FILE)
        config = replace(config, octaves=WorldConfig.from_json(begun).octaves)
    torch.manual_seed(seed)
    model = WorldModel(config)
    logs = Sequences(datasets, lambda seen: flat(config, seen), held_out)
    method = settings.build(model, logs, seed)
    about = lineage.from_nothing(settings.kind, datasets)
    return Engine(method, engine_settings(steps, settings.learning_rate)).run(
        out, resume, progress=progress, lineage=about
    )

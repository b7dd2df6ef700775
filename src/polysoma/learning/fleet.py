"""Fleets: robots learn what they share together, and keep what is their own to themselves.

Partially local federated learning (FedRecon, Singhal et al. 2021, arXiv 2102.03448, algorithm 1): in a round, a robot
is sent the shared parameters, reconstructs what it has of its own (tokenizer, readouts, head) with these frozen, then
moves the shared ones with its own frozen, and answers with that change alone. Its statistics, which calibrate its
channels, never leave it either. This file computes; :mod:`polysoma.learning.federation` carries the messages.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from polysoma.config import Seed, check, within
from polysoma.data.formats import is_dataset
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.files import write_atomically
from polysoma.learning import lineage
from polysoma.learning.distributed import accelerator_here
from polysoma.learning.engine import Engine, losses_of
from polysoma.learning.finetuning import recipe_for
from polysoma.learning.methods.imitation import Imitation
from polysoma.learning.optimizers import AdamW
from polysoma.learning.preparation import policy_for, sources_for
from polysoma.learning.recipe import PolicySize
from polysoma.learning.training import ingredients
from polysoma.nn.precision import Wanted
from polysoma.nn.trunk import TransformerConfig
from polysoma.nn.words import build_vocabulary
from polysoma.patterns import expanded
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy

_BALANCE = 0.3
"""Between every task and every frame equally often."""


@dataclass(frozen=True)
class Rounds:
    """What all robots of a fleet do in every round.

    Attributes:
        rounds: in all.
        robots: that are asked in each, drawn anew.
        reconstruction: steps on what is a robot's own, on one half of its episodes.
        steps: on what is shared, on the other half.
        local_rate: learning rate of the reconstruction.
        rate: learning rate of what is shared in the first round; a cosine leads to a hundredth of it in the last one.
        server_rate: how far the server goes along the mean change.
        momentum: of the server.
        kept: robots reconstruct from what they came to in the round before, which they store, instead of from the same
            beginning in every round.
        one_model: everything is shared, tokenizers and heads too (FedAvg, McMahan et al. 2016, arXiv 1602.05629), for
            robots that are all alike; the base must know their body.
        seed: of all that is drawn at random.
    """

    rounds: Annotated[int, within(1, 10**9)] = 100
    robots: Annotated[int, within(1, 10**6)] = 5
    reconstruction: Annotated[int, within(0, 10**6)] = 20
    steps: Annotated[int, within(1, 10**6)] = 20
    local_rate: Annotated[float, within(0, 10, above=True)] = 4e-3
    rate: Annotated[float, within(0, 10, above=True)] = 1e-3
    server_rate: Annotated[float, within(0, 100, above=True)] = 1.0
    momentum: Annotated[float, within(0, 1, below=True)] = 0.0
    kept: bool = False
    one_model: bool = False
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)

    def rate_of(self, number: int) -> float:
        """The learning rate of what is shared in round ``number``, which counts from 1."""
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (number - 1) / self.rounds)))


@dataclass(frozen=True)
class Change:
    """What a robot answers: how it moved what is shared, on how many windows, and their mean loss while it did."""

    tensors: Mapping[str, Tensor]
    windows: int
    loss: float


def begun(words: Sequence[str], width: int = 128, depth: int = 3, heads: int = 4, seed: int = 0) -> Policy:
    """A policy without bodies for a fleet to start from: the words of some texts, and a trunk that nobody trained.
    Raises SettingError for sizes that cannot be."""
    size = PolicySize(width, depth, heads)
    torch.manual_seed(seed)
    trunk = TransformerConfig(depth=size.depth, heads=size.heads)
    return Policy(PolicyConfig((), {}, tuple(build_vocabulary(words)), {}, size.width, trunk, size.heads))


def robots_in(patterns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The robots whose folders match: each folder, to the data sets that it is or holds.

    Raises:
        PolysomaError: a pattern matches no robot.
    """
    robots: dict[str, tuple[str, ...]] = {}
    for pattern in patterns:
        found = {}
        for folder in expanded(pattern):
            within = [folder] if is_dataset(folder) else sorted(path for path in folder.glob("*") if is_dataset(path))
            if within:
                found[str(folder)] = tuple(map(str, within))
        if not found:
            raise PolysomaError(f"no folder that matches {pattern!r} is a data set or holds one")
        robots |= found
    return robots


def shared_by(policy: Policy, one_model: bool = False) -> dict[str, Tensor]:
    """The parameters that robots of a base share, by name: the base's own tensors."""
    apart = frozenset() if one_model else policy.names_of("body", "readout")
    return {name: parameter.detach() for name, parameter in policy.named_parameters() if name not in apart}


class Robot:
    """One robot: its demonstrations, and a policy that it shares in part.

    Args:
        base: the checkpoint that the whole fleet starts from.
        data: folders of the robot's data sets.
        one_model: see :class:`Rounds`.
        precision: see :class:`~polysoma.learning.engine.Settings`.

    Raises:
        PolysomaError: no data, or with ``one_model`` a base that does not know the body or the words.
    """

    def __init__(self, base: str, data: Sequence[str], one_model: bool = False, precision: Wanted = "auto") -> None:
        recipe = recipe_for(base, data, "full" if one_model else "head", held_out=0)
        self.recipe = dataclasses.replace(recipe, precision=precision)
        self.sources, _ = sources_for(self.recipe)
        self.accelerator = accelerator_here()
        # The same beginning in all rounds, and for all robots of one body.
        torch.manual_seed(self.recipe.seed)
        policy = policy_for(self.recipe, self.sources, None)
        if one_model:
            known = checkpoint.load_for_training(base).state_dict()
            if {name: t.shape for name, t in known.items()} != {n: t.shape for n, t in policy.state_dict().items()}:
                raise PolysomaError(
                    f"{base} does not know the bodies or the words of {', '.join(data)}, which one model for all needs"
                )
        self.policy = policy.to(self.accelerator.device)
        parameters = dict(policy.named_parameters())
        self._shared = {name: value for name, value in parameters.items() if one_model or name in policy.shared}
        self._learnt = {name: value for name, value in parameters.items() if name not in self._shared}
        # Running statistics are a robot's own as well.
        self._own = {name: value for name, value in policy.own().items() if name not in self._shared}
        self._beginning = {name: value.clone() for name, value in self._own.items()}

    def answer(
        self, shared: Mapping[str, Tensor], rounds: Rounds, number: int, kept: Mapping[str, Tensor] | None = None
    ) -> tuple[Change, dict[str, Tensor]]:
        """One round.

        Args:
            shared: what the server sent, by name.
            rounds: what to do.
            number: of the round, from 1.
            kept: what this returned in the round before, if anything.

        Returns:
            The change, of what moved alone; and the robot's own parameters, which it may keep.

        Raises:
            PolysomaError: something shared is missing or of another shape, there are fewer than two episodes, or a
                gradient is not finite.
        """
        wrong = [name for name, mine in self._shared.items() if name not in shared or shared[name].shape != mine.shape]
        if wrong:
            raise PolysomaError(
                f"the server's fleet has another base: {', '.join(wrong[:3])} missing or of another shape"
            )
        with torch.no_grad():
            for name, parameter in self._shared.items():
                parameter.copy_(shared[name])
            for name, mine in self._own.items():
                mine.copy_((kept or self._beginning)[name])
        self.policy.train()
        support, query = self.halves(np.random.default_rng([rounds.seed, number]))
        if rounds.one_model:
            query = self.sources
        first = number * (rounds.reconstruction + rounds.steps)
        if self._learnt:
            self._learn(self._learnt, support, rounds.local_rate, first, rounds.reconstruction, rounds.seed)
        first += rounds.reconstruction
        loss = self._learn(self._shared, query, rounds.rate_of(number), first, rounds.steps, rounds.seed)
        moved = {
            name: parameter.detach() - shared[name].to(parameter.device) for name, parameter in self._shared.items()
        }
        change = {name: value.cpu() for name, value in moved.items() if value.count_nonzero()}
        own = {name: value.cpu().clone() for name, value in self._own.items()}
        return Change(change, sum(map(len, query)), loss), own

    def halves(self, rng: np.random.Generator) -> tuple[list[Source], list[Source]]:
        """The episodes of every body and task in two halves, drawn anew. Raises PolysomaError where a body has one
        alone."""
        pairs = [_halves(source, rng) for source in self.sources]
        return [first for first, _ in pairs], [second for _, second in pairs]

    def _learn(
        self, learning: Mapping[str, Tensor], sources: Sequence[Source], rate: float, first: int, steps: int, seed: int
    ) -> float:
        """Takes steps on some parameters with the others frozen. Returns the mean loss on the way."""
        self.policy.requires_grad_(False)
        for parameter in learning.values():
            parameter.requires_grad_(True)
        recipe = dataclasses.replace(self.recipe, seed=seed)
        method = Imitation().build(ingredients(recipe, self.policy, list(sources)))
        decay = self.recipe.optimizer.weight_decay
        optimizer = AdamW(rate, warmup=0, weight_decay=decay, ema=0, final=1)
        engine = Engine(method, dataclasses.replace(self.recipe, optimizer=optimizer), self.accelerator)
        total = sum(sum(losses_of(engine.step(step)).values()) for step in range(first, first + steps))
        return total / max(1, steps * len(sources))


def _halves(source: Source, rng: np.random.Generator) -> tuple[Source, Source]:
    if source.episodes < 2:
        raise PolysomaError(f"{source.embodiment.name}: a robot needs at least two episodes, got {source.episodes}")
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    before = 0
    for dataset in source.datasets:
        order = rng.permutation(len(dataset.episode_length))
        order = order[np.argsort(dataset.episode_task[order], kind="stable")]
        halves[before % 2].append(np.sort(order[::2]))
        halves[1 - before % 2].append(np.sort(order[1::2]))
        before += len(order)
    weights = [1.0] * len(source.datasets)
    first, second = (Source(source.datasets, weights, _BALANCE, half, horizon=source.horizon) for half in halves)
    return first, second


def averaged(changes: Sequence[Change]) -> dict[str, Tensor]:
    """The mean change of each tensor over the robots that moved it, weighted by their windows."""
    names = dict.fromkeys(name for change in changes for name in change.tensors)
    means = {}
    for name in names:
        held = [change for change in changes if name in change.tensors]
        total = sum(change.windows for change in held)
        means[name] = torch.stack([change.tensors[name] * (change.windows / total) for change in held]).sum(0)
    return means


@dataclass
class Shared:
    """What a server holds: the shared parameters, and its momentum, by name."""

    tensors: dict[str, Tensor]
    moving: dict[str, Tensor]

    def step(self, mean: Mapping[str, Tensor], rounds: Rounds) -> None:
        """Goes along a mean change: gradient descent with momentum (FedAvgM, Hsu et al. 2019, arXiv 1909.06335)."""
        for name, change in mean.items():
            self.moving[name] = rounds.momentum * self.moving.get(name, torch.zeros_like(change)) + change
            self.tensors[name] = self.tensors[name] + rounds.server_rate * self.moving[name]


def keep(home: Path, number: int, own: Mapping[str, Tensor]) -> None:
    """Writes what a robot came to in a round. That of the round before stays: a round that is done again after a kill
    begins as it did the first time."""
    write_atomically(home / f"{number:06}.safetensors", safetensors.torch.save(dict(own)))
    before = max((at for at in _kept(home) if at < number), default=0)
    for at, path in _kept(home).items():
        # Later rounds are of another run.
        if at not in (before, number):
            path.unlink()


def kept_before(home: Path, number: int) -> dict[str, Tensor] | None:
    """What a robot kept in the last of its rounds before this one."""
    files = _kept(home)
    last = max((at for at in files if at < number), default=None)
    return None if last is None else safetensors.torch.load_file(files[last])


def forget(home: Path) -> None:
    """Removes what a robot kept in rounds of a run that was killed before it saved any."""
    if home.is_dir() and not home.is_symlink():
        for path in _kept(home).values():
            path.unlink()


def _kept(home: Path) -> dict[int, Path]:
    """Files by their rounds: those that :func:`keep` writes, whatever else lies there."""
    found = (path for path in home.glob("*.safetensors") if re.fullmatch(r"\d{6,}", path.stem))
    return {int(path.stem): path for path in found if path.is_file() and not path.is_symlink()}


def join(shared: str, data: Sequence[str], own: Path, out: Path) -> None:
    """Writes a robot's policy as a checkpoint: what the fleet shares, and the robot's own part where it left it.

    Args:
        shared: the checkpoint that a fleet came to.
        data: the robot's data sets.
        own: the robot's folder of what it keeps.
        out: folder of the new checkpoint, which is an adaptation of the shared one.

    Raises:
        PolysomaError: no checkpoint of a fleet, or nothing kept that fits it.
    """
    history = checkpoint.read_config(checkpoint.resolve(shared)).get("lineage") or {}
    if history.get("method") != "fleet":
        raise PolysomaError(f"{shared} is not what a fleet came to")
    kept = kept_before(own / history["parent"]["sha256"][:12], history["steps"] + 1)
    robot = Robot(shared, data)
    if kept is None:
        raise PolysomaError(
            f"{own} holds nothing that was kept for {shared}: a robot that joins anew makes its own part with "
            f"`polysoma finetune {shared} --method head`"
        )
    try:
        robot.policy.load_own(kept)
    except RuntimeError as error:
        raise PolysomaError(f"what {own} holds is of another robot: {' '.join(str(error).split())}") from error
    about = lineage.describe(robot.recipe, robot.sources) | {"steps": history["steps"]}
    checkpoint.save(robot.policy, out, lineage=about)

"""Imitation: one policy learns from the demonstrations of many bodies.

A step takes a few windows of every body; their gradients add up. Windows without history or pictures are computed
together, those of other bodies in micro-batches of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.learning import distributed
from polysoma.learning.augmentation import augmented
from polysoma.learning.method import Ingredients, Method, Metrics, Share, reduced
from polysoma.learning.objectives import held_out_loss, paraphrases_for, showing, split_by_length, targets
from polysoma.learning.placement import costs_of, placed
from polysoma.learning.sight import cameras
from polysoma.policy.losses import losses_of

_TOLD = 16
"""Windows of each body by which it is measured whether words count."""
_SHOWS, _WORDS, _CHANGES = 2, 3, 4
"""What is drawn for, as a word of the seed; 0 and 1 draw windows, without and with goals."""
_TOGETHER = 512
"""Windows of small bodies that are computed together, at least, where there are as many."""


@dataclass(frozen=True)
class Imitation:
    """``[method] kind = "imitation"``. How each body takes part stands in ``[bodies.NAME]``."""

    kind: Literal["imitation"] = "imitation"

    def build(self, given: Ingredients) -> Method:
        """See :class:`~polysoma.learning.method.MethodSettings`."""
        return Imitating(given)


@dataclass(frozen=True)
class _Part:
    """Windows that are learnt from at once, of one body.

    Attributes:
        name: of the body.
        windows: up to all of this process's windows of a step.
        weight: of their gradients.
        of_targets: what the sum of their losses is multiplied by.
        of_windows: which share of the body's windows they are.
        said: what the losses that are reported are multiplied by, before those of all processes are added.
    """

    name: str
    windows: Batch
    weight: float
    of_targets: float
    of_windows: float
    said: float


class Imitating(Method):
    """Lowers the loss of predicting demonstrated actions."""

    def __init__(self, given: Ingredients) -> None:
        self.modules = nn.ModuleDict({"policy": given.policy})
        self._given, self._policy = given, given.policy
        self._places: dict[str, int | None] = {}
        self._told = [s for s in given.sources if len(s.drawn_instructions) > 1 and not _looked_at(s)]

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        if share.count > 1:
            self._place_bodies(share.count)
        # For heads that learn from noise: as all else here, a function of the seed, the step and the process.
        torch.manual_seed(int(share.rng(self._given.seed, step).integers(2**63)))
        found: Metrics = {"windows": 0.0}
        waiting: list[_Part] = []
        for source in self._given.sources:
            name = source.embodiment.name
            found |= {f"loss/{name}": 0.0}
            if self._given.bodies[name].estimation:
                found |= {f"estimation/{name}": 0.0}
            place = None if share.count == 1 else self._places[name]
            if place not in (None, share.index):
                continue
            mine = share if place is None else dataclasses.replace(share, index=0, count=1)
            # Gradients are averaged over processes, also over those that have no window of this body.
            having = min(mine.count, max(self._sizes(name)))
            for part in self._parts(source, step, mine, share.count / having, 1 / having):
                if self._apart(source):
                    found = reduced([found, self._learn([part], share)])
                else:
                    waiting.append(part)
            # By the recipe, not by what was drawn: all processes must ask for a sharded trunk equally often.
            if sum(self._given.bodies[part.name].batch for part in waiting) >= _TOGETHER:
                found, waiting = reduced([found, self._learn(waiting, share)]), []
        if waiting:
            found = reduced([found, self._learn(waiting, share)])
        return found if share.count == 1 else distributed.summed(found, share.device)

    def _apart(self, source: Source) -> bool:
        """Whether windows of a body need so much memory that no other ones are computed with them."""
        name = source.embodiment.name
        body = self._given.bodies[name]
        long = self._policy.config.horizons[name].history > 1 or body.micro_batches > 1
        return long or bool(cameras(source.embodiment)) or body.shots > 0

    def _place_bodies(self, processes: int) -> None:
        """Finds out, once, which process does all of a body's windows; None where all share them."""
        if not self._places:
            names = [source.embodiment.name for source in self._given.sources]
            # All processes must ask for the parts of a sharded trunk, at the same time.
            apart = not distributed.by_sharding(self._policy.parameters())[0]
            costs = costs_of(self._policy, self._given.sources, self._given.bodies) if apart else {}
            windows = {name: self._given.bodies[name].batch for name in names}
            self._places = placed(costs, windows, processes) if apart else dict.fromkeys(names)

    def held_out(self) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        return {
            (name := source.embodiment.name): held_out_loss(self._policy, source, self._given.bodies[name])
            for source in self._given.held_out
        }

    def remarks(self, step: int, share: Share) -> Metrics:
        """``words/NAME``: by how much a body's mean loss is higher where windows are told the words of another task; 0
        where words are ignored. Nothing is said of bodies that are told one thing alone, nor of those whose pictures
        were looked at beforehand, in the light of their own words."""
        found, together = Metrics(), list[tuple[str, Batch, float]]()
        if share.count > 1:
            self._place_bodies(share.count)
        for source in self._told:
            name = source.embodiment.name
            found[f"words/{name}"] = 0.0
            place = None if share.count == 1 else self._places[name]
            if place in (None, share.index):
                parts = self._told_otherwise(source, step, share.count if place is None else 1)
                if self._apart(source):
                    found = reduced([found, *(self._heard([part]) for part in parts)])
                else:
                    together += parts
        found = reduced([found, self._heard(together)]) if together else found
        return found if share.count == 1 else distributed.summed(found, share.device)

    def _told_otherwise(self, source: Source, step: int, among: int) -> list[tuple[str, Batch, float]]:
        """Windows in their own words, and the same in those of other tasks: the body's name, and what the sum of their
        losses counts."""
        name, seed = source.embodiment.name, self._given.seed
        rng = np.random.default_rng([seed, step, _WORDS, *name.encode()])
        how = showing(self._given.bodies[name], self._policy.config.frames_per_demonstration, rng)
        windows = source.draw(_TOLD, rng, showing=how)
        texts, each = windows.instructions, 1 / (targets([windows]) * among)
        if len(texts) == 1:
            return []
        other = [texts[(task + int(rng.integers(1, len(texts)))) % len(texts)] for task in windows.tasks.tolist()]
        return [(name, windows, -each), (name, windows.with_texts(other), each)]

    def _heard(self, parts: Sequence[tuple[str, Batch, float]]) -> Metrics:
        losses = losses_of(self._policy, [windows for _, windows, _ in parts])
        return reduced(
            {f"words/{name}": each * loss.item()} for (name, _, each), (loss, _) in zip(parts, losses, strict=True)
        )

    def _sizes(self, name: str) -> tuple[int, int]:
        """How many windows of a step are of this body, of all processes that share them: without goals, and with."""
        body = self._given.bodies[name]
        shown = round(body.batch * body.goals)
        return body.batch - shown, shown

    def _parts(self, source: Source, step: int, share: Share, weight: float, said: float) -> list[_Part]:
        """One body's windows of a step, in micro-batches, whose gradients and losses have these weights."""
        name = source.embodiment.name
        rng = np.random.default_rng([self._given.seed, step, _CHANGES, share.index, *name.encode()])
        batches = self._draw(source, step, share, rng)
        count, true = sum(len(windows) for windows, _ in batches), targets([windows for windows, _ in batches])
        parts = (part for windows, number in batches for part in split_by_length(windows, number))
        return [_Part(name, part, weight, 1 / true, len(part) / count, said) for part in parts]

    def _learn(self, parts: Sequence[_Part], share: Share) -> Metrics:
        """Adds the gradients of windows of several bodies."""
        bodies = [self._given.bodies[part.name] for part in parts]
        with share.autocast():
            losses = losses_of(self._policy, [part.windows for part in parts], [body.estimation > 0 for body in bodies])
        total, found = torch.zeros((), device=share.device), Metrics()
        for part, body, (loss, missed) in zip(parts, bodies, losses, strict=True):
            loss, missed = loss * part.of_targets, missed * part.of_windows
            total = total + part.weight * body.weight * (loss + body.estimation * missed)
            said = {f"loss/{part.name}": part.said * loss.item(), "windows": float(len(part.windows))}
            if body.estimation:
                said[f"estimation/{part.name}"] = part.said * missed.item()
            found = reduced([found, said])
        total.backward()
        return found

    def _draw(self, source: Source, step: int, share: Share, rng: np.random.Generator) -> list[tuple[Batch, int]]:
        """This process's windows of a step, and how many micro-batches they are. Those with goals are apart: the others
        cost nothing for them."""
        name, seed = source.embodiment.name, self._given.seed
        body, key = self._given.bodies[name], name.encode()
        statistics = self._policy.config.statistics[name]
        batches = []
        for size, goals in zip(self._sizes(name), (False, True), strict=True):
            if size <= share.index:
                continue
            # What is drawn is the same in all processes, and each reads its share; what is done to it is not the same.
            drawing = np.random.default_rng([seed, step, goals, *key])
            how = showing(
                body, self._policy.config.frames_per_demonstration, np.random.default_rng([seed, step, _SHOWS, *key])
            )
            windows = source.draw(size, drawing, goals, (share.index, share.count), how)
            # As many micro-batches in every process, of which some have a window less.
            parts = min(body.micro_batches, max(1, size // share.count))
            batches.append((augmented(windows, body, statistics, paraphrases_for(self._given.paraphrases), rng), parts))
        return batches


def _looked_at(source: Source) -> bool:
    """Whether what eyes see takes the place of a body's pictures (:mod:`polysoma.learning.looking`)."""
    return any(
        np.issubdtype(dataset.observations[camera].dtype, np.floating)
        for dataset in source.datasets
        for camera in cameras(source.embodiment)
    )

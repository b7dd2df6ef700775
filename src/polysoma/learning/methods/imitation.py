"""Imitation: one policy learns from the demonstrations of many bodies.

A step takes a few windows of every body, each micro-batch from one body; their gradients add up.
"""

from __future__ import annotations

import dataclasses
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


@dataclass(frozen=True)
class Imitation:
    """``[method] kind = "imitation"``. How each body takes part stands in ``[bodies.NAME]``."""

    kind: Literal["imitation"] = "imitation"

    def build(self, given: Ingredients) -> Method:
        """See :class:`~polysoma.learning.method.MethodSettings`."""
        return Imitating(given)


class Imitating(Method):
    """Lowers the loss of predicting demonstrated actions."""

    def __init__(self, given: Ingredients) -> None:
        self.modules = nn.ModuleDict({"policy": given.policy})
        self._given, self._policy = given, given.policy
        self._places: dict[str, int | None] = {}

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        if share.count == 1:
            return reduced(self._of_body(source, step, share) for source in self._given.sources)
        found: Metrics = {}
        for source in self._given.sources:
            place = self._place(source.embodiment.name, share.count)
            # Gradients are averaged over processes, so what one process does alone counts as often as there are some.
            part, weight = (share, 1) if place is None else (dataclasses.replace(share, index=0, count=1), share.count)
            said = self._of_body(source, step, part, weight) if place in (None, share.index) else {}
            names = {"windows": 1, f"loss/{source.embodiment.name}": part.count}
            if self._given.bodies[source.embodiment.name].estimation:
                names[f"estimation/{source.embodiment.name}"] = part.count
            found = reduced([found, {name: said.get(name, 0.0) / among for name, among in names.items()}])
        return distributed.summed(found, share.device)

    def _place(self, name: str, processes: int) -> int | None:
        """The process that does all of this body's windows; None where all share them."""
        if not self._places:
            names = [source.embodiment.name for source in self._given.sources]
            # All processes must ask for the parts of a sharded trunk, at the same time.
            apart = not distributed.by_sharding(self._policy.parameters())[0]
            costs = costs_of(self._policy, self._given.sources, self._given.bodies) if apart else {}
            windows = {name: self._given.bodies[name].batch for name in names}
            self._places = placed(costs, windows, processes) if apart else dict.fromkeys(names)
        return self._places[name]

    def held_out(self) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        return {
            (name := source.embodiment.name): held_out_loss(self._policy, source, self._given.bodies[name])
            for source in self._given.held_out
        }

    def _of_body(self, source: Source, step: int, share: Share, weight: float = 1.0) -> Metrics:
        """Adds one body's gradients of a step, with a weight."""
        name, seed = source.embodiment.name, self._given.seed
        body, key = self._given.bodies[name], name.encode()
        rng = np.random.default_rng([seed, step, share.index, *key])
        batches = self._draw(source, step, share, rng)
        count, true = sum(len(windows) for windows, _ in batches), targets([windows for windows, _ in batches])
        # For heads that learn from noise: as all else here, a function of the seed, the step and the process.
        torch.manual_seed(int(rng.integers(2**63)))
        total = estimated = 0.0
        for part in (part for windows, parts in batches for part in split_by_length(windows, parts)):
            with share.autocast():
                if body.estimation:
                    loss, missed = self._policy.losses(part)
                    missed = missed * (len(part) / count)
                else:
                    loss, missed = self._policy.loss(part), torch.zeros(())
                loss = loss / true
            (weight * body.weight * (loss + body.estimation * missed)).backward()
            total += loss.item()
            estimated += missed.item()
        found: Metrics = {f"loss/{name}": total, "windows": float(count)}
        return found | ({f"estimation/{name}": estimated} if body.estimation else {})

    def _draw(self, source: Source, step: int, share: Share, rng: np.random.Generator) -> list[tuple[Batch, int]]:
        """This process's windows of a step, and how many micro-batches they are. Those with goals are apart: the others
        cost nothing for them."""
        name, seed = source.embodiment.name, self._given.seed
        body, key = self._given.bodies[name], name.encode()
        statistics = self._policy.config.statistics[name]
        shown = round(body.batch * body.goals)
        batches = []
        for size, goals in ((body.batch - shown, False), (shown, True)):
            if size <= share.index:
                continue
            # What is drawn is the same in all processes, and each reads its share; what is done to it is not the same.
            drawing = np.random.default_rng([seed, step, goals, *key])
            how = showing(
                body, self._policy.config.frames_per_demonstration, np.random.default_rng([seed, step, 2, *key])
            )
            windows = source.draw(size, drawing, goals, (share.index, share.count), how)
            # As many micro-batches in every process, of which some have a window less.
            parts = min(body.micro_batches, max(1, size // share.count))
            batches.append((augmented(windows, body, statistics, paraphrases_for(self._given.paraphrases), rng), parts))
        return batches

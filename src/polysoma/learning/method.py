"""Method: one way of learning, as the engine sees it.

The engine (:mod:`polysoma.learning.engine`) steps, averages, schedules, measures, saves, resumes and shards; a method
says what is learnt from what. A method of one's own is a class of a few lines in a file of one's own::

    class Regression(Method):
        def __init__(self, policy, batches):
            self.modules = nn.ModuleDict({"policy": policy, "critic": nn.Linear(4, 1)})
            self.batches = batches

        def accumulate(self, step, share):
            x, y = self.batches[step]
            with share.autocast():
                loss = (self.modules["critic"](x) - y).square().mean()
            loss.backward()
            return {"loss/critic": loss.item(), "windows": len(x)}

    Engine(Regression(policy, batches), Settings(steps=100)).run(Path("runs/mine"))
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.data.mixture import Source
from polysoma.learning.bodies import BodyRecipe
from polysoma.nn.precision import Precision, autocast
from polysoma.policy.policy import Policy

Metrics = dict[str, float]
"""Numbers by name. ``loss/NAME`` are shown while training, and ``windows`` (how many samples this process saw) becomes
``windows_per_s``; whatever else there is goes into the metrics as it is."""


@dataclass(frozen=True)
class Share:
    """The part of a step that one process does.

    Attributes:
        index: of this process, of ``count``. Gradients are averaged over processes.
        count: how many processes there are.
        device: what they compute on.
        precision: of products, see :mod:`polysoma.nn.precision`.
    """

    index: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"

    def rng(self, seed: int, step: int) -> np.random.Generator:
        """What draws in one step of this process."""
        # NumPy takes [seed, 31] for [seed, 31, 0]: the last word keeps these apart from what is drawn once, by a tag.
        return np.random.default_rng([seed, step, self.index, 1])

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """For the forward passes of a step: computes in the run's precision."""
        return autocast(self.device, self.precision)


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are treated alike.

    Attributes:
        parameters: those that learn.
        decay: whether the optimiser's weight decay applies.
        rate: factor of the learning rate.
    """

    parameters: Sequence[nn.Parameter]
    decay: bool = True
    rate: float = 1.0


class Method(Protocol):
    """One way of learning. Subclasses get everything but ``modules`` and :meth:`accumulate` for nothing.

    Attributes:
        modules: all that is saved, resumed, averaged and moved to the device: parameters and buffers. The one called
            ``"policy"`` is a :class:`~polysoma.policy.policy.Policy` or a
            :class:`~polysoma.policy.small.SmallPolicy`, and is what checkpoints hold. Modules of which nothing learns
            (target networks) are saved, not averaged.
    """

    modules: nn.ModuleDict

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """What learns. By default all that takes gradients; vectors (biases, norms) and embeddings do not decay."""
        return decaying(self.modules)

    def accumulate(self, step: int, share: Share) -> Metrics:
        """Adds this process's gradients of one step with ``backward()``, and does nothing else that lasts.

        Everything random must be a function of (seed, step, process), or part of :meth:`state`: then a resumed run
        equals an uninterrupted one.

        Args:
            step: steps done before, 0 for the first.
            share: what this process does of it.
        """
        ...

    def after_step(self, step: int) -> None:
        """Called when the optimiser has done step ``step``, the first being 1: target networks, collecting."""
        return

    def held_out(self) -> Metrics:
        """Losses on data apart; their sum decides which checkpoint is best. Called with the averaged weights in place,
        in evaluation mode, without gradients and in the run's precision; an empty one keeps the last checkpoint."""
        return {}

    def remarks(self, step: int, share: Share) -> Metrics:
        """More numbers for a line of metrics, after step ``step``, the first being 1. Called by every process for steps
        of which a line is written, in evaluation mode, without gradients and in the run's precision. What is random is
        a function of (seed, step, process), as for :meth:`accumulate`."""
        return {}

    def state(self) -> Mapping[str, Tensor]:
        """What else a resumed run needs, by name."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes what :meth:`state` returned."""
        return


@dataclass(frozen=True)
class Ingredients:
    """What a recipe gives its method.

    Attributes:
        policy: to learn, of which some parameters may be frozen.
        sources: demonstrations to learn from, one of each embodiment.
        held_out: demonstrations on which the loss is measured instead.
        bodies: how each embodiment takes part, by name.
        paraphrases: a file of other words for instructions, ``"shipped"``, or empty.
        seed: of all that is drawn at random.
        init: the checkpoint that the policy starts from, or empty.
    """

    policy: Policy
    sources: Sequence[Source]
    held_out: Sequence[Source] = ()
    bodies: Mapping[str, BodyRecipe] = field(default_factory=dict)
    paraphrases: str = ""
    seed: int = 0
    init: str = ""


class MethodSettings(Protocol):
    """A recipe's ``[method]``: a frozen dataclass of settings that builds its method."""

    @property
    def kind(self) -> str:
        """What the recipe calls it."""
        ...

    def build(self, given: Ingredients) -> Method:
        """The method. Raises PolysomaError where it cannot learn from what is given."""
        ...


def decaying(module: nn.Module) -> list[ParameterGroup]:
    """A module's parameters that learn: matrices decay; vectors (biases, norms) and embeddings do not."""
    matrices = {id(m.weight) for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [ParameterGroup([p for p in learning if (id(p) in matrices) == decay], decay) for decay in (True, False)]


def reduced(metrics: Iterable[Metrics]) -> Metrics:
    """The sum of metrics, name by name."""
    total: Metrics = {}
    for part in metrics:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total

"""Meta-learning: what an adaptation starts from, so that a few gradient steps on a few demonstrations go far.

A meta-task is one task, or several at once, with windows of some of its episodes to adapt to (support) and windows of
the others to see how well that went (query). MAML goes through the inner steps to the start (Finn et al. 2017, arXiv
1703.03400, equation 1); FOMAML takes the gradient where they ended for that of the start (section 5.2); ANIL adapts
heads alone (Raghu et al. 2020, arXiv 1909.09157, section 4); Reptile moves the start towards where they ended (Nichol
et al. 2018, arXiv 1803.02999, algorithm 2).

Instructions of a share of the meta-tasks are exchanged for those of other tasks. Otherwise words alone would say what
to do, and there would be nothing to adapt to (Yin et al. 2020, arXiv 1912.03820, section 3).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from polysoma.config import check, within
from polysoma.data.batch import Batch
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError, SettingError
from polysoma.learning.augmentation import augmented
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.method import Ingredients, Method, Metrics, Share, reduced
from polysoma.learning.objectives import paraphrases_for, targets
from polysoma.policy import checkpoint
from polysoma.policy.methods import MetaAlgorithm
from polysoma.policy.policy import Policy

_SMALLEST = 0.02
"""Entries of tensors that begin as zero move as if they were as large as this (their usual scale at random starts)."""
UNHEARD = ("weight", "micro_batches", "shots", "observation_only", "goals", "estimation")
"""What ``[bodies.NAME]`` says of imitation alone."""
_DAMPING = 0.1
"""Tensors whose gradients are below this share of the others' move less: theirs are mostly noise."""


@dataclass(frozen=True)
class MetaLearning:
    """``[method] kind = "meta"``: learning what an adaptation starts from instead of the adaptation itself.

    Attributes:
        algorithm: ``"maml"``, its first-order approximation ``"fomaml"``, ``"reptile"``, or ``"anil"``: MAML whose
            inner steps are of heads alone.
        inner_steps: gradient steps of an adaptation; each sees a body's ``batch`` of windows.
        inner_rate: about how far such a step moves each tensor, as a fraction of its size.
        tasks: how many tasks are adapted to at once.
        batch: meta-tasks a step, all processes together.
        renamed: the share of meta-tasks whose instructions are those of other tasks.
    """

    algorithm: MetaAlgorithm
    inner_steps: Annotated[int, within(1, 1000)] = 3
    inner_rate: Annotated[float, within(0, 10, above=True)] = 0.01
    tasks: Annotated[int, within(1, 10_000)] = 1
    batch: Annotated[int, within(1, 10_000)] = 4
    renamed: Annotated[float, within(0, 1)] = 0.5
    kind: Literal["meta"] = "meta"

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(MetaAlgorithm):
            raise SettingError(f"expected an algorithm of {get_args(MetaAlgorithm)}, got {self.algorithm!r}")
        check(self)

    def build(self, given: Ingredients) -> Method:
        """See :class:`~polysoma.learning.method.MethodSettings`."""
        adaptation = given.policy.config.adaptation
        if adaptation is None or given.held_out:
            raise PolysomaError("meta learns what an adaptation starts from: it needs adaptation, and no held_out")
        for name, body in given.bodies.items():
            if unheard := [what for what in UNHEARD if getattr(body, what) != getattr(BodyRecipe(), what)]:
                raise SettingError(f"bodies.{name}: meta does not heed {', '.join(unheard)}: leave them out")
        start = checkpoint.config_of(given.init).adaptation
        if start is not None:
            raise PolysomaError(
                f"{given.init} is an adaptation; what adaptations start from is learnt beside their base, {start.base}"
            )
        return MetaTasks(self, given)


class MetaTasks(Method):
    """Learns from meta-tasks of each body's data. Half of each task's episodes are for support, half for query."""

    def __init__(self, meta: MetaLearning, given: Ingredients) -> None:
        self.modules = nn.ModuleDict({"policy": given.policy})
        self._bodies = [BodyTasks(meta, given, source) for source in given.sources]

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`. The losses are those on query after the inner steps."""
        return reduced(tasks.accumulate(step, share) for tasks in self._bodies)


class BodyTasks:
    """The meta-tasks of one body's data.

    Args:
        meta: by which algorithm.
        given: what a recipe gives.
        source: whose tasks they are made of.

    Raises:
        PolysomaError: too few tasks, or a task with a single episode.
    """

    def __init__(self, meta: MetaLearning, given: Ingredients, source: Source) -> None:
        self._meta, self._given, self._body = meta, given, source.embodiment.name
        self._tasks = source.drawn
        if len(self._tasks) <= meta.tasks:
            raise PolysomaError(
                f"meta-learning {meta.tasks} of {self._body}'s tasks at a time needs more tasks than that to "
                f"learn from, got {len(self._tasks)}: {', '.join(self._tasks)}"
            )
        support, query = source.split(0, 0.5)
        single = sorted(set(self._tasks) - set(() if query is None else query.drawn))
        if query is None or single:
            raise PolysomaError(
                f"meta-learning needs two episodes of each task or more, got one of {', '.join(single)}"
            )
        self._support, self._query = support, query
        self._instructions = sorted(source.drawn_instructions)

    def accumulate(self, step: int, share: Share) -> Metrics:
        """Adds the gradients of this process's meta-tasks of a step."""
        # Each process needs one.
        numbers = range(share.index, max(self._meta.batch, share.count), share.count)
        # Gradients are averaged over processes, of which some may have a meta-task less.
        weight = share.count / max(self._meta.batch, share.count)
        total, seen = 0.0, 0
        for number in numbers:
            rng = np.random.default_rng([self._given.seed, step, number, *self._body.encode()])
            batches, query = self.draw(rng)
            torch.manual_seed(int(rng.integers(2**63)))
            total += accumulate(self._given.policy, [[batch] for batch in batches], query, self._meta, weight)
            seen += sum(map(len, batches)) + len(query)
        return {f"loss/{self._body}": total / len(numbers), "windows": float(seen)}

    def draw(self, rng: np.random.Generator) -> tuple[list[Batch], Batch]:
        """One batch for each inner step, and one of query."""
        body = self._given.bodies[self._body]
        tasks = [str(task) for task in rng.choice(self._tasks, self._meta.tasks, replace=False)]
        drawn = [self._support.draw(body.batch, rng, tasks=tasks) for _ in range(self._meta.inner_steps)]
        drawn.append(self._query.draw(body.batch, rng, tasks=tasks))
        if rng.random() < self._meta.renamed:
            others = dict(zip(self._instructions, rng.permutation(self._instructions), strict=True))
            drawn = [dataclasses.replace(w, instructions=[str(others[t]) for t in w.instructions]) for w in drawn]
        statistics = self._given.policy.config.statistics[self._body]
        paraphrases = paraphrases_for(self._given.paraphrases)
        *batches, query = [augmented(windows, body, statistics, paraphrases, rng) for windows in drawn]
        return batches, query


def accumulate(
    policy: Policy, support: Sequence[Sequence[Batch]], query: Batch, meta: MetaLearning, share: float
) -> float:
    """Adds ``share`` of one meta-task's gradient to those of the policy's parameters that learn.

    Args:
        policy: the start; it does not change.
        support: for each inner step, its micro-batches.
        query: of the same tasks.
        meta: the algorithm.
        share: of this meta-task in the whole step.

    Returns:
        The mean loss on query after the inner steps.
    """
    start = learning(policy)
    second_order = meta.algorithm in ("maml", "anil")
    # Fused attention has no second derivative.
    with sdpa_kernel(SDPBackend.MATH) if second_order else contextlib.nullcontext():
        if meta.algorithm != "reptile":
            adapted = inner_loop(policy, start, support, meta, second_order)
            loss = mean_loss(policy, adapted, [query])
            (share * loss).backward()
            return loss.item()
    adapted = inner_loop(policy, {name: value.detach() for name, value in start.items()}, support, meta)
    with torch.no_grad():
        for name, parameter in start.items():
            # The same scale, whatever the inner rate.
            moved = (parameter - adapted[name]) * (share / (meta.inner_rate * meta.inner_steps))
            parameter.grad = moved if parameter.grad is None else parameter.grad + moved
        return mean_loss(policy, adapted, [query]).item()


def learning(policy: Policy) -> dict[str, Tensor]:
    """The parameters that learn, by name."""
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


def inner_loop(
    policy: Policy,
    values: Mapping[str, Tensor],
    batches: Iterable[Sequence[Batch]],
    meta: MetaLearning,
    second_order: bool = False,
) -> dict[str, Tensor]:
    """Gradient steps, one for each batch. Each moves every tensor by about ``inner_rate`` of its size.

    Args:
        policy: gives all values but these.
        values: where the steps begin, by name.
        batches: micro-batches of each step.
        meta: gives the rate, and which values take part.
        second_order: keep the graph of the gradients, too, so that one can differentiate through the steps.

    Returns:
        Where the steps end. It depends on ``values`` by the steps, or without ``second_order`` as if these were
        shifted by constants.

    Raises:
        PolysomaError: nothing takes part, or a loss that is not finite.
    """
    now = {name: value if value.requires_grad else value.clone().requires_grad_() for name, value in values.items()}
    heads = {id(parameter) for parameter in policy.heads.parameters()}
    own = dict(policy.named_parameters())
    names = [name for name in now if meta.algorithm != "anil" or id(own[name]) in heads]
    if not names:
        raise PolysomaError(
            "anil adapts heads alone, and this adaptation has none of its own: choose another algorithm"
        )
    for batch in batches:
        true = targets(batch)
        gradients: list[Tensor] = []
        for part in batch:
            loss = _loss(policy, now, part) / true
            if not torch.isfinite(loss):
                raise PolysomaError(f"an inner step's loss is {loss.item()}: lower the inner rate, {meta.inner_rate}")
            found = torch.autograd.grad(
                loss, [now[name] for name in names], create_graph=second_order, materialize_grads=True,
                allow_unused=True,
            )  # fmt: skip
            gradients = [a + b for a, b in zip(gradients, found, strict=True)] if gradients else list(found)
        sizes = _step_sizes([now[name] for name in names], gradients)
        moved = {
            name: now[name] - (meta.inner_rate * size) * gradient
            for name, size, gradient in zip(names, sizes, gradients, strict=True)
        }
        now = {**now, **moved}
    return now


@torch.no_grad()
def _step_sizes(values: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """What makes gradients as large as the tensors that they are of, so that one rate suits them all (You et al. 2017,
    arXiv 1708.03888, equation 6, without weight decay). They count as constants."""
    squares = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    overall = (squares / sum(gradient.numel() for gradient in gradients)).sqrt()
    return [
        value.square().mean().sqrt().clamp(min=_SMALLEST)
        / (gradient.square().mean().sqrt() + _DAMPING * overall + 1e-12)
        for value, gradient in zip(values, gradients, strict=True)
    ]


def mean_loss(policy: Policy, values: Mapping[str, Tensor], parts: Sequence[Batch]) -> Tensor:
    """The mean loss over all true targets, with these values in the place of the policy's own: a float32 scalar."""
    return torch.stack([_loss(policy, values, part) for part in parts]).sum() / targets(parts)


def _loss(policy: Policy, values: Mapping[str, Tensor], windows: Batch) -> Tensor:
    with policy.autocast():
        named = {f"policy.{name}": value for name, value in values.items()}
        loss: Tensor = torch.func.functional_call(_Loss(policy), named, (windows,))
    return loss


class _Loss(nn.Module):
    """A policy's loss as a module that can be called with other parameters."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        # Modes of training are the policy's own business.
        self.policy = policy

    def forward(self, windows: Batch) -> Tensor:
        return self.policy.loss(windows)

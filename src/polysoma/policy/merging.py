"""Merging: sums and differences of what fine-tunes of one base have learnt (task arithmetic, Ilharco et al. 2022,
arXiv 2212.04089), or what does on each one's data what that one did (RegMean, Jin et al. 2023, arXiv 2212.09849).

All that the base knows moves, heads of bodies included. Bodies and words that it does not know come whole from the
fine-tune that added them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polysoma.embodiment import Modality
from polysoma.errors import PolysomaError
from polysoma.policy import checkpoint
from polysoma.policy.config import PolicyConfig
from polysoma.policy.edits import merge_adapter
from polysoma.policy.policy import Policy

_RIDGE = 1e-3
"""What is added to the diagonal of Gram matrices, as a fraction of its mean: inputs that hardly occur move little."""
_OFF_DIAGONAL = 0.5
"""What is left of their other entries: maps before this one are merged, too, so that its inputs are not quite those
that were seen. Found on development seeds, on which whole ones kept less than plain sums do."""

Grams = Mapping[str, Tensor]
"""What the maps of a policy are given (:func:`polysoma.learning.grams.input_grams`), by the name of the module,
float64: of a linear map the mean of ``x x'`` over its inputs, each with a 1 appended, ``(n + 1, n + 1)``; of a table of
embeddings how often each row is looked up, ``(rows,)``."""


def add(
    base: str | Path, tuned: Sequence[str | Path], coefficient: float, grams: Sequence[Grams] | None = None
) -> Policy:
    """``base + coefficient * sum(tuned - base)``. With the coefficient ``1 / len(tuned)`` it is their mean; one
    fine-tune and a coefficient below 1 go part of the way. A body or a word that the base does not know is the mean of
    those that know it.

    With Gram matrices the sum gives way to a regression (RegMean, Jin et al. 2023, arXiv 2212.09849, section 3) where
    it can: a linear map moves so that on what each fine-tune gives it, it does nearly what that one's does, in the
    least squares, and a row of embeddings moves with those that look it up.

    Args:
        base: what the others were made from.
        tuned: full fine-tunes, or adaptations by low rank or heads.
        coefficient: how much of the move.
        grams: one of each fine-tune.

    Raises:
        PolysomaError: nothing to add, or a checkpoint that does not come from this base (as far as its lineage is
            known), is of another shape, or adapts by prompts or bottlenecks, which have no sum.
    """
    if not tuned:
        raise PolysomaError("merge: expected one or more fine-tunes, got none")
    start = _standing_alone(base)
    parts = [_tuned(path, base, start) for path in tuned]
    config = _joined(start.config, [part.config for part in parts])
    before, states = _aligned(start, config), [_aligned(part, config) for part in parts]
    (words,) = start.names_of("words")
    for state, part in zip(states, parts, strict=True):
        strange = _strange(part, config)
        state[words][strange] = before[words][strange]
    merged, moves = {}, {}
    for name in Policy(config).state_dict():
        held = [state[name] for state in states if name in state]
        if name not in before:
            merged[name] = torch.stack(held).mean(0)
        elif held:
            moves[name] = torch.stack([value - before[name] for value in held]).sum(0)
        else:
            merged[name] = before[name]
    if grams is not None:
        counted = [_in_order(gram, part, config) for gram, part in zip(grams, parts, strict=True)]
        for module in sorted({module for gram in counted for module in gram}):
            pairs = zip(states, counted, strict=True)
            moves |= _regression(module, before, [(state, gram[module]) for state, gram in pairs if module in gram])
    merged |= {name: before[name] + coefficient * move for name, move in moves.items()}
    # Words that the base does not know are as those have them that do.
    for row, word in enumerate(config.vocabulary, start=2):
        if word not in start.text.ids:
            known = [state[words][row] for state, part in zip(states, parts, strict=True) if word in part.text.ids]
            merged[words][row] = torch.stack(known).mean(0)
    return _policy(config, merged)


def _in_order(grams: Grams, policy: Policy, config: PolicyConfig) -> Grams:
    """How often words are looked up in the order of another vocabulary."""
    module = next(name for name, module in policy.named_modules() if module is policy.text.words)
    if module not in grams:
        return grams
    own = grams[module]
    rows = [
        own[0],
        own[1],
        *(own[i] if (i := policy.text.ids.get(w)) else own.new_zeros(()) for w in config.vocabulary),
    ]
    return {**grams, module: torch.stack(rows)}


def _regression(
    module: str, before: Mapping[str, Tensor], parts: Sequence[tuple[Mapping[str, Tensor], Tensor]]
) -> dict[str, Tensor]:
    """How the parameters of one map move, from the states of those that use it and their Gram matrices of it."""
    weight, bias = f"{module}.weight", f"{module}.bias"
    if weight not in before:
        return {}
    if parts[0][1].dim() == 1:
        moved = [often[:, None] * (state[weight] - before[weight]) for state, often in parts]
        total = torch.stack([often for _, often in parts]).sum(0)
        return {weight: (torch.stack(moved).sum(0) / total.clamp(min=1e-12)[:, None]).float()}
    places = [name for name in (weight, bias) if name in before]

    def matrix(state: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([(state[name] - before[name]).view(len(before[weight]), -1) for name in places], 1).double()

    columns = matrix(before).shape[1]
    shrunk = [_OFF_DIAGONAL * gram[:columns, :columns] for _, gram in parts]
    grams = [gram + torch.diag(gram.diagonal() * (1 / _OFF_DIAGONAL - 1)) for gram in shrunk]
    total = torch.stack(grams).sum(0)
    total += _RIDGE * total.diagonal().mean() * torch.eye(columns, dtype=total.dtype)
    wanted = torch.stack([matrix(state) @ gram for (state, _), gram in zip(parts, grams, strict=True)]).sum(0)
    move = torch.linalg.solve(total, wanted, left=False).float()
    inputs = before[weight].shape[1]
    return {weight: move[:, :inputs]} | ({bias: move[:, inputs]} if bias in before else {})


def negate(base: str | Path, tuned: str | Path, coefficient: float) -> Policy:
    """``base - coefficient * (tuned - base)``: the base with less of what the fine-tune learnt. Bodies stay as they are
    in the base. Raises PolysomaError as :func:`add`."""
    start = _standing_alone(base)
    return _policy(start.config, _moved(start, -coefficient, start, _tuned(tuned, base, start)))


def analogy(a: str | Path, b: str | Path, c: str | Path, coefficient: float) -> Policy:
    """``c + coefficient * (b - a)``: what made B of A is done to C. Bodies stay as they are in C, and so do words that
    A or B does not know.

    Raises:
        PolysomaError: shapes differ, or one of them adapts by prompts or bottlenecks.
    """
    first, second, third = (_standing_alone(path) for path in (a, b, c))
    _check_shapes(str(a), first, third)
    _check_shapes(str(b), second, third)
    return _policy(third.config, _moved(third, coefficient, first, second))


def _moved(policy: Policy, coefficient: float, a: Policy, b: Policy) -> dict[str, Tensor]:
    """A policy's state moved by the scaled difference ``b - a`` in all that bodies share."""
    own, first, second = policy.state_dict(), _aligned(a, policy.config), _aligned(b, policy.config)
    (words,) = policy.names_of("words")
    for part in (a, b):
        strange = _strange(part, policy.config)
        first[words][strange] = second[words][strange]
    moving = policy.names_of("shared", "words") & first.keys() & second.keys()
    return {
        name: value + coefficient * (second[name] - first[name]) if name in moving else value
        for name, value in own.items()
    }


def _policy(config: PolicyConfig, state: Mapping[str, Tensor]) -> Policy:
    policy = Policy(config)
    policy.load_state_dict(state)
    return policy


def _standing_alone(path: str | Path) -> Policy:
    """The policy with all its weights as its own; low-rank matrices are multiplied into the trunk's."""
    policy = checkpoint.load_for_training(path)
    alone = merge_adapter(policy)
    if alone is None:
        assert policy.config.adaptation is not None
        method = policy.config.adaptation.method
        raise PolysomaError(f"{path} adapts its base by {method}, which is no change of weights to add up")
    return alone


def _tuned(path: str | Path, base: str | Path, start: Policy) -> Policy:
    _check_lineage(path, base)
    policy = _standing_alone(path)
    _check_shapes(str(path), policy, start)
    return policy


def _check_lineage(path: str | Path, base: str | Path) -> None:
    """Raises PolysomaError where the lineage is known to its beginning and the base is not in it."""
    wanted = checkpoint.weights_sha256(base)
    known: Mapping[str, Any] | None = checkpoint.read_config(checkpoint.resolve(path)).get("lineage")
    if checkpoint.weights_sha256(path) == wanted:
        raise PolysomaError(f"{path} is the base itself, so it has nothing to add")
    ancestors = []
    while known is not None and known["parent"] is not None:
        ancestors.append(f"{known['parent']['name']} ({known['parent']['sha256'][:12]})")
        if known["parent"]["sha256"] == wanted:
            return
        known = known["parent"]["lineage"]
    if ancestors:
        raise PolysomaError(
            f"{path} was not made from {base} ({wanted[:12]}) but from {', '.join(ancestors)}: differences from "
            "another base mean nothing to this one"
        )


def _check_shapes(name: str, policy: Policy, start: Policy) -> None:
    mine, theirs = policy.state_dict(), start.state_dict()
    words = start.names_of("words")
    wrong = [n for n in theirs if n in mine and n not in words and mine[n].shape != theirs[n].shape]
    other = [field for field in _EQUAL if getattr(policy.config, field) != getattr(start.config, field)]
    if policy.images is not None and start.images is not None and policy.config.images != start.config.images:
        other.append("images")
    if wrong or other:
        shapes = ", ".join(f"{n} is {tuple(mine[n].shape)} instead of {tuple(theirs[n].shape)}" for n in wrong[:3])
        raise PolysomaError(f"{name} cannot be merged: {shapes or f'it has another {other[0]}'}")


_EQUAL = ("trunk", "width", "heads", "head", "adapters")
"""What policies must have in common to be added up."""


def _joined(base: PolicyConfig, tuned: Sequence[PolicyConfig]) -> PolicyConfig:
    """The base's configuration with all bodies and words."""
    bodies = {body.name: body for body in base.embodiments}
    statistics, horizons = dict(base.statistics), dict(base.horizons)
    words = dict.fromkeys(base.vocabulary)
    answers = {body.body: _answers(base, body.body) for body in base.embodiments}
    readouts = {group: dict(own) for group, own in base.readouts.items()}
    images = base.images if _sees(base) else next((config.images for config in tuned if _sees(config)), base.images)
    frames = next((c.frames_per_demonstration for c in (base, *tuned) if c.frames_per_demonstration), 0)
    for config in tuned:
        if _sees(config) and config.images != images:
            raise PolysomaError("the fine-tunes make tokens of pictures differently (images)")
        if config.frames_per_demonstration not in (0, frames):
            raise PolysomaError(
                f"the fine-tunes read {frames} and {config.frames_per_demonstration} frames of a demonstration"
            )
        for body in config.embodiments:
            if bodies.setdefault(body.name, body) != body:
                differences = "; ".join(bodies[body.name].differences(body))
                raise PolysomaError(f"the fine-tunes describe {body.name} differently: {differences}")
            if (first := horizons.setdefault(body.name, config.horizons[body.name])) != config.horizons[body.name]:
                raise PolysomaError(
                    f"the fine-tunes look at {body.name} differently: {first}, not {config.horizons[body.name]}"
                )
            statistics.setdefault(body.name, config.statistics[body.name])
            how = _answers(config, body.body)
            if (first_how := answers.setdefault(body.body, how)) != how:
                raise PolysomaError(
                    f"the fine-tunes predict the actions of {body.body} differently: {first_how} and {how}"
                )
        for group, own in config.readouts.items():
            for name, head in own.items():
                if readouts.setdefault(group, {}).setdefault(name, head) != head:
                    raise PolysomaError(f"the fine-tunes have different heads for the readout {name} of {group}")
        words |= dict.fromkeys(config.vocabulary)
    return dataclasses.replace(
        base,
        embodiments=tuple(bodies.values()),
        statistics=statistics,
        vocabulary=tuple(words),
        horizons=horizons,
        images=images,
        relative=tuple(sorted(group for group, how in answers.items() if how == "relative")),
        gated=tuple(sorted(group for group, how in answers.items() if how == "gated")),
        frames_per_demonstration=frames,
        readouts=readouts,
        adaptation=None,
    )


def _answers(config: PolicyConfig, group: str) -> str:
    """How a body's actions are predicted."""
    return "relative" if group in config.relative else "gated" if group in config.gated else "absolute"


def _sees(config: PolicyConfig) -> bool:
    """Whether a body has a camera."""
    return any(stream.modality is Modality.IMAGE for body in config.embodiments for stream in body.streams)


def _strange(policy: Policy, config: PolicyConfig) -> list[int]:
    """The rows of another vocabulary whose words a policy does not know: it says nothing of how they move."""
    return [row for row, word in enumerate(config.vocabulary, start=2) if word not in policy.text.ids]


def _aligned(policy: Policy, config: PolicyConfig) -> dict[str, Tensor]:
    """A policy's state, its words in the order of another vocabulary. Words that it does not know are as the unknown
    one."""
    state = dict(policy.state_dict())
    rows = [0, 1, *(policy.text.ids.get(word, 1) for word in config.vocabulary)]
    (words,) = policy.names_of("words")
    state[words] = state[words][torch.tensor(rows)]
    return state

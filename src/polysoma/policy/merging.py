"""Merging: sums and differences of what fine-tunes of one base have learnt (task arithmetic, Ilharco et al. 2022,
arXiv 2212.04089).

All that the base knows moves by the scaled sum of the differences, heads of bodies included. Bodies and words that it
does not know come whole from the fine-tune that added them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polysoma.errors import PolysomaError
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import OF_BODIES, LoRALinear
from polysoma.policy.policy import Policy, PolicyConfig

_WORDS = "text.words.weight"


def add(base: str | Path, tuned: Sequence[str | Path], coefficient: float) -> Policy:
    """``base + coefficient * sum(tuned - base)``. With the coefficient ``1 / len(tuned)`` it is their mean; one
    fine-tune and a coefficient below 1 go part of the way. A body or a word that the base does not know is the mean of
    those that know it.

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
    merged = {}
    for name in Policy(config).state_dict():
        held = [state[name] for state in states if name in state]
        if name not in before:
            merged[name] = torch.stack(held).mean(0)
            continue
        moved = [value - before[name] for value in held]
        merged[name] = before[name] + coefficient * sum(moved, torch.zeros_like(before[name]))
    # Words that the base does not know are as those have them that do.
    for row, word in enumerate(config.vocabulary, start=2):
        if word not in start.text.ids:
            known = [state[_WORDS][row] for state, part in zip(states, parts, strict=True) if word in part.text.ids]
            merged[_WORDS][row] = torch.stack(known).mean(0)
    return _policy(config, merged)


def negate(base: str | Path, tuned: str | Path, coefficient: float) -> Policy:
    """``base - coefficient * (tuned - base)``: the base with less of what the fine-tune learnt. Bodies stay as they are
    in the base. Raises PolysomaError as :func:`add`."""
    start = _standing_alone(base)
    part = _aligned(_tuned(tuned, base, start), start.config)
    return _policy(start.config, _moved(start.state_dict(), -coefficient, start.state_dict(), part))


def analogy(a: str | Path, b: str | Path, c: str | Path, coefficient: float) -> Policy:
    """``c + coefficient * (b - a)``: what made B of A is done to C. Bodies stay as they are in C.

    Raises:
        PolysomaError: shapes or vocabularies differ, or one of them adapts by prompts or bottlenecks.
    """
    first, second, third = (_standing_alone(path) for path in (a, b, c))
    _check_shapes(str(a), first, third)
    _check_shapes(str(b), second, third)
    state = _moved(third.state_dict(), coefficient, _aligned(first, third.config), _aligned(second, third.config))
    return _policy(third.config, state)


def _moved(
    state: Mapping[str, Tensor], coefficient: float, a: Mapping[str, Tensor], b: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state moved by the scaled difference ``b - a`` in all that bodies share."""
    return {
        name: value if name.startswith(OF_BODIES) or name not in a or name not in b
        else value + coefficient * (b[name] - a[name])
        for name, value in state.items()
    }  # fmt: skip


def _policy(config: PolicyConfig, state: Mapping[str, Tensor]) -> Policy:
    policy = Policy(config)
    policy.load_state_dict(state)
    return policy


def _standing_alone(path: str | Path) -> Policy:
    """The policy with all its weights as its own; low-rank matrices are multiplied into the trunk's."""
    policy = checkpoint.load_for_training(path)
    adaptation = policy.config.adaptation
    if adaptation is None:
        return policy
    if adaptation.method in ("prompt", "adapter"):
        raise PolysomaError(f"{path} adapts its base by {adaptation.method}, which is no change of weights to add up")
    state = dict(policy.state_dict())
    with torch.no_grad():
        for name, module in policy.named_modules():
            if isinstance(module, LoRALinear):
                state[f"{name}.weight"] = module.dense()
                del state[f"{name}.a"], state[f"{name}.b"]
    if "text.own.weight" in state:
        state[_WORDS] = torch.cat([state[_WORDS], state.pop("text.own.weight")])
    alone = Policy(dataclasses.replace(policy.config, adaptation=None))
    alone.load_state_dict(state)
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
    wrong = [n for n in theirs if n in mine and n != _WORDS and mine[n].shape != theirs[n].shape]
    if wrong or not any(n.startswith("trunk.") for n in mine.keys() & theirs.keys()):
        shapes = ", ".join(f"{n} is {tuple(mine[n].shape)} instead of {tuple(theirs[n].shape)}" for n in wrong[:3])
        raise PolysomaError(f"{name} cannot be merged: {shapes or 'it has another trunk'}")


def _joined(base: PolicyConfig, tuned: Sequence[PolicyConfig]) -> PolicyConfig:
    """The base's configuration with all bodies and words."""
    bodies = {body.name: body for body in base.embodiments}
    statistics = dict(base.statistics)
    words = dict.fromkeys(base.vocabulary)
    for config in tuned:
        for body in config.embodiments:
            if bodies.setdefault(body.name, body) != body:
                differences = "; ".join(bodies[body.name].differences(body))
                raise PolysomaError(f"the fine-tunes describe {body.name} differently: {differences}")
            statistics.setdefault(body.name, config.statistics[body.name])
        words |= dict.fromkeys(config.vocabulary)
    return dataclasses.replace(
        base, embodiments=tuple(bodies.values()), statistics=statistics, vocabulary=tuple(words), adaptation=None
    )


def _aligned(policy: Policy, config: PolicyConfig) -> dict[str, Tensor]:
    """A policy's state, its words in the order of another vocabulary. Words that it does not know are as the unknown
    one."""
    state = dict(policy.state_dict())
    rows = [0, 1, *(policy.text.ids.get(word, 1) for word in config.vocabulary)]
    state[_WORDS] = state[_WORDS][torch.tensor(rows)]
    return state

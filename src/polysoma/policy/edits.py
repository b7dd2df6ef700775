"""Edits: a policy that knows more bodies, that shares its weights with a base, or that stands alone again. Each gives a
new policy and leaves the old one as it was."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection, Mapping, Sequence

import torch

from polysoma.data.statistics import Statistics
from polysoma.embodiment import DiscreteActions, Embodiment
from polysoma.errors import PolysomaError, PolysomaWarning
from polysoma.horizon import Horizon
from polysoma.nn.adapters import LoRALinear
from polysoma.nn.images import ImageConfig
from polysoma.nn.words import MOST_WORDS, lacking
from polysoma.policy.adaptation import Adaptation, share, shared_names
from polysoma.policy.config import PolicyConfig
from polysoma.policy.kin import begun_as, take_over
from polysoma.policy.policy import Policy


def extend(
    policy: Policy,
    embodiments: Sequence[Embodiment],
    statistics: Mapping[str, Mapping[str, Statistics]],
    vocabulary: Sequence[str],
    images: ImageConfig | None = None,
    renewed: Collection[str] = (),
    keep: bool = True,
    relative: Collection[str] = (),
    gated: Collection[str] = (),
    frames_per_demonstration: int = 0,
    horizons: Mapping[str, Horizon] | None = None,
) -> Policy:
    """A policy that also knows these bodies and words, with all the weights that the given one has and that still fit.

    Bodies that are known already keep their own statistics. A new body begins as the known one whose channels are
    called alike (:mod:`polysoma.policy.kin`); what else is new starts at random. Adaptations that are attached stay
    attached for bodies that are not among ``embodiments``: those learn with the new policy's own weights.

    Args:
        policy: that is extended.
        embodiments: bodies to know.
        statistics: those of bodies that are not known.
        vocabulary: words to know. Of an instruction it reads as many as new policies do.
        images: how pictures become tokens from now on; None leaves that as it is.
        renewed: names of known bodies that may differ from what is known: they are as described here, and keep
            the weights that still fit.
        keep: whether bodies that are not among ``embodiments`` stay known.
        relative: bodies whose actions are relative from now on (:class:`PolicyConfig`); where they were not, the
            head is new.
        gated: bodies that learn from now on whether a place or an offset counts; where they did not, the head is new.
        frames_per_demonstration: that it is to read; a policy that reads some already keeps to these.
        horizons: how it looks at bodies from now on; a body without one is looked at as before, or where it is new
            by :meth:`Horizon.default`. Where a known body's changes, the weights that do not fit are new.

    Raises:
        PolysomaError: a body of a known name differs from the known one.
    """
    old = policy.config
    known = {body.name: body for body in old.embodiments}
    for body in embodiments:
        if body.name in known and body.name not in renewed:
            policy.check_same(body)
        known[body.name] = body
    if not keep:
        known = {body.name: body for body in embodiments}
    looks = {
        body.name: (horizons or {}).get(body.name)
        or old.horizons.get(body.name)
        or Horizon.default(body.rate_hz, isinstance(body.actions, DiscreteActions))
        for body in known.values()
    }

    changed = {*relative} - {*old.relative} | {*gated} - {*old.gated}

    def kept(name: str) -> dict[str, Statistics]:
        # Statistics of offsets are of every place in a chunk.
        same = name in old.horizons and old.horizons[name].chunk == looks[name].chunk
        same = same and known[name].body not in changed
        own = old.statistics.get(name, {})
        return {stream: value for stream, value in own.items() if same or stream != "offset"}

    groups = {body.body for body in known.values()}
    learnt = {body.name for body in embodiments}
    config = dataclasses.replace(
        old,
        embodiments=tuple(known.values()),
        statistics={name: {**statistics.get(name, {}), **kept(name)} for name in known},
        vocabulary=(*old.vocabulary, *lacking(vocabulary, old.vocabulary)),
        most_words=max(old.most_words, MOST_WORDS),
        images=images or old.images,
        relative=tuple(sorted(({*old.relative} - {*gated} | {*relative}) & groups)),
        gated=tuple(sorted(({*old.gated} - {*relative} | {*gated}) & groups)),
        frames_per_demonstration=old.frames_per_demonstration or frames_per_demonstration,
        horizons=looks,
        readouts={group: own for group, own in old.readouts.items() if group in groups},
        corrections={name: own for name, own in old.corrections.items() if name in known and name not in learnt},
    )
    fresh = Policy(config)
    own, mine = fresh.state_dict(), dict(policy.state_dict())
    for name in policy.names_of("words"):
        words = mine.pop(name)
        own[name][: len(words)] = words
    other = {id(fresh.heads[group]) for group in changed & groups}
    renewed_heads = {
        f"{path}.{name}"
        for path, module in fresh.named_modules()
        if id(module) in other
        for name in module.state_dict()
    }
    fitting = {
        name: value
        for name, value in mine.items()
        if name in own and own[name].shape == value.shape and name not in renewed_heads
    }
    fresh.load_state_dict(own | fitting)
    for name, kin in begun_as(embodiments, old).items():
        if kin is not None:
            take_over(fresh, fresh.embodiment(name), policy, kin)
    if lost := sorted(old.corrections.keys() & learnt):
        warnings.warn(f"what reward taught {', '.join(lost)} is left out of what learns on", PolysomaWarning, 2)
    for name, adaptation in policy.adaptations.items():
        bodies = {body.name for body in adaptation.config.embodiments}
        if bodies <= known.keys() - learnt:
            fresh.attach(name, _moved(adaptation, fresh))
    return fresh.train(policy.training)


def _moved(adaptation: Policy, base: Policy) -> Policy:
    """The same adaptation beside another base, an extended one."""
    old = adaptation.config
    assert old.adaptation is not None
    own_words = old.vocabulary[len(old.vocabulary) - old.adaptation.words :]
    rows = [row for row, word in enumerate(own_words) if word not in base.config.vocabulary]
    config = dataclasses.replace(
        old,
        vocabulary=(*base.config.vocabulary, *(own_words[row] for row in rows)),
        images=old.images if old.adaptation.eyes else base.config.images,
        frames_per_demonstration=base.config.frames_per_demonstration,
        adaptation=dataclasses.replace(old.adaptation, words=len(rows)),
    )
    fresh = with_base(base, config)
    own = adaptation.own()
    if adaptation.text.own is not None and fresh.text.own is not None:
        (name,) = (n for n, value in adaptation.named_parameters() if value is adaptation.text.own.weight)
        own[name] = own[name][torch.tensor(rows)]
    fresh.load_own({name: value for name, value in own.items() if name in fresh.own()}, partly=True)
    return fresh


def with_base(base: Policy, config: PolicyConfig) -> Policy:
    """A policy of this configuration, which has an adaptation, that shares all that it can with its base. What it has
    of its own starts at random."""
    if config.adaptation is None or base.config.adaptation is not None:
        raise PolysomaError("expected the configuration of an adaptation, and a base that stands alone")
    policy = Policy(config)
    names = shared_names(policy, base, config.adaptation)
    share(policy, base, names)
    policy.shared = frozenset(names)
    return policy.train(base.training)


def adapt(
    base: Policy,
    adaptation: Adaptation,
    embodiments: Sequence[Embodiment],
    statistics: Mapping[str, Mapping[str, Statistics]],
    vocabulary: Sequence[str],
    horizons: Mapping[str, Horizon] | None = None,
    gated: Collection[str] = (),
    images: ImageConfig | None = None,
) -> Policy:
    """A policy of these bodies alone that shares the base's weights, which take no more gradients, and has a few of its
    own. Bodies that are known begin with the weights and statistics that they have.

    Args:
        base: whose weights.
        adaptation: which method; its number of words is counted here.
        embodiments: bodies to drive.
        statistics: those of bodies that are not known.
        vocabulary: words to know.
        horizons, gated: as for :func:`extend`.
        images: of an adaptation with eyes of its own; None for the base's kind.

    Raises:
        PolysomaError: the base is an adaptation itself, or a body of a known name differs from the known one.
    """
    start = extend(base, embodiments, statistics, vocabulary, images, keep=False, gated=gated, horizons=horizons)
    words = len(start.config.vocabulary) - len(base.config.vocabulary)
    config = dataclasses.replace(start.config, adaptation=dataclasses.replace(adaptation, words=words))
    policy = with_base(base, config).freeze_shared()
    own = policy.own()
    policy.load_own({name: value for name, value in start.state_dict().items() if name in own}, partly=True)
    if policy.text.own is not None:
        with torch.no_grad():
            policy.text.own.weight.copy_(start.text.words.weight[-words:])
    return policy


def merge_adapter(policy: Policy) -> Policy | None:
    """A policy that does the same with all its weights as its own, low-rank matrices multiplied into the trunk's;
    itself where it adapts no other, None where what it adds is no change of weights (prompts, bottlenecks)."""
    if policy.config.adaptation is None:
        return policy
    if policy.config.adaptation.method in ("prompt", "adapter"):
        return None
    alone = Policy(dataclasses.replace(policy.config, adaptation=None))
    with torch.no_grad():
        mine, theirs = dict(policy.named_modules()), dict(alone.named_modules())
        state = {name: value for name, value in policy.state_dict().items() if name in alone.state_dict()}
        for name, module in theirs.items():
            low_rank = mine.get(name)
            if isinstance(low_rank, LoRALinear):
                state[f"{name}.weight"] = low_rank.dense()
            elif module is alone.text.words:
                state[f"{name}.weight"] = policy.text.table()
    alone.load_state_dict(state)
    return alone.train(policy.training)

"""Kin: what a body that a policy does not know takes over from one that it knows, by the names of its channels.

Two quadrupeds call their joints alike, and so do one robot and the same robot with another camera. The maps of states
and of actions are linear (:class:`~polysoma.nn.tokenizers.StateTokenizer`, :class:`~polysoma.nn.heads.L1Head`), with a
column or a row for each channel, so a new body can begin with those of a known one. Values are normalised by each
body's own statistics on both sides.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from polysoma.data.statistics import Statistics
from polysoma.embodiment import Channel, ContinuousActions, Embodiment, Modality, Stream
from polysoma.nn.heads import L1Head
from polysoma.nn.tokenizers import PreviousAction, StateTokenizer
from polysoma.policy.config import PolicyConfig
from polysoma.policy.network import Network

_Key = tuple[str, str]
"""Of a channel: its name and its unit."""
_NUMBERED = re.compile(r"(action|state|observation|motor|dim|a|s)?s?[_.]?\d+|actions?|states?|observations?", re.I)
"""Names that channels have for want of a name."""


def kin_of(body: Embodiment, known: Iterable[Embodiment]) -> Embodiment | None:
    """The known body that is most like this one. It moves by the same commands and senses at least half of the state
    channels of this one; first counts whether both are observations of one body, then how many state channels they
    share, then how many cameras. None where there is no such body.

    Channels are the same where name and unit are; their order, groups and limits may differ. What is numbered for want
    of names (``action_0``) is nobody's.
    """
    commands, states, cameras = _commands(body), _states(body), _cameras(body)

    def shared(other: Embodiment) -> tuple[bool, int, int]:
        return other.body == body.body, len(states & _states(other)), len(cameras & _cameras(other))

    alike = [
        other
        for other in known
        if commands and commands <= _commands(other) and 2 * shared(other)[1] >= len(states) > 0
    ]
    return max(alike, key=shared, default=None)


def begun_as(bodies: Iterable[Embodiment], policy: PolicyConfig) -> dict[str, Embodiment | None]:
    """As whom each body begins that a policy does not know, by its name: its kin, or None where all of it is new. So it
    is in policies of described channels (:mod:`polysoma.nn.described`), which need no kin, and of other heads than L1;
    and nobody begins as a body whose commands are offsets or gated."""
    known = {body.name for body in policy.embodiments}
    fit = policy.adapters == "linear" and policy.head.kind == "l1"
    places = [body for body in policy.embodiments if fit and body.body not in (*policy.relative, *policy.gated)]
    return {body.name: kin_of(body, places) for body in bodies if body.name not in known}


def shrunk(
    own: Mapping[str, Statistics], body: Embodiment, given: Mapping[str, Statistics], kin: Embodiment, share: float
) -> dict[str, Statistics]:
    """Statistics of a new body of which few data say little: means and spreads of the channels that its kin has, too,
    are those of both bodies' values mixed. All else is the body's own, and so are channels that are constant in the
    kin, of which nothing was learnt.

    Args:
        own: of the body's state streams and of ``"action"``, by name.
        body: the new one.
        given: of the kin, likewise.
        kin: from :func:`kin_of`.
        share: of its own in the mixture, from 0 to 1.
    """
    pairs = [(stream.name, stream.channels, like.name, like.channels) for stream, like in _pairs(body, kin)]
    if isinstance(body.actions, ContinuousActions) and isinstance(kin.actions, ContinuousActions):
        pairs.append(("action", body.actions.channels, "action", kin.actions.channels))
    found = dict(own)
    for name, channels, like, others in pairs:
        if name not in own or like not in given:
            continue
        to, source = _shared(_keys(channels), _keys(others))
        varying = [place for place, constant in enumerate(given[like].constant[source]) if not constant]
        to, source = [to[place] for place in varying], [source[place] for place in varying]
        mine, theirs = own[name], given[like]
        mean, std = mine.mean.copy(), mine.std.copy()
        apart = theirs.mean[source] - mine.mean[to]
        mean[to] += (1 - share) * apart
        variance = share * mine.std[to] ** 2 + (1 - share) * theirs.std[source] ** 2 + share * (1 - share) * apart**2
        std[to] = np.sqrt(variance)
        found[name] = dataclasses.replace(mine, mean=mean, std=std)
    return found


@torch.no_grad()
def take_over(network: Network, body: Embodiment, known: Network, kin: Embodiment) -> None:
    """Gives a new body what is known of its kin: what tokens say of every channel that both have, the readout, and the
    rows of the head for every command. What has no like keeps its values, and so does the head of a body that is
    known, however it is observed.

    Args:
        network: changed in place; it has ``body``.
        body: the new one.
        known: has ``kin``.
        kin: from :func:`begun_as`.
    """
    mine, theirs = network.bodies[body.name], known.bodies[kin.name]
    for stream, like in _pairs(body, kin):
        own, given = mine.streams[stream.name], theirs.streams[like.name]
        if isinstance(own, StateTokenizer) and isinstance(given, StateTokenizer):
            _take_columns(own, stream.channels, given, like.channels)
    assert isinstance(body.actions, ContinuousActions) and isinstance(kin.actions, ContinuousActions)
    commands, others = body.actions.channels, kin.actions.channels
    if isinstance(mine.previous, StateTokenizer) and isinstance(theirs.previous, StateTokenizer):
        _take_columns(mine.previous, commands, theirs.previous, others)
    elif isinstance(mine.previous, PreviousAction) and isinstance(theirs.previous, PreviousAction):
        to, source = _shared(_keys(commands), _keys(others))
        mine.previous.weight[:, to] = theirs.previous.weight[:, source].to(mine.previous.weight)
        mine.previous.bias.copy_(theirs.previous.bias)
    # Both end with the present frame.
    for new, old in ((mine.time, theirs.time), (network.readouts[body.name], known.readouts[kin.name])):
        frames = min(len(new), len(old))
        new[-frames:] = old[-frames:].to(new)
    if body.body not in {other.body for other in known.config.embodiments}:
        own_head, given_head = network.heads[body.body], known.heads[kin.body]
        if isinstance(own_head, L1Head) and isinstance(given_head, L1Head):
            _take_rows(own_head, commands, given_head, others, kin.rate_hz / body.rate_hz)


def _keys(channels: Iterable[Channel]) -> list[_Key]:
    return [(channel.name, channel.unit) for channel in channels]


def _commands(body: Embodiment) -> set[_Key]:
    named = set(_keys(body.actions.channels)) if isinstance(body.actions, ContinuousActions) else set()
    return set() if any(_NUMBERED.fullmatch(name) for name, _ in named) else named


def _states(body: Embodiment) -> set[_Key]:
    keys = {key for stream in body.streams for key in _keys(stream.channels)}
    return {key for key in keys if not _NUMBERED.fullmatch(key[0])}


def _cameras(body: Embodiment) -> set[str]:
    return {stream.name for stream in body.streams if stream.modality is Modality.IMAGE}


def _pairs(body: Embodiment, kin: Embodiment) -> list[tuple[Stream, Stream]]:
    """Each state stream of a body, with the one of its kin that shares most channels with it; of several such ones,
    with that of its name."""
    states = [stream for stream in kin.streams if stream.modality is Modality.STATE]

    def like(stream: Stream) -> Stream:
        keys = {*_keys(stream.channels)}
        return max(states, key=lambda other: (len(keys & {*_keys(other.channels)}), other.name == stream.name))

    return [(stream, like(stream)) for stream in body.streams if stream.modality is Modality.STATE]


def _shared(keys: Sequence[_Key], others: Sequence[_Key]) -> tuple[list[int], list[int]]:
    """The places of the channels that both have, in either."""
    both = [key for key in keys if key in others]
    return [keys.index(key) for key in both], [others.index(key) for key in both]


def _groups(channels: Iterable[Channel], sizes: Iterable[int]) -> list[list[_Key]]:
    keys = iter(_keys(channels))
    return [list(itertools.islice(keys, size)) for size in sizes]


def _waves(tokenizer: StateTokenizer) -> list[Tensor]:
    """The matrices of waves; one for each group, or none."""
    return [part.weight for part in tokenizer.waved if isinstance(part, nn.Linear)]


def _take_columns(
    own: StateTokenizer, channels: Sequence[Channel], given: StateTokenizer, others: Sequence[Channel]
) -> None:
    """A group of channels is read by one matrix, so it takes from the one group that is most like it; of several such
    ones, from that at its place."""
    groups, known = _groups(channels, own.sizes), _groups(others, given.sizes)
    own_waves, given_waves = _waves(own), _waves(given)
    whole = own.tokens == given.tokens
    for place, group in enumerate(groups):
        like = max(range(len(known)), key=lambda other: (len({*group} & {*known[other]}), other == place))
        to, source = _shared(group, known[like])
        mine, theirs = own.linears[place], given.linears[like]
        assert isinstance(mine, nn.Linear) and isinstance(theirs, nn.Linear)
        if not to or mine.out_features != theirs.out_features:
            whole = False
            continue
        whole = whole and place == like
        mine.weight[:, to] = theirs.weight[:, source].to(mine.weight)
        mine.bias.copy_(theirs.bias)
        if own_waves and given_waves:
            # Sines, then cosines, of each channel at each frequency (waves.py).
            waves = own_waves[place].unflatten(1, (2, len(group), -1))
            waves[:, :, to] = given_waves[like].unflatten(1, (2, len(known[like]), -1))[:, :, source].to(waves)
    if whole and own.told is not None and given.told is not None:
        # What words make of the tokens, which are the same ones only where all groups are.
        assert own.factors is not None and given.factors is not None
        own.told.weight.copy_(given.told.weight)
        own.factors.weight.copy_(given.factors.weight)


def _take_rows(
    own: L1Head, channels: Sequence[Channel], given: L1Head, others: Sequence[Channel], slower: float
) -> None:
    """Each step takes from the one of the same moment, or from the last one; ``slower``: how many steps of the kin are
    one of the new body."""
    _, places = _shared(_keys(channels), _keys(others))
    steps = [min(int(step * slower + 0.5), given.chunk - 1) for step in range(own.chunk)]
    for mine, theirs in ((own.linear.weight, given.linear.weight), (own.linear.bias, given.linear.bias)):
        rows = theirs.unflatten(0, (given.chunk, -1))
        mine.copy_(rows[steps][:, places].flatten(0, 1))

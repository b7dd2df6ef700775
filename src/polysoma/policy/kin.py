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

import torch
from torch import Tensor, nn

from polysoma.data.statistics import Statistics
from polysoma.embodiment import Channel, ContinuousActions, Embodiment, Modality, Stream
from polysoma.nn.heads import GatedHead, L1Head
from polysoma.nn.tokenizers import StateTokenizer
from polysoma.policy.config import PolicyConfig
from polysoma.policy.network import Network

_Key = tuple[str, str]
"""Of a channel: its name and its unit."""
_NUMBERED = re.compile(r"(action_?)?\d+")


def kin_of(body: Embodiment, known: Iterable[Embodiment]) -> Embodiment | None:
    """The known body that moves by the same commands as this one and shares most state channels with it, and then most
    cameras. None where none of them is commanded alike, or senses at least half of the state channels of this one.
    Channels are the same where name and unit are; their order, groups and limits may differ. Commands that are numbered
    for want of names (``action_0``) are nobody's."""
    commands, states, cameras = _commands(body), _states(body), _cameras(body)
    alike = [other for other in known if commands and commands <= _commands(other)]

    def shared(other: Embodiment) -> tuple[int, int]:
        return len(states & _states(other)), len(cameras & _cameras(other))

    found = max(alike, key=shared, default=None)
    return found if found is not None and 2 * shared(found)[0] >= len(states) > 0 else None


def begun_as(bodies: Iterable[Embodiment], policy: PolicyConfig) -> dict[str, Embodiment | None]:
    """As whom each body begins that a policy does not know, by its name: its kin, or None where all of it is new, as
    with described channels (:mod:`polysoma.nn.described`), which need no kin."""
    known = {body.name for body in policy.embodiments}
    return {
        body.name: kin_of(body, policy.embodiments) if policy.adapters == "linear" else None
        for body in bodies
        if body.name not in known
    }


def shrunk(
    own: Mapping[str, Statistics], body: Embodiment, given: Mapping[str, Statistics], kin: Embodiment, share: float
) -> dict[str, Statistics]:
    """Statistics of a new body of which few data say little: means and spreads of the channels that its kin has, too,
    are drawn towards the kin's (shrinkage, James & Stein 1961). All else is the body's own.

    Args:
        own: of the body's state streams and of ``"action"``, by name.
        body: the new one.
        given: of the kin, likewise.
        kin: from :func:`kin_of`.
        share: how much its own count, from 0 to 1.
    """
    theirs = {
        (stream == "action", key): (given[stream].mean[place], given[stream].std[place])
        for stream, channels in _channels(kin).items()
        if stream in given
        for place, key in enumerate(_keys(channels))
    }
    found = dict(own)
    for stream, channels in _channels(body).items():
        if stream not in own:
            continue
        mean, std = own[stream].mean.copy(), own[stream].std.copy()
        for place, key in enumerate(_keys(channels)):
            if (known := theirs.get((stream == "action", key))) is not None:
                mean[place] += (1 - share) * (known[0] - mean[place])
                std[place] += (1 - share) * (known[1] - std[place])
        found[stream] = dataclasses.replace(own[stream], mean=mean, std=std)
    return found


@torch.no_grad()
def take_over(network: Network, body: Embodiment, known: Network, kin: Embodiment) -> None:
    """Gives a new body what is known of its kin: what tokens say of every state channel that both have, the readout,
    and the rows of the head for every command. What has no like keeps its values.

    Args:
        network: changed in place; it has ``body``, and linear maps of its own for each body.
        body: the new one.
        known: has ``kin``.
        kin: from :func:`kin_of`.
    """
    mine, theirs = network.bodies[body.name], known.bodies[kin.name]
    streams = [stream for stream in kin.streams if stream.modality is Modality.STATE]
    for stream in body.streams:
        if stream.modality is Modality.STATE:
            like = streams[_nearest(_keys(stream.channels), [_keys(other.channels) for other in streams])]
            own, given = mine.streams[stream.name], theirs.streams[like.name]
            if isinstance(own, StateTokenizer) and isinstance(given, StateTokenizer):
                _take_columns(own, stream, given, like)
    for new, old in ((mine.time, theirs.time), (network.readouts[body.name], known.readouts[kin.name])):
        if new.shape == old.shape:
            new.copy_(old)
    if body.body != kin.body:  # One body has one head, however it is observed.
        _take_rows(network, body, known, kin)


def _keys(channels: Iterable[Channel]) -> list[_Key]:
    return [(channel.name, channel.unit) for channel in channels]


def _channels(body: Embodiment) -> dict[str, Sequence[Channel]]:
    """The channels of each state stream and of ``"action"``."""
    found: dict[str, Sequence[Channel]] = {s.name: s.channels for s in body.streams if s.modality is Modality.STATE}
    return found | ({"action": body.actions.channels} if isinstance(body.actions, ContinuousActions) else {})


def _commands(body: Embodiment) -> set[_Key]:
    named = set(_keys(body.actions.channels)) if isinstance(body.actions, ContinuousActions) else set()
    return set() if any(_NUMBERED.fullmatch(name) for name, _ in named) else named


def _states(body: Embodiment) -> set[_Key]:
    return {key for stream in body.streams for key in _keys(stream.channels)}


def _cameras(body: Embodiment) -> set[str]:
    return {stream.name for stream in body.streams if stream.modality is Modality.IMAGE}


def _nearest(keys: Sequence[_Key], others: Sequence[Sequence[_Key]]) -> int:
    return max(range(len(others)), key=lambda place: len({*keys} & {*others[place]}))


def _groups(stream: Stream, sizes: Iterable[int]) -> list[list[_Key]]:
    keys = iter(_keys(stream.channels))
    return [list(itertools.islice(keys, size)) for size in sizes]


def _waves(tokenizer: StateTokenizer) -> list[Tensor]:
    """The matrices of waves; one for each group, or none."""
    return [part.weight for part in tokenizer.waved if isinstance(part, nn.Linear)]


def _take_columns(own: StateTokenizer, stream: Stream, given: StateTokenizer, like: Stream) -> None:
    """A group of channels is read by one matrix, so it takes from the one group that is most like it."""
    groups, others = _groups(stream, own.sizes), _groups(like, given.sizes)
    # As state tokenizers of one policy, both have waves or neither.
    own_waves, given_waves = (
        [part.weight for part in one.waved if isinstance(part, nn.Linear)] for one in (own, given)
    )
    whole = own.tokens == given.tokens
    for place, group in enumerate(groups):
        other = _nearest(group, others)
        shared = [key for key in group if key in others[other]]
        mine, theirs = own.linears[place], given.linears[other]
        assert isinstance(mine, nn.Linear) and isinstance(theirs, nn.Linear)
        if not shared or mine.out_features != theirs.out_features:
            whole = False
            continue
        whole = whole and place == other
        to, source = [group.index(key) for key in shared], [others[other].index(key) for key in shared]
        mine.weight[:, to] = theirs.weight[:, source]
        mine.bias.copy_(theirs.bias)
        if own_waves and given_waves:
            # Sines, then cosines, of each channel at each frequency (waves.py).
            waves = own_waves[place].unflatten(1, (2, len(group), -1))
            waves[:, :, to] = given_waves[other].unflatten(1, (2, len(others[other]), -1))[:, :, source]
    if whole and own.told is not None and given.told is not None:
        # What words make of the tokens, which are the same ones only where all groups are.
        assert own.factors is not None and given.factors is not None
        own.told.weight.copy_(given.told.weight)
        own.factors.weight.copy_(given.factors.weight)


def _take_rows(network: Network, body: Embodiment, known: Network, kin: Embodiment) -> None:
    own, given = network.heads[body.body], known.heads[kin.body]
    if type(own) is not type(given) or not isinstance(own, L1Head | GatedHead):
        return
    assert isinstance(given, L1Head | GatedHead)
    assert isinstance(body.actions, ContinuousActions) and isinstance(kin.actions, ContinuousActions)
    order = _keys(kin.actions.channels)
    channels = [order.index(key) for key in _keys(body.actions.channels)]
    # The step of the same moment, or the last one.
    steps = [min(round(step * kin.rate_hz / body.rate_hz), given.chunk - 1) for step in range(own.chunk)]
    parts: Sequence[tuple[Tensor, Tensor]] = (
        (own.linear.weight, given.linear.weight),
        (own.linear.bias, given.linear.bias),
    )
    for mine, theirs in parts:
        rows = theirs.unflatten(0, (-1, given.chunk, len(order)))
        mine.copy_(rows[:, steps][:, :, channels].flatten(0, 2))

"""Described channels: adapters made from what channels are called, their units and their limits.

A linear adapter has a column of weights for each channel of each body. Here one small network writes these columns
from the channels' descriptions, so that channels called alike are treated alike whichever body they are of, any number
of actuators is served, and a body that was never seen needs no weights of its own.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.data.statistics import Statistics
from polysoma.embodiment import Channel, ContinuousActions, Embodiment, Modality
from polysoma.nn.heads import RegressionHead

BUCKETS = 4096
SIZE = 128
TIMES = 16
MAX_HISTORY = 64


def describe(channels: Sequence[Channel], role: str) -> tuple[Tensor, Tensor]:
    """Channels as numbers.

    Args:
        channels: C of them.
        role: what they are to a policy: ``"state"``, ``"action"``, ``"previous"``.

    Returns:
        Ids of the words of each one's name, group, unit and role, int64 ``(C, W)``, padded with 0; and its limits,
        float32 ``(C, 4)``: whether there is a lower and an upper one, and their signed logarithms.
    """
    rows = []
    for channel in channels:
        words = re.findall(r"[a-z]+|\d+", f"{channel.name} {channel.group}".lower())
        rows.append([_bucket(word) for word in (*words, f"unit {channel.unit}", f"role {role}")])
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    limits = torch.tensor([[channel.low, channel.high] for channel in channels])
    known = limits.isfinite()
    limits = limits.where(known, torch.zeros(()))
    return ids, torch.cat([known.float(), limits.sign() * limits.abs().log1p()], 1)


def expected_statistics(
    body: Embodiment, known: Sequence[Embodiment], statistics: Mapping[str, Mapping[str, Statistics]]
) -> dict[str, Statistics]:
    """Statistics of a body of which there is no data, for each of its state streams and ``"action"``.

    Args:
        body: the new one.
        known: bodies with data; the first that has a channel of the same role, name and unit lends it its statistics.
            A channel that none has gets a mean in the middle of its limits and half their distance as four standard
            deviations, or 0 and 1 where it has no limits.
        statistics: of the known bodies, by body and stream.
    """
    lent: dict[tuple[str, str, str], list[float]] = {}
    for other in known:
        for role, name, members in _streams(other):
            if name in statistics[other.name]:
                arrays = statistics[other.name][name].arrays()
                for number, channel in enumerate(members):
                    row = [float(array[number]) for array in arrays.values()]
                    lent.setdefault((role, channel.name, channel.unit), row)
    return {
        name: Statistics.from_rows([lent.get((role, c.name, c.unit)) or _from_limits(c) for c in members])
        for role, name, members in _streams(body)
    }


def _streams(body: Embodiment) -> list[tuple[str, str, tuple[Channel, ...]]]:
    """Role, name and channels of all that statistics are kept of."""
    found = [("state", stream.name, stream.channels) for stream in body.streams if stream.modality is Modality.STATE]
    return found + (
        [("action", "action", body.actions.channels)] if isinstance(body.actions, ContinuousActions) else []
    )


def _from_limits(channel: Channel) -> list[float]:
    low, high = channel.low, channel.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return [0.0, 1.0, -2.0, 2.0, -2.0, 2.0]
    return [(low + high) / 2, (high - low) / 4, low, high, low, high]


def _bucket(word: str) -> int:
    # Names that no training had still have ids; two of thousands of words rarely share one.
    return 1 + zlib.crc32(word.encode()) % BUCKETS


class ChannelReader(nn.Module):
    """Writes the weights of all described adapters of a policy."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(BUCKETS + 1, SIZE, padding_idx=0)
        self.limits = nn.Linear(4, SIZE)
        self.mlp = nn.Sequential(
            nn.LayerNorm(SIZE), nn.Linear(SIZE, 2 * SIZE), nn.GELU(), nn.Linear(2 * SIZE, SIZE), nn.LayerNorm(SIZE)
        )
        self.columns = nn.Linear(SIZE, 2 * width)
        self.asked = nn.Linear(SIZE, width)
        self.time = nn.Parameter(torch.randn(MAX_HISTORY, width) * 0.02)
        self.channel, self.moment = nn.Linear(SIZE, SIZE), nn.Linear(2 * TIMES, SIZE)
        self.rows = nn.Linear(SIZE, width + 1)

    def read(self, ids: Tensor, limits: Tensor) -> Tensor:
        """What :func:`describe` says of C channels to vectors ``(C, SIZE)``."""
        count = (ids != 0).sum(1, keepdim=True)
        x: Tensor = self.mlp(self.words(ids).sum(1) * count**-0.5 + self.limits(limits))
        return x

    def inputs(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """What each of C channels adds to a token for each unit of its value, and by being there: ``(C, width)``."""
        factor, offset = self.columns(read).chunk(2, 1)
        return factor, offset

    def readout(self, read: Tensor) -> Tensor:
        """The readout ``(width,)`` that asks for actions of these channels."""
        x: Tensor = self.asked(read.mean(0))
        return x

    def outputs(self, read: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """Weights ``(chunk, C, width)`` and biases ``(chunk, C)`` of linear maps from a readout to future actions."""
        step = torch.arange(chunk, device=read.device)[:, None]
        phase = step * 0.5 ** torch.arange(TIMES, device=read.device) * math.pi
        moment = self.moment(torch.cat([phase.sin(), phase.cos()], 1))
        rows = self.rows(F.relu(self.channel(read) + moment[:, None]))
        return rows[..., :-1], rows[..., -1]


class _Described(nn.Module):
    """Channels and the reader of their policy, which is not an adapter's own and so not among its parameters."""

    ids: Tensor
    limits: Tensor
    mean: Tensor
    scale: Tensor

    def _describe(self, reader: ChannelReader, channels: Sequence[Channel], role: str, statistics: Statistics) -> None:
        self._reader = (reader,)
        ids, limits = describe(channels, role)
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("limits", limits, persistent=False)
        self.register_buffer("mean", torch.as_tensor(statistics.mean), persistent=False)
        self.register_buffer("scale", torch.as_tensor(statistics.scale), persistent=False)

    @property
    def reader(self) -> ChannelReader:
        return self._reader[0]

    def _read(self) -> Tensor:
        return self.reader.read(self.ids, self.limits)


class DescribedState(_Described):
    """Channels ``(..., C)``, normalised, to tokens ``(..., K, width)``: one for up to ``most`` neighbours of a group.

    Args:
        reader: the policy's.
        channels: C of them.
        role: see :func:`describe`.
        statistics: of their values.
        most: channels a token; None for one token in all.
        clip: standard deviations at which values are cut.
    """

    def __init__(
        self,
        reader: ChannelReader,
        channels: Sequence[Channel],
        role: str,
        statistics: Statistics,
        most: int | None,
        clip: float,
    ) -> None:
        super().__init__()
        self._describe(reader, channels, role, statistics)
        self.clip = clip
        self.sizes = [len(channels)]
        if most is not None:
            runs = [len(list(run)) for _, run in itertools.groupby(channels, key=lambda channel: channel.group)]
            self.sizes = [min(most, run - begin) for run in runs for begin in range(0, run, most)]
        self.tokens = len(self.sizes)

    def forward(self, state: Tensor) -> Tensor:
        x = ((state - self.mean) / self.scale).clamp(-self.clip, self.clip)
        factor, offset = self.reader.inputs(self._read())
        parts = zip(x.split(self.sizes, -1), factor.split(self.sizes), offset.split(self.sizes), strict=True)
        tokens = [(part @ own) * len(own) ** -0.5 + base.mean(0) for part, own, base in parts]
        return torch.stack(tokens, -2)


class DescribedHead(RegressionHead, _Described):
    """A linear map that the reader writes."""

    def __init__(self, reader: ChannelReader, actions: ContinuousActions, chunk: int, statistics: Statistics) -> None:
        super().__init__()
        self._describe(reader, actions.channels, "action", statistics)
        self.chunk = chunk

    def readout(self) -> Tensor:
        """The token ``(width,)`` that asks for this body's actions."""
        return self.reader.readout(self._read())

    def _predict(self, readouts: Tensor) -> Tensor:
        weight, bias = self.reader.outputs(self._read(), self.chunk)
        flat = readouts @ weight.flatten(0, 1).T * weight.shape[-1] ** -0.5
        return flat.float().unflatten(-1, bias.shape) + bias.float()

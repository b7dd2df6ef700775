"""Tokenizers: each turns one modality into tokens of the trunk's width.

All take and give tensors with a batch of windows in front: frames are ``(B, T, ...)``, tokens ``(B, T, K, width)``.
What depends on the instruction alone is computed apart (``read``), as it holds for a whole episode.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.data.statistics import Statistics
from polysoma.embodiment import Channel, DiscreteActions, Embodiment, Modality, Stream
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.nn.attention import BLOCKED
from polysoma.nn.described import ChannelReader, DescribedState
from polysoma.nn.named import Modules
from polysoma.nn.waves import waves

STATE_CLIP = 8.0
"""Standard deviations at which normalised state is cut: what lies further out says only "far"."""

SLOWEST = math.pi / 4
"""Of the waves of a state: radians for each standard deviation."""

CHANNELS_PER_TOKEN = 24
GRID_WIDTH = 64
GRID_SYMBOLS_LIMIT = 4096


class StateTokenizer(nn.Module):
    """Named continuous channels: normalised by the body's statistics, then a linear map for each group of channels.

    A group becomes one token for every CHANNELS_PER_TOKEN channels that it has; ``single`` asks for one token in all.
    With ``frequencies`` the map is of waves of each channel, too. With ``film`` the words scale what tokens say, at
    that rank (FiLM, Perez et al. 2018, arXiv 1709.07871): which of several like groups an instruction speaks of is a
    product of both, which attention alone finds late.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        channels: Sequence[Channel],
        statistics: Statistics,
        width: int,
        single: bool,
        frequencies: int,
        film: int = 0,
    ) -> None:
        super().__init__()
        runs = [len(list(run)) for _, run in itertools.groupby(channels, key=lambda channel: channel.group)]
        self.sizes = [len(channels)] if single else runs
        counts = [1 if single else math.ceil(size / CHANNELS_PER_TOKEN) for size in self.sizes]
        self.tokens = sum(counts)
        self.linears = nn.ModuleList(
            nn.Linear(size, count * width) for size, count in zip(self.sizes, counts, strict=True)
        )
        self.frequencies = frequencies
        self.waved = nn.ModuleList(
            nn.Linear(2 * frequencies * size, count * width, bias=False)
            for size, count in (zip(self.sizes, counts, strict=True) if frequencies else ())
        )
        for waved in self.waved:
            assert isinstance(waved, nn.Linear)
            nn.init.normal_(waved.weight, std=0.02)
        self.told = nn.Linear(width, film, bias=False) if film else None
        self.factors = nn.Linear(film, self.tokens * width, bias=False) if film else None
        if self.told is not None and self.factors is not None:
            nn.init.normal_(self.told.weight, std=1.5 * width**-0.5)
            nn.init.zeros_(self.factors.weight)
        self.register_buffer("mean", torch.as_tensor(statistics.mean), persistent=False)
        self.register_buffer("scale", torch.as_tensor(statistics.scale), persistent=False)

    def read(self, words: Tensor, words_valid: Tensor) -> Tensor:
        """By what each instruction, ``(B, W, width)``, multiplies the tokens: ``(B, tokens, width)``, 1 at first. Only
        with ``film``."""
        assert self.told is not None and self.factors is not None
        true = words_valid[..., None].to(words.dtype)
        whole = (words * true).sum(1) / true.sum(1).clamp(min=1).sqrt()
        factors: Tensor = 1 + self.factors(self.told(whole)).unflatten(-1, (self.tokens, -1))
        return factors

    def forward(self, state: Tensor, factors: Tensor | None = None, which: Tensor | None = None) -> Tensor:
        """Tokens ``(B, T, tokens, width)``.

        Args:
            state: ``(B, T, channels)``.
            factors: of I instructions, from :meth:`read`; None where words do not count.
            which: int64 ``(B,)``, the instruction of each window; None where window b has instruction b.
        """
        groups = ((state - self.mean) / self.scale).clamp(-STATE_CLIP, STATE_CLIP).split(self.sizes, -1)
        parts = [linear(part) for linear, part in zip(self.linears, groups, strict=True)]
        if self.frequencies:
            fine = [waves(part, self.frequencies, SLOWEST) for part in groups]
            parts = [part + waved(one) for part, waved, one in zip(parts, self.waved, fine, strict=True)]
        tokens = torch.cat(parts, -1).unflatten(-1, (self.tokens, -1))
        if factors is None:
            return tokens
        return tokens * (factors if which is None else factors.index_select(0, which))[:, None]


class SymbolTokenizer(nn.Module):
    """A few ids without spatial order: the sum of their embeddings is one token."""

    def __init__(self, stream: Stream, width: int) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in stream.cardinalities)

    def forward(self, symbols: Tensor) -> Tensor:
        columns = [embed(symbols[..., i].long()) for i, embed in enumerate(self.embeddings)]
        return torch.stack(columns).sum(0).unsqueeze(-2)


class GridTokenizer(nn.Module):
    """A grid of symbols to one token, read in the light of the instruction.

    Every symbol that can occur (a combination of the ids of one cell) first looks at the words, so that "the red ball"
    marks exactly those symbols that it speaks of, in the role that it gives them. That table has a few hundred rows
    for each instruction, however many frames there are. Cells look their symbol up; two convolutions and a linear map
    make one token of the grid.
    """

    combinations: Tensor

    def __init__(self, stream: Stream, width: int) -> None:
        super().__init__()
        rows, columns, _ = stream.shape
        symbols = math.prod(stream.cardinalities)
        if symbols > GRID_SYMBOLS_LIMIT:
            raise PolysomaError(
                f"stream {stream.name!r}: {symbols} different symbols a cell; a grid may have {GRID_SYMBOLS_LIMIT}"
            )
        hidden = GRID_WIDTH
        self.cardinalities = stream.cardinalities
        self.parts = nn.ModuleList(nn.Embedding(size, hidden) for size in stream.cardinalities)
        combinations = torch.from_numpy(np.indices(stream.cardinalities).reshape(-1, symbols).T.copy())
        self.register_buffer("combinations", combinations, persistent=False)
        self.query = nn.Linear(hidden, 2 * hidden)
        self.key_value = nn.Linear(width, 4 * hidden)
        self.merge = nn.Linear(2 * hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden))
        self.position = nn.Parameter(torch.randn(rows * columns, hidden) * 0.02)
        self.near = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.far = nn.Conv2d(hidden, 2 * hidden, 3, stride=2, padding=1)
        flat = 2 * hidden * math.ceil(rows / 2) * math.ceil(columns / 2)
        self.out = nn.Linear(flat, width)
        self.shape = (rows, columns)

    def read(self, words: Tensor, words_valid: Tensor) -> Tensor:
        """What each symbol means under each instruction: a table ``(B, symbols, hidden)``."""
        symbols: Tensor = torch.stack([embed(self.combinations[:, i]) for i, embed in enumerate(self.parts)]).sum(0)
        query = self.query(symbols).unflatten(-1, (4, -1)).transpose(0, 1)
        key, value = self.key_value(words).unflatten(-1, (2, 4, -1)).permute(2, 0, 3, 1, 4)
        mask = torch.zeros(words_valid.shape, device=words.device).masked_fill_(~words_valid, BLOCKED)
        logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + mask[:, None, None].to(query.dtype)
        found = (logits.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
        x = symbols + self.merge(found)
        return x + self.mlp(self.norm(x))

    def forward(self, grid: Tensor, table: Tensor, which: Tensor | None = None) -> Tensor:
        """A token of each grid, ``(B, T, 1, width)``.

        Args:
            grid: ``(B, T, rows, columns, ids)``.
            table: of I instructions, from :meth:`read`.
            which: int64 ``(B,)``, the instruction of each window; None where window b has instruction b.
        """
        batch, time, rows, columns, _ = grid.shape
        index = torch.zeros(grid.shape[:-1], dtype=torch.long, device=grid.device)
        for i, size in enumerate(self.cardinalities):
            index = index * size + grid[..., i].long()
        which = torch.arange(batch, device=grid.device) if which is None else which
        index = index.flatten(1) + (which * table.shape[1])[:, None]
        cells = F.embedding(index, table.flatten(0, 1)).view(batch * time, rows * columns, -1) + self.position
        x = cells.transpose(1, 2).unflatten(2, self.shape).contiguous(memory_format=torch.channels_last)
        x = F.relu(x + self.near(F.relu(x)))
        x = F.relu(self.far(x)).flatten(1)
        return self.out(x).view(batch, time, 1, -1)


def _told(tokenizer: nn.Module) -> GridTokenizer | StateTokenizer | None:
    """What reads its stream in the light of the words."""
    if isinstance(tokenizer, GridTokenizer) or (isinstance(tokenizer, StateTokenizer) and tokenizer.told is not None):
        return tokenizer
    return None


class PictureTokenizer(Protocol):
    """What all cameras of a policy go through (:class:`~polysoma.nn.images.ImageTokenizer` says of what shapes)."""

    def read(self, words: Tensor, ids: Tensor) -> Tensor: ...

    def __call__(self, pictures: Tensor, condition: Tensor, role: str) -> Tensor: ...


class PreviousChoice(nn.Embedding):
    """The named action executed last, or none, to one token."""

    tokens = 1

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).unsqueeze(-2)


class PreviousAction(nn.Linear):
    """The action executed last, which a long history says too, to one token."""

    tokens = 1

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).unsqueeze(-2)


class BodyTokenizer(nn.Module):
    """All observation streams of one embodiment to the tokens of its frames.

    A body without history gives a few tokens for each stream, and for the previous action where it asks for that. A
    body with history gives one token a frame, the sum of its streams' tokens and of the previous action's, so that a
    long history stays short in tokens. Pictures go through the one tokenizer of all bodies, which is not kept here but
    passed in.

    Args:
        body: whose streams.
        horizon: how the policy looks at it.
        statistics: of its state streams and of ``"action"``, by name.
        width: of tokens.
        image_tokens: of each camera's picture.
        reader: what writes the weights of described channels; None gives this body linear maps of its own.
        frequencies: of waves in which its own linear maps see channels.
        film: rank at which the words scale the tokens of its states; 0 for not at all.

    Attributes:
        per_frame: tokens of a frame.
        conditioned: the streams that are read in the light of the task, in the order of :meth:`read`.
    """

    def __init__(
        self,
        body: Embodiment,
        horizon: Horizon,
        statistics: dict[str, Statistics],
        width: int,
        image_tokens: int,
        reader: ChannelReader | None = None,
        frequencies: int = 0,
        film: int = 0,
    ) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.fused = horizon.history > 1
        self.cameras = [stream.name for stream in body.streams if stream.modality is Modality.IMAGE]
        self.streams: Modules[nn.Module] = Modules()
        self.per_frame = 0
        for stream in body.arrays:
            if stream.modality is Modality.STATE:
                if stream.name not in statistics:
                    raise PolysomaError(f"{body.name}: no statistics for stream {stream.name!r}")
                known = statistics[stream.name]
                tokenizer = self._of_channels(stream.channels, "state", known, width, reader, film)
                self.streams[stream.name] = tokenizer
                tokens = tokenizer.tokens
            elif stream.modality is Modality.SYMBOL:
                tokens = 1
                grid = len(stream.shape) == 3
                self.streams[stream.name] = GridTokenizer(stream, width) if grid else SymbolTokenizer(stream, width)
            else:
                tokens = image_tokens
            self.per_frame += tokens
        actions = body.actions
        self.previous: PreviousChoice | PreviousAction | StateTokenizer | DescribedState | None = None
        if self.fused or horizon.previous_action:
            if isinstance(actions, DiscreteActions):
                self.previous = PreviousChoice(actions.size + 1, width)
            elif self.fused and reader is None:
                self.previous = PreviousAction(actions.size, width)
            elif "action" not in statistics:
                raise PolysomaError(f"{body.name}: no statistics for its actions")
            else:
                self.previous = self._of_channels(actions.channels, "previous", statistics["action"], width, reader)
            self.per_frame = 1 if self.fused else self.per_frame + self.previous.tokens
        if reader is None:
            self.time = nn.Parameter(torch.randn(horizon.history, 1, width) * 0.02)
        self._reader = (reader,)
        self._names = list(self.streams)
        told = [name for name, tokenizer in self.streams.items() if _told(tokenizer)]
        self.conditioned = told + self.cameras

    def _of_channels(
        self,
        channels: Sequence[Channel],
        role: str,
        statistics: Statistics,
        width: int,
        reader: ChannelReader | None,
        film: int = 0,
    ) -> StateTokenizer | DescribedState:
        if reader is None:
            return StateTokenizer(channels, statistics, width, self.fused, self.frequencies, film)
        most = None if self.fused else CHANNELS_PER_TOKEN
        return DescribedState(reader, channels, role, statistics, most, STATE_CLIP)

    def read(self, words: Tensor, ids: Tensor, images: PictureTokenizer | None) -> dict[str, Tensor]:
        """What the instructions, tokens ``(B, W, width)`` of the numbers ``(B, W)``, make of streams that are read in
        their light, by stream."""
        conditioning = {
            name: told.read(words, ids != 0)
            for name, tokenizer in zip(self._names, self.streams.values(), strict=True)
            if (told := _told(tokenizer)) is not None
        }
        if self.cameras and images is not None:
            conditioning |= dict.fromkeys(self.cameras, images.read(words, ids))
        return conditioning

    def forward(
        self,
        observations: dict[str, Tensor],
        previous: Tensor,
        times: Tensor,
        conditioning: dict[str, Tensor],
        images: PictureTokenizer | None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Tokens ``(B, T, per_frame, width)`` of T frames.

        Args:
            observations: stream name to ``(B, T, *shape)``.
            previous: the action executed before each frame, ``(B, T, A)`` or int64 ``(B, T)``.
            times: int64 ``(B, T)`` or ``(1, T)``, which frames of their windows these are.
            conditioning: from :meth:`read`, of I instructions.
            images: the tokenizer of all cameras.
            rows: int64 ``(B,)``, the instruction of each window; None where window b has instruction b.
        """
        tokens = [
            tokenizer(observations[name], conditioning[name], rows)
            if name in conditioning
            else tokenizer(observations[name])
            for name, tokenizer in zip(self._names, self.streams.values(), strict=True)
        ]
        if images is not None:
            for camera in self.cameras:
                condition = conditioning[camera] if rows is None else conditioning[camera].index_select(0, rows)
                tokens.append(images(observations[camera], condition, camera))
        if self.previous is not None:
            tokens.append(self.previous(previous))
        if self.fused:
            x = torch.stack([part.float().sum(-2, keepdim=True) for part in tokens]).sum(0)
        else:
            x = torch.cat(tokens, 2)
        reader = self._reader[0]
        return x + (self.time if reader is None else reader.time[:, None])[times]

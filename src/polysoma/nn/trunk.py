"""The one trunk that all tokens go through, and the rules of who may look at whom.

Tokens come in three groups: what is to be done (the task), frames of the history, readouts. The task sees itself; a
frame sees the task and the frames up to its own; a readout sees the task, the frames up to its own and itself. Nothing
sees a readout, so adding heads cannot change what others compute (CrossFormer, arXiv 2408.11812, section 3).

A trunk computes this in two ways: :meth:`Trunk.forward` whole windows at once, for training; :meth:`Trunk.start`,
:meth:`Trunk.extend` and :meth:`Trunk.read` frame by frame, for acting. Masks and caches are its own business.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.errors import SettingError

BLOCKED = -1e4
"""Added to the logit of a pair that must not attend: finite, so that a row of padding stays a number in bfloat16."""


class TaskTokens(NamedTuple):
    """What is to be done, each distinct task once.

    Attributes:
        tokens: ``(I, W, width)``.
        valid: bool ``(I, W)``, False for padding.
        rows: int64 ``(B,)``, which of the I tasks each window follows; None where window b follows task b.
    """

    tokens: Tensor
    valid: Tensor
    rows: Tensor | None = None


class ReadoutTokens(NamedTuple):
    """What asks.

    Attributes:
        tokens: ``(B, R, width)``.
        times: int64 ``(B, R)`` or ``(1, R)``, the last frame that each readout sees, counted from 0.
    """

    tokens: Tensor
    times: Tensor


class State(ABC):
    """What a trunk remembers of one task and of the frames that followed it. It belongs to whoever acts; the network
    keeps none."""

    @property
    @abstractmethod
    def frames(self) -> int:
        """How many frames it was extended by."""

    @abstractmethod
    def forget_frames(self) -> None:
        """Keeps the task alone."""


class Trunk(nn.Module, ABC):
    """What every trunk does. Frames are ``(B, T, K, width)``, K tokens each; padding frames come last."""

    @abstractmethod
    def forward(self, task: TaskTokens, frames: Tensor, readouts: ReadoutTokens) -> Tensor:
        """The readouts of whole windows, ``(B, R, width)``."""

    @abstractmethod
    def start(self, task: TaskTokens) -> list[State]:
        """Reads I tasks: a state for each. Without gradients, as all that follows."""

    @abstractmethod
    def extend(self, states: Sequence[State], frames: Tensor) -> None:
        """Writes the same number of new frames to each of B states."""

    @abstractmethod
    def read(self, states: Sequence[State], readouts: Tensor) -> Tensor:
        """Readouts ``(B, R, width)`` that see all frames of their states, and leave these as they are."""

    def step(self, states: Sequence[State], frames: Tensor, readouts: Tensor) -> Tensor:
        """:meth:`extend` and :meth:`read`, for trunks that do both in one pass."""
        self.extend(states, frames)
        return self.read(states, readouts)


class RowsLinear(nn.Linear):
    """A linear map of which the last outputs alone can be computed."""

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """Outputs from number ``first`` on."""
        assert self.bias is not None
        return F.linear(x, self.weight[first:], self.bias[first:]) if first else super().forward(x)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a ReLU MLP four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = RowsLinear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(
        self, task: Tensor, x: Tensor, rows: Tensor | None, task_mask: Tensor, mask: Tensor, readouts: int | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens of tasks and of whole windows after the block.

        Args:
            task: ``(I, W, width)``.
            x: frames and readouts, ``(B, N, width)``.
            rows: see :class:`TaskTokens`.
            task_mask: additive, ``(I, 1, W, W)``.
            mask: additive, ``(B, 1, N, W + N)``.
            readouts: None for all tokens; or of how many, the last ones, alone something comes. All others are only
                looked at.
        """
        if readouts is None:
            q, *told = self.project(task)
            task = self.attend(task, q, told[0], told[1], task_mask)
            q, *new = self.project(x)
        else:
            told = list(self.keys_values(task))
            frames = self.keys_values(x[:, :-readouts])
            x, mask = x[:, -readouts:], mask[:, :, -readouts:]
            q, *new = self.project(x)
            new = [torch.cat(pair, 2) for pair in zip(frames, new, strict=True)]
        if rows is not None:
            told = [part.index_select(0, rows) for part in told]
        keys, values = (torch.cat(pair, 2) for pair in zip(told, new, strict=True))
        return task, self.attend(x, q, keys, values, mask)

    def alone(self, x: Tensor, mask: Tensor) -> Tensor:
        """Tokens ``(B, N, width)`` that see each other, by an additive mask that broadcasts to ``(B, heads, N, N)``."""
        return self.attend(x, *self.project(x), mask)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values ``(B, heads, N, width / heads)`` of tokens ``(B, N, width)``."""
        q, k, v = self._by_head(self.qkv(self.norm_attention(x)), 3)
        return q, k, v

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Those of tokens that are looked at and look at nothing."""
        k, v = self._by_head(self.qkv(self.norm_attention(x), x.shape[-1]), 2)
        return k, v

    def attend(self, x: Tensor, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """The tokens ``(B, N, width)`` after the block.

        Args:
            x: before it.
            q: their queries.
            keys, values: ``(B, heads, M, width / heads)``, of what they may look at.
            mask: additive, broadcastable to ``(B, heads, N, M)``.
        """
        seen = _attention(q, keys, values, mask.to(q.dtype)).transpose(1, 2).reshape(x.shape)
        x = x + self.out(seen)
        return x + self.down(F.relu_(self.up(self.norm_mlp(x))))

    def _by_head(self, x: Tensor, count: int) -> Tensor:
        batch, number, width = x.shape
        return x.view(batch, number, count, self.heads, width // (count * self.heads)).permute(2, 0, 3, 1, 4)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    if q.device.type == "cpu":
        # The fused kernel is no faster here, and its backward pass in bfloat16 much slower.
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + mask
        return logits.softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class TransformerTrunk(Trunk):
    """Blocks with a final normalisation.

    A distinct task goes through the blocks once, however many windows follow it: these look at its keys and values. In
    the last block only readouts look; all else is looked at.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, task: TaskTokens, frames: Tensor, readouts: ReadoutTokens) -> Tensor:
        valid = task.valid if task.rows is None else task.valid[task.rows]
        mask = window_mask(valid, frames.shape[1], frames.shape[2], readouts.times).to(_computed_in(frames))
        own = _task_mask(task.valid).to(mask.dtype)
        words, x = task.tokens, torch.cat([frames.flatten(1, 2), readouts.tokens], 1)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            words, x = block(words, x, task.rows, own, mask, readouts.tokens.shape[1] if number == last else None)
        return self.norm(x)

    @torch.no_grad()
    def start(self, task: TaskTokens) -> list[State]:
        own = _task_mask(task.valid).to(_computed_in(task.tokens))
        words, kept = task.tokens, []
        for number, block in enumerate(self.every_block()):
            if number < len(self.blocks) - 1:
                q, keys, values = block.project(words)
                words = block.attend(words, q, keys, values, own)
            else:
                keys, values = block.keys_values(words)
            kept.append(torch.stack([keys, values]))
        together = torch.stack(kept)
        # Padding, and without a word the place of the missing one, must not be looked at later.
        return [KeyValueCache(together[:, :, row][..., valid, :]) for row, valid in enumerate(task.valid)]

    def extend(self, states: Sequence[State], frames: Tensor) -> None:
        self._continue(states, frames, None)

    def read(self, states: Sequence[State], readouts: Tensor) -> Tensor:
        return self._continue(states, None, readouts)

    def step(self, states: Sequence[State], frames: Tensor, readouts: Tensor) -> Tensor:
        return self._continue(states, frames, readouts)

    @torch.no_grad()
    def _continue(self, states: Sequence[State], frames: Tensor | None, readouts: Tensor | None) -> Tensor:
        time, per_frame = (0, 1) if frames is None else (frames.shape[1], frames.shape[2])
        parts = [frames.flatten(1, 2) if frames is not None else None, readouts]
        x = torch.cat([part for part in parts if part is not None], 1)
        count = time * per_frame
        past, mask = self.past(states, time, per_frame, x.shape[1] - count, _computed_in(x))
        read, own = self.continued(past, mask, x, count)
        self.remember(states, own, time)
        return read

    def past(
        self, states: Sequence[State], time: int, per_frame: int, readouts: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`continued` is given of B states: the keys and values of all tokens so far, padded to the longest,
        and the additive mask, for new frames and readouts."""
        past, lengths = _room(_caches(states))
        before = past.shape[-2]
        mask = _continued_mask(before, time, per_frame, readouts, past.device, dtype)
        if len(set(lengths)) > 1:
            lacking = torch.arange(before, device=past.device) >= torch.tensor(lengths, device=past.device)[:, None]
            mask = mask + F.pad(lacking[:, None, None] * BLOCKED, (0, time * per_frame + readouts)).to(mask.dtype)
        return past, mask

    def remember(self, states: Sequence[State], own: Tensor, time: int) -> None:
        """Adds what :meth:`continued` returned of new frames to their states."""
        for row, cache in enumerate(_caches(states)):
            cache.take(own[:, :, row], time)

    def continued(self, past: Tensor, mask: Tensor, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """New tokens after all blocks, as a function of tensors alone.

        Args:
            past: keys and values of the tokens before, ``(depth, 2, B, heads, P, width / heads)``.
            mask: additive, ``(B or 1, 1, N, P + N)``.
            x: new frames' tokens and then readouts, ``(B, N, width)``.
            count: how many of them are frames'.

        Returns:
            The readouts ``(B, N - count, width)``, and the frames' own keys and values
            ``(depth, 2, B, heads, count, width / heads)``.
        """
        kept = []
        for number, block in enumerate(self.every_block()):
            q, keys, values = block.project(x)
            kept.append(torch.stack([keys[:, :, :count], values[:, :, :count]]))
            if number == len(self.blocks) - 1:
                # Here frames are only looked at.
                x, q, mask = x[:, count:], q[:, :, count:], mask[:, :, count:]
            keys, values = torch.cat([past[number, 0], keys], 2), torch.cat([past[number, 1], values], 2)
            x = block.attend(x, q, keys, values, mask)
        return self.norm(x), torch.stack(kept)

    def every_block(self) -> list[Block]:
        """The blocks in their order."""
        return [block for block in self.blocks if isinstance(block, Block)]


class KeyValueCache(State):
    """Keys and values of a task and of the frames that followed, in every block.

    What was once computed stays true for as long as the window grows: the task never looks at frames, frames look only
    back, and nothing looks at readouts.

    Args:
        task: ``(depth, 2, heads, W, width / heads)``.
    """

    def __init__(self, task: Tensor) -> None:
        self._room = task.contiguous()
        self._words = self._count = task.shape[-2]
        self._frames = 0

    @property
    def frames(self) -> int:
        return self._frames

    def forget_frames(self) -> None:
        self._count, self._frames = self._words, 0

    @property
    def count(self) -> int:
        """How many tokens there are keys and values of."""
        return self._count

    def _make_room(self, new: int) -> None:
        if self._count + new > self._room.shape[-2]:
            *shape, capacity, width = self._room.shape
            larger = self._room.new_empty(*shape, max(self._count + new, 2 * capacity), width)
            larger[..., : self._count, :] = self._room[..., : self._count, :]
            self._room = larger

    @property
    def keys_values(self) -> Tensor:
        """Those of all tokens so far, ``(depth, 2, heads, count, width / heads)``."""
        return self._room[..., : self._count, :]

    def take(self, new: Tensor, frames: int) -> None:
        """Adds new frames by their keys and values ``(depth, 2, heads, N, width / heads)``."""
        self._make_room(new.shape[-2])
        self._room[..., self._count : self._count + new.shape[-2], :] = new
        self._count += new.shape[-2]
        self._frames += frames


def _caches(states: Sequence[State]) -> list[KeyValueCache]:
    caches = [state for state in states if isinstance(state, KeyValueCache)]
    assert len(caches) == len(states), "states of another trunk"
    return caches


def _room(caches: Sequence[KeyValueCache]) -> tuple[Tensor, list[int]]:
    """Keys and values of several caches, ``(depth, 2, B, heads, P, width / heads)``, padded to the longest; and how
    many true tokens each one has."""
    lengths = [cache.count for cache in caches]
    if len(caches) == 1:
        return caches[0].keys_values.unsqueeze(2), lengths
    depth, two, heads, _, width = caches[0].keys_values.shape
    room = caches[0].keys_values.new_zeros(depth, two, len(caches), heads, max(lengths), width)
    for row, (cache, length) in enumerate(zip(caches, lengths, strict=True)):
        room[:, :, row, :, :length] = cache.keys_values
    return room, lengths


def _computed_in(x: Tensor) -> torch.dtype:
    """That of the products of what has this one, autocast considered."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _task_mask(valid: Tensor) -> Tensor:
    """Additive ``(I, 1, W, W)``: true tokens are seen, and by padding itself, so that it stays a number."""
    allowed = valid[:, None] | _diagonal(valid.shape[1], valid.device)
    return torch.zeros(allowed.shape, device=valid.device).masked_fill_(~allowed, BLOCKED)[:, None]


def _diagonal(size: int, device: torch.device) -> Tensor:
    number = torch.arange(size, device=device)
    return number[:, None] == number


def window_mask(valid: Tensor, time: int, per_frame: int, readout_times: Tensor) -> Tensor:
    """What frames and readouts of whole windows see of the sequence task | frames | readouts.

    Args:
        valid: bool ``(B, W)``, which tokens of each window's task are true.
        time: T frames; those that are padding come last, so that no true one sees them.
        per_frame: K tokens each.
        readout_times: int64 ``(B, R)`` or ``(1, R)``, the frame up to which each readout sees.

    Returns:
        Additive, float32 ``(B, 1, T * K + R, W + T * K + R)``.
    """
    batch, readouts, device = len(valid), readout_times.shape[1], valid.device
    frame = torch.arange(time, device=device).repeat_interleave(per_frame)
    times = torch.cat([frame.expand(batch, -1), readout_times.expand(batch, -1)], 1)
    queries = times.shape[1]
    itself = F.pad(_diagonal(readouts, device), (0, 0, time * per_frame, 0))
    allowed = torch.cat(
        [
            valid[:, None].expand(-1, queries, -1),
            frame <= times[:, :, None],
            itself.expand(batch, -1, -1),
        ],
        2,
    )
    return torch.zeros(allowed.shape, device=device).masked_fill_(~allowed, BLOCKED)[:, None]


@functools.lru_cache(maxsize=1024)
def _continued_mask(
    before: int, time: int, per_frame: int, readouts: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """What new frames and readouts see of all that was before, and of each other: ``(1, 1, N, before + N)``."""
    seen = torch.ones(1, before, dtype=torch.bool, device=device)
    now = torch.full((1, readouts), time, device=device)
    return window_mask(seen, time, per_frame, now).to(dtype)


@dataclass(frozen=True)
class TransformerConfig:
    """A :class:`TransformerTrunk` of so many blocks, each with so many attention heads."""

    kind: Literal["transformer"] = "transformer"
    depth: int = 4
    heads: int = 4

    def __post_init__(self) -> None:
        if not (1 <= self.depth <= 256 and 1 <= self.heads <= 1024):
            raise SettingError(f"trunk: depth must be 1 to 256 and heads 1 to 1024, got {self.depth} and {self.heads}")

    def __str__(self) -> str:
        return f"depth {self.depth}, {self.heads} heads"

    def build(self, width: int) -> TransformerTrunk:
        """The trunk for tokens of this width, its weights random. Raises PolysomaError where heads do not divide it."""
        check_heads("trunk.heads", width, self.heads)
        return TransformerTrunk(width, self.depth, self.heads)


def check_heads(what: str, width: int, heads: int) -> None:
    """Raises SettingError where so many heads do not divide a width."""
    if heads < 1 or width % heads:
        raise SettingError(f"{what}: expected a number that divides the width {width}, got {heads}")


TrunkConfig = TransformerConfig
"""What a policy's trunk is built from: one member for each kind of trunk, told apart by ``kind``."""

"""The one trunk that all tokens go through, and the rules of who may look at whom.

Tokens come in three groups: what is to be done (the task), frames of the history, readouts. The task sees itself; a
frame sees the task and the frames up to its own; a readout sees the task, the frames up to its own and itself. Nothing
sees a readout, so adding heads cannot change what others compute (CrossFormer, arXiv 2408.11812, section 3).

A trunk computes this in two ways: :meth:`Trunk.forward` whole windows at once, for training; :meth:`Trunk.start`,
:meth:`Trunk.extend` and :meth:`Trunk.read` frame by frame, for acting. Masks and caches are its own business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.errors import SettingError
from polysoma.nn.attention import BLOCKED, Block, check_heads, computed_in, continued_mask, task_mask, window_mask
from polysoma.nn.packing import Packing

_FEW = 8
"""Tokens of a frame up to which bodies' windows are computed together."""
_MULTIPLE = 8
"""Of what numbers of words and of tasks are made multiples in training."""


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


class Windows(NamedTuple):
    """Whole windows of one body, as :meth:`Trunk.forward` takes them.

    Attributes:
        task, frames, readouts: see there.
        true: which of the frames' tokens, bool ``(B, T * K)``, are none of padding, which a trunk may leave out: nobody
            uses readouts that see it. None where all are to be taken for true.
    """

    task: TaskTokens
    frames: Tensor
    readouts: ReadoutTokens
    true: Tensor | None = None


class State(ABC):
    """What a trunk remembers of one task and of the frames that followed it. It belongs to whoever acts; the network
    keeps none.

    Attributes:
        frames: how many frames it was extended by.
    """

    frames: int

    @abstractmethod
    def forget_frames(self) -> None:
        """Keeps the task alone."""


class Trunk(nn.Module, ABC):
    """What every trunk does. Frames are ``(B, T, K, width)``, K tokens each; padding frames come last."""

    @abstractmethod
    def forward(self, task: TaskTokens, frames: Tensor, readouts: ReadoutTokens) -> Tensor:
        """The readouts of whole windows, ``(B, R, width)``."""

    def together(self, parts: Sequence[Windows]) -> list[Tensor]:
        """:meth:`forward` of the windows of several bodies, for trunks that do that at less cost in one pass."""
        return [self(part.task, part.frames, part.readouts) for part in parts]

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


class TransformerTrunk(Trunk):
    """Blocks with a final normalisation.

    A distinct task goes through the blocks once, however many windows follow it: these look at its keys and values. In
    the last block only readouts look; all else is looked at.
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, task: TaskTokens, frames: Tensor, readouts: ReadoutTokens, true: Tensor | None = None) -> Tensor:
        """See :class:`Trunk`; of frames' tokens, those that are not ``true``, bool ``(B, T * K)``, are padding."""
        task = _of_few_shapes(task)
        valid = task.valid if task.rows is None else task.valid[task.rows]
        mask = window_mask(valid, frames.shape[1], frames.shape[2], readouts.times, true).to(computed_in(frames))
        own = task_mask(task.valid).to(mask.dtype)
        told = Packing.where_worthwhile(task.valid)
        words = task.tokens if told is None else told.pack(task.tokens)
        parts, packed = _packed(frames, readouts, true)
        together = None if packed is None else packed[0].beside(packed[1])
        along = 1 if packed is None else 0
        x, sizes = torch.cat(parts, along), [part.shape[along] for part in parts]
        *blocks, last = self.every_block()
        for block in blocks:
            words, seen = block(words, own, packing=told)
            x, _ = block(x, mask, [seen if task.rows is None else seen.index_select(0, task.rows)], packing=together)
        # In the last block readouts alone look.
        frame, asking = x.split(sizes, along)
        seen = last.keys_values(words, told)
        seen = seen if task.rows is None else seen.index_select(0, task.rows)
        seen_frames = last.keys_values(frame, packed and packed[0])
        mask = mask[:, :, -readouts.tokens.shape[1] :]
        asking, _ = last(asking, mask, [seen, seen_frames], packing=packed and packed[1])
        asking = self.norm(asking)
        return asking if packed is None else packed[1].unpack(asking)

    def together(self, parts: Sequence[Windows]) -> list[Tensor]:
        """See :class:`Trunk`. Windows of one frame, of few tokens, go through the blocks as one batch: of a few windows
        it is the number of operations that takes time, not what they compute."""
        found = [None if _few(part) else self(*part) for part in parts]
        few = [part for part in parts if _few(part)]
        several = iter(self(*_joined(few)).split([len(part.frames) for part in few]) if few else ())
        return [next(several) if one is None else one for one in found]

    @torch.no_grad()
    def start(self, task: TaskTokens) -> list[State]:
        own = task_mask(task.valid).to(computed_in(task.tokens))
        words, kept = task.tokens, []
        *blocks, last = self.every_block()
        for block in blocks:
            words, keys_values = block(words, own)
            kept.append(keys_values)
        together = torch.stack([*kept, last.keys_values(words)])
        # Padding, and without a word the place of the missing one, must not be looked at later.
        return [KeyValueCache(together[:, row][..., valid, :]) for row, valid in enumerate(task.valid)]

    def extend(self, states: Sequence[State], frames: Tensor) -> None:
        self.step(states, frames, None)

    def read(self, states: Sequence[State], readouts: Tensor) -> Tensor:
        return self.step(states, None, readouts)

    @torch.no_grad()
    def step(self, states: Sequence[State], frames: Tensor | None, readouts: Tensor | None) -> Tensor:
        time, per_frame = (0, 1) if frames is None else (frames.shape[1], frames.shape[2])
        parts = [frames.flatten(1, 2) if frames is not None else None, readouts]
        x = torch.cat([part for part in parts if part is not None], 1)
        count = time * per_frame
        past, mask = self.past(states, time, per_frame, x.shape[1] - count, computed_in(x))
        read, own = self.continued(past, mask, x, count)
        self.remember(states, own, time)
        return read

    def past(
        self, states: Sequence[State], time: int, per_frame: int, readouts: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """What :meth:`continued` is given of B states: the keys and values of all tokens so far, padded to the longest,
        and the additive mask, for new frames and readouts."""
        caches = [state for state in states if isinstance(state, KeyValueCache)]
        assert len(caches) == len(states), "states of another trunk"
        lengths = [cache.count for cache in caches]
        past, before = caches[0].keys_values.unsqueeze(1), max(lengths)
        if len(caches) > 1:
            depth, _, two, heads, _, width = past.shape
            past = past.new_zeros(depth, len(caches), two, heads, before, width)
            for row, cache in enumerate(caches):
                past[:, row, ..., : cache.count, :] = cache.keys_values
        mask = continued_mask(before, time, per_frame, readouts, past.device, dtype)
        if len(set(lengths)) > 1:
            lacking = torch.arange(before, device=past.device) >= torch.tensor(lengths, device=past.device)[:, None]
            mask = mask + F.pad(lacking[:, None, None] * BLOCKED, (0, time * per_frame + readouts)).to(mask.dtype)
        return past, mask

    def remember(self, states: Sequence[State], own: Tensor, time: int) -> None:
        """Adds what :meth:`continued` returned of new frames to their states."""
        for row, state in enumerate(states):
            assert isinstance(state, KeyValueCache), "a state of another trunk"
            state.take(own[:, row], time)

    def continued(self, past: Tensor, mask: Tensor, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """New tokens after all blocks, as a function of tensors alone.

        Args:
            past: keys and values of the tokens before, ``(depth, B, 2, heads, P, width / heads)``.
            mask: additive, ``(B or 1, 1, N, P + N)``.
            x: new frames' tokens and then readouts, ``(B, N, width)``.
            count: how many of them are frames'.

        Returns:
            The readouts ``(B, N - count, width)``, and the frames' own keys and values
            ``(depth, B, 2, heads, count, width / heads)``.
        """
        kept = []
        for number, block in enumerate(self.every_block(), 1):
            # In the last block frames are only looked at.
            last = x.shape[1] - count if number == len(self.blocks) else None
            x, own = block(x, mask, [past[number - 1]], last)
            kept.append(own[:, :, :, :count])
        return self.norm(x), torch.stack(kept)

    def every_block(self) -> list[Block]:
        """The blocks in their order."""
        return [block for block in self.blocks if isinstance(block, Block)]


def _of_few_shapes(task: TaskTokens) -> TaskTokens:
    """Tasks with more padding, and more tasks that nobody follows, where gradients are computed: so that steps have few
    different shapes (:mod:`polysoma.nn.packing`). A batch of one task, or without padding, stays as it is."""
    if not torch.is_grad_enabled() or task.rows is None or bool(task.valid.all()):
        return task
    words, tasks = -task.valid.shape[1] % _MULTIPLE, -len(task.valid) % _MULTIPLE
    return TaskTokens(
        F.pad(task.tokens, (0, 0, 0, words, 0, tasks)), F.pad(task.valid, (0, words, 0, tasks)), task.rows
    )


def _packed(
    frames: Tensor, readouts: ReadoutTokens, true: Tensor | None
) -> tuple[list[Tensor], tuple[Packing, Packing] | None]:
    """Tokens of frames and of readouts, packed where enough of them is padding; and how each of both is."""
    parts = [frames.flatten(1, 2), readouts.tokens]
    packing = None if true is None else Packing.where_worthwhile(true)
    if true is None or packing is None:
        return parts, None
    frame = true.view(frames.shape[:3]).any(-1)
    asked = Packing.of(frame.gather(1, readouts.times.expand(len(frame), -1)))
    return [packing.pack(parts[0]), asked.pack(parts[1])], (packing, asked)


def _few(part: Windows) -> bool:
    """Whether windows are of one frame each and one readout, and of so few tokens that padding costs little."""
    return part.frames.shape[1] == part.readouts.tokens.shape[1] == 1 and part.frames.shape[2] <= _FEW


def _joined(parts: Sequence[Windows]) -> tuple[TaskTokens, Tensor, ReadoutTokens, Tensor]:
    """Windows of one frame as one batch, and which of the frames' tokens are true, bool ``(B, K)``."""
    words = max(part.task.tokens.shape[1] for part in parts)
    most = max(part.frames.shape[2] for part in parts)
    rows, before = [], 0
    for task, frames, *_ in parts:
        own = torch.arange(len(frames), device=frames.device) if task.rows is None else task.rows
        rows.append(own + before)
        before += len(task.tokens)
    task = TaskTokens(
        torch.cat([F.pad(part.task.tokens, (0, 0, 0, words - part.task.tokens.shape[1])) for part in parts]),
        torch.cat([F.pad(part.task.valid, (0, words - part.task.valid.shape[1])) for part in parts]),
        torch.cat(rows),
    )
    frames = torch.cat([F.pad(part.frames, (0, 0, 0, most - part.frames.shape[2])) for part in parts])
    each = torch.cat([torch.full((len(part.frames),), part.frames.shape[2], device=frames.device) for part in parts])
    true = torch.arange(most, device=frames.device) < each[:, None]
    readouts = torch.cat([part.readouts.tokens for part in parts])
    return task, frames, ReadoutTokens(readouts, readouts.new_zeros(1, 1, dtype=torch.int64)), true


class KeyValueCache(State):
    """Keys and values of a task and of the frames that followed, in every block.

    What was once computed stays true for as long as the window grows: the task never looks at frames, frames look only
    back, and nothing looks at readouts.

    Args:
        task: ``(depth, 2, heads, W, width / heads)``.

    Attributes:
        count: how many tokens there are keys and values of.
    """

    def __init__(self, task: Tensor) -> None:
        self._room = task.contiguous()
        self._words = self.count = task.shape[-2]
        self.frames = 0

    def forget_frames(self) -> None:
        self.count, self.frames = self._words, 0

    @property
    def keys_values(self) -> Tensor:
        """Those of all tokens so far, ``(depth, 2, heads, count, width / heads)``."""
        return self._room[..., : self.count, :]

    def take(self, new: Tensor, frames: int) -> None:
        """Adds new frames by their keys and values ``(depth, 2, heads, N, width / heads)``."""
        count = self.count + new.shape[-2]
        if count > self._room.shape[-2]:
            *shape, capacity, width = self._room.shape
            larger = self._room.new_empty(*shape, max(count, 2 * capacity), width)
            larger[..., : self.count, :] = self.keys_values
            self._room = larger
        self._room[..., self.count : count, :] = new
        self.count = count
        self.frames += frames


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


TrunkConfig = TransformerConfig
"""What a policy's trunk is built from: one member for each kind of trunk, told apart by ``kind``."""

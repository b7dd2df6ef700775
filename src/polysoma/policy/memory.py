"""Attention memory: keys and values of an episode's words and frames, so that a decision computes its new tokens alone.

Words never look at frames, frames look only back, and nothing looks at readouts: what was once computed stays true for
as long as the window grows. A memory belongs to an agent; the network keeps none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Memory:
    """What the trunk made of one instruction and of the frames that followed it.

    Args:
        instruction: what was read.
        readings: what it makes of streams that are read in its light, by stream.
        keys_values: those of its words in each block, ``(depth, 2, heads, W, width / heads)``.
        frames: how many frames there is room for.
        per_frame: tokens of one frame.
    """

    def __init__(
        self, instruction: str, readings: dict[str, Tensor], keys_values: Tensor, frames: int, per_frame: int
    ) -> None:
        self.instruction = instruction
        self.readings = readings
        self._per_frame = per_frame
        *shape, self._words, width = keys_values.shape
        self._room = keys_values.new_empty(*shape, self._words + frames * per_frame, width)
        self._count = 0
        self.extend(keys_values)

    @property
    def frames(self) -> int:
        """How many frames are remembered."""
        return (self._count - self._words) // self._per_frame

    @property
    def keys_values(self) -> Tensor:
        """``(depth, 2, heads, words and frames, width / heads)``."""
        return self._room[..., : self._count, :]

    def extend(self, keys_values: Tensor) -> None:
        """Adds tokens, ``(depth, 2, heads, N, width / heads)``. There must be room."""
        end = self._count + keys_values.shape[-2]
        self._room[..., self._count : end, :] = keys_values
        self._count = end

    def forget_frames(self) -> None:
        """Keeps the words alone."""
        self._count = self._words


def stack(memories: Sequence[Memory]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Memories as one batch.

    Returns:
        The readings, by stream; keys and values ``(depth, 2, B, heads, P, width / heads)``, padded to the longest; and
        which of these are true, ``(B, P)``.
    """
    readings = {name: torch.stack([m.readings[name] for m in memories]) for name in memories[0].readings}
    rows = [memory.keys_values for memory in memories]
    counts = torch.tensor([row.shape[-2] for row in rows])
    valid = (torch.arange(int(counts.max())) < counts[:, None]).to(rows[0].device)
    if len(rows) == 1:
        return readings, rows[0].unsqueeze(2), valid
    depth, two, heads, _, width = rows[0].shape
    past = rows[0].new_zeros(depth, two, len(rows), heads, valid.shape[1], width)
    for place, row in zip(past.unbind(2), rows, strict=True):
        place[..., : row.shape[-2], :] = row
    return readings, past, valid

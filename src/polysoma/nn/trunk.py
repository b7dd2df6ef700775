"""The one transformer that all tokens go through, and the rules of who may look at whom.

Tokens come in three groups: words of the instruction, frames of the history, readouts. Words see words; a frame sees
the words and the frames up to its own; a readout sees the words, the frames up to its own and itself. Nothing sees a
readout, so adding heads cannot change what others compute (CrossFormer, arXiv 2408.11812, section 3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKED = -1e4
"""Added to the logit of a pair that must not attend: finite, so that a row of padding stays a number in bfloat16."""


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a ReLU MLP four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, mask: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the tokens, and the keys and values ``(B, heads, N, width / heads)`` that they were seen by.

        Args:
            x: ``(B, N, width)``.
            mask: additive, broadcastable to ``(B, heads, N, P + N)``.
            past: keys and values of P tokens before these, ``(2, B, heads, P, width / heads)``.
        """
        batch, count, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(batch, count, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        keys, values = (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
        x = x + self.out(_attend(q, keys, values, mask).transpose(1, 2).reshape(batch, count, width))
        return x + self.down(F.relu_(self.up(self.norm_mlp(x)))), k, v


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    if q.device.type == "cpu":
        # The fused CPU kernel's bfloat16 backward pass costs a third of the step; two plain products do not.
        logits = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 + mask.to(q.dtype)
        return logits.softmax(-1).to(v.dtype) @ v
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype))


def attention_mask(words_valid: Tensor, frames_valid: Tensor, readout_times: Tensor, per_frame: int) -> Tensor:
    """The additive mask of the sequence words | frames | readouts.

    Args:
        words_valid: bool ``(B, W)``.
        frames_valid: bool ``(B, T)``.
        readout_times: int64 ``(B, R)``: the frame that each readout belongs to.
        per_frame: tokens of one frame.

    Returns:
        float32 ``(B, 1, N, N)`` with ``N = W + T * per_frame + R``.
    """
    batch, words = words_valid.shape
    frames, readouts = frames_valid.shape[1], readout_times.shape[1]
    device = words_valid.device
    frame_time = torch.arange(frames, device=device).repeat_interleave(per_frame).expand(batch, -1)
    # Time decides everything: words come before all frames, readouts are looked at by themselves alone.
    time = torch.cat([torch.full((batch, words), -1, device=device), frame_time, readout_times], 1)
    valid = torch.cat([words_valid, frames_valid.repeat_interleave(per_frame, 1)], 1)
    allowed = (time[:, None, : words + frames * per_frame] <= time[:, :, None]) & valid[:, None, :]
    number = torch.arange(words + frames * per_frame + readouts, device=device)
    itself = number[:, None] == number
    allowed = torch.cat([allowed, allowed.new_zeros(batch, allowed.shape[1], readouts)], 2) | itself
    return torch.zeros(allowed.shape, device=device).masked_fill_(~allowed, BLOCKED)[:, None]


class Trunk(nn.Module):
    """A stack of blocks with a final normalisation."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor, readouts: int) -> Tensor:
        """The last ``readouts`` tokens after all blocks: ``(B, readouts, width)``."""
        for block in self.blocks:
            x, _, _ = block(x, mask)
        return self.norm(x[:, -readouts:])

    def extend(self, x: Tensor, mask: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Continues sequences whose first P tokens went through before.

        Args:
            x: the new tokens ``(B, N, width)``.
            mask: additive, broadcastable to ``(B, heads, N, P + N)``.
            past: keys and values of the first tokens in each block, ``(depth, 2, B, heads, P, width / heads)``.

        Returns:
            The new tokens after all blocks, ``(B, N, width)``, and their own keys and values, shaped like ``past``.
        """
        own = []
        for number, block in enumerate(self.blocks):
            x, keys, values = block(x, mask, None if past is None else past[number])
            own.append(torch.stack([keys, values]))
        return self.norm(x), torch.stack(own)

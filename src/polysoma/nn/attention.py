"""Attention: transformer blocks, and the masks that say which tokens they may look at."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.errors import SettingError
from polysoma.nn.packing import Packing

BLOCKED = -1e4
"""Added to the logit of a pair that must not attend: finite, so that a row of padding stays a number in bfloat16."""


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
        self,
        x: Tensor,
        mask: Tensor,
        before: Sequence[Tensor] = (),
        last: int | None = None,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Tokens after the block, and their own keys and values, ``(B, 2, heads, N, width / heads)``.

        Args:
            x: ``(B, N, width)``, which look at each other; or packed ``(P, width)``.
            mask: additive, broadcastable to ``(B, heads, N, M + N)``.
            before: keys and values of M other tokens that they look at, in parts ``(B, 2, heads, ..., width / heads)``.
            last: None for all tokens; or of how many, the last ones, alone something comes. All others are only looked
                at. Not of packed tokens.
            packing: None, or how x is packed. Keys and values are padded.
        """
        y = self._apart(self.qkv(self.norm_attention(x)), packing)
        q, keys, values = y.unbind(1)
        if last is not None:
            x, q, mask = x[:, -last:], q[:, :, -last:], mask[:, :, -last:]
        if before:
            other_keys, other_values = zip(*(part.unbind(1) for part in before), strict=True)
            keys, values = torch.cat([*other_keys, keys], 2), torch.cat([*other_values, values], 2)
        mask = mask.to(q.dtype)
        if q.device.type == "cpu":
            # The fused kernel is no faster here, and its backward pass in bfloat16 much slower.
            logits = (q * q.shape[-1] ** -0.5) @ keys.transpose(-1, -2) + mask
            seen = logits.softmax(-1).to(values.dtype) @ values
        else:
            seen = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        seen = seen.transpose(1, 2).flatten(2)
        x = x + self.out(seen if packing is None else packing.pack(seen))
        return x + self.down(F.relu_(self.up(self.norm_mlp(x)))), y[:, 1:]

    def keys_values(self, x: Tensor, packing: Packing | None = None) -> Tensor:
        """Those of tokens ``(B, N, width)``, or packed ones, that are looked at and look at nothing."""
        return self._apart(self.qkv(self.norm_attention(x), x.shape[-1]), packing)

    def _apart(self, y: Tensor, packing: Packing | None) -> Tensor:
        """Outputs of :attr:`qkv` by kind and head, ``(B, kinds, heads, N, width / heads)``."""
        y = y if packing is None else packing.unpack(y)
        each = self.out.in_features // self.heads
        return y.view(*y.shape[:2], y.shape[-1] // (self.heads * each), self.heads, each).permute(0, 2, 3, 1, 4)


def check_heads(what: str, width: int, heads: int) -> None:
    """Raises SettingError where so many heads do not divide a width."""
    if heads < 1 or width % heads:
        raise SettingError(f"{what}: expected a number that divides the width {width}, got {heads}")


def computed_in(x: Tensor) -> torch.dtype:
    """That of the products of what has this one, autocast considered."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def task_mask(valid: Tensor) -> Tensor:
    """Additive ``(I, 1, W, W)``: true tokens are seen, and by padding itself, so that it stays a number."""
    allowed = valid[:, None] | _diagonal(valid.shape[1], valid.device)
    return torch.zeros(allowed.shape, device=valid.device).masked_fill_(~allowed, BLOCKED)[:, None]


def _diagonal(size: int, device: torch.device) -> Tensor:
    # torch.eye of booleans has no counterpart in ONNX graphs.
    number = torch.arange(size, device=device)
    return number[:, None] == number


def window_mask(valid: Tensor, time: int, per_frame: int, readout_times: Tensor, true: Tensor | None = None) -> Tensor:
    """What frames and readouts of whole windows see of the sequence task | frames | readouts.

    Args:
        valid: bool ``(B, W)``, which tokens of each window's task are true.
        time: T frames; those that are padding come last, so that no true one sees them.
        per_frame: K tokens each.
        readout_times: int64 ``(B, R)`` or ``(1, R)``, the frame up to which each readout sees.
        true: bool ``(B, T * K)``, which of the frames' tokens are none of padding; None where all are.

    Returns:
        Additive, float32 ``(B, 1, T * K + R, W + T * K + R)``.
    """
    batch, readouts, device = len(valid), readout_times.shape[1], valid.device
    frame = torch.arange(time, device=device).repeat_interleave(per_frame)
    times = torch.cat([frame.expand(batch, -1), readout_times.expand(batch, -1)], 1)
    queries = times.shape[1]
    itself = F.pad(_diagonal(readouts, device), (0, 0, time * per_frame, 0))
    seen = frame <= times[:, :, None]
    allowed = torch.cat(
        [
            valid[:, None].expand(-1, queries, -1),
            seen if true is None else seen & true[:, None],
            itself.expand(batch, -1, -1),
        ],
        2,
    )
    return torch.zeros(allowed.shape, device=device).masked_fill_(~allowed, BLOCKED)[:, None]


@functools.lru_cache(maxsize=1024)
def continued_mask(
    before: int, time: int, per_frame: int, readouts: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """What new frames and readouts see of all that was before, and of each other: ``(1, 1, N, before + N)``."""
    seen = torch.ones(1, before, dtype=torch.bool, device=device)
    now = torch.full((1, readouts), time, device=device)
    return window_mask(seen, time, per_frame, now).to(dtype)

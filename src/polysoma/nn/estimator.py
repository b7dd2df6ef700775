"""What a body cannot sense, estimated from what it does: privileged states, learned from data that hold them.

A policy that imitates actions learns slowly to see: where an object lies moves the loss little as long as where the
hand is predicts most of the next action. To be asked for the object's place itself makes the same tokens say it within
minutes (as Levine et al. 2016, arXiv 1504.00702, section 5.2, first train their convolutions to predict poses).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.data.statistics import Statistics
from polysoma.embodiment import Stream
from polysoma.errors import PolysomaError

STILL = 0.05
"""Standard deviations of all data: what varies less than this within a task is constant there."""


class PrivilegedStateHead(nn.Module):
    """The tokens of a frame, and the words, to every privileged channel.

    An error counts in standard deviations of its channel within the window's own task: where things are in one task
    says little about where they are on its table this time. (A predicted spread that weighs the errors, Kendall & Gal
    2017, arXiv 1703.04977, kept the network from learning for hundreds of steps.)

    Args:
        streams: what to estimate, states.
        statistics: of each of them, by name.
        tokens: of one frame.
        width: of tokens.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, streams: Sequence[Stream], statistics: Mapping[str, Statistics], tokens: int, width: int
    ) -> None:
        super().__init__()
        self.streams = {stream.name: len(stream.channels) for stream in streams}
        self.tokens = tokens
        if missing := [name for name in self.streams if name not in statistics]:
            raise PolysomaError(f"there are no statistics for the privileged streams {missing}")
        size = sum(self.streams.values())
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear((tokens + 1) * width, size)
        mean, scale = ([getattr(statistics[name], field) for name in self.streams] for field in ("mean", "scale"))
        self.register_buffer("mean", torch.cat([torch.as_tensor(part) for part in mean]), persistent=False)
        self.register_buffer("scale", torch.cat([torch.as_tensor(part) for part in scale]), persistent=False)

    def forward(self, frames: Tensor, task: Tensor) -> Tensor:
        """Every channel, ``(B, T, channels)`` in standard deviations of the data.

        Args:
            frames: tokens ``(B, T, tokens, width)``.
            task: the mean of the tokens of the task, ``(B, width)``.
        """
        x = torch.cat([frames, task[:, None, None].expand(-1, frames.shape[1], -1, -1)], 2)
        return self.out(self.norm(x.float()).flatten(2)).float()

    def losses(
        self, frames: Tensor, task: Tensor, states: Mapping[str, Tensor], task_std: Mapping[str, Tensor]
    ) -> Tensor:
        """Mean errors ``(B, T)`` in standard deviations within the task, squared where they are below one.

        Absolute errors alone, whose gradient says nothing of how far off a guess is, were slow to leave the mean.

        Args:
            frames, task: as in :meth:`forward`.
            states: stream name to the truth ``(B, T, size)``.
            task_std: stream name to the standard deviations within each window's task ``(B, size)``, in the channels'
                units; channels that hardly vary there, for all that they vary elsewhere, do not count.
        """
        truth = (torch.cat([states[name] for name in self.streams], -1) - self.mean) / self.scale
        spread = torch.cat([task_std[name] for name in self.streams], -1) / self.scale
        weight = (spread > STILL) / spread.clamp(min=STILL)
        error = (self(frames, task) - truth) * weight[:, None]
        return F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none").mean(-1)

    def estimate(self, frames: Tensor, task: Tensor) -> dict[str, Tensor]:
        """Stream name to the channels in their units, ``(B, T, size)``."""
        values = self(frames, task) * self.scale + self.mean
        return dict(zip(self.streams, values.split(list(self.streams.values()), -1), strict=True))

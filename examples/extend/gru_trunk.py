"""A trunk of one's own: a recurrent network (GRU, Cho et al. 2014, arXiv 1406.1078) instead of a transformer.
policy = Policy(dataclasses.replace(config, trunk=GruConfig()))"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from polysoma.nn.trunk import State, Trunk


class GruState(State):
    """The hidden state after some frames."""

    def __init__(self, task):
        self.task, self.hidden, self.frames = task, task, 0

    def forget_frames(self):
        self.hidden, self.frames = self.task, 0


class GruTrunk(Trunk):
    """The task's mean begins, a frame's mean token is an input, and a readout is mixed with the hidden state."""

    def __init__(self, width):
        super().__init__()
        self.begin, self.cell = nn.Linear(width, width), nn.GRU(width, width, batch_first=True)
        self.mix = nn.Sequential(nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))

    def forward(self, task, frames, readouts):
        hidden, _ = self.cell(frames.mean(2), self._begin(task)[None].contiguous())
        seen = hidden.take_along_dim(readouts.times[..., None], 1)
        return self.mix(torch.cat([seen, readouts.tokens], -1)) + readouts.tokens

    def start(self, task):
        return [GruState(row) for row in self._begin(task)]

    def extend(self, states, frames):
        _, hidden = self.cell(frames.mean(2), torch.stack([state.hidden for state in states])[None])
        for state, row in zip(states, hidden[0], strict=True):
            state.hidden, state.frames = row, state.frames + frames.shape[1]

    def read(self, states, readouts):
        hidden = torch.stack([state.hidden for state in states])[:, None].expand(-1, readouts.shape[1], -1)
        return self.mix(torch.cat([hidden, readouts], -1)) + readouts

    def _begin(self, task):
        weight = task.valid[..., None].to(task.tokens.dtype)
        words = self.begin((task.tokens * weight).sum(1) / weight.sum(1).clamp(min=1)).float()
        return words if task.rows is None else words[task.rows]


@dataclass(frozen=True)
class GruConfig:  # What ``PolicyConfig.trunk`` is given.
    kind: Literal["gru"] = "gru"

    def build(self, width):
        return GruTrunk(width)

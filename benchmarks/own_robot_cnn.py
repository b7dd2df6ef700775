"""A small network for benchmarks/own_robot.py: what anybody would write in an afternoon, with no library.

Three convolutions a camera, whose channels the words scale; where each channel is strongest (a spatial softmax: Finn et
al., "Deep Spatial Autoencoders", 2016); these points, the state and the words through two layers to a chunk of actions,
with an L1 loss. Pictures are shifted by up to four pixels while it learns.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from own_robot_peer import Demonstrations, Peer, Words, arguments, learn
from polysoma.data.dataset import Dataset
from polysoma.embodiment import Modality

SHIFT = 4


class Eye(nn.Module):
    """A picture ``(B, 3, height, width)`` and words to the places of its 32 features, ``(B, 64)`` from -1 to 1."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.early = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1)
        )
        self.told = nn.Linear(words, 64)
        self.late = nn.Conv2d(32, 32, 1)

    def forward(self, picture: Tensor, words: Tensor) -> Tensor:
        scale, shift = self.told(words)[:, :, None, None].chunk(2, 1)
        heat = self.late(torch.relu(self.early(picture) * (1 + scale) + shift)).float()
        share = heat.flatten(2).softmax(-1).view_as(heat)
        down, across = (torch.linspace(-1, 1, size, device=heat.device) for size in heat.shape[2:])
        return torch.cat([(share.sum(3) * down).sum(2), (share.sum(2) * across).sum(2)], 1)


class Cnn(Peer):
    """See this file's docstring."""

    def __init__(self, shown: Demonstrations, words: Words, chunk: int) -> None:
        super().__init__(shown)
        self.shape = (chunk, shown.action.shape[1])
        self.eyes = nn.ModuleList(Eye(words.size) for _ in shown.pictures)
        known = 64 * len(shown.pictures) + shown.state.shape[1] + words.size
        self.hand = nn.Sequential(
            nn.Linear(known, 160), nn.ReLU(), nn.Linear(160, 160), nn.ReLU(), nn.Linear(160, int(np.prod(self.shape)))
        )

    def chunk_of(self, state: Tensor, words: Tensor, pictures: list[Tensor]) -> Tensor:
        points = [eye(picture, words) for eye, picture in zip(self.eyes, pictures, strict=True)]
        return self.hand(torch.cat([*points, state, words], 1)).unflatten(1, self.shape).float()

    def loss(self, state: Tensor, words: Tensor, pictures: list[Tensor], actions: Tensor, padded: Tensor) -> Tensor:
        shifted = []
        for picture in pictures:
            down, across = torch.randint(2 * SHIFT + 1, (2,)).tolist()
            wide = F.pad(picture, [SHIFT] * 4, mode="replicate")
            shifted.append(wide[:, :, down : down + picture.shape[2], across : across + picture.shape[3]])
        missed = (self.chunk_of(state, words, shifted) - actions).abs().mean(-1)
        return missed[~padded].mean()


def main() -> None:
    asked = arguments()
    dataset = Dataset(asked.data)
    spans = [(int(dataset.episode_start[e]), int(dataset.episode_length[e])) for e in asked.episodes]
    frames = np.concatenate([np.arange(start, start + length) for start, length in spans])
    body = dataset.embodiment
    cameras = [stream.name for stream in body.streams if stream.modality is Modality.IMAGE]
    said = [dataset.instructions[dataset.episode_instruction[episode]] for episode in asked.episodes]
    shown = Demonstrations(
        np.concatenate([dataset.observations[s.name][frames] for s in body.streams if s.modality is Modality.STATE], 1),
        dataset.actions[frames],
        {camera: np.asarray(dataset.observations[camera][frames]) for camera in cameras},
        np.repeat(np.cumsum([length for _, length in spans]) - 1, [length for _, length in spans]),
        [sentence for sentence, (_, length) in zip(said, spans, strict=True) for _ in range(length)],
    )
    learn(lambda shown, words: Cnn(shown, words, asked.chunk), shown, asked, batch=32, learning_rate=1e-3)


if __name__ == "__main__":
    main()

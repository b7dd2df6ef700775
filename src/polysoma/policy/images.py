"""Cameras: one small convolutional network that turns the pictures of every camera into a few tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.errors import PolysomaError
from polysoma.policy import efficientnet
from polysoma.policy.efficientnet import EfficientNetLite0

FINE, COARSE = 48, 96
EDGE = 8.0
"""The coordinate of a picture's edge: two coordinates are to count as much as a hundred features."""
SHARPNESS = 4.0
"""What logits of maps are multiplied by: a thing of a few cells must win against hundreds of cells of background."""


@dataclass(frozen=True)
class ImageConfig:
    """How pictures become tokens.

    Attributes:
        backbone: ``"small"``, a network of two stages that starts at random, or ``"efficientnet-lite0"``, the first
            stages of EfficientNet-Lite0, which start with weights trained on ImageNet.
        tokens: of one picture.
        points: places that each token looks at.
        film: whether the instruction modulates the network (FiLM, Perez et al. 2018, arXiv 1709.07871, as in RT-1).
        pooled: places are found anew in each picture (TokenLearner, Ryoo et al. 2021, arXiv 2106.11297, with the
            places' coordinates, as in Levine et al. 2016, arXiv 1504.00702); or else they are the cells of a raster.
        goals: whether a policy can be shown what its cameras are to see in the end.
    """

    backbone: Literal["small", "efficientnet-lite0"] = "small"
    tokens: int = 8
    points: int = 4
    film: bool = True
    pooled: bool = True
    goals: bool = False

    def __post_init__(self) -> None:
        if self.backbone not in ("small", "efficientnet-lite0"):
            raise PolysomaError(f"images: backbone must be small or efficientnet-lite0, got {self.backbone!r}")


class ImageTokenizer(nn.Module):
    """Pictures of any camera to ``tokens`` tokens each.

    Features at two resolutions (strides 4 and 8, or 8 and 16 of EfficientNet) are added at the finer one. Each of
    ``tokens * points`` maps becomes a distribution over its cells; features and coordinates averaged under it say what
    is there, and where. A camera's role is a vector that is added to its tokens.

    Args:
        config: see :class:`ImageConfig`.
        roles: names of camera streams.
        width: of tokens.
    """

    def __init__(self, config: ImageConfig, roles: Sequence[str], width: int) -> None:
        super().__init__()
        self.config = config
        self.backbone = EfficientNetLite0() if config.backbone == "efficientnet-lite0" else None
        if self.backbone is None:
            self.patches = nn.Conv2d(3, FINE, 8, stride=4, padding=2)
            self.fine = nn.Conv2d(FINE, FINE, 3, padding=1)
            self.down = nn.Conv2d(FINE, COARSE, 3, stride=2, padding=1)
        else:
            self.down = nn.Conv2d(efficientnet.COARSE, COARSE, 1)
        self.coarse = nn.ModuleList(nn.Conv2d(COARSE, COARSE, 3, padding=1) for _ in range(2))
        self.across = nn.Conv2d(FINE if self.backbone is None else efficientnet.FINE, COARSE, 1)
        # Over the cells of each picture: what is everywhere is nothing, and what is in one place stands out.
        self.norm = nn.InstanceNorm2d(COARSE, eps=1e-3, affine=True)
        points = config.tokens * config.points
        if config.pooled:
            self.maps = nn.Linear(COARSE, points)
        self.out = nn.Linear(config.points * (COARSE + 2), width)
        self.which = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        self.roles = nn.ParameterDict({role: torch.randn(width) * 0.02 for role in sorted(roles)})
        if config.goals:
            self.goal = nn.Parameter(torch.randn(width) * 0.02)
        if config.film:
            self.film = nn.Linear(width, 2 * COARSE)
            # The words change nothing at first (RT-1, arXiv 2212.06817, section 5.1).
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def read(self, words: Tensor, words_valid: Tensor) -> Tensor:
        """What instructions ``(B, W, width)`` make of pictures: factors and offsets of features ``(B, 2 * COARSE)``."""
        if not self.config.film:
            return words.new_zeros(len(words), 2 * COARSE)
        valid = words_valid[..., None].to(words.dtype)
        return self.film((words * valid).sum(1) / valid.sum(1).clamp(min=1))

    def forward(self, pictures: Tensor, reading: Tensor, role: str) -> Tensor:
        """uint8 ``(B, T, height, width, 3)`` of one camera to ``(B, T, tokens, width)``."""
        batch, time = pictures.shape[:2]
        x = pictures.flatten(0, 1).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        x = x.contiguous(memory_format=torch.channels_last)
        if self.backbone is None:
            x = F.relu(self.patches(x))
            x = deep = F.relu(x + self.fine(x))
        else:
            x, deep = self.backbone(x)
        deep = F.relu(self.down(deep))
        factor, offset = reading.repeat_interleave(time, 0)[..., None, None].chunk(2, 1)
        for convolution in self.coarse:
            deep = F.relu(deep + convolution(deep) * (1 + factor) + offset)
        x = self.across(x) + F.interpolate(deep, x.shape[-2:], mode="nearest")
        height, width = x.shape[-2:]
        x = self.norm(x.float()).to(x.dtype).flatten(2).transpose(1, 2)
        found = self._pooled(x, height, width) if self.config.pooled else self._raster(x, height, width)
        tokens = self.out(found.unflatten(1, (self.config.tokens, self.config.points)).flatten(2))
        tokens = tokens.float() + self.which + self.roles[role]
        return tokens.view(batch, time, self.config.tokens, -1)

    def forward_goals(self, goals: dict[str, Tensor], readings: dict[str, Tensor]) -> Tensor:
        """Tokens ``(B, cameras * tokens, width)`` of what each camera is to see, uint8 ``(B, height, width, 3)``."""
        tokens = [self(picture[:, None], readings[name], name)[:, 0] for name, picture in goals.items()]
        return torch.cat(tokens, 1) + self.goal

    def _pooled(self, x: Tensor, height: int, width: int) -> Tensor:
        """Features and coordinates under each map: ``(N, points, COARSE + 2)``."""
        weight = (SHARPNESS * self.maps(x).float()).softmax(1).transpose(1, 2).to(x.dtype)
        return weight @ torch.cat([x, _coordinates(height, width, x).expand(len(x), -1, -1)], -1)

    def _raster(self, x: Tensor, height: int, width: int) -> Tensor:
        """Features and coordinates of the cells of a raster of as many columns as rows, or twice as many."""
        points = self.config.tokens * self.config.points
        rows = int(points**0.5)
        while points % rows:
            rows -= 1
        features = torch.cat([x, _coordinates(height, width, x).expand(len(x), -1, -1)], -1)
        grid = features.transpose(1, 2).unflatten(2, (height, width))
        return F.adaptive_avg_pool2d(grid, (rows, points // rows)).flatten(2).transpose(1, 2)


def _coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """Of the cells' middles, from -EDGE to EDGE: ``(height * width, 2)``, x then y."""
    y = ((torch.arange(height, device=like.device) + 0.5) * 2 / height - 1) * EDGE
    x = ((torch.arange(width, device=like.device) + 0.5) * 2 / width - 1) * EDGE
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1).flatten(0, 1).to(like.dtype)

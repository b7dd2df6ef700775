"""Cameras: one small convolutional network that turns the pictures of every camera into a few tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polysoma.config import check, within
from polysoma.errors import SettingError
from polysoma.nn import efficientnet
from polysoma.nn.efficientnet import EfficientNetLite0
from polysoma.nn.named import Modules, Parameters

FINE, COARSE = 48, 64
GRID, CELL, HIDDEN = 12, 16, 256
"""Of the grid: cells a side, features of a cell, width of the layer that reads all cells."""
EDGE = 8.0
"""The coordinate of a picture's edge: two coordinates are to count as much as many features."""
SHARPNESS = 4.0
"""What logits of maps are multiplied by: a thing of a few cells must win against hundreds of cells of background."""

Reduction = Literal["grid", "points", "named"]
_LEAST = {
    ("small", "grid"): (4, 4),
    # Places are compared with each other, so there must be two.
    ("small", "points"): (4, 8),
    ("small", "named"): (8, 8),
    ("efficientnet-lite0", "grid"): (1, 1),
    ("efficientnet-lite0", "points"): (1, 9),
}


@dataclass(frozen=True)
class ImageConfig:
    """How pictures become tokens.

    Attributes:
        backbone: ``"small"``, a network of two stages that starts at random, or ``"efficientnet-lite0"``, the first
            stages of EfficientNet-Lite0, which start with weights trained on ImageNet.
        reduction: how features of cells become tokens: ``"grid"``, a perceptron that reads every cell at its place;
            ``"points"``, places that are found anew in each picture (:class:`Points`); or ``"named"``, where the
            things are that the instruction names, found by a network that knows words already and does not learn
            (:class:`~polysoma.nn.finder.NamedPlaces`), one token a picture.
        tokens: of one picture.
        points: places that each token looks at.
        film: whether the instruction modulates the network (FiLM, Perez et al. 2018, arXiv 1709.07871, as in RT-1).
        goals: whether a policy can be shown what its cameras are to see in the end.
        words: that the network of ``"named"`` knows; a training fills in those of the shipped one.
        outlines: whether ``"named"`` also says how large the things look and how they are turned
            (:mod:`polysoma.nn.outlines`).
        waves: frequencies at which ``"named"`` says each number a second time, as a sine and a cosine, so that what
            depends on a few pixels is told apart (:mod:`polysoma.nn.waves`); 0 for none.
    """

    backbone: Literal["small", "efficientnet-lite0"] = "small"
    reduction: Reduction = "grid"
    tokens: Annotated[int, within(1, 1024)] = 8
    points: Annotated[int, within(1, 1024)] = 4
    film: bool = True
    goals: bool = False
    words: tuple[str, ...] = ()
    outlines: bool = False
    waves: Annotated[int, within(0, 16)] = 0

    def __post_init__(self) -> None:
        if self.backbone not in ("small", "efficientnet-lite0"):
            raise SettingError(f"images: backbone must be small or efficientnet-lite0, got {self.backbone!r}")
        if self.reduction not in get_args(Reduction):
            raise SettingError(f"images: reduction must be one of {get_args(Reduction)}, got {self.reduction!r}")
        if self.reduction == "named" and (self.tokens != 1 or self.goals or self.backbone != "small"):
            raise SettingError(
                "images: with reduction named expected 1 token, no goals and backbone small, got "
                f"{self.tokens} tokens, goals {self.goals} and {self.backbone}"
            )
        check(self)

    @property
    def least(self) -> tuple[int, int]:
        """Pixels of the shorter and of the longer side of the smallest pictures that can be read; with ``"named"`` once
        they are reduced (:func:`~polysoma.nn.finder.reduced`)."""
        return _LEAST[self.backbone, self.reduction]


class ImageTokenizer(nn.Module):
    """Pictures of any camera to ``tokens`` tokens each.

    Features at two resolutions (strides 4 and 8, or 8 and 16 of EfficientNet) are added up and reduced to tokens. A
    camera's role is a vector that is added to its tokens.

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
        self.norms = nn.ModuleList(nn.GroupNorm(8, COARSE) for _ in self.coarse)
        fine = FINE if self.backbone is None else efficientnet.FINE
        self.reduce: Grid | Points = (
            Grid(config, fine, width, roles) if config.reduction == "grid" else Points(config, fine, width)
        )
        self.which = nn.Parameter(torch.randn(config.tokens, width) * 0.02)
        self.roles = Parameters({role: torch.randn(width) * 0.02 for role in sorted(roles)})
        if config.goals:
            self.goal = nn.Parameter(torch.randn(width) * 0.02)
        if config.film:
            self.film = nn.Linear(width, 2 * COARSE * len(self.coarse))
            # The words change nothing at first (RT-1, arXiv 2212.06817, section 5.1).
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def read(self, words: Tensor, ids: Tensor) -> Tensor:
        """What instructions, tokens ``(B, W, width)`` of the numbers ``(B, W)``, make of pictures: factors and offsets
        of the features of each layer, ``(B, 2 * COARSE * layers)``."""
        if not self.config.film:
            return words.new_zeros(len(words), 2 * COARSE * len(self.coarse))
        valid = (ids != 0)[..., None].to(words.dtype)
        return self.film((words * valid).sum(1) / valid.sum(1).clamp(min=1))

    def forward(self, pictures: Tensor, condition: Tensor, role: str) -> Tensor:
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
        modulations = condition.repeat_interleave(time, 0)[..., None, None].chunk(2 * len(self.coarse), 1)
        for number, (convolution, norm) in enumerate(zip(self.coarse, self.norms, strict=True)):
            factor, offset = modulations[2 * number : 2 * number + 2]
            deep = F.relu(deep + norm(convolution(deep)).to(deep.dtype) * (1 + factor) + offset)
        tokens = self.reduce(x, deep, role).float() + self.which + self.roles[role]
        return tokens.view(batch, time, self.config.tokens, -1)

    def forward_goals(self, goals: Mapping[str, Tensor], conditioning: dict[str, Tensor]) -> Tensor:
        """Tokens ``(B, cameras * tokens, width)`` of what each camera is to see, uint8 ``(B, height, width, 3)``."""
        tokens = [self(picture[:, None], conditioning[name], name)[:, 0] for name, picture in goals.items()]
        return torch.cat(tokens, 1) + self.goal


class Grid(nn.Module):
    """All cells at once: a few features of each cell of a fixed grid, normalised together, through a perceptron.

    Where a thing is matters as much as what it is, and a perceptron over places says so at once; averages under maps
    (:class:`Points`) learned it three times more slowly. What is the same in all pictures of a camera, nearly
    everything, is subtracted before the perceptron's nonlinearity: otherwise it drowns what differs.
    """

    def __init__(self, config: ImageConfig, fine: int, width: int, roles: Sequence[str]) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.across = nn.Conv2d(fine, COARSE, 1)
        self.cell = nn.Conv2d(COARSE, CELL, 1)
        self.norm = nn.LayerNorm(CELL * GRID**2)
        self.hidden = nn.Linear(CELL * GRID**2, HIDDEN)
        self.standardised: Modules[Standardised] = Modules({role: Standardised(HIDDEN) for role in sorted(roles)})
        self.out = nn.Linear(HIDDEN, config.tokens * width)

    def forward(self, fine: Tensor, deep: Tensor, role: str) -> Tensor:
        """Features ``(N, channels, height, width)`` of both resolutions to ``(N, tokens, width)``."""
        x = self.across(_resized(fine)) + _resized(deep)
        x = self.norm(F.relu(self.cell(x)).flatten(1).float())
        x = F.relu(self.standardised[role](self.hidden(x).float()))
        return self.out(x).unflatten(1, (self.tokens, -1))


class Standardised(nn.Module):
    """Features minus their mean over the data, in units of their standard deviation (batch normalisation, Ioffe &
    Szegedy 2015, arXiv 1502.03167): those of the batch where gradients are computed, running ones everywhere else."""

    mean: Tensor
    variance: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """float32 ``(N, size)``."""
        learning = self.training and torch.is_grad_enabled() and len(x) > 1
        return F.batch_norm(x, self.mean, self.variance, training=learning, momentum=0.05)


def _resized(x: Tensor) -> Tensor:
    """To the grid's cells: averages where these are whole numbers of cells, or else interpolated."""
    height, width = int(x.shape[-2]), int(x.shape[-1])
    if height % GRID == 0 and width % GRID == 0:
        return F.avg_pool2d(x, (height // GRID, width // GRID))
    return F.interpolate(x, (GRID, GRID), mode="bilinear", align_corners=False)


class PictureNorm(nn.InstanceNorm2d):
    """Features of each picture, ``(N, channels, height, width)``, minus their mean over its cells, in units of their
    standard deviation (instance normalisation, Ulyanov et al. 2016, arXiv 1607.08022); computed in float32."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = super().forward(x.float().contiguous())
        if found.requires_grad:
            # PyTorch 2.13 goes on from a gradient of a single picture that is channels-last as if it were not.
            found.register_hook(Tensor.contiguous)
        return found.to(x.dtype)


class Points(nn.Module):
    """Places found in each picture (TokenLearner, Ryoo et al. 2021, arXiv 2106.11297, with the places' coordinates, as
    in Levine et al. 2016, arXiv 1504.00702).

    Each of ``tokens * points`` maps becomes a distribution over the cells of the finer resolution; features and
    coordinates averaged under it say what is there, and where.
    """

    def __init__(self, config: ImageConfig, fine: int, width: int) -> None:
        super().__init__()
        self.tokens = config.tokens
        self.across = nn.Conv2d(fine, COARSE, 1)
        # Over the cells of each picture: what is everywhere is nothing, and what is in one place stands out.
        self.norm = PictureNorm(COARSE, eps=1e-3, affine=True)
        self.maps = nn.Linear(COARSE, config.tokens * config.points)
        self.out = nn.Linear(config.points * (COARSE + 2), width)

    def forward(self, fine: Tensor, deep: Tensor, role: str) -> Tensor:
        """Features ``(N, channels, height, width)`` of both resolutions to ``(N, tokens, width)``."""
        x = self.across(fine) + F.interpolate(deep, fine.shape[-2:], mode="nearest")
        height, width = x.shape[-2:]
        x = self.norm(x).flatten(2).transpose(1, 2)
        weight = (SHARPNESS * self.maps(x).float()).softmax(1).transpose(1, 2).to(x.dtype)
        # In a graph that is traced, len(x) would be a constant: batches of other sizes would fail.
        places = coordinates(height, width, x).expand(x.shape[0], -1, -1)
        found = weight @ torch.cat([x, places], -1)
        return self.out(found.unflatten(1, (self.tokens, -1)).flatten(2))


def coordinates(height: int, width: int, like: Tensor) -> Tensor:
    """Of the cells' middles, from -EDGE to EDGE: ``(height * width, 2)``, x then y."""
    y = ((torch.arange(height, device=like.device) + 0.5) * 2 / height - 1) * EDGE
    x = ((torch.arange(width, device=like.device) + 0.5) * 2 / width - 1) * EDGE
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], -1).flatten(0, 1).to(like.dtype)

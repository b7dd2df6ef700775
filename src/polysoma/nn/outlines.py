"""How a thing looks that was found in a picture: its place to a fraction of a pixel, its size, and how it is turned.

No weights: a thing is the pixels around its place that have its colour, and their moments say the rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from polysoma.nn.images import EDGE, coordinates

MEASURES = 7
"""Of each thing: see :func:`outlines`."""
_CHROMA, _LIGHT = 0.05, 0.25
"""How far the shares of red and green, and the logarithm of the light, may lie apart within one thing."""
_COLOURLESS = 0.5
"""What pixels of no colour count for in the colour of a thing, beside those that stand out from the picture."""
_ROUNDS = 5
"""Times that the window is moved onto the thing, the first of which mends its colour, too."""
_BEGIN, _LEAST, _MOST = 6.0, 3.0, 40.0
"""Pixels: half of the window's side at first, and the least and the most that it becomes."""
_LARGEST = 0.2
"""The share of a picture beyond which something is no thing, but the table."""
_SIZE, _LONG, _SQUARE = (3.5, 2.0), 8.0, 16.0
"""The logarithm of pixels that counts as 0, and factors that bring the measures to the range of coordinates."""


def outlines(pictures: Tensor, logits: Tensor) -> Tensor:
    """The looks of things in pictures: float32 ``(N, things, MEASURES)``; zeros where nothing stands out.

    From a first guess, a window moves onto the pixels of a thing's colour and takes their extent (mean shift, Comaniciu
    & Meer 2002, "Mean Shift: A Robust Approach Toward Feature Space Analysis"). Moments of second order say how long
    and in which direction it is, those of fourth order how a square one is turned (Flusser et al. 2009, "Moments and
    Moment Invariants in Pattern Recognition", complex moments of order (4, 0)).

    Args:
        pictures: uint8 ``(N, height, width, 3)``, 4 pixels to the cell.
        logits: of the cells in which things may be, float32 ``(N, things, height / 4 * width / 4)``.

    Returns:
        x and y from -EDGE to EDGE; the logarithm of the size; twice the direction in which a thing is long, and four
        times that in which it is square, as cosine and sine with the strength as factor.
    """
    height, width = int(pictures.shape[1]) // 4 * 4, int(pictures.shape[2]) // 4 * 4
    colours = _colours(pictures[:, :height, :width])
    squares = colours.square().sum(1, keepdim=True)
    down, across = (torch.arange(size, device=logits.device) + 0.5 for size in (height, width))
    share = logits.softmax(-1)
    first = coordinates(height // 4, width // 4, share)[share.argmax(-1)]
    x, y = (first[..., 0] / EDGE + 1) * width / 2, (first[..., 1] / EDGE + 1) * height / 2
    # Pixels of the table and of the arm lie in the same cells.
    stands_out = (colours - colours.mean(2, keepdim=True))[:, :2].square().sum(1) + _COLOURLESS
    pixels = share.square().unflatten(-1, (height // 4, width // 4))
    pixels = F.interpolate(pixels, (height, width), mode="nearest").flatten(2) * stands_out[:, None]
    colour = (pixels @ colours.transpose(1, 2)) / pixels.sum(-1, keepdim=True)
    half = torch.full_like(x, _BEGIN)
    for count in range(_ROUNDS):
        if count <= 1:
            off = squares + colour.square().sum(-1)[..., None] - 2 * (colour @ colours)
            alike = torch.exp(-0.5 * off.clamp(min=0)).unflatten(-1, (height, width))
        right, below = across - x[..., None], down - y[..., None]
        window_x, window_y = (torch.exp(-0.25 * (way / half[..., None]) ** 4) for way in (right, below))
        powers_x = torch.stack([window_x * right**power for power in range(5)], -1)
        powers_y = torch.stack([window_y * below**power for power in range(5)], -2)
        moments = powers_y @ (alike @ powers_x)
        size = moments[..., 0, 0] + 0.01
        # Rows are the powers of y, columns those of x.
        moments = moments / size[..., None, None]
        if count == 0:
            pixels = (alike * window_y[..., None] * window_x[..., None, :]).flatten(2)
            colour = (pixels @ colours.transpose(1, 2)) / size[..., None]
        x, y = x + moments[..., 0, 1], y + moments[..., 1, 0]
        spread = moments[..., 0, 2] + moments[..., 2, 0] - moments[..., 0, 1] ** 2 - moments[..., 1, 0] ** 2
        half = (1.5 * spread.clamp(min=0).sqrt() + 2).clamp(_LEAST, _MOST)
    second = moments[..., 0, 2] + moments[..., 2, 0] + 0.5
    fourth = moments[..., 0, 4] + 2 * moments[..., 2, 2] + moments[..., 4, 0] + 1
    measures = [
        (x * 2 / width - 1) * EDGE,
        (y * 2 / height - 1) * EDGE,
        (size.log() - _SIZE[0]) * _SIZE[1],
        _LONG * (moments[..., 0, 2] - moments[..., 2, 0]) / second,
        _LONG * 2 * moments[..., 1, 1] / second,
        _SQUARE * (moments[..., 0, 4] - 6 * moments[..., 2, 2] + moments[..., 4, 0]) / fourth,
        _SQUARE * 4 * (moments[..., 1, 3] - moments[..., 3, 1]) / fourth,
    ]
    found = torch.stack(measures, -1)
    return torch.where(((size > 1) & (size < _LARGEST * height * width))[..., None], found, torch.zeros_like(found))


def _colours(pictures: Tensor) -> Tensor:
    """Pixels in numbers that change little with the light on a thing: float32 ``(N, 3, pixels)``, in units of what may
    lie apart within one."""
    shares = pictures.flatten(1, 2).transpose(1, 2).float() / 255
    light = shares.sum(1, keepdim=True)
    # Where it is nearly dark, a colour says little.
    return torch.cat([(shares[:, :2] + 0.02) / (light + 0.06) / _CHROMA, (light + 0.15).log() / _LIGHT], 1)

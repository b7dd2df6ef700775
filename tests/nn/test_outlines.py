"""How things look: places to a fraction of a pixel, sizes, and how they are turned."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from polysoma.nn.images import EDGE
from polysoma.nn.outlines import MEASURES, outlines

HEIGHT, WIDTH, FINER = 96, 128, 8


def _drawn(x: float, y: float, deep: float, long: float, degrees: float) -> Tensor:
    """A red rectangle of these halves of sides on a grey table beside a blue one, uint8 ``(1, HEIGHT, WIDTH, 3)``."""
    picture = Image.new("RGB", (FINER * WIDTH, FINER * HEIGHT), (125, 122, 118))
    draw = ImageDraw.Draw(picture)
    draw.rectangle([FINER * 10, FINER * 10, FINER * 22, FINER * 22], fill=(40, 80, 210))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    sides = [(a * long, b * deep) for a, b in ((1, 1), (1, -1), (-1, -1), (-1, 1))]
    corners = [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in sides]
    draw.polygon([(FINER * a, FINER * b) for a, b in corners], fill=(200, 45, 40))
    return torch.from_numpy(np.asarray(picture.reduce(FINER)).copy())[None]


def _guess(x: float, y: float) -> Tensor:
    """Logits of one thing that is in the cell of this pixel."""
    logits = torch.zeros(1, 1, HEIGHT // 4 * (WIDTH // 4))
    logits[0, 0, int(y) // 4 * (WIDTH // 4) + int(x) // 4] = 10.0
    return logits


def _measured(deep: float, long: float, degrees: float, x: float = 70.3, y: float = 50.6) -> Tensor:
    found = outlines(_drawn(x, y, deep, long, degrees), _guess(x + 4, y - 3))
    assert found.shape == (1, 1, MEASURES)
    return found[0, 0]


@pytest.mark.parametrize("half", [4.0, 8.0, 14.0])
def test_a_place_is_found_to_a_fraction_of_a_pixel(half: float) -> None:
    for x, y in ((70.3, 50.6), (64.9, 41.2)):
        found = _measured(half, half, 20, x, y)
        assert abs((found[0] / EDGE + 1) * WIDTH / 2 - x) < 0.35
        assert abs((found[1] / EDGE + 1) * HEIGHT / 2 - y) < 0.35


def test_larger_things_measure_larger() -> None:
    sizes = [_measured(half, half, 0)[2] for half in (4.0, 6.0, 9.0, 13.0)]
    assert all(larger > smaller + 0.5 for smaller, larger in itertools.pairwise(sizes))


@pytest.mark.parametrize("half", [5.0, 12.0])
def test_squares_say_how_they_are_turned_a_quarter_of_a_turn_being_nothing(half: float) -> None:
    for degrees in (0, 15, 30, 45, 60, 75):
        cos, sin = _measured(half, half, degrees)[5:]
        # The corners of a square lie at 45 degrees to its sides.
        said = math.degrees(math.atan2(-sin, -cos)) / 4
        assert abs((said - degrees + 45) % 90 - 45) < 5
    assert torch.allclose(_measured(half, half, 20), _measured(half, half, 110), atol=0.2)


def test_long_things_say_in_which_direction() -> None:
    for degrees in (0, 30, 90, 150):
        cos, sin = _measured(4, 12, degrees)[3:5]
        said = math.degrees(math.atan2(sin, cos)) / 2
        assert abs((said - degrees + 90) % 180 - 90) < 5
    assert _measured(8, 8, 30)[3:5].abs().max() < 0.3


def test_the_table_is_no_thing() -> None:
    assert not outlines(_drawn(70, 50, 8, 8, 0), _guess(30, 80)).any()

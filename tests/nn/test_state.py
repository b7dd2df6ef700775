"""States as tokens."""

from __future__ import annotations

import numpy as np
import torch

from polysoma.data.statistics import Statistics
from polysoma.embodiment import channels
from polysoma.nn.tokenizers import StateTokenizer


def missed(frequencies: int, target: torch.Tensor, x: torch.Tensor) -> float:
    """The error of the best linear map from tokens to the target."""
    torch.manual_seed(0)
    statistics = Statistics.of(np.array([[-1], [1]], np.float32))
    tokenizer = StateTokenizer(channels("x", "m", -2, 2), statistics, 64, False, frequencies).double()
    with torch.no_grad():
        tokens = torch.nn.functional.pad(tokenizer(x)[:, 0], (0, 1), value=1.0)
    found = tokens @ torch.linalg.lstsq(tokens, target, driver="gelsd").solution
    return float((found - target).square().mean() / target.var())


def test_waves_tell_small_differences_apart() -> None:
    x = torch.linspace(-1.5, 1.5, 400, dtype=torch.float64)[:, None]
    # A gripper that closes within a tenth of a standard deviation.
    target = (x > 0.3).double()
    coarse, fine = (missed(frequencies, target, x) for frequencies in (0, 6))
    assert fine < 0.1 < 0.2 < coarse
    # What is smooth is lost by neither.
    assert missed(0, x, x) < 1e-6 and missed(6, x, x) < 1e-6

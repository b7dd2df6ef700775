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


def two_groups(film: int) -> StateTokenizer:
    statistics = Statistics.of(np.array([[-1, -1], [1, 1]], np.float32))
    named = (*channels("x", "m", -2, 2, "red"), *channels("y", "m", -2, 2, "blue"))
    torch.manual_seed(0)
    return StateTokenizer(named, statistics, 16, False, 0, film)


def test_words_scale_tokens_and_padding_says_nothing() -> None:
    told, plain = two_groups(4), two_groups(0)
    plain.load_state_dict({name: value for name, value in told.state_dict().items() if name in plain.state_dict()})
    words, valid = torch.randn(2, 3, 16), torch.tensor([[True, True, False], [True, True, True]])
    state, which = torch.randn(3, 5, 2), torch.tensor([1, 0, 1])
    assert torch.equal(told(state, told.read(words, valid), which), plain(state))
    assert told.factors is not None
    torch.nn.init.normal_(told.factors.weight)
    factors = told.read(words, valid)
    assert factors.shape == (2, 2, 16) and not torch.allclose(factors[0], factors[1])
    assert torch.allclose(told(state, factors, which), plain(state) * factors[which][:, None])
    words[0, 2] += 10
    assert torch.equal(told.read(words, valid), factors)


def test_which_group_an_instruction_speaks_of_is_learnt() -> None:
    """A linear map of tokens that words do not scale can do no better than the mean of both groups."""
    missed = {}
    for film in (0, 4):
        tokenizer, out, words = two_groups(film), torch.nn.Linear(16, 1), torch.randn(2, 1, 16)
        parameters = [*tokenizer.parameters(), *out.parameters()]
        optimizer = torch.optim.Adam(parameters, 1e-2)
        for _ in range(400):
            state, which = torch.randn(64, 1, 2), torch.randint(2, (64,))
            factors = tokenizer.read(words, torch.ones(2, 1, dtype=torch.bool)) if film else None
            answer = out(tokenizer(state, factors, which).sum(2))[:, 0, 0]
            loss = (answer - state[torch.arange(64), 0, which]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        missed[film] = loss.item()
    assert missed[4] < 0.05 and missed[0] > 0.2

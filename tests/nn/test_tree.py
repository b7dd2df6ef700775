"""The tree search, with models that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from polysoma.nn.tree import Searching, search, sweeps

DISCOUNT = 0.8


class Known:
    """A world of few places: where choices lead and what they earn; latents are places, one-hot.

    Args:
        following: int64 ``(places, choices)``.
        rewards: float32 ``(places, choices)``.
        logits: what is believed of choices, float32 ``(places, choices)``; nothing by default.
    """

    def __init__(self, following: np.ndarray, rewards: np.ndarray, logits: np.ndarray | None = None) -> None:
        self.following, self.rewards = torch.from_numpy(following), torch.from_numpy(rewards)
        self.logits = torch.zeros(rewards.shape) if logits is None else torch.from_numpy(logits)
        self.values = torch.zeros(len(rewards))

    def latents(self) -> Tensor:
        return torch.eye(len(self.following))

    def expect(self, latents: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        places = latents.argmax(1)
        return self.latents()[self.following[places, actions]], self.rewards[places, actions]

    def judge(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits[latents.argmax(1)], self.values[latents.argmax(1)]


def worth(model: Known) -> np.ndarray:
    """What choices are worth, by value iteration: ``(places, choices)``."""
    following, rewards, values = model.following.numpy(), model.rewards.numpy(), np.zeros(len(model.rewards))
    for _ in range(200):
        values = (rewards + DISCOUNT * values[following]).max(1)
    found: np.ndarray = rewards + DISCOUNT * values[following]
    return found


@pytest.mark.parametrize("seed", range(10))
def test_the_best_choice_of_a_known_world_is_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards = np.where(rng.random((8, 3)) < 0.3, rng.random((8, 3)), 0).astype(np.float32)
    model = Known(rng.integers(8, size=(8, 3)), rewards)
    truth, places = worth(model), np.arange(8)
    found = search(model, model.latents(), Searching(200, visits=10), DISCOUNT, 1.0, np.zeros((8, 3)))
    lost = truth.max(1) - truth[places, found.choices]
    assert lost.max() < 0.3 and (truth.max(1) - truth.min(1)).max() > 0.9
    # With values of what is not searched, one step is enough.
    model.values = torch.from_numpy(truth.max(1)).float()
    few = search(model, model.latents(), Searching(3), DISCOUNT, 1.0, np.zeros((8, 3)))
    np.testing.assert_allclose(truth[places, few.choices], truth.max(1), atol=1e-6)
    assert ((few.policy * truth).sum(1) > truth.mean(1) - 1e-6).all()


def test_a_reward_three_steps_away_is_found() -> None:
    # Places 0 to 5; left, stay, right; arriving at 5 earns 1.
    following = np.clip(np.arange(6)[:, None] + np.array([-1, 0, 1]), 0, 5)
    rewards = np.zeros((6, 3), np.float32)
    rewards[4, 2] = 1
    model = Known(following, rewards)
    for seed in range(10):
        noise = 0.1 * np.random.default_rng(seed).gumbel(size=(1, 3))
        found = search(model, model.latents()[2:3], Searching(100), DISCOUNT, 1.0, noise)
        assert found.choices[0] == 2


def test_trees_do_not_depend_on_each_other() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.random((8, 4)).astype(np.float32)
    model = Known(rng.integers(8, size=(8, 4)), rewards, rng.normal(size=(8, 4)).astype(np.float32))
    noise = rng.gumbel(size=(8, 4))
    together = search(model, model.latents(), Searching(20), DISCOUNT, 1.0, noise)
    for place in range(8):
        alone = search(
            model, model.latents()[place : place + 1], Searching(20), DISCOUNT, 1.0, noise[place : place + 1]
        )
        assert alone.choices[0] == together.choices[place]
        np.testing.assert_allclose(alone.policy[0], together.policy[place], rtol=1e-5)


def test_without_returns_choices_are_drawn_as_they_were_believed() -> None:
    logits = np.log(np.array([[0.6, 0.3, 0.1]], np.float32)).repeat(4000, 0)
    model = Known(np.zeros((1, 3), np.int64), np.zeros((1, 3), np.float32), logits[:1])
    noise = np.random.default_rng(0).gumbel(size=(4000, 3))
    found = search(model, torch.ones(4000, 1), Searching(4), DISCOUNT, 0.0, noise)
    np.testing.assert_allclose(np.bincount(found.choices) / 4000, [0.6, 0.3, 0.1], atol=0.03)
    np.testing.assert_allclose(found.policy[0], [0.6, 0.3, 0.1], rtol=1e-5)


def test_few_are_considered_again_and_again() -> None:
    assert sweeps(4, 8) == [(0, 4), (1, 2), (2, 2)]
    assert sweeps(1, 3) == [(0, 1), (1, 1), (2, 1)]
    assert sweeps(7, 4) == [(0, 4)] and sweeps(7, 10) == [(0, 7), (1, 3)]
    assert sweeps(16, 64)[:7] == [(0, 16), (1, 8), (2, 8), (3, 4), (4, 4), (5, 4), (6, 4)]
    for considered in range(1, 20):
        for simulations in range(1, 40):
            assert sum(count for _, count in sweeps(considered, simulations)) == simulations

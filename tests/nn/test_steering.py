"""A linear law from logs: where it leads, and when it says that it does not fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from make_puck import PUCK
from polysoma.errors import PolysomaError
from polysoma.nn.steering import Steering
from polysoma.policy.skills import SkillConfig, SkillPolicy

FRAMES = 30


def sliding(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """A ball on ice ``(N, 4)``: places, then speeds in a hundredth of a second; a wind drifts it."""
    speed = state[:, 2:] + 0.2 * np.clip(action, -1, 1) + 0.002
    return np.concatenate([state[:, :2] + 0.01 * speed, speed], 1)


def rolling(state: np.ndarray, action: np.ndarray) -> np.ndarray:
    """A unicycle ``(N, 4)``: places, heading and speed."""
    heading, speed = state[:, 2] + 0.2 * action[:, 0], 0.5 + 0.5 * action[:, 1]
    moved = 0.05 * speed[:, None] * np.stack([np.cos(heading), np.sin(heading)], 1)
    return np.concatenate([state[:, :2] + moved, heading[:, None], speed[:, None]], 1)


def measured(world: object, seed: int, impacts: float = 0.0) -> Steering:
    rng = np.random.default_rng(seed)
    states, actions = [rng.normal(size=(2000, 4))], rng.uniform(-1, 1, (2000, 1, 2)).repeat(FRAMES, 1)
    actions = np.clip(actions + rng.normal(0, 0.5, actions.shape), -1, 1)
    for step in range(FRAMES):
        after = world(states[-1], actions[:, step])  # type: ignore[operator]
        hit = rng.random(len(after)) < impacts
        after[hit, 2:] *= -0.5
        states.append(after)
    made = Steering(4, [0, 1], 2)
    made.measure(np.stack(states, 1).astype(np.float32), actions.astype(np.float32), 1.0)
    return made


@pytest.mark.parametrize("seed", range(3))
def test_it_leads_to_a_place_and_stops_there(seed: int) -> None:
    steering = measured(sliding, seed, impacts=0.005)
    assert steering.fits > 0.9
    rng = np.random.default_rng(9)
    state, goals = rng.normal(size=(50, 4)), rng.normal(size=(50, 2))
    for _ in range(300):
        action = steering(torch.from_numpy(state).float(), torch.from_numpy(goals).float()).numpy()
        assert np.abs(action).max() <= 1
        state = sliding(state, action)
    assert np.abs(state[:, :2] - goals).max() < 0.1 and np.abs(state[:, 2:]).max() < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_a_body_that_turns_first_does_not_fit(seed: int) -> None:
    assert measured(rolling, seed).fits < 0.6


def test_it_decides_where_it_fits() -> None:
    config = SkillConfig(PUCK, "goal", ("x", "y"), ("goal_x", "goal_y"), 8, 1, waypoints=5, steered=True)
    policy, states = SkillPolicy(config), torch.tensor([[0.0, 0.0, 1.0, -1.0]])
    assert policy.steering is not None
    policy.steering.gain.copy_(torch.eye(2))
    by_the_actor = policy.decide(states)
    policy.steering.fits.fill_(1.0)
    torch.testing.assert_close(policy.decide(states), torch.tensor([[2.0, -2.0]]), msg="to the limits of the puck")
    assert not torch.allclose(policy.decide(states), by_the_actor)


def test_policies_of_before_have_none() -> None:
    config = SkillConfig(PUCK, "goal", ("x", "y"), ("goal_x", "goal_y"), 8, 1, waypoints=5)
    assert SkillConfig.from_json(config.to_json()) == config and SkillPolicy(config).steering is None
    steered = dataclasses.replace(config, steered=True)
    assert SkillConfig.from_json(steered.to_json()) == steered
    with pytest.raises(PolysomaError, match="steered, piece: only policies that draw ways"):
        dataclasses.replace(steered, waypoints=0)

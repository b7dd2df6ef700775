"""The drifting car: its mechanics, its episodes and its expert."""

from __future__ import annotations

import numpy as np
import pytest

from polysoma.errors import PolysomaError
from polysoma.simulators.car import FRICTIONS, RADII, SETTLING, CarEnvironment
from polysoma.simulators.car_body import CAR, GRAVITY, advance, derivative, loads, magic, slips
from polysoma.simulators.car_expert import SIDE_SLIP, steady_drift


def played(environment: CarEnvironment, seed: int, action: np.ndarray | None = None) -> tuple[bool, int]:
    environment.reset(seed=seed)
    for steps in range(1, 1000):
        chosen = environment.expert_action() if action is None else action
        _, reward, terminated, truncated, info = environment.step(chosen)
        if terminated or truncated:
            assert reward == float(info["success"])
            return info["success"], steps
    raise AssertionError("the episode did not end")


def test_the_expert_drifts_and_doing_nothing_does_not() -> None:
    environment = CarEnvironment()
    assert sum(played(environment, seed)[0] for seed in range(20)) >= 18
    still = np.zeros(2, np.float32)
    assert not any(played(environment, seed, still)[0] for seed in range(10))


def test_driving_around_the_circle_without_sliding_is_no_success() -> None:
    """As slowly as tires hold easily, by steering towards the circle."""
    environment = CarEnvironment()
    environment.reset(seed=0)
    state = environment._state
    speed = 0.5 * np.sqrt(GRAVITY / state[8])
    turn = (CAR.front + CAR.rear) * state[8]
    state[:8] = speed, CAR.rear * state[8], speed * state[8], speed / CAR.radius, 0, 0, turn, 0
    for _ in range(environment.max_steps):
        state = environment._state
        steer = turn - 0.2 * state[4] - 1.0 * state[5]
        observation, _, terminated, truncated, info = environment.step(np.array([steer, 0.2 * (speed - state[0])]))
        assert abs(observation["state"][4]) < 0.75
    assert truncated and not terminated and not info["success"]


def test_an_episode_is_one_of_its_seed_and_goes_on_from_a_saved_moment() -> None:
    first, second = CarEnvironment(), CarEnvironment()
    for seed in (1, 2):
        np.testing.assert_equal(first.reset(seed=seed)[0], second.reset(seed=seed)[0])
    for _ in range(30):
        first.step(first.expert_action())
    saved = first.get_state()
    second.reset(seed=9)
    np.testing.assert_equal(second.set_state(saved), first._observation())
    for _ in range(SETTLING):
        action = first.expert_action()
        np.testing.assert_array_equal(action, second.expert_action())
        assert repr(first.step(action)) == repr(second.step(action))
    np.testing.assert_array_equal(first.render_frame(), second.render_frame())
    with pytest.raises(PolysomaError, match="expected a state of this task"):
        second.set_state(type(saved)("drone/ring", saved.physics, {}))


def test_worlds_differ_and_are_told() -> None:
    environment = CarEnvironment()
    states = np.stack([environment.reset(seed=seed)[0]["state"] for seed in range(40)])
    assert (
        len(np.unique(states[:, 9])) == 40 and states[:, 9].min() > FRICTIONS[0] and states[:, 9].max() < FRICTIONS[1]
    )
    assert (1 / states[:, 8] > RADII[0]).all() and (1 / states[:, 8] < RADII[1]).all()
    icy = CarEnvironment(friction=0.8)
    assert icy.reset(seed=3)[0]["state"][9] == np.float32(0.8)
    with pytest.raises(PolysomaError, match=r"friction: expected a number from 0.75 to 1.05, got 2"):
        CarEnvironment(friction=2)


def test_the_mechanics_are_the_same_to_either_side_and_on_arrays() -> None:
    rng = np.random.default_rng(0)
    states = np.stack([steady_drift(1 / radius, 0.9) for radius in (12, 15, 20)]) + rng.normal(0, 0.05, (3, 10))
    actions = states[:, 6:8] + rng.normal(0, 0.1, (3, 2))
    after = advance(np, magic, states, actions)
    sides = np.array([1, -1, -1, 1, -1, -1, -1, 1, -1, 1])
    np.testing.assert_allclose(advance(np, magic, states * sides, actions * (-1, 1)) * sides, after, atol=1e-9)
    np.testing.assert_allclose(advance(np, magic, states[1], actions[1]), after[1], atol=1e-12)


def test_a_steady_drift_stays_and_obeys_newton() -> None:
    state = steady_drift(1 / 15, 0.9)
    action = state[6:8]
    assert state[1] == -SIDE_SLIP and state[6] < 0 < state[2], "front wheels are turned against the curve"
    np.testing.assert_allclose(derivative(np, magic, state, action)[:6], 0, atol=1e-6)
    lateral, pull, side = magic(np, *slips(np, state), loads(state), state[9])
    turned = state[6] - state[1]
    inwards = side * np.cos(state[1]) - pull * np.sin(state[1]) + lateral * np.cos(turned)
    assert inwards == pytest.approx(CAR.mass / 1000 * state[0] ** 2 / 15)
    assert sum(loads(state)) == pytest.approx(CAR.mass * GRAVITY / 1000)
    assert np.hypot(pull, side) <= 1.08 * state[9] * loads(state)[1]

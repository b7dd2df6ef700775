"""The drone: equal seeds, wind, its expert, the named ring, crashes and pictures."""

from __future__ import annotations

import numpy as np
import pytest

from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.simulators import drone, drone_body, drone_expert

pytest.importorskip("mujoco")


def fly(environment, seed, instruction=None, noise=0.0, steps=10_000):
    """One episode of the expert, told another instruction if one is given: its states and its last results."""
    rng = np.random.default_rng(seed)
    observation, info = environment.reset(seed=seed)
    states = [observation["state"]]
    terminated = truncated = False
    while not (terminated or truncated) and len(states) <= steps:
        action = drone_expert.expert(observation["state"], instruction or observation["instruction"])
        if rng.random() < 0.5:
            action = action + noise * rng.standard_normal(4)
        observation, _, terminated, truncated, info = environment.step(action)
        states.append(observation["state"])
    return np.array(states), terminated, info["success"]


def test_the_embodiment_survives_json():
    assert Embodiment.from_json(drone.EMBODIMENT.to_json()) == drone.EMBODIMENT


@pytest.mark.parametrize("task", drone.TASKS)
def test_observations_and_actions_follow_the_embodiment(task):
    environment = drone.FAMILY.make(task)
    observation, info = environment.reset(seed=3)
    assert info["success"] is False
    for _ in range(20):
        assert drone.EMBODIMENT.check_observation(observation)["state"].dtype == np.float32
        assert environment.observation_space.contains(observation)
        assert environment.action_space.contains(environment.expert_action())
        observation, _, terminated, truncated, info = environment.step(environment.expert_action())
        assert isinstance(info["success"], bool)
        assert isinstance(terminated, bool)
        assert isinstance(truncated, bool)


@pytest.mark.parametrize("task", drone.TASKS)
@pytest.mark.parametrize("wind", [0.0, 3.0])
def test_equal_seeds_give_equal_episodes(task, wind):
    used, fresh = drone.FAMILY.make(task, wind=wind), drone.FAMILY.make(task, wind=wind)
    fly(used, 1, noise=0.3)
    first, second = fly(used, 7), fly(fresh, 7)
    np.testing.assert_array_equal(first[0], second[0])
    assert first[1:] == second[1:]
    assert not np.array_equal(first[0][0], fly(used, 8, steps=1)[0][0])


def test_wind_changes_the_flight_but_not_the_start():
    calm, _, _ = fly(drone.FAMILY.make("drone/hover"), 0, steps=50)
    windy, _, _ = fly(drone.FAMILY.make("drone/hover", wind=3.0), 0, steps=50)
    np.testing.assert_array_equal(calm[0], windy[0])
    assert np.abs(calm[-1] - windy[-1]).max() > 0.01


@pytest.mark.parametrize("task", drone.TASKS)
@pytest.mark.parametrize(("noise", "wind"), [(0.0, 0.0), (0.25, 0.0), (0.0, 3.0)])
def test_the_expert_succeeds(task, noise, wind):
    environment = drone.FAMILY.make(task, wind=wind)
    for seed in range(100, 105):
        _, terminated, success = fly(environment, seed, noise=noise)
        assert success, seed
        assert terminated


def test_the_expert_is_a_function_of_the_observation():
    environment = drone.FAMILY.make("drone/ring")
    observation, _ = environment.reset(seed=4)
    expected = drone_expert.expert(observation["state"], observation["instruction"])
    np.testing.assert_array_equal(environment.expert_action(), expected)


def test_hovering_takes_one_second_at_the_target():
    states, _, success = fly(drone.FAMILY.make("drone/hover"), 2)
    target = [i for i, c in enumerate(drone.EMBODIMENT.stream("state").channels) if c.name.startswith("target_")]
    distance = np.linalg.norm(states[:, target], axis=1)
    assert success
    assert (distance[-50:] < drone_body.HOVER_RADIUS).all()
    assert distance[-51] >= drone_body.HOVER_RADIUS


def test_only_the_named_ring_counts():
    environment = drone.FAMILY.make("drone/ring")
    named = set()
    for seed in range(6):
        observation, _ = environment.reset(seed=seed)
        colour = next(c for c in drone_body.RING_COLOURS if c in observation["instruction"])
        named.add(colour)
        wrong = next(c for c in drone_body.RING_COLOURS if c != colour)
        _, terminated, success = fly(environment, seed, instruction=f"fly to the {wrong} ring")
        assert terminated
        assert not success
    assert len(named) > 1


@pytest.mark.parametrize("action", [(-1, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0.1, 0, 0.02, 0)])
def test_a_crash_ends_the_episode(action):
    environment = drone.FAMILY.make("drone/waypoints")
    environment.reset(seed=0)
    for _ in range(environment.max_steps):
        _, reward, terminated, truncated, info = environment.step(np.array(action, np.float32))
        if terminated or truncated:
            break
    assert terminated
    assert not info["success"]
    assert reward == 0
    assert fly(environment, 0)[2], "an episode after a crash starts afresh"


def test_an_idle_drone_is_cut_at_the_limit():
    environment = drone.FAMILY.make("drone/ring")
    environment.reset(seed=0)
    environment.data.qvel[:] = 0
    results = [environment.step(np.zeros(4, np.float32)) for _ in range(environment.max_steps)]
    assert not any(result[3] for result in results[:-1])
    assert results[-1][3]
    assert not results[-1][2]
    assert not results[-1][4]["success"]


def test_bad_arguments_are_named():
    with pytest.raises(PolysomaError, match="drone/loop"):
        drone.FAMILY.make("drone/loop")
    with pytest.raises(PolysomaError, match="wind"):
        drone.FAMILY.make("drone/hover", wind=-1.0)
    environment = drone.FAMILY.make("drone/hover")
    environment.reset(seed=0)
    with pytest.raises(PolysomaError, match="roll_rate"):
        environment.step(np.array([0, np.nan, 0, 0], np.float32))


@pytest.mark.parametrize("task", drone.TASKS)
def test_frames(task):
    environment = drone.FAMILY.make(task)
    environment.reset(seed=1)
    try:
        frame = environment.render_frame(96)
    except PolysomaError as error:
        pytest.skip(f"no GL here: {error}")
    assert frame.shape == (96, 96, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 10

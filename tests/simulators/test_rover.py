"""The rover: its interface, its sensors, its expert and the meaning of its instructions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from polysoma import simulators
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.simulators import navigation, rover

mujoco = pytest.importorskip("mujoco")


@pytest.fixture(scope="module", params=rover.TASKS)
def environment(request: pytest.FixtureRequest) -> rover.RoverEnvironment:
    made = rover.FAMILY.make(request.param)
    assert isinstance(made, rover.RoverEnvironment)
    return made


def expert_episode(environment: rover.RoverEnvironment, seed: int, noise: float = 0.0) -> tuple[np.ndarray, bool]:
    """All states of one expert episode, and whether it succeeded."""
    rng = np.random.default_rng(seed)
    observation, info = environment.reset(seed=seed)
    states, done = [observation["state"]], False
    while not done:
        action = environment.expert_action() + noise * rng.normal(size=2) * (rng.random() < 0.5)
        observation, _, terminated, truncated, info = environment.step(np.clip(action, -1, 1))
        states.append(observation["state"])
        done = terminated or truncated
    return np.array(states), info["success"]


def place(environment: rover.RoverEnvironment, x: float, y: float, yaw: float) -> None:
    environment._data.qpos[:2] = x, y
    environment._data.qpos[3:7] = math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)
    mujoco.mj_forward(environment._model, environment._data)


def test_observations_and_actions_follow_the_embodiment(environment: rover.RoverEnvironment) -> None:
    observation, info = environment.reset(seed=0)
    assert info == {"success": False}
    for _ in range(20):
        checked = rover.EMBODIMENT.check_observation(observation)
        assert environment.observation_space.contains(checked)
        action = environment.expert_action()
        assert environment.action_space.contains(action)
        observation, *_ = environment.step(action)
    assert Embodiment.from_json(rover.EMBODIMENT.to_json()) == rover.EMBODIMENT


def test_unknown_task_is_refused() -> None:
    with pytest.raises(PolysomaError, match="rover/pillar"):
        rover.FAMILY.make("rover/moon")


def test_same_seed_gives_the_same_episode(environment: rover.RoverEnvironment) -> None:
    first, _ = expert_episode(environment, 11, noise=0.3)
    other, _ = expert_episode(environment, 12)
    again, _ = expert_episode(environment, 11, noise=0.3)
    fresh = rover.FAMILY.make(environment.task)
    assert isinstance(fresh, rover.RoverEnvironment)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, expert_episode(fresh, 11, noise=0.3)[0])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize("noise", [0.0, rover.RoverEnvironment.expert_noise])
def test_expert_succeeds(environment: rover.RoverEnvironment, noise: float) -> None:
    assert all(expert_episode(environment, seed, noise)[1] for seed in range(100, 108))


def test_expert_gets_away_from_a_wall(environment: rover.RoverEnvironment) -> None:
    touching = navigation.HALF_ARENA - navigation.WALL_HALF_THICKNESS - rover.CHASSIS_RADIUS
    for seed in range(20):
        environment.reset(seed=seed)
        place(environment, touching, 0.6, 0.0)
        # Where a layout has a box in that place, physics would fling the rover away.
        if environment._data.contact.dist.min(initial=0.0) > -0.005:
            break
    else:
        pytest.fail("no layout leaves that place free")
    done = False
    while not done:
        _, _, terminated, truncated, info = environment.step(environment.expert_action())
        done = terminated or truncated
    assert info["success"]


def test_only_the_named_pillar_is_a_success(environment: rover.RoverEnvironment) -> None:
    for color in rover.COLORS:
        observation, _ = environment.reset(seed=5)
        if color not in environment._pillars:
            continue
        x, y = environment._pillars[color]
        place(environment, x, y, 0.0)
        _, reward, terminated, truncated, info = environment.step(np.zeros(2))
        named = color in observation["instruction"]
        assert (terminated, truncated, info["success"], reward) == (True, False, named, float(named))


def test_standing_still_is_cut_after_max_steps() -> None:
    environment = rover.FAMILY.make("rover/pillar")
    environment.reset(seed=0)
    ends = [environment.step(np.zeros(2))[2:4] for _ in range(environment.max_steps)]
    assert ends[-1] == (False, True)
    assert set(ends[:-1]) == {(False, False)}


def test_lidar_sees_a_known_wall() -> None:
    environment = rover.RoverEnvironment("rover/maze")
    environment.reset(seed=0)
    place(environment, -2.4, 1.0, math.pi)
    lidar = environment._observe()["state"][6 : 6 + rover.LIDAR_RAYS]
    assert lidar[0] == pytest.approx(0.6 - navigation.WALL_HALF_THICKNESS, abs=1e-6)


def test_lidar_agrees_with_mujoco(environment: rover.RoverEnvironment) -> None:
    observation, _ = environment.reset(seed=2)
    x, y, cos, sin = observation["state"][:4].astype(float)
    lidar = observation["state"][6 : 6 + rover.LIDAR_RAYS]
    obstacles_only = np.array([1, 0, 0, 0, 0, 0], np.uint8)
    for i, measured in enumerate(lidar):
        angle = math.atan2(sin, cos) + 2 * math.pi * i / rover.LIDAR_RAYS
        direction = np.array([math.cos(angle), math.sin(angle), 0])
        origin = np.array([x, y, 0.1])
        expected = mujoco.mj_ray(
            environment._model, environment._data, origin, direction, obstacles_only, 1, -1, np.zeros(1, np.int32)
        )
        assert measured == pytest.approx(min(expected, rover.LIDAR_RANGE), abs=1e-4)


def test_color_rays_give_bearing_and_range(environment: rover.RoverEnvironment) -> None:
    observation, _ = environment.reset(seed=3)
    state = observation["state"].astype(float)
    for i, color in enumerate(rover.COLORS):
        first = 6 + rover.LIDAR_RAYS + rover.COLOR_RAYS * i
        rays = state[first : first + rover.COLOR_RAYS]
        if color not in environment._pillars:
            assert not rays.any()
            continue
        distance = 1 / rays.sum() - 1
        ahead = int(rays.argmax())
        nearby = np.arange(ahead - 1, ahead + 2)
        bearing = rays[nearby % rover.COLOR_RAYS] @ nearby / rays.sum() * 2 * math.pi / rover.COLOR_RAYS
        angle = math.atan2(state[3], state[2]) + bearing
        found = state[:2] + distance * np.array([math.cos(angle), math.sin(angle)])
        np.testing.assert_allclose(found, environment._pillars[color], atol=1e-4)


def test_frame(environment: rover.RoverEnvironment) -> None:
    from polysoma.simulators.rendering import choose_backend

    try:
        choose_backend()
    except PolysomaError as error:
        pytest.skip(str(error))
    environment.reset(seed=0)
    frame = environment.render_frame(96)
    environment.close()
    assert frame.shape == (96, 96, 3)
    assert frame.dtype == np.uint8
    assert frame.std() > 10


@pytest.mark.parametrize("task", ["rover/pillar", "rover/maze"])
def test_what_remains_of_the_way_shrinks_as_the_expert_drives(task: str) -> None:
    environment = simulators.make(task)
    environment.reset(seed=3)
    remaining, over, info = [environment.remaining()], False, {"success": False}
    while not over:
        _, _, terminated, truncated, info = environment.step(environment.expert_action())
        over = terminated or truncated
        remaining.append(environment.remaining())
    assert info["success"] and remaining[0] > 1.8 and remaining[-1] < 0.6
    # A cell of the field is a decimetre.
    assert np.diff(remaining).max() < 0.1
    environment.close()


def test_what_remains_of_the_way_does_not_leap_where_it_is_tight() -> None:
    environment = simulators.make("rover/maze")
    rng = np.random.default_rng(0)
    touched = 0
    for seed in range(4):
        environment.reset(seed=seed)
        remaining, over, wheels = [environment.remaining()], False, np.zeros(2, np.float32)
        while not over and len(remaining) < 300:
            if len(remaining) % 30 == 1:
                wheels = rng.uniform(-0.2, 1, 2).astype(np.float32)
            _, _, terminated, truncated, _ = environment.step(wheels)
            over = terminated or truncated
            remaining.append(environment.remaining())
            touched += environment._blocks.clearance(environment._data.qpos[:2]) < 0.2
        # From a decimetre to the next one, and six times as much against a wall or a wrong pillar.
        assert np.abs(np.diff(remaining)).max() < 1
    assert touched > 50
    environment.close()

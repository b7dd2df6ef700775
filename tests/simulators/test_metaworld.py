"""Meta-World: fifty tasks, repeatable episodes, experts that succeed, pictures."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from polysoma.errors import PolysomaError
from polysoma.simulators import metaworld, rendering
from polysoma.simulators.environment import Environment

pytest.importorskip("metaworld")

SOLVED = tuple(f"metaworld/{name}-v3" for name in ("reach", "drawer-open", "button-press-topdown", "pick-place"))


@pytest.fixture(scope="module")
def reach() -> Iterator[Environment]:
    environment = metaworld.FAMILY.make("metaworld/reach-v3")
    yield environment
    environment.close()


def play(environment: Environment, seed: int, noise: float = 0.0) -> tuple[np.ndarray, bool]:
    """All states of one episode of the expert, and whether it succeeded."""
    observation, info = environment.reset(seed=seed)
    states = [observation["state"]]
    generator = np.random.default_rng(seed)
    ended = False
    while not ended:
        action = environment.expert_action() + generator.normal(0.0, noise, 4)
        observation, _, terminated, truncated, info = environment.step(np.clip(action, -1, 1).astype(np.float32))
        states.append(observation["state"])
        ended = terminated or truncated
    return np.array(states), info["success"]


def test_tasks_are_those_of_metaworld() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert len(metaworld.TASKS) == 50
    assert set(metaworld.TASKS) == {f"metaworld/{name}" for name in ALL_V3_ENVIRONMENTS}


def test_instructions_are_distinct_and_short() -> None:
    instructions = list(metaworld.INSTRUCTIONS.values())
    assert len(set(instructions)) == 50
    assert all(text == text.lower() and 3 <= len(text.split()) <= 8 for text in instructions)


def test_importing_the_family_loads_no_simulator() -> None:
    code = "import sys, polysoma.simulators.metaworld; print('mujoco' in sys.modules, 'metaworld' in sys.modules)"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["False", "False"]


def test_unknown_task_names_the_tasks() -> None:
    with pytest.raises(PolysomaError, match="metaworld/reach-v3"):
        metaworld.FAMILY.make("metaworld/fly-v3")


def test_observations_follow_the_embodiment(reach: Environment) -> None:
    observation, info = reach.reset(seed=0)
    assert info["success"] is False
    for _ in range(20):
        checked = metaworld.EMBODIMENT.check_observation(observation)
        assert checked["state"].dtype == observation["state"].dtype == np.float32
        assert reach.observation_space.contains(observation)
        observation, reward, terminated, truncated, info = reach.step(reach.action_space.sample())
        assert isinstance(reward, float) and isinstance(terminated, bool) and isinstance(truncated, bool)
        assert isinstance(info["success"], bool)


def test_goal_and_object_depend_on_the_seed(reach: Environment) -> None:
    goals = {tuple(reach.reset(seed=seed)[0]["state"][36:]) for seed in range(5)}
    assert len(goals) == 5 and (0.0, 0.0, 0.0) not in goals


@pytest.mark.parametrize("task", SOLVED)
def test_expert_succeeds_and_episodes_repeat(task: str) -> None:
    environment = metaworld.FAMILY.make(task)
    first, success = play(environment, 100)
    assert success
    _, success = play(environment, 101, noise=0.2)
    again, _ = play(environment, 100)
    np.testing.assert_array_equal(first, again)
    fresh, _ = play(metaworld.FAMILY.make(task), 100)
    np.testing.assert_array_equal(first, fresh)


@pytest.mark.parametrize("task", ["metaworld/basketball-v3", "metaworld/door-close-v3", "metaworld/peg-insert-side-v3"])
def test_reset_puts_object_and_goal_as_metaworld_does(task: str) -> None:
    environment = metaworld.FAMILY.make(task)
    ours = environment.reset(seed=7)[0]["state"]
    simulation = environment._simulation  # type: ignore[attr-defined]
    theirs, _ = simulation.reset()
    np.testing.assert_allclose(ours[4:7], theirs[4:7], atol=1e-4)
    np.testing.assert_allclose(ours[36:], theirs[36:], atol=1e-4)


@pytest.mark.filterwarnings("ignore:Constant")
def test_expert_actions_are_clipped(reach: Environment) -> None:
    reach.reset(seed=3)
    for _ in range(30):
        action = reach.expert_action()
        assert isinstance(action, np.ndarray)
        assert action.dtype == np.float32 and action.shape == (4,) and np.abs(action).max() <= 1
        reach.step(action)


def test_episode_is_cut_at_its_limit() -> None:
    environment = metaworld.FAMILY.make("metaworld/door-lock-v3")
    environment.reset(seed=0)
    for count in range(1, environment.max_steps + 1):
        _, _, terminated, truncated, _ = environment.step(np.array([0, 0, 1, -1], np.float32))
        assert not terminated and truncated == (count == 500)


def test_frames(reach: Environment) -> None:
    try:
        rendering.choose_backend()
    except PolysomaError:
        pytest.skip("no OpenGL library")
    reach.reset(seed=0)
    before = reach.step(np.zeros(4, np.float32))[0]["state"]
    frame = reach.render_frame(96)
    assert frame.shape == (96, 96, 3) and frame.dtype == np.uint8 and frame.std() > 10
    np.testing.assert_array_equal(frame, reach.render_frame(96))
    assert reach.render_frame(64).shape == (64, 64, 3)
    reach.reset(seed=0)
    np.testing.assert_array_equal(before, reach.step(np.zeros(4, np.float32))[0]["state"])


def test_missing_opengl_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(rendering, "_loads", lambda library: False)
    monkeypatch.setattr("platform.system", lambda: "Linux")
    with pytest.raises(PolysomaError, match="libosmesa6 or libegl1"):
        rendering.choose_backend()


def test_macos_brings_its_own_opengl(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that what is chosen is taken back in the end.
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr(rendering, "_loads", lambda library: False)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert rendering.choose_backend() == "cgl"


def test_the_camera_behind_the_arm_is_upright_and_draws_shadows() -> None:
    seen = metaworld.BEHIND.make("metaworld-corner2/drawer-open-v3")
    observation, _ = seen.reset(seed=0)
    picture = seen.embodiment.check_observation(observation)["corner2"]
    assert picture.shape == (128, 128, 3) and observation["proprioception"].shape == (4,)
    assert seen.embodiment.body == "metaworld"
    inner = seen._inner  # type: ignore[attr-defined]
    large = inner.camera_frame("corner2", 480)
    model, data, _ = inner._scene()
    fast = rendering.Camera(model, 480)
    quick = fast.frame(data, "corner2")[::-1, ::-1]
    # The same scene, but for shadows.
    assert 0 < np.abs(large.astype(int) - quick).mean() < 25
    assert np.abs(large.astype(int) - quick[::-1, ::-1]).mean() > 2 * np.abs(large.astype(int) - quick).mean()
    fast.close()
    seen.close()
    again, _ = seen.reset(seed=0)
    np.testing.assert_array_equal(again["corner2"], picture)
    seen.close()


def test_a_camera_that_goes_takes_nothing_from_another_one() -> None:
    inner = metaworld.BEHIND.make("metaworld-corner2/drawer-open-v3")._inner  # type: ignore[attr-defined]
    inner.reset(seed=0)
    model, data, _ = inner._scene()
    picture = rendering.Camera(model, 64).frame(data, "corner2")
    going: rendering.Camera | None = rendering.Camera(model, 96)
    assert going is not None
    going.frame(data, "corner2")
    staying = rendering.Camera(model, 64)
    del going
    gc.collect()
    np.testing.assert_array_equal(staying.frame(data, "corner2"), picture)
    staying.close()
    staying.close()

"""Our tasks as Gymnasium environments."""

from __future__ import annotations

import re

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import polysoma
from conftest import ROOT, need
from polysoma.errors import PolysomaError
from polysoma.simulators import families, tasks_of

of_each = pytest.mark.parametrize(
    "name",
    ["drone-hover", "rover-pillar", "babyai-GoToLocal", "metaworld-push-v3", "go1-words", "hopper-hop", "fetch-reach",
     "pointmaze-umaze", "aloha-transfer-cube", "drone-pixels-ring", "babyai-pixels-GoToLocal", "so101-small-stack",
     "car-drift", "minatar-breakout", "atari-pong"],
)  # fmt: skip
"""A task of each kind of simulator, and of views of them."""


@of_each
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_finds_nothing_wrong(name: str) -> None:
    need(name.replace("-", "/", 1))
    environment = gymnasium.make(f"polysoma/{name}")
    check_env(environment.unwrapped, skip_render_check=True)
    environment.close()


@of_each
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_no_action_is_refused_and_changes_nothing(name: str) -> None:
    need(name.replace("-", "/", 1))
    environment, other = (gymnasium.make(f"polysoma/{name}").unwrapped for _ in range(2))
    for one in (environment, other):
        one.reset(seed=3)
    space = environment.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        wrong = [-1, int(space.n), 0.5, np.zeros(2, np.int64), None]
    else:
        assert isinstance(space, gymnasium.spaces.Box)
        (size,) = space.shape
        wrong = [np.full(size, np.nan), np.full(size, np.inf), np.zeros(size + 1), np.zeros((1, size)), "up"]
    for action in wrong:
        with pytest.raises(PolysomaError, match="action of"):
            environment.step(action)
    action = environment.expert_action()  # type: ignore[attr-defined]
    np.testing.assert_equal(environment.step(action), other.step(action))
    for one in (environment, other):
        one.close()


def test_it_is_the_task_of_the_same_name() -> None:
    registered, own = gymnasium.make("polysoma/rover-pillar"), polysoma.make("rover/pillar")
    first, second = registered.reset(seed=3)[0], own.reset(seed=3)[0]
    np.testing.assert_equal(first, second)


@pytest.mark.parametrize("name", ["rover-pillar", "babyai-GoToLocal", "hopper-hop"])
def test_the_limit_of_steps_is_where_libraries_look_for_it(name: str) -> None:
    environment = gymnasium.make(f"polysoma/{name}")
    environment.reset(seed=0)
    assert environment.spec is not None
    limit = environment.spec.max_episode_steps
    assert limit == environment.unwrapped.max_steps  # type: ignore[attr-defined]
    assert gymnasium.make(f"polysoma/{name}", max_episode_steps=7).spec.max_episode_steps == 7  # type: ignore[union-attr]
    again = gymnasium.make(environment.spec)
    assert again.spec is not None and again.spec.max_episode_steps == limit


def test_without_words_for_libraries_that_know_no_text() -> None:
    environment = gymnasium.make("polysoma/rover-pillar", instruction=False)
    told = gymnasium.make("polysoma/rover-pillar")
    observation, _ = environment.reset(seed=3)
    assert list(observation) == list(environment.observation_space.spaces) == ["state"]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(observation["state"], told.reset(seed=3)[0]["state"])
    check_env(environment, skip_render_check=True)
    assert environment.spec is not None
    assert list(gymnasium.make(environment.spec).reset(seed=3)[0]) == ["state"]


def test_the_table_of_rewards_has_every_family() -> None:
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", (ROOT / "docs" / "gymnasium.md").read_text(), re.M)
    told = {name: reward for names, reward in rows for name in re.findall(r"`([\w-]+)`", names)}
    assert set(told) == {name for name in families() if not name.endswith("-pixels")}
    sparse = [name for name, reward in told.items() if reward.startswith("1 at success")]
    assert len(sparse) == 14
    for name in sparse:
        environment = polysoma.make(families()[name].tasks[0])
        environment.reset(seed=0)
        reward, info = environment.step(environment.expert_action())[1::3]
        assert reward == 0 and not info["success"], name
        environment.close()


def test_every_task_is_registered() -> None:
    for task in (*tasks_of("metaworld"), *tasks_of("babyai"), *tasks_of("drone-large")):
        assert f"polysoma/{task.replace('/', '-')}" in gymnasium.registry


def test_different_tasks_draw_differently() -> None:
    places = []
    for name in ("push-v3", "reach-v3"):
        environment = polysoma.make(f"metaworld/{name}")
        environment.reset(seed=5)
        places.append(environment.np_random.bit_generator.state["state"]["state"])
    assert places[0] != places[1]


def test_pictures() -> None:
    environment = gymnasium.make("polysoma/drone-hover", render_mode="rgb_array")
    environment.reset(seed=0)
    picture = environment.render()
    assert isinstance(picture, np.ndarray) and picture.shape == (240, 240, 3) and picture.std() > 5
    with pytest.raises(PolysomaError, match="render_mode is None or 'rgb_array'"):
        polysoma.make("drone/hover", render_mode="human")

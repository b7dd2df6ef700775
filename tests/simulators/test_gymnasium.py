"""Our tasks as Gymnasium environments."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import polysoma
from polysoma.errors import PolysomaError
from polysoma.simulators import tasks_of


@pytest.mark.parametrize(
    "name",
    ["drone-hover", "rover-pillar", "babyai-GoToLocal", "metaworld-push-v3", "go1-words", "hopper-hop", "fetch-reach",
     "pointmaze-umaze", "aloha-transfer-cube", "drone-pixels-ring", "so101-small-stack"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gymnasium_finds_nothing_wrong(name: str) -> None:
    environment = gymnasium.make(f"polysoma/{name}")
    check_env(environment.unwrapped, skip_render_check=True)
    environment.close()


def test_it_is_the_task_of_the_same_name() -> None:
    registered, own = gymnasium.make("polysoma/rover-pillar"), polysoma.make("rover/pillar")
    first, second = registered.reset(seed=3)[0], own.reset(seed=3)[0]
    np.testing.assert_equal(first, second)


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

"""Any Gymnasium environment as a body."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from conftest import ROOT
from polysoma.embodiment import DiscreteActions, Modality
from polysoma.errors import PolysomaError
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from polysoma.simulators.wrapped import wrapped

EXAMPLE = ROOT / "examples" / "pendulum.py"


class Corridor(gymnasium.Env[Any, Any]):
    """Sees a picture and its place; actions 5 and 6 go left and right."""

    observation_space = spaces.Dict(
        {"eye": spaces.Box(0, 255, (8, 12, 3), np.uint8), "place": spaces.Box(-3, 3, (1,), np.float64)}
    )
    action_space = spaces.Discrete(2, start=5)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = float(self.np_random.uniform(-1, 1))
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.place += (int(action) - 5.5) / 2
        return self.observe(), 0.0, False, False, {"is_success": self.place > 1}

    def observe(self) -> Any:
        return {"eye": np.full((8, 12, 3), 7, np.uint8), "place": np.array([self.place])}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_example_is_a_sound_environment_of_twenty_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 20
    family = runpy.run_path(str(EXAMPLE))["FAMILY"]
    environment = family.make("pendulum/task")
    check_env(environment, skip_render_check=True)
    assert environment.render_frame(64).shape == (64, 64, 3)
    assert environment.max_steps == 200 and family.embodiment.rate_hz == 30.0
    observation, _ = environment.reset(seed=1)
    solved = False
    for _ in range(environment.max_steps):
        observation, _, terminated, truncated, info = environment.step(environment.expert_action())
        solved = info["success"]
        if terminated or truncated:
            break
    assert solved and observation["state"].dtype == np.float32
    environment.close()


@pytest.mark.parametrize("steps", [20, 250])
def test_episodes_are_as_long_as_is_asked_for(steps: int) -> None:
    """Also longer than the environment's own limit, which is 200 here."""
    environment = wrapped("Pendulum-v1", "long-pendulum", "stand", max_steps=steps).make("long-pendulum/task")
    environment.reset(seed=0)
    ends = [environment.step(np.zeros(1, np.float32))[3] for _ in range(steps)]
    assert ends == [False] * (steps - 1) + [True]
    environment.close()


def test_dictionaries_pictures_and_choices_become_streams_and_names() -> None:
    family = wrapped(Corridor, "corridor", "go right", actions=("left", "right"), max_steps=9)
    body = family.embodiment
    assert [(s.name, s.modality) for s in body.arrays] == [("eye", Modality.IMAGE), ("place", Modality.STATE)]
    assert body.actions == DiscreteActions(("left", "right"))
    environment = family.make("corridor/task")
    observation, _ = environment.reset(seed=0)
    assert body.check_observation(observation)["instruction"] == "go right"
    for _ in range(8):
        _, _, terminated, _, info = environment.step(1)
        if terminated:
            break
    assert info["success"]
    environment.reset(seed=0)
    assert [environment.step(0)[3] for _ in range(9)] == [False] * 8 + [True]
    with pytest.raises(PolysomaError, match="corridor/task has no expert"):
        environment.expert_action()


def test_seeds_that_cannot_be_stored_are_refused_before_anything_is_played(tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match="seeds are up to"):
        record(["drone/hover"], 3, tmp_path, Behaviour(), seed=2**63 - 2)


def test_a_wrapped_body_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from polysoma import simulators

    monkeypatch.setenv("POLYSOMA_FAMILIES", str(EXAMPLE))
    simulators.families.cache_clear()
    try:
        counts = record(["pendulum/task"], 3, tmp_path, Behaviour(noise=None))
    finally:
        monkeypatch.delenv("POLYSOMA_FAMILIES")
        simulators.families.cache_clear()
    assert sum(counts.kept.values()) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eye": np.full((8, 12, 3), 300)}, "stream 'eye'"),
        ({"eye": np.full((8, 12, 3), -1)}, "stream 'eye'"),
        ({"eye": np.full((8, 12, 3), 0.5)}, "stream 'eye'"),
        ({"place": np.full(1, np.nan)}, "not a finite number"),
        ({"place": np.zeros(2)}, "stream 'place'"),
        (None, "expected the streams"),
    ],
)
def test_observations_are_what_the_space_says(change: dict[str, np.ndarray] | None, message: str) -> None:
    class Broken(Corridor):
        def observe(self) -> Any:
            return {} if change is None else super().observe() | change

    with pytest.raises(PolysomaError, match=message):
        wrapped(Broken, "broken", "go").make("broken/task").reset(seed=0)


@pytest.mark.parametrize("action", [np.array([np.nan]), np.array([1e39]), np.zeros(3), None])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_an_expert_says_is_checked(action: Any) -> None:
    environment = wrapped("Pendulum-v1", "swing", "go", expert=lambda observation: action).make("swing/task")
    environment.reset(seed=0)
    with pytest.raises(PolysomaError, match="action of swing"):
        environment.expert_action()


def test_what_has_no_counterpart_is_said() -> None:
    class Odd(Corridor):
        observation_space = spaces.Dict({"eye": spaces.MultiBinary(4)})

    class Endless(Corridor):
        action_space = spaces.Box(-np.inf, np.inf, (2,))  # type: ignore[assignment]

    with pytest.raises(PolysomaError, match=r"observation 'eye': expected a one-dimensional box"):
        wrapped(Odd, "odd", "go")
    with pytest.raises(PolysomaError, match="box of finite limits"):
        wrapped(Endless, "endless", "go")
    with pytest.raises(PolysomaError, match="expected 2 names, got"):
        wrapped(Corridor, "corridor", "go", actions=("left",))

"""How policies look at bodies: chosen by recipes, kept by checkpoints, read from the first format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import ARM, GOLDEN, GRID, observe
from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.finetuning import recipe_for, with_steps
from polysoma.learning.horizons import resolve
from polysoma.learning.recipe import recipe_from_table
from polysoma.learning.training import train
from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy
from polysoma.simulators.environment import Family


def trained(data: Path, out: Path, **body: Any) -> Policy:
    table = {
        "data": [str(data)],
        "bodies": {"arm": {"batch": 4, **body}},
        "policy": {"width": 16, "depth": 1, "heads": 1},
        "steps": 1,
    }
    return checkpoint.load(train(recipe_from_table(table, "test"), out))


def test_a_recipe_looks_at_the_same_data_in_any_way(datasets: dict[str, Path], tmp_path: Path) -> None:
    for number, horizon in enumerate((Horizon(1, 2), Horizon(3, 5), Horizon(1, 1, True))):
        policy = trained(datasets["arm"], tmp_path / str(number), **horizon.to_json())
        assert policy.horizon("arm") == horizon
        agent = policy.agent("arm", "do one")
        for seed in range(4):
            assert agent.act(observe(ARM, seed)).shape == (2,)


def test_fine_tuning_changes_the_chunk_of_a_known_body(datasets: dict[str, Path], tmp_path: Path) -> None:
    before = trained(datasets["arm"], tmp_path / "base")
    for method in ("full", "lora"):
        recipe = recipe_for(str(tmp_path / "base/checkpoint"), [str(datasets["arm"])], method, chunk=2)  # type: ignore[arg-type]
        after = checkpoint.load(train(with_steps(recipe, 1), tmp_path / method))
        assert (before.horizon("arm").chunk, after.horizon("arm").chunk) == (4, 2)
        # Without a word it stays as it is.
        kept = recipe_for(str(tmp_path / method / "checkpoint"), [str(datasets["arm"])], None)
        assert checkpoint.load(train(with_steps(kept, 1), tmp_path / f"{method}-kept")).horizon("arm").chunk == 2


def test_the_first_that_knows_decides() -> None:
    drone = simulators.embodiments()["drone"]
    start = checkpoint.load_for_training(GOLDEN / "checkpoint").config
    assert resolve(ARM, BodyRecipe(), None, None) == Horizon(chunk=4)
    assert resolve(GRID, BodyRecipe(), None, None) == Horizon()
    assert resolve(ARM, BodyRecipe(), None, Horizon(2, 3)) == Horizon(2, 3)
    assert resolve(drone, BodyRecipe(), None, Horizon(2, 3)) == simulators.families()["drone"].horizon
    assert resolve(GRID, BodyRecipe(chunk=3), start, None) == Horizon(history=6, chunk=3)


def test_a_family_that_recommends_nothing_leaves_it_to_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family(ARM, ("arm/one",), (), lambda task: None)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(simulators, "families", lambda: {"arm": family})
    assert resolve(ARM, BodyRecipe(), None, None) == Horizon(chunk=4)
    assert resolve(ARM, BodyRecipe(), None, Horizon(2, 3)) == Horizon(2, 3)


def test_the_first_format_is_read() -> None:
    config = json.loads((GOLDEN / "checkpoint/config.json").read_text())
    assert config["embodiments"][0]["chunk"] == 4 and "horizons" not in config
    policy = checkpoint.load(GOLDEN / "checkpoint")
    assert policy.horizon("arm") == Horizon(chunk=4) and policy.horizon("grid") == Horizon(history=6)
    data = {"chunk": 8, "previous_action": True, **ARM.to_json()}
    assert Embodiment.from_json(data) == ARM and Horizon.of_old_embodiment(data) == Horizon(1, 8, True)
    assert Horizon.of_old_embodiment(ARM.to_json()) is None


def test_what_is_recorded_now_holds_none(datasets: dict[str, Path]) -> None:
    assert Dataset(datasets["grid"]).old_horizon is None


def test_bad_horizons(datasets: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PolysomaError, match=r"bodies\.arm\.history: expected a number from 1 to 10,000, got 0"):
        trained(datasets["arm"], tmp_path / "run", history=0)
    trained(datasets["arm"], tmp_path / "base")
    policy = checkpoint.load_for_training(tmp_path / "base/checkpoint")
    windows = Source([Dataset(datasets["arm"])], [1.0], 0.0, horizon=Horizon(chunk=7)).draw(3, np.random.default_rng(0))
    with pytest.raises(PolysomaError, match=r"predicts chunks of 4 actions, the windows have targets of 7"):
        policy.loss(windows)

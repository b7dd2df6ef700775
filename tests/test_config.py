from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest

from polysoma import config
from polysoma.errors import PolysomaError, SettingError
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.methods.imitation import Imitation
from polysoma.learning.methods.meta import MetaLearning
from polysoma.learning.optimizers import AdamW, ScheduleFree
from polysoma.learning.recipe import read_recipe, recipe_from_table


@dataclass(frozen=True)
class Fast:
    speed: float = 1.0
    kind: Literal["fast"] = "fast"


@dataclass(frozen=True)
class Slow:
    patience: int
    kind: Literal["slow"] = "slow"

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise SettingError(f"patience: expected 1 or more, got {self.patience}")


@dataclass(frozen=True)
class Trip:
    stops: tuple[str, ...]
    way: Annotated[Fast | Slow, config.KIND] = Fast()
    days: int = 1
    open_end: bool = False
    size: tuple[int, int] | None = None
    bags: Mapping[str, Slow] = field(default_factory=dict)


def lines(table: dict[str, object], overrides: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(PolysomaError) as info:
        config.decode(Trip, table, "trip.toml", overrides)
    return str(info.value).splitlines()


def test_what_toml_says_is_taken_as_it_is() -> None:
    table = {
        "stops": ["a", "b"],
        "way": {"kind": "slow", "patience": 3},
        "size": [2, 3],
        "bags": {"x": {"patience": 1}},
    }
    assert config.decode(Trip, table, "t") == Trip(("a", "b"), Slow(3), size=(2, 3), bags={"x": Slow(1)})
    made = config.decode(Trip, {"stops": [], "way": {"kind": "fast", "speed": 2}}, "t")
    assert made.way == Fast(2.0) and isinstance(made.way, Fast) and isinstance(made.way.speed, float)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"days": True}, "trip.toml: days: expected a whole number, got True"),
        ({"days": "3"}, "trip.toml: days: expected a whole number, got '3'"),
        ({"days": 3.5}, "trip.toml: days: expected a whole number, got 3.5"),
        ({"open_end": 1}, "trip.toml: open_end: expected true or false, got 1"),
        ({"stops": "a"}, """trip.toml: stops: expected a list, such as stops = ["a"], got the string 'a'"""),
        ({"stops": ["a", 2]}, "trip.toml: stops.1: expected a string, got 2"),
        ({"size": [1]}, "trip.toml: size.1 is missing"),
        ({"way": {"kind": "fast", "speed": True}}, "trip.toml: way.speed: expected a number, got True"),
        ({"way": {"kind": "air"}}, "trip.toml: way.kind: expected one of 'fast', 'slow', got 'air'"),
        ({"way": {"kind": "slow"}}, "trip.toml: way.patience is missing"),
        ({"way": {"kind": "slow", "patience": 0}}, "trip.toml: way: patience: expected 1 or more, got 0"),
        ({"way": {"kind": "slow", "patience": 1, "patients": 2}},
         "trip.toml: unknown key way.patients; did you mean patience?"),
        ({"bags": {"x": 3}}, "trip.toml: bags.x: expected a table, got 3"),
        ({"dys": 3}, "trip.toml: unknown key dys; did you mean days?"),
        ({"unlike": 3}, "trip.toml: unknown key unlike; known are stops, way, days, open_end, size, bags"),
    ],
)  # fmt: skip
def test_problems_are_named(table: dict[str, object], message: str) -> None:
    assert lines({"stops": ["a"]} | table) == [message]


def test_all_problems_come_at_once_and_overrides_are_told_apart() -> None:
    found = lines({"stops": "a", "days": "x", "bgs": {}}, {"stops": "override stops=a"})
    assert found == [
        """override stops=a: stops: expected a list, such as 'stops=["a"]', got the string 'a'""",
        "trip.toml: days: expected a whole number, got 'x'",
        "trip.toml: unknown key bgs; did you mean bags?",
    ]
    # A kind that there is none of is blamed on the override of the kind alone, too.
    found = lines({"stops": ["a"], "way": {"kind": "air"}}, {"way.kind": "override way.kind=air"})
    assert found == ["override way.kind=air: way.kind: expected one of 'fast', 'slow', got 'air'"]


def test_overrides_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('data = ["d"]\nlearning_rate = 2e-3\n[bodies.arm]\nbatch = 4\n')
    recipe = read_recipe(path, ['data=["x", "y/*"]', "bodies.arm={batch = 2}", "warmup=7", "optimizer.ema=0"])
    assert recipe.data == ("x", "y/*") and recipe.bodies == {"arm": BodyRecipe(batch=2)}
    assert recipe.optimizer == AdamW(2e-3, warmup=7, ema=0.0)
    with pytest.raises(PolysomaError, match="""expected a list, such as 'data=\\["data/x"\\]', got the string"""):
        read_recipe(path, ["data=data/x"])
    with pytest.raises(PolysomaError, match="expected data to be a table"):
        read_recipe(path, ["data.x=1"])
    free = read_recipe(path, ["optimizer.kind=schedule-free", "minutes=2"])
    assert free.optimizer == ScheduleFree(2e-3) and free.minutes == 2.0
    with pytest.raises(PolysomaError, match=r"unknown key optimizer\.ema"):
        read_recipe(path, ["optimizer.kind=schedule-free", "ema=0.9"])
    assert read_recipe(path, ["minutes=2"]).optimizer == AdamW(2e-3)
    old = read_recipe(path, ["bodies.arm.parts=3", "clip=2", "bodies.arm={shift = 1}", "bodies.arm.colour=0.5"])
    assert old.grad_clip == 2 and old.bodies == {"arm": BodyRecipe(random_shift=1, color_jitter=0.5)}


def test_old_tables_are_read_as_what_they_are_now() -> None:
    table = {
        "data": ["d"], "bodies": {"arm": {}}, "init": "x", "adaptation": {"method": "lora"}, "warmup": 3,
        "meta": {"algorithm": "anil"},
    }  # fmt: skip
    recipe = recipe_from_table(table, "test")
    assert recipe.method == MetaLearning("anil") and recipe.optimizer == AdamW(warmup=3)
    assert recipe_from_table(dataclasses.asdict(recipe), "again") == recipe
    # As runs of before wrote it.
    assert recipe_from_table(table | {"meta": None, "images": None}, "test").method == Imitation()
    with pytest.raises(PolysomaError, match="test: meta is method now, and both are given"):
        recipe_from_table(table | {"method": {"kind": "imitation"}}, "test")
    with pytest.raises(PolysomaError, match=r"test: warmup is optimizer\.warmup now, and both are given"):
        recipe_from_table(table | {"optimizer": {"warmup": 2}}, "test")
    old = {"parts": 2, "shift": 3, "colour": 0.5, "silent": 0.25}
    named = BodyRecipe(micro_batches=2, random_shift=3, color_jitter=0.5, observation_only=0.25)
    assert recipe_from_table(table | {"bodies": {"arm": old}, "clip": 2.0}, "test").bodies == {"arm": named}
    assert recipe_from_table(table | {"shown": 7}, "test").frames_per_demonstration == 7
    with pytest.raises(PolysomaError, match=r"test: bodies\.arm: shift is random_shift now, and both are given"):
        recipe_from_table(table | {"bodies": {"arm": {"shift": 3, "random_shift": 3}}}, "test")
    with pytest.raises(
        PolysomaError, match=r"bodies\.arm\.micro_batches: expected a number from 1 to 1,000,000, got 0"
    ):
        recipe_from_table(table | {"bodies": {"arm": {"parts": 0}}}, "test")
    with pytest.raises(PolysomaError, match=r"bodies\.arm\.batch: expected a number from 1 to 1,000,000, got 0"):
        recipe_from_table(table | {"bodies": {"arm": {"batch": 0}}}, "test")

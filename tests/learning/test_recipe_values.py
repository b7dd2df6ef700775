"""Senseless values of every key of a recipe: each is refused in one line before the run, none by a traceback."""

from __future__ import annotations

import dataclasses
import datetime
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import AfterValidator

from polysoma import config
from polysoma.cli import main
from polysoma.errors import PolysomaError, SettingError
from polysoma.learning.engine import Settings
from polysoma.learning.optimizers import AdamW
from polysoma.learning.recipe import Recipe, read_recipe, recipe_from_table


def keys(kind: type, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a class of settings, to its annotation."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        if field.name != "kind":
            yield from _keys(f"{before}{field.name}", hints[field.name])


def _keys(key: str, hint: Any) -> Iterator[tuple[str, Any]]:
    marks = typing.get_args(hint)
    members = [one for one in marks if dataclasses.is_dataclass(one) and isinstance(one, type)]
    if typing.get_origin(hint) is typing.Annotated and typing.get_args(marks[0]):
        # A union by kind.
        for member in typing.get_args(marks[0]):
            tag = typing.get_args(typing.get_type_hints(member)["kind"])[0]
            yield from keys(member, f"{key}:{tag}.")
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        yield from keys(hint, f"{key}.")
    elif members:
        inner = "arm." if key == "bodies" else ""
        yield from keys(members[0], f"{key}.{inner}")
    else:
        yield key, hint


def ranges(hint: Any) -> Any:
    """The mark of a number's range among an annotation's, or None."""
    if typing.get_origin(hint) is typing.Annotated:
        return next((mark for mark in hint.__metadata__ if isinstance(mark, AfterValidator)), None)
    return next((found for part in typing.get_args(hint) if (found := ranges(part))), None)


def holds(hint: Any, kind: type) -> bool:
    return hint is kind or any(holds(part, kind) for part in typing.get_args(hint))


def senseless(hint: Any) -> Iterator[Any]:
    """What no such key can be."""
    listed, mapped = "tuple[" in str(hint), "Mapping[" in str(hint)
    yield from ({"a": {"b": 1}}, [[1]], datetime.date(2026, 1, 2), datetime.time(1, 2))
    if listed or mapped:
        yield from (5, 0.5, True, "many", [7])
        if mapped:
            yield from ({"x": "much"}, {"x": math.nan}, {"x": math.inf}, {"x": -1}, {"x": 1e30}, {"x": [1]})
        return
    yield []
    if holds(hint, int) or holds(hint, float):
        yield from (math.nan, math.inf, -math.inf, -1, 10**30, -(10**30), "3", "", True, [1], {"x": 1})
        allowed = ranges(hint)
        assert allowed is not None, "every number says its range"
        for edge in (0, 1):
            try:
                allowed.func(edge)
            except ValueError:
                yield edge
        if holds(hint, int):
            yield from (0.5, 2.5, 1e30)
    elif holds(hint, bool):
        yield from (1, 0, "yes", 0.5)
    else:
        yield from (5, -1.5, True, math.nan)
        if typing.get_origin(hint) is typing.Literal:
            yield from ("", "no such")


def cases() -> Iterator[tuple[str, Any]]:
    for key, hint in keys(Recipe):
        for value in senseless(hint):
            yield key, value


def table_with(key: str, value: Any) -> tuple[dict[str, Any], str]:
    """A recipe that is right but for one value, and the key as users write it."""
    table: dict[str, Any] = {"data": ["d"], "bodies": {"arm": {}}}
    first = key.split(".")[0].split(":")
    if first[0] == "adaptation" or first[-1] == "meta":
        table |= {"init": "x", "adaptation": {"method": "lora"}}
    if len(first) == 2:
        needed = {"meta": {"algorithm": "maml"}, "interactive": {"tasks": ["arm/*"]}}
        table[first[0]] = {"kind": first[1]} | needed.get(first[1], {})
        key = key.replace(f":{first[1]}", "")
    config.put(table, key, value)
    return table, key


def test_every_senseless_value_is_refused_in_one_line() -> None:
    every = list(cases())
    assert len(every) > 1000 and len({key for key, _ in every}) > 70
    wrong = []
    for key, value in every:
        table, named = table_with(key, value)
        try:
            recipe_from_table(table, "r.toml")
            said = "accepted"
        except PolysomaError as error:
            said = str(error)
        except Exception as error:
            said = f"traceback of {error!r}"
        if not (said.startswith(f"r.toml: {named}") and "expected" in said and "got" in said and "\n" not in said):
            wrong.append(f"{named} = {value!r}: {said}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy = {width = 30, heads = 4}", "policy: heads: expected a divisor of width, 30, got 4"),
        ("optimizer = 5\nlearning_rate = 1e-3", "optimizer: expected a table, got 5"),
        ("meta = 5", "method: expected a table, got 5"),
        ("seed = 1979-05-27", "seed: expected no date or time, got 1979-05-27"),
        ("paraphrases = 07:32:00", "paraphrases: expected no date or time, got 07:32:00"),
        ('init = "a\\u0000b"', r"init: expected text without NUL, got 'a\x00b'"),
        ("bodies = []", "bodies: expected a table, got []"),
        ("weights = {x = nan}", "weights.x: expected a number above 0 and up to 1,000,000, got nan"),
        ("optimizer = {ema = 1}", "optimizer.ema: expected a number from 0 to below 1, got 1"),
        ("steps = " + "9" * 5000, "is not valid TOML: Exceeds the limit (4300 digits) for integer string"),
        ("data = " + "[" * 5000, "is not valid TOML: maximum recursion depth exceeded"),
    ],
)
def test_what_a_file_says_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    rest = {"data": 'data = ["d"]\n', "bodies": "[bodies.arm]\n"}
    path.write_text("\n".join([text, *(line for key, line in rest.items() if key not in text)]))
    with pytest.raises(PolysomaError) as info:
        read_recipe(path)
    said = str(info.value)
    assert said.startswith(str(path)) and message in said and "\n" not in said and len(said) < 400


def test_python_is_told_what_a_file_would_be_told() -> None:
    recipe = recipe_from_table({"data": ["d"], "bodies": {"arm": {}}}, "test")
    with pytest.raises(SettingError, match="patience: expected a number from 0 to 1,000,000,000, got -1"):
        dataclasses.replace(recipe, patience=-1)
    with pytest.raises(SettingError, match=r"weights\.a: expected a number above 0 .*, got nan"):
        dataclasses.replace(recipe, weights={"a": math.nan})
    with pytest.raises(SettingError, match="learning_rate: expected a number, got 'fast'"):
        AdamW("fast")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"steps: .*got 0; grad_clip: .*got 0"):
        Settings(steps=0, grad_clip=0)
    assert AdamW(0, warmup=0).learning_rate == 0 and Settings(grad_clip=1e9).grad_clip == 1e9


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train r.toml --until 0", "until: expected a number from 1"),
        ("finetune --data d --minutes nan", "minutes: expected a number above 0"),
        ("finetune --data d --minutes inf", "minutes: expected a number above 0"),
        ("finetune --data d --steps 0", "steps: expected a number from 1"),
        ("finetune --data d --patience -1", "patience: expected a number from 0"),
        ("meta --data d --steps -3", "steps: expected a number from 1"),
        ("fleet begin --words go --heads 0", "heads: expected a number from 1"),
        ("fleet begin --words go --width 30", "heads: expected a divisor of width, 30, got 4"),
        ("fleet begin --words go --seed -1", "seed: expected a number from 0"),
        ("record pointmaze/umaze --episodes -1", "episodes: expected a number from 1"),
        ("record pointmaze/umaze --noise nan", "noise: expected a number from 0"),
        ("record pointmaze/umaze --slots 0 --seed -5", "seed: expected a number from 0"),
        ("evaluate generalist --tasks x --episodes 0", "episodes: expected a number from 1"),
        ("evaluate generalist --tasks x --ensemble nan", "ensemble: expected a number from -1,000"),
        ("evaluate generalist --tasks x --execute 0", "execute: expected a number from 1"),
        ("compare --data d --tasks x --minutes -1", "minutes: expected a number above 0"),
        ("merge add --coefficient inf", "coefficient: expected a number from -100"),
    ],
)
def test_commands_refuse_senseless_numbers_in_one_line(
    command: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as info:
        main(command.split())
    said = capsys.readouterr().err.splitlines()
    assert info.value.code == 1 and len(said) == 1 and message in said[0]

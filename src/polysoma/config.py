"""Configuration: tables of TOML and JSON become frozen dataclasses, strictly, and every problem is named at once.

A class of settings is a plain frozen dataclass; its annotations say what is allowed, pydantic checks. Integers pass for
floats and lists for tuples, as TOML writes them; nothing else is converted: ``steps = true`` and ``steps = "3"`` are
errors. Unknown keys are errors that name the nearest known one. A union of classes is tagged by their ``kind``, and
every number says its range, which is checked in tables and, by :func:`check`, in what is made in Python::

    @dataclass(frozen=True)
    class Run:
        steps: Annotated[int, within(1, 10**9)] = 1000
        optimizer: Annotated[AdamW | ScheduleFree, KIND] = AdamW()

        def __post_init__(self) -> None:
            check(self)

What annotations cannot say is checked by ``__post_init__``, too, which raises
:class:`~polysoma.errors.SettingError`.
"""

from __future__ import annotations

import datetime
import functools
import json
import reprlib
import stat
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from polysoma.errors import PolysomaError, SettingError, nearest
from polysoma.files import reason

T = TypeVar("T")

KIND = Field(discriminator="kind")
"""Marks a union whose members are told apart by a literal field ``kind``."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "dataclass_type": "a table",
    "model_attributes_type": "a table",
}


def read_toml(path: Path, what: str = "file") -> dict[str, Any]:
    """The table in a TOML file. Raises PolysomaError: no such file, or not TOML; ``what`` names what was looked for."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            # Reading a pipe would wait for whoever writes to it.
            raise PolysomaError(f"cannot read {path}: it is no file")
        # Editors of Windows begin a file with a mark of its encoding.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise PolysomaError(f"no {what} at {path}") from error
    except OSError as error:
        raise PolysomaError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PolysomaError(f"{path} is not valid TOML: {reason(error)}") from error


def read_override(text: str) -> tuple[str, Any]:
    """``"bodies.arm.batch=4"`` as ``("bodies.arm.batch", 4)``. The value is TOML; what is none is a string.

    Raises:
        PolysomaError: there is no key or no equals sign.
    """
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise PolysomaError(f"expected key=value, got {text!r}")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key, value


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value of a dotted key, and makes the tables that lead there. Raises PolysomaError where one is none."""
    *parents, leaf = key.split(".")
    for number, name in enumerate(parents):
        inner = table.get(name)
        if inner is None:
            inner = table[name] = {}
        if not isinstance(inner, dict):
            raise PolysomaError(f"{key}: expected {'.'.join(parents[: number + 1])} to be a table, it is {inner!r}")
        table = inner
    table[leaf] = value


def decode(kind: type[T], table: Mapping[str, Any], where: str, overrides: Mapping[str, str] | None = None) -> T:
    """A frozen dataclass from a table.

    Args:
        kind: the class.
        table: parsed TOML or JSON.
        where: what errors call the table: its file.
        overrides: dotted keys that came from elsewhere than ``where``, to what errors call that place.

    Raises:
        PolysomaError: a line for each problem, with the place, the key, what was expected and what came.
    """
    try:
        if strange := list(_strange(table)):
            raise PolysomaError("; ".join(strange))
        # JSON, because that is where strict means what TOML means: lists and tables, but no other conversion.
        (made,) = _adapter(typing.cast(Any, kind)).validate_json(json.dumps([table]))
    except ValidationError as error:
        lines = dict.fromkeys(_line(kind, problem, where, overrides or {}) for problem in error.errors())
        raise PolysomaError("\n".join(lines)) from error
    except PolysomaError as error:
        raise PolysomaError(f"{where}: {error}") from error
    except RecursionError as error:
        raise PolysomaError(f"{where}: its tables lie too deep in one another") from error
    return typing.cast(T, made)


def within(least: float, most: float, above: bool = False, below: bool = False) -> AfterValidator:
    """Marks a number by its range: ``Annotated[int, within(1, 100)]``. NaN lies in none.

    Args:
        least, most: the ends, which belong to it.
        above, below: whether ``least``, or ``most``, does not.
    """
    start = f"above {least:,} and" if above else f"from {least:,} to"
    end = f"{'below' if below else 'up to' if above else ''} {most:,}".strip()

    def checked(value: float) -> float:
        if not (least < value if above else least <= value) or not (value < most if below else value <= most):
            raise PydanticCustomError("range", f"a number {start} {end}")
        return value

    return AfterValidator(checked)


Seed = Annotated[int, within(0, 2**63 - 1)]
"""Where random numbers begin."""


def check(made: Any) -> None:
    """What ``__post_init__`` of a dataclass calls, so that Python is told what a table would be told. Raises
    SettingError that names the fields whose numbers are outside of their range, or none."""
    kind: Any = type(made)
    problems = []
    for name, adapter in _numbers(kind).items():
        try:
            adapter.validate_python(getattr(made, name))
        except ValidationError as error:
            problems += [f"{'.'.join(map(str, (name, *problem['loc'])))}: {_expected(problem)}"
                         for problem in error.errors()]  # fmt: skip
    if problems:
        raise SettingError("; ".join(problems))


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # A dataclass takes its configuration from what it stands in.
    return TypeAdapter(list[kind], config=ConfigDict(strict=True, extra="forbid"))


@functools.cache
def _numbers(kind: Any) -> dict[str, TypeAdapter[Any]]:
    """The fields whose numbers have a range."""
    hints = typing.get_type_hints(kind, include_extras=True)
    names = [field.name for field in fields(kind) if _has_range(hints[field.name])]
    return {name: TypeAdapter(hints[name], config=ConfigDict(strict=True)) for name in names}


def _has_range(hint: Any) -> bool:
    marks = getattr(hint, "__metadata__", ())
    return any(isinstance(part, AfterValidator) or _has_range(part) for part in (*marks, *typing.get_args(hint)))


def _strange(value: Any, key: str = "") -> Iterator[str]:
    """What no setting can be: what JSON has no word for, such as TOML's dates, and text that no path can hold."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _strange(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _strange(inner, f"{key}.{number}")
    elif isinstance(value, datetime.date | datetime.time):
        yield f"{key}: expected no date or time, got {value}"
    elif isinstance(value, str) and "\0" in value:
        yield f"{key}: expected text without NUL, got {_short.repr(value)}"
    elif not isinstance(value, str | int | float | None):
        yield f"{key}: expected what TOML can say, got {_short.repr(value)}"


def _line(kind: type, problem: Any, where: str, overrides: Mapping[str, str]) -> str:
    """One problem of pydantic's in words."""
    keys, found, came = problem["type"], problem["loc"][1:], problem["input"]
    if not problem["loc"]:
        return f"{where}: {problem['msg']}"
    path, holder = _walk(kind, found)
    if keys == "union_tag_invalid":
        path = [*path, "kind"]
    key = ".".join(path)
    origin = next((place for name, place in overrides.items() if f"{key}.".startswith(f"{name}.")), where)
    head = f"{origin}: {key}" if key else origin
    context = problem.get("ctx", {})
    if keys == "unexpected_keyword_argument":
        known = [field.name for field in fields(holder)] if holder else []
        return f"{origin}: unknown key {key}; {nearest(path[-1], known, 'known are')}"
    if keys == "missing":
        return f"{head} is missing"
    if keys == "value_error":
        return f"{head}: {context['error']}" if path else f"{origin}: {context['error']}"
    if keys == "union_tag_not_found":
        return f"{head}: expected a table with kind, got {_short.repr(came)}"
    if keys == "union_tag_invalid":
        return f"{head}: expected one of {context['expected_tags']}, got {_short.repr(context['tag'])}"
    if keys in ("tuple_type", "list_type") and isinstance(came, str):
        form = f"""{path[-1]} = ["{came}"]""" if origin == where else f"""'{key}=["{came}"]'"""
        return f"{head}: expected a list, such as {form}, got the string {came!r}"
    return f"{head}: {_expected(problem)}"


def _expected(problem: Any) -> str:
    kind, came = problem["type"], _short.repr(problem["input"])
    expected = problem["ctx"]["expected"] if kind == "literal_error" else _EXPECTED.get(kind, problem["msg"])
    return f"expected {expected.removeprefix('Input should be ').removeprefix('a valid ')}, got {came}"


def _walk(kind: Any, location: Sequence[str | int]) -> tuple[list[str], type | None]:
    """The dotted key of a location, and the dataclass that its last key is of. Tags of unions are no keys."""
    path: list[str] = []
    here, holder = kind, None
    for step in location:
        here, tagged = _member(here, step)
        if tagged:
            continue
        path.append(str(step))
        holder = None
        if is_dataclass(here) and isinstance(here, type):
            holder = here
            here = typing.get_type_hints(here, include_extras=True).get(str(step))
        elif typing.get_origin(here) is tuple:
            inner = typing.get_args(here)
            here = inner[0] if inner[-1] is Ellipsis else inner[min(int(step), len(inner) - 1)]
        elif arguments := typing.get_args(here):
            here = arguments[-1]
    return path, holder


def _member(kind: Any, step: str | int) -> tuple[Any, bool]:
    """What an annotation comes to without marks and None; and whether the step is the tag of a union's member."""
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind, False
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    for member in members:
        if is_dataclass(member) and step in _tags(member):
            return member, True
    return members[0], False


def _tags(kind: Any) -> tuple[Any, ...]:
    hint = typing.get_type_hints(kind).get("kind")
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()

"""Schema: what a foreign data set's columns are, as an embodiment.

Names, shapes and frames a second say most: which columns are states and cameras, and what their channels are
(:mod:`polysoma.data.channels`). What cannot be known is guessed from the numbers and marked as such;
``embodiment.toml`` next to the data (``NAME.toml`` next to a file) has the last word
(:mod:`polysoma.data.description`).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from polysoma import hub
from polysoma.data import layout, stored
from polysoma.data.channels import channels_of, guessed_units
from polysoma.data.formats.naming import stream_name
from polysoma.data.formats.reader import ACTION, FLAGS, MOST_CHOICES, OBSERVATION, REWARD, TIMESTAMP, Column, Reader
from polysoma.embodiment import (
    INSTRUCTION,
    ContinuousActions,
    DiscreteActions,
    Embodiment,
    Modality,
    Stream,
)
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.text import some

HEIGHT = 96
"""Pixels: pictures are made this high, in their own proportion, unless their file is smaller or the TOML says else."""

_FILE = "embodiment.toml"
_FPS = 10.0
_LOOKED_AT = 200
"""Episodes whose states are looked at, spread over the data set. Of actions all are, as they become limits."""


@dataclass(frozen=True)
class Schema:
    """Which column is what.

    Attributes:
        embodiment: the body. Pictures may be smaller than their column's.
        columns: stream name to column name; ``"action"`` for the actions.
        remarks: what was guessed or left out, for people.
        old_horizon: what an older description says about a policy's horizon, which recipes say now.
        values: of choices, the numbers that stand for each name in the data, where they are not 0, 1, 2, ....
    """

    embodiment: Embodiment
    columns: Mapping[str, str]
    remarks: tuple[str, ...] = field(default=(), compare=False)
    old_horizon: Horizon | None = field(default=None, compare=False)
    values: tuple[tuple[int, ...], ...] = ()

    @property
    def choice_size(self) -> int:
        """How many numbers of the data one choice is."""
        return len(self.values[0]) if self.values else 1

    def chosen(self, where: str, values: np.ndarray) -> np.ndarray:
        """Which of the names was chosen.

        Args:
            where: how errors begin.
            values: ``(T, choice_size)``, as they are in the data.

        Returns:
            Indices, int64 ``(T,)``.

        Raises:
            PolysomaError: a value stands for no choice.
        """
        known = np.array(self.values or [(number,) for number in range(self.embodiment.actions.size)])
        same = (values[:, None] == known).all(-1)
        if not same.any(1).all():
            frame = int(np.argmin(same.any(1)))
            one = self.choice_size == 1
            expected = f"{known.min()} to {known.max()}" if one else f"such as {known[0].tolist()}"
            got = values[frame, 0] if one else values[frame].tolist()
            raise PolysomaError(f"{where}: expected choices {expected}, got {got} at frame {frame}")
        return same.argmax(1)


def schema_path(path: Path) -> Path:
    """Where the description of the data set at ``path`` lies, if there is one.

    That of a data set of the Hub is one for all its versions, unless they bring their own and there is no other."""
    if not path.is_dir():
        return path.with_name(path.name + ".toml")
    own, other = path / _FILE, hub.beside(path) / _FILE
    return own if own.exists() and not other.exists() else other


def schema_of(reader: Reader) -> Schema:
    """What the TOML next to the data says, or else what can be inferred; of data recorded here, what was recorded.

    Raises:
        PolysomaError: the TOML is malformed or does not fit the data, or there is no column of actions.
    """
    path = schema_path(reader.path)
    if (reader.path / layout.POLYSOMA).exists():
        body, _ = layout.read_polysoma(reader.path)
        columns = {stream.name: stored.stream_key(body, stream) for stream in body.arrays}
        return Schema(body, columns | {ACTION: stored.ACTION})
    if not path.exists():
        return infer(reader)
    # It brings pydantic along, which takes time to import and is not always needed.
    from polysoma.data.description import read_schema

    schema = read_schema(path)
    check(schema, reader, str(path))
    return dataclasses.replace(schema, remarks=tuple(_unread(reader, schema.columns)))


def differ_in_limits_alone(one: Embodiment, other: Embodiment) -> bool:
    """Whether these are one body but for limits, which more data move where they are inferred."""
    return bool(_without_limits(one.to_json()) == _without_limits(other.to_json()))


def _without_limits(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_limits(inner) for name, inner in value.items() if name not in ("low", "high")}
    return [_without_limits(inner) for inner in value] if isinstance(value, list | tuple) else value


def _left_out(name: str, why: str) -> str:
    """The remark over something that is not read."""
    return f"{name} is left out: {why}"


def _unread(reader: Reader, columns: Mapping[str, str]) -> list[str]:
    """What people should know of what is in the files and not in the streams."""
    found = [*reader.remarks, *(_left_out(name, why) for name, why in reader.left_out.items())]
    missing = reader.missing()
    for name, column in reader.columns.items():
        if name in columns.values():
            continue
        if name in missing:
            found.append(_left_out(name, missing[name]))
        elif name.startswith(OBSERVATION) and not column.picture and (what := _no_state(column)):
            found.append(_left_out(name, what))
        elif name.startswith(OBSERVATION):
            found.append(_left_out(name, "the description does not name it"))
        elif _is_spare(name):
            found.append(_left_out(name, "observations are called observation.*; name it in the description to see it"))
        elif name == REWARD and (column.dtype.kind not in "fiub" or _size(column) != 1):
            found.append(_left_out(name, f"a reward is one number a frame, it is of shape {column.shape}"))
    if reader.changes:
        found.append(
            f"{len(reader.changes):,} of {len(reader):,} episodes have several instructions one after the other: each "
            "part is learnt as an episode of its own"
        )
    return found


def _is_spare(name: str) -> bool:
    """Whether a column is neither an observation nor anything else that has a place."""
    known = name in (ACTION, REWARD, TIMESTAMP, stored.EXECUTED, *FLAGS)
    return not known and not name.startswith(("annotation.", "next.", stored.FINAL)) and "index" not in name


def _no_state(column: Column) -> str:
    """Why a column of numbers is no state; empty where it is one."""
    if column.dtype.kind not in "fiub":
        return f"states are numbers, it holds {column.dtype.name}"
    return f"states are rows of numbers, it is of shape {column.shape}" if len(column.shape) > 1 else ""


def infer(reader: Reader) -> Schema:
    """A guess from names, shapes, frames a second and the range of the numbers.

    Raises:
        PolysomaError: there is no column of actions, or nothing to observe.
    """
    remarks: list[str] = []
    if ACTION not in reader.columns:
        raise PolysomaError(_no_action(reader))
    fps = reader.fps
    if fps is None:
        fps = _FPS
        remarks.append(f"rate_hz: the data do not say how many frames a second there are; {_FPS:g} is a guess")
    missing = reader.missing()
    columns: dict[str, str] = {}
    streams = []
    for name, column in reader.columns.items():
        if name in missing or not name.startswith(OBSERVATION):
            continue
        if column.picture:
            stream = _stream(name, column, columns, remarks)
            columns[stream] = name
            streams.append(Stream(stream, Modality.IMAGE, _reduced(column.shape)))
        elif not _no_state(column):
            stream = _stream(name, column, columns, remarks)
            columns[stream] = name
            state = channels_of(stream, column, _range(reader, name), False, remarks)
            streams.append(Stream(stream, Modality.STATE, (_size(column),), state))
    unread = _unread(reader, columns)
    if not streams:
        raise PolysomaError(
            f"{reader.path}: there is nothing to observe; there are {list(reader.columns)}"
            + "".join(f"; {remark}" for remark in unread)
        )
    streams.append(Stream(INSTRUCTION, Modality.TEXT))
    actions, values = _actions(reader, remarks)
    columns[ACTION] = ACTION
    moved = actions.channels if isinstance(actions, ContinuousActions) else ()
    remarks += guessed_units([*(channel for stream in streams for channel in stream.channels), *moved])
    name = re.sub(r"[^a-z0-9]+", "-", (reader.robot or Path(hub.called(reader.path)).stem).lower()).strip("-") or "body"
    return Schema(Embodiment(name, tuple(streams), actions, fps), columns, (*remarks, *unread), values=values)


def _stream(name: str, column: Column, taken: Mapping[str, str], remarks: list[str]) -> str:
    stream = stream_name(name, column.picture, taken)
    if not name.endswith(stream):
        remarks.append(f"{name} is called {stream} here, because that name stands for something else")
    return stream


def _no_action(reader: Reader) -> str:
    if ACTION in reader.left_out:
        return f"{reader.path}: {ACTION} cannot be read: {reader.left_out[ACTION]}"
    rows = [name for name, column in reader.columns.items() if not column.picture and len(column.shape) <= 1]
    return (
        f"{reader.path}: which column is the action cannot be told from the names; write {schema_path(reader.path)} "
        f'with the line `column = "NAME"` under [actions] (docs/data.md has an example); columns of numbers: '
        + some(rows)
    )


def check(schema: Schema, reader: Reader, where: str) -> None:
    """Raises PolysomaError when the data lack a column, or have one of another size or kind."""
    body = schema.embodiment
    expected = {stream.name: stream for stream in body.arrays}
    if set(schema.columns) != {*expected, ACTION}:
        raise PolysomaError(f"{where}: expected a column for each of {[*expected, ACTION]}, got {list(schema.columns)}")
    for stream, name in schema.columns.items():
        column = reader.columns.get(name)
        if column is None:
            raise PolysomaError(f"{where}: {stream}: there is no column {name!r}; there are {list(reader.columns)}")
        if stream == ACTION:
            choices = isinstance(body.actions, DiscreteActions)
            size = schema.choice_size if choices else body.actions.size
            wanted = "one index a frame" if choices and size == 1 else f"{size} numbers a frame"
            fits = not column.picture and _size(column) == size
        elif expected[stream].modality is Modality.IMAGE:
            wanted, fits = "pictures", column.picture
        else:
            wanted = f"{expected[stream].shape[0]} numbers a frame"
            fits = not column.picture and (_size(column),) == expected[stream].shape
        if not fits:
            kind = "pictures" if column.picture else column.dtype.name
            raise PolysomaError(f"{where}: {stream}: expected {wanted}, {name} holds {kind} of shape {column.shape}")


def _size(column: Column) -> int:
    return math.prod(column.shape)


def _reduced(shape: tuple[int, ...]) -> tuple[int, ...]:
    height, width, _ = shape
    if height <= HEIGHT:
        return shape
    return (HEIGHT, max(1, round(width * HEIGHT / height)), 3)


def _actions(
    reader: Reader, remarks: list[str]
) -> tuple[ContinuousActions | DiscreteActions, tuple[tuple[int, ...], ...]]:
    """The actions, and of choices the numbers that stand for them, where these are not 0, 1, 2, ...."""
    column = reader.columns[ACTION]
    if column.picture:
        raise PolysomaError(f"{reader.path}: expected numbers as actions, got pictures")
    if column.choices is not None:
        return _choices(column.choices, remarks)
    low, high = _range(reader, ACTION, len(reader.lengths))
    if not np.isfinite(low).all():
        raise PolysomaError(f"{reader.path}: there is not one episode with finite actions")
    if column.dtype.kind in "iub" and column.shape in ((), (1,)):
        first = min(0, int(low[0]))
        if high[0] - first >= MOST_CHOICES:
            raise PolysomaError(
                f"{reader.path}: expected at most {MOST_CHOICES} choices as actions, got {low[0]:g} to {high[0]:g}"
            )
        return _choices([(number,) for number in range(first, int(high[0]) + 1)], remarks)
    if column.limits is None:
        remarks.append("limits of actions: what was recorded and a twentieth more; put the body's own here")
        return ContinuousActions(channels_of(ACTION, column, (low, high), True, remarks)), ()
    least, most = map(np.array, column.limits)
    slack = 1e-6 * (most - least)
    if (low < least - slack).any() or (high > most + slack).any():
        remarks.append("limits of actions: those of the data's action space, widened by what was recorded beyond them")
        least, most = np.minimum(least, low), np.maximum(most, high)
    channels = channels_of(ACTION, column, (low, high), False, remarks)
    limited = zip(channels, least.tolist(), most.tolist(), strict=True)
    return ContinuousActions(tuple(dataclasses.replace(c, low=low, high=high) for c, low, high in limited)), ()


def _choices(
    values: Sequence[tuple[int, ...]], remarks: list[str]
) -> tuple[DiscreteActions, tuple[tuple[int, ...], ...]]:
    remarks.append("actions are named after their numbers")
    names = tuple(f"action_{'_'.join(map(str, value))}" for value in values)
    plain_numbers = all(value == (number,) for number, value in enumerate(values))
    return DiscreteActions(names), () if plain_numbers else tuple(values)


def _range(reader: Reader, name: str, most: int = _LOOKED_AT) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest values of a column of numbers, ``(size,)``, over up to so many episodes, spread over
    the data set; infinite where none is finite."""
    low = np.full(_size(reader.columns[name]), np.inf)
    high = -low
    chosen = np.flatnonzero(reader.lengths)
    failed: PolysomaError | None = None
    read = False
    for episode in chosen[:: max(1, len(chosen) // max(1, most))]:
        try:
            values = reader.read(int(episode), [name])[name]
            read = True
        except PolysomaError as error:
            # Whoever needs this episode is told so then.
            failed = error
            continue
        if name == ACTION and reader.ends_observed is not None and reader.ends_observed[episode]:
            values = values[:-1]
        values = values.reshape(len(values), _size(reader.columns[name])).astype(np.float64)
        values = values[np.isfinite(values).all(1)]
        if len(values):
            low, high = np.minimum(low, values.min(0)), np.maximum(high, values.max(0))
    if failed is not None and not read:
        raise failed
    return low, high

"""Descriptions: what a foreign data set's columns are, as a TOML file that people edit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polysoma import config
from polysoma.data.formats.reader import ACTION
from polysoma.data.schema import Schema
from polysoma.embodiment import (
    INSTRUCTION,
    Channel,
    ContinuousActions,
    DiscreteActions,
    Embodiment,
    Modality,
    Stream,
)
from polysoma.errors import PolysomaError, SettingError
from polysoma.files import write_atomically
from polysoma.horizon import Horizon
from polysoma.text import plain


def write_schema(schema: Schema, path: Path) -> None:
    """Writes the TOML that :func:`read_schema` reads. Raises PolysomaError when it cannot be written."""
    body = schema.embodiment
    lines = [
        "# What this body senses and moves. Edit it: it is read whenever the data are opened.",
        *(f"# {plain(remark)}" for remark in schema.remarks),
        "",
        f"name = {_toml(body.name)}",
        f"rate_hz = {_toml(body.rate_hz)}",
    ]
    for stream in body.arrays:
        lines += ["", f"[streams.{_key(stream.name)}]", f"column = {_toml(schema.columns[stream.name])}"]
        if stream.modality is Modality.IMAGE:
            lines.append(f"size = {_toml(list(stream.shape[:2]))}  # height and width that pictures are reduced to")
        else:
            lines += _channel_lines(stream.channels)
    lines += ["", "[actions]", f"column = {_toml(schema.columns[ACTION])}"]
    if isinstance(body.actions, DiscreteActions):
        lines.append(f"names = {_toml(list(body.actions.names))}")
        if schema.values:
            lines.append(f"values = {_toml(list(map(list, schema.values)))}  # what stands for each name in the data")
    else:
        lines += _channel_lines(body.actions.channels)
    write_atomically(path, ("\n".join(lines) + "\n").encode())


def _channel_lines(channels: tuple[Channel, ...]) -> list[str]:
    lines = ["channels = ["]
    for channel in channels:
        fields = {"name": channel.name, "unit": channel.unit}
        limits = {"low": channel.low, "high": channel.high}
        known: dict[str, Any] = fields | {key: value for key, value in limits.items() if math.isfinite(value)}
        if channel.group:
            known["group"] = channel.group
        lines.append(f"    {{ {', '.join(f'{key} = {_toml(value)}' for key, value in known.items())} }},")
    return [*lines, "]"]


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


def _toml(value: Any) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's too, but for two kinds of characters.
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return text.encode("utf-8", "replace").decode()


@dataclass(frozen=True)
class _StreamTable:
    column: str
    size: tuple[int, int] | None = None
    channels: tuple[Channel, ...] = ()

    def __post_init__(self) -> None:
        if self.size is not None and not all(0 < pixels <= 4096 for pixels in self.size):
            raise SettingError(f"size must be [height, width] in pixels, got {list(self.size)}")
        if (self.size is None) == (not self.channels):
            raise SettingError("expected either channels, a list of tables with a name each, or size, for a camera")

    def stream(self, name: str) -> Stream:
        if self.size is not None:
            return Stream(name, Modality.IMAGE, (*self.size, 3))
        return Stream(name, Modality.STATE, (len(self.channels),), self.channels)


@dataclass(frozen=True)
class _ActionTable:
    column: str
    names: tuple[str, ...] = ()
    channels: tuple[Channel, ...] = ()
    values: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.values and (len(self.values) != len(self.names) or len({len(value) for value in self.values}) != 1):
            raise SettingError(f"values: expected the numbers of each of {len(self.names)} names, got {self.values}")
        if bool(self.names) == bool(self.channels):
            raise SettingError("expected either channels, a list of tables with a name each, or names, for choices")


@dataclass(frozen=True)
class _BodyTable:
    name: str
    rate_hz: float
    streams: Mapping[str, _StreamTable]
    actions: _ActionTable
    chunk: int | None = None
    history: int | None = None
    previous_action: bool | None = None


def read_schema(path: Path) -> Schema:
    """Reads a description.

    Raises:
        PolysomaError: no such file or not TOML; or a line for each key that is missing, unknown or of the wrong kind.
    """
    table = config.decode(_BodyTable, config.read_toml(path, "description"), str(path))
    actions = table.actions
    try:
        streams = [given.stream(name) for name, given in table.streams.items()]
        moved = DiscreteActions(actions.names) if actions.names else ContinuousActions(actions.channels)
        body = Embodiment(table.name, (*streams, Stream(INSTRUCTION, Modality.TEXT)), moved, table.rate_hz)
    except PolysomaError as error:
        raise PolysomaError(f"{path}: {error}") from error
    columns = {name: given.column for name, given in table.streams.items()} | {ACTION: actions.column}
    # Descriptions of the first format held horizons.
    old = {key: getattr(table, key) for key in ("chunk", "history", "previous_action")}
    known = {key: value for key, value in old.items() if value is not None}
    return Schema(body, columns, old_horizon=Horizon.of_old_embodiment(known), values=actions.values)

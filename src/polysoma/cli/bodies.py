"""``polysoma bodies``: what there is to drive."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from polysoma import simulators
from polysoma.cli.output import add_row, say
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment
from polysoma.errors import PolysomaError, nearest
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Family
from polysoma.task import Task
from polysoma.text import counted


@dataclass(frozen=True)
class Bodies:
    """Lists bodies, a line each; with a name, all of that body: streams, actions, rate, tasks.

    Examples:
        polysoma bodies
        polysoma bodies drone
        polysoma bodies --json
    """

    body: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[BODY]")] = ""
    """The one to describe; all by default."""
    json: bool = False
    """Print JSON for programs instead of text for people."""

    def run(self) -> None:
        known = simulators.families()
        if self.body and self.body not in known:
            raise PolysomaError(f"no body is called {self.body!r}; {nearest(self.body, list(known), 'there are')}")
        chosen = {self.body: known[self.body]} if self.body else known
        if self.json:
            print(json.dumps({name: _as_json(name, family) for name, family in chosen.items()}, indent=1))
        elif self.body:
            _tell(known[self.body].embodiment)
        else:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for column in ("body", "Hz", "senses", "moves", "tasks"):
                table.add_column(column, justify="right" if column in ("Hz", "tasks") else "left")
            for name, family in chosen.items():
                body = family.embodiment
                senses = ", ".join(f"{s.name} {'x'.join(map(str, s.shape))}" for s in body.arrays)
                add_row(table, name, f"{body.rate_hz:g}", senses, _moves(body), str(len(simulators.tasks_of(name))))
            Console().print(table)
            say("streams, actions and tasks of one: polysoma bodies BODY")


def _as_json(name: str, family: Family) -> dict[str, Any]:
    body = family.embodiment
    usual = Horizon.default(body.rate_hz, isinstance(body.actions, DiscreteActions))
    tasks = list(simulators.tasks_of(name))
    return {"tasks": tasks, **body.to_json(), **(family.horizon or usual).to_json()}


def _moves(body: Embodiment) -> str:
    if isinstance(body.actions, ContinuousActions):
        return str(len(body.actions.channels))
    return f"one of {len(body.actions.names)}"


def _tell(body: Embodiment) -> None:
    """All of one body."""
    tasks = [Task.parse(task).name for task in simulators.tasks_of(body.name)]
    say(f"{body.name}, {body.rate_hz:g} Hz")
    for stream in body.streams:
        say(f"  senses {stream.name}: {stream.modality} {'x'.join(map(str, stream.shape))}".rstrip())
        for unit, channels in itertools.groupby(stream.channels, key=lambda channel: channel.unit):
            names = ", ".join(channel.name for channel in channels)
            say(f"    {names} ({unit})" if unit != "1" else f"    {names}")
    if isinstance(body.actions, ContinuousActions):
        for channel in body.actions.channels:
            say(f"  moves {channel.name}: {channel.low:g} to {channel.high:g} {channel.unit}")
    else:
        say(f"  does one of {', '.join(body.actions.names)}")
    say(f"  {counted(len(tasks), 'task')}: {', '.join(tasks)}")

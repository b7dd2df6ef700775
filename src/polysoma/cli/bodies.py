"""``polysoma bodies``: what there is to drive."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from polysoma import simulators
from polysoma.cli.output import add_row
from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Family
from polysoma.task import Task


@dataclass(frozen=True)
class Bodies:
    """Lists embodiments with their streams, actions, rates and tasks.

    Examples:
        polysoma bodies
        polysoma bodies --json
    """

    json: bool = False
    """Print JSON for programs instead of a table for people."""

    def run(self) -> None:
        if self.json:
            print(
                json.dumps(
                    {
                        name: {
                            "tasks": list(simulators.tasks_of(name)),
                            **family.embodiment.to_json(),
                            **_horizon(family).to_json(),
                        }
                        for name, family in simulators.families().items()
                    },
                    indent=1,
                )
            )
            return
        table = Table(title="Bodies", show_lines=True)
        for column in ("body", "senses", "actions", "rate", "tasks"):
            table.add_column(column, overflow="fold")
        for name, body in simulators.embodiments().items():
            tasks = [Task.parse(task).name for task in simulators.tasks_of(name)]
            listed = f"{len(tasks)}: {', '.join(tasks)}"
            add_row(table, name, _senses(body), _actions(body), f"{body.rate_hz:g} Hz", listed)
        Console().print(table)


def _horizon(family: Family) -> Horizon:
    body = family.embodiment
    return family.horizon or Horizon.default(body.rate_hz, isinstance(body.actions, DiscreteActions))


def _senses(body: Embodiment) -> str:
    return "\n".join(
        f"{stream.name}: {stream.modality}" + (f" {'x'.join(map(str, stream.shape))}" if stream.shape else "")
        for stream in body.streams
    )


def _actions(body: Embodiment) -> str:
    if isinstance(body.actions, ContinuousActions):
        return "\n".join(f"{c.name} [{c.unit}]" for c in body.actions.channels)
    return "one of " + ", ".join(body.actions.names)

"""What commands print about errors on recorded episodes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.console import Console
from rich.table import Table

from polysoma.cli.output import add_row, say, show
from polysoma.cli.progress import counting
from polysoma.evaluation.open_loop import POLICY, OpenLoop, open_loop
from polysoma.evaluation.recorded import RecordedEpisodes
from polysoma.text import counted

_PLACES, _CHANNELS = 5, 60
"""Rows of places in the chunk, and of channels, that are printed at most."""


def measure(recorded: RecordedEpisodes, windows: int, permutations: int) -> OpenLoop:
    """Measures the episodes of one body, and says how far it has come."""
    with counting(f"comparing with demonstrations of {recorded.source.embodiment.name}") as shown:
        return open_loop(
            recorded.policy.predict, recorded.source, windows, permutations,
            progress=lambda done, total: shown(done, total, ""),
            learnt=recorded.learnt,
        )  # fmt: skip


def print_errors(found: OpenLoop, which: str, whole: bool = True) -> None:
    """Prints tables and warnings.

    Args:
        found: about one body.
        which: the episodes, in words.
        whole: whether places in the chunk and channels are among it.
    """
    errors = found.errors
    say(f"{found.body}, {which}, {counted(found.windows, 'frame')}: {found.unit}")
    table = Table()
    table.add_column("")
    for name in errors:
        table.add_column(name, justify="right")
    add_row(table, "first action", *(f"{one.first:.3f}" for one in errors.values()), style="bold")
    add_row(table, "whole chunk", *(f"{one.chunk:.3f}" for one in errors.values()), style="bold")
    if whole:
        table.add_section()
        count = len(errors[POLICY].places)
        for place in np.unique(np.linspace(0, count - 1, _PLACES).astype(int)).tolist() if count > 1 else ():
            add_row(table, f"action {place + 1} of {count}", *(f"{one.places[place]:.3f}" for one in errors.values()))
        table.add_section()
        for name in list(errors[POLICY].channels)[:_CHANNELS]:
            add_row(table, name, *(f"{one.channels[name]:.3f}" for one in errors.values()))
    Console().print(table)
    if found.surprise:
        say("surprise in nats: " + _each(found.surprise))
    say("from the last command to the first action: " + _each(found.jump))
    if found.start:
        say("from where the joints are to the first action of episodes: " + _each(found.start))
    if found.importance:
        grown = [f"{name} {one.ratio:.2f} [{one.low:.2f}, {one.high:.2f}]" for name, one in found.importance.items()]
        say("errors grow, with an input from another episode: " + ", ".join(grown))
    for remark in found.remarks:
        say(remark)
    for warning in found.warnings:
        show((f"warning: {warning}", "yellow"))


def _each(numbers: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.3f} {name}" for name, value in numbers.items())

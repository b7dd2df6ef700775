"""The page of an open-loop evaluation: tables, and plots of each action channel over time, expert and policy; and the
same plots as PNG files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from polysoma import pages
from polysoma.data.mixture import Source
from polysoma.embodiment import DiscreteActions
from polysoma.evaluation.answers import Predict
from polysoma.evaluation.open_loop import POLICY, OpenLoop, predictions
from polysoma.evaluation.open_loop_pairs import Paired, Row
from polysoma.files import write_atomically
from polysoma.text import counted

_EPISODES = 3
_POINTS = 400
"""Frames of an episode that the policy is asked at; longer ones are asked at every second, third, ..."""
_COLOURS = {"expert": "green", "policy": "red"}
_PANEL, _LABEL, _COLUMNS = (560, 150), 18, 2


@dataclass(frozen=True)
class Trace:
    """One episode, as it was demonstrated and as the policy would have begun from each of its frames.

    Attributes:
        name: what it is called, for people.
        instruction: what was to be done.
        channels: names of the C channels; one for choices.
        drawn: action channels of the expert and of the policy by name, ``(F, C)``.
    """

    name: str
    instruction: str
    channels: Sequence[str]
    drawn: Mapping[str, np.ndarray]


def traces(predict: Predict, source: Source, episodes: int = _EPISODES) -> list[Trace]:
    """First predicted actions at the frames of a few episodes, evenly spaced among those of the source."""
    body, found = source.embodiment, []
    known = np.unique(source.spaced(len(source))[:, :2], axis=0)
    for number, episode in known[np.unique(np.linspace(0, len(known) - 1, episodes).astype(int))].tolist():
        dataset = source.datasets[number]
        length = int(dataset.episode_length[episode])
        places = np.arange(0, length, 1 + (length - 1) // _POINTS)
        frames = np.column_stack([np.full_like(places, number), np.full_like(places, episode), places])
        predicted, target = (values.reshape(len(places), -1) for values in predictions(predict, source, frames))
        names = ["choice"] if isinstance(body.actions, DiscreteActions) else [c.name for c in body.actions.channels]
        told = dataset.instructions[dataset.episode_instruction[episode]]
        name = f"{body.name}, episode {dataset.episode_number[episode]} of {dataset.root.name}"
        found.append(Trace(name, told, names, {"expert": target, "policy": predicted}))
    return found


def write_page(
    title: str, about: Sequence[str], found: Sequence[tuple[OpenLoop, Sequence[Trace]]], folder: Path
) -> Path:
    """Writes ``folder/index.html``, and each trace as a PNG beside it. Returns the page's path.

    Raises PolysomaError when they cannot be written.
    """
    sections = []
    for number, (result, drawn) in enumerate(found):
        sections += [f"<h2>{escape(result.body)}</h2>", *_tables(result)]
        for place, trace in enumerate(drawn):
            write_atomically(folder / f"trace-{number}-{place}.png", picture(trace))
            sections.append(_section(trace))
    path = folder / "index.html"
    write_atomically(path, pages.page(title, sections, about))
    return path


def _tables(result: OpenLoop) -> list[str]:
    controls = list(result.errors)
    numbers = range(1, len(controls) + 1)
    told = [f'<p class="no">{escape(text)}</p>' for text in result.warnings]
    told += [f'<p class="soft">{escape(text)}</p>' for text in result.remarks]
    head = ("", *controls)
    whole = [(name, *(f"{getattr(one, name):.3f}" for one in result.errors.values())) for name in ("first", "chunk")]
    channels = [
        (escape(name), *(f"{one.channels[name]:.3f}" for one in result.errors.values()))
        for name in result.errors[POLICY].channels
    ]
    counts = [
        (escape(name), f"{one.ratio:.2f}", f"{one.low:.2f}-{one.high:.2f}") for name, one in result.importance.items()
    ]
    jumps = [
        f"{what}: {', '.join(f'{value:.3f} {name}' for name, value in numbers.items())}"
        for what, numbers in (
            ("from the command before to the first action", result.jump),
            ("from where the joints are to the first action of episodes", result.start),
        )
        if numbers
    ]
    return [
        f'<p class="soft">{_counts(result)}; {result.unit}; {"; ".join(jumps)}.</p>',
        *told,
        pages.table(head, whole, numbers),
        _along({name: one.places for name, one in result.errors.items()}),
        pages.table(("input", "errors grow by", "95 % interval"), counts, (1, 2)) if counts else "",
        f"<details open><summary>{counted(len(channels), 'channel')}</summary>"
        f"{pages.table(head, channels, numbers)}</details>",
    ]


def _counts(result: OpenLoop | Paired) -> str:
    return f"{counted(result.windows, 'frame')} of {counted(result.episodes, 'episode')}"


def _along(places: Mapping[str, Sequence[float]]) -> str:
    """Errors of drivers by name at each place in the chunk, as lines."""
    # Any number of policies may be compared.
    ring = itertools.cycle([name for name in pages.COLOURS if name not in ("soft", "ink", "paper", "line")])
    colours = {name: f"var(--{colour})" for name, colour in zip(places, ring, strict=False)}
    chart, (low, high) = pages.lines(np.array(list(places.values())).T, list(colours.values()))
    return pages.figure(chart, f"errors along the chunk, {low:.3g} to {high:.3g}" + pages.legend(colours))


def write_comparison(title: str, about: Sequence[str], found: Sequence[Paired], path: Path) -> None:
    """Writes what policies predict on the same frames as one HTML file. Raises PolysomaError when it cannot be
    written."""
    sections = []
    for result in found:
        rows = {**result.policies, **result.controls}
        told = f"{result.which}; {_counts(result)}; {result.unit}."
        sections += [
            f'<h2>{escape(result.body)}</h2><p class="soft">{escape(told)}</p>',
            pages.table(COMPARED, [(escape(name), *compared(row)) for name, row in rows.items()], range(1, 5)),
            _along({name: row.places for name, row in rows.items()}),
        ]
    write_atomically(path, pages.page(title, sections, about))


COMPARED = ("", "first action", "whole chunk", "difference, first", "difference, chunk")
"""The head of the table of a comparison."""


def compared(row: Row) -> tuple[str, ...]:
    """The numbers of a row of it."""
    differences = [
        "" if one is None else f"{one[0]:+.3f} [{one[1]:+.3f}, {one[2]:+.3f}]"
        for one in (row.first_difference, row.chunk_difference)
    ]
    return f"{row.first:.3f}", f"{row.chunk:.3f}", *differences


def _section(trace: Trace) -> str:
    colours = {name: f"var(--{colour})" for name, colour in _COLOURS.items()}
    plots = []
    for place, channel in enumerate(trace.channels):
        rows = np.stack([trace.drawn[name][:, place] for name in colours], 1)
        chart, (low, high) = pages.lines(rows, list(colours.values()))
        plots.append(pages.figure(chart, f"{escape(channel)}, {low:.4g} to {high:.4g}"))
    head = f'<h2>{escape(trace.name)} <small class="soft">“{escape(trace.instruction)}”</small></h2>'
    return f'{head}{pages.legend(colours)}<div class="plots">{"".join(plots)}</div>'


def picture(trace: Trace) -> bytes:
    """The channels of an episode over time, expert and policy, as a PNG file."""
    width, height = _PANEL
    rows = -(-len(trace.channels) // _COLUMNS)
    image = Image.new("RGB", (_COLUMNS * width, rows * (height + _LABEL)), pages.COLOURS["paper"][0])
    pen = ImageDraw.Draw(image)
    for place, channel in enumerate(trace.channels):
        left, top = place % _COLUMNS * width, place // _COLUMNS * (height + _LABEL)
        both = np.concatenate([rows[:, place] for rows in trace.drawn.values()])
        low, high = float(both.min()), float(both.max())
        # The font that is always there knows Latin letters.
        label = f"{channel}, {low:.4g} to {high:.4g}, expert green, policy red".encode("latin-1", "replace")
        pen.text((left + 4, top + 2), label.decode("latin-1"), fill=pages.COLOURS["ink"][0])
        for name, colour in _COLOURS.items():
            values = trace.drawn[name][:, place]
            x = left + 4 + np.arange(len(values)) / max(1, len(values) - 1) * (width - 8)
            y = top + _LABEL + (height - 4) - (values - low) / max(high - low, 1e-12) * (height - 8)
            pen.line([*zip(x.tolist(), y.tolist(), strict=True)], fill=pages.COLOURS[colour][0], width=2)
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()

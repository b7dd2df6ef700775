"""The report: one HTML file with bars, intervals and short videos. It needs nothing but itself."""

from __future__ import annotations

from html import escape
from pathlib import Path

from polysoma import pages
from polysoma.data.video import encode_video
from polysoma.evaluation.evaluation import Result, Score, computed_on, versions
from polysoma.evaluation.intervals import wilson
from polysoma.evaluation.listening import COLUMNS, table_rows
from polysoma.evaluation.mosaic import mosaic
from polysoma.files import write_atomically
from polysoma.rollout.jobs import VIDEO_FPS, Outcome
from polysoma.task import body_of
from polysoma.text import counted

MAX_FRAMES = 120
"""Longer episodes are shown by every second, third, ... frame, so that a video plays ten seconds at most."""


def write_report(result: Result, folder: Path) -> Path:
    """Writes ``folder/index.html``, and ``mosaic.mp4`` when several bodies were filmed. Returns the page's path.

    Raises PolysomaError when they cannot be written.
    """
    sections = []
    if len({body_of(task) for task in result.videos}) > 1:
        video = encode_video(mosaic(list(result.videos.values())), VIDEO_FPS)
        write_atomically(folder / "mosaic.mp4", video)
        sections.append(f'<div class="whole">{pages.video(video)}</div>')
    sections += ["<h2>Families</h2>", _table(result.families(), result)]
    if result.listening:
        cells = [tuple(map(escape, row)) for row in table_rows(result.listening)]
        note = "The same episodes with other instructions: success, and in pairs how much more the right words bring."
        sections += ["<h2>Listening</h2>", f"<p>{note}</p>", pages.table(COLUMNS, cells, range(1, len(COLUMNS)))]
    by_family: dict[str, list[str]] = {}
    for task in result.tasks:
        by_family.setdefault(body_of(task), []).append(task)
    for family, tasks in by_family.items():
        sections.append(f"<h2>{escape(family)}</h2>")
        videos = [result.videos[task] for task in tasks if task in result.videos]
        if videos:
            sections.append('<div class="films">' + "".join(_figure(one) for one in videos) + "</div>")
        rows = _table({task: result.tasks[task] for task in tasks}, result)
        sections.append(f"<details open><summary>{counted(len(tasks), 'task')}</summary>{rows}</details>")
    path = folder / "index.html"
    write_atomically(path, pages.page(result.driver, sections, _about(result)))
    return path


def _about(result: Result) -> list[str]:
    trials = sum(score.trials for score in result.tasks.values())
    machine = result.hardware()
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    numbers = f", {result.precision} by {result.backend}" if result.precision else ""
    seeds = next(iter(result.tasks.values())).seeds
    return [
        f"{counted(trials, 'episode')} of {counted(len(result.tasks), 'task')}, seeds {seeds[0]} to {seeds[-1]}, "
        f"in {result.seconds:.0f} s. Bars are success rates, dark lines their 95 % Wilson intervals; the column after "
        "them says how far returns or successes are from random actions (0) to the expert (1).",
        f"{packages}; {computed_on(machine)}, {machine['instruction_set']}, {machine['cores']} cores{numbers}",
    ]


def _table(scores: dict[str, Score], result: Result) -> str:
    head = ("", "successes", "rate", "", "95 % interval", "random to expert", "decision")
    rows = []
    for name, score in scores.items():
        low, high = wilson(score.successes, score.trials)
        latency, between = result.latency.get(name), result.normalised_mean(name)
        speed = f"{latency['p50']:.1f} ms p50, {latency['p99']:.1f} ms p99" if latency else ""
        rows.append(
            (
                escape(name),
                f"{score.successes}/{score.trials}",
                f"{score.rate:.2f}",
                pages.bar(score.rate, low, high),
                f"{low:.2f}-{high:.2f}",
                "" if between is None else f"{between:.2f}",
                speed and f'<span class="soft">{speed}</span>',
            )
        )
    used = [column for column in range(len(head)) if column == 0 or any(row[column] for row in rows)]
    shown = [[row[column] for column in used] for row in rows]
    numbers = [place for place, column in enumerate(used) if column in (1, 2, 4, 5)]
    return pages.table([head[column] for column in used], shown, numbers)


def _figure(outcome: Outcome) -> str:
    stride = -(-len(outcome.frames) // MAX_FRAMES)
    verdict = '<span class="ok">success</span>' if outcome.success else '<span class="no">failure</span>'
    caption = (
        f"<b>{escape(outcome.task.split('/', 1)[1])}</b><br>“{escape(outcome.instruction)}”<br>"
        f"{verdict} after {outcome.steps} steps"
    )
    return pages.figure(pages.video(encode_video(outcome.frames[::stride], VIDEO_FPS)), caption)

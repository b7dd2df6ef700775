"""The report: one HTML file with bars, intervals and short videos. It needs nothing but itself."""

from __future__ import annotations

import base64
import html
from pathlib import Path

from polysoma.data.video import encode_video
from polysoma.evaluation.evaluation import Result, Score, hardware, versions
from polysoma.evaluation.intervals import wilson
from polysoma.evaluation.mosaic import mosaic
from polysoma.files import write_atomically
from polysoma.rollout.jobs import VIDEO_FPS, Outcome
from polysoma.task import body_of

MAX_FRAMES = 120
"""Longer episodes are shown by every second, third, ... frame, so that a video plays ten seconds at most."""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --paper: #fbfbf9; --line: #d9dbe0; --good: #2f7d5b; --bad: #b3462f;
  --soft: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --paper: #14171d; --line: #333944; --good: #58b88c;
  --bad: #e0775f; --soft: #9aa3b2; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1080px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.soft { color: var(--soft); } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid var(--line); } td.n { text-align: right; }
.bar { position: relative; height: 14px; background: var(--line); border-radius: 3px; min-width: 220px; }
.bar i { position: absolute; inset: 0 auto 0 0; background: var(--good); border-radius: 3px; }
.bar u { position: absolute; top: 5.5px; height: 3px; background: var(--ink); opacity: .75; }
.mosaic { margin: 1.4rem 0; }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 14px; }
figure { margin: 0; } video { width: 100%; border-radius: 6px; background: #000; display: block; }
figcaption { font-size: .82rem; line-height: 1.35; margin-top: .3rem; }
.ok { color: var(--good); } .no { color: var(--bad); } summary { cursor: pointer; }
"""


def write_report(result: Result, folder: Path) -> Path:
    """Writes ``folder/index.html``, and ``mosaic.mp4`` when several bodies were filmed. Returns the page's path.

    Raises PolysomaError when they cannot be written.
    """
    sections = [_header(result)]
    if len({body_of(task) for task in result.videos}) > 1:
        video = encode_video(mosaic(list(result.videos.values())), VIDEO_FPS)
        write_atomically(folder / "mosaic.mp4", video)
        sections.append(f'<div class="mosaic">{_video(video)}</div>')
    sections += ["<h2>Families</h2>", _table(result.families(), result)]
    by_family: dict[str, list[str]] = {}
    for task in result.tasks:
        by_family.setdefault(body_of(task), []).append(task)
    for family, tasks in by_family.items():
        sections.append(f"<h2>{html.escape(family)}</h2>")
        videos = [result.videos[task] for task in tasks if task in result.videos]
        if videos:
            sections.append('<div class="videos">' + "".join(_figure(one) for one in videos) + "</div>")
        rows = _table({task: result.tasks[task] for task in tasks}, result)
        sections.append(f"<details open><summary>{len(tasks)} tasks</summary>{rows}</details>")
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Polysoma: {html.escape(result.driver)}</title><style>{_STYLE}</style>{''.join(sections)}</html>\n"
    )
    path = folder / "index.html"
    write_atomically(path, page.encode())
    return path


def _header(result: Result) -> str:
    trials = sum(score.trials for score in result.tasks.values())
    machine = hardware(result.precision)
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    numbers = f", in {result.precision}" if result.precision else ""
    seeds = next(iter(result.tasks.values())).seeds
    return (
        f"<h1>{html.escape(result.driver)}</h1><p>{trials} episodes of {len(result.tasks)} tasks, "
        f"seeds {seeds[0]} to {seeds[-1]}, in {result.seconds:.0f} s. Bars are success rates, dark lines their 95 % "
        f"Wilson intervals; then how far from random actions (0) to the expert (1).</p>"
        f'<p class="soft">{html.escape(packages)}; {html.escape(machine["processor"])}, '
        f"{machine['instruction_set']}, {machine['cores']} cores{numbers}</p>"
    )


def _table(scores: dict[str, Score], result: Result) -> str:
    rows = []
    for name, score in scores.items():
        low, high = wilson(score.successes, score.trials)
        latency, between = result.latency.get(name), result.normalised_mean(name)
        speed = f"{latency['p50']:.1f} ms p50, {latency['p99']:.1f} ms p99" if latency else ""
        rows.append(
            f'<tr><td>{html.escape(name)}</td><td class="n">{score.successes}/{score.trials}</td>'
            f'<td class="n">{score.rate:.2f}</td><td><div class="bar"><i style="width:{score.rate:.1%}"></i>'
            f'<u style="left:{low:.1%};width:{high - low:.1%}"></u></div></td>'
            f'<td class="n">{low:.2f}-{high:.2f}</td><td class="n">{"" if between is None else f"{between:.2f}"}</td>'
            f'<td class="soft">{speed}</td></tr>'
        )
    return f"<table>{''.join(rows)}</table>"


def _figure(outcome: Outcome) -> str:
    stride = -(-len(outcome.frames) // MAX_FRAMES)
    verdict = '<span class="ok">success</span>' if outcome.success else '<span class="no">failure</span>'
    return (
        f"<figure>{_video(encode_video(outcome.frames[::stride], VIDEO_FPS))}"
        f"<figcaption><b>{html.escape(outcome.task.split('/', 1)[1])}</b><br>“{html.escape(outcome.instruction)}”<br>"
        f"{verdict} after {outcome.steps} steps</figcaption></figure>"
    )


def _video(file: bytes) -> str:
    data = base64.b64encode(file).decode()
    return f'<video src="data:video/mp4;base64,{data}" autoplay loop muted playsinline controls></video>'

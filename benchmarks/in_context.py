"""Learning in context: success of unseen members of a family against how many episodes are shown, and of whom.

    python benchmarks/in_context.py

Records examples/panel.py, trains recipes/panel.toml (about a quarter of an hour on one core), and plays members that
training never met with 0, 1, 4, 16 and 64 episodes in view: of the expert, of the policy itself, and of the expert
without what was done. The policy's own episodes are those in which it succeeded by trying: at first with nothing in
view, then with what it succeeded in so far. Killed, it continues.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from polysoma.data.dataset import Dataset
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import mean_interval
from polysoma.learning import states
from polysoma.learning.recipe import read_recipe
from polysoma.learning.training import recipe_of_run, train
from polysoma.rollout.drivers import Behaviour, InContext, Prompting
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import Workers
from results import read, write

RECIPE = Path(__file__).parents[1] / "recipes" / "panel.toml"
KNOWN, UNSEEN = range(2048), range(2048, 2112)
DATA = Path("data/in-context")
SEED, TRIES_SEED, SHOWN_SEED = 9500, 700_000, 5000
TRIES, ROUNDS = 8, 128
"""How often the policy tries each member before it looks at its successes, and how often that at most."""
KINDS = {"expert": "#2f5d9e", "self": "#2f7d5b", "observations": "#b3462f"}


def names(members: range) -> list[str]:
    return [f"panel/{number:04}" for number in members]


def trained(run: Path) -> str:
    if states.exists(run):
        return str(train(recipe_of_run(run), run, resume=True))
    if not (run / "checkpoint").is_dir():
        train(read_recipe(RECIPE), run)
    return str(run / "checkpoint")


def practised(checkpoint: str, folder: Path, shots: int, workers: int) -> list[int]:
    """Has the policy try the unseen members until it succeeded in each of them so often. Returns how many tries the
    first 16 successes of each member took."""
    own = folder / "panel"
    for number in range(ROUNDS):
        won: dict[str, int] = {}
        if number or own.is_dir():
            tried = Dataset(own)
            counts = np.bincount(tried.episode_task[tried.episode_success], minlength=len(tried.tasks))
            won = dict(zip(tried.tasks, counts.tolist(), strict=True))
        lacking = [task for task in names(UNSEEN) if won.get(task, 0) < shots]
        if not lacking:
            break
        context = InContext(str(own), shots) if won else None
        seed = TRIES_SEED + number * TRIES
        behaviour = Behaviour(checkpoint, prompting=Prompting(in_context=context))
        record(lacking, TRIES, folder, behaviour, Workers(workers, 128), seed)
    tried = Dataset(own)
    needed = []
    for task in range(len(tried.tasks)):
        mine = np.flatnonzero(tried.episode_task == task)
        success = tried.episode_success[mine[np.argsort(tried.episode_seed[mine])]]
        needed.append(int(np.flatnonzero(success)[15]) + 1)
    return needed


def curves(rows: Sequence[dict[str, Any]], shots: Sequence[int]) -> str:
    """Success over shots with intervals, a curve for each kind of context, as SVG."""
    width, height, left, bottom = 640, 320, 46, 30
    across = {count: left + (0.5 + n) * (width - left - 110) / len(shots) for n, count in enumerate(shots)}

    def down(rate: float) -> float:
        return 10 + (1 - rate) * (height - bottom - 10)

    parts = [f'<rect width="{width}" height="{height}" fill="#fbfbf9"/>']
    for rate in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            f'<line x1="{left}" x2="{width - 110}" y1="{down(rate):.1f}" y2="{down(rate):.1f}" stroke="#d9dbe0"/>'
            f'<text x="{left - 8}" y="{down(rate) + 4:.1f}" text-anchor="end">{rate:.0%}</text>'
        )
    parts += [f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{n} shots</text>' for n, x in across.items()]
    for number, (kind, colour) in enumerate(KINDS.items()):
        own = [row for row in rows if row["context"] == kind or row["shots"] == 0]
        # Side by side, so that intervals do not cover one another.
        points = [(across[row["shots"]] + 7 * (number - 1) * (row["shots"] > 0), row) for row in own]
        line = " ".join(f"{x:.1f},{down(row['rate']):.1f}" for x, row in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, row in points:
            low, high = (down(limit) for limit in row["interval"])
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{down(row["rate"]):.1f}" r="3.5" fill="{colour}"/>')
        parts.append(f'<text x="{width - 100}" y="{30 + 20 * number}" style="fill:{colour}">{kind}</text>')
    style = "<style>text { font: 12px system-ui, sans-serif; fill: #6b7280; }</style>"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{style}{"".join(parts)}</svg>\n'


def main(
    run: Path = Path("runs/panel"), shots: tuple[int, ...] = (0, 1, 4, 16, 64), episodes: int = 20, workers: int = 1
) -> None:
    """All curves.

    Args:
        run: folder of the training; the policy's own episodes lie there, too.
        shots: episodes that are shown; 0, 16 and others.
        episodes: that are played of each member.
        workers: processes.
    """
    # Before anything asks which families there are; workers are told, too.
    os.environ["POLYSOMA_FAMILIES"] = str(Path(__file__).parents[1] / "examples" / "panel.py")
    torch.set_num_threads(1)
    record(names(KNOWN), 32, DATA, Behaviour(noise=None), workers=workers)
    record(names(UNSEEN), max(shots), DATA / "unseen", Behaviour(noise=None), workers=workers, seed=SHOWN_SEED)
    checkpoint = trained(run)
    needed = practised(checkpoint, run / "own", max(shots), workers)
    folders = {kind: run / "own" / "panel" if kind == "self" else DATA / "unseen" / "panel" for kind in KINDS}
    rows: list[dict[str, Any]] = []
    for kind, folder in folders.items():
        for count in shots:
            if count == 0 and rows:
                continue
            prompting = Prompting(in_context=InContext(str(folder), count, kind == "observations"))
            result = evaluate(
                checkpoint, names(UNSEEN), episodes, SEED, prompting=prompting, workers=Workers(workers, 128)
            )
            # Members are the units: episodes of one member share what was shown.
            rates = [score.rate for score in result.tasks.values()]
            row = {"context": kind, "shots": count, "rate": float(np.mean(rates)), "interval": mean_interval(rates)}
            # Those of even numbers have the usual keys.
            halves = {"usual_keys": float(np.mean(rates[::2])), "own_keys": float(np.mean(rates[1::2]))}
            rows.append({**row, **halves})
            print(rows[-1], flush=True)
    zero = rows[0]["rate"]
    gain = {row["context"]: row["rate"] - zero for row in rows if row["shots"] == 16}
    expert = evaluate("expert", names(UNSEEN)[:8], episodes, SEED).families()["panel"].rate
    settings = {"episodes": episodes, "members": len(UNSEEN), "seed": SEED}
    write(
        "in-context",
        {
            "settings": settings,
            "rows": rows,
            "gain_of_16": gain,
            "self_over_expert": gain["self"] / gain["expert"] if gain["expert"] else None,
            "tries_for_16_successes": {"mean": float(np.mean(needed)), "most": max(needed)},
            "expert_itself": expert,
        },
    )


def render() -> str:
    """Success against shots."""
    found = read("in-context")
    shots = sorted({row["shots"] for row in found["rows"]})
    lines = [
        "| shown | " + " | ".join(f"{count} shots" for count in shots) + " |",
        "| --- |" + " --- |" * len(shots),
    ]
    names = {
        "expert": "the expert's episodes",
        "self": "its own successes",
        "observations": "the expert's, without what was done",
    }
    nothing = next(row for row in found["rows"] if row["shots"] == 0)
    for kind, name in names.items():
        rows = {row["shots"]: row for row in found["rows"] if row["context"] == kind} | {0: nothing}
        cells = [f"{rows[c]['rate']:.2f} [{rows[c]['interval'][0]:.2f}, {rows[c]['interval'][1]:.2f}]" for c in shots]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    settings, tries = found["settings"], found["tries_for_16_successes"]
    most = {row["context"]: row for row in found["rows"] if row["shots"] == 16}["expert"]
    lines += [
        "",
        f"Success of {settings['members']} unseen members, {settings['episodes']} episodes each from seed "
        f"{settings['seed']} on, 95 % intervals over members; the expert itself {found['expert_itself']:.2f}. "
        f"16 of the expert's episodes add {100 * found['gain_of_16']['expert']:.0f} points, its own ones "
        f"{found['self_over_expert']:.0%} of that: they took it {tries['mean']:.0f} tries, {tries['most']} at most. "
        f"With the expert's 16 in view it succeeds in {most['usual_keys']:.2f} where keys are the usual ones and in "
        f"{most['own_keys']:.2f} where these are the member's own (`{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


def figure() -> str:
    """Success against shots, as SVG."""
    rows = read("in-context")["rows"]
    return curves(rows, sorted({row["shots"] for row in rows}))


if __name__ == "__main__":
    tyro.cli(main)

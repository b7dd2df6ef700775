"""Writes the tables and figures of README and docs from the committed results: each benchmark renders its own.

python benchmarks/render.py          # rewrites the documents
python benchmarks/render.py --check  # says which are not what the results say, and fails
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import adapters
import cameras
import channels
import compare
import data
import differential_table
import diffusion
import dqn
import drift
import edge
import eyes
import fleet
import fuzz
import games
import gpicl
import guard
import guard_tasks
import heads
import hostile
import how_long
import imagination
import improve
import in_context
import jat
import kills
import limits
import listening
import merging
import meta
import newcomer
import ogbench_mazes
import open_loop_warnings
import own_robot
import paired
import preferences
import pusht
import realtime
import recordings
import rounds
import ruler
import scale
import scores
import search
import serving
import sight
import skills
import so101
import soak
import specialists
import speed
import stream
import transfer
import u2o
import world

ROOT = Path(__file__).parents[1]

TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "laptop": scores.render_laptop_line,
        "newcomer": newcomer.render_line,
        "results": scores.render_results,
    },
    "docs/training.md": {
        "speed": speed.render,
        "channels": channels.render,
        "sight": sight.render,
        "cameras": cameras.render,
        "heads": heads.render,
        "kills": kills.render,
        "rounds": rounds.render,
        "laptop": scores.render_laptop,
        "generalist": scores.render_generalist,
    },
    "docs/architecture.md": {
        "calls": speed.render_calls,
        "paired": paired.render,
        "stream": stream.render,
    },
    "docs/data.md": {
        "data": data.render,
        "differential": differential_table.render,
        "fuzz": fuzz.render,
    },
    "docs/scale.md": {
        "scale": scale.render,
    },
    "docs/improve.md": {
        "improve": improve.render,
        "preferences": preferences.render,
    },
    "docs/guards.md": {
        "limits": limits.render,
        "guard": guard.render,
        "guard-tasks": guard_tasks.render,
    },
    "docs/finetuning.md": {
        "tasks": compare.render_tasks,
        "body": compare.render_body,
        "newcomer": newcomer.render,
        "meta": meta.render,
        "adapters": adapters.render,
        "memory": scores.render_memory,
        "peg": scores.render_peg,
        "merging": merging.render,
        "own-robot": own_robot.render,
        "eyes": eyes.render,
        "recordings": recordings.render,
        "how-long": how_long.render,
        "pusht": pusht.render,
    },
    "docs/in-context.md": {
        "in-context": in_context.render,
        "gpicl": gpicl.render,
    },
    "docs/skills.md": {
        "skills": skills.render,
        "ogbench_mazes": ogbench_mazes.render,
        "dqn": dqn.render,
        "games": games.render,
        "u2o": u2o.render,
    },
    "docs/planning.md": {
        "diffusion": diffusion.render,
    },
    "docs/drift.md": {
        "drift": drift.render,
    },
    "docs/world-models.md": {
        "world": world.render,
        "imagination": imagination.render,
        "search": search.render,
    },
    "docs/fleet.md": {
        "fleet": fleet.render,
    },
    "docs/serving.md": {
        "frames": speed.render_frames,
        "decisions": speed.render_decisions,
        "serving": serving.render,
        "soak": soak.render,
        "realtime": realtime.render,
        "edge": edge.render,
        "hostile": hostile.render,
    },
    "docs/evaluation.md": {
        "listening": listening.render,
        "paraphrases": scores.render_paraphrases,
        "ruler": ruler.render,
        "jat": jat.render,
        "transfer": transfer.render,
        "open-loop-warnings": open_loop_warnings.render,
        "so101": so101.render,
        "specialists": specialists.render,
    },
}
"""By document and marker, what renders the text between ``<!-- marker -->`` and ``<!-- end of marker -->``."""

FIGURES: dict[str, Callable[[], str]] = {
    "docs/compare-tasks.svg": compare.figure_tasks,
    "docs/in-context.svg": in_context.figure,
    "docs/u2o.svg": u2o.figure,
}
"""What renders a whole file."""


def rendered(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """A document with its tables written anew."""
    for marker, render in tables.items():
        begin, end = f"<!-- {marker} -->\n", f"<!-- end of {marker} -->"
        before, rest = text.split(begin)
        text = before + begin + render() + end + rest.split(end, 1)[1]
    return text


def main() -> None:
    check = "--check" in sys.argv[1:]
    pages = {name: rendered((ROOT / name).read_text(), tables) for name, tables in TABLES.items()}
    pages |= {name: render() for name, render in FIGURES.items()}
    old = [name for name, text in pages.items() if not (ROOT / name).exists() or (ROOT / name).read_text() != text]
    if check and old:
        sys.exit(f"not what the results say: {', '.join(old)}; run `python benchmarks/render.py`")
    for name in old:
        (ROOT / name).write_text(pages[name])
        print(f"wrote {name}")


if __name__ == "__main__":
    main()

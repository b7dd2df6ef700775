"""Which way of learning from a few demonstrations: tasks, and a body, that the base never met (docs/finetuning.md).

    python benchmarks/compare.py tasks
    python benchmarks/compare.py body

Records the demonstrations, needs runs/held-out/checkpoint (recipes/held-out.toml) for the tasks. These take about 75
minutes on one core, the body 25. Killed, it continues.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import tyro

from polysoma import simulators
from polysoma.cli.progress import counting
from polysoma.evaluation.comparison import METHODS, Comparison, compare
from polysoma.evaluation.comparison_page import figure, write_page
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from results import difference, read, write

DEMONSTRATIONS = Path("data/held-out")
TASKS = tuple(
    f"metaworld/{name}-v3" for name in ("bin-picking", "box-close", "hand-insert", "door-lock", "door-unlock")
)
OLD = {
    "tasks": ("metaworld/drawer-open-v3", "metaworld/reach-v3", "metaworld/pick-place-v3", "metaworld/window-close-v3"),
    "body": ("metaworld/drawer-open-v3", "metaworld/pick-place-v3", "rover/pillar", "drone/hover", "go1/velocity"),
}
SEED, FIRST_DEMONSTRATION = 9000, 3200


def main(
    what: tyro.conf.Positional[Literal["tasks", "body"]], minutes: float = 3.0, out: Path = Path("runs/compare")
) -> None:
    """All ways with equal demonstrations and equal time.

    Args:
        what: five tasks of Meta-World from a base without them, with 5, 20 and 50 demonstrations; or the Go2 from the
            shipped weights, with 20.
        minutes: of training for each way.
        out: folder of the runs; what is there is used.
    """
    body, base, count = ("metaworld", "runs/held-out/checkpoint", 200) if what == "tasks" else ("go2", "generalist", 50)
    tasks = TASKS if what == "tasks" else tuple(simulators.tasks_of("go2"))
    record(list(tasks), count, DEMONSTRATIONS, Behaviour(noise=None), workers=1, seed=FIRST_DEMONSTRATION)
    known = set(simulators.match_tasks("*"))
    old = tuple(task for task in OLD[what] if task in known)
    counts = (5, 20, 50) if what == "tasks" else (20,)
    asked = Comparison(
        base, str(DEMONSTRATIONS / body), tasks, counts, METHODS, minutes, 20, SEED, old, old_episodes=10
    )
    with counting("comparing") as show:
        result = compare(asked, out / what, show)
    write_page(result, out / what / "index.html")
    write(f"compare-{what}", {"comparison": result["comparison"], "rows": result["rows"]})


def _table(name: str) -> str:
    """Every way of learning from a few demonstrations."""
    found = read(name)
    asked = found["comparison"]
    lines = [
        "| method | demos | success | 95 % interval | minus specialist, paired | minutes | steps | MB | old tasks |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found["rows"]:
        minus, lost = row.get("minus_specialist"), row.get("forgotten")
        low, high = row["interval"]
        trained = bool(row["steps"])
        old = "" if lost is None else difference([-lost[0], -lost[2], -lost[1]]) if any(lost) else "unchanged"
        lines.append(
            f"| {row['way']} | {row['demonstrations'] or ''} | {row['successes']}/{row['trials']} "
            f"| {low:.2f} to {high:.2f} | {difference(minus) if minus and row['way'] != 'specialist' else ''} "
            f"| {row['minutes'] if trained else ''} | {row['steps'] if trained else ''} "
            f"| {row['megabytes'] if trained else ''} | {old} |"
        )
    machine = found["hardware"]
    lines += [
        "",
        f"From {asked['base']}, {asked['minutes']:g} minutes on one core for each way ({machine['processor']}), "
        f"{asked['episodes']} episodes of each of {len(asked['tasks'])} tasks from seed {asked['seed']} "
        f"(`{found['command']}`).",
        "",
    ]
    return "\n".join(lines)


def render_tasks() -> str:
    """Tasks that the base never met."""
    return _table("compare-tasks")


def render_body() -> str:
    """A body that the base never met."""
    return _table("compare-body")


def figure_tasks() -> str:
    """Success against demonstrations on tasks that the base never met, as SVG."""
    return figure(read("compare-tasks"))


if __name__ == "__main__":
    tyro.cli(main)

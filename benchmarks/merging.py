"""What is left of eight fine-tunes when they are merged, and of what the base could do (docs/finetuning.md).

    python benchmarks/merging.py

From runs/held-out/checkpoint (recipes/held-out.toml) eight fine-tunes are made of one task each, with what the base can
do mixed in (``keep``), and five without (``plain``). Their changes are summed up, or fitted by regression. Needs
data/held-out (benchmarks/compare.py) and data/ (`polysoma record`). About an hour on one core; killed, it continues
where it was.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from merging_numbers import OF_REST, REST, called, lost, metaworld, row_of
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.merging import choose_coefficient
from polysoma.files import write_atomically
from polysoma.learning import states
from polysoma.learning.finetuning import recipe_for, with_steps
from polysoma.learning.grams import input_grams
from polysoma.learning.training import recipe_of_run, train
from polysoma.policy import checkpoint
from polysoma.policy.merging import Grams, add, analogy, negate
from polysoma.policy.policy import Policy
from results import difference, read, write

BASE = "runs/held-out/checkpoint"
Way = Literal["keep", "plain"]
Fit = Literal["sum", "regression"]


NEVER_MET = metaworld("bin-picking box-close hand-insert door-lock door-unlock")
WORST = metaworld("pick-out-of-hole stick-pull shelf-place")
"""What the base does worst of all that it has met, on development seeds."""
NEW = NEVER_MET + WORST
WATCHED = (*metaworld("pick-place coffee-pull"), "drone/hover")
"""Those of the rest that coefficients are chosen by, beside the tasks that are merged."""
KEPT = ("data/metaworld", "data/drone", "data/rover", "data/go1")
UNWANTED = metaworld("push door-open")
"""What the base can do and is to lose."""
OLD = 45
"""Tasks of Meta-World that the base met."""
COEFFICIENTS = (0.25, 0.5, 0.75, 1.0)
DEMONSTRATIONS, STEPS = 50, 200
LEARNING_RATE = {"keep": 6e-4, "plain": 1e-4}
"""Full fine-tuning. Without what is kept a lower rate forgets less, and the task is learnt all the same."""
DEVELOPMENT, SEED = 560_000, 9500
CHOOSING, EPISODES = 6, 20


@dataclasses.dataclass(frozen=True)
class Cells:
    """What was trained and played, in a folder."""

    out: Path

    def _cell(self, name: str, make: Callable[[], Any]) -> Any:
        file = self.out / f"{name}.json"
        if not file.exists():
            write_atomically(file, json.dumps(make()).encode())
            print(name, flush=True)
        return json.loads(file.read_text())

    def fine_tune(self, tasks: Sequence[str], way: Way) -> str:
        run = self.out / f"{way}-{called(tasks)}"
        made: str = self._cell(f"{run.name}-trained", lambda: str(self._train(tasks, way, run)))
        return made

    def _train(self, tasks: Sequence[str], way: Way, run: Path) -> Path:
        if states.exists(run):
            return train(recipe_of_run(run), run, resume=True)
        homes = {task: "data/held-out/metaworld" if task in NEVER_MET else "data/metaworld" for task in tasks}
        recipe = recipe_for(
            BASE, sorted(set(homes.values())), "full", DEMONSTRATIONS, held_out=0.0,
            learning_rate=LEARNING_RATE[way], keep=KEPT if way == "keep" else (),
        )  # fmt: skip
        # The data sets hold other tasks, too. What the base never met stays out; the rest is kept, or stays out.
        weights = {task: OLD / len(tasks) for task in tasks}
        weights |= {task: 0.0 for task in (NEVER_MET if way == "keep" else ("*",)) if task not in tasks}
        return train(with_steps(dataclasses.replace(recipe, task_weights=weights), STEPS), run)

    def merging(self, paths: Sequence[str], fit: Fit) -> Callable[[float], Policy]:
        if fit == "sum":
            return partial(add, BASE, paths)
        return lambda coefficient: add(BASE, paths, coefficient, [grams_of(path) for path in paths])

    def played(self, name: str, driver: Path | str, tasks: Sequence[str]) -> dict[str, list[float]]:
        """Outcomes of each of the tasks, and of the rest."""

        def play() -> dict[str, list[float]]:
            found: dict[str, list[float]] = {}
            for names, episodes in ((tasks, EPISODES), ([t for t in REST if t not in tasks], OF_REST)):
                for task, score in evaluate(str(driver), names, episodes, SEED).tasks.items():
                    found[task] = [int(outcome) for outcome in score.outcomes]
            return found

        return self._cell(name, play)

    def merged(
        self, name: str, merge: Callable[[float], Policy], tasks: Sequence[str], unwanted: Sequence[str] = ()
    ) -> tuple[float, dict[str, list[float]]]:
        """The coefficient that is chosen, and outcomes with it."""
        watched = [*tasks, *(task for task in WATCHED if task not in tasks)]
        chosen = self._cell(
            f"{name}-coefficient",
            lambda: choose_coefficient(merge, COEFFICIENTS, watched, unwanted, CHOOSING, DEVELOPMENT)[0],
        )
        if not (self.out / name / "config.json").is_file():
            checkpoint.save(merge(chosen), self.out / name)
        return chosen, self.played(name, self.out / name, tasks)


@functools.cache
def grams_of(path: str) -> Grams:
    return input_grams(Path(path).parent)


def main(out: Path = Path("runs/merging")) -> None:
    """All merges.

    Args:
        out: folder of the runs and of what was played; what is there is used.
    """
    torch.set_num_threads(1)
    cells = Cells(out)
    base = cells.played("base", BASE, NEW)
    every = [*itertools.combinations(NEVER_MET, 2), NEVER_MET[:4], (NEVER_MET[4], *WORST), NEW]
    some = list(zip(NEVER_MET, NEVER_MET[1:] + NEVER_MET[:1], strict=True))
    groups: list[tuple[Way, Fit, list[tuple[str, ...]]]] = [
        ("keep", "regression", every),
        ("keep", "sum", every),
        ("plain", "sum", some),
    ]
    rows: dict[str, list[dict[str, Any]]] = {}
    for way, fit, all_tasks in groups:
        learnt = sorted({task for tasks in all_tasks for task in tasks}, key=NEW.index)
        paths = {task: cells.fine_tune((task,), way) for task in learnt}
        tuned = {task: cells.played(f"{way}-{called((task,))}-alone", paths[task], (task,)) for task in learnt}
        rows[way] = rows.get(way, [row_of(base, tuned, [((task,), 1.0, tuned[task]) for task in learnt])])
        for size in sorted({len(tasks) for tasks in all_tasks}):
            found = []
            for tasks in (group for group in all_tasks if len(group) == size):
                merge = cells.merging([paths[task] for task in tasks], fit)
                found.append((tasks, *cells.merged(f"{way}-{fit}-{called(tasks)}", merge, tasks)))
            rows[way].append({"fit": fit} | row_of(base, tuned, found))
        if fit == "regression":
            together = cells.played("joint", cells.fine_tune(NEW, way), NEW)
            joint = row_of(base, tuned, [(NEW, 1.0, together)])
    negated = []
    for task in UNWANTED:
        path = cells.fine_tune((task,), "keep")
        name = called((task,))
        coefficient, after = cells.merged(f"negated-{name}", partial(negate, BASE, path), (task,), (task,))
        before = cells.played(f"base-{name}", BASE, (task,))
        negated.append(
            {
                "task": task,
                "coefficient": coefficient,
                "base": float(np.mean(before[task])),
                "negated": float(np.mean(after[task])),
                "lost_on_others": lost(before, after, [other for other in REST if other != task]),
            }
        )
    # A fine-tune of the base is brought to another base, which has met another task since.
    first, second = NEVER_MET[3], NEVER_MET[2]
    port = partial(analogy, BASE, cells.fine_tune((first,), "keep"), cells.fine_tune((second,), "keep"))
    coefficient, after = cells.merged("ported", port, (first, second))
    ported = {
        "task": first,
        "to": second,
        "coefficient": coefficient,
        "rates": {task: float(np.mean(after[task])) for task in (first, second)},
        "lost": lost(base, after, REST),
    }
    settings = {
        "base": BASE,
        "steps": STEPS,
        "demonstrations": DEMONSTRATIONS,
        "learning_rates": LEARNING_RATE,
        "coefficients": COEFFICIENTS,
        "episodes": EPISODES,
        "episodes_of_rest": OF_REST,
        "rest": REST,
        "seed": SEED,
        "chosen_on": {"seed": DEVELOPMENT, "episodes": CHOOSING, "rest": WATCHED},
    }
    write("merging", {"settings": settings, "rows": rows, "joint": joint, "negated": negated, "ported": ported})


def render() -> str:
    """What merges keep of what was learnt, and of what was known."""
    found = read("merging")
    settings = found["settings"]
    lines = [
        "| fine-tuned | merged | merges | base | each alone | merged | of the gain | lost on the rest |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ways = (
        ("each with `--keep`", found["rows"]["keep"]),
        ("each on its task alone", found["rows"]["plain"]),
        ("all at once with `--keep`", [found["joint"]]),
    )
    for name, rows in ways:
        for row in rows:
            gain = "{:.2f} [{:.2f}, {:.2f}]".format(*row["gain"])
            merged = f"{row['fine_tunes']}, by {row['fit']}" if "fit" in row else "none"
            lines.append(
                f"| {name} | {merged} | {row['merges']} "
                f"| {row['base']:.2f} | {row['tuned']:.2f} | {row['merged']:.2f} "
                f"| {gain if row['fine_tunes'] > 1 else ''} | {difference(row['lost'])} |"
            )
    lines += [
        "",
        f"From {settings['base']}, all weights, {settings['demonstrations']} demonstrations, {settings['steps']} steps "
        f"each. Rates of success on the tasks merged, {settings['episodes']} episodes of each; the rest are "
        f"{len(settings['rest'])} tasks that the base met, {settings['episodes_of_rest']} episodes of each for every "
        f"merge; seeds from {settings['seed']}, 95 % intervals. Coefficients were chosen on other seeds "
        f"(`{found['command']}`).",
        "",
    ]
    for row in found["negated"]:
        lines.append(
            f"Taken away, {row['task']} falls from {row['base']:.2f} to {row['negated']:.2f}; the others lose "
            f"{difference(row['lost_on_others'])} (coefficient {row['coefficient']:g})."
        )
    ported = found["ported"]
    rates = " and ".join(f"{rate:.2f} of {task}" for task, rate in ported["rates"].items())
    lines += [
        f"By analogy, the fine-tune for {ported['task']} was brought to a base that had learnt {ported['to']} since: "
        f"{rates}, {difference(ported['lost'])} lost on the rest (coefficient {ported['coefficient']:g}).",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)

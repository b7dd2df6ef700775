"""What is left of eight fine-tunes when they are merged, and of what the base could do (docs/finetuning.md).

    python benchmarks/merging.py

From runs/held-out/checkpoint (recipes/held-out.toml) eight fine-tunes are made of one task each, with what the base can
do mixed in (``keep``) and without. Needs data/held-out (benchmarks/compare.py) and data/ (recipes/generalist.sh). About
an hour on one core; killed, it continues where it was.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference
from polysoma.evaluation.merging import choose_coefficient
from polysoma.files import write_atomically
from polysoma.learning.finetuning import recipe_for, with_steps
from polysoma.learning.imitation import recipe_of_run, train
from polysoma.policy import checkpoint
from polysoma.policy.merging import add, analogy, negate
from polysoma.policy.policy import Policy
from results import write

BASE = "runs/held-out/checkpoint"
Way = Literal["keep", "plain"]


def metaworld(names: str) -> tuple[str, ...]:
    return tuple(f"metaworld/{name}-v3" for name in names.split())


NEVER_MET = metaworld("bin-picking box-close hand-insert door-lock door-unlock")
WORST = metaworld("pick-out-of-hole stick-pull shelf-place")
"""What the base does worst of all that it has met, on development seeds."""
NEW = NEVER_MET + WORST
REST = (
    *metaworld(
        "button-press button-press-topdown coffee-button coffee-pull dial-turn door-open door-close drawer-open "
        "drawer-close faucet-open faucet-close hammer handle-press lever-pull pick-place plate-slide push reach "
        "sweep-into window-close"
    ),
    "go1/velocity",
    "drone/hover",
    "rover/pillar",
)
WATCHED = (*metaworld("drawer-open pick-place push coffee-pull lever-pull reach"), "drone/hover")
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
CHOOSING, EPISODES, OF_REST = 3, 20, 4


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
        if (run / "training").is_dir():
            return train(recipe_of_run(run), run, resume=True)
        shutil.rmtree(run, ignore_errors=True)
        homes = {task: "data/held-out/metaworld" if task in NEVER_MET else "data/metaworld" for task in tasks}
        recipe = recipe_for(
            BASE, sorted(set(homes.values())), "full", DEMONSTRATIONS, held_out=0.0,
            learning_rate=LEARNING_RATE[way], keep=KEPT if way == "keep" else (),
        )  # fmt: skip
        # The data sets hold other tasks, too. What the base never met stays out; the rest is kept, or stays out.
        weights = {task: OLD / len(tasks) for task in tasks}
        weights |= {task: 0.0 for task in (NEVER_MET if way == "keep" else ("*",)) if task not in tasks}
        return train(with_steps(dataclasses.replace(recipe, task_weights=weights), STEPS), run)

    def played(self, name: str, driver: Path | str, tasks: Sequence[str]) -> dict[str, list[int]]:
        """Outcomes of each of the tasks, and of the rest."""

        def play() -> dict[str, list[int]]:
            found: dict[str, list[int]] = {}
            for names, episodes in ((tasks, EPISODES), ([t for t in REST if t not in tasks], OF_REST)):
                for task, score in evaluate(str(driver), names, episodes, SEED).tasks.items():
                    found[task] = [int(outcome) for outcome in score.outcomes]
            return found

        return self._cell(name, play)

    def merged(
        self, name: str, merge: Callable[[float], Policy], tasks: Sequence[str], unwanted: Sequence[str] = ()
    ) -> tuple[float, dict[str, list[int]]]:
        """The coefficient that is chosen, and outcomes with it."""
        watched = [*tasks, *(task for task in WATCHED if task not in tasks)]
        chosen = self._cell(
            f"{name}-coefficient",
            lambda: choose_coefficient(merge, COEFFICIENTS, watched, unwanted, CHOOSING, DEVELOPMENT)[0],
        )
        if not (self.out / name / "config.json").is_file():
            checkpoint.save(merge(chosen), self.out / name)
        return chosen, self.played(name, self.out / name, tasks)


def called(tasks: Sequence[str]) -> str:
    return "+".join(task.split("/")[1].removesuffix("-v3") for task in tasks)


def gain_of(base: Sequence[list[int]], tuned: Sequence[list[int]], merged: Sequence[list[int]]) -> list[float]:
    """``sum(merged - base) / sum(tuned - base)`` with its 95 % percentile bootstrap interval, episodes drawn within
    every task, those of one seed together."""
    rng = np.random.default_rng(0)
    above, below = [], []
    for outcomes in zip(base, tuned, merged, strict=True):
        first, best, found = (np.array(values, float) for values in outcomes)
        drawn = np.vstack([np.arange(len(first)), rng.integers(len(first), size=(10_000, len(first)))])
        above.append((found - first)[drawn].mean(1))
        below.append((best - first)[drawn].mean(1))
    ratios = np.sum(above, 0) / np.maximum(np.sum(below, 0), 1e-9)
    return [float(ratios[0]), *(float(limit) for limit in np.quantile(ratios[1:], [0.025, 0.975]))]


def lost(base: dict[str, list[int]], merged: dict[str, list[int]], tasks: Sequence[str]) -> list[float]:
    """``base - merged`` over all episodes of tasks, with a paired interval."""
    pairs = [
        (bool(first), bool(second)) for task in tasks for first, second in zip(base[task], merged[task], strict=False)
    ]
    return list(paired_difference([first for first, _ in pairs], [second for _, second in pairs]))


def row(
    base: dict[str, list[int]],
    tuned: dict[str, dict[str, list[int]]],
    merged: Sequence[tuple[tuple[str, ...], float, dict[str, list[int]]]],
) -> dict[str, Any]:
    """All merges of the same number of fine-tunes.

    Args:
        base: its outcomes.
        tuned: those of the fine-tune of each task.
        merged: tasks, coefficient and outcomes of each merge.
    """
    each = [(task, found) for tasks, _, found in merged for task in tasks]
    rest_base = {f"{number} {task}": base[task] for number in range(len(merged)) for task in REST}
    rest = {f"{number} {task}": found[task] for number, (_, _, found) in enumerate(merged) for task in REST}
    single = [gain_of(*([o[t] for t in tasks] for o in (base, {t: tuned[t][t] for t in tasks}, found)))[0]
              for tasks, _, found in merged]  # fmt: skip
    return {
        "fine_tunes": len(merged[0][0]),
        "merges": len(merged),
        "coefficients": [coefficient for _, coefficient, _ in merged],
        "base": float(np.mean([np.mean(base[task]) for task, _ in each])),
        "tuned": float(np.mean([np.mean(tuned[task][task]) for task, _ in each])),
        "merged": float(np.mean([np.mean(found[task]) for task, found in each])),
        "gain": gain_of([base[t] for t, _ in each], [tuned[t][t] for t, _ in each], [found[t] for t, found in each]),
        "gains": single,
        "tasks": {called(tasks): {task: float(np.mean(found[task])) for task in tasks} for tasks, _, found in merged},
        "lost": lost(rest_base, rest, list(rest)),
        "lost_on_other_bodies": lost(rest_base, rest, [name for name in rest if "metaworld/" not in name]),
    }


def main(out: Path = Path("runs/merging")) -> None:
    """All merges.

    Args:
        out: folder of the runs and of what was played; what is there is used.
    """
    torch.set_num_threads(1)
    cells = Cells(out)
    base = cells.played("base", BASE, NEW)
    larger = (NEVER_MET[:4], (NEVER_MET[4], *WORST), NEW)
    groups: dict[Way, list[tuple[str, ...]]] = {
        "keep": [*itertools.combinations(NEVER_MET, 2), *larger],
        "plain": [*zip(NEVER_MET, NEVER_MET[1:] + NEVER_MET[:1], strict=True), *larger],
    }
    rows: dict[str, list[dict[str, Any]]] = {}
    for way, all_tasks in groups.items():
        paths = {task: cells.fine_tune((task,), way) for task in NEW}
        tuned = {task: cells.played(f"{way}-{called((task,))}-alone", paths[task], (task,)) for task in NEW}
        rows[way] = [row(base, tuned, [((task,), 1.0, tuned[task]) for task in NEW])]
        for size in (2, 4, 8):
            found = []
            for tasks in (group for group in all_tasks if len(group) == size):
                merge = partial(add, BASE, [paths[task] for task in tasks])
                found.append((tasks, *cells.merged(f"{way}-{size}-{called(tasks)}", merge, tasks)))
            rows[way].append(row(base, tuned, found))
        if way == "keep":
            together = cells.played("joint", cells.fine_tune(NEW, way), NEW)
            joint = row(base, tuned, [(NEW, 1.0, together)])
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
                "lost": lost(before, after, [task]),
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


if __name__ == "__main__":
    tyro.cli(main)

"""Do bodies that the shipped weights never met gain from them? Each learns from a few demonstrations for equal minutes,
from the weights and from nothing, and plays the same unseen worlds. Beside that stands what the weights do of
themselves with a body whose channels are called as those of one that they know (polysoma.policy.kin).

    python benchmarks/newcomer.py
    python benchmarks/newcomer.py --bodies drawn-arm go2 --demonstrations 5 --seeds 1

From the base is LoRA, from nothing `--method small`: one of them is what `finetune` does by itself, and the table says
which. With cameras that the base does not know, LoRA has eyes of the body's own. Every cell is written as soon as it is
there, and one that is there is not measured again. PushT needs ``pip install gym-pusht``. Leave the core alone
meanwhile: how many steps fit into the minutes is rehearsed.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["LP_NUM_THREADS"] = "1"  # Before anything computes or draws.

import shutil
from pathlib import Path
from typing import Any

import torch
import tyro

from own_robot import FIRST_WORLD, HERE, demonstrations_of, played, total
from polysoma.errors import PolysomaError
from polysoma.evaluation.intervals import paired_difference
from polysoma.learning.finetuning import recipe_for, within
from polysoma.learning.preparation import prepare
from polysoma.learning.run_state import learnt
from polysoma.learning.training import train
from polysoma.nn.precision import chosen, instruction_set
from polysoma.policy.checkpoint import config_of, save
from polysoma.policy.kin import begun_as
from polysoma.simulators import embodiments, match_tasks
from polysoma.task import body_of
from results import cells_of, commit, difference, read, write

BASE, NOTHING, AS_IS = "the base", "nothing", "the base, which learns nothing"
STARTS = (NOTHING, BASE, AS_IS)
BODIES = {
    "go2": "go2/*",
    "drawn-arm": "drawn-arm/mark",
    "drawn-legs": "drawn-legs/*",
    "drone-large": "drone-large/*",
    "two-blocks": "two-blocks/red-or-blue",
    "pusht": "pusht/push",
    "so101-small": "so101-small/*",
    "rover-pixels": "rover-pixels/*",
    "drone-pixels": "drone-pixels/*",
}
"""Their tasks, which one policy learns."""
WORLDS = ("two_blocks.py", "drawn_arm.py", "drawn_legs.py", "push_t.py")


def main(
    bodies: tuple[str, ...] = tuple(BODIES),
    demonstrations: tuple[int, ...] = (5, 20, 50),
    minutes: float = 10.0,
    seeds: int = 3,
    worlds: int = 32,
    work: Path = Path("runs/newcomer"),
    name: str = "newcomer",
) -> None:
    """Measures the cells that are missing.

    Args:
        bodies: which of those in BODIES.
        demonstrations: of each task.
        minutes: of one core, for each training.
        seeds: of trainings, each with demonstrations of its own.
        worlds: unseen ones of each task.
        work: a folder for demonstrations and runs.
        name: of the results.
    """
    if unknown := sorted({*bodies} - {*BODIES}):
        raise PolysomaError(f"bodies: expected some of {list(BODIES)}, got {unknown}")
    torch.set_num_threads(1)
    os.environ["POLYSOMA_FAMILIES"] = os.pathsep.join(str(HERE / "worlds" / world) for world in WORLDS)
    cells = cells_of(name)
    for seed in range(seeds):
        for count in demonstrations:
            for body in bodies:
                for start in STARTS:
                    key = f"{body} from {start}, {count} demonstrations, {minutes:g} minutes, seed {seed}"
                    if key in cells:
                        continue
                    if start == AS_IS and not _has_kin(body):
                        continue
                    cell = {"body": body, "start": start, "demonstrations": count, "minutes": minutes, "seed": seed}
                    cells[key] = cell | _learnt(body, start, count, minutes, seed, worlds, work)
                    print(f"{key}: {total([cells[key]])}", flush=True)
                    write(name, {"first_world": FIRST_WORLD, "worlds": worlds, "cells": cells})
    write(name, {"first_world": FIRST_WORLD, "worlds": worlds, "cells": cells})


def _has_kin(body: str) -> bool:
    (task, *_) = match_tasks(BODIES[body])
    return bool(begun_as([embodiments()[body_of(task)]], config_of("generalist"))[body])


def _learnt(body: str, start: str, count: int, minutes: float, seed: int, worlds: int, work: Path) -> dict[str, Any]:
    # As many demonstrations as the largest number asks for are recorded once: fewer are the first ones.
    data = demonstrations_of(BODIES[body], count, seed, work)
    usual = recipe_for("generalist", [str(data)], None, count, seed=seed)
    by_default = BASE if usual.init else NOTHING
    recipe = usual
    if start != by_default:
        method = "small" if start == NOTHING else "lora"
        recipe = recipe_for("generalist", [str(data)], method, count, seed=seed)  # type: ignore[arg-type]
    run = work / "runs" / f"{body}-{start.replace(' ', '-')}-{count}-{minutes:g}-{seed}"
    shutil.rmtree(run, ignore_errors=True)
    if start == AS_IS:
        folder, steps = run / "checkpoint", 0
        save(prepare(recipe)[1], folder)
    else:
        folder = train(within(recipe, 60 * minutes)[0], run)
        steps = learnt(run)[0]
    return {
        "default": start == by_default,
        "steps": steps,
        "played": played(str(folder), BODIES[body], worlds),
        "commit": commit(),
        "precision": chosen("cpu"),
        "instruction_set": instruction_set(),
    }


def render(name: str = "newcomer") -> str:
    """Success from nothing and from the base, and what the base adds on the same seeds."""
    found = read(name)
    groups: dict[tuple[str, int, float], dict[str, dict[int, dict[str, Any]]]] = {}
    for cell in found["cells"].values():
        kind = (cell["body"], cell["demonstrations"], cell["minutes"])
        groups.setdefault(kind, {start: {} for start in STARTS})[cell["start"]][cell["seed"]] = cell
    first_row = ("body", "demonstrations, minutes, trainings", *(f"from {start}" for start in (NOTHING, BASE)))
    rows = [(*first_row, "the base adds", "as it is", "default"), ("---",) * 7]
    for (body, count, minutes), by_start in groups.items():
        own = {start: list(cells.values()) for start, cells in by_start.items()}
        both = sorted(by_start[NOTHING].keys() & by_start[BASE].keys())
        outcomes = {
            start: [bool(won) for seed in both for row in cells[seed]["played"].values() for won in row["outcomes"]]
            for start, cells in by_start.items()
            if start != AS_IS
        }
        added = difference(paired_difference(outcomes[BASE], outcomes[NOTHING])) if both else ""
        default = next((start for start, cells in own.items() if any(cell["default"] for cell in cells)), "")
        first, second, as_it_is = (total(own[start]) if own[start] else "" for start in STARTS)
        rows.append((body, f"{count}, {minutes:g}, {len(both)}", first, second, added, as_it_is, default))
    return "\n".join(
        [
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"Bodies that the shipped weights never met: {found['worlds']} unseen worlds of each task and training, "
            f"from seed {found['first_world']:,} on; 95 % intervals, what the base adds in pairs; as it is: the "
            "weights, which learnt nothing but means and spreads of these demonstrations; default is what `finetune` "
            f"does by itself (`{found['command']}`).",
            "",
        ]
    )


def render_line(name: str = "newcomer", count: int = 5) -> str:
    """What bodies that are like one that the weights know gain from the fewest demonstrations, in a sentence."""
    cells = [cell for cell in read(name)["cells"].values() if cell["demonstrations"] == count]
    said = []
    for body in dict.fromkeys(cell["body"] for cell in cells):
        base, nothing = (total([c for c in cells if c["body"] == body and c["start"] == at]) for at in (BASE, NOTHING))
        said.append(f"{body} {base} of episodes, a network from nothing {nothing}")
    return (
        f"From {count} demonstrations of each task, `polysoma finetune` brings quadrupeds that the weights never met, "
        f"in {cells[0]['minutes']:g} minutes of one core, to: {'; '.join(said)} "
        "([how, and who gains nothing](docs/finetuning.md#a-body-that-begins-as-another)).\n"
    )


if __name__ == "__main__":
    tyro.cli(main)

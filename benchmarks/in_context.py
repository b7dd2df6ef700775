"""Learning in context: success of unseen members of a family against how many episodes are shown, and of whom.

    python benchmarks/in_context.py

Records examples/panel.py, trains recipes/panel.toml (about a quarter of an hour on one core), and plays members that
training never met with 0, 1, 4, 16 and 64 episodes in view: of the expert, of the policy itself (its own successes
without any context, found by trying), and of the expert without what was done. Killed, it continues.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["POLYSOMA_FAMILIES"] = str(Path(__file__).parents[1] / "examples" / "panel.py")

import numpy as np
import torch
import tyro

from polysoma.data.dataset import Dataset
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import mean_interval
from polysoma.learning.imitation import recipe_of_run, train
from polysoma.learning.recipe import read_recipe
from polysoma.recording import record
from polysoma.rollout import Behaviour, Context
from results import write

RECIPE = Path(__file__).parents[1] / "recipes" / "panel.toml"
KNOWN, UNSEEN = range(2048), range(2048, 2112)
DATA = Path("data/in-context")
SEED, TRIES_SEED, SHOWN_SEED = 9500, 700_000, 5000


def names(members: range) -> list[str]:
    return [f"panel/{number:04}" for number in members]


def trained(run: Path) -> str:
    if (run / "training").is_dir():
        return str(train(recipe_of_run(run), run, resume=True))
    if not (run / "checkpoint").is_dir():
        train(read_recipe(RECIPE), run)
    return str(run / "checkpoint")


def main(
    run: Path = Path("runs/panel"),
    shots: tuple[int, ...] = (0, 1, 4, 16, 64),
    episodes: int = 20,
    tries: int = 256,
    workers: int = 1,
) -> None:
    """All curves.

    Args:
        run: folder of the training.
        shots: episodes that are shown.
        episodes: that are played of each member.
        tries: without context, of each member, from which the policy's own successes come.
        workers: processes.
    """
    torch.set_num_threads(1)
    record(names(KNOWN), 32, DATA, Behaviour(noise=None), workers=workers)
    record(names(UNSEEN), max(shots), DATA / "unseen", Behaviour(noise=None), workers=workers, seed=SHOWN_SEED)
    checkpoint = trained(run)
    own = DATA / "own"
    record(names(UNSEEN), tries, own, Behaviour(checkpoint, label=True), workers=workers, seed=TRIES_SEED)
    found = Dataset(own / "panel")
    won = np.bincount(found.episode_task, weights=found.episode_success, minlength=len(found.tasks))
    kinds = {
        "expert": (DATA / "unseen" / "panel", False),
        "self": (own / "panel", False),
        "observations": (DATA / "unseen" / "panel", True),
    }
    rows: list[dict[str, Any]] = []
    for kind, (folder, silent) in kinds.items():
        for count in shots:
            if count == 0 and rows:
                continue
            context = Context(str(folder), count, silent)
            result = evaluate(checkpoint, names(UNSEEN), episodes, SEED, workers, lanes=128, context=context)
            # Members are the units: episodes of one member share what was shown.
            rates = [score.rate for score in result.tasks.values()]
            rows.append(
                {"context": kind, "shots": count, "rate": float(np.mean(rates)), "interval": mean_interval(rates)}
            )
            print(rows[-1], flush=True)
    zero = rows[0]["rate"]
    gain = {row["context"]: row["rate"] - zero for row in rows if row["shots"] == 16}
    expert = evaluate("expert", names(UNSEEN)[:8], episodes, SEED).families()["panel"].rate
    settings = {"episodes": episodes, "members": len(UNSEEN), "seed": SEED, "tries": tries}
    write(
        "in-context",
        {
            "settings": settings,
            "rows": rows,
            "gain_of_16": gain,
            "self_over_expert": gain["self"] / gain["expert"] if gain["expert"] else None,
            "own_successes_of_tries": {"mean": float(won.mean()), "least": int(won.min())},
            "expert_itself": expert,
        },
    )


if __name__ == "__main__":
    tyro.cli(main)

"""``polysoma train``: a recipe to a policy."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from polysoma.cli.names import Device, Precision
from polysoma.cli.progress import counting, counting_run
from polysoma.config import within
from polysoma.errors import PolysomaError
from polysoma.learning.metrics import Tracker

if TYPE_CHECKING:
    from polysoma.learning.recipe import Recipe


@dataclass(frozen=True)
class Train:
    """Trains one policy on the bodies that a recipe names. A killed run continues with --resume, to the same bits.

    A recipe with data learns from them. One whose method.kind is "interactive" names tasks and minutes instead: it
    records demonstrations, learns, plays, and spends each next round where success is lowest; OUT/rounds.md says where.

    Examples:
        polysoma train recipes/laptop.toml --out runs/laptop
        polysoma train recipes/laptop.toml --out runs/maze minutes=10 'method.tasks=["pointmaze/*"]' bodies={}
        polysoma train recipes/generalist.toml --out runs/generalist --resume
        polysoma train recipes/held-out.toml --out runs/x steps=500 bodies.metaworld.batch=32
        OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m polysoma train recipes/held-out.toml --out runs/x
    """

    recipe: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RECIPE")]
    """A TOML file."""
    overrides: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[KEY=VALUE ...]")] = ()
    """key=value pairs that override the recipe."""
    out: Path = Path("runs/run")
    """Folder of the run: checkpoint, metrics, state to resume from."""
    device: Device = "auto"
    precision: Precision = "auto"
    resume: bool = False
    """Continue the run in --out."""
    until: Annotated[int, within(1, 10**9)] | None = None
    """Stop after this step with everything saved, e.g. to record with the policy so far; --resume goes on."""
    tracker: Tracker | None = None
    """Where metrics go beside metrics.jsonl, whatever the recipe says."""
    skip_damaged: bool = False
    """Leave out episodes of which a file is missing or cannot be read, with a line for each."""

    def run(self) -> None:
        check_training_installed()
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.methods.interactive import Interactive
        from polysoma.learning.recipe import read_recipe
        from polysoma.learning.training import train

        learn_on(self.device)
        chosen = {"tracker": self.tracker, "precision": None if self.precision == "auto" else self.precision}
        overrides = [f"{key}={value}" for key, value in chosen.items() if value is not None]
        overrides += ["skip_damaged=true"] * self.skip_damaged
        recipe = read_recipe(self.recipe, (*self.overrides, *overrides))
        if isinstance(recipe.method, Interactive):
            self._in_rounds(recipe)
            return
        with counting_run("training", recipe, self.out) as progress:
            folder = train(recipe, self.out, self.resume, self.until, progress, quick_evaluation)
        if os.environ.get("RANK", "0") == "0":
            print(f"checkpoint: {folder}, {computed_in(folder)}{held_out_loss(self.out)}")

    def _in_rounds(self, recipe: Recipe) -> None:
        from polysoma.learning.round_state import TABLE, last_success
        from polysoma.learning.rounds import train_in_rounds

        if self.until is not None:
            raise PolysomaError("--until stops a training at a step, and this recipe's has rounds: leave it out")
        with counting("training") as show:
            state = train_in_rounds(recipe, self.out, self.resume, show)
        folder = self.out / "checkpoint"
        print(f"checkpoint: {folder}, {computed_in(folder)}; what was spent where and why: {self.out / TABLE}")
        for body, (rate, trials) in last_success(state).items():
            print(f"  {body}: {rate:.2f} of {trials} attempts on development seeds")


def held_out_loss(out: Path) -> str:
    """What a run's checkpoint loses on what is held out, to be put behind other words; empty where nothing is."""
    from polysoma.learning.metrics import best_held_out

    best = best_held_out(out)
    if best is None:
        return ""
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in best[1].items())
    return f"; held-out loss at step {best[0]:,}, the best: {losses}"


def computed_in(folder: Path) -> str:
    """In what precision a checkpoint was trained, in words."""
    from polysoma.nn.precision import instruction_set
    from polysoma.policy.checkpoint import read_config

    return f"computed in {read_config(folder)['lineage']['precision']} on {instruction_set()}"


def check_run(out: Path, resume: bool, tracker: Tracker | None) -> None:
    """Finds out before a run is planned what would end it at its start.

    Raises:
        PolysomaError: a package that training needs, or the tracker's, is missing; there is no run to resume, one is
            in the way, or another process is writing it.
    """
    check_training_installed()
    from polysoma.learning import run_state, states
    from polysoma.learning.metrics import check_tracker

    if os.environ.get("RANK", "0") == "0":
        states.check_free(out)
    run_state.check_folder(out, resume)
    if not resume and ((out.exists() and not out.is_dir()) or (out / "checkpoint").exists()):
        what = "holds a checkpoint" if out.is_dir() else "is no folder"
        raise PolysomaError(f"--out: {out} {what}: choose another folder")
    if not resume or tracker is not None:
        check_tracker(tracker or "tensorboard")


def check_training_installed() -> None:
    """Raises PolysomaError where a package that training needs is missing."""
    missing = [name for name in ("accelerate",) if importlib.util.find_spec(name) is None]
    if missing:
        raise PolysomaError(
            f"training needs {', '.join(missing)}, not installed here: run `pip install 'polysoma[train]'`"
        )


def quick_evaluation(policy_folder: Path, tasks: tuple[str, ...], episodes: int, seed: int) -> dict[str, float]:
    """The success rate of each task, in this process."""
    from polysoma import simulators
    from polysoma.evaluation.evaluation import evaluate

    result = evaluate(str(policy_folder), simulators.match_tasks(tasks), episodes, seed, workers=1)
    return {task: score.rate for task, score in result.tasks.items()}

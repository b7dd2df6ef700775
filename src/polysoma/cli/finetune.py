"""``polysoma finetune``: a checkpoint learns a body, new or known; ``polysoma lineage``: where it comes from."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from polysoma import simulators
from polysoma.cli.names import Device, OptionalCheckpoint, Precision
from polysoma.cli.options import check_alone, check_as_begun, given, keep
from polysoma.cli.output import say, show
from polysoma.cli.progress import counting_run
from polysoma.cli.train import check_run, computed_in, held_out_loss, quick_evaluation
from polysoma.config import within
from polysoma.errors import PolysomaError
from polysoma.learning.metrics import Tracker
from polysoma.policy.methods import FinetuningMethod, OptimizerKind

if TYPE_CHECKING:
    from polysoma.learning.recipe import Recipe

_CHECKED = 256
"""Frames that a fine-tuned policy is asked at afterwards: some seconds."""
_FEW_STEPS = 200
"""Fewer steps than these taught new cameras nothing in trials."""
_INNER = ("checkpoint", "data", "out", "demos", "skip_damaged", "seed", "device", "precision", "check", "inner")
"""Options that say something where the start of a meta-learning says the rest."""
_RESUMED = ("out", "resume", "tracker", "skip_damaged", "device", "precision", "check")
"""Options that a resumed run heeds."""


@dataclass(frozen=True)
class Finetune:
    """Fine-tunes a checkpoint on demonstrations of a body, known or new. The checkpoint itself is never changed.

    Says first what it will cost: time, memory, the size of what is stored. A body that is like none that the checkpoint
    knows gets a small network of its own; all other methods but full store a small file beside the base, which
    computes the same bits as ever. Killed, it continues with --resume.

    Examples:
        polysoma finetune generalist --data recordings/so101 --out runs/so101
        polysoma finetune generalist --data data/fetch --method full --demos 20 --minutes 5 --out runs/fetch
        polysoma finetune generalist --data recordings/lock --keep data/metaworld --method full --out runs/lock
        polysoma finetune runs/so101/checkpoint --data recordings/second-week --out runs/so101-2
        polysoma finetune runs/meta/checkpoint --data recordings/my-task --inner --out runs/my-task
    """

    checkpoint: OptionalCheckpoint = "generalist"
    """A checkpoint folder, hf://user/name, or generalist for the shipped weights; an adaptation is continued."""
    data: tuple[str, ...] = ()
    """Data sets of any known format."""
    keep: tuple[str, ...] = ()
    """Data sets of what is not to be forgotten: half of what is learnt from comes from these. For --method full, and
    before merging."""
    method: FinetuningMethod | None = None
    """full: all weights; lora: low-rank matrices in the trunk; adapter: bottlenecks in the trunk; head: what the body
    has of its own alone (which weights learn; of what kind its head is, --head says); prompt: tokens before the words;
    small: a small network of the body's own, from nothing. By default lora for bodies that the checkpoint knows, or
    that begin as one that it knows, as their channels are called alike; small for others; full for a checkpoint of
    these bodies alone; and that of an adaptation to be continued."""
    out: Path = Path("runs/finetuned")
    """Folder of the run; out/checkpoint is what comes of it."""
    minutes: Annotated[float, within(0, 10**6, above=True)] = 10.0
    """Of training, on this machine, by the clock: how many steps they are is known afterwards."""
    steps: Annotated[int, within(1, 10**9)] | None = None
    """Of training, instead of --minutes: the same number gives the same bits again."""
    demos: int = 0
    """Demonstrations of each task that are used; 0 for all."""
    held_out: float | None = None
    """Fraction of them that is not learnt from, to find the best checkpoint; 0 learns from all and takes the last one.
    By default 0.1 from 50 demonstrations on, of each body, or with --patience, and otherwise 0."""
    patience: Annotated[int, within(0, 10**9)] = 0
    """Stop after so many checkpoints (of eight) that were no better on what is held out; 0 goes to the end."""
    chunk: int | None = None
    """Actions that the policy predicts at once; by default as the checkpoint has it, or 0.4 s of a new body's."""
    history: int | None = None
    """Observations that the policy sees, the present one included; by default as the checkpoint has it, or 1."""
    previous_action: bool | None = None
    """Whether the policy sees the action that was executed last; by default as the checkpoint has it, and of new bodies
    those that sense none of the channels that they are commanded by."""
    eyes: Literal["auto", "named", "points"] = "auto"
    """Of a body with new cameras. named: where the things are that the instructions name, found by a network that knows
    colours and shapes, and nothing else of the pictures; for few demonstrations. points: learnt from the demonstrations
    alone. auto: those of the checkpoint for a body that begins as one that it knows; for others named where that
    network sees what is named at the beginning of most episodes."""
    head: Literal["l1", "bins", "flow"] | None = None
    """How --method small predicts real-valued actions: l1 by default, the median; bins and flow choose one of several
    that are right, where a median may be none of them (docs/training.md, Heads). Not to be confused with --method head,
    which says what learns."""
    rank: int = 8
    """Of lora's matrices; width of adapter's bottlenecks."""
    tokens: int = 8
    """Of the prompt."""
    learning_rate: float | None = None
    """The peak; by default what suits the method."""
    optimizer: OptimizerKind = "adamw"
    """schedule-free: AdamW without a schedule, whose average of weights is good at any step."""
    tracker: Tracker | None = None
    """Where metrics go beside metrics.jsonl: tensorboard by default."""
    skip_damaged: bool = False
    """Leave out episodes of which a file is missing or cannot be read, with a line for each."""
    tasks: str = ""
    """Play these tasks at every checkpoint (of bodies that have a simulator here), comma-separated."""
    paraphrases: str = ""
    """A TOML file of other words for instructions (see docs/training.md), or shipped: half of what is said is said in
    these."""
    seed: int = 0
    """Of all that is drawn at random."""
    device: Device = "auto"
    precision: Precision = "auto"
    resume: bool = False
    """Continue the run in --out."""
    check: bool = True
    """Compare what comes of it with the demonstrations that are held out, or with all where none are, and warn of
    cameras and words that do not count."""
    inner: bool = False
    """Of a start from `polysoma meta`: take the few gradient steps that it was made for, and no more. Takes seconds."""

    @property
    def resumable(self) -> bool:
        """See :func:`~polysoma.cli.options.can_resume`."""
        return not self.inner

    def run(self) -> None:
        check_run(self.out, self.resume, "none" if self.inner else self.tracker)
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.finetuning import few_steps, few_steps_recipe
        from polysoma.learning.training import recipe_of_run, train

        learn_on(self.device)
        if self.inner:
            others = (field.name for field in dataclasses.fields(self) if field.name not in _INNER)
            if strange := given(self, others):
                raise PolysomaError(f"--inner: the start says which steps are taken; leave out {strange}")
            self._check_data()
            recipe = few_steps_recipe(self.checkpoint, self.data, self.demos, self.seed, self.skip_damaged)
            recipe = dataclasses.replace(recipe, precision=self.precision)
            self._done(few_steps(recipe, self.out))
            return
        if self.resume:
            check_as_begun(self, self.out, *_RESUMED)
            recipe = recipe_of_run(self.out, self.precision)
            recipe = dataclasses.replace(recipe, skip_damaged=recipe.skip_damaged or self.skip_damaged)
        else:
            recipe = self._plan()
            keep(self, self.out)
        if self.tracker is not None:
            recipe = dataclasses.replace(recipe, tracker=self.tracker)
        with counting_run("training", recipe, self.out) as progress:
            folder = train(recipe, self.out, self.resume, None, progress, quick_evaluation)
        self._done(folder)
        if self.check and os.environ.get("RANK", "0") == "0":
            self._check(folder, recipe)

    def _check(self, folder: Path, recipe: Recipe) -> None:
        """Says how far demonstrations are met, and what the policy does not look at or listen to."""
        from polysoma.cli.open_loop import measure, print_errors
        from polysoma.evaluation.recorded import recorded

        for one in recorded(str(folder), recipe.data, None, recipe.precision, recipe.skip_damaged, self.device):
            print_errors(measure(one, _CHECKED, permutations=1), one.which, whole=False)
        if not recipe.held_out:
            say("errors in what it did not learn from are larger: --held-out 0.1 measures them")
        say(f"more: polysoma evaluate {folder} {' '.join(f'--data {path}' for path in recipe.data[:1])} --report out/")

    def _done(self, folder: Path) -> None:
        if os.environ.get("RANK", "0") == "0":
            size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
            say(
                f"checkpoint: {folder} ({size:.1f} MB, {computed_in(folder)}){held_out_loss(self.out)}; "
                "use it wherever a checkpoint is asked for"
            )

    def _check_data(self) -> None:
        if not self.data:
            raise PolysomaError("--data: expected one or more data sets to learn from, got none")

    def _plan(self) -> Recipe:
        self._check_data()
        check_alone(self, "steps", "minutes")
        if self.method in ("full", "small") and (strange := given(self, ("rank", "tokens"))):
            raise PolysomaError(
                f"{strange}: sizes of what is added to a base, of which --method {self.method} has none"
            )
        from polysoma.learning.finetuning import in_time, recipe_for, steps_in, with_steps
        from polysoma.learning.recipe import Evaluation
        from polysoma.learning.training import rehearse
        from polysoma.nn.heads import HeadConfig

        # Patience waits for a lower loss on what is held out.
        held_out = 0.1 if self.patience and self.held_out is None else self.held_out
        recipe = recipe_for(
            self.checkpoint, self.data, self.method, self.demos, held_out, self.rank, self.tokens,
            self.learning_rate, self.seed, self.keep, self.chunk, self.history, self.previous_action, self.optimizer,
            self.skip_damaged, self.eyes, None if self.head is None else HeadConfig(self.head),
        )  # fmt: skip
        recipe = dataclasses.replace(recipe, paraphrases=self.paraphrases, precision=self.precision)
        if self.tasks:
            tasks = tuple(simulators.match_tasks(self.tasks, list(recipe.bodies)))
            recipe = dataclasses.replace(recipe, evaluation=Evaluation(tasks, episodes=10))
        cost = rehearse(with_steps(recipe, 10))
        about, steps = ("", self.steps) if self.steps else ("about ", steps_in(60 * self.minutes, cost))
        say(
            f"{_named(recipe, self.checkpoint)} for {', '.join(recipe.bodies)}: {about}{steps:,} steps of "
            f"{cost.seconds:.2f} s, {steps * cost.seconds / 60:.1f} minutes; {cost.memory / 1e9:.1f} GB of memory, "
            f"{cost.stored / 1e6:.1f} MB stored"
        )
        for name, kin in cost.kin.items():
            say(f"{name} begins as {kin}, whose channels are called alike")
        if recipe.images is not None:
            say(f"pictures: {_EYES[recipe.images.reduction]}")
        say(f"parameters that learn: {_counted(cost.learning)}; that stay as they are: {_counted(cost.frozen)}")
        if about and steps < _FEW_STEPS:
            needed = math.ceil(_FEW_STEPS / steps * self.minutes)
            show((f"warning: {steps:,} steps are few to learn from; {_FEW_STEPS} take --minutes {needed}", "yellow"))
        planned = with_steps(recipe, steps) if self.steps else in_time(recipe, 60 * self.minutes, cost)
        return dataclasses.replace(planned, patience=self.patience)


_EYES = {
    "named": "where the things are that the instructions name, which a network finds that knows colours and shapes",
    "points": "points that are learnt from these demonstrations",
}


def _named(recipe: Recipe, base: str) -> str:
    if not recipe.init:
        return f"a small network from nothing (--method lora uses the trunk of {base})"
    return f"{'full' if recipe.adaptation is None else recipe.adaptation.method} fine-tuning of {base}"


def _counted(parts: Mapping[str, int]) -> str:
    """How many parameters of each part of a policy, in one line."""
    return ", ".join(f"{part} {count:,}" for part, count in parts.items() if count) or "none"


@dataclass(frozen=True)
class Lineage:
    """Says where a checkpoint comes from: every training that led to it, on which data, the last one first.

    Examples:
        polysoma lineage runs/so101-2/checkpoint
    """

    checkpoint: OptionalCheckpoint = "generalist"
    """A checkpoint folder, hf://user/name, or generalist for the shipped weights."""

    def run(self) -> None:
        from polysoma.learning.lineage import tell
        from polysoma.policy.checkpoint import attached, resolve

        for depth, line in enumerate(tell(self.checkpoint)):
            say("  " * depth + line)
        for place in attached(resolve(self.checkpoint)):
            say(f"attached: {tell(place, place.name)[0]}")

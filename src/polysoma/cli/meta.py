"""``polysoma meta``: a checkpoint learns what its adaptations start from."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from polysoma.cli.names import Device, OptionalCheckpoint, Precision
from polysoma.cli.options import check_alone, check_as_begun, keep
from polysoma.cli.output import say
from polysoma.cli.progress import counting_run
from polysoma.cli.train import check_run
from polysoma.config import within
from polysoma.errors import PolysomaError
from polysoma.learning.metrics import Tracker
from polysoma.policy.methods import AdaptationMethod, MetaAlgorithm

if TYPE_CHECKING:
    from polysoma.learning.recipe import Recipe


@dataclass(frozen=True)
class Meta:
    """Learns over many tasks what an adaptation starts from, so that a few gradient steps on demonstrations go far.

    The base is never changed. Says first what it will cost. Killed, it continues with --resume. What comes of it is an
    adaptation: `polysoma finetune RESULT --data ... --inner` takes these steps in seconds; without --inner it goes on.

    Examples:
        polysoma meta generalist --data data/metaworld --out runs/meta
        polysoma finetune runs/meta/checkpoint --data recordings/my-task --inner --out runs/my-task
        polysoma meta runs/held-out/checkpoint --data data/metaworld --algorithm reptile --without \
'metaworld/door-*' --out runs/reptile
    """

    base: OptionalCheckpoint = "generalist"
    """A checkpoint folder, hf://user/name, or generalist for the shipped weights."""
    data: tuple[str, ...] = ()
    """Data sets of many tasks."""
    algorithm: MetaAlgorithm = "maml"
    """maml; fomaml: its first-order approximation; anil: maml whose inner steps are of heads alone; reptile."""
    method: AdaptationMethod = "lora"
    """What the adaptation is, as for finetune."""
    inner_steps: int = 3
    """Gradient steps of an adaptation."""
    inner_rate: float = 0.01
    """About how far such a step moves each tensor, as a fraction of its size."""
    tasks: int = 1
    """How many tasks will be adapted to at once."""
    renamed: float = 0.5
    """Share of adaptations that are practised under instructions of other tasks, so that words do not say it all."""
    without: str = ""
    """Patterns of tasks that are left out, comma-separated."""
    out: Path = Path("runs/meta")
    """Folder of the run; out/checkpoint is what comes of it."""
    minutes: Annotated[float, within(0, 10**6, above=True)] = 10.0
    """Of training, on this machine."""
    steps: Annotated[int, within(1, 10**9)] | None = None
    """Of training, instead of --minutes."""
    rank: int = 8
    """Of lora's matrices; width of adapter's bottlenecks."""
    learning_rate: float | None = None
    """The peak, of the start; by default what suits."""
    tracker: Tracker | None = None
    """Where metrics go beside metrics.jsonl: tensorboard by default."""
    seed: int = 0
    """Of all that is drawn at random."""
    device: Device = "auto"
    precision: Precision = "auto"
    resume: bool = False
    """Continue the run in --out."""

    def run(self) -> None:
        check_run(self.out, self.resume, self.tracker)
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.training import recipe_of_run, train

        learn_on(self.device)
        if self.resume:
            check_as_begun(self, self.out, "out", "resume", "tracker", "device", "precision")
            recipe = recipe_of_run(self.out, self.precision)
        else:
            recipe = self._plan()
            keep(self, self.out)
        if self.tracker is not None:
            recipe = dataclasses.replace(recipe, tracker=self.tracker)
        with counting_run("meta-learning", recipe, self.out, "after the inner steps: ") as progress:
            folder = train(recipe, self.out, self.resume, None, progress)
        if os.environ.get("RANK", "0") == "0":
            say(f"checkpoint: {folder}; adapt it with `polysoma finetune {folder} --data ... --inner`")

    def _plan(self) -> Recipe:
        if not self.data:
            raise PolysomaError("--data: expected one or more data sets of many tasks, got none")
        check_alone(self, "steps", "minutes")
        from polysoma.learning.finetuning import in_time, meta_recipe_for, steps_in, with_steps
        from polysoma.learning.methods.meta import MetaLearning
        from polysoma.learning.training import rehearse

        meta = MetaLearning(self.algorithm, self.inner_steps, self.inner_rate, self.tasks, renamed=self.renamed)
        without = tuple(pattern.strip() for pattern in self.without.split(",")) if self.without else ()
        recipe = meta_recipe_for(
            self.base, self.data, self.method, meta, without, self.rank, self.learning_rate, self.seed
        )
        recipe = dataclasses.replace(recipe, precision=self.precision)
        cost = rehearse(with_steps(recipe, 10))
        about, steps = ("", self.steps) if self.steps else ("about ", steps_in(60 * self.minutes, cost))
        say(
            f"{self.algorithm} for {self.method} beside {self.base}, on {', '.join(recipe.bodies)}: {about}{steps:,} "
            f"steps of {cost.seconds:.2f} s, {steps * cost.seconds / 60:.1f} minutes; "
            f"{sum(cost.learning.values()):,} parameters learn, {cost.memory / 1e9:.1f} GB of memory, "
            f"{cost.stored / 1e6:.1f} MB stored"
        )
        return with_steps(recipe, steps) if self.steps else in_time(recipe, 60 * self.minutes, cost)

"""Engine: takes a method's steps, and knows no method.

It steps the optimiser, averages weights, follows the schedule, writes metrics and checkpoints, resumes exactly, and
works in several processes, sharded or not. ``Engine(method, settings).run(out)`` trains with any
:class:`~polysoma.learning.method.Method`; :func:`polysoma.learning.training.train` makes both of a recipe.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from polysoma.config import KIND, check, within
from polysoma.errors import PolysomaError
from polysoma.learning import distributed, memory, run_state, states
from polysoma.learning.method import Method, Metrics, Share
from polysoma.learning.metrics import Metrics as Written
from polysoma.learning.metrics import Tracker, check_tracker
from polysoma.learning.optimizers import AdamW, ScheduleFree
from polysoma.nn import precision
from polysoma.nn.precision import Wanted
from polysoma.policy import checkpoint
from polysoma.policy.policy import Policy
from polysoma.policy.small import SmallPolicy

if TYPE_CHECKING:
    import accelerate

_log = logging.getLogger(__name__)

Sharding = Literal["none", "full"]

UNBOUNDED = 10**9
"""Steps of a run that a clock ends."""

Progress = Callable[[int, Metrics], None]
"""Called after every step with the steps done and the losses, by what they are of."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the engine needs to know.

    Attributes:
        steps: optimiser steps in all.
        minutes: of training after which it stops, whatever the step; 0 for never. What the learning rate does in
            ``steps``, it does in this time then. Quick evaluations do not count.
        optimizer: see :mod:`polysoma.learning.optimizers`.
        grad_clip: the norm that gradients are scaled down to.
        patience: checkpoints without a lower loss on what is held out after which training stops; 0 for never.
        sharding: ``"none"``: every process holds all parameters; ``"full"``: each holds a part of the trunk's
            (:mod:`polysoma.learning.distributed`).
        precision: what products are computed in, ``"float32"``, ``"bfloat16"``, or ``"auto"`` for what suits the
            processor (:mod:`polysoma.nn.precision`). A resumed run keeps its own.
        tracker: where metrics go beside ``metrics.jsonl``, see :data:`polysoma.learning.metrics.Tracker`.
        checkpoint_every: steps between checkpoints that resume.
        checkpoint_minutes: minutes of training between them, instead of ``checkpoint_every``; 0 counts steps.
        log_every: steps between lines of metrics.
    """

    steps: Annotated[int, within(1, UNBOUNDED)] = 1000
    minutes: Annotated[float, within(0, 10**6)] = 0.0
    optimizer: Annotated[AdamW | ScheduleFree, KIND] = AdamW()  # noqa: RUF009  (frozen)
    grad_clip: Annotated[float, within(0, 10**9, above=True)] = 1.0
    patience: Annotated[int, within(0, 10**9)] = 0
    sharding: Sharding = "none"
    precision: Wanted = "auto"
    tracker: Tracker = "tensorboard"
    checkpoint_every: Annotated[int, within(1, 10**9)] = 500
    checkpoint_minutes: Annotated[float, within(0, 10**6)] = 0.0
    log_every: Annotated[int, within(1, 10**9)] = 20

    def __post_init__(self) -> None:
        check(self)


class Best(NamedTuple):
    """The checkpoint to keep: its step, its loss on what is held out, and how many checkpoints came after it."""

    step: int = 0
    loss: float = math.inf
    waited: int = 0

    def after(self, step: int, loss: float) -> Best:
        """The best one once another is known."""
        return Best(step, loss) if loss < self.loss else self._replace(waited=self.waited + 1)


class Engine:
    """Trains by a method.

    Args:
        method: what is learnt from what. Its modules are moved to the device, and sharded where that is asked for.
        settings: see :class:`Settings`; a recipe is one.
        accelerator: of this process; None makes one.

    Attributes:
        method, settings, accelerator: as given.
        policy: the method's module of that name.

    Raises:
        PolysomaError: the method has no policy, nothing learns, or sharding of an adaptation.
    """

    def __init__(self, method: Method, settings: Settings, accelerator: accelerate.Accelerator | None = None) -> None:
        memory.keep_freed_memory()
        self.method, self.settings = method, settings
        self.accelerator = accelerator or distributed.accelerator_here()
        policy = dict(method.modules.items()).get("policy")
        if not isinstance(policy, Policy | SmallPolicy):
            raise PolysomaError(
                f"a method's modules hold the policy as 'policy', got {type(policy).__name__} among "
                f"{list(method.modules)}"
            )
        self.policy = policy
        method.modules.to(self.accelerator.device)
        self._compute_in(settings.precision)
        if settings.sharding == "full":
            if not isinstance(policy, Policy):
                raise PolysomaError("sharding: expected none for what is not a transformer policy and small, got full")
            distributed.shard(policy, self.accelerator)
        groups = method.parameter_groups()
        learning = {id(parameter) for group in groups for parameter in group.parameters}
        names = {
            id(parameter): name for name, parameter in method.modules.named_parameters() if id(parameter) in learning
        }
        if not names or learning - names.keys():
            raise PolysomaError("a method's parameter groups hold parameters of its modules, at least one; got others")
        self._learning = [parameter for parameter in method.modules.parameters() if id(parameter) in learning]
        averaged, tensors = {name.partition(".")[0] for name in names.values()} | {"policy"}, self._tensors()
        moving = {name: value for name, value in tensors.items() if name.partition(".")[0] in averaged}
        parameters = {name for name, _ in method.modules.named_parameters(remove_duplicate=False)}
        self._running = [v for name, v in tensors.items() if name not in parameters and v.is_floating_point()]
        self._optimizer = settings.optimizer.build(groups, moving, names)
        method.modules.train()

    def step(self, number: int, steps: int | None = None) -> Metrics:
        """Takes one step.

        Args:
            number: steps done before.
            steps: of the whole run, as far as is known; by default those of the settings.

        Returns:
            What the method says of it, ``learning_rate`` and ``gradient_norm``.

        Raises:
            PolysomaError: the gradient is not finite, or there is none.
        """
        share = self.share
        before = [value.clone() for value in self._running] if share.count > 1 else self._running
        metrics = self.method.accumulate(number, share)
        distributed.reduce_gradients(self._learning, self.accelerator, self._running, before)
        if all(parameter.grad is None for parameter in self._learning):
            raise PolysomaError(f"step {number}: the method added no gradient to what it says learns")
        norm = distributed.clip_gradients(self._learning, self.settings.grad_clip)
        if not torch.isfinite(norm):
            losses = losses_of(metrics)
            raise PolysomaError(f"step {number}: the gradient is not finite; losses {losses}. Lower learning_rate")
        rate = self._optimizer.step(number, self.settings.steps if steps is None else steps)
        self.method.after_step(number + 1)
        return metrics | {"learning_rate": rate, "gradient_norm": float(norm)}

    def run(
        self,
        out: Path,
        resume: bool = False,
        until: int | None = None,
        progress: Progress | None = None,
        evaluate: Callable[[Path], Mapping[str, float]] | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Path:
        """Trains to the end, and returns the folder of the checkpoint (the evaluated weights of the policy),
        ``out/checkpoint``: the final one, or the best one where the method holds data out.

        Args:
            out: run folder: ``metrics.jsonl``, what the tracker writes, ``checkpoint/`` (for use), ``training/`` (to
                resume).
            resume: continue the run in ``out``, whose policy this one must be of.
            until: stop after this step, with a checkpoint that resumes.
            progress: called after every step, by the main process.
            evaluate: called with ``out/checkpoint`` at every checkpoint; returns the success rate of each task.
            lineage: of the checkpoint, see :mod:`polysoma.learning.lineage`.

        SIGTERM saves and leaves: SystemExit with :data:`~polysoma.learning.states.TERMINATED`.

        Raises:
            PolysomaError: a run folder that is taken, nothing to resume, a tracker that is missing, or as :meth:`step`.
        """
        run_state.check_folder(out, resume)
        check_tracker(self.settings.tracker)
        with contextlib.ExitStack() as stack:
            if self.accelerator.is_main_process:
                stack.enter_context(states.alone(out))
            told = stack.enter_context(states.leaving())
            left = self._run(out, resume, until, progress, evaluate, lineage, told)
        if left is not None:
            _log.warning("%s: told to leave, saved at step %d", out, left)
            raise SystemExit(states.TERMINATED)
        return out / "checkpoint"

    def _run(
        self,
        out: Path,
        resume: bool,
        until: int | None,
        progress: Progress | None,
        evaluate: Callable[[Path], Mapping[str, float]] | None,
        lineage: Mapping[str, Any] | None,
        told: Callable[[], bool],
    ) -> int | None:
        """Runs in a folder that is held. Returns the step at which it left because it was told to, None at the end."""
        run_state.check_folder(out, resume)
        step, best, before = 0, Best(), 0.0
        folder = out / states.FOLDER
        if resume:
            folder, remark = states.find(out, run_state.STATE_FILE)
            step, best, before = self._load(folder)
            if remark and self.accelerator.is_main_process:
                _log.warning("%s", remark)
        self.accelerator.wait_for_everyone()
        main, settings, used = self.accelerator.is_main_process, self.settings, self.policy.precision
        if main:
            states.settle(out, folder)
        written = (
            Written(out, step, settings.tracker, run_state.as_json(settings), {"precision": used}) if main else None
        )
        end = settings.steps if until is None else min(until, settings.steps)
        began, seen, leave = time.monotonic(), 0.0, False
        seconds, _ = self._agreed(before, False)
        over = self._over(seconds)
        while step < end and not over and not leave and not (settings.patience and best.waited >= settings.patience):
            metrics = self.step(step, self._expected(step, seconds))
            seen += metrics.pop("windows", 0.0)
            step += 1
            elapsed, earlier = time.monotonic() - began, seconds
            seconds, leave = self._agreed(before + elapsed, told())
            over = self._over(seconds)
            last = step == end or over
            if progress and main:
                progress(step, losses_of(metrics))
            if step % settings.log_every == 0 or last:
                metrics |= self._remarks(step)
                if written:
                    written.write(step, metrics | {"windows_per_s": seen / elapsed})
            if last or self._due(step, earlier, seconds):
                evaluated = self._optimizer.evaluated()
                missed = self._held_out(evaluated)
                best = best.after(step, sum(missed.values())) if missed else Best(step)
                self._save(out, step, best, before + elapsed, lineage)
                if written and missed:
                    written.write(step, {f"held_out/{name}": loss for name, loss in missed.items()})
                if written and evaluate:
                    paused = time.monotonic()
                    scores = evaluate(out / "checkpoint")
                    began += time.monotonic() - paused
                    written.write(step, {f"success/{task}": score for task, score in scores.items()})
                self.accelerator.wait_for_everyone()
            elif leave:
                # Nothing is measured: a resumed run has to come to the same best checkpoint.
                self._save(out, step, best if best.loss < math.inf else Best(step), before + elapsed, lineage)
        if written:
            written.close()
        self.accelerator.end_training()
        return step if leave and step < end and not over else None

    def _save(self, out: Path, step: int, best: Best, seconds: float, lineage: Mapping[str, Any] | None) -> None:
        """Writes the state, and the checkpoint where this step's is the best one. Every process takes part."""
        weights = {
            name.removeprefix("policy."): distributed.whole(value)
            for name, value in self._optimizer.evaluated().items()
            if name.startswith("policy.")
        }
        state, used = self._state(), self.policy.precision
        if self.accelerator.is_main_process:
            if best.step == step:
                told = None if lineage is None else {**lineage, "precision": used, "steps": step}
                checkpoint.save(self.policy, out / "checkpoint", weights=weights, lineage=told)
            about = {"step": step, "best": list(best), "seconds": seconds, "precision": used}
            run_state.save(out, state, about, self.policy.config, self.settings)

    @property
    def share(self) -> Share:
        """What this process does of a step."""
        here = self.accelerator
        return Share(here.process_index, here.num_processes, here.device, self.policy.precision)

    def _compute_in(self, wanted: str) -> None:
        for module in self.method.modules.values():
            if isinstance(module, Policy | SmallPolicy):
                module.compute_in(wanted)

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name. Asking for them shards again what a forward pass has gathered, so what is
        assigned to them counts in the next one."""
        return run_state.tensors_of(self.method.modules)

    def _agreed(self, seconds: float, told: bool) -> tuple[float, bool]:
        """How long it has trained, by the main process's clock, and whether any process was told to leave."""
        here = self.accelerator
        if here.num_processes == 1:
            return seconds, told
        said = torch.tensor([seconds if here.is_main_process else 0.0, float(told)], device=here.device)
        agreed = cast(Tensor, here.reduce(said, "sum"))
        return float(agreed[0]), bool(agreed[1])

    def _over(self, seconds: float) -> bool:
        """Whether the time is up."""
        return bool(self.settings.minutes) and seconds >= 60 * self.settings.minutes

    def _expected(self, step: int, seconds: float) -> int:
        """Steps of the whole run. Where a clock ends it, as many as its time has for all it knows: what is done of them
        is then what has passed of the time, however fast they came, which one can know only afterwards."""
        settings = self.settings
        if not settings.minutes or not seconds:
            return settings.steps
        return max(step + 1, min(settings.steps, round(step * 60 * settings.minutes / seconds)))

    def _due(self, step: int, earlier: float, seconds: float) -> bool:
        """Whether there is to be a checkpoint after this step, which began and ended after so many seconds."""
        every = 60 * self.settings.checkpoint_minutes
        return seconds // every > earlier // every if every else step % self.settings.checkpoint_every == 0

    def _remarks(self, step: int) -> Metrics:
        """What the method says beside its losses."""
        self.method.modules.eval()
        with torch.inference_mode(), self.share.autocast():
            said = self.method.remarks(step, self.share)
        self.method.modules.train()
        return said

    def _held_out(self, evaluated: Mapping[str, Tensor]) -> Metrics:
        """The method's losses on data apart, by the weights that are evaluated."""
        modules, tensors = self.method.modules, self._tensors()
        now = {name: tensors[name].clone() for name in evaluated}
        _assign(tensors, evaluated)
        modules.eval()
        with torch.inference_mode(), self.share.autocast():
            losses = self.method.held_out()
        _assign(self._tensors(), now)
        modules.train()
        if not losses:
            return {}
        # All processes must come to the same decision.
        from accelerate.utils import broadcast

        agreed = broadcast(torch.tensor(list(losses.values()), device=self.accelerator.device))
        return {name: float(loss) for name, loss in zip(losses, agreed, strict=True)}

    def _state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, whole, by name. Every process takes part."""
        modules = {f"modules.{name}": distributed.whole(value) for name, value in self._tensors().items()}
        own = {f"method.{name}": value for name, value in self.method.state().items()}
        return modules | own | self._optimizer.state()

    def _load(self, folder: Path) -> tuple[int, Best, float]:
        tensors, about = run_state.load(folder)
        had = run_state.read_table(folder / run_state.RECIPE_FILE).get("optimizer")
        kind = had.get("kind", "adamw") if isinstance(had, dict) else "adamw"
        if kind != (now := getattr(self.settings.optimizer, "kind", kind)):
            raise PolysomaError(f"{folder}: optimizer.kind was {kind} so far; a run is not resumed with {now}")
        if isinstance(self.policy, SmallPolicy):
            # Others are built as the run has them.
            had = run_state.read_table(folder / run_state.POLICY_FILE)
            run_state.check_kept(had, self.policy.config.to_json(), folder)
        held = self._tensors()
        tensors = run_state.with_new_words(tensors, held)
        found = {name.removeprefix("modules."): tensors[name] for name in tensors if name.startswith("modules.")}
        if strange := sorted(held.keys() ^ found.keys()):
            which = "lacks" if strange[0] in held else "also holds"
            raise PolysomaError(f"{folder} is of another method or policy: it {which} {', '.join(strange[:3])}")
        _assign(held, found)
        self._optimizer.load_state(tensors)
        own = {name.removeprefix("method."): value for name, value in tensors.items() if name.startswith("method.")}
        self.method.load_state(own)
        self._compute_in(precision.resumed(about.get("precision"), self.settings.precision, str(folder.parent)))
        step = int(about["step"])
        best = Best(*about["best"]) if "best" in about else Best(step)
        return step, best, float(about.get("seconds", 0.0))


def losses_of(metrics: Metrics) -> Metrics:
    """The losses among metrics, by what they are of."""
    return {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}


@torch.no_grad()
def _assign(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        distributed.set_whole(targets[name], value)

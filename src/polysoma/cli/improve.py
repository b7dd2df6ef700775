"""``polysoma improve``: a checkpoint learns from reward what its demonstrations did not show."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from polysoma import simulators
from polysoma.cli.names import CheckpointName, Device, Precision
from polysoma.cli.options import given
from polysoma.cli.output import say
from polysoma.cli.progress import counting
from polysoma.cli.train import check_run
from polysoma.config import Seed, within
from polysoma.embodiment import DiscreteActions
from polysoma.errors import PolysomaError
from polysoma.task import body_of
from polysoma.text import counted

if TYPE_CHECKING:
    from polysoma.evaluation.acceptance import Replayed

DEVELOPMENT, BETWEEN = 390_000, 392_000
"""Seeds of the first episodes that are played before and after, and of those in between."""


@dataclass(frozen=True)
class Improve:
    """Improves a checkpoint at tasks of one simulated body by reward. The checkpoint itself is never changed.

    The policy stays as it is, and so do all other bodies; a small correction of its answers for this body learns. What
    comes of it is an adaptation, stored beside the checkpoint, that evaluate, serve and play open like any. After each
    quarter of the time the tasks are played, and the best of the four is what counts. The same
    episodes are played before and after, and the correction is kept only if more of them succeed, and if the body's
    other tasks, which it moves as well, lose no more than --worse allows. A run that was killed cannot be resumed,
    because environments in the middle of episodes are not saved; runs take minutes.

    Examples:
        polysoma improve generalist --tasks metaworld/pick-out-of-hole-v3 --worse 1 --out runs/hole
        polysoma improve generalist --tasks rover/maze --minutes 15 --controls --out runs/maze
        polysoma merge attach generalist rover=runs/maze/checkpoint --out runs/all
    """

    checkpoint: CheckpointName
    """A checkpoint folder, hf://user/name, or generalist for the shipped weights."""
    tasks: str = ""
    """Which tasks, comma-separated, of one body."""
    method: Literal["ppo", "reinforce", "awr"] = "ppo"
    """ppo: policy gradients that stay near what was played; reinforce: plain ones, with a value as baseline; awr:
    imitation of what went better than expected, also of random pushes."""
    baseline: Literal["value", "none"] = "value"
    """Of reinforce."""
    reward: str = ""
    """A checkpoint of `polysoma reward learn`, which is earned instead of the environment's reward. Whether what was
    learnt is kept is still decided by how many episodes succeed."""
    out: Path = Path("runs/improved")
    """Folder of the run; out/checkpoint is what comes of it."""
    minutes: Annotated[float, within(0, 10**6, above=True)] = 10.0
    """Of playing and learning, beside those of the episodes before, between and after."""
    slots: Annotated[int, within(1, 10_000)] = 64
    """Episodes at a time."""
    spread: Annotated[float, within(0, 10, above=True)] | None = None
    """Standard deviation of what is tried out, in parts of half the range of actions; by default what suits the
    method."""
    failures: Annotated[float, within(0, 1)] = 0.5
    """The share of episodes that begin where an earlier one was failing, in simulators that can go back there."""
    episodes: Annotated[int, within(1, 10**6)] = 40
    """Of each task, played before, after each quarter of the time and after."""
    others: str = ""
    """Which other tasks of the body are played before and after as well, comma-separated; all of them by default."""
    other_episodes: Annotated[int, within(1, 10**6)] = 20
    """Of each of these."""
    controls: bool = False
    """Also play the same episodes without what was learnt, but with a random push wherever the body stands still, and
    with up to four tries of each, with noise. What was learnt should be worth more than that."""
    worse: Annotated[float, within(0, 1)] = 0.05
    """The share of their episodes that these may lose; with 1, which allows all, they are not played."""
    seed: Seed = 0
    """Of all that is drawn at random."""
    device: Device = "auto"
    precision: Precision = "auto"

    def run(self) -> None:
        check_run(self.out, False, "none")
        from polysoma.learning.distributed import learn_on

        learn_on(self.device)
        if self.baseline != "value" and self.method != "reinforce":
            raise PolysomaError(f"--baseline is of --method reinforce, not of {self.method}")
        if self.worse == 1 and (strange := given(self, ("others", "other_episodes"))):
            raise PolysomaError(f"{strange}: --worse 1 allows any loss of other tasks, so they are not played")
        from polysoma.learning.improvement import Play, improve
        from polysoma.learning.methods.awr import Awr
        from polysoma.learning.methods.ppo import Ppo
        from polysoma.learning.methods.reinforce import Reinforce
        from polysoma.policy import checkpoint

        if not self.tasks:
            raise PolysomaError("--tasks: expected tasks of one body to improve at, got none")
        tasks = simulators.match_tasks(self.tasks, checkpoint.bodies(self.checkpoint))
        others = self._others(tasks)
        body = simulators.embodiments()[body_of(tasks[0])]
        if isinstance(body.actions, DiscreteActions) and (strange := given(self, ("spread", "controls"))):
            raise PolysomaError(f"{strange}: for bodies that are moved by numbers; {body.name} makes choices")
        methods: dict[str, Ppo | Reinforce | Awr] = {"ppo": Ppo(), "reinforce": Reinforce(self.baseline), "awr": Awr()}
        settings = methods[self.method]
        spread = settings.exploring.spread if self.spread is None else self.spread
        settings = replace(settings, exploring=replace(settings.exploring, failures=self.failures, spread=spread))
        began, looked = time.monotonic(), 0.0
        with counting("improving") as show:

            def progress(step: int, losses: dict[str, float]) -> None:
                now = min(self.minutes, (time.monotonic() - began - looked) / 60)
                show(round(60 * now), round(60 * self.minutes), f"step {step:,}, " + _line(losses))

            def judge(folder: Path) -> dict[str, float]:
                nonlocal looked
                paused = time.monotonic()
                rates = self._judge(tasks, folder)
                looked += time.monotonic() - paused
                return rates

            folder, better = improve(
                self.checkpoint, tasks, settings, self.out, self.minutes,
                play=Play(self.slots, precision=self.precision), seed=self.seed, progress=progress,
                accept=functools.partial(self._accept, tasks, others), reward=self.reward,
                judge=judge,
            )  # fmt: skip
        kept = "is kept" if better else "is not kept: the checkpoint answers as the one that it began with"
        say(f"checkpoint: {folder}, an adaptation; what was learnt {kept}")

    def _others(self, tasks: Sequence[str]) -> list[str]:
        """The other tasks of the body that are played before and after. Raises PolysomaError where there are none of
        the names that were given."""
        body = body_of(tasks[0])
        every = simulators.match_tasks(self.others, [body]) if self.others else simulators.tasks_of(body)
        return [task for task in every if task not in tasks] if self.worse < 1 else []

    def _judge(self, tasks: Sequence[str], folder: Path) -> dict[str, float]:
        """The success rates of what was learnt so far, in episodes of their own."""
        from polysoma.evaluation.evaluation import evaluate
        from polysoma.rollout.drivers import Checkpoint

        driver = Checkpoint(str(folder), precision=self.precision)
        scores = evaluate(driver, tasks, self.episodes, BETWEEN).tasks
        return {task: score.rate for task, score in scores.items()}

    def _accept(self, tasks: Sequence[str], others: Sequence[str], before: str, after: Path) -> bool:
        """Plays the same episodes before and after, says what came of them, and accepts what succeeds more often and
        costs the other tasks no more than is allowed."""
        from polysoma.evaluation.acceptance import replay

        own = replay(before, str(after), tasks, self.episodes, DEVELOPMENT, self.precision)
        say(str(own))
        if self.controls:
            self._say_controls(own, before)
        if own.difference()[0] <= 0:
            return False
        if not others:
            return True
        rest = replay(before, str(after), others, self.other_episodes, DEVELOPMENT, self.precision)
        say(f"{counted(len(others), 'other task')} of {body_of(tasks[0])}: {rest}")
        if reason := rest.lost(self.worse):
            say(f"the other tasks got worse: {reason} (--worse)")
        return not reason

    def _say_controls(self, own: Replayed, before: str) -> None:
        """Plays the same episodes without what was learnt, and says what came of them."""
        from polysoma.evaluation.controls import CONTROLS
        from polysoma.rollout.drivers import Checkpoint

        driver = Checkpoint(before, precision=self.precision)
        for name, control in CONTROLS.items():
            found = control(driver, list(own.before), self.episodes, DEVELOPMENT)
            won, trials = sum(map(sum, found.values())), sum(map(len, found.values()))
            gain, low, high = replace(own, after=found).difference()
            say(f"nothing learnt, {name}: {won} of {trials} succeeded: {gain:+.2f} [{low:+.2f}, {high:+.2f}]")


def _line(losses: dict[str, float]) -> str:
    return " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())

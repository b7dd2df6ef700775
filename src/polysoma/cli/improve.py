"""``polysoma improve``: a checkpoint learns from reward what its demonstrations did not show."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from polysoma import simulators
from polysoma.cli.names import CheckpointName, Device, Precision
from polysoma.cli.output import say
from polysoma.cli.progress import counting
from polysoma.cli.train import check_run
from polysoma.config import Seed, within
from polysoma.errors import PolysomaError

DEVELOPMENT = 390_000
"""Seed of the first episode that is played before and after."""


@dataclass(frozen=True)
class Improve:
    """Improves a checkpoint at tasks of one simulated body by reward. The checkpoint itself is never changed.

    The policy stays as it is, and so do all other bodies; a small correction of its answers for this body learns. What
    comes of it is an adaptation, stored beside the checkpoint, that evaluate, serve and play open like any. The same
    episodes are played before and after, and the correction is kept only if more of them succeed. A run that was killed
    cannot be resumed, because environments in the middle of episodes are not saved; runs take minutes.

    Examples:
        polysoma improve generalist --tasks pointmaze/large --out runs/maze
        polysoma improve generalist --tasks metaworld/soccer-v3 --minutes 20 --out runs/soccer
        polysoma merge attach generalist pointmaze=runs/maze/checkpoint --out runs/all
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
    """Of playing and learning, beside those of the episodes before and after."""
    slots: Annotated[int, within(1, 10_000)] = 64
    """Episodes at a time."""
    spread: Annotated[float, within(0, 10, above=True)] | None = None
    """Standard deviation of what is tried out, in parts of half the range of actions; by default what suits the
    method."""
    failures: Annotated[float, within(0, 1)] = 0.5
    """The share of episodes that begin where an earlier one was failing, in simulators that can go back there."""
    episodes: Annotated[int, within(1, 10**6)] = 40
    """Of each task, played before and after."""
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
        from polysoma.learning.improvement import Play, improve
        from polysoma.learning.methods.awr import Awr
        from polysoma.learning.methods.ppo import Ppo
        from polysoma.learning.methods.reinforce import Reinforce
        from polysoma.policy import checkpoint

        if not self.tasks:
            raise PolysomaError("--tasks: expected tasks of one body to improve at, got none")
        tasks = simulators.match_tasks(self.tasks, checkpoint.bodies(self.checkpoint))
        methods: dict[str, Ppo | Reinforce | Awr] = {"ppo": Ppo(), "reinforce": Reinforce(self.baseline), "awr": Awr()}
        settings = methods[self.method]
        spread = settings.exploring.spread if self.spread is None else self.spread
        settings = replace(settings, exploring=replace(settings.exploring, failures=self.failures, spread=spread))
        began = time.monotonic()
        with counting("improving") as show:

            def progress(step: int, losses: dict[str, float]) -> None:
                now = min(self.minutes, (time.monotonic() - began) / 60)
                show(round(60 * now), round(60 * self.minutes), f"step {step:,}, " + _line(losses))

            folder, better = improve(
                self.checkpoint, tasks, settings, self.out, self.minutes,
                play=Play(self.slots, precision=self.precision), seed=self.seed, progress=progress,
                accept=_accepting(tasks, self.episodes, self.precision), reward=self.reward,
            )  # fmt: skip
        kept = "is kept" if better else "is not kept: the checkpoint answers as the one that it began with"
        say(f"checkpoint: {folder}, an adaptation; what was learnt {kept}")


def _line(losses: dict[str, float]) -> str:
    return " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())


def _accepting(tasks: list[str], episodes: int, precision: str) -> Callable[[str, Path], bool]:
    """Plays the same episodes before and after, says what came of them, and accepts what succeeds more often."""
    from polysoma.evaluation.evaluation import evaluate
    from polysoma.evaluation.intervals import paired_difference
    from polysoma.rollout.drivers import Checkpoint

    def accept(before: str, after: Path) -> bool:
        won = []
        for place in (before, str(after)):
            scores = evaluate(Checkpoint(place, precision=precision), tasks, episodes, DEVELOPMENT).tasks
            won.append([outcome for task in tasks for outcome in scores[task].outcomes])
        gain, low, high = paired_difference(won[1], won[0])
        say(
            f"{sum(won[0])} of {len(won[0])} episodes succeeded before, {sum(won[1])} after: {gain:+.2f} "
            f"[{low:+.2f}, {high:+.2f}]"
        )
        return sum(won[1]) > sum(won[0])

    return accept

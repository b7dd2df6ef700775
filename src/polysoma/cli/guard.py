"""``polysoma guard``: what keeps a policy out of states from which it fails, learnt from logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from polysoma.cli.logs import opened
from polysoma.cli.names import Device
from polysoma.cli.options import given
from polysoma.cli.output import say
from polysoma.cli.progress import counting_steps
from polysoma.cli.train import check_run
from polysoma.config import Seed, within
from polysoma.embodiment import DiscreteActions
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class GuardLearn:
    """Learns from logs of successes and failures of one body how likely failure is after each action.

    It takes minutes of one core. evaluate, serve, play and export take the folder (--guard).

    Examples:
        polysoma guard learn data/logs/body --out guards/body
        polysoma guard learn data/noisy/arm data/played/arm --fresh data/fresh/arm --span 4 --out guards/arm
    """

    data: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="LOGS")]
    """Data sets of one body, of any known format, with episodes that the task ended in failure."""
    fresh: tuple[str, ...] = ()
    """Data sets with whose successes thresholds are found, of the policy that is to be guarded; by default episodes of
    LOGS that are held out."""
    rate: Annotated[float, within(0, 1, above=True, below=True)] = 0.05
    """The share of successful episodes that may raise an alarm."""
    replace: Annotated[float, within(0, 1)] = 0.1
    """Actions of a higher risk are replaced where another one is safer."""
    held_out: Annotated[float, within(0, 1, below=True)] = 0.3
    """The part of the episodes of LOGS that is held out; not with --fresh."""
    span: Annotated[int, within(1, 1000)] = 1
    """Actions that are judged together: as many as the policy executes before it is asked again; 1 for choices."""
    out: Path = Path("guards/guard")
    """Folder of the guard, and of the run."""
    steps: Annotated[int, within(1, 10**9)] = 3000
    """Of learning, of 256 steps of the logs each."""
    width: Annotated[int, within(1, 65_536)] = 128
    """Of the perceptrons."""
    octaves: Annotated[int, within(1, 16)] = 3
    """Of the waves through which numbers are seen: more of them see smaller things, and need more logs. For a state of
    many channels, 1."""
    expectile: Annotated[float, within(0, 1, above=True, below=True)] = 0.9
    """For actions that are numbers: how far what can be done later is taken for the best that logs show in like states.
    Lower sees more danger, as where luck decides what follows, and at some point danger everywhere."""
    seed: Seed = 0
    """Of all that is drawn at random."""
    device: Device = "auto"
    resume: bool = False
    """Continue the run in --out."""

    def run(self) -> None:
        if self.fresh and (strange := given(self, ["held_out"])):
            raise PolysomaError(f"{strange}: of LOGS nothing is held out beside --fresh")
        check_run(self.out, self.resume, "none")
        from polysoma.learning.dead_ends import engine_settings, learn
        from polysoma.learning.distributed import learn_on
        from polysoma.learning.methods.dead_ends import LearnDeadEnds

        learn_on(self.device)
        logs, fresh = opened(self.data), opened(self.fresh) if self.fresh else []
        body = logs[0].embodiment
        if isinstance(body.actions, DiscreteActions) and (strange := given(self, ["expectile"])):
            raise PolysomaError(f"{strange}: for actions that are numbers; {body.name} makes choices")
        with counting_steps("learning", self.steps) as progress:
            values = learn(
                logs,
                self.out,
                fresh,
                self.rate,
                self.replace,
                self.held_out,
                self.span,
                (self.width, 2),
                self.octaves,
                LearnDeadEnds(expectile=self.expectile),
                settings=engine_settings(self.steps),
                seed=self.seed,
                resume=self.resume,
                progress=progress,
            )
        alarm = values.alarm
        assert alarm is not None
        say(
            f"guard: {self.out}; an alarm above a risk of {alarm.threshold:.3f}, by {alarm.successes} successes; "
            f"`polysoma evaluate ... --guard {self.out}`"
        )

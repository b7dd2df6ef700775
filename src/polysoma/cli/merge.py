"""``polysoma merge``: sums and differences of what fine-tunes have learnt."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from polysoma import simulators
from polysoma.cli.names import Device, Precision, named_folder
from polysoma.cli.options import check_alone
from polysoma.cli.progress import counting
from polysoma.config import Seed, within
from polysoma.errors import PolysomaError
from polysoma.text import some

if TYPE_CHECKING:
    from polysoma.policy.merging import Grams
    from polysoma.policy.policy import Policy

_GRID = tuple(round(0.1 * number, 1) for number in range(1, 11))


@dataclass(frozen=True, kw_only=True)
class _Merging:
    out: Path = Path("runs/merged")
    """Folder of the new checkpoint."""
    coefficient: Annotated[float, within(-100, 100)] | None = None
    """How much of each difference; by default the one of 0.1, 0.2, ... 1.0 that does best on --tasks, the middle one of
    several."""
    tasks: str = ""
    """Tasks, old and new, on which the coefficient is chosen, comma-separated."""
    episodes: Annotated[int, within(1, 10**6)] = 10
    """Episodes of each of these tasks."""
    seed: Seed = 530_000
    """Seed of the first of these episodes: not one that the result is then measured on."""
    device: Device = "auto"
    precision: Precision = "auto"

    def _finish(self, merge: Callable[[float], Policy], away: str = "") -> None:
        """Chooses the coefficient where none is given, and saves. Tasks of ``away`` are to get worse."""
        from polysoma.evaluation.merging import choose_coefficient
        from polysoma.policy import checkpoint

        check_alone(self, "coefficient", "tasks", "episodes", "seed", *(["away"] if away else []))
        checkpoint.check_place(self.out)
        coefficient = self.coefficient
        if coefficient is None:
            if not self.tasks:
                raise PolysomaError("expected --coefficient, or --tasks on which it is to be chosen")
            tasks = simulators.match_tasks(self.tasks)
            unwanted = set(simulators.match_tasks(away)) if away else set()
            if strange := sorted(unwanted - set(tasks)):
                raise PolysomaError(f"--away: expected some of --tasks, got {some(strange)}, which are not played")
            with counting("merging") as show:
                coefficient, rates = choose_coefficient(
                    merge, _GRID, tasks, unwanted, self.episodes, self.seed,
                    lambda done: show(done, len(_GRID), "coefficients"), self.device, self.precision,
                )  # fmt: skip
            for value, rate in rates.items():
                chosen = "  <- chosen" if value == coefficient else ""
                print(f"coefficient {value:g}: {rate:.3f}{chosen}")
        checkpoint.save(merge(coefficient), self.out)
        print(f"checkpoint: {self.out}, coefficient {coefficient:g}")


@dataclass(frozen=True)
class MergeAdd(_Merging):
    """Adds up what several fine-tunes of one base have learnt, into one checkpoint. Bodies that it does not know come
    whole.

    Examples:
        polysoma merge add generalist runs/a/checkpoint runs/b/checkpoint --tasks 'fetch/*,drone/*' --out runs/ab
        polysoma merge add generalist runs/a/checkpoint --coefficient 0.5
        polysoma merge add generalist runs/a/checkpoint runs/b/checkpoint --regression --coefficient 1
    """

    base: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[BASE]")] = "generalist"
    """What they were all made from."""
    tuned: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[TUNED ...]")] = ()
    """Full fine-tunes, or adaptations by lora or head."""
    regression: bool = False
    """Instead of a sum, weights that do on each fine-tune's data nearly what that one does. Needs their runs, and the
    data where they were."""

    def run(self) -> None:
        from polysoma.policy.merging import add

        self._finish(lambda coefficient: add(self.base, self.tuned, coefficient, self._grams))

    @functools.cached_property
    def _grams(self) -> list[Grams] | None:
        """What --regression asks of the runs; computed when all else is known to be right."""
        if not self.regression:
            return None
        from polysoma.learning.grams import input_grams

        runs = [Path(path).parent for path in self.tuned]
        return [input_grams(run, device=self.device, precision=self.precision) for run in runs]


@dataclass(frozen=True)
class MergeAttach:
    """Puts adaptations into one checkpoint with their base: each drives its body from then on, and the base the others.

    Examples:
        polysoma merge attach generalist aloha=runs/aloha-lora/checkpoint --out runs/attached
        polysoma merge attach generalist go1=runs/a/checkpoint runs/fetch/checkpoint --out runs/attached
    """

    base: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[BASE]")] = "generalist"
    """What they all adapt."""
    adaptations: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[ADAPTATION ...]")] = ()
    """Adaptations of bodies that the base knows; NAME=FOLDER names one, and replaces an attached one of that name."""
    out: Path = Path("runs/attached")
    """Folder of the new checkpoint."""

    def run(self) -> None:
        from polysoma.policy.checkpoint import attach

        if not self.adaptations:
            raise PolysomaError("expected one or more adaptations to attach, got none")
        named = dict(named_folder(text) for text in self.adaptations)
        if len(named) < len(self.adaptations):
            raise PolysomaError(f"expected adaptations of different names, got {', '.join(self.adaptations)}")
        attach(self.base, named, self.out)
        print(f"checkpoint: {self.out}")


@dataclass(frozen=True)
class MergeNegate(_Merging):
    """Takes what a fine-tune has learnt away from its base: the base without a task, or without a bad habit.

    Examples:
        polysoma merge negate generalist runs/habit/checkpoint --coefficient 0.3
        polysoma merge negate generalist runs/a/checkpoint --tasks 'fetch/*,drone/*' --away 'drone/*'
    """

    base: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="BASE")]
    """What the fine-tune was made from."""
    tuned: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TUNED")]
    """A full fine-tune, or an adaptation by lora or head."""
    away: str = ""
    """Those of --tasks that are to fail."""

    def run(self) -> None:
        from polysoma.policy.merging import negate

        self._finish(lambda coefficient: negate(self.base, self.tuned, coefficient), self.away)


@dataclass(frozen=True)
class MergeAnalogy(_Merging):
    """Does to C what made B of A: A is to B as C is to the result.

    Examples:
        polysoma merge analogy runs/light/checkpoint runs/heavy/checkpoint runs/other/checkpoint --coefficient 0.5
    """

    a: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="A")]
    """A checkpoint."""
    b: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="B")]
    """What it became."""
    c: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="C")]
    """What is to become likewise."""

    def run(self) -> None:
        from polysoma.policy.merging import analogy

        self._finish(lambda coefficient: analogy(self.a, self.b, self.c, coefficient))

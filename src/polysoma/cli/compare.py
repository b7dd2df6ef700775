"""``polysoma compare``: which method of learning from a few demonstrations, how long, how good; or which checkpoint
predicts recorded episodes better."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from polysoma import simulators
from polysoma.cli.names import Device, Precision
from polysoma.cli.options import given
from polysoma.cli.output import add_row, say
from polysoma.cli.progress import counting
from polysoma.cli.train import check_training_installed
from polysoma.config import Seed, within
from polysoma.errors import PolysomaError
from polysoma.files import check_writable, write_atomically


@dataclass(frozen=True)
class Compare:
    """Learns the same demonstrations by every method, in the same time, and plays the same seeds: one table, one page.

    Methods: zero-shot and retrieval train nothing; prompt, head, adapter, lora and full fine-tune; scratch starts from
    nothing; specialist is scratch with all demonstrations. With --meta: inner takes the few gradient steps that a
    meta-learnt start was made for, continued trains on from it. Killed, it continues when it is called again.

    With checkpoints nothing is learnt and nothing is played, so that no simulator is needed: they are asked at the same
    frames of the recorded episodes that none of them learnt from, beside controls that need no policy.

    Examples:
        polysoma compare --base generalist --data data/go2 --tasks 'go2/*' --demos 5,20,50
        polysoma compare --base runs/held-out/checkpoint --data data/held-out/metaworld --tasks \
'metaworld/door-lock-v3,metaworld/box-close-v3' --demos 20 --minutes 5 --methods retrieval,lora,full,scratch
        polysoma compare runs/lora/checkpoint runs/full/checkpoint --data recordings/so101
    """

    data: tuple[str, ...]
    """A data set of demonstrations of the tasks; with checkpoints, any number of data sets."""
    checkpoints: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[CHECKPOINT ...]")] = ()
    """Two or more that are compared on recorded episodes; the others with the first one."""
    held_out: Annotated[float, within(0, 1)] | None = None
    """With checkpoints: the fraction of each task's episodes that counts, the last ones; by default those that
    training held out, and all of data that a checkpoint did not learn from."""
    windows: Annotated[int, within(1, 10**7)] = 1000
    """With checkpoints: frames at which each is asked at most, evenly spaced over the episodes."""
    skip_damaged: bool = False
    """With checkpoints: leave out episodes of which a file is missing or cannot be read, with a line for each."""
    tasks: str = ""
    """What is played, comma-separated; of a body that has a simulator here."""
    base: str = "generalist"
    """The checkpoint to start from."""
    demos: str = "5,20,50"
    """Demonstrations of each task, comma-separated."""
    methods: str = "*"
    """Comma-separated; * for all."""
    minutes: Annotated[float, within(0, 10**6, above=True)] = 10.0
    """Of training for each method."""
    episodes: Annotated[int, within(1, 10**6)] = 20
    """Of each task."""
    seed: Seed = 9000
    """Of the first episode of each task."""
    old: str = ""
    """Tasks of the base, comma-separated, to see what full fine-tuning forgets; the others leave the base alone."""
    meta: str = ""
    """Starts that `polysoma meta` learnt beside the base, comma-separated."""
    device: Device = "auto"
    precision: Precision = "auto"
    out: Path = Path("runs/compare")
    """Folder of runs, results.json and index.html."""

    def run(self) -> None:
        if self.checkpoints:
            self._recorded()
            return
        if strange := given(self, ("held_out", "windows", "skip_damaged")):
            raise PolysomaError(f"{strange}: only where checkpoints are compared on recorded episodes")
        if not self.tasks or len(self.data) != 1:
            raise PolysomaError(
                "expected what is played (--tasks) and one data set (--data); or, for a body without a simulator, the "
                "checkpoints that are compared on recorded episodes: polysoma compare A B --data FOLDER"
            )
        check_training_installed()
        from polysoma.evaluation.comparison import METHODS, Comparison, compare, title
        from polysoma.evaluation.comparison_page import write_page
        from polysoma.learning.distributed import learn_on
        from polysoma.policy import checkpoint

        learn_on(self.device)
        try:
            demonstrations = tuple(int(number) for number in self.demos.split(","))
        except ValueError as error:
            raise PolysomaError(f"--demos: expected numbers such as 5,20, got {self.demos!r}") from error
        methods = METHODS if self.methods == "*" else tuple(name.strip() for name in self.methods.split(","))
        old = simulators.match_tasks(self.old, checkpoint.bodies(self.base)) if self.old else ()
        asked = Comparison(
            self.base, self.data[0], tuple(simulators.match_tasks(self.tasks)), demonstrations,
            methods,  # type: ignore[arg-type]
            self.minutes, self.episodes, self.seed, tuple(old),
            precision=self.precision,
            device=self.device,
            starts=tuple(start.strip() for start in self.meta.split(",")) if self.meta else (),
        )  # fmt: skip
        with counting("comparing") as show:
            result = compare(asked, self.out, show)
        write_page(result, self.out / "index.html")
        table = Table(title=Text(f"{self.data[0]} from {self.base}, {self.minutes:g} minutes each"))
        for column in ("method", "demos", "successes", "interval", "minutes", "steps", "MB", "old tasks"):
            table.add_column(column, justify="left" if column == "method" else "right")
        for row in result["rows"]:
            lost = row.get("forgotten")
            add_row(
                table,
                title(row),
                str(row["demonstrations"] or ""),
                f"{row['successes']}/{row['trials']}",
                f"{row['interval'][0]:.2f}-{row['interval'][1]:.2f}",
                *(
                    (f"{row['minutes']:.1f}", f"{row['steps']:,}", f"{row['megabytes']:.1f}")
                    if row["steps"]
                    else ("",) * 3
                ),
                "" if lost is None else f"{-lost[0]:+.2f}" if lost[0] else "unchanged",
            )
        Console().print(table)
        print(f"{self.out / 'index.html'}: open it in a browser")

    def _recorded(self) -> None:
        """Compares checkpoints on recorded episodes."""
        playing = ("base", "tasks", "demos", "methods", "minutes", "episodes", "seed", "old", "meta")
        if strange := given(self, playing):
            raise PolysomaError(f"checkpoints are compared on recordings, nothing is played: leave out {strange}")
        if len(set(self.checkpoints)) != len(self.checkpoints) or len(self.checkpoints) < 2:
            raise PolysomaError(f"expected two or more different checkpoints, got {', '.join(self.checkpoints)}")
        if (self.out / "comparison.json").exists():
            raise PolysomaError(f"{self.out} holds a comparison of methods; choose another --out")
        from polysoma.evaluation.evaluation import hardware, versions
        from polysoma.evaluation.open_loop_page import COMPARED, compared, write_comparison
        from polysoma.evaluation.open_loop_pairs import common, paired
        from polysoma.evaluation.recorded import recorded

        opened = {
            name: recorded(name, self.data, self.held_out, self.precision, self.skip_damaged, self.device)
            for name in self.checkpoints
        }
        check_writable(self.out / "results.json", self.out / "index.html")
        found = []
        for body, drivers in common(opened).items():
            with counting(f"comparing on demonstrations of {body}") as show:
                found.append(paired(drivers, self.windows, progress=show))
        precision = next(iter(opened.values()))[0].policy.precision
        about = {"checkpoints": list(self.checkpoints), "data": list(self.data), "versions": versions()}
        result = {**about, "hardware": hardware(precision, "torch"), "bodies": [one.to_json() for one in found]}
        write_atomically(self.out / "results.json", (json.dumps(result, indent=1) + "\n").encode())
        title = f"{' and '.join(self.checkpoints)} on recorded episodes"
        told = f"Differences are to {self.checkpoints[0]}, with 95 % intervals over episodes."
        write_comparison(title, [told], found, self.out / "index.html")
        for one in found:
            say(f"{one.body}, {one.which}, {one.windows:,} frames: {one.unit}; differences to {self.checkpoints[0]}")
            table = Table()
            for number, column in enumerate(COMPARED):
                table.add_column(column, justify="right" if number else "left")
            for name, row in one.policies.items():
                add_row(table, name, *compared(row), style="bold")
            for name, row in one.controls.items():
                add_row(table, name, *compared(row))
            Console().print(table)
        say(f"{self.out / 'index.html'}: open it in a browser; the numbers are in {self.out / 'results.json'}")

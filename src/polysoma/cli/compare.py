"""``polysoma compare``: which way of learning from a few demonstrations, how long, how good."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polysoma import simulators
from polysoma.cli.names import Device, Precision
from polysoma.cli.output import add_row
from polysoma.cli.progress import counting
from polysoma.cli.train import check_training_installed
from polysoma.config import Seed, within
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class Compare:
    """Learns the same demonstrations in every way, in the same time, and plays the same seeds: one table, one page.

    Ways: zero-shot and retrieval train nothing; prompt, head, adapter, lora and full fine-tune; scratch starts from
    nothing; specialist is scratch with all demonstrations. With --meta: inner takes the few gradient steps that a
    meta-learnt start was made for, continued trains on from it. Killed, it continues when it is called again.

    Examples:
        polysoma compare --base generalist --data data/go2 --tasks 'go2/*' --demos 5,20,50
        polysoma compare --base runs/held-out/checkpoint --data data/held-out/metaworld --tasks \
'metaworld/door-lock-v3,metaworld/box-close-v3' --demos 20 --minutes 5 --ways retrieval,lora,full,scratch
    """

    data: str
    """A data set of demonstrations of the tasks."""
    tasks: str
    """What is played, comma-separated; of a body that has a simulator here."""
    base: str = "generalist"
    """The checkpoint to start from."""
    demos: str = "5,20,50"
    """Demonstrations of each task, comma-separated."""
    ways: str = "*"
    """Comma-separated; * for all."""
    minutes: Annotated[float, within(0, 10**6, above=True)] = 10.0
    """Of training for each way."""
    episodes: Annotated[int, within(1, 10**6)] = 20
    """Of each task."""
    seed: Seed = 9000
    """Of the first episode of each task."""
    old: str = ""
    """Tasks of the base, comma-separated, to see what full fine-tuning forgets; the other ways leave the base alone."""
    meta: str = ""
    """Starts that `polysoma meta` learnt beside the base, comma-separated."""
    device: Device = "auto"
    precision: Precision = "auto"
    out: Path = Path("runs/compare")
    """Folder of runs, results.json and index.html."""

    def run(self) -> None:
        check_training_installed()
        from polysoma.evaluation.comparison import WAYS, Comparison, compare, title
        from polysoma.evaluation.comparison_page import write_page
        from polysoma.learning.distributed import learn_on
        from polysoma.policy import checkpoint

        learn_on(self.device)
        try:
            demonstrations = tuple(int(number) for number in self.demos.split(","))
        except ValueError as error:
            raise PolysomaError(f"--demos: expected numbers such as 5,20, got {self.demos!r}") from error
        ways = WAYS if self.ways == "*" else tuple(way.strip() for way in self.ways.split(","))
        old = simulators.match_tasks(self.old, checkpoint.bodies(self.base)) if self.old else ()
        asked = Comparison(
            self.base, self.data, tuple(simulators.match_tasks(self.tasks)), demonstrations,
            ways,  # type: ignore[arg-type]
            self.minutes, self.episodes, self.seed, tuple(old),
            precision=self.precision,
            device=self.device,
            starts=tuple(start.strip() for start in self.meta.split(",")) if self.meta else (),
        )  # fmt: skip
        with counting("comparing") as show:
            result = compare(asked, self.out, show)
        write_page(result, self.out / "index.html")
        table = Table(title=Text(f"{self.data} from {self.base}, {self.minutes:g} minutes each"))
        for column in ("way", "demos", "successes", "interval", "minutes", "steps", "MB", "old tasks"):
            table.add_column(column, justify="left" if column == "way" else "right")
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

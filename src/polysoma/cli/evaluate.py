"""``polysoma evaluate``: how good a policy is."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from polysoma import simulators
from polysoma.acting.agent import Acting
from polysoma.acting.limits import Limits
from polysoma.cli.names import (
    Device,
    GraphCell,
    GraphEdges,
    GraphLogs,
    GuardFolder,
    LimitsFile,
    MidpointLogs,
    OptionalCheckpoint,
    PathsCheckpoint,
    Precision,
    WorldSearch,
)
from polysoma.cli.options import check_belongs, given
from polysoma.cli.output import add_row
from polysoma.cli.progress import counting
from polysoma.config import Seed, within
from polysoma.data.paraphrases import SHIPPED
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import Result, Score, evaluate, hardware, versions
from polysoma.evaluation.intervals import wilson
from polysoma.evaluation.listening import COLUMNS, Listening, table_rows
from polysoma.files import check_writable, write_atomically
from polysoma.nn import backend as backends
from polysoma.rollout.drivers import Checkpoint, Conditioning, InContext, Prompting
from polysoma.rollout.rollout import Workers

_RECORDED = ("held_out", "windows", "permutations", "skip_damaged")
"""Options of a comparison with recorded episodes."""
_EITHER_WAY = ("checkpoint", "data", "json", "report", "device", "precision")
"""Options of both."""
_OF_A_CHECKPOINT = (
    "temperature", "guard", "retrieve", "demos", "graph", "cell", "edges", "paths", "midpoints", "world_search",
    "avoid", "context", "shots", "observation_only",
)  # fmt: skip
"""Options that neither an expert nor random actions would notice."""


@dataclass(frozen=True)
class Evaluate:
    """Plays seeded episodes and reports successes out of trials, with 95 % Wilson intervals.

    With --data nothing is played, and no simulator is needed: predicted actions are compared with those of recorded
    episodes, beside controls that need no policy, and it is measured whether cameras and words count.

    Examples:
        polysoma evaluate generalist --tasks 'metaworld/*' --episodes 20 --seed 1000 --json out.json --report out/
        polysoma evaluate generalist --tasks 'fetch/*' --retrieve data/fetch --demos 5
        polysoma evaluate runs/panel/checkpoint --tasks 'panel/20*' --context data/unseen/panel --shots 16
        polysoma evaluate --policy expert --tasks 'drone/*,rover/*'
        polysoma evaluate generalist --tasks 'babyai/*' --listening
        polysoma evaluate generalist --tasks drone/ring --episodes 1 --rerun ring.rrd
        polysoma evaluate runs/so101/checkpoint --data recordings/so101 --report out/
    """

    checkpoint: OptionalCheckpoint = "generalist"
    """A checkpoint folder, hf://user/name, or generalist for the shipped weights."""
    tasks: str = "*"
    """Tasks, comma-separated; * matches anything, of the bodies that a checkpoint knows."""
    data: tuple[str, ...] = ()
    """Compare with the episodes of these data sets, of any known format, instead of playing."""
    held_out: Annotated[float, within(0, 1)] | None = None
    """With --data: the fraction of each task's episodes that counts, the last ones; by default those that training held
    out, and all of data that the checkpoint did not learn from."""
    windows: Annotated[int, within(1, 10**7)] = 1000
    """With --data: frames at which the policy is asked at most, evenly spaced over the episodes."""
    permutations: Annotated[int, within(0, 1000)] = 2
    """With --data: times that each camera, the words and the state are taken from other episodes; 0 for none."""
    skip_damaged: bool = False
    """With --data: leave out episodes of which a file is missing or cannot be read, with a line for each."""
    episodes: Annotated[int, within(1, 10**6)] = 10
    """Episodes of each task."""
    seed: Seed = 1000
    """Seed of the first episode of each task; the others follow."""
    policy: Literal["checkpoint", "expert", "random"] = "checkpoint"
    """Who drives."""
    json: Path | None = None
    """Write the results here."""
    report: Path | None = None
    """Write an HTML report with videos into this folder."""
    rerun: Path | None = None
    """Write what was sensed and done in each task's first episode here: a recording for Rerun's viewer, FILE.rrd."""
    workers: Annotated[int, within(1, 4096)] = 2
    """Processes."""
    slots: Annotated[int, within(1, 10_000)] = 16
    """Episodes at a time in each process."""
    execute: Annotated[int, within(1, 10_000)] | None = None
    """Actions of a chunk that are executed before the policy is asked again; half of it by default."""
    temperature: Annotated[float, within(0, 1000)] | None = None
    """Of the choice among discrete actions."""
    ensemble: Annotated[float, within(-1000, 1000)] | None = None
    """Rate of temporal ensembling; off by default."""
    limits: LimitsFile = None
    guard: GuardFolder = ""
    paraphrases: Literal["none", "train", "held-out"] = "none"
    """Say instructions in other words: those of training, or those that training never saw."""
    paraphrase_file: str = SHIPPED
    """A TOML file of other words (see docs/training.md), or shipped."""
    listening: bool = False
    """Also play every episode with other instructions: another task's, nonsense, none."""
    conditioning: Conditioning = "words"
    """What says what to do: words, the pictures at the end of the expert's episode, or both."""
    retrieve: str = ""
    """A folder of demonstrations that the policy looks up while it acts, without learning from them."""
    demos: Annotated[int, within(0, 10**6)] = 0
    """Demonstrations of each task in --retrieve; 0 for all."""
    graph: GraphLogs = ""
    cell: GraphCell = 0.0
    edges: GraphEdges = ""
    paths: PathsCheckpoint = ""
    midpoints: MidpointLogs = ""
    world_search: WorldSearch = None
    avoid: Path | None = None
    """A TOML file of zones by body (docs/planning.md): ways of --graph, --paths and of a checkpoint that draws its own
    lead around them, and it is counted how often a zone is entered, whichever checkpoint drives."""
    context: str = ""
    """A folder of episodes that the policy is shown before it acts; for policies that were trained to be shown some."""
    shots: Annotated[int, within(1, 10_000)] = 16
    """Successful episodes of the same task in --context that it is shown."""
    observation_only: bool = False
    """Withhold the actions of these episodes."""
    backend: backends.Wanted = "auto"
    """What computes decisions: onnx is faster on a CPU and needs polysoma[export]; auto takes it where it can."""
    device: Device = "auto"
    precision: Precision = "auto"
    video: Annotated[int, within(0, 8192)] = 240
    """Side of the videos in the report and in the recording, in pixels; 0 for none."""
    ray: str | None = None
    """Play on a Ray cluster: its address, auto, or local to start one here."""

    def run(self) -> None:
        if self.data:
            self._compare()
            return
        self._check()
        bodies = None
        driver: str | Checkpoint = self.policy
        if self.policy == "checkpoint":
            from polysoma.policy import checkpoint

            driver = Checkpoint(
                self.checkpoint,
                self.temperature,
                (self.retrieve, self.demos) if self.retrieve else None,
                self.precision,
                self.backend,
                self.device,
                graph=(self.graph, self.cell) if self.graph else None,
                guard=self.guard or None,
                paths=self.paths or None,
                avoid=None if self.avoid is None else str(self.avoid),
                midpoints=self.midpoints or None,
                edges=self.edges or None,
                world_search=self.world_search,
            )
            bodies = checkpoint.bodies(self.checkpoint)
            if not any(map(simulators.tasks_of, bodies)):
                raise PolysomaError(
                    f"{self.checkpoint} drives {', '.join(bodies)}, which have no simulator here: compare it with "
                    "recorded episodes (--data FOLDER)"
                )
        tasks = simulators.match_tasks(self.tasks, bodies)
        limits = None if self.limits is None else Limits.read(self.limits)
        video = self.video if self.report or self.rerun else 0
        if video and (problem := _cannot_render()):
            Console(stderr=True).print(Text(f"no videos: {problem}", style="yellow"))
            video = 0
        check_writable(*self._written())
        with contextlib.ExitStack() as stack:
            show = stack.enter_context(counting("evaluating"))
            watch = None
            if self.rerun:
                from polysoma.rollout.rerun_log import rerun_file

                watch = stack.enter_context(rerun_file(self.rerun, str(driver))).outcome

            def progress(done: int, total: int, scores: dict[str, Score]) -> None:
                won, tried = (sum(getattr(s, name) for s in scores.values()) for name in ("successes", "trials"))
                show(done, total, f"{won / tried:.1%} succeed")

            words = None if self.paraphrases == "none" else (self.paraphrase_file, self.paraphrases)
            result = evaluate(
                driver,
                tasks,
                self.episodes,
                self.seed,
                acting=Acting(self.execute, self.ensemble, limits=limits),
                prompting=Prompting(
                    self.conditioning,
                    words,
                    InContext(self.context, self.shots, self.observation_only) if self.context else None,
                ),
                workers=Workers(self.workers, self.slots, self.ray),
                video=video,
                latency=True,
                listening=self.listening,
                progress=progress,
                watch=watch,
            )
        self._write(result.to_json())
        _print(result)
        if result.listening:
            _print_listening(result.listening)
        for what in ("listening", "latency"):
            if why := result.settings.get(f"no_{what}"):
                Console(stderr=True).print(Text(f"no {what}: {why}", style="yellow"))
        if result.precision:
            processor = result.to_json()["hardware"]["instruction_set"]
            device = result.settings.get("device", processor)
            print(f"computed in {result.precision} by {result.backend} on {device}")
        if self.guard:
            for task, guarded in result.interventions.items():
                print(
                    f"the guard replaced {guarded.replaced} of {guarded.judged} plans of {task}, with alarms at "
                    f"{guarded.alarms}"
                )
        for task, zones in result.zones.items():
            print(f"{zones.episodes} of {result.tasks[task].trials} episodes of {task} were in a zone, after "
                  f"{zones.steps} of {zones.of} steps")  # fmt: skip
        for task, counts in result.limits.items():
            print(f"limits changed {counts.changed} of {counts.actions} actions of {task} ({counts.kinds()})")
        if self.report:
            from polysoma.evaluation.report import write_report

            print(f"report: {write_report(result, self.report)}")
        if self.rerun:
            print(f"recording: {self.rerun}")

    def _check(self) -> None:
        """Raises PolysomaError for options of which nothing would be heard where episodes are played."""
        check_belongs(self, "data", *_RECORDED)
        check_belongs(self, "retrieve", "demos")
        check_belongs(self, "graph", "cell")
        check_belongs(self, "context", "shots", "observation_only")
        check_belongs(self, "paraphrases", "paraphrase_file")
        if self.video and not (self.report or self.rerun) and (strange := given(self, ("video",))):
            raise PolysomaError(f"{strange} is the size of videos in a report or recording: add --report or --rerun")
        if self.policy != "checkpoint" and (strange := given(self, _OF_A_CHECKPOINT)):
            raise PolysomaError(f"{strange}: only for the policy of a checkpoint, not for --policy {self.policy}")

    def _written(self) -> list[Path]:
        """The files that are written when all is known."""
        page = None if self.report is None else self.report / "index.html"
        return [path for path in (self.json, page) if path is not None]

    def _write(self, result: dict[str, Any]) -> None:
        if self.json:
            write_atomically(self.json, (json.dumps(result, indent=1) + "\n").encode())

    def _compare(self) -> None:
        """Compares with recorded episodes."""
        playing = (field.name for field in dataclasses.fields(self) if field.name not in (*_RECORDED, *_EITHER_WAY))
        if strange := given(self, playing):
            raise PolysomaError(f"--data compares with recordings and plays nothing: leave out {strange}")
        from polysoma.cli.open_loop import measure, print_errors
        from polysoma.evaluation.open_loop_page import traces, write_page
        from polysoma.evaluation.recorded import recorded

        every = recorded(self.checkpoint, self.data, self.held_out, self.precision, self.skip_damaged, self.device)
        check_writable(*self._written())
        found = [measure(one, self.windows, self.permutations) for one in every]
        about = {"checkpoint": self.checkpoint, "data": list(self.data), "versions": versions()}
        bodies = [{**one.to_json(), "which": part.which} for part, one in zip(every, found, strict=True)]
        self._write({**about, "hardware": hardware(every[0].policy.precision, "torch"), "bodies": bodies})
        for part, one in zip(every, found, strict=True):
            print_errors(one, part.which)
        if self.report:
            drawn = [traces(part.policy.predict, part.source) for part in every]
            told = [f"{part.source.embodiment.name}: {part.which}" for part in every]
            title = f"{self.checkpoint} on recorded episodes"
            page = write_page(title, told, list(zip(found, drawn, strict=True)), self.report)
            print(f"report: {page}")


def _cannot_render() -> str:
    from polysoma.simulators.rendering import choose_backend

    try:
        choose_backend()
    except PolysomaError as error:
        return str(error)
    return ""


def _print(result: Result) -> None:
    table = Table(title=Text(f"{result.driver}: successes / trials, 95 % interval, 0 random actions to 1 expert"))
    table.add_column("task")
    for column in ("successes", "rate", "interval", "to expert"):
        table.add_column(column, justify="right")
    if len(result.tasks) <= 60:
        for task, score in result.tasks.items():
            add_row(table, task, *_cells(task, score, result))
        table.add_section()
    for family, score in result.families().items():
        latency = result.latency.get(family)
        speed = f"  ({latency['p50']:.1f} ms a decision)" if latency else ""
        add_row(table, f"{family}{speed}", *_cells(family, score, result), style="bold")
    Console().print(table)


def _print_listening(listening: dict[str, Listening]) -> None:
    table = Table(title=Text("the same episodes with other instructions, 95 % intervals"))
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == COLUMNS[0] else "right")
    for cells in table_rows(listening):
        add_row(table, *cells)
    Console().print(table)


def _cells(name: str, score: Score, result: Result) -> tuple[str, str, str, str]:
    low, high = wilson(score.successes, score.trials)
    between = result.normalised_mean(name)
    share = "" if between is None else f"{between:.2f}"
    return f"{score.successes}/{score.trials}", f"{score.rate:.2f}", f"{low:.2f}-{high:.2f}", share

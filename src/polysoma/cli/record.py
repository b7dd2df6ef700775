"""``polysoma record``: demonstrations into data sets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from polysoma import simulators
from polysoma.cli.names import Device, Precision
from polysoma.cli.options import check_belongs, given
from polysoma.cli.progress import counting
from polysoma.config import Seed, within
from polysoma.errors import PolysomaError
from polysoma.rollout.drivers import EXPERT, Behaviour, Checkpoint, InContext, Prompting, driver_of
from polysoma.rollout.recording import RecordingCounts, record
from polysoma.rollout.rollout import Workers
from polysoma.text import counted

MIXED = ("noisy", "random-goals", "fragments")
"""Behaviours that record logs instead of demonstrations."""
FRAGMENT = 25


@dataclass(frozen=True)
class Record:
    """Records demonstrations, one LeRobotDataset v3 a body under --out. Run again, it continues where it stopped.

    Examples:
        polysoma record 'metaworld/*' --episodes 25 --out data/ --workers 2 --seed 0
        polysoma record 'babyai/*' --episodes 100 --behaviour runs/x/checkpoint --out data/dagger --seed 100000
        polysoma record minatar/breakout --policy runs/breakout/checkpoint --out data/games
        polysoma record pointmaze/medium --episodes 350 --behaviour fragments --out data/logs
    """

    tasks: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASKS")]
    """Tasks, comma-separated; * matches anything."""
    episodes: Annotated[int, within(1, 10**6)] = 25
    """Episodes of each task."""
    out: Path = Path("data")
    """Folder of the data sets."""
    workers: Annotated[int, within(1, 4096)] = 2
    """Processes."""
    seed: Seed = 0
    """Seed of the first episode of each task; the others follow."""
    behaviour: str = EXPERT
    """Who drives: expert, random, or a checkpoint. The expert labels what another visits (DAgger). Or logs of mixed
    quality: noisy (an expert whose noise differs from episode to episode, failures are kept), random-goals (the same,
    and after each success on to another goal until the time is up, where the task has other goals), or fragments (the
    same in pieces of --fragment frames)."""
    noise: Annotated[float, within(0, 10)] | None = None
    """Action noise (DART) as a fraction of half the action range; by default what suits each task; 0 for none. Of
    noisy, random-goals and fragments the most that an episode draws, by default 1."""
    fragment: Annotated[int, within(0, 10**6)] | None = None
    """Frames after which episodes are cut into pieces; by default 25 for fragments, and 0, not at all, for others."""
    policy: str = ""
    """A checkpoint that takes the expert's place: its own actions are recorded, of the episodes in which it succeeds.
    For tasks without an expert, or with a better player."""
    temperature: Annotated[float, within(0, 1000)] = 1.0
    """Of a checkpoint's discrete actions."""
    max_steps: Annotated[int, within(1, 10**9)] | None = None
    """Cut episodes after this many steps."""
    context: str = ""
    """A folder of episodes that a checkpoint is shown before it acts."""
    shots: Annotated[int, within(1, 10_000)] = 16
    """Successful episodes of the same task in --context that it is shown, or as many as there are."""
    slots: Annotated[int, within(1, 10_000)] = 16
    """Episodes at a time in each process."""
    device: Device = "auto"
    precision: Precision = "auto"
    ray: str | None = None
    """Play on a Ray cluster: its address, auto, or local to start one here. Episodes are written here."""

    def run(self) -> None:
        if self.policy and self.behaviour != EXPERT:
            raise PolysomaError(f"--policy takes the expert's place: expected no --behaviour, got {self.behaviour}")
        mixed = self.behaviour in MIXED
        driver = driver_of(EXPERT if mixed else self.policy or self.behaviour)
        check_belongs(self, "context", "shots")
        if not isinstance(driver, Checkpoint) and (strange := given(self, ("temperature", "context"))):
            raise PolysomaError(f"{strange}: only for checkpoints, not for --behaviour {self.behaviour}")
        if isinstance(driver, Checkpoint):
            driver = replace(driver, temperature=self.temperature, device=self.device, precision=self.precision)
        shown = InContext(self.context, self.shots) if self.context else None
        most = 1.0 if self.noise is None else self.noise
        usual = FRAGMENT if self.behaviour == "fragments" else 0
        behaviour = Behaviour(
            driver,
            prompting=Prompting(in_context=shown),
            noise=(0.0, most) if mixed else self.noise,
            max_steps=self.max_steps,
            endless=mixed and self.behaviour != "noisy",
            keep_failures=mixed,
            fragment=usual if self.fragment is None else self.fragment,
            demonstrates=bool(self.policy),
        )
        tasks = simulators.match_tasks(self.tasks)
        with counting("recording") as show:

            def progress(done: int, total: int, so_far: RecordingCounts) -> None:
                rate = so_far.steps / max(so_far.seconds, 1e-9)
                show(done, total, f"{rate:,.0f} steps/s, {sum(so_far.failed.values())} failed")

            workers = Workers(self.workers, self.slots, self.ray)
            result = record(tasks, self.episodes, self.out, behaviour, workers, self.seed, progress)
        print(
            f"kept {counted(sum(result.kept.values()), 'episode')}, dropped {sum(result.failed.values())} that failed, "
            f"{result.skipped} were there already; {result.steps:,} steps in {result.seconds:.1f} s "
            f"({result.steps / max(result.seconds, 1e-9):,.0f} steps/s) -> {self.out}"
        )
        for task, count in sorted(result.failed.items()):
            print(f"  {task}: {count} of {count + result.kept[task]} failed")

"""Evaluation: seeded episodes of many tasks, successes out of trials with intervals, decision latency."""

from __future__ import annotations

import functools
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata, resources
from typing import Any

import numpy as np

from polysoma import simulators
from polysoma.acting.agent import Acting
from polysoma.acting.limiter import LimitCounts
from polysoma.acting.planner import Interventions, Planner
from polysoma.acting.realtime import RealTime
from polysoma.acting.zones import ZoneCounts
from polysoma.errors import PolysomaError
from polysoma.evaluation.intervals import mean_interval, wilson
from polysoma.evaluation.latency import decision_latency
from polysoma.evaluation.listening import Listening, listen
from polysoma.rollout.drivers import (
    Behaviour,
    Checkpoint,
    Driver,
    Expert,
    Prompting,
    Random,
    name_of,
)
from polysoma.rollout.jobs import Outcome, interleave
from polysoma.rollout.rollout import Workers, rollout_in_workers
from polysoma.task import body_of

REFERENCE_FILE = "reference.json"
"""Success rates of the expert and of random actions, recorded with ``benchmarks/reference.py``."""


@dataclass
class Score:
    """Results of one task or family: one outcome for each seed, in the order of the seeds."""

    seeds: list[int] = field(default_factory=list)
    outcomes: list[bool] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    @property
    def successes(self) -> int:
        return sum(self.outcomes)

    @property
    def trials(self) -> int:
        return len(self.outcomes)

    @property
    def rate(self) -> float:
        return self.successes / self.trials

    def to_json(self) -> dict[str, Any]:
        return {
            "successes": self.successes,
            "trials": self.trials,
            "rate": round(self.rate, 4),
            "interval": [round(limit, 4) for limit in wilson(self.successes, self.trials)],
            "return": round(float(np.mean(self.returns)), 3),
            "return_interval": [round(limit, 3) for limit in mean_interval(self.returns)],
        }


@dataclass
class Result:
    """An evaluation: scores by task, latency by family, videos by task, what guards did by task, whether words made a
    difference by family, and the precision of a checkpoint's products."""

    driver: str
    tasks: dict[str, Score]
    settings: dict[str, Any]
    seconds: float
    latency: dict[str, dict[str, float]] = field(default_factory=dict)
    videos: dict[str, Outcome] = field(default_factory=dict)
    interventions: dict[str, Interventions] = field(default_factory=dict)
    listening: dict[str, Listening] = field(default_factory=dict)
    limits: dict[str, LimitCounts] = field(default_factory=dict)
    zones: dict[str, ZoneCounts] = field(default_factory=dict)
    precision: str = ""
    backend: str = ""

    def families(self) -> dict[str, Score]:
        """All episodes of a family's tasks as one score."""
        families: dict[str, Score] = {}
        for task, score in self.tasks.items():
            family = families.setdefault(body_of(task), Score())
            family.seeds += score.seeds
            family.outcomes += score.outcomes
            family.steps += score.steps
            family.returns += score.returns
        return families

    def expert_normalised(self) -> dict[str, float | None]:
        """How far each task lies between random actions (0) and the expert (1): by success, or by return where that
        is what counts. None where no reference is known."""
        known_of = reference()
        families = simulators.families()
        found: dict[str, float | None] = {}
        for task, score in self.tasks.items():
            family = families[body_of(task)]
            known = known_of.get(family.embodiment.body + task[task.index("/") :])
            if family.by_return:
                mean = float(np.mean(score.returns))
                found[task] = normalised(mean, known and {k: known[f"{k}_return"] for k in ("expert", "random")})
            else:
                found[task] = normalised(score.rate, known)
        return found

    def normalised_mean(self, name: str) -> float | None:
        """The mean of :meth:`expert_normalised` over a family's tasks, or that of one task; None if unknown."""
        own = [value for task, value in self.expert_normalised().items() if f"{task}/".startswith(f"{name}/")]
        known = [value for value in own if value is not None]
        return round(float(np.mean(known)), 4) if known else None

    def hardware(self) -> dict[str, Any]:
        """See :func:`hardware`. What is no checkpoint computed where it is, in this process."""
        device = self.settings.get("device", "cpu" if self.precision else "")
        return hardware(self.precision, self.backend, device)

    def to_json(self) -> dict[str, Any]:
        """The documented JSON: checkpoint, versions, tasks, families."""
        between = self.expert_normalised()
        tasks = {
            task: {
                **score.to_json(),
                "expert_normalised": between[task],
                "seeds": score.seeds,
                "outcomes": [int(outcome) for outcome in score.outcomes],
                "steps": score.steps,
            }
            for task, score in self.tasks.items()
        }
        families = {}
        for family, score in self.families().items():
            families[family] = {
                **score.to_json(),
                "mean_of_tasks": round(
                    float(np.mean([s.rate for t, s in self.tasks.items() if t.startswith(family + "/")])), 4
                ),
                "expert_normalised": self.normalised_mean(family),
                "latency_ms": self.latency.get(family),
            }
        guarded = {task: asdict(counts) for task, counts in self.interventions.items()}
        limited = {task: asdict(counts) for task, counts in self.limits.items()}
        zones = {task: asdict(counts) for task, counts in self.zones.items()}
        return {
            "checkpoint": self.driver,
            "versions": versions(),
            "hardware": self.hardware(),
            "settings": self.settings,
            "seconds": round(self.seconds, 1),
            "tasks": tasks,
            "families": families,
            **({"interventions": guarded} if guarded else {}),
            **({"listening": {name: one.to_json() for name, one in self.listening.items()}} if self.listening else {}),
            **({"limits": limited} if limited else {}),
            **({"zones": zones} if zones else {}),
        }


def evaluate(
    driver: Driver | Planner | str,
    tasks: Sequence[str],
    episodes: int,
    seed: int,
    *,
    acting: Acting | RealTime | None = None,
    prompting: Prompting | None = None,
    workers: Workers | int = 1,
    video: int = 0,
    latency: bool = False,
    listening: bool = False,
    progress: Callable[[int, int, dict[str, Score]], None] | None = None,
    watch: Callable[[Outcome], None] | None = None,
) -> Result:
    """Plays ``episodes`` of each task with the seeds ``seed, seed + 1, ...``.

    Args:
        driver: what decides: a checkpoint by its folder or name, ``"expert"``, ``"random"``, a planner (in this process
            alone), or a picklable callable that makes one (:mod:`polysoma.rollout.drivers`).
        tasks: full names.
        episodes: of each task.
        seed: of the first one.
        acting: how plans become actions; None for the defaults.
        prompting: how the driver is given its tasks; None for words.
        workers: where episodes are played, or in how many processes.
        video: side in pixels of a video of each task's first episode; 0 for none.
        latency: also time single decisions, one thread, one body at a time; not of experts and random actions.
        listening: also play the same episodes with other instructions (:mod:`polysoma.evaluation.listening`).
        progress: called with episodes done, in all, and the scores so far.
        watch: called with the outcome of each task's first episode, which then holds what was sensed and done.

    Raises:
        PolysomaError: unknown task, no such checkpoint or cluster, a checkpoint that does not know a body, fewer
            successful demonstrations than are to be shown, or listening without words.
    """
    if episodes < 1:
        raise PolysomaError(f"episodes must be at least 1, got {episodes}")
    behaviour = Behaviour(driver, acting or Acting(), prompting or Prompting())
    if listening and behaviour.prompting.conditioning != "words":
        raise PolysomaError("listening: expected tasks that are given in words alone, not by goal pictures")
    driver, workers = behaviour.maker, Workers.of(workers)
    precision = backend = ""
    if isinstance(driver, Checkpoint):
        from polysoma.nn.backend import chosen  # torch takes a second to import
        from polysoma.nn.device import acting_on

        device = acting_on(driver.device)
        driver.check(tasks)
        backend, precision = chosen(device, driver.backend, driver.precision)
        if alone := driver.alone():
            device, (backend, precision) = "cpu", alone
        driver = replace(driver, precision=precision, backend=backend, device=device)
        behaviour = replace(behaviour, driver=driver)
    if behaviour.prompting.in_context is not None:
        behaviour.prompting.in_context.check(tasks)
    seeds = list(range(seed, seed + episodes))
    jobs = interleave(tasks, seeds, video, watch is not None)
    outcomes: dict[tuple[str, int], Outcome] = {}
    so_far: dict[str, Score] = {}
    videos: dict[str, Outcome] = {}
    began = time.monotonic()
    for done, outcome in enumerate(rollout_in_workers(jobs, behaviour, workers), 1):
        if watch is not None and outcome.episode is not None:
            watch(outcome)
            outcome = replace(outcome, episode=None)  # One after the other fits into memory, all of them may not.
        if outcome.frames:
            videos[outcome.task] = outcome
        outcomes[outcome.task, outcome.seed] = outcome
        so_far.setdefault(outcome.task, Score()).outcomes.append(outcome.success)
        if progress:
            progress(done, len(jobs), so_far)
    scores, interventions, limits, zones = {}, {}, {}, {}
    for task in tasks:
        own = [outcomes[task, s] for s in seeds]
        scores[task] = Score(seeds, [o.success for o in own], [o.steps for o in own], [o.total for o in own])
        judged = sum((outcome.interventions for outcome in own), Interventions())
        if judged.judged:
            interventions[task] = judged
        if counts := [outcome.limits for outcome in own if outcome.limits is not None]:
            limits[task] = sum(counts, LimitCounts())
        if watched := [outcome.zones for outcome in own if outcome.zones is not None]:
            zones[task] = sum(watched, ZoneCounts())
    result = Result(
        name_of(driver),
        scores,
        _settings(behaviour, episodes, seed, workers),
        time.monotonic() - began,
        videos=videos,
        interventions=interventions,
        limits=limits,
        zones=zones,
        precision=precision,
        backend=backend,
    )
    if listening:
        right = {(task, s): outcomes[task, s] for s in seeds for task in tasks}
        try:
            result.listening = listen(right, behaviour, workers, lambda d, n: progress and progress(d, n, so_far))
        except PolysomaError as error:
            # As below.
            result.settings["no_listening"] = str(error)
    if latency and not isinstance(driver, Expert | Random):
        try:
            result.latency = decision_latency(driver, tasks, seed)
        except PolysomaError as error:
            # All episodes are played: what cannot be timed does not take them away.
            result.settings["no_latency"] = str(error)
    return result


def _settings(behaviour: Behaviour, episodes: int, seed: int, workers: Workers) -> dict[str, Any]:
    """What an evaluation's JSON says of how it was made; what is left at its default is left out."""
    driver, prompting = behaviour.driver, behaviour.prompting
    acting = {name: value for name, value in asdict(behaviour.acting).items() if value is not None}
    settings: dict[str, Any] = {"episodes": episodes, "seed": seed, "workers": workers.processes}
    settings["slots"] = workers.slots
    if isinstance(driver, Checkpoint) and driver.temperature is not None:
        acting["temperature"] = driver.temperature
    settings["real_time" if isinstance(behaviour.acting, RealTime) else "acting"] = acting
    if isinstance(driver, Checkpoint) and driver.device != "cpu":
        settings["device"] = driver.device
    if isinstance(driver, Checkpoint) and driver.retrieve is not None:
        settings["retrieve"] = list(driver.retrieve)
    if isinstance(driver, Checkpoint) and driver.graph is not None:
        settings["graph"] = list(driver.graph)
    if isinstance(driver, Checkpoint):
        beside = ("edges", "paths", "midpoints", "avoid", "guard", "world_search")
        settings |= {name: own for name in beside if (own := getattr(driver, name)) is not None}
    if prompting.paraphrases:
        settings["paraphrases"] = list(prompting.paraphrases)
    if prompting.conditioning != "words":
        settings["conditioning"] = prompting.conditioning
    if prompting.in_context is not None:
        settings["in_context"] = asdict(prompting.in_context)
    return settings


def normalised(rate: float, reference: dict[str, float] | None) -> float | None:
    """``(rate - random) / (expert - random)``; None where no reference is known."""
    if reference is None or reference["expert"] <= reference["random"]:
        return None
    return round((rate - reference["random"]) / (reference["expert"] - reference["random"]), 4)


@functools.cache
def reference() -> dict[str, dict[str, float]]:
    """What the expert and random actions reach: task to rates of success (``expert``, ``random``) and mean returns
    (``expert_return``, ``random_return``)."""
    file = resources.files("polysoma.evaluation") / REFERENCE_FILE
    return json.loads(file.read_text())["tasks"] if file.is_file() else {}


def versions() -> dict[str, str]:
    """Versions of what results may depend on."""
    simulating = ("gymnasium", "gymnasium-robotics", "mujoco", "metaworld", "minigrid", "minatar", "ale-py")
    names = ("polysoma", "torch", "onnxruntime", "numpy", *simulating)
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def computed_on(told: Mapping[str, Any]) -> str:
    """What computed, for people, of what :func:`hardware` says: the GPU where there was one, and the processor."""
    return ", ".join(told[name] for name in ("accelerator", "processor") if name in told) or "unknown processor"


def hardware(precision: str = "", backend: str = "", device: str = "") -> dict[str, Any]:
    """The processor's name, its instructions for products, the number of cores this process may use, and the GPU's name
    (``accelerator``) where one computed.

    Args:
        precision, backend: what a policy was computed in and by, which is noted, too; empty where none was.
        device: on which; empty for whatever this process has computed on.
    """
    from polysoma.nn.device import accelerator  # torch takes a second to import
    from polysoma.nn.precision import instruction_set

    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
        cores = len(os.sched_getaffinity(0))
    except (OSError, AttributeError):
        cores = os.cpu_count() or 1
    found = {"processor": model, "instruction_set": instruction_set(), "cores": cores}
    noted = {"accelerator": accelerator(device), "precision": precision, "backend": backend}
    return found | {name: value for name, value in noted.items() if value}

"""What a guard changes where actions are numbers and simulators are the shipped ones: a maze with pits, and
Meta-World's basketball with "object lost".

    python benchmarks/guard_tasks.py
    python benchmarks/guard_tasks.py --only maze --seeds 7000

The driver is the task's expert, who now and then does something drawn evenly for a while. Everything is learned from
recordings of it, of which two thirds are noisier than what is measured. Controls: no guard, one that replaces the same
actions by others that are drawn evenly, and the expert wherever the guard finds the risk too high. What is there
already is not measured again. One to ten minutes of one core for each task and seed.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from guard import alarms, shown
from polysoma import simulators
from polysoma.acting.agent import Acting
from polysoma.acting.dead_ends import DeadEndGuard
from polysoma.acting.guards import Guarded, Verdict
from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt
from polysoma.data.dataset import Dataset
from polysoma.data.outcomes import Outcomes
from polysoma.embodiment import ContinuousActions, Observation
from polysoma.errors import PolysomaError
from polysoma.learning.dead_ends import calibrate, engine_settings, fit
from polysoma.learning.methods.dead_ends import LearnDeadEnds
from polysoma.policy.dead_ends import DeadEndConfig
from polysoma.rollout.drivers import Behaviour, Driver
from polysoma.rollout.jobs import Job
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import rollout_in_workers
from results import cells_of, read, write

WORLDS = ("pit_maze.py", "lost_object.py")
RATE, REPLACE, SEEDS = 0.05, 0.1, (7000, 7001, 7002, 7003, 7004)
FIRST = 640_000
"""The first seed of an episode; those of a seed of learning and of a purpose are far from all others'."""


@dataclass(frozen=True)
class Setting:
    """A task.

    Attributes:
        task: its full name.
        span: steps for which an action is held.
        judged: steps for which the guard judges it, as if it were held so long; it asks again after a span.
        held: spans for which something random goes on.
        noise: the part of the time in which the driver does something random; of the recordings a third each.
        limit: steps after which an episode is cut.
        octaves: see DeadEndConfig; few for a state of many channels.
        expectile: see LearnDeadEnds; lower where luck decides what follows.
        episodes: to learn from.
        played: each way.
    """

    task: str
    span: int
    judged: int
    held: int
    noise: tuple[float, float, float]
    limit: int
    octaves: int
    expectile: float
    episodes: int
    played: int

    def acting(self) -> Acting:
        return Acting(execute=self.span)


SETTINGS = {
    "maze with pits": Setting("pointmaze/medium", 5, 5, 4, (0.15, 0.3, 0.5), 600, 4, 0.9, 900, 100),
    "object lost": Setting("metaworld/basketball-v3", 2, 4, 10, (0.2, 0.35, 0.5), 300, 1, 0.8, 900, 60),
}


class Careless:
    """The expert's action, held for a span; and now and then one that is drawn evenly, for several spans. Asked for
    other plans, it draws anew: most often what the expert does.

    Args:
        setting: whose span.
        noise: the part of the time in which it is drawn.
    """

    class _Session(Session):
        def __init__(self, prompt: TaskPrompt, seed: int, span: int) -> None:
            super().__init__(prompt, span)
            self.rng, self.left = np.random.default_rng([seed, 9]), 0
            self.action = np.zeros(0)

    def __init__(self, setting: Setting, noise: float) -> None:
        self._span, self._held = setting.span, setting.held
        self._begins, self._noise = noise / (noise + setting.held * (1 - noise)), noise

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        return self._Session(prompt, seed, self._span)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        plans: list[Plan | PolysomaError] = []
        for session in sessions:
            assert isinstance(session, self._Session) and session.prompt.expert is not None
            if session.left == 0 and session.rng.random() < self._begins:
                session.left = self._held
                session.action = session.prompt.body.actions.sample(session.rng)
            random, session.left = session.left > 0, max(0, session.left - 1)
            try:
                action = session.action if random else session.prompt.expert()
            except PolysomaError as failure:
                plans.append(failure)
                continue
            plans.append(Plan(self.held_for(action), "policy", others=functools.partial(self._others, session)))
        return plans

    def held_for(self, action: Any) -> np.ndarray:
        return np.repeat(np.asarray(action, np.float32)[None], self._span, 0)

    def _others(self, session: _Session, count: int) -> np.ndarray:
        assert session.prompt.expert is not None
        expert, actions = session.prompt.expert(), session.prompt.body.actions
        drawn = [actions.sample(session.rng) if session.rng.random() < self._noise else expert for _ in range(count)]
        return np.stack([self.held_for(one) for one in drawn])


class Blind:
    """Replaces what a guard replaces, by actions that are drawn evenly."""

    def __init__(self, guard: DeadEndGuard) -> None:
        self._guard, self._rng = guard, np.random.default_rng(0)

    def judge(self, observation: Observation, plan: Plan) -> Verdict:
        found = self._guard.judge(observation, plan)
        if found.actions is None:
            return found
        actions = self._guard.values.body.actions
        assert isinstance(actions, ContinuousActions)
        drawn = np.repeat(actions.sample(self._rng)[None], len(found.actions), 0)
        return Verdict.replace(drawn, found.risk, found.reason, found.alarm)


class Minded:
    """The careless driver, who does what the expert would wherever the guard finds the risk too high: whether there is
    still time then."""

    def __init__(self, driver: Careless, guard: DeadEndGuard) -> None:
        self._driver, self._guard = driver, guard

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        return self._driver.start(prompt, seed)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        plans: list[Plan | PolysomaError] = []
        for session, seen, plan in zip(sessions, observations, self._driver.plan(sessions, observations), strict=True):
            assert session.prompt.expert is not None and self._guard.values.alarm is not None
            if isinstance(plan, Plan) and (self._guard.judge(seen, plan).risk or 0) > self._guard.values.alarm.replace:
                plan = Plan(self._driver.held_for(session.prompt.expert()), "policy")
            plans.append(plan)
        return plans


def main(
    folder: Path = Path("runs/guard-tasks"),
    only: str = "",
    seeds: tuple[int, ...] = SEEDS,
    episodes: int = 0,
    played: int = 0,
    steps: int = 2000,
) -> None:
    """Measures all, or the tasks whose names hold ``only``. Fewer episodes than in the settings are for a trial."""
    torch.set_num_threads(1)
    worlds = Path(__file__).parent / "worlds"
    # In the place of the shipped tasks of the same bodies.
    os.environ[simulators.FAMILIES_VARIABLE] = os.pathsep.join(str(worlds / name) for name in WORLDS)
    simulators.families.cache_clear()
    cells = cells_of("guard-tasks")
    settings = {"rate": RATE, "replace": REPLACE, "steps": steps}
    for seed in seeds:
        for name, setting in SETTINGS.items():
            if only not in name:
                continue
            setting = replace(setting, episodes=episodes or setting.episodes, played=played or setting.played)
            cell = cells.setdefault(name, {}).setdefault(str(seed), {})
            own = folder / f"{setting.task.replace('/', '-')}-{seed}"
            for part in measured(cell, setting, own, seed, settings):
                print(name, seed, part, flush=True)
                write("guard-tasks", {"settings": settings, "cells": cells})


def measured(cell: dict[str, float], setting: Setting, folder: Path, seed: int, settings: dict[str, Any]) -> Any:
    """Measures what a cell lacks, and yields after each part what it was."""
    if all(f"deaths{name}" in cell for name in ("", "_guarded", "_random", "_minded")):
        return
    first, episodes = FIRST + 10_000 * (seed - SEEDS[0]), setting.episodes
    logs = [_recorded(setting, noise, episodes // 3, folder / str(noise), first + 1000 * n)
            for n, noise in enumerate(setting.noise)]  # fmt: skip
    calibration, fresh = (
        _recorded(setting, setting.noise[0], episodes // 2, folder / part, first + 1000 * n)
        for n, part in ((3, "thresholds"), (4, "fresh"))
    )
    began = time.process_time()
    body = logs[0].embodiment
    config = DeadEndConfig(body, width=128, span=setting.judged, remembered=1024, octaves=setting.octaves)
    learned = fit(
        config,
        Outcomes.of(logs, setting.judged),
        engine_settings(settings["steps"]),
        LearnDeadEnds(expectile=setting.expectile),
        seed,
    )
    guard = DeadEndGuard(calibrate(learned, Outcomes.of([calibration], setting.judged), RATE, REPLACE))
    if "false_alarms" not in cell:
        cell["learned_s"] = time.process_time() - began
        cell["logged_deaths"] = float(np.mean([_deaths(one) for one in logs]))
        cell |= alarms(guard.values, Outcomes.of([fresh], setting.judged))
        cell["lead_s"] = cell.pop("lead") / config.embodiment.rate_hz
        yield "learned"
    driver = Careless(setting, setting.noise[0])
    ways: dict[str, Driver | Planner] = {
        "": driver,
        "_guarded": guard.around(driver),
        "_random": Guarded(driver, Blind(guard)),
        "_minded": Minded(driver, guard),
    }
    for name, way in ways.items():
        if f"deaths{name}" not in cell:
            cell |= _played(setting, way, range(first + 5000, first + 5000 + setting.played), name)
            yield f"played{name}: {cell[f'deaths{name}']:.2f} deaths, {cell[f'successes{name}']:.2f} successes"


def _recorded(setting: Setting, noise: float, episodes: int, folder: Path, seed: int) -> Dataset:
    behaviour = Behaviour(
        Careless(setting, noise), setting.acting(), keep_failures=True, demonstrates=True, max_steps=setting.limit
    )
    record([setting.task], episodes, folder, behaviour, 1, seed)
    return Dataset(folder / setting.task.partition("/")[0])


def _deaths(data: Dataset) -> float:
    return float((data.episode_terminated & ~data.episode_success).mean())


def _played(setting: Setting, driver: Driver | Planner, seeds: Sequence[int], name: str) -> dict[str, float]:
    jobs = [Job(setting.task, seed, kept=True) for seed in seeds]
    found = list(rollout_in_workers(jobs, Behaviour(driver, setting.acting(), max_steps=setting.limit)))
    died = [one.episode is not None and one.episode.terminated and not one.success for one in found]
    judged, replaced = (sum(getattr(one.interventions, what) for one in found) for what in ("judged", "replaced"))
    return {
        f"deaths{name}": float(np.mean(died)),
        f"successes{name}": float(np.mean([one.success for one in found])),
        f"replaced{name}": replaced / max(1, judged),
    }


def render() -> str:
    """What the guard changes in these tasks."""
    found = read("guard-tasks")
    told, there = found["settings"], {name: SETTINGS[name] for name in found["cells"]}
    columns = {
        "deaths": "deaths: no guard", "deaths_guarded": "guard", "deaths_random": "random instead",
        "deaths_minded": "the expert instead",
        "successes": "success: no guard", "successes_guarded": "guard", "replaced_guarded": "replaced",
        "false_alarms": "false alarms", "false_unlike": "unlike", "flagged": "deaths with an alarm",
        "lead_s": "lead (s)",
    }  # fmt: skip
    lines = [f"| task | seeds | {' | '.join(columns.values())} |", "| --- " * (len(columns) + 2) + "|"]
    for task, cell in found["cells"].items():
        rates = {name: there[task].played for name in columns if name.startswith(("deaths", "successes"))}
        row = " | ".join(shown(cell, name, rates.get(name, 0)) for name in columns)
        lines.append(f"| {task} | {len(cell)} | {row} |")
    less = []
    for cell in found["cells"].values():
        with_guard, without = (sum(run[name] for run in cell.values()) for name in ("deaths_guarded", "deaths"))
        less.append(f"{100 * (1 - with_guard / without):.0f} %")
    noises = "; ".join(f"{name}: {' / '.join(f'{n:g}' for n in one.noise)}" for name, one in there.items())
    expectiles = ", ".join(f"{one.expectile:g} ({name})" for name, one in there.items())
    counts = "; ".join(
        f"{name}: {one.episodes} episodes to learn from, {one.played} played" for name, one in there.items()
    )
    return "\n".join(lines) + (
        f"\n\nMeans over seeds with 95 % intervals, of a single seed that of its episodes; each seed has recordings, "
        f"learning and episodes of its own. "
        f"Deaths are fewer by {' and '.join(less)}. {counts}; half as many to find thresholds with (rate "
        f"{told['rate']:g}), and to count alarms in. The driver does something random for a part of the time "
        f"({noises}; the first one is measured, a third each is learned from). "
        f"{told['steps']:,} steps of learning, with an expectile of {expectiles}. Actions of a risk above "
        f"{told['replace']:g} are replaced; the control "
        f"draws others evenly in their place. Lead: from the first alarm to the end of an episode that failed, the "
        f"middle one (`{found['command']}`).\n"
    )


if __name__ == "__main__":
    tyro.cli(main)

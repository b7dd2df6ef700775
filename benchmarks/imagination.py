"""Acting by world models: a pendulum from nothing beside PPO and SAC, and from logs. Levels of BabyAI: ``search.py``.

    python benchmarks/imagination.py --only pendulum --seeds 0 1 2    # cells that are there are not measured again

PPO and SAC are stable-baselines3's with their default settings, which must be importable. Whoever learns the pendulum
from nothing is judged, without noise, on the same unseen episodes every few steps of the environment, until 9 of 10 of
them succeed (half of the highest return), or up to a limit. One choice was made by these episodes, which the
documentation names.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro

from polysoma.acting.imagining import Looking, WorldPlanner
from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt
from polysoma.data.dataset import Dataset
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate, hardware
from polysoma.evaluation.foresight import LAST, MODEL, SHUFFLED, foresight, read_logs
from polysoma.evaluation.intervals import mean_interval, wilson
from polysoma.learning.methods.imagination import Exploring, Imagination
from polysoma.learning.methods.world import learn
from polysoma.learning.playing import play_in_imagination
from polysoma.policy import world
from polysoma.rollout.drivers import Behaviour, Driver, Expert, Random, Ready
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import Workers
from results import cells_of, commit, read, share, write

SEED, EPISODES, LOGS = 398_000, 10, 520_000
"""Of the episodes that judge, and of those that are recorded; those that are played to learn begin at 500,000."""
PENDULUM = "inverted-pendulum/balance"
LIMITS = {"imagination": 8_000, "ppo": 61_440, "sac": 8_000}
EVERY = {"imagination": 200, "ppo": 2_048, "sac": 400}
"""Steps of the environment between two times of judging."""
RECORDED, LEARNT = 2_000, 200
"""Random steps of logs, and steps of learning from them."""
AHEAD = (1, 10, 20)
SHOWN = ((LAST, 1), (SHUFFLED, 1), (MODEL, 0), (MODEL, 1), (MODEL, 2))
"""Who expects rewards, after which of these steps."""
REWARDED = {"half-cheetah": "half-cheetah/run", "reacher": "reacher/reach", "walker2d": "walker2d/walk"}
ROWS = {
    "rewards": {body: body for body in REWARDED},
    "pendulum": {
        "random": "random actions",
        "expert": "expert",
        "imagination": "`world play`",
        "ppo": "PPO of stable-baselines3",
        "sac": "SAC of stable-baselines3",
    },
    "logs": {
        "random": "random actions, as the logs",
        "search": "`world learn`: a search",
        "actor": "`world learn --act`: an actor",
    },
}


class Solved(Exception):
    """There is no need to go on."""


def main(only: tuple[str, ...] = tuple(ROWS), rows: tuple[str, ...] = (), seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """Measures the cells that are missing."""
    torch.set_num_threads(1)
    for part in only:
        for seed in seeds:
            for row in ROWS[part]:
                fixed = row in ("random", "expert")
                cell = f"{part}/{row}/{seed}"
                if (rows and row not in rows) or (fixed and seed) or cell in cells_of("imagination"):
                    continue
                began = time.process_time()
                found = {**measured(part, row, seed), "cpu_s": round(time.process_time() - began, 1)}
                found |= {"commit": commit(), "instruction_set": hardware()["instruction_set"]}
                print(cell, found, flush=True)
                cells = cells_of("imagination") | {cell: found}
                write("imagination", {"seed": SEED, "cells": dict(sorted(cells.items()))})


def measured(part: str, row: str, seed: int) -> dict[str, Any]:
    """What one run comes to."""
    if part == "rewards":
        with tempfile.TemporaryDirectory() as folder:
            return foreseen(row, Path(folder), seed)
    if row in ("random", "expert"):
        return judged(Random() if row == "random" else Expert())
    with tempfile.TemporaryDirectory() as folder:
        if part == "logs":
            return from_logs(row, Path(folder), seed)
        return imagined(Path(folder) / "run", seed) if row == "imagination" else peer(row, seed)


def foreseen(body: str, folder: Path, seed: int) -> dict[str, Any]:
    """How well rewards are expected, of episodes that were not learnt from."""
    noisy = Behaviour(noise=(0.0, 1.0), keep_failures=True, max_steps=200)
    record([REWARDED[body]], 40, folder / "logs", noisy, 1, LOGS + 10_000 * seed)
    data = Dataset(folder / "logs" / body)
    model = world.load(learn([data], folder / "run", 60, 128, held_out=0.2, seed=seed))
    return {"frames": len(data), "errors": foresight(model, read_logs(model, [data], 0.2), AHEAD)["rewards"]}


def judged(driver: Driver | Planner | str) -> dict[str, Any]:
    """What comes of the episodes that judge."""
    score = evaluate(driver, [PENDULUM], EPISODES, SEED, workers=Workers(1, 16)).tasks[PENDULUM]
    return {"successes": sum(score.outcomes), "returns": [round(float(value), 2) for value in score.returns]}


class Curve:
    """What was reached after how many steps of the environment."""

    def __init__(self, limit: int) -> None:
        self.points: list[tuple[int, float, int]] = []
        self._limit = limit

    def add(self, steps: int, driver: Driver | Planner | str) -> None:
        """Judges, and raises Solved when it is."""
        found = judged(driver)
        self.points.append((steps, round(float(np.mean(found["returns"])), 1), found["successes"]))
        print(self.points[-1], flush=True)
        if found["successes"] >= 0.9 * EPISODES:
            raise Solved

    def told(self) -> dict[str, Any]:
        """As a cell holds it."""
        steps, _, successes = self.points[-1]
        return {"curve": self.points, "solved": steps if successes >= 0.9 * EPISODES else None, "limit": self._limit}


def imagined(out: Path, seed: int) -> dict[str, Any]:
    """``world play``."""
    exploring, curve = Exploring(), Curve(LIMITS["imagination"])
    every = EVERY["imagination"] // exploring.slots
    done = 0

    def evaluated(folder: Path) -> Mapping[str, float]:
        nonlocal done
        done += every
        # The step that is being judged has been played, and those at random before it.
        curve.add(_first(exploring) + done * exploring.slots, str(folder))
        return {}

    steps = (LIMITS["imagination"] - exploring.first) // exploring.slots
    with contextlib.suppress(Solved):
        play_in_imagination(PENDULUM, out, steps=steps, seed=seed, every=every, evaluate=evaluated)
    return curve.told()


def _first(exploring: Exploring) -> int:
    return -(-exploring.first // exploring.slots) * exploring.slots


class Peer:
    """What stable-baselines3 learnt, as a planner."""

    def __init__(self, model: Any, keys: Sequence[str]) -> None:
        self._model, self._keys = model, keys

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        return Session(prompt)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        seen = {key: np.stack([one[key] for one in observations]) for key in self._keys}
        actions, _ = self._model.predict(seen, deterministic=True)
        return [Plan(action[None], "policy") for action in actions]


def peer(name: str, seed: int) -> dict[str, Any]:
    """PPO or SAC with default settings, in one environment."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback

    import polysoma.simulators  # noqa: F401  (registers)

    curve, every = Curve(LIMITS[name]), EVERY[name]

    class Judge(BaseCallback):
        def _on_rollout_start(self) -> None:
            # PPO has learnt from what it played just now.
            if name == "ppo" and self.num_timesteps:
                curve.add(self.num_timesteps, Peer(self.model, ["state"]))

        def _on_step(self) -> bool:
            if name == "sac" and self.num_timesteps % every == 0:
                curve.add(self.num_timesteps, Peer(self.model, ["state"]))
            return True

    environment = gymnasium.make(f"polysoma/{PENDULUM.replace('/', '-')}", instruction=False, disable_env_checker=True)
    made = getattr(stable_baselines3, name.upper())("MultiInputPolicy", environment, seed=seed, device="cpu")
    try:
        made.learn(LIMITS[name], callback=Judge())
        if name == "ppo":
            curve.add(made.num_timesteps, Peer(made, ["state"]))
    except Solved:
        pass
    finally:
        environment.close()
    return {**curve.told(), "version": stable_baselines3.__version__}


def from_logs(row: str, folder: Path, seed: int) -> dict[str, Any]:
    """What learns from random steps."""
    count = 0
    while not count or len(Dataset(folder / "logs/inverted-pendulum")) < RECORDED:
        count += 200
        record([PENDULUM], count, folder / "logs", Behaviour(Random(), keep_failures=True), 1, LOGS + 10_000 * seed)
    data = Dataset(folder / "logs/inverted-pendulum")
    settings = None if row == "search" else Imagination()
    made = learn([data], folder / "run", LEARNT, 64, settings=settings, seed=seed)
    planner = WorldPlanner(made, Looking() if row == "both" else None)
    return {**judged(Ready(planner)), "frames": len(data)}


def render() -> str:
    """The tables."""
    found = read("imagination")
    cells: dict[str, Any] = found["cells"]

    def runs(part: str, row: str) -> list[dict[str, Any]]:
        return [cell for name, cell in cells.items() if name.startswith(f"{part}/{row}/")]

    lines = ["| rewards | the last one, 10 steps | shuffled actions, 10 steps | model, 1 step | 10 steps | 20 steps |"]
    lines.append("| --- |" + " --- |" * 5)
    for body in ROWS["rewards"]:
        if told := [cell["errors"] for cell in runs("rewards", body)]:
            shown = [_mean([one[who][at] for one in told]) for who, at in SHOWN]
            lines.append(f"| {body} | " + " | ".join(shown) + " |")
    lines += [
        "",
        "Root mean squared errors in standard deviations of rewards, so that always expecting their mean is 1; "
        f"episodes that no model saw, logs of noisy experts ({len(runs('rewards', 'reacher'))} seeds, each with its "
        "own logs; 95 % intervals), 60 steps of learning of width 128.",
        "",
    ]
    lines += [
        f"| `{PENDULUM}`, from nothing | steps of the environment until solved | runs | seconds of one core each |"
    ]
    lines += ["| --- | --- | --- | --- |"]
    for row, label in ROWS["pendulum"].items():
        own = runs("pendulum", row)
        if not own:
            continue
        if row in ("random", "expert"):
            lines.append(f"| {label} | - (return {np.mean(own[0]['returns']):.0f}) | - | - |")
            continue
        solved = ", ".join(
            f"{run['solved']:,}" if run["solved"] else f"not in {run['curve'][-1][0]:,}"
            for run in sorted(own, key=lambda run: run["solved"] or 10**9)
        )
        lines.append(f"| {label} | {solved} | {len(own)} | {np.mean([run['cpu_s'] for run in own]):.0f} |")
    lines += [
        "",
        f"| `{PENDULUM}`, from logs | mean return | success | runs, seconds each |",
        "| --- | --- | --- | --- |",
    ]
    for row, label in ROWS["logs"].items():
        lines += _row(label, runs("logs", row))
    frames = [cell["frames"] for cell in runs("logs", "search")]
    lines += [
        "",
        f"The pendulum is solved where 9 of {EPISODES} unseen episodes succeed (a return of 500; 1000 is the highest); "
        f"judged every {EVERY['imagination']} steps, PPO every {EVERY['ppo']:,}, SAC every {EVERY['sac']}. From logs: "
        f"{min(frames, default=0):,} steps or a few more of random actions, {LEARNT} steps of learning; the same "
        f"{EPISODES} episodes a run. "
        "95 % intervals over the episodes of all runs, so how much runs differ is not in them; seeds of episodes from "
        f"{found['seed']} on; PPO and SAC with their default settings. Seconds are of several processors, which the "
        "cells of the JSON name, with their commits (`python benchmarks/imagination.py`).",
    ]
    return "\n".join(lines) + "\n"


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return f"{np.mean(values):.2f}"
    low, high = mean_interval(values)
    return f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]"


def _row(label: str, runs: list[dict[str, Any]]) -> list[str]:
    if not runs:
        return [f"| {label} | not measured | | |"]
    returns = [value for run in runs for value in run["returns"]]
    low, high = mean_interval(returns)
    won, trials = sum(run["successes"] for run in runs), len(returns)
    rate = share({"successes": won, "trials": trials, "interval": wilson(won, trials)})
    cost = f"{len(runs)}, {np.mean([run['cpu_s'] for run in runs]):.0f}"
    return [f"| {label} | {np.mean(returns):.2f} [{low:.2f}, {high:.2f}] | {rate} | {cost} |"]


if __name__ == "__main__":
    tyro.cli(main)

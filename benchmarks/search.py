"""A search with a learnt model, with and without consistency, and an actor that learns in imagination, beside DQN and
PPO: steps of BabyAI until a level is solved.

    python benchmarks/search.py --only ball --rows search --seeds 0 1    # cells that are there are not measured again

PPO is stable-baselines3's (`pip install stable-baselines3` first) with its default settings but for eight environments,
and sees symbols as 0 and 1. Everyone begins with nothing and is judged on the same unseen episodes every 1,000 steps of
the environment, until 9 of 10 of them succeed, or up to a limit. Settings were chosen by other seeds of learning and
other episodes.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro

from polysoma import simulators
from polysoma.acting.planner import Plan, Planner, Session, TaskPrompt
from polysoma.embodiment import Embodiment, Observation
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate, hardware
from polysoma.evaluation.intervals import wilson
from polysoma.learning.methods import dqn
from polysoma.learning.methods.imagination import Exploring, Imagination
from polysoma.learning.methods.search import Search
from polysoma.learning.playing import play, play_by_search, play_in_imagination
from polysoma.rollout.drivers import Driver, Random
from polysoma.rollout.rollout import Workers
from results import cells_of, commit, read, share, write

SEED, EPISODES = 399_000, 40
"""Of the episodes that judge; those that are played to learn begin at 500,000."""
TASKS = {"ball": "babyai/GoToRedBallNoDists", "room": "babyai/OneRoomS8"}
LIMITS = {"ball": 16_000, "room": 24_000}
EVERY, FIRST, SLOTS = 1_000, 1_000, 8
"""Steps of the environment between two times of judging, and at random before learning; episodes at a time."""
METHOD, IMAGINATION = Search(), Imagination()
ROWS = {
    "random": "random choices",
    "search": "`world play --method search`",
    "without": "the same without consistency",
    "imagination": "`world play`",
    "dqn": "`skills play` (DQN)",
    "ppo": "PPO of stable-baselines3",
}


class Solved(Exception):
    """There is no need to go on."""


def main(
    only: tuple[str, ...] = tuple(TASKS), rows: tuple[str, ...] = tuple(ROWS), seeds: tuple[int, ...] = (0, 1, 2)
) -> None:
    """Measures the cells that are missing."""
    torch.set_num_threads(1)
    for seed in seeds:
        for name in only:
            for row in rows if seed == 0 else [row for row in rows if row != "random"]:
                if (cell := f"{name}/{row}/{seed}") in cells_of("search"):
                    continue
                found = measured(TASKS[name], row, seed, LIMITS[name])
                found |= {"commit": commit(), "instruction_set": hardware()["instruction_set"]}
                print(cell, found, flush=True)
                about = {"seed": SEED, "episodes": EPISODES, "limits": LIMITS, "every": EVERY}
                write("search", {**about, "cells": dict(sorted((cells_of("search") | {cell: found}).items()))})


def measured(task: str, row: str, seed: int, limit: int) -> dict[str, Any]:
    """What one run comes to."""
    began = time.process_time()
    if row == "random":
        return {"successes": judged(Random(), task)}
    points: list[tuple[int, int]] = []

    def reached(steps: int, driver: Driver | Planner | str) -> None:
        points.append((steps, judged(driver, task)))
        print(task, row, seed, points[-1], flush=True)
        if solved(points[-1][1]):
            raise Solved

    def evaluated(folder: Path) -> Mapping[str, float]:
        reached(FIRST + EVERY * (len(points) + 1), str(folder))
        return {}

    if row == "ppo":
        with contextlib.suppress(Solved):
            peer(task, seed, limit, reached)
        return {"curve": points, "cpu_s": round(time.process_time() - began, 1)}
    steps, every = (limit - FIRST) // SLOTS, EVERY // SLOTS
    run = partial(play, exploring=dqn.Exploring(SLOTS, FIRST, until=limit // 3))
    if row == "imagination":
        run = partial(play_in_imagination, method=IMAGINATION, exploring=Exploring(SLOTS, FIRST))
    elif row != "dqn":
        method = METHOD if row == "search" else replace(METHOD, consistency=0.0)
        run = partial(play_by_search, method=method, exploring=Exploring(SLOTS, FIRST))
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Solved):
        run(task, Path(folder) / "run", steps=steps, seed=seed, every=every, evaluate=evaluated)
    return {"curve": points, "cpu_s": round(time.process_time() - began, 1)}


def peer(task: str, seed: int, limit: int, reached: Callable[[int, Planner], None]) -> None:
    """PPO; judged every so many steps, all of which it has learnt from but for the last ones."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback

    class Judge(BaseCallback):
        due = EVERY

        def _on_rollout_start(self) -> None:
            # It has learnt from what it played just now.
            while self.num_timesteps >= self.due:
                reached(self.num_timesteps, Peer(self.model))
                self.due = self.num_timesteps + EVERY

        def _on_step(self) -> bool:
            return True

    environments = stable_baselines3.common.vec_env.DummyVecEnv([partial(Seen, task, n) for n in range(SLOTS)])
    made = stable_baselines3.PPO(
        "MlpPolicy", environments, n_steps=EVERY // SLOTS, batch_size=125, seed=seed, device="cpu"
    )
    try:
        made.learn(limit, callback=Judge())
        reached(made.num_timesteps, Peer(made))
    finally:
        environments.close()


class Seen(gymnasium.Env[np.ndarray, int]):
    """A task whose symbols are seen as 0 and 1, for a learner of other people's; its episodes are those that the
    others play."""

    def __init__(self, task: str, number: int) -> None:
        self._inner, self._next = simulators.make(task), 500_000 + number
        actions = self._inner.embodiment.actions
        self.action_space = gymnasium.spaces.Discrete(actions.size)
        shape = bits(self._inner.embodiment, [self._inner.reset(seed=0)[0]])[0].shape
        self.observation_space = gymnasium.spaces.Box(0, 1, shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observation, _ = self._inner.reset(seed=self._next)
        self._next += SLOTS
        return bits(self._inner.embodiment, [observation])[0], {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self._inner.step(int(action))
        return bits(self._inner.embodiment, [observation])[0], float(reward), terminated, truncated, {}

    def close(self) -> None:
        self._inner.close()


def bits(body: Embodiment, observations: Sequence[Observation]) -> np.ndarray:
    """A 0 or 1 for each value that each symbol can have, float32 ``(N, n)``."""
    parts = []
    for stream in body.arrays:
        held = np.stack([one[stream.name] for one in observations]).reshape(
            len(observations), -1, len(stream.cardinalities)
        )
        for place, count in enumerate(stream.cardinalities):
            parts.append((held[..., place, None] == np.arange(count)).reshape(len(observations), -1))
    return np.concatenate(parts, 1).astype(np.float32)


class Peer:
    """What stable-baselines3 learnt, as a planner: it draws, as PPO does while it plays."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        return Session(prompt)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        actions, _ = self._model.predict(bits(sessions[0].prompt.body, observations), deterministic=False)
        return [Plan(np.array([action]), "policy") for action in actions]


def solved(successes: int) -> bool:
    """Whether that many successes are enough."""
    return successes >= 0.9 * EPISODES


def judged(driver: Driver | Planner | str, task: str) -> int:
    """How many of the episodes that judge succeed."""
    return sum(evaluate(driver, [task], EPISODES, SEED, workers=Workers(1, 16)).tasks[task].outcomes)


def render() -> str:
    """The table."""
    found = read("search")
    cells: dict[str, Any] = found["cells"]
    lines = ["| task | who learns | steps of the environment until solved | success at the last, runs together |"]
    lines[0] += " runs, seconds of one core each |"
    lines.append("| --- |" + " --- |" * 4)
    for name, task in TASKS.items():
        for row, label in ROWS.items():
            runs = [cell for place, cell in cells.items() if place.startswith(f"{name}/{row}/")]
            if not runs:
                continue
            last = [run["successes"] if row == "random" else run["curve"][-1][1] for run in runs]
            trials = len(runs) * found["episodes"]
            rate = share({"successes": sum(last), "trials": trials, "interval": wilson(sum(last), trials)})
            if row == "random":
                lines.append(f"| `{task}` | {label} | - | {rate} | - |")
                continue
            ends = sorted((not solved(run["curve"][-1][1]), run["curve"][-1][0]) for run in runs)
            steps = ", ".join(f"not in {end:,}" if missed else f"{end:,}" for missed, end in ends)
            cost = f"{len(runs)}, {np.mean([run['cpu_s'] for run in runs]):.0f}"
            lines.append(f"| `{task}` | {label} | {steps} | {rate} | {cost} |")
    limits = " and ".join(f"{limit:,}" for limit in found["limits"].values())
    lines += [
        "",
        f"Solved is where {0.9 * found['episodes']:.0f} of {found['episodes']} unseen episodes succeed (seeds from "
        f"{found['seed']} on), judged every {found['every']:,} steps, up to {limits}; judging stops there, "
        "so the success at the last is of different numbers of steps. 95 % intervals over episodes, so how much runs "
        "differ is not in them. Seconds are of several processors, which the cells of the JSON name, with their "
        "commits (`python benchmarks/search.py`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

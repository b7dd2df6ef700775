"""Reward on top of imitation, beside what needs no learning.

    python benchmarks/improve.py --only shipped ppo    # cells that are there are not measured again
    python benchmarks/improve.py --only variance speed
    python benchmarks/improve.py --name improve-arm --task metaworld/pick-out-of-hole-v3 --only shipped ppo
    python benchmarks/improve.py --name improve-panel --checkpoint runs/panel/checkpoint --task panel/2048 \\
        --only shipped ppo context

What needs no learning: the policy as it is, a random push that is held while the body is stuck, up to four tries of the
same episode. What learns: `polysoma improve` by each of its methods. What uses the own successes of the policy, which
it collects with pushes in as many steps of the environment as `improve --method ppo` took with the same seed: filtered
self-imitation (a fine-tuned head), retrieval, and learning in context, for policies that were trained to be shown
episodes; the shipped weights were not. All are judged on the same unseen episodes. Pushes and noise are for bodies that
are moved by numbers. ``variance``: how the gradient of REINFORCE differs between episodes, by baseline. ``speed``:
environment steps a second of the processor, beside stable-baselines3, in the same run (it must be importable).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro

from polysoma import simulators
from polysoma.acting.opening import open_planner
from polysoma.acting.pushing import Pushed
from polysoma.embodiment import ContinuousActions, Embodiment, Observation
from polysoma.evaluation.controls import tried
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.learning.finetuning import recipe_for, with_steps
from polysoma.learning.improvement import SIZE, Play, RewardChoice, improve, method_for, start_of
from polysoma.learning.methods.awr import Awr
from polysoma.learning.methods.ppo import Ppo
from polysoma.learning.methods.reinforce import Reinforce
from polysoma.learning.objectives import generalised_advantages
from polysoma.learning.reinforcement import FromReward
from polysoma.learning.training import train
from polysoma.policy import checkpoint
from polysoma.rollout.drivers import Behaviour, Checkpoint, InContext, Prompting
from polysoma.rollout.experience import Experience
from polysoma.rollout.jobs import Job
from polysoma.rollout.recording import Recorder
from polysoma.rollout.rollout import Workers, rollout
from polysoma.task import body_of
from results import FOLDER, cells_of, difference, read, share, write

SEED = 395_000
"""Of the episodes that judge; those that are learnt from begin at 400,000."""
BETWEEN, LOOKED = 392_000, 40
"""Seed of the first of the episodes that are played after each quarter of learning, as the command does, and how many.
They are not counted among the steps of the environment."""
OWN, APART = 500_000, 40_000
"""Seed of the first own episode, and how far apart those of seeds of learning are: nine of them stay below 900,000."""
LARGE, CHEETAH = "pointmaze/large", "half-cheetah"
PANEL = Path(__file__).parents[1] / "examples" / "panel.py"
WORKERS = Workers(1, 32)
METHODS: dict[str, RewardChoice] = {"ppo": Ppo(), "reinforce": Reinforce(), "awr": Awr()}
ROWS = (
    ("shipped", "the policy as it is"),
    ("push", "a random push while stuck"),
    ("tries", "best of four tries with noise"),
    ("imitation", "filtered self-imitation"),
    ("retrieval", "retrieval of its own successes"),
    ("context", "shown its own successes, in context"),
    *((name, f"`improve --method {name}`") for name in METHODS),
)
PAID = {
    "dense": f"{LARGE}, paid for getting nearer",
    "sparse": f"{LARGE}, paid for success alone",
    "every step": f"{CHEETAH}/run, paid for speed at every step",
}
TABLES = ("improve", "improve-arm", "improve-soccer", "improve-rover", "improve-panel")
"""Files of results that the document shows, where they are there."""


@dataclass(frozen=True)
class Case:
    """What is compared: one task of a checkpoint, in so many episodes; runs lie in a folder."""

    checkpoint: str
    task: str
    folder: Path
    episodes: int

    @property
    def start(self) -> str:
        """What drives the body: the checkpoint, or an adaptation that is attached to it."""
        return start_of(self.checkpoint, body_of(self.task))

    @property
    def numbers(self) -> bool:
        """Whether the body is moved by numbers."""
        return isinstance(simulators.embodiments()[body_of(self.task)].actions, ContinuousActions)


def judged(driver: Any, case: Case, prompting: Prompting | None = None) -> dict[str, Any]:
    """What a driver reaches on unseen episodes."""
    score = evaluate(driver, [case.task], case.episodes, SEED, prompting=prompting, workers=WORKERS).tasks[case.task]
    return scored(score.outcomes)


def scored(outcomes: Sequence[bool]) -> dict[str, Any]:
    won, trials = sum(outcomes), len(outcomes)
    return {"successes": won, "trials": trials, "interval": wilson(won, trials), "outcomes": [int(o) for o in outcomes]}


def tries(case: Case) -> dict[str, Any]:
    """Up to four tries of the same episode, with more and more noise."""
    return scored(tried(Checkpoint(case.checkpoint), [case.task], case.episodes, SEED, WORKERS)[case.task])


@functools.cache
def own_successes(case: Case, seed: int, env_steps: int) -> tuple[Path, dict[str, int]]:
    """Plays, with pushes where the body is moved by numbers, until that took so many steps, and keeps what succeeded:
    a data set, and how much there is of what."""
    planner = open_planner(case.checkpoint)
    behaviour = Behaviour(Pushed(planner) if case.numbers else planner, demonstrates=True)
    found = {"env_steps": 0, "own_episodes": 0, "own_successes": 0}
    seeds = iter(range(OWN + seed * APART, OWN + (seed + 1) * APART))

    def next_job() -> Job | None:
        return Job(case.task, next(seeds), kept=True) if found["env_steps"] < env_steps else None

    folder = case.folder / f"own-{seed}-{time.time_ns()}"
    with Recorder(folder, [case.task]) as recorder:
        for outcome in rollout(next_job, behaviour, WORKERS.slots):
            found["env_steps"] += outcome.steps
            found["own_episodes"] += 1
            if outcome.success:
                found["own_successes"] += 1
                recorder.add(outcome)
    if not found["own_successes"]:
        sys.exit(f"{case.task}: none of {found['own_episodes']} own episodes succeeded, so there is none to use")
    return folder / body_of(case.task), found


def imitation(case: Case, seed: int, env_steps: int, steps: int) -> dict[str, Any]:
    """Own successes, pushes included, teach the body's head."""
    data, found = own_successes(case, seed, env_steps)
    recipe = recipe_for(case.start, [str(data)], None, held_out=0.0, seed=seed)
    out = train(with_steps(recipe, steps), case.folder / f"imitation-{seed}-{time.time_ns()}")
    return judged(str(out), case) | found | {"steps": steps, "seed": seed}


def retrieval(case: Case, seed: int, env_steps: int, shown: int) -> dict[str, Any]:
    """Own successes are looked up; nothing learns."""
    data, found = own_successes(case, seed, env_steps)
    driver = Checkpoint(case.checkpoint, retrieve=(str(data), shown))
    return judged(driver, case) | found | {"shown": min(shown, found["own_successes"]), "seed": seed}


def context(case: Case, seed: int, env_steps: int, shown: int) -> dict[str, Any]:
    """Own successes are shown before the policy acts; nothing learns."""
    data, found = own_successes(case, seed, env_steps)
    shots = min(shown, found["own_successes"])
    prompting = Prompting(in_context=InContext(str(data), shots))
    return judged(case.checkpoint, case, prompting) | found | {"shown": shots, "seed": seed}


def improved(case: Case, name: str, seed: int, env_steps: int, reward: str = "") -> dict[str, Any]:
    """`polysoma improve`, by what the environment pays or by a learnt reward, and whether all else is as it was."""
    settings, play = METHODS[name], Play()
    chunk = checkpoint.config_of(case.start).horizons[body_of(case.task)].chunk
    # Half of each chunk is executed; less where an episode ends, so slightly fewer steps are played.
    batches = env_steps / (settings.decisions * play.slots * ((chunk + 1) // 2))
    of_batch = getattr(settings, "passes", 1) * getattr(settings, "parts", 1)
    began, out = time.process_time(), case.folder / f"{name}-{seed}-{time.time_ns()}"

    def judge(folder: Path) -> dict[str, float]:
        return {case.task: evaluate(str(folder), [case.task], LOOKED, BETWEEN, workers=WORKERS).tasks[case.task].rate}

    path, _ = improve(
        case.checkpoint, [case.task], settings, out, steps=max(1, round(batches)) * of_batch, play=play, seed=seed,
        judge=judge, reward=reward,
    )  # fmt: skip
    seconds = time.process_time() - began
    found = judged(str(path), case) | {"cpu_s": seconds, "seed": seed}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if "env_steps" in line][-1]
    between = {line["step"]: line[f"success/{case.task}"] for line in lines if f"success/{case.task}" in line}
    found |= {"between": between, "kept": checkpoint.read_config(path)["lineage"]["steps"]}
    return found | {"same": unmoved(case, path), "updates": last["step"], "env_steps": last["env_steps"]}


def unmoved(case: Case, path: Path) -> bool:
    """Whether all that is not the adaptation's own is the checkpoint's, bit by bit."""
    base, policy = checkpoint.load_for_training(case.checkpoint), checkpoint.load_for_training(path)
    theirs = base.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in policy.state_dict().items() if name in policy.shared)


class Speed:
    """What half-cheetah/run pays for each step, as far as it is observed: its speed, less what actions cost."""

    def judge(self, reached: Sequence[Observation], actions: np.ndarray) -> np.ndarray:
        speed = [name.name for name in simulators.embodiments()[CHEETAH].stream("state").channels].index("x_speed")
        paid: np.ndarray = np.stack([seen["state"][speed] for seen in reached]) - 0.1 * np.square(actions).sum(-1)
        return paid

    def check(self, body: Embodiment, instruction: str) -> None:
        assert body.name == CHEETAH


def variance(lanes: int = 48, decisions: int = 200) -> dict[str, Any]:
    """The trace of the covariance, between episodes, of REINFORCE's gradient at the shipped weights: where getting
    nearer is paid, where success alone is, and where every step is paid for speed."""
    found: dict[str, Any] = {"lanes": lanes, "decisions": decisions}
    for task, reward in ((LARGE, ""), (f"{CHEETAH}/run", Speed())):
        method = method_for("generalist", [task], Ppo(), Play(lanes), SIZE, 0, reward)
        collector = method.collector
        collector.exploring = dataclasses.replace(collector.exploring, failures=0.0)
        nothing = functools.partial(_zeros, collector.body.actions.size)
        both = [_tensors(collector.collect(decisions, nothing, method.spread())) for _ in range(2)]
        collector.close()
        if task == LARGE:
            found["dense"] = _spread(method, *both)
            for part in both:
                # An episode that is over before its time has succeeded.
                over = (part["discounts"] == 0) & (part["left"][:-1] > 0.01)
                part["rewards"] = over.float()
            found["sparse"] = _spread(method, *both)
        else:
            found["every step"] = _spread(method, *both)
    return found


def _tensors(experience: Experience) -> dict[str, torch.Tensor]:
    names = ("seen", "left", "drawn", "rewards", "discounts")
    return {name: torch.from_numpy(getattr(experience, name)) for name in names}


def _spread(method: FromReward, fit: dict[str, torch.Tensor], use: dict[str, torch.Tensor]) -> dict[str, float]:
    """The variance of the gradient of some experience by baseline; values are of other experience."""
    none = torch.zeros_like(use["left"])
    # Returns of about 1, as PPO scales them.
    size = generalised_advantages(fit["rewards"], fit["discounts"], none, 1.0).square().mean().sqrt()
    fit, use = ({**part, "rewards": part["rewards"] / size} for part in (fit, use))
    value = _fitted(fit, method.correction.seen)
    seen = generalised_advantages(use["rewards"], use["discounts"], none, 1.0)
    constant, per_time = seen - seen.mean(), seen - seen.mean(1, keepdim=True)
    values = value(torch.cat([use["seen"], use["left"][..., None]], -1)).squeeze(-1).detach()
    worths = {
        "none": seen, "constant": constant, "per time": per_time,
        "value": generalised_advantages(use["rewards"], use["discounts"], values, 1.0),
        "GAE": generalised_advantages(use["rewards"], use["discounts"], values, 0.9),
    }  # fmt: skip
    # PPO's first step, at ratios of 1; its scale is left out, so that it compares.
    worths["PPO"] = worths["GAE"] - worths["GAE"].mean()
    score = use["drawn"] / torch.from_numpy(method.spread()) ** 2
    # At a correction of zero its last layer alone has a gradient: features times the score of what was drawn.
    hidden = method.correction.net[:-1](use["seen"][:-1]).detach()
    own = {}
    for name, worth in worths.items():
        gradients = torch.einsum("tl,tla,tlh->lah", worth, score, hidden).flatten(1)
        own[name] = float(gradients.var(0).sum())
    return own


def _zeros(size: int, readouts: np.ndarray) -> np.ndarray:
    return np.zeros((len(readouts), size), np.float32)


def _fitted(part: dict[str, torch.Tensor], width: int) -> torch.nn.Module:
    """A value of returns as they came, from other episodes."""
    from polysoma.nn.perceptrons import perceptron

    torch.manual_seed(0)
    value = perceptron(width + 1, 1, 128)
    inputs = torch.cat([part["seen"][:-1], part["left"][:-1, :, None]], -1).flatten(0, 1)
    aims = generalised_advantages(part["rewards"], part["discounts"], torch.zeros_like(part["left"]), 1.0).flatten()
    optimizer = torch.optim.Adam(value.parameters(), 1e-3)
    for _ in range(600):
        rows = torch.randint(len(inputs), (512,))
        loss = (value(inputs[rows]).squeeze(-1) - aims[rows]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return value


def speed(steps: int = 32) -> dict[str, Any]:
    """Steps of the environment a second of the processor, learning included; eight and one lanes for the others, which
    have a perceptron for a policy."""
    found = {}
    method = method_for("generalist", [LARGE], Ppo(), Play(), SIZE, 0)
    from polysoma.learning.engine import Engine, Settings
    from polysoma.learning.optimizers import AdamW

    optimizer = AdamW(2e-3, warmup=0, weight_decay=0.0, ema=0.0, final=1.0)
    engine = Engine(method, Settings(steps=10**6, optimizer=optimizer, precision="float32", tracker="none"))
    for step in range(steps):  # graphs are made in the first ones
        engine.step(step)
    begun, began = method.steps, time.process_time()
    for step in range(steps, 5 * steps):
        engine.step(step)
    found["improve, 64 environments"] = (method.steps - begun) / (time.process_time() - began)
    method.collector.close()
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    def make() -> gymnasium.Env[Any, Any]:
        import polysoma.simulators  # noqa: F401  (registers)

        return gymnasium.make("polysoma/pointmaze-large", instruction=False, disable_env_checker=True)

    for lanes in (1, 8, 64):
        kind = "MlpPolicy" if _flat(make()) else "MultiInputPolicy"
        model = PPO(kind, make_vec_env(make, lanes), n_steps=2048 // lanes, device="cpu")
        model.learn(2048)
        began = time.process_time()
        model.learn(8192)
        found[f"stable-baselines3, {lanes} environments"] = 8192 / (time.process_time() - began)
    return found


def _flat(environment: gymnasium.Env[Any, Any]) -> bool:
    return isinstance(environment.observation_space, gymnasium.spaces.Box)


def main(
    folder: Path = Path("runs/improve"),
    only: tuple[str, ...] = (*(name for name, _ in ROWS), "variance", "speed"),
    name: str = "improve",
    checkpoint: str = "generalist",
    task: str = LARGE,
    episodes: int = 100,
    env_steps: int = 1_250_000,
    seeds: int = 3,
    imitation_steps: int = 600,
    shown: int = 64,
) -> None:
    """The cells that are asked for and not there yet.

    Args:
        folder: of runs.
        only: rows of the table, `variance` or `speed`.
        name: of the file of results.
        checkpoint: whose policy is improved; it knows the task's body.
        task: one task.
        episodes: that judge.
        env_steps: of the environment, for each seed of what learns or collects.
        seeds: of learning, nine at most.
        imitation_steps: of self-imitation.
        shown: own successes that are looked up or shown, at most.
    """
    # Before anything asks which families there are.
    os.environ.setdefault(simulators.FAMILIES_VARIABLE, str(PANEL))
    torch.set_num_threads(1)
    case = Case(checkpoint, task, folder, episodes)
    cells = cells_of(name)

    def budget(seed: int) -> int:
        return int(cells.get(f"ppo-{seed}", {}).get("env_steps", env_steps))

    todo: dict[str, Any] = {"shipped": lambda: judged(checkpoint, case), "variance": variance, "speed": speed}
    if case.numbers:
        todo |= {"push": lambda: judged(Pushed(open_planner(checkpoint)), case), "tries": lambda: tries(case)}
    for seed in range(seeds):
        # PPO comes first: the others have as many steps.
        for method in METHODS:
            todo[f"{method}-{seed}"] = lambda m=method, s=seed: improved(case, m, s, budget(s))
        todo[f"imitation-{seed}"] = lambda s=seed: imitation(case, s, budget(s), imitation_steps)
        todo[f"retrieval-{seed}"] = lambda s=seed: retrieval(case, s, budget(s), shown)
        if reads_episodes(case):
            todo[f"context-{seed}"] = lambda s=seed: context(case, s, budget(s), shown)
    for cell, measure in todo.items():
        if cell.partition("-")[0] in only and cell not in cells:
            began = time.process_time()
            found = measure()
            found.setdefault("cpu_s", time.process_time() - began)
            print(cell, {k: v for k, v in found.items() if k != "outcomes"}, flush=True)
            cells = cells_of(name) | {cell: found}  # others may have been measured meanwhile
            settings = {"episodes": episodes, "env_steps": env_steps, "seed": SEED, "task": task}
            write(name, {"settings": settings, "cells": cells})


def reads_episodes(case: Case) -> bool:
    """Whether the policy was trained to be shown episodes."""
    return checkpoint.config_of(case.start).frames_per_demonstration > 0


def render() -> str:
    """What each way reaches, the variance of gradients, and speeds."""
    return "\n".join(_reached(name) for name in TABLES if (FOLDER / f"{name}.json").exists())


def _reached(name: str) -> str:
    found = read(name)
    cells, settings = found["cells"], found["settings"]
    base = [bool(outcome) for outcome in cells["shipped"]["outcomes"]]
    task = settings.get("task", LARGE)
    lines = [
        f"| {task}, {settings['episodes']} unseen episodes | steps of the environment | succeed | more than as it is |",
        "| --- | --- | --- | --- |",
    ]
    for row, title in ROWS:
        for key in sorted(cells):
            if key.rpartition("-")[0] != row and key != row:
                continue
            cell = cells[key]
            gain = difference(paired_difference([bool(outcome) for outcome in cell["outcomes"]], base))
            steps = f"{cell['env_steps']:,.0f}" if "env_steps" in cell else ""
            lines.append(f"| {title} | {steps} | {share(cell)} | {gain if key != 'shipped' else ''} |")
    ran = [cell for cell in cells.values() if "same" in cell]
    note = "95 % intervals; the last column is paired; a row is one seed of learning."
    if ran:
        spent = ", ".join(f"{cell['cpu_s']:.0f} s" for cell in ran)
        same = "are bit by bit what they were" if all(cell["same"] for cell in ran) else "DIFFER from what they were"
        note += f" `improve` took {spent} of one core; the weights beside the adaptation's own {same}."
    lines += ["", note]
    if "variance" in cells:
        lines += ["", *_variances(cells["variance"])]
    if "speed" in cells:
        lines += ["", *_speeds(cells["speed"])]
    return "\n".join(lines) + "\n"


def _variances(cell: dict[str, Any]) -> list[str]:
    names = list(cell["dense"])[1:]
    lines = [
        "| variance of the gradient without a baseline, over that with | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for reward, title in PAID.items():
        row = " | ".join(f"{cell[reward]['none'] / cell[reward][name]:.1f}" for name in names)
        lines.append(f"| {title} | {row} |")
    note = f"Between {cell['lanes']} environments of {cell['decisions']} decisions each at the shipped weights."
    return [*lines, "", note]


def _speeds(cell: dict[str, Any]) -> list[str]:
    speeds = {name.replace("lanes", "environments"): value for name, value in cell.items() if name != "cpu_s"}
    lines = ["| PPO, learning included | steps of the environment a second of the processor |", "| --- | --- |"]
    return [*lines, *(f"| {name} | {value:,.0f} |" for name, value in speeds.items())]


if __name__ == "__main__":
    tyro.cli(main)

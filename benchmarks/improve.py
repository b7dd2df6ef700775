"""Reward on top of imitation, beside what needs no learning.

    python benchmarks/improve.py --only large          # cells of one task; those that are there are not measured again
    python benchmarks/improve.py --only variance speed

For each task: the shipped weights, a random push that is held while the body is stuck, up to four tries of the same
episode, filtered self-imitation (own successes with pushes, then a fine-tuned head), and `polysoma improve`. All are
judged on the same unseen episodes. ``variance``: how the gradient of REINFORCE differs between episodes, by baseline.
``speed``: environment steps a second of the processor, beside stable-baselines3, in the same run (it must be
importable).
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import tyro

from polysoma.acting.opening import open_planner
from polysoma.acting.planner import Plan, Planner, Session, Wrapper
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.learning.finetuning import recipe_for, with_steps
from polysoma.learning.improvement import Play, improve, method_for
from polysoma.learning.methods.ppo import Ppo
from polysoma.learning.objectives import generalised_advantages
from polysoma.learning.training import train
from polysoma.nn.correction import CorrectionConfig
from polysoma.policy import checkpoint
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.jobs import Job
from polysoma.rollout.recording import record
from polysoma.rollout.rollout import Workers, rollout_in_workers
from results import cells_of, difference, read, share, write

SEED = 395_000
"""Of the episodes that judge; those that are learnt from begin at 400,000."""
OWN = 500_000
"""Of the episodes whose successes are imitated."""
LARGE = "pointmaze/large"
WORKERS = Workers(1, 32)
ROWS = (
    ("shipped", "shipped weights"),
    ("push", "a random push while stuck"),
    ("tries", "best of four tries with noise"),
    ("imitation", "filtered self-imitation"),
    ("ppo", "`improve --method ppo`"),
)


class Pushed(Wrapper):
    """Where the body has hardly moved for some plans, a random action for some more."""

    def __init__(self, planner: Planner, patience: int = 12, hold: int = 12, still: float = 0.05) -> None:
        self.planner, self._patience, self._hold, self._still = planner, patience, hold, still
        self._seen: dict[int, list[np.ndarray]] = {}
        self._pushes: dict[int, tuple[np.ndarray, int]] = {}
        self._rng = np.random.default_rng(0)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        plans = self.planner.plan(sessions, observations)
        return [self._one(*all_of) for all_of in zip(sessions, observations, plans, strict=True)]

    def _one(self, session: Session, seen: Observation, plan: Plan | PolysomaError) -> Plan | PolysomaError:
        if isinstance(plan, PolysomaError):
            return plan
        places = self._seen.setdefault(id(session), [])
        places.append(np.array(seen["state"][:2]))
        push, left = self._pushes.get(id(session), (np.zeros(0), 0))
        recent = np.stack(places[-self._patience :])
        if not left and len(places) > self._patience and np.ptp(recent, 0).max() < self._still:
            push, left = session.prompt.body.actions.sample(self._rng), self._hold
            places.clear()
        if not left:
            return plan
        self._pushes[id(session)] = push, left - 1
        return Plan(np.repeat(push[None], len(plan), 0), "push", plan.readout)


def judged(driver: Any, task: str, episodes: int) -> dict[str, Any]:
    """What a driver reaches on unseen episodes."""
    score = evaluate(driver, [task], episodes, SEED, workers=WORKERS).tasks[task]
    return scored(score.outcomes)


def scored(outcomes: Sequence[bool]) -> dict[str, Any]:
    won, trials = sum(outcomes), len(outcomes)
    return {"successes": won, "trials": trials, "interval": wilson(won, trials), "outcomes": [int(o) for o in outcomes]}


def tries(task: str, episodes: int) -> dict[str, Any]:
    """Up to four tries of the same episode, with more and more noise."""
    won = np.zeros(episodes, bool)
    for noise in (0.1, 0.2, 0.3, 0.4):
        jobs = [Job(task, SEED + n) for n in np.flatnonzero(~won)]
        behaviour = Behaviour(open_planner("generalist"), noise=noise)
        for outcome in rollout_in_workers(jobs, behaviour, WORKERS):
            won[outcome.seed - SEED] |= outcome.success
    return scored([bool(w) for w in won])


def imitation(task: str, folder: Path, episodes: int, own: int, steps: int) -> dict[str, Any]:
    """Own successes, pushes included, teach the body's head."""
    data = folder / "own"
    record([task], own, data, Behaviour(Pushed(open_planner("generalist")), keep_failures=False), WORKERS, OWN)
    base = f"generalist-{task.partition('/')[0]}"
    recipe = recipe_for(base, [str(data)], None, held_out=0.0)
    out = train(with_steps(recipe, steps), folder / "imitation")
    return judged(str(out), task, episodes) | {"own": own, "steps": steps}


def improved(task: str, folder: Path, episodes: int, minutes: float, seed: int) -> dict[str, Any]:
    """`polysoma improve`, and whether all else is as it was."""
    began, out = time.process_time(), folder / f"ppo-{seed}-{time.time_ns()}"
    path, _ = improve("generalist", [task], Ppo(), out, minutes, seed=seed)
    seconds = time.process_time() - began
    found = judged(str(path), task, episodes) | {"cpu_s": seconds, "seed": seed}
    steps = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    return found | {"same": unmoved(path), "updates": steps["step"], "env_steps": steps["env_steps"]}


def unmoved(path: Path) -> bool:
    """Whether all that is not the adaptation's own is the shipped weights', bit by bit."""
    shipped, policy = checkpoint.load_for_training("generalist"), checkpoint.load_for_training(path)
    theirs = shipped.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in policy.state_dict().items() if name in policy.shared)


def variance(lanes: int = 48, decisions: int = 200) -> dict[str, Any]:
    """The trace of the covariance, between episodes, of REINFORCE's gradient at the shipped weights."""
    found: dict[str, Any] = {"lanes": lanes, "decisions": decisions}
    method = method_for("generalist", [LARGE], Ppo(), Play(lanes), CorrectionConfig(), 0)
    collector, width = method.collector, method.modules["policy"].config.width
    nothing, spread = functools.partial(_zeros, 2), method.spread()
    collector.exploring = collector.exploring.__class__(failures=0.0)
    both = [collector.collect(decisions, nothing, spread) for _ in range(2)]
    for reward in ("dense", "sparse"):
        fit, use = ({name: torch.from_numpy(getattr(e, name)) for name in
                     ("readouts", "left", "drawn", "rewards", "discounts")} for e in both)  # fmt: skip
        for part in (fit, use):
            if reward == "sparse":
                # An episode that is over before its time has succeeded.
                over = (part["discounts"] == 0) & (part["left"][:-1] > 0.01)
                part["rewards"] = over.float()
        value = _fitted(fit, width)
        none = torch.zeros_like(use["left"])
        seen = generalised_advantages(use["rewards"], use["discounts"], none, 1.0)
        constant, per_time = seen - seen.mean(), seen - seen.mean(1, keepdim=True)
        values = value(torch.cat([use["readouts"], use["left"][..., None]], -1)).squeeze(-1).detach()
        worths = {
            "none": seen, "constant": constant, "per time": per_time,
            "value": generalised_advantages(use["rewards"], use["discounts"], values, 1.0),
            "GAE": generalised_advantages(use["rewards"], use["discounts"], values, 0.9),
        }  # fmt: skip
        score = use["drawn"] / torch.from_numpy(spread) ** 2
        # At a correction of zero its last layer alone has a gradient: features times the score of what was drawn.
        hidden = method.correction.net[:-1](use["readouts"][:-1]).detach()
        own = {}
        for name, worth in worths.items():
            gradients = torch.einsum("tl,tla,tlh->lah", worth, score, hidden).flatten(1)
            own[name] = float(gradients.var(0).sum())
        found[reward] = own
    collector.close()
    return found


def _zeros(size: int, readouts: np.ndarray) -> np.ndarray:
    return np.zeros((len(readouts), size), np.float32)


def _fitted(part: dict[str, torch.Tensor], width: int) -> torch.nn.Module:
    """A value of returns as they came, from other episodes."""
    from polysoma.nn.perceptrons import perceptron

    torch.manual_seed(0)
    value = perceptron(width + 1, 1, 128)
    inputs = torch.cat([part["readouts"][:-1], part["left"][:-1, :, None]], -1).flatten(0, 1)
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
    method = method_for("generalist", [LARGE], Ppo(), Play(), CorrectionConfig(), 0)
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
    only: tuple[str, ...] = ("shipped", "push", "tries", "imitation", "ppo", "variance", "speed"),
    episodes: int = 100,
    minutes: float = 4.0,
    seeds: int = 3,
    own: int = 150,
    imitation_steps: int = 600,
) -> None:
    torch.set_num_threads(1)
    cells = cells_of("improve")
    todo: dict[str, Any] = {
        "shipped": lambda: judged("generalist", LARGE, episodes),
        "push": lambda: judged(Pushed(open_planner("generalist")), LARGE, episodes),
        "tries": lambda: tries(LARGE, episodes),
        "imitation": lambda: imitation(LARGE, folder, episodes, own, imitation_steps),
        "variance": variance,
        "speed": speed,
    }
    for seed in range(seeds):
        todo[f"ppo-{seed}"] = functools.partial(improved, LARGE, folder, episodes, minutes, seed)
    for name, measure in todo.items():
        if name.partition("-")[0] in only and name not in cells:
            began = time.process_time()
            found = measure()
            found.setdefault("cpu_s", time.process_time() - began)
            print(name, {k: v for k, v in found.items() if k != "outcomes"}, flush=True)
            cells = cells_of("improve") | {name: found}  # others may have been measured meanwhile
            write("improve", {"settings": {"episodes": episodes, "minutes": minutes, "seed": SEED}, "cells": cells})


def render() -> str:
    """What each way reaches, the variance of gradients, and speeds."""
    found = read("improve")
    cells, settings = found["cells"], found["settings"]
    base = [bool(outcome) for outcome in cells["shipped"]["outcomes"]]
    lines = [
        f"| {LARGE}, {settings['episodes']} unseen episodes | succeed | more than the shipped weights |",
        "| --- | --- | --- |",
    ]
    for name, title in ROWS:
        for key in sorted(cells):
            if key.rpartition("-")[0] != name and key != name:
                continue
            cell = cells[key]
            gain = difference(paired_difference([bool(outcome) for outcome in cell["outcomes"]], base))
            lines.append(f"| {title} | {share(cell)} | {gain if key != 'shipped' else ''} |")
    ran = [cell for key, cell in cells.items() if key.startswith("ppo-")]
    spent = ", ".join(f"{cell['cpu_s']:.0f} s of one core and {cell['env_steps']:,.0f} steps" for cell in ran)
    same = "are bit by bit those" if all(cell["same"] for cell in ran) else "DIFFER from those"
    lines += [
        "",
        f"95 % intervals; the second column is paired. `improve` had {spent}, one seed each; the weights beside the "
        f"adaptation's own {same} of the shipped ones.",
    ]
    if "variance" in cells:
        lines += ["", *_variances(cells["variance"])]
    if "speed" in cells:
        lines += ["", *_speeds(cells["speed"])]
    return "\n".join(lines) + "\n"


def _variances(cell: dict[str, Any]) -> list[str]:
    names = ("none", "constant", "per time", "value", "GAE")
    lines = [
        "| variance of the gradient without a baseline, over that with | " + " | ".join(names[1:]) + " |",
        "| --- |" + " --- |" * (len(names) - 1),
    ]
    for reward in ("dense", "sparse"):
        own = cell[reward]
        row = " | ".join(f"{own['none'] / own[name]:.1f}" for name in names[1:])
        lines.append(f"| {reward} reward | {row} |")
    note = (
        f"Between {cell['lanes']} environments of {cell['decisions']} decisions each at the shipped weights, {LARGE}."
    )
    return [*lines, "", note]


def _speeds(cell: dict[str, Any]) -> list[str]:
    speeds = {name.replace("lanes", "environments"): value for name, value in cell.items() if name != "cpu_s"}
    lines = ["| PPO, learning included | steps of the environment a second of the processor |", "| --- | --- |"]
    return [*lines, *(f"| {name} | {value:,.0f} |" for name, value in speeds.items())]


if __name__ == "__main__":
    tyro.cli(main)

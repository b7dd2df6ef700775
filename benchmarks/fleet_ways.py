"""The ways of learning that benchmarks/fleet.py compares: data, training and play of each."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from polysoma.cli.progress import counting
from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.evaluation.evaluation import evaluate
from polysoma.evaluation.intervals import wilson
from polysoma.files import write_atomically
from polysoma.learning import states
from polysoma.learning.bodies import BodyRecipe
from polysoma.learning.engine import Engine, losses_of
from polysoma.learning.finetuning import recipe_for, with_steps
from polysoma.learning.fleet import Rounds, begun, join
from polysoma.learning.method import Ingredients, Method, Metrics, Share, reduced
from polysoma.learning.methods.imitation import Imitation
from polysoma.learning.optimizers import AdamW
from polysoma.learning.recipe import Recipe, recipe_from_table
from polysoma.learning.simulated_fleet import ROBOTS as ROBOTS_FOLDER
from polysoma.learning.simulated_fleet import home_of, simulate
from polysoma.learning.training import train
from polysoma.policy import checkpoint
from polysoma.policy.adaptation import Adaptation
from polysoma.policy.edits import adapt, extend
from polysoma.policy.policy import Policy
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record

TASKS, BODY = ("touch", "carry", "stack"), "picker"
WORDS = ("touch carry stack the red blue puck", "to on goal")
SIZE = {"width": 64, "depth": 2, "heads": 2}
DEMONSTRATIONS, FEWER = 20, 10
FIRST_DEMONSTRATION, SEED = 0, 9500
ROBOTS, UNSEEN = range(10), range(10, 14)
BODY_RECIPE = BodyRecipe(batch=64, micro_batches=2, balance=0.3, noise=0.01)


class Fleet:
    """The benchmark's folder: data of every robot, runs, and the results that are finished."""

    def __init__(self, out: Path, episodes: int) -> None:
        self.out, self.episodes = out, episodes
        self.base = out / "base"
        if not (self.base / checkpoint.CONFIG).exists():
            checkpoint.save(begun(WORDS, SIZE["width"], SIZE["depth"], SIZE["heads"]), self.base)
        for count in (DEMONSTRATIONS, FEWER):
            for robot in (*ROBOTS, *UNSEEN):
                tasks = [f"{BODY}/{robot:02}-{task}" for task in TASKS]
                record(tasks, count, self.home(robot, count), Behaviour(noise=None), seed=FIRST_DEMONSTRATION)

    def home(self, robot: int, count: int) -> Path:
        return self.out / f"robots-{count}" / f"{robot:02}"

    def data(self, robot: int, count: int = DEMONSTRATIONS) -> str:
        return str(self.home(robot, count) / BODY)

    def cell(self, name: str, made: Callable[[Path], Mapping[int, Path]]) -> dict[str, Any]:
        """Trains unless that is done already, plays, and returns outcomes by task and minutes of the processor."""
        file = self.out / name / "played.json"
        if not file.exists():
            began = time.process_time() - spent(self.out / name)
            policies = made(self.out / name)
            minutes = (time.process_time() - began) / 60
            outcomes: dict[str, list[int]] = {}
            for robot, policy in policies.items():
                tasks = [f"{BODY}/{robot:02}-{task}" for task in TASKS]
                result = evaluate(str(policy), tasks, self.episodes, SEED, workers=1)
                outcomes |= {task: [int(o) for o in score.outcomes] for task, score in result.tasks.items()}
            played = {"minutes": round(minutes, 2), "outcomes": outcomes}
            write_atomically(file, json.dumps(played).encode())
        played = json.loads(file.read_text())
        flat = [outcome for own in played["outcomes"].values() for outcome in own]
        low, high = wilson(sum(flat), len(flat))
        print(f"{name}: {sum(flat)}/{len(flat)} [{low:.2f}, {high:.2f}], {played['minutes']} minutes", flush=True)
        return played

    def federated(self, out: Path, base: Path, rounds: Rounds) -> Path:
        began, resume = time.process_time() - spent(out), states.exists(out)
        with counting(out.name) as show:

            def progress(done: int, total: int, remark: str) -> None:
                show(done, total, remark)
                write_atomically(out / "spent", str(time.process_time() - began).encode())

            return simulate(str(base), [[self.data(robot)] for robot in ROBOTS], rounds, out, resume, progress)

    def local(self, out: Path, rounds: Rounds, steps: int) -> dict[int, Path]:
        shared = self.federated(out, self.base, rounds)
        made = {}
        for robot in ROBOTS:
            here, data = out / f"{robot:02}", self.data(robot)
            start = str(shared)
            if rounds.kept:
                start = str(out / "own" / f"{robot:02}")
                join(str(shared), [data], home_of([data], out / ROBOTS_FOLDER), Path(start))
            made[robot] = self.joined(start, robot, here, DEMONSTRATIONS, steps)
        return made

    def joined(self, start: str, robot: int, out: Path, count: int, steps: int) -> Path:
        """A robot's own part of what is shared, as `polysoma finetune --method head` makes it."""
        if not (out / "checkpoint").exists():
            recipe = recipe_for(start, [self.data(robot, count)], "head", held_out=0)
            train(dataclasses.replace(with_steps(recipe, steps), checkpoint_every=steps), out)
        return out / "checkpoint"

    def one_model(self, out: Path, rounds: Rounds) -> dict[int, Path]:
        source = Source([Dataset(Path(self.data(robot))) for robot in ROBOTS], [1.0] * len(ROBOTS), 0.0)
        base = checkpoint.load_for_training(self.base)
        start = extend(base, (source.embodiment,), {BODY: source.statistics()}, ())
        if not (out / "base").exists():
            checkpoint.save(start, out / "base")
        shared = self.federated(out, out / "base", dataclasses.replace(rounds, one_model=True))
        return dict.fromkeys(ROBOTS, shared)

    def alone(self, out: Path, robots: Sequence[int], count: int, steps: int) -> dict[int, Path]:
        made = {}
        for robot in robots:
            table = {
                "data": [self.data(robot, count)],
                "policy": SIZE,
                "bodies": {BODY: dataclasses.asdict(BODY_RECIPE)},
                "steps": steps,
                "checkpoint_every": steps,
                "warmup": 30,
                "ema": 0.98,
            }
            made[robot] = out / f"{robot:02}" / "checkpoint"
            if not made[robot].exists():
                train(recipe_from_table(table, "fleet.py"), made[robot].parent)
        return made

    def centralised(self, out: Path, steps: int) -> dict[int, Path]:
        """One trunk, and a tokenizer and a head for each robot, which all learn together."""
        made = {robot: out / f"{robot:02}" for robot in ROBOTS}
        sources = [Source([Dataset(Path(self.data(robot)))], [1.0], BODY_RECIPE.balance) for robot in ROBOTS]
        trunk = checkpoint.load_for_training(self.base)
        recipe = Recipe(
            data=(self.data(0),),
            bodies={BODY: dataclasses.replace(BODY_RECIPE, batch=32, micro_batches=1, weight=1 / len(ROBOTS))},
            steps=steps,
            optimizer=AdamW(2e-3, warmup=30, weight_decay=0.01),
        )
        policies: list[Policy] = []
        for source in sources:
            # As in a fleet, where it is worth much: what is a robot's own begins alike on all of them.
            torch.manual_seed(0)
            own = {BODY: source.statistics()}
            policies.append(adapt(trunk, Adaptation("head"), (source.embodiment,), own, ()).train())
        engine = Engine(Together(trunk, policies, sources, recipe), recipe)
        with counting(out.name) as show:
            for step in range(steps):
                loss = sum(losses_of(engine.step(step)).values())
                show(step + 1, steps, f"loss {loss / len(policies):.3f}")
        checkpoint.save(trunk, out / "shared")
        whose = {"base": str((out / "shared").resolve()), "base_sha256": checkpoint.weights_sha256(out / "shared")}
        for robot, policy in zip(ROBOTS, policies, strict=True):
            assert policy.config.adaptation is not None
            adaptation = dataclasses.replace(policy.config.adaptation, **whose)
            policy.config = dataclasses.replace(policy.config, adaptation=adaptation)
            checkpoint.save(policy, made[robot])
        return made


class Together(Method):
    """All robots learn in one place: a method of this file, of modules that share a trunk."""

    def __init__(self, trunk: Policy, policies: list[Policy], sources: list[Source], recipe: Recipe) -> None:
        robots = {f"robot-{number}": policy for number, policy in enumerate(policies)}
        self.modules = torch.nn.ModuleDict({"policy": trunk, **robots}).requires_grad_(True)
        self._robots = [
            Imitation().build(Ingredients(policy, [source], bodies=recipe.bodies, seed=robot))
            for robot, (policy, source) in enumerate(zip(policies, sources, strict=True))
        ]

    def accumulate(self, step: int, share: Share) -> Metrics:
        return reduced(robot.accumulate(step, share) for robot in self._robots)


def spent(out: Path) -> float:
    """Seconds of the processor that a run took before it was killed."""
    return float((out / "spent").read_text()) if (out / "spent").exists() else 0.0

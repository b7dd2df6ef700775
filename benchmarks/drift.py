"""What a drifting car gains from tires of a known shape: model-predictive control with tires that were learned from 30
seconds and from three minutes of driving, and a policy that imitates.

    python benchmarks/drift.py measure     # continues where it stopped; a minute for each seed and model
    python benchmarks/drift.py time        # single decisions
    python benchmarks/drift.py imitate --demos data/car --checkpoint runs/drift/checkpoint --learned "1200 steps"
    python benchmarks/drift.py imitate --demos data/car --checkpoint runs/by/checkpoint --tires runs/tires/checkpoint

Logs are of the expert with noise that differs from episode to episode; what is learned from them has the noise of
sensors. Driving itself is observed without noise, in worlds that are the same for all.
"""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from polysoma.acting.opening import open_planner
from polysoma.acting.planner import ExpertPlanner, NoPlan, Planner, TaskPrompt
from polysoma.acting.predictive import Looking, PredictivePlanner
from polysoma.data.dataset import Dataset
from polysoma.data.replay import Replay
from polysoma.evaluation.evaluation import evaluate, hardware
from polysoma.evaluation.intervals import mean_interval, wilson
from polysoma.learning.engine import Engine
from polysoma.learning.methods.dynamics import DynamicsLearning, engine_settings, seeded
from polysoma.policy import dynamics
from polysoma.policy.dynamics import DynamicsConfig, Shape
from polysoma.rollout.drivers import Behaviour
from polysoma.rollout.recording import record
from polysoma.simulators.car import SETTLING, CarEnvironment
from polysoma.simulators.car_body import CONTROL_HZ, EMBODIMENT, magic
from results import cells_of, command, commit, read, share, write

LOGS, WORLDS, STEPS, NOISE = 600_000, 610_000, 200, 0.6
SENSORS = np.array([0.05, 0.01, 0.01, 0.3])
"""Standard deviations of speed, side slip, yaw rate and wheel speed in the logs, in the units of the channels."""
AMOUNTS = {"30 s": 4, "3 min": 23}
SHAPES: dict[Shape, str] = {
    "brush": "brush model, fitted", "exptanh": "ExpTanh", "integrated": "integrated", "perceptron": "perceptron",
}  # fmt: skip
SMOOTH, DEAR = "smooth", Looking(effort=2.5)
"""Where commands cost more than the expert's: chosen by seeds that are not measured."""


def measure(seeds: int = 5, worlds: int = 6, only: tuple[Shape, ...] = ("brush", "exptanh", "perceptron")) -> None:
    """Learns and drives, seed by seed; from three minutes also with commands that cost more."""
    cells = cells_of("drift")
    settings = {"steps": STEPS, "worlds": worlds, "noise": NOISE, "sensors": SENSORS.tolist()}

    def keep(name: str, cell: dict[str, Any]) -> None:
        cells[name] = cell
        print(name, {key: value for key, value in cell.items() if key != "path"}, np.mean(cell["path"]), flush=True)
        write("drift", {"settings": settings, "cells": cells})

    for seed in range(seeds):
        for name, planner in (("expert", ExpertPlanner()), ("true tires", PredictivePlanner(magic))):
            if f"{name}-{seed}" not in cells:
                keep(f"{name}-{seed}", {"who": name, "seed": seed, **driven(planner, seed, worlds)})
        for shape in only:
            for amount, episodes in AMOUNTS.items():
                if (name := f"{shape}-{amount}-{seed}") not in cells:
                    keep(name, {"who": shape, "amount": amount, "seed": seed, **learned(shape, episodes, seed, worlds)})
            if shape in ("brush", "exptanh") and (name := f"{shape}, {SMOOTH}-3 min-{seed}") not in cells:
                found = learned(shape, AMOUNTS["3 min"], seed, worlds, DEAR)
                keep(name, {"who": f"{shape}, {SMOOTH}", "amount": "3 min", "seed": seed, **found})


@functools.cache
def logs(seed: int, episodes: int) -> Replay:
    """What some episodes of one seed show, as sensors see it."""
    with tempfile.TemporaryDirectory() as folder:
        behaviour = Behaviour(noise=(0.0, NOISE), keep_failures=True)
        record(["car/drift"], episodes, Path(folder), behaviour, seed=LOGS + 1000 * seed)
        replay = Replay([Dataset(Path(folder) / "car")])
    drawn = np.random.default_rng(seed).normal(0, SENSORS, (len(replay.states), len(SENSORS)))
    replay.states[:, : len(SENSORS)] += drawn.astype(np.float32)
    return replay


def learned(shape: Shape, episodes: int, seed: int, worlds: int, looking: Looking | None = None) -> dict[str, Any]:
    """What a model learns from some episodes of one seed, and how the planner drives by it."""
    replay, began = logs(seed, episodes), time.process_time()
    method = DynamicsLearning().build(seeded(DynamicsConfig(EMBODIMENT, shape), seed), replay, seed)
    with tempfile.TemporaryDirectory() as folder:
        out = Engine(method, engine_settings(STEPS)).run(Path(folder) / "run")
        found = {"learning_s": time.process_time() - began, "frames": len(replay)}
        planner = PredictivePlanner(dynamics.load(out).array_forces(), looking or Looking())
        return {**found, **driven(planner, seed, worlds)}


def driven(planner: Planner, seed: int, worlds: int) -> dict[str, Any]:
    """How a planner drives in some worlds, all at a time. After the first two seconds: the mean path error (m), and the
    root mean square of the jerk of the steering command, its second difference (rad/s2). A car that cannot be saved
    any more counts with what it was worth until then, and as no success."""
    cars = [CarEnvironment() for _ in range(worlds)]
    seen = [car.reset(seed=WORLDS + 1000 * seed + number)[0] for number, car in enumerate(cars)]
    prompts = [TaskPrompt(EMBODIMENT, expert=car.expert_action) for car in cars]
    sessions = [planner.start(prompt, seed) for prompt in prompts]
    errors: list[list[float]] = [[] for _ in cars]
    commands: list[list[float]] = [[] for _ in cars]
    won, on = 0, list(range(worlds))
    while on:
        plans, still = planner.plan([sessions[n] for n in on], [seen[n] for n in on]), []
        for n, plan in zip(on, plans, strict=True):
            if isinstance(plan, NoPlan):
                continue
            assert not isinstance(plan, Exception)
            seen[n], _, terminated, truncated, info = cars[n].step(plan.actions[0])
            errors[n].append(abs(float(seen[n]["state"][4])))
            commands[n].append(float(plan.actions[0, 0]))
            won += info["success"]
            if not terminated and not truncated:
                still.append(n)
        on = still
    # A car that was lost before two seconds is as far away as the task lets it be.
    path = [float(np.mean(one[SETTLING:])) if len(one) > SETTLING else 6.0 for one in errors]
    jerks = [np.diff(one[SETTLING:], 2) * CONTROL_HZ**2 for one in commands if len(one) > SETTLING + 2]
    jerk = [float(np.sqrt(np.mean(one**2))) for one in jerks]
    return {"path": path, "jerk": jerk, "successes": won, "trials": worlds}


def time_of(decisions: int = 200) -> None:
    """Times single decisions of one car."""
    cells = cells_of("drift")
    settings = read("drift")["settings"]
    forces = {"true tires": magic} | {
        shape: dynamics.Dynamics(DynamicsConfig(EMBODIMENT, shape)).array_forces() for shape in SHAPES
    }
    found = {}
    for name, one in forces.items():
        planner, car = PredictivePlanner(one), CarEnvironment()
        seen = car.reset(seed=WORLDS)[0]
        session, taken = planner.start(TaskPrompt(EMBODIMENT), 0), []
        for number in range(decisions):
            began = time.process_time()
            planner.plan([session], [seen])
            if number:
                taken.append(1000 * (time.process_time() - began))
            seen = car.step(car.expert_action())[0]
        found[name] = {"p50": float(np.percentile(taken, 50)), "p99": float(np.percentile(taken, 99))}
        print(name, found[name])
    write("drift", {"settings": settings, "cells": {**cells, "decision_ms": found}})


def imitate(
    demos: Path,
    checkpoint: str,
    learned: str = "1200 steps",
    episodes: int = 50,
    tires: str | None = None,
    noise: float = CarEnvironment.expert_noise,
) -> None:
    """Evaluates a finetuned policy and whom it imitates in the same worlds: the expert, or the planner by learned
    ``tires``, a checkpoint. ``learned`` says how long it learned, ``noise`` how much of it the drives had."""
    found, dataset = read("drift"), Dataset(demos)
    cell: dict[str, Any] = {"demonstrations": len(dataset.episode_start), "learned": learned, "noise": noise}
    # The times in the file are of the machine that it names, which may be another.
    cell |= {"command": command(sys.argv), "commit": commit(), "hardware": hardware()}
    imitated, name = ("expert", "imitation") if tires is None else ("planner", f"imitation of the planner, {noise:g}")
    for who, driver in (("policy", open_planner(checkpoint)), (imitated, tires or "expert")):
        score = evaluate(driver, ["car/drift"], episodes, WORLDS + 9000, workers=1).tasks["car/drift"]
        cell[who] = {"successes": score.successes, "trials": score.trials}
        print(who, cell[who])
    write("drift", {**found, "cells": {**found["cells"], name: cell}})


def render() -> str:
    """Path errors, jerks and successes of every model, and what a finetuned policy does."""
    found = read("drift")
    cells = [cell for cell in found["cells"].values() if "who" in cell]

    def row(name: str, amount: str, who: str) -> list[str]:
        own = [cell for cell in cells if (cell["who"], cell.get("amount", "")) == (who, amount)]
        if not own:
            return []
        shown = []
        for part in ("path", "jerk"):
            values = [float(np.mean(cell[part])) for cell in own if cell[part]]
            low, high = mean_interval(values)
            shown.append(f"{np.mean(values):.3f}" + (f" [{low:.3f}, {high:.3f}]" if len(values) > 1 else ""))
        won, trials = (sum(cell[part] for cell in own) for part in ("successes", "trials"))
        rate = share({"successes": won, "trials": trials, "interval": wilson(won, trials)})
        return [f"| {name} | {amount or 'none'} | {' | '.join(shown)} | {rate} | {len(own)} |"]

    lines = ["| tires | driving | path error, m | jerk of steering, rad/s² | success | seeds |", "| --- " * 6 + "|"]
    for amount in AMOUNTS:
        for shape, told in SHAPES.items():
            lines += row(told, amount, shape)
            lines += row(f"{told}, commands cost {DEAR.effort:g} times as much", amount, f"{shape}, {SMOOTH}")
    lines += row("the true tires", "", "true tires") + row("the expert (feedback, true tires)", "", "expert")
    return "\n".join(lines) + "\n\n" + _told(found) + "\n"


def _told(found: dict[str, Any]) -> str:
    settings, cells = found["settings"], found["cells"]
    seconds = [cell["learning_s"] for cell in cells.values() if "learning_s" in cell]
    told = (
        f"Means over seeds of logs and learning, {settings['worlds']} worlds each, with 95 % intervals over seeds; "
        f"successes with Wilson's over episodes. Learning took {min(seconds):.0f} to {max(seconds):.0f} s of a core "
        f"({settings['steps']} steps)."
    )
    if times := cells.get("decision_ms"):
        spans = [f"{name} {ms['p50']:.1f} ms" for name, ms in times.items()]
        told += f" A decision for one car took, in the median: {', '.join(spans)} (50 Hz leaves 20 ms)."
    for name, imitation in cells.items():
        if not name.startswith("imitation"):
            continue
        imitated = "expert" if "expert" in imitation else "planner"
        whose = "the expert" if imitated == "expert" else "the planner (ExpTanh, 3 min of driving)"
        noise = f" with noise of {imitation['noise']:g}" if imitation.get("noise") else ""
        rates = []
        for who in ("policy", imitated):
            score = imitation[who]
            rate = share({**score, "interval": wilson(score["successes"], score["trials"])})
            rates.append(f"{rate} of {score['trials']}")
        told += (
            f" The generalist, finetuned on {imitation['demonstrations']} drives of {whose}{noise} in "
            f"{imitation['learned']}: {rates[0]}; the {imitated} in the same worlds: {rates[1]}."
        )
    return told + " (`python benchmarks/drift.py measure`, `time`, `imitate`)."


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"measure": measure, "imitate": imitate, "time": time_of})

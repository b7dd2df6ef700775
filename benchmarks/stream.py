"""Gato's stream mode against the grouped mode at equal compute: the same episodes, trunk and processor time.

    python benchmarks/stream.py

Each mode trains for the same number of seconds of one core, with a learning rate that falls with the time spent. Then
both play the same unseen seeds; the stream mode starts each episode from the end of a demonstration of the task. Needs
``data/metaworld``, ``data/fetch`` and ``data/drone`` (`polysoma record`); about half an hour on two cores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from parallel import side_by_side
from polysoma import simulators
from polysoma.acting.agent import Agent
from polysoma.acting.stream import Serializer, StreamPlanner, StreamPolicy, draw
from polysoma.data.mixture import Source, open_sources
from polysoma.data.statistics import Statistics
from polysoma.embodiment import Embodiment
from polysoma.evaluation.intervals import paired_difference, wilson
from polysoma.horizon import Horizon
from polysoma.nn.precision import autocast, chosen
from polysoma.nn.words import build_vocabulary
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy
from polysoma.task import body_of
from results import difference, read, share, write

BATCHES = {"metaworld": 64, "fetch": 32, "drone": 32}
EPISODES = {"metaworld": 1, "fetch": 10, "drone": 10}
CONTEXT, PROMPTED = 256, 0.25
"""Tokens of a stream, and the share of streams with a prompt. A step of both modes holds about as many frames."""
LEARNING_RATE, WARMUP = 1e-3, 0.05
SEED = 5100


@dataclass(frozen=True)
class Run:
    """One mode."""

    mode: str
    seconds: float


def learn(module: torch.nn.Module, losses: Iterator[Callable[[], torch.Tensor]], seconds: float) -> int:
    """Steps of AdamW on the sums of losses until this process has computed for so long. Returns their number."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.05)
    began, steps = time.process_time(), 0
    while (done := (time.process_time() - began) / seconds) < 1:
        rate = min(done / WARMUP, 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * max(rate, 0.01)
        for _ in BATCHES:
            with autocast("cpu", chosen("cpu")):
                loss = next(losses)()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
    return steps


def _recommended(body: Embodiment, old: Horizon | None) -> Horizon | None:
    return simulators.recommended_horizon(body.name)


def grouped(sources: dict[str, Source], statistics: dict[str, dict[str, Statistics]], seconds: float) -> Any:
    """Trains the grouped mode; returns what makes an agent for a task, and what was done."""
    bodies = tuple(source.embodiment for source in sources.values())
    texts = [text for source in sources.values() for text in source.instructions]
    horizons = {name: source.horizon for name, source in sources.items()}
    policy = Policy(PolicyConfig(bodies, statistics, tuple(build_vocabulary(texts)), horizons))
    rng = np.random.default_rng(0)

    def losses() -> Iterator[Callable[[], torch.Tensor]]:
        while True:
            for name, source in sources.items():
                windows = source.draw(BATCHES[name], rng)
                assert windows.action_valid is not None
                targets = int(windows.action_valid.sum())
                yield lambda windows=windows, targets=targets: policy.loss(windows) / targets

    steps = learn(policy, losses(), seconds)
    policy.for_inference()
    done = {"steps": steps, "windows": steps * sum(BATCHES.values()), "parameters": policy.parameter_count()}
    return (lambda task: policy.agent(task.split("/")[0])), done


def stream(sources: dict[str, Source], statistics: dict[str, dict[str, Statistics]], seconds: float) -> Any:
    """As :func:`grouped` for the stream mode."""
    texts = [text for source in sources.values() for text in source.instructions]
    vocabulary = build_vocabulary(texts)
    policy = StreamPolicy(vocabulary)
    bodies = {name: Serializer(source.embodiment, statistics[name], vocabulary) for name, source in sources.items()}
    rng = np.random.default_rng(0)
    per_stream = {name: CONTEXT // serializer.per_step for name, serializer in bodies.items()}
    counts = {name: max(1, round(BATCHES[name] / per_stream[name])) for name in bodies}

    def losses() -> Iterator[Callable[[], torch.Tensor]]:
        while True:
            for name, source in sources.items():
                batch = draw(bodies[name], source.datasets[0], counts[name], CONTEXT, PROMPTED, rng)
                yield lambda batch=batch: policy.loss(batch)

    steps = learn(policy, losses(), seconds)
    policy.requires_grad_(False).eval()

    planner = StreamPlanner(policy, list(bodies.values()), CONTEXT)

    def agent(task: str) -> Agent:
        body = body_of(task)
        dataset = sources[body].datasets[0]
        shown = int(np.flatnonzero(dataset.episode_task == dataset.tasks.index(task))[0])
        return Agent(planner, body, demonstrations=[dataset.episode(shown)])

    done = {
        "steps": steps,
        "windows": steps * sum(counts[name] * per_stream[name] for name in counts),
        "parameters": sum(p.numel() for p in policy.parameters()),
    }
    return agent, done


def run(job: Run) -> dict[str, Any]:
    """Trains one mode and plays."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    opened = open_sources(
        [Path("data") / name for name in BATCHES],
        {},
        {},
        horizon=_recommended,
    )
    sources = {source.embodiment.name: source for source in opened}
    statistics = {name: source.statistics() for name, source in sources.items()}
    agent_for, done = {"grouped": grouped, "stream": stream}[job.mode](sources, statistics, job.seconds)
    outcomes: dict[str, list[bool]] = {}
    spent, decisions = 0.0, 0
    for task in (task for name in BATCHES for task in simulators.tasks_of(name)):
        environment = simulators.make(task)
        for seed in range(SEED, SEED + EPISODES[task.split("/")[0]]):
            agent, observation, over, info = agent_for(task), environment.reset(seed=seed)[0], False, {"success": False}
            while not over:
                began = time.perf_counter()
                action = agent.act(observation)
                spent, decisions = spent + time.perf_counter() - began, decisions + 1
                observation, _, terminated, truncated, info = environment.step(action)
                over = terminated or truncated or info["success"]
            outcomes.setdefault(task.split("/")[0], []).append(bool(info["success"]))
    return {**done, "ms_per_action": round(1e3 * spent / decisions, 2), "outcomes": outcomes}


def main(seconds: float = 480.0, processes: int = 2) -> None:
    """Both modes.

    Args:
        seconds: of one core for the training of each.
        processes: side by side.
    """
    modes = ("grouped", "stream")
    found = dict(zip(modes, side_by_side(run, [Run(mode, seconds) for mode in modes], processes), strict=True))
    rows: dict[str, Any] = {}
    for body in BATCHES:
        first, second = (found[mode]["outcomes"][body] for mode in modes)
        rows[body] = {
            "grouped": {"successes": sum(first), "trials": len(first), "interval": wilson(sum(first), len(first))},
            "stream": {"successes": sum(second), "trials": len(second), "interval": wilson(sum(second), len(second))},
            "grouped_minus_stream": paired_difference(first, second),
        }
        print(body, rows[body])
    costs = {mode: {key: value for key, value in found[mode].items() if key != "outcomes"} for mode in modes}
    print(costs)
    settings = {"core_seconds": seconds, "context": CONTEXT, "batches": BATCHES, "prompted": PROMPTED, "seed": SEED}
    write("stream", {"settings": settings, "costs": costs, "families": rows})


def render() -> str:
    """The stream mode against the grouped mode."""
    found = read("stream")
    lines = ["| body | grouped | stream | grouped - stream |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {body} | {share(row['grouped'])} | {share(row['stream'])} | {difference(row['grouped_minus_stream'])} |"
        for body, row in found["families"].items()
    ]
    costs = found["costs"]
    lines += [
        "",
        f"{found['settings']['core_seconds']:.0f} s of one core each, in which the grouped mode learned from "
        f"{costs['grouped']['windows']:,} frames and the stream mode from {costs['stream']['windows']:,}. An action "
        f"took {costs['grouped']['ms_per_action']:.1f} and {costs['stream']['ms_per_action']:.1f} ms. Seeds from "
        f"{found['settings']['seed']} on, 95 % intervals (`python benchmarks/stream.py`).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tyro.cli(main)

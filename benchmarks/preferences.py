"""A reward from ranked pairs of clips: how near it is to the true one, and what a policy that it improves reaches.

    python benchmarks/preferences.py                        # all; what is there is not measured again
    python benchmarks/preferences.py --only reward --tasks pointmaze/large
    python benchmarks/preferences.py --only improve --seeds 2

Logs are of noisy experts and, but for the half-cheetah, of the shipped policy with noise. In the maze the true reward
of a step is what `improve` pays: metres nearer on the way around the walls, and 1 at success; logs do not have it, so
their episodes are played again. Elsewhere it is the logs' own. Pairs are ranked by its sum over each clip; a seed draws
which episodes are learnt from, which pairs, and all that learning draws. What is improved is the shipped policy at the
arm's weakest task, in the same number of steps by each reward, and successes judge it.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from improve import LARGE, WORKERS, Case, improved, judged
from polysoma import simulators
from polysoma.data.dataset import Dataset
from polysoma.data.preferences import Clips
from polysoma.evaluation.intervals import paired_difference
from polysoma.evaluation.preferences import LEARNT, UNTRAINED
from polysoma.evaluation.preferences import judged as judged_reward
from polysoma.learning.methods.preferences import learn, seeded
from polysoma.policy import checkpoint, rewards
from polysoma.rollout.drivers import Behaviour, Checkpoint, Expert
from polysoma.rollout.recording import record
from results import cells_of, difference, read, share, write

CHEETAH, ARM = "half-cheetah/run", "metaworld/pick-out-of-hole-v3"
CLIPS = {LARGE: 100, CHEETAH: 40, ARM: 40}
"""Frames of a clip: a second, two, and half of one."""
EPISODES = {LARGE: (150, 150), CHEETAH: (150, 0), ARM: (120, 120)}
"""Of the logs: of noisy experts, and of the shipped policy with noise."""
LOGS = 410_000
"""Seed of the first episode of the logs."""
KINDS = {"true": "the true reward", "learnt": "the reward from 500 pairs", "untrained": "an untrained network"}


def logs_of(task: str, folder: Path) -> Clips:
    """Clips of the logs of a task, with the true reward."""
    body, own = task.partition("/")[0], folder / "logs" / task.replace("/", "-")
    limit = 200 if task == CHEETAH else None
    noisy = Behaviour(Expert(), noise=(0.0, 1.0), keep_failures=True, max_steps=limit)
    played = Behaviour(Checkpoint("generalist"), noise=(0.0, 0.8), keep_failures=True, max_steps=limit)
    datasets = []
    for number, (behaviour, episodes) in enumerate(zip((noisy, played), EPISODES[task], strict=True)):
        if episodes:
            record([task], episodes, own / str(number), behaviour, WORKERS, LOGS + 10_000 * number)
            datasets.append(Dataset(own / str(number) / body))
    clips = Clips(datasets)
    if task == LARGE:
        clips.rewards = np.concatenate([progress(dataset) for dataset in clips.datasets])
    return clips


def progress(dataset: Dataset) -> np.ndarray:
    """What `improve` pays for each step of episodes of the maze, which are played again, float32 ``(N,)``."""
    known, found = dataset.root / "progress.npy", []
    if known.exists():
        return np.load(known)
    environment = simulators.make(LARGE)
    for number in range(len(dataset.episode_length)):
        episode = dataset.episode(number)
        environment.reset(seed=episode.seed)
        before = environment.remaining()
        for action in episode.executed:
            seen, _, _, _, info = environment.step(action)
            now = environment.remaining()
            assert before is not None and now is not None
            found.append(before - now + float(info["success"]))
            before = now
        assert episode.final is not None and np.allclose(seen["state"], episode.final["state"], atol=1e-3)
    environment.close()
    np.save(known, np.asarray(found, np.float32))
    return np.asarray(found, np.float32)


def reward(task: str, clips: Clips, folder: Path, seed: int, count: int) -> dict[str, Any]:
    """Learns a reward from pairs, and judges it on clips and on whole episodes that it did not learn from."""
    frames, rng = CLIPS[task], np.random.default_rng([seed, 11])
    episodes, unseen = clips.apart(0.2, seed)
    pairs = clips.ranked(episodes, count, "return", rng, frames)
    apart = clips.ranked(unseen, 500, "return", rng, frames)
    began = time.process_time()
    out = learn(clips, pairs, folder / f"{task.replace('/', '-')}-{count}-{seed}-{time.time_ns()}", seed=seed)
    seconds, model = time.process_time() - began, rewards.load(out)
    long = unseen[clips.length[unseen] >= frames]
    chosen = [clips.some(int(number), rng, frames) for number in np.repeat(long, -(-500 // len(long)))[:500]]
    found = judged_reward(model, clips, apart, chosen, np.array([clips.worth(clip, "return") for clip in chosen]))
    whole = [clips.clip(int(number)) for number in unseen]
    ranks = judged_reward(model, clips, [], whole, np.array([clips.worth(clip, "return") for clip in whole])).rank
    return {
        "right": found.right, "pairs": found.pairs, "rank": found.rank, "clips": found.clips, "whole": ranks,
        "episodes": [len(episodes), len(unseen)], "frames": len(clips.states), "run": out.parent.name, "cpu_s": seconds,
    }  # fmt: skip


def place_of(kind: str, clips: Clips, folder: Path, seed: int) -> str:
    """The checkpoint of a reward; empty for the true one."""
    if kind == "true":
        return ""
    if kind == "learnt":
        return str(folder / cells_of("preferences")[f"reward {ARM} {seed}"]["run"] / "checkpoint")
    model = seeded(clips, seed=seed)
    model.measure(torch.from_numpy(clips.states))
    model.normalise(torch.from_numpy(clips.states), torch.from_numpy(clips.actions))
    checkpoint.save(model, folder / f"untrained-{seed}")
    return str(folder / f"untrained-{seed}")


def main(
    folder: Path = Path("runs/preferences"),
    only: tuple[str, ...] = ("reward", "improve"),
    tasks: tuple[str, ...] = (LARGE, CHEETAH, ARM),
    count: int = 500,
    reward_seeds: int = 5,
    seeds: int = 2,
    kinds: tuple[str, ...] = tuple(KINDS),
    env_steps: int = 250_000,
    judging: int = 100,
) -> None:
    torch.set_num_threads(1)
    clips = {task: logs_of(task, folder) for task in tasks}
    todo: dict[str, Any] = {}
    if "reward" in only:
        for task in tasks:
            for seed in range(reward_seeds):
                todo[f"reward {task} {seed}"] = functools.partial(reward, task, clips[task], folder, seed, count)
    if "improve" in only:
        case = Case("generalist", ARM, folder, judging)
        todo["shipped"] = lambda: judged("generalist", case)
        for seed in range(seeds):
            for kind in kinds:
                todo[f"{kind} {seed}"] = lambda kind=kind, seed=seed: improved(
                    case, "ppo", seed, env_steps, place_of(kind, clips[ARM], folder, seed)
                )
    for name, measure in todo.items():
        cells = cells_of("preferences")
        if name in cells:
            continue
        cells[name] = found = measure()
        print(name, {key: value for key, value in found.items() if key != "outcomes"}, flush=True)
        settings = {"episodes": EPISODES, "count": count, "env_steps": env_steps, "clips": CLIPS}
        write("preferences", {"settings": settings, "cells": cells})


def render() -> str:
    """How near the learnt reward is to the true one, and what improvement by it reaches."""
    found = read("preferences")
    cells, settings = found["cells"], found["settings"]
    lines = [
        "| 500 pairs of clips, on episodes not learnt from | better clip found | rank correlation of clips | "
        "of whole episodes |",
        "| --- | --- | --- | --- |",
    ]
    for task in CLIPS:
        ran = [cells[name] for name in sorted(cells) if name.startswith(f"reward {task} ")]
        for name in (LEARNT, UNTRAINED) if ran else ():
            right = _range([cell["right"][name] / cell["pairs"] for cell in ran])
            clip, whole = (_range([cell[key][name] for cell in ran]) for key in ("rank", "whole"))
            lines.append(f"| `{task}`, {name} ({len(ran)} seeds) | {right} | {clip} | {whole} |")
    frames = ", ".join(f"{settings['clips'][task]} frames (`{task}`)" for task in CLIPS)
    logs = "; ".join(
        f"`{task}` {cell['frames']:,} frames in {sum(cell['episodes'])} episodes, of which {cell['episodes'][1]} are "
        "not learnt from"
        for task in CLIPS
        for cell in [cells[f"reward {task} 0"]]
    )
    spent = max(cell["cpu_s"] for name, cell in cells.items() if name.startswith("reward "))
    lines += [
        "",
        f"Means and, in brackets, the least and the most of the seeds. Clips are of {frames}. Logs: {logs}. "
        f"Learning took {spent:.0f} s of one core at most (`python benchmarks/preferences.py`).",
    ]
    if "shipped" not in cells:
        return "\n".join(lines) + "\n"
    lines += [
        "",
        f"| {ARM}, {cells['shipped']['trials']} unseen episodes, `improve` by | seed | succeed | more than as it is | "
        "of what the true reward adds |",
        "| --- | --- | --- | --- | --- |",
        f"| nothing: shipped weights |  | {share(cells['shipped'])} |  |  |",
    ]
    ran = {
        (kind, name.partition(" ")[2]): cell
        for name, cell in cells.items()
        if (kind := name.partition(" ")[0]) in KINDS
    }
    for kind, title in KINDS.items():
        for (own, seed), cell in sorted(ran.items()):
            if own == kind:
                more = paired_difference(_bools(cell), _bools(cells["shipped"]))
                true = ran["true", seed]["successes"] - cells["shipped"]["successes"]
                part = (cell["successes"] - cells["shipped"]["successes"]) / true
                lines.append(f"| {title} | {seed} | {share(cell)} | {difference(more)} | {part:.2f} |")
    most = max(cell["env_steps"] for cell in ran.values())
    spent = max(cell["cpu_s"] for cell in ran.values())
    lines += [
        "",
        f"95 % intervals; the differences are paired. At most {most:,.0f} steps of the simulator and {spent:.0f} s of "
        "one core in each run.",
    ]
    return "\n".join(lines) + "\n"


def _bools(cell: dict[str, Any]) -> list[bool]:
    return [bool(outcome) for outcome in cell["outcomes"]]


def _range(values: list[float]) -> str:
    return f"{np.mean(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    tyro.cli(main)

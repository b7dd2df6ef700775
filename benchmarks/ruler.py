"""Meta-World by LeRobot's ruler: ``lerobot-eval`` itself, in an environment of LeRobot's own, through our plugin.

    pip install 'lerobot[evaluation,metaworld]==0.6.1' 'mujoco==3.3.0' && pip install . ./integrations/lerobot
    python benchmarks/ruler.py words PYTHON words.toml
    polysoma train recipes/behind.toml --out runs/behind
    python benchmarks/ruler.py run PYTHON runs/behind/checkpoint --name behind

The first line belongs in that environment, whose Python is PYTHON. Pictures, words, horizon, seeds and what counts as a
success are LeRobot's, and so are 10 episodes of a task; but no videos are made. An episode that fails takes two minutes
of a core without a GPU: 500 pictures. Cells that have as many episodes as are asked for are not measured again.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from polysoma.evaluation.intervals import wilson
from polysoma.files import write_atomically
from polysoma.rollout.drivers import Checkpoint
from polysoma.simulators.metaworld import BEHIND, FAMILY, INSTRUCTIONS
from results import FOLDER, cells_of, read, share, write
from scores import GROUPS, group_of

PICTURE, STATE = "observation.image", "observation.state"
STREAMS = {"corner2": PICTURE, "proprioception": STATE}
PEERS = {
    "SmolVLA, 0.45B": ([82.5, 41.8, 45.0, 60.0], 57.3),
    "ProgVLA, 0.1B": (None, 78.5),
    "FabriVLA, 0.89B": (None, 90.0),
}
"""What others report, in percent: easy, medium, hard, very hard where they do, and the mean of the four (SmolVLA: arXiv
2506.01844, table 2; the others as their papers say)."""


WITHOUT_VIDEOS = """
from lerobot.scripts import lerobot_eval

evaluate = lerobot_eval.eval_policy_all
lerobot_eval.eval_policy_all = lambda **asked: evaluate(**asked | {"max_episodes_rendered": 0})
lerobot_eval.main()
"""
"""``lerobot-eval``, which draws every step a second time for its videos otherwise."""


def words(python: tyro.conf.Positional[Path], out: tyro.conf.Positional[Path]) -> None:
    """Writes LeRobot's instructions as paraphrases of ours, for recipes' ``paraphrases``. Two pairs of its tasks are
    called alike.

    Args:
        python: of LeRobot's environment.
        out: the file.
    """
    said = subprocess.run(
        [python, "-c", "import json\nfrom lerobot.envs import metaworld as m\nprint(json.dumps(m.TASK_DESCRIPTIONS))"],
        capture_output=True, text=True, check=True, env=_surroundings(),
    ).stdout.splitlines()[-1]  # fmt: skip
    theirs: dict[str, str] = json.loads(said)
    lines = ["[frames]", 'train = ["{}"]', 'held-out = ["{}"]', "", "[phrases]"]
    for task, ours in INSTRUCTIONS.items():
        other = json.dumps(theirs[task].lower())
        lines.append(f"{json.dumps(ours)} = {{ train = [{other}], held-out = [{other}] }}")
    write_atomically(out, ("\n".join(lines) + "\n").encode())


def run(
    python: tyro.conf.Positional[Path],
    checkpoint: tyro.conf.Positional[str],
    name: str = "generalist",
    body: str = BEHIND.embodiment.name,
    streams: str = json.dumps(STREAMS),
    tasks: tuple[str, ...] = (),
    episodes: int = 10,
    together: int = 5,
    minutes: float = 0.0,
) -> None:
    """Measures the cells that are missing.

    Args:
        python: of LeRobot's environment.
        checkpoint: of ours.
        name: what results call it.
        body: the one of its bodies that drives.
        streams: the body's streams to LeRobot's keys.
        tasks: by their names without ``-v3``; all without any.
        episodes: of each task.
        together: tasks that a process of LeRobot's measures, before they are written down.
        minutes: begins no other tasks after so many; 0 for no limit.
    """
    Checkpoint(checkpoint).check([f"{body}/any"])
    began = time.monotonic()
    every = tasks or tuple(task.split("/")[1].removesuffix("-v3") for task in FAMILY.tasks)
    while not minutes or time.monotonic() - began < 60 * minutes:
        cells = cells_of("ruler")
        missing = [task for task in every if cells.get(f"{name}/{task}", {"trials": 0})["trials"] < episodes]
        if not missing:
            break
        found = _measured(python, checkpoint, body, streams, missing[:together], episodes)
        for task, cell in found.items():
            print(task, cell, flush=True)
        # Another process may have measured other tasks since.
        cells = cells_of("ruler") | {f"{name}/{task}": cell for task, cell in found.items()}
        write("ruler", {"cells": dict(sorted(cells.items()))})


def _measured(
    python: Path, checkpoint: str, body: str, streams: str, tasks: Sequence[str], episodes: int
) -> dict[str, dict[str, Any]]:
    """What LeRobot says of each of these tasks."""
    place = str(Path(checkpoint).resolve()) if Path(checkpoint).exists() else checkpoint
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        done = subprocess.run(
            [
                python.absolute(), "-c", WITHOUT_VIDEOS, "--policy.type=polysoma_checkpoint",
                f"--policy.checkpoint={place}",
                f"--policy.body={body}", f"--policy.streams={streams}", "--policy.device=cpu",
                "--policy.push_to_hub=false", "--env.type=metaworld",
                "--env.task=" + ",".join(f"{task}-v3" for task in tasks),
                f"--eval.n_episodes={episodes}", "--eval.batch_size=1", "--eval.use_async_envs=false",
                f"--output_dir={folder}/out",
            ],
            capture_output=True, text=True, env=_surroundings(), cwd=folder,
        )  # fmt: skip
        found = Path(folder) / "out" / "eval_info.json"
        if done.returncode or not found.exists():
            raise SystemExit(
                f"lerobot-eval failed on {', '.join(tasks)}:\n{done.stdout[-1000:]}\n{done.stderr[-4000:]}"
            )
        said = json.loads(found.read_text())["per_task"]
    seconds = round((time.monotonic() - began) / len(tasks))
    cells = {}
    for task, own in zip(tasks, said, strict=True):
        if own["task_group"] != f"{task}-v3":
            raise SystemExit(f"expected LeRobot's outcomes of {task}-v3, got those of {own['task_group']}")
        won, trials = sum(map(bool, own["metrics"]["successes"])), len(own["metrics"]["successes"])
        cells[task] = {
            "checkpoint": checkpoint, "body": body, "successes": won, "trials": trials,
            "interval": [round(end, 4) for end in wilson(won, trials)], "seconds": seconds,
        }  # fmt: skip
    return cells


def _surroundings() -> dict[str, str]:
    """Variables of LeRobot's processes: nothing from the hub, and pictures without a screen."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {"HF_HUB_OFFLINE": "1", "MUJOCO_GL": "egl"} | kept


def render() -> str:
    """The table."""
    cells: dict[str, Any] = read("ruler")["cells"] if (FOLDER / "ruler.json").exists() else {}
    lines = [
        "| policy | easy | medium | hard | very hard | mean of the four |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for peer, (four, mean) in PEERS.items():
        lines.append(f"| {peer}, as reported | {' | '.join(map(str, four or ['-'] * 4))} | {mean} |")
    for name in dict.fromkeys(cell.split("/")[0] for cell in cells):
        rates: dict[str, list[float]] = {group: [] for group in GROUPS}
        for cell, found in cells.items():
            who, task = cell.split("/")
            if who == name:
                rates[group_of(task)].append(100 * found["successes"] / found["trials"])
        shown = [f"{np.mean(own):.1f} ({len(own)})" if own else "-" for own in rates.values()]
        whole = sum(map(len, rates.values())) == len(FAMILY.tasks)
        mean = f"{np.mean([np.mean(own) for own in rates.values()]):.1f}" if whole else "-"
        lines.append(f"| `{name}` | {' | '.join(shown)} | {mean} |")
    if not cells:
        return "\n".join([*lines, "", "Success in percent. Nothing of ours is measured by it yet."]) + "\n"
    lines += ["", "Success in percent, and in brackets on how many tasks of the group:", ""]
    lines += [f"- `{cell}`: {found['successes']}/{found['trials']}, {share(found)}" for cell, found in cells.items()]
    return "\n".join([*lines, "", "`python benchmarks/ruler.py run`; 95 % intervals."]) + "\n"


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"run": run, "words": words})

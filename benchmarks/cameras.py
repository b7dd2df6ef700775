"""What a picture of each body's cameras costs, and how often the thing that the instruction names is in it.

    python benchmarks/cameras.py

A ring or a pillar is in sight where at least 6 pixels change when it is not drawn. It is looked for at every tenth step
of the expert, who knows where it is: where it is not in sight, nobody could tell from the picture what the expert does.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from polysoma import simulators
from polysoma.embodiment import INSTRUCTION, Modality
from polysoma.simulators.environment import Environment
from results import read, write
from so101 import milliseconds  # Renders by one thread from here on.

LARGER = 128
"""Pixels of a side that pictures are measured with, too."""
SEED, EPISODES, EVERY = 6500, 20, 10
DRAWN_TASKS = 5
"""Of a body's tasks, evenly spread over its list."""
COLOURED = {"rover-pixels": "pillar", "rover-overview": "pillar", "drone-pixels": "ring", "drone-chase": "ring"}
WITH_COLOURS = ("/pillar", "/maze", "/ring")
"""Tasks of these bodies in which a picture must show what is named."""
LEAST, CHANGED = 6, 8
"""Pixels that change, and levels of 256 by which."""


def main() -> None:
    bodies: dict[str, Any] = {}
    for name in ("metaworld-pixels", "aloha-pixels", "babyai-pixels", *COLOURED):
        body, tasks = simulators.embodiments()[name], simulators.tasks_of(name)
        cameras = [stream.name for stream in body.streams if stream.modality is Modality.IMAGE]
        if name == "aloha-pixels":
            cameras += ["left_wrist", "right_wrist"]
        side = next(stream.shape[0] for stream in body.streams if stream.modality is Modality.IMAGE)
        drawn = tasks[:: max(1, len(tasks) // DRAWN_TASKS)]
        bodies[name] = {
            "side": side,
            "ms": {camera: [_cost(drawn, camera, pixels) for pixels in (side, LARGER)] for camera in cameras},
            "in_sight": {
                task: _in_sight(task, cameras) for task in tasks if name in COLOURED and task.endswith(WITH_COLOURS)
            },
        }
        print(name, bodies[name], flush=True)
    write("cameras", {"seed": SEED, "episodes": EPISODES, "every": EVERY, "larger": LARGER, "bodies": bodies})


def _inner(task: str) -> Environment:
    """The task as its cameras draw it: observed by its state."""
    return simulators.make(f"{simulators.embodiments()[task.partition('/')[0]].body}/{task.partition('/')[2]}")


def _cost(tasks: tuple[str, ...], camera: str, pixels: int) -> float:
    """Milliseconds of a picture, the most of the medians of some tasks."""
    found = []
    for task in tasks:
        environment = _inner(task)
        environment.reset(seed=SEED)
        found.append(milliseconds(functools.partial(environment.camera_frame, camera, pixels)))
        environment.close()
    return max(found)


def _in_sight(task: str, cameras: list[str]) -> dict[str, float]:
    """In which part of the starts, and of all steps that were looked at, one of the cameras shows what is named."""
    environment: Any = simulators.make(task)
    inner = environment._inner
    thing = COLOURED[environment.embodiment.name]
    model = inner._scene()[0]
    starts, steps = [], []
    for seed in range(SEED, SEED + EPISODES):
        observation, _ = environment.reset(seed=seed)
        colour = next(word for word in observation[INSTRUCTION].split() if _has(model, f"{word}_{thing}"))
        geoms = model.geom_bodyid == model.body(f"{colour}_{thing}").id
        count, over = 0, False
        while not over:
            if count % EVERY == 0:
                opaque = model.geom_rgba[geoms].copy()
                model.geom_rgba[geoms, 3] = 0
                shown = 0
                for camera in cameras:
                    without = inner.camera_frame(camera, len(observation[camera])).astype(int)
                    shown = max(shown, int((np.abs(without - observation[camera]).max(-1) > CHANGED).sum()))
                model.geom_rgba[geoms] = opaque
                steps.append(shown >= LEAST)
                starts += steps[-1:] if count == 0 else []
            observation, _, terminated, truncated, _ = environment.step(environment.expert_action())
            count, over = count + 1, terminated or truncated
    environment.close()
    return {"start": float(np.mean(starts)), "steps": float(np.mean(steps))}


def _has(model: Any, name: str) -> bool:
    return any(model.body(number).name == name for number in range(model.nbody))


def render() -> str:
    """The cameras of each body, and what is named in sight."""
    found = read("cameras")
    lines = [
        f"| body | a picture | of {found['larger']} pixels | the named thing is in sight at the start | at all steps |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in found["bodies"].items():
        own, larger = (", ".join(f"`{c}` {ms[i]:.1f} ms" for c, ms in row["ms"].items()) for i in (0, 1))
        parts = [
            ", ".join(f"{task.partition('/')[2]} {seen[key]:.2f}" for task, seen in row["in_sight"].items())
            for key in ("start", "steps")
        ]
        lines.append(f"| {name} | {own} | {larger} | {' | '.join(parts)} |")
    return "\n".join(
        [
            *lines,
            "",
            "A picture: the slowest of five tasks or of all, where there are fewer; processor time on one core of "
            f"{found['hardware']['processor']}, software rendering. In sight: {found['episodes']} episodes of the "
            f"expert, seeds from {found['seed']} on, every {found['every']}th step. The wrists of ALOHA are those of "
            f"`aloha-wrists` (`{found['command']}`).",
            "",
        ]
    )


if __name__ == "__main__":
    main()

"""Learning dead ends (:mod:`polysoma.policy.dead_ends`) from logs of successes and failures, and their alarms:
``polysoma guard learn``.

::

    learn([Dataset(Path("data/logs"))], Path("guards/body"))   # failures too: polysoma record --behaviour noisy
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from polysoma.data.dataset import Dataset
from polysoma.data.outcomes import Outcomes
from polysoma.errors import PolysomaError
from polysoma.learning import lineage
from polysoma.learning.engine import Engine, Progress, Settings
from polysoma.learning.methods.dead_ends import LearnDeadEnds, few_states
from polysoma.learning.optimizers import AdamW
from polysoma.policy import weight_file
from polysoma.policy.checkpoint import WEIGHTS
from polysoma.policy.dead_ends import Alarm, DeadEndConfig, DeadEnds

_ROWS = 4096
"""Steps that are judged at a time."""
_ROUNDING = 1e-5
"""By which thresholds are higher than the scores that they are: judged alone, a step that many episodes have, as in
worlds of few states, has another last digit than among thousands."""


def engine_settings(steps: int, learning_rate: float = 3e-3) -> Settings:
    """What suits dead-end values: a rate that falls to nothing, and no decay."""
    optimizer = AdamW(learning_rate, weight_decay=0.0, ema=0.99, final=0.0)
    every = min(steps, 2000)
    return Settings(
        steps=steps, optimizer=optimizer, grad_clip=1e6, precision="float32", tracker="none", checkpoint_every=every
    )


def learn(
    datasets: Sequence[Dataset],
    out: Path,
    fresh: Sequence[Dataset] = (),
    rate: float = 0.05,
    replace: float = 0.1,
    held_out: float = 0.3,
    span: int = 1,
    size: tuple[int, int] = (128, 2),
    octaves: int = 3,
    method: LearnDeadEnds = LearnDeadEnds(),  # noqa: B008  (frozen)
    settings: Settings | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> DeadEnds:
    """Learns a guard from logs, and writes it into the folder ``out``, which is that of the run, too.

    Args:
        datasets: of one body, with failures and successes.
        out: folder.
        fresh: data sets with whose successes the thresholds are found; without, with those of episodes held out.
        rate: the share of successful episodes that may raise an alarm, see :func:`calibrate`.
        replace: see :class:`~polysoma.policy.dead_ends.Alarm`.
        held_out: the part of the episodes that is not learned from where there are no fresh ones.
        span: actions that are judged together, as many as the policy executes before it is asked again; 1 for choices.
        size: width and depth of the perceptrons.
        octaves: see :class:`~polysoma.policy.dead_ends.DeadEndConfig`; not used in worlds of few states.
        method: how.
        settings: of the engine; None for :func:`engine_settings` of 3,000 steps.
        seed: of all that is drawn.
        resume: continue the run in ``out``.
        progress: called after every step.

    Raises:
        PolysomaError: logs from which this cannot be learnt, too few successes for this rate, or as
            :meth:`~polysoma.learning.engine.Engine.run`.
    """
    every = Outcomes.of(datasets, span)
    logs, apart = every.apart(0.0 if fresh else held_out, seed)
    if fresh:
        if fresh[0].embodiment != datasets[0].embodiment:
            raise PolysomaError(f"{fresh[0].root}: expected the body of {datasets[0].root}")
        apart = Outcomes.of(fresh, span)
    check_successes(apart, rate)
    body = datasets[0].embodiment
    config = DeadEndConfig(body, *size, span, remembered=min(1024, len(logs.states)), octaves=octaves)
    if config.choices and few_states(logs):
        config = dataclasses.replace(config, octaves=0)
    torch.manual_seed(seed)
    values = DeadEnds(config)
    about = lineage.from_nothing(method.kind, datasets)
    engine = Engine(method.build(values, logs, seed), settings or engine_settings(3000))
    folder = engine.run(out, resume, progress=progress, lineage=about)
    # Wherever it learnt: a guard judges on the processor.
    values.cpu()
    values.load_state_dict(weight_file.read(folder / WEIGHTS))
    found = calibrate(values, apart, rate, replace)
    found.save(out)
    return found


def fit(
    config: DeadEndConfig,
    logs: Outcomes,
    settings: Settings | None = None,
    method: LearnDeadEnds = LearnDeadEnds(),  # noqa: B008  (frozen)
    seed: int = 0,
) -> DeadEnds:
    """Learns values without a folder, and without alarms. Raises as :func:`learn`."""
    torch.manual_seed(seed)
    values = DeadEnds(config)
    engine = Engine(method.build(values, logs, seed), settings or engine_settings(3000))
    for step in range(engine.settings.steps):
        engine.step(step)
    return values.cpu().requires_grad_(False).eval()


def episode_risks(values: DeadEnds, logs: Outcomes) -> tuple[np.ndarray, np.ndarray]:
    """What conformal prediction scores each successful episode by: the highest risk of what it did, and how far it was
    at most from what the logs show, float32 ``(episodes,)`` each."""
    used = np.flatnonzero(logs.success)
    if not len(used):
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    risk, unlike = np.zeros(len(used), np.float32), np.zeros(len(used), np.float32)
    for start in range(0, len(used), _ROWS):
        rows, part = used[start : start + _ROWS], slice(start, start + _ROWS)
        states, done = torch.from_numpy(logs.states[rows]), logs.actions[rows]
        with torch.inference_mode():
            actions = None if values.config.choices else torch.from_numpy(done)
            negative, _ = values.values(states, actions)
            risk[part] = -negative.numpy()[np.arange(len(rows)), done if actions is None else 0]
            unlike[part] = values.unlike(states)
    _, number = np.unique(logs.episode[used], return_inverse=True)
    worst = np.zeros((2, number.max() + 1), np.float32)
    np.maximum.at(worst[0], number, risk)
    np.maximum.at(worst[1], number, unlike)
    return worst[0], worst[1]


def calibrate(values: DeadEnds, logs: Outcomes, rate: float, replace: float = 0.1) -> DeadEnds:
    """The values with the thresholds of alarms that at most this share of successful episodes raises, on average over
    logs: split conformal prediction (Papadopoulos et al. 2002; Angelopoulos and Bates 2021, arXiv 2107.07511, section
    1). The score of an episode is its highest risk, and the threshold is the ``ceil((n + 1) (1 - rate))``-th smallest
    of n; the same for how unlike the logs its observations were. It holds for successes of the same driver and tasks as
    those here, without a guard.

    Args:
        values: learned from other episodes.
        logs: the successful episodes among them count.
        rate: between 0 and 1, of each kind of alarm.
        replace: see :class:`~polysoma.policy.dead_ends.Alarm`.

    Raises:
        PolysomaError: too few successes for this rate.
    """
    count = check_successes(logs, rate)
    place = math.ceil((count + 1) * (1 - rate) - 1e-9)
    risk, unlike = (float(np.sort(scores)[place - 1]) + _ROUNDING for scores in episode_risks(values, logs))
    return values.with_alarm(Alarm(min(risk, 1.0), rate, count, unlike if values.config.remembered else None, replace))


def check_successes(logs: Outcomes, rate: float) -> int:
    """How many successful episodes there are. Raises PolysomaError where they are too few for this rate of alarms."""
    if not 0 < rate < 1:
        raise PolysomaError(f"rate: expected a number between 0 and 1, got {rate}")
    count = len(np.unique(logs.episode[logs.success]))
    if math.ceil((count + 1) * (1 - rate) - 1e-9) > count:
        least = math.ceil(1 / rate - 1e-9) - 1
        raise PolysomaError(f"a rate of {rate:g} needs {least} successful episodes at least, got {count}")
    return count

"""Learning the forces of a grey box (:mod:`polysoma.policy.dynamics`) from logs of driving.

From an observed state the mechanics are computed for some steps with the forces as they are, under the actions that
were executed; the forces learn by the distance from what was observed then. No force is measured or estimated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from torch import nn

from polysoma.config import check, within
from polysoma.data.dataset import Dataset
from polysoma.data.replay import Replay
from polysoma.errors import PolysomaError
from polysoma.learning import lineage
from polysoma.learning.engine import Engine, Progress, Settings
from polysoma.learning.method import Method, Metrics, ParameterGroup, Share
from polysoma.learning.optimizers import AdamW
from polysoma.policy.dynamics import Dynamics, DynamicsConfig, Shape
from polysoma.simulators.car_body import MOTION, advance

_SPUN, _SLOW = 1.2, 3.0
"""Side slip (rad) and speed (m/s) beyond which nothing is learnt: slips are no measure of tires there."""


@dataclass(frozen=True)
class DynamicsLearning:
    """Settings.

    Attributes:
        batch: pieces of the logs in each step of learning.
        ahead: control steps that are computed from each observed state.
        kind: what lineages call it.
    """

    batch: Annotated[int, within(1, 10**6)] = 128
    ahead: Annotated[int, within(1, 1000)] = 8
    kind: Literal["dynamics"] = "dynamics"

    def __post_init__(self) -> None:
        check(self)

    def build(self, model: Dynamics, replay: Replay, seed: int = 0) -> Method:
        """The method that improves this model by these logs. Raises PolysomaError where they are of another body, span
        several frames, or have no piece in which the car drives."""
        return _DynamicsLearning(model, replay, self, seed)


class _DynamicsLearning(Method):
    def __init__(self, model: Dynamics, replay: Replay, settings: DynamicsLearning, seed: int) -> None:
        if replay.embodiment != model.config.embodiment or replay.stride != 1:
            raise PolysomaError(
                f"expected logs of {model.config.embodiment.name}, frame by frame; got {replay.embodiment.name} in "
                f"steps of {replay.stride}"
            )
        self.modules = nn.ModuleDict({"policy": model})
        self._model, self._replay, self._settings, self._seed = model, replay, settings, seed
        ahead = settings.ahead
        sliding = (np.abs(replay.states[:, 1]) > _SPUN) | (replay.states[:, 0] < _SLOW)
        bad = np.concatenate([[0], np.cumsum(sliding)])
        rows = replay.starts[replay.starts + ahead <= replay.last[replay.starts]]
        rows = rows[np.isin(rows + ahead - 1, replay.observed)]
        self._rows = rows[bad[rows + ahead + 1] == bad[rows]]
        if not len(self._rows):
            raise PolysomaError(f"expected logs with {ahead + 1} frames of driving after each other, got none")
        states = replay.states[:, : len(MOTION)]
        # What changes in that time is of the size that errors are compared with.
        spread = (states[self._rows + ahead] - states[self._rows]).std(0)
        self._scale = torch.from_numpy(np.maximum(spread, 1e-3))

    def parameter_groups(self) -> Sequence[ParameterGroup]:
        """What makes coefficients of contexts decays, and thereby the difference from a curve that is the same
        everywhere; the curve itself does not."""
        numbers = self._model.numbers
        matrices = [one for name, one in numbers.items() if one.ndim == 2]
        return [
            ParameterGroup(matrices, True),
            ParameterGroup([one for one in numbers.values() if one.ndim < 2], False),
        ]

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng = share.rng(self._seed, step)
        count = -(-self._settings.batch // share.count)
        rows = self._rows[rng.integers(len(self._rows), size=count)]
        later = rows[:, None] + np.arange(self._settings.ahead)
        actions = self._replay.steps(later.reshape(-1)).actions.reshape(*later.shape, -1)
        commands = torch.from_numpy(actions).to(share.device)
        observed = torch.from_numpy(self._replay.states[later + 1]).to(share.device)
        state = torch.from_numpy(self._replay.states[rows]).to(share.device)
        scale, forces = self._scale.to(share.device), self._model.forces()
        loss = torch.zeros((), device=share.device)
        for number in range(self._settings.ahead):
            state = advance(torch, forces, state, commands[:, number], parts=1)
            missed = (state - observed[:, number])[:, : len(MOTION)] / scale
            loss = loss + nn.functional.smooth_l1_loss(missed, torch.zeros_like(missed)) / self._settings.ahead
        loss.backward()
        return {"loss/motion": loss.item(), "windows": float(count)}


def engine_settings(steps: int) -> Settings:
    """What suits a few hundred parameters: a high rate that falls, and the mean of the last weights."""
    optimizer = AdamW(1e-2, weight_decay=0.01, ema=0.95)
    return Settings(
        steps=steps, optimizer=optimizer, grad_clip=1.0, precision="float32", tracker="none", checkpoint_every=steps
    )


def learn(
    datasets: Sequence[Dataset],
    shape: Shape,
    out: Path,
    steps: int = 200,
    settings: DynamicsLearning | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Learns a grey box from logs, and returns the folder of the checkpoint, ``out/checkpoint``.

    Args:
        datasets: of the drifting car.
        shape: of the forces.
        out: folder of the run.
        steps: of learning.
        settings: None for the defaults.
        seed: of all that is drawn.
        resume: continue the run in ``out``.
        progress: called after every step.

    Raises:
        PolysomaError: logs from which this cannot be learnt, or as :meth:`~polysoma.learning.engine.Engine.run`.
    """
    replay = Replay(datasets)
    model = seeded(DynamicsConfig(replay.embodiment, shape), seed)
    method = (settings or DynamicsLearning()).build(model, replay, seed)
    about = lineage.from_nothing("dynamics", datasets)
    return Engine(method, engine_settings(steps)).run(out, resume, progress=progress, lineage=about)


def seeded(config: DynamicsConfig, seed: int) -> Dynamics:
    """A new model whose first weights are those of a seed."""
    torch.manual_seed(seed)
    return Dynamics(config)

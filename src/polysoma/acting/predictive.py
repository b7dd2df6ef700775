"""Model-predictive control of the drifting car with any model of its tires.

At every step the trajectory of the step before is improved once by a step of the iterative linear-quadratic regulator
(Tassa et al. 2012, "Synthesis and stabilization of complex behaviors through online trajectory optimization"), from the
observed state on (Diehl et al. 2005: real-time iterations). It draws nothing, so that what it does is as smooth as the
model is. All sessions are computed together, in NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from polysoma.acting.planner import NoPlan, Plan, Session, TaskPrompt
from polysoma.config import check, within
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.simulators.car_body import CAR, DYNAMIC, EMBODIMENT, Forces, advance
from polysoma.simulators.car_expert import COST, EFFORT, Feedback, feedback

_LOW, _HIGH = EMBODIMENT.actions.low.astype(float), EMBODIMENT.actions.high.astype(float)  # type: ignore[union-attr]
_PARTS = np.array([1.0, 0.5, 0.2, 0.05])
"""The parts of an improvement that are tried."""
_SMALL = 1e-4


@dataclass(frozen=True)
class Looking:
    """How far a plan looks ahead.

    Attributes:
        ahead: control steps.
        first: improvements of an episode's first plan; later ones take one.
        effort: what commands cost, beside the expert's costs: with more the car is driven more smoothly and less
            exactly.
    """

    ahead: Annotated[int, within(2, 1000)] = 25
    first: Annotated[int, within(1, 1000)] = 10
    effort: Annotated[float, within(0, 1000, above=True)] = 1.0

    def __post_init__(self) -> None:
        check(self)


class _Session(Session):
    """Remembers the drift that the model could hold, and its trajectory: states
    ``(N + 1, 10)`` and actions ``(N, 2)``."""

    drift: Feedback | None = None
    states: np.ndarray
    actions: np.ndarray


class PredictivePlanner:
    """Drives the car along its circle at the side slip of the task, one action at a time.

    The costs are the expert's: distances from the steady drift that the model believes in, and after the last step
    what a distance from it costs until the end of time.

    Args:
        forces: the tires that it believes in: the simulator's own, those of a
            :class:`~polysoma.policy.dynamics.Dynamics`, or a folder of its checkpoint.
        looking: how far.

    Attributes:
        embodiments: the drifting car.
    """

    def __init__(self, forces: Forces | str | Path, looking: Looking = Looking()) -> None:
        self.looking, self.embodiments = looking, (EMBODIMENT,)
        if isinstance(forces, str | Path):
            from polysoma.policy.dynamics import load  # torch takes a second to import

            model = load(forces)
            forces, self.embodiments = model.array_forces(), (model.config.embodiment,)
        self.forces: Forces = forces
        self._effort = looking.effort * EFFORT

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`~polysoma.acting.planner.Planner.start`. Raises PolysomaError where a prompt shows something."""
        if prompt.goal is not None or prompt.demonstrations:
            raise PolysomaError(f"a planner with a model of {prompt.body.name} follows no pictures and demonstrations")
        return _Session(prompt)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`. :class:`~polysoma.acting.planner.NoPlan` where the model
        holds no drift on a session's circle."""
        now = np.stack([one["state"] for one in observations]).astype(float)
        plans: list[Plan | PolysomaError] = [NoPlan("no plan")] * len(sessions)
        ready: list[tuple[int, _Session]] = []
        for number, session in enumerate(sessions):
            assert isinstance(session, _Session)
            try:
                if session.drift is None:
                    self._begin(session, now[number])
                ready.append((number, session))
            except (PolysomaError, np.linalg.LinAlgError) as error:
                plans[number] = NoPlan(f"{session.prompt.body.name}: {error}")
        if not ready:
            return plans
        numbers, own = [number for number, _ in ready], [session for _, session in ready]
        states, actions = self._improve(own, now[numbers])
        for place, (number, session) in enumerate(ready):
            plans[number] = Plan(actions[place, :1].astype(np.float32), "model")
            session.actions = np.concatenate([actions[place, 1:], actions[place, -1:]])
        last = self._after(states[:, -1], actions[:, -1])
        for session, one, end in zip(own, states, last, strict=True):
            session.states = np.concatenate([one[1:], end[None]])
        return plans

    def _begin(self, session: _Session, now: np.ndarray) -> None:
        """The drift to hold, and a first trajectory that the gains around it lead to. Raises PolysomaError."""
        drift = feedback(float(now[8]), float(now[9]), self.forces, self._effort)
        states, actions = [now], []
        for _ in range(self.looking.ahead):
            actions.append(drift.action(states[-1]).astype(float))
            states.append(self._after(states[-1], actions[-1]))
        session.drift, session.states, session.actions = drift, np.stack(states), np.stack(actions)
        for _ in range(self.looking.first):
            improved, chosen = self._improve([session], now[None])
            session.states, session.actions = improved[0], chosen[0]

    def _after(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """States one control step later, kept where the equations hold."""
        after: np.ndarray = advance(np, self.forces, states, actions, parts=1)
        after[..., 0] = after[..., 0].clip(1, 60)
        after[..., 1] = after[..., 1].clip(-1.5, 1.5)
        after[..., 3] = after[..., 3].clip(0, 60 / CAR.radius)
        return after

    def _improve(self, sessions: Sequence[_Session], now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One step of the regulator: trajectories from the states ``(S, 10)`` of now, the cheapest of those tried."""
        drifts = [session.drift for session in sessions]
        target = np.stack([drift.state for drift in drifts if drift is not None])[:, None]
        ends = np.stack([drift.value for drift in drifts if drift is not None])
        states, actions = (np.stack([getattr(one, name) for one in sessions]) for name in ("states", "actions"))
        gains, steps = self._gains(states, actions, target, ends)
        count = len(_PARTS) + 1
        # The last one only corrects for where the car is.
        parts = np.append(_PARTS, 0.0)[:, None, None]
        path, done = [np.broadcast_to(now, (count, *now.shape))], []
        for number in range(self.looking.ahead):
            apart = (path[-1] - states[:, number])[..., :DYNAMIC]
            change = parts * steps[:, number] + np.einsum("sij,csj->csi", gains[:, number], apart)
            done.append((actions[:, number] + change).clip(_LOW, _HIGH))
            path.append(self._after(path[-1], done[-1]))
        paths, commands = np.stack(path, -2), np.stack(done, -2)
        missed = (paths - target)[..., :DYNAMIC]
        cost = (missed[..., :-1, :] ** 2 @ COST).sum(-1) + ((commands - target[..., 6:8]) ** 2 @ self._effort).sum(-1)
        cost = cost + np.einsum("csi,sij,csj->cs", missed[..., -1, :], ends, missed[..., -1, :])
        best = np.where(np.isfinite(cost), cost, np.inf).argmin(0)
        which = np.arange(len(now))
        return paths[best, which], commands[best, which]

    def _gains(
        self, states: np.ndarray, actions: np.ndarray, target: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gains ``(S, N, 2, 8)`` and steps ``(S, N, 2)`` by the backward pass, the model linearised by differences."""
        joined = np.concatenate([states[:, :-1], actions], -1)
        shifts = np.zeros((DYNAMIC + 2, joined.shape[-1]))
        shifts[np.arange(DYNAMIC + 2), [*range(DYNAMIC), 10, 11]] = _SMALL
        moved = np.concatenate([joined[None], joined + shifts[:, None, None]])
        after = self._after(moved[..., :10], moved[..., 10:])[..., :DYNAMIC]
        slopes = np.moveaxis((after[1:] - after[0]) / _SMALL, 0, -1)
        missed, effort = (states - target)[..., :DYNAMIC], self._effort * (actions - target[..., 6:8])
        value, slope = ends, (ends @ missed[:, -1, :, None])[..., 0]
        gains, steps = np.zeros((*actions.shape, DYNAMIC)), np.zeros(actions.shape)
        for number in reversed(range(self.looking.ahead)):
            a, b = slopes[:, number, :, :DYNAMIC], slopes[:, number, :, DYNAMIC:]
            across, along = np.swapaxes(b, 1, 2) @ value, np.swapaxes(a, 1, 2)
            by_action = effort[:, number] + (slope[:, None] @ b)[:, 0]
            cross = across @ a
            wanted = np.concatenate([cross, by_action[..., None]], -1)
            solved = -np.linalg.solve(np.diag(self._effort) + across @ b, wanted)
            gains[:, number], steps[:, number] = solved[..., :DYNAMIC], solved[..., DYNAMIC]
            turned = np.swapaxes(cross, 1, 2)
            by_state = COST * missed[:, number] + (along @ slope[..., None])[..., 0]
            slope = by_state + (turned @ steps[:, number, :, None])[..., 0]
            value = np.diag(COST) + along @ value @ a + turned @ gains[:, number]
            value = (value + np.swapaxes(value, 1, 2)) / 2
        return gains, steps

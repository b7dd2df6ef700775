"""A guard that keeps out of dead ends, by values learned from logs (:mod:`polysoma.learning.dead_ends`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polysoma.acting.guards import Guarded, Verdict
from polysoma.acting.planner import GUARD, Plan, Planner, embodiment_for
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.policy.dead_ends import DeadEnds

if TYPE_CHECKING:
    from polysoma.policy.policy import Policy


@dataclass(frozen=True, eq=False)
class DeadEndGuard:
    """Replaces a choice whose risk of failure is above the threshold by one that is not.

    The risk of a choice is ``-Q_D``, the least chance of failure after it. The policy keeps the say among the choices
    below the threshold, drawn with its own noise; where the plan has no probabilities, the one of the least risk is
    taken. Where all are above it, so is that one: nothing better is known, and the plan's risk says it. The paper asks
    that a choice is no more likely than ``1 + Q_D`` (arXiv 2110.04186, section 3); here it is allowed or not.

    Only the first action of a plan can be judged: give it to an agent that executes one (``Acting(execute=1)``), or to
    a policy of chunk 1.

    Args:
        values: with a threshold.
        flag: only says the risk, and changes nothing.

    Raises:
        PolysomaError: the values have no threshold.
    """

    values: DeadEnds
    flag: bool = False

    def __post_init__(self) -> None:
        if self.values.alarm is None:
            raise PolysomaError(f"the guard of {self.values.body.name} has no threshold: calibrate it first")

    @staticmethod
    def load(folder: str | Path) -> DeadEndGuard:
        """Reads a folder. Raises PolysomaError as :meth:`~polysoma.policy.dead_ends.DeadEnds.load`."""
        return DeadEndGuard(DeadEnds.load(Path(folder)))

    def around(self, planner: Planner | Policy) -> Guarded:
        """The planner with this guard of its body. Raises PolysomaError where it does not know this body."""
        made = Guarded(planner, self, self.values.body.name)
        embodiment_for(made, self.values.body)
        return made

    def judge(self, observation: Observation, plan: Plan) -> Verdict:
        """See :class:`~polysoma.acting.guards.Guard`."""
        assert self.values.alarm is not None
        negative, positive = self.values.judge(observation)
        threshold, chosen = np.float32(self.values.alarm.threshold), int(plan.actions[0])
        risk = float(-negative[chosen])
        fine = -negative <= threshold
        if fine[chosen] or self.flag:
            return Verdict.allow(risk)
        if plan.log_probabilities is not None and fine.any():
            among = np.where(fine, plan.log_probabilities[:1], -np.inf)
            drawn = Plan(plan.actions[:1], plan.source, choice_noise=_first(plan.choice_noise))
            best = int(drawn.with_log_probabilities(among, GUARD).actions[0])
        else:
            best = int(np.lexsort((positive, negative))[-1])
        if best == chosen:
            return Verdict.allow(risk)
        return Verdict.replace(np.array([best]), risk, f"failure after {self._name(chosen)}: {risk:.2f}")

    def _name(self, choice: int) -> str:
        return str(self.values.body.actions.names[choice])  # type: ignore[union-attr]


def _first(noise: np.ndarray | None) -> np.ndarray | None:
    return None if noise is None else noise[:1]

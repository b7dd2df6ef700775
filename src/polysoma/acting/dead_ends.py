"""A guard that keeps out of dead ends, by values learned from logs (:mod:`polysoma.learning.dead_ends`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polysoma.acting.guards import Guarded, Verdict
from polysoma.acting.planner import GUARD, Plan, Planner, as_planner, embodiment_for, known_embodiments
from polysoma.embodiment import DiscreteActions, Observation
from polysoma.errors import PolysomaError
from polysoma.policy.dead_ends import SPARE, DeadEndJudge, DeadEnds, Judged

if TYPE_CHECKING:
    from polysoma.policy.policy import Policy

RISK, UNLIKE = "risk", "unlike"
"""Kinds of alarms."""
_CLEARLY = 0.15
"""By how much the risk of a plan that was drawn may be above the least one for it to be taken."""


@dataclass(frozen=True, eq=False)
class DeadEndGuard:
    """Replaces an action that is likely to fail by one that is not.

    The risk of an action is ``-Q_D``, the least chance of failure after it. An action is fine where its risk is at most
    ``Alarm.replace``, or little more than the least of all: where nothing better is known, nothing is replaced. Among
    choices that are fine the policy keeps the say, with its own noise; where the plan has no probabilities, the one of
    the least risk is taken. Of numbers, where the planner draws others
    (:attr:`~polysoma.acting.planner.Plan.others`), that one is taken of all that are not clearly riskier than the least
    (:data:`_CLEARLY`) that is most like the others, the plan included: danger is no time for what is seldom meant, and
    small differences of risk are guesses. Where it draws none, the nearest fine one of some near the plan is taken
    (:class:`~polysoma.policy.dead_ends.DeadEndConfig`), which nobody meant to do. The paper asks
    that a choice is no more likely than ``1 + Q_D`` (arXiv 2110.04186, section 3); here it is allowed or not.

    Only the first actions of a plan are judged, ``DeadEndConfig.span`` of them; :meth:`around` ends plans there.

    Args:
        values: with thresholds.
        flag: only says the risk and alarms, and changes nothing.

    Raises:
        PolysomaError: the values have no thresholds.
    """

    values: DeadEnds
    flag: bool = False
    _judge: DeadEndJudge = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.values.alarm is None:
            raise PolysomaError(f"the guard of {self.values.body.name} has no threshold: calibrate it first")
        object.__setattr__(self, "_judge", DeadEndJudge(self.values))

    @staticmethod
    def load(folder: str | Path) -> DeadEndGuard:
        """Reads a folder. Raises PolysomaError as :meth:`~polysoma.policy.dead_ends.DeadEnds.load`."""
        return DeadEndGuard(DeadEnds.load(Path(folder)))

    def around(self, planner: Planner | Policy) -> Guarded:
        """The planner with this guard of its body. Raises PolysomaError where it does not know this body."""
        made = Guarded(planner, self, self.values.body.name, self.values.config.span)
        embodiment_for(made, self.values.body)
        return made

    def among(self, planners: Sequence[Planner | Policy]) -> list[Planner]:
        """The planners, those that know the body with this guard. Raises PolysomaError where none does."""
        every, name = [as_planner(planner) for planner in planners], self.values.body.name
        made = [
            self.around(planner) if name in [body.name for body in known_embodiments(planner)] else planner
            for planner in every
        ]
        if not any(isinstance(planner, Guarded) and planner.guard is self for planner in made):
            known = sorted({body.name for planner in every for body in known_embodiments(planner)})
            raise PolysomaError(f"a guard of {name}: expected one of a body that is driven, {', '.join(known)}")
        return made

    def judge(self, observation: Observation, plan: Plan) -> Verdict:
        """See :class:`~polysoma.acting.guards.Guard`."""
        alarm = self.values.alarm
        assert alarm is not None
        enough = np.inf if self.flag else float(np.float32(alarm.replace))
        found = self._judge.judge(observation, plan.actions, enough, plan.others)
        chosen = int(plan.actions[0]) if self.values.config.choices else 0
        risk = float(found.risk[chosen])
        raised = RISK if risk > np.float32(alarm.threshold) else ""
        if alarm.unlike is not None and found.unlike > np.float32(alarm.unlike):
            raised = f"{raised} {UNLIKE}".strip()
        instead = None if risk <= enough else self._instead(found, plan)
        if instead is None:
            return Verdict.allow(risk, raised)
        reason = f"failure after {self._name(plan.actions[0])}: {risk:.2f}"
        return Verdict.replace(instead, risk, reason, raised)

    def fine(self, found: Judged) -> np.ndarray:
        """Which of the actions that were judged may be executed, bool ``(N,)``."""
        return self._allowed(found, SPARE)

    def _allowed(self, found: Judged, spare: float) -> np.ndarray:
        """Which actions are no riskier than what is replaced, or than the least risk and ``spare``, bool ``(N,)``."""
        assert self.values.alarm is not None
        least = max(np.float32(self.values.alarm.replace), found.risk.min() + np.float32(spare))
        allowed: np.ndarray = found.risk <= least
        return allowed

    def _instead(self, found: Judged, plan: Plan) -> np.ndarray | None:
        """The actions to execute in the place of risky ones; None for these themselves."""
        choices = self.values.config.choices
        if not choices and plan.others is not None:
            best = _most_typical(found.actions, self._allowed(found, _CLEARLY))
            return found.actions[best] if best else None
        fine = self.fine(found)
        if fine[int(plan.actions[0]) if choices else 0]:
            return None
        if not choices:
            # Those near the plan are ordered by how near they are.
            known: np.ndarray = found.actions[int(fine.argmax())]
            return known
        assert found.chance is not None
        best = int(np.lexsort((found.chance, -found.risk))[-1])
        if plan.log_probabilities is not None:
            among = np.where(fine, plan.log_probabilities[:1], -np.inf)
            if np.isfinite(among).any():
                noise = None if plan.choice_noise is None else plan.choice_noise[:1]
                drawn = Plan(plan.actions[:1], plan.source, choice_noise=noise)
                best = int(drawn.with_log_probabilities(among, GUARD).actions[0])
        return np.array([best])

    def _name(self, action: np.ndarray) -> str:
        known = self.values.body.actions
        return str(known.names[int(action)]) if isinstance(known, DiscreteActions) else str(np.round(action, 2))


def _most_typical(plans: np.ndarray, fine: np.ndarray) -> int:
    """Which of plans ``(N, span, A)`` that are fine, bool ``(N,)``, is nearest to all of them; the first of several."""
    flat = plans.reshape(len(plans), -1)
    away = np.linalg.norm(flat[:, None] - flat, axis=-1).sum(1)
    return int(np.where(fine, away, np.inf).argmin())

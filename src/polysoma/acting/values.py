"""The planner of values of choices (:mod:`polysoma.policy.values`): the best choice, one at a time, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polysoma.acting.planner import Plan, Session, TaskPrompt
from polysoma.data.replay import rows_of
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.policy import values
from polysoma.policy.values import ValuePolicy


class ValuePlanner:
    """Drives the body of a :class:`~polysoma.policy.values.ValuePolicy`. Words, goal pictures and demonstrations say
    nothing to it.

    Args:
        policy: or the folder of its checkpoint.

    Attributes:
        policy: as given, opened.
        embodiments: its body.
    """

    def __init__(self, policy: ValuePolicy | str | Path) -> None:
        self.policy = policy if isinstance(policy, ValuePolicy) else values.load(policy)
        self.embodiments = (self.policy.config.embodiment,)

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`~polysoma.acting.planner.Planner.start`. Raises PolysomaError where a prompt shows something."""
        if prompt.goal is not None or prompt.demonstrations:
            raise PolysomaError(f"values of {prompt.body.name} follow neither pictures nor demonstrations")
        return Session(prompt)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`."""
        rows = rows_of(self.embodiments[0], observations)
        return [Plan(choice[None], "policy") for choice in self.policy.decide(rows)]

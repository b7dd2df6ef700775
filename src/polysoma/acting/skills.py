"""The planner of a skill policy (:mod:`polysoma.policy.skills`): one action at a time, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from polysoma.acting.planner import Plan, Session, TaskPrompt
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.nn.flow import Guide
from polysoma.policy import skills
from polysoma.policy.skills import SkillPolicy


class SkillPlanner:
    """Drives the body of a skill policy. Words, goal pictures and demonstrations say nothing to it.

    Args:
        policy: or the folder of its checkpoint.
        guides: costs of where the body goes, see :meth:`~polysoma.policy.skills.SkillPolicy.decide`.

    Attributes:
        skills: the policy.
        embodiments: its body.
    """

    def __init__(self, policy: SkillPolicy | str | Path, guides: Sequence[Guide] = ()) -> None:
        self.guides = tuple(guides)
        self.skills = policy if isinstance(policy, SkillPolicy) else skills.load(policy)
        self.embodiments = (self.skills.config.embodiment,)

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`~polysoma.acting.planner.Planner.start`. Raises PolysomaError where a prompt shows something."""
        if prompt.goal is not None or prompt.demonstrations:
            raise PolysomaError(f"a skill policy of {prompt.body.name} follows neither pictures nor demonstrations")
        return Session(prompt)

    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`."""
        streams = self.embodiments[0].arrays
        states = np.stack([np.concatenate([seen[s.name] for s in streams]) for seen in observations])
        try:
            actions = self.skills.decide(torch.from_numpy(states.astype(np.float32)), self.guides).numpy()
        except PolysomaError as error:
            return [error] * len(sessions)
        return [Plan(action[None].astype(np.float32), "policy") for action in actions]

"""The planner of a model to search in (:mod:`polysoma.policy.search`): one choice at a time, by a tree search for all
sessions together (:mod:`polysoma.nn.tree`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from polysoma.acting.planner import Plan, Session, TaskPrompt
from polysoma.data.replay import rows_of
from polysoma.embodiment import Observation
from polysoma.errors import PolysomaError
from polysoma.nn.tree import Searching, search
from polysoma.policy import search as model
from polysoma.policy.search import SearchPolicy


class _Session(Session):
    """Has noise of its own, so that its choices do not depend on what else is planned."""

    def __init__(self, prompt: TaskPrompt, seed: int) -> None:
        super().__init__(prompt)
        self.rng = np.random.default_rng([seed, 37])


class SearchPlanner:
    """Drives the body of a :class:`~polysoma.policy.search.SearchPolicy`. Words, goal pictures and demonstrations say
    nothing to it.

    Args:
        policy: or the folder of its checkpoint.
        searching: how thoroughly it searches.
        temperature: 1 draws choices from the improved policy, as while it learns; 0 takes the best ones, which may
            go round for ever where what is seen does not say all.

    Attributes:
        policy: as given, opened.
        embodiments: its body.
    """

    def __init__(
        self, policy: SearchPolicy | str | Path, searching: Searching | None = None, temperature: float = 1.0
    ) -> None:
        self.policy = policy if isinstance(policy, SearchPolicy) else model.load(policy)
        self.embodiments = (self.policy.config.embodiment,)
        self._searching, self._temperature = searching or Searching(), temperature

    def start(self, prompt: TaskPrompt, seed: int) -> Session:
        """See :meth:`~polysoma.acting.planner.Planner.start`. Raises PolysomaError where a prompt shows something."""
        if prompt.goal is not None or prompt.demonstrations:
            raise PolysomaError(f"a search for {prompt.body.name} follows neither pictures nor demonstrations")
        return _Session(prompt, seed)

    @torch.no_grad()
    def plan(self, sessions: Sequence[Session], observations: Sequence[Observation]) -> list[Plan | PolysomaError]:
        """See :meth:`~polysoma.acting.planner.Planner.plan`."""
        body, policy = self.embodiments[0], self.policy
        own = [session for session in sessions if isinstance(session, _Session)]
        noise = self._temperature * np.stack([one.rng.gumbel(size=body.actions.size) for one in own])
        latents = policy.represent(torch.from_numpy(rows_of(body, observations)))
        found = search(policy, latents, self._searching, policy.config.discount, policy.reach, noise)
        return [Plan(choice[None], "model") for choice in found.choices]

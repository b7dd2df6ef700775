"""Cloning what logs did: all of it, the best of it (filtered), or towards goals in hindsight.

Goal-conditioned cloning (Ghosh et al. 2019, arXiv 1912.06088) learns which action was taken by whoever came to a place
later. It never joins what different episodes show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from polysoma.config import check, within
from polysoma.data.replay import Replay
from polysoma.learning.method import Metrics, Share
from polysoma.learning.objectives import regression
from polysoma.learning.offline import OfflineMethod
from polysoma.policy.skills import Conditioning, SkillPolicy


@dataclass(frozen=True)
class Cloning:
    """Settings of cloning.

    Attributes:
        batch: steps of a log in each step of learning.
        best: the share of all steps that is learnt from, those of the episodes of the highest return; 1 for all.
        ahead: steps of the log to goals on average, whose number is drawn from a geometric distribution; 0 draws goals
            evenly from all that followed in the episode. In long episodes near goals are rare then, and a policy that
            is shown near ones (:mod:`polysoma.acting.graph`) has hardly learnt them.
    """

    batch: Annotated[int, within(1, 10**6)] = 256
    best: Annotated[float, within(0, 1, above=True)] = 1.0
    ahead: Annotated[float, within(0, 10**6)] = 0.0
    kind: Literal["cloning"] = "cloning"

    def __post_init__(self) -> None:
        check(self)

    def conditioning(self, goals: bool) -> Conditioning:
        """See :class:`~polysoma.learning.offline.OfflineSettings`."""
        return "goal" if goals else "nothing"

    def build(self, policy: SkillPolicy, replay: Replay, seed: int = 0) -> OfflineMethod:
        """See :class:`~polysoma.learning.offline.OfflineSettings`. Raises PolysomaError where the best are asked for of
        data without rewards."""
        return _Cloning(policy, replay, self, seed)


class _Cloning(OfflineMethod):
    def __init__(self, policy: SkillPolicy, replay: Replay, settings: Cloning, seed: int) -> None:
        super().__init__(policy, replay, settings.batch, 0.99, seed)
        self._rows = replay.starts if settings.best == 1 else replay.best(settings.best)
        self._near = 1 - 1 / settings.ahead if settings.ahead > 1 else None

    def accumulate(self, step: int, share: Share) -> Metrics:
        """See :class:`~polysoma.learning.method.Method`."""
        rng, policy = self.rng(step, share), self.policy
        drawn = self.draw(rng, share, self._rows)
        told = None
        if policy.config.conditioning == "goal":
            reached = self.states(self.replay.future(drawn.steps.rows, rng, self._near), share)
            told = policy.towards(policy.places(reached))
        loss = regression(policy.act(policy.state(drawn.states), told), drawn.actions)
        loss.backward()
        return {"loss/action": loss.item(), "windows": float(len(drawn.actions))}

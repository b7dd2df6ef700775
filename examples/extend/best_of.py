"""A planner of one's own: draws several plans, imagines where each leads, and takes the one of the highest value.
It needs a policy whose head draws (``head.kind = "flow"``) with a value readout (value_method.py)."""

import numpy as np
import torch

from polysoma.acting.planner import Session
from polysoma.acting.policy_planner import PolicyPlanner
from polysoma.data.batch import Batch
from polysoma.data.windows import tensor


class BestOfSession(Session):
    """One episode: a session of the policy for each plan that is drawn."""

    def __init__(self, inner):
        super().__init__(inner[0].prompt, inner[0].chunk)
        self.inner = inner

    def observed(self, observation):
        for session in self.inner:
            session.observed(observation)

    def executed(self, action):
        for session in self.inner:
            session.executed(action)


class BestOf:
    """``imagine(observation, actions)`` returns the observation that follows a plan."""

    def __init__(self, policy, imagine, count=8):
        self.policy, self.imagine, self.count = policy, imagine, count
        self.planner = PolicyPlanner(policy)
        self.embodiments = self.planner.embodiments

    def start(self, prompt, seed):
        return BestOfSession([self.planner.start(prompt, seed * self.count + draw) for draw in range(self.count)])

    def plan(self, sessions, observations):
        return [self._best(session, seen) for session, seen in zip(sessions, observations, strict=True)]

    def _best(self, session, observation):
        plans = self.planner.plan(session.inner, [observation] * self.count)
        plans = [plan for plan in plans if not isinstance(plan, Exception)] or plans
        if isinstance(plans[0], Exception):
            return plans[0]
        values = self.values(session.prompt.body, [self.imagine(observation, plan.actions) for plan in plans])
        return plans[int(np.argmax(values))]

    @torch.inference_mode()
    def values(self, body, observations):
        """The value readout of single observations, float32 ``(N,)``."""
        count, none = len(observations), body.actions.none()
        streams = {s.name: tensor(np.stack([o[s.name] for o in observations])[:, None]) for s in body.arrays}
        previous = tensor(np.broadcast_to(none, (count, 1, *none.shape)))
        words = [observation["instruction"] for observation in observations]
        batch = Batch(body, words, streams, previous, torch.zeros(count, 1, dtype=torch.bool), torch.ones(count).long())
        with self.policy.autocast():
            return self.policy.head(body.name, "value").decode(self.policy(batch, ("value",))["value"])[:, 0].numpy()

"""A guard of one's own: a plan that leads beyond a fence is cut off before it gets there.

planner = Guarded(PolicyPlanner(policy), Fence("x", -0.5, 0.5, step_s=0.1))
evaluate(planner, tasks, episodes=10, seed=1000)
"""

from dataclasses import dataclass

import numpy as np

from polysoma.acting.guards import Verdict


@dataclass(frozen=True)
class Fence:
    """Keeps one channel of the state between two places, where one channel of the actions is its velocity."""

    state_channel: int
    action_channel: int
    low: float
    high: float
    step_s: float

    def judge(self, observation, plan):
        here = observation["state"][self.state_channel]
        if not self.low <= here <= self.high:
            return Verdict.stop(reason=f"{here:.2f} is beyond the fence")
        path = here + self.step_s * np.cumsum(plan.actions[:, self.action_channel])
        beyond = np.flatnonzero((path < self.low) | (path > self.high))
        if not len(beyond):
            return Verdict.allow()
        actions = plan.actions.copy()
        actions[beyond[0] :, self.action_channel] = 0
        return Verdict.replace(actions, risk=len(beyond) / len(path), reason="the plan leads beyond the fence")

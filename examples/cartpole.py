"""A body of one's own: Gymnasium's cart pole, with a task in words and an expert. See docs/add-a-body.md."""

import gymnasium
import numpy as np

from polysoma.embodiment import Channel, DiscreteActions, Embodiment, Modality, Stream
from polysoma.simulators.environment import Environment, Family

STATE = (
    Channel("cart", "m", -4.8, 4.8),
    Channel("cart_speed", "m/s"),
    Channel("pole", "rad", -0.42, 0.42),
    Channel("pole_speed", "rad/s"),
)

EMBODIMENT = Embodiment(
    name="cartpole",
    streams=(Stream("state", Modality.STATE, (4,), STATE), Stream("instruction", Modality.TEXT)),
    actions=DiscreteActions(("push_left", "push_right")),
    rate_hz=50,
)


class CartPole(Environment):
    """Balance the pole for four seconds, and end in the half of the track that is named."""

    embodiment = EMBODIMENT
    max_steps = 200

    def __init__(self, task):
        super().__init__()
        self.task = task
        self._simulation = gymnasium.make("CartPole-v1").unwrapped

    def reset(self, *, seed=None, options=None):
        self._state, _ = self._simulation.reset(seed=seed)
        self._side = (-1, 1)[int(self._simulation.np_random.integers(2))]
        self._steps = 0
        return self._observe(), {"success": False}

    def step(self, action):
        self._state, _, fallen, _, _ = self._simulation.step(int(action))
        self._steps += 1
        over = self._steps >= self.max_steps
        success = bool(over and not fallen and self._state[0] * self._side > 0)
        return self._observe(), float(success), fallen or success, over, {"success": success}

    def expert_action(self):
        place, speed, angle, rate = self._state
        lean = 0.1 * np.clip(0.5 * self._side - place, -1, 1) - 0.12 * speed
        return np.int64(angle + 0.3 * rate > lean)

    def _observe(self):
        side = "right" if self._side > 0 else "left"
        return {"state": self._state.astype(np.float32), "instruction": f"balance the pole in the {side} half"}


FAMILY = Family(EMBODIMENT, ("cartpole/balance",), ("gymnasium",), CartPole)

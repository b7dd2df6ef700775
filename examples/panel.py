"""A panel whose wiring nobody tells: what a lamp means, and what a key does, can only be learnt from what is shown.

A family of tasks for learning in context (docs/in-context.md): every member `panel/0000`, `panel/0001`, ... has its own
button for each lamp, and every second one its own key for each direction. (Were it all of them, a policy would have to
find out both at once before either helps, and learns neither for long.)
"""

import gymnasium
import numpy as np

from polysoma.embodiment import DiscreteActions, Embodiment, Modality, Stream, channels
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Environment, Family

SIDE, LAMPS, MEMBERS = 3, 6, 2112
KEYS = ("key_a", "key_b", "key_c", "key_d", "press")
MOVES = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])

EMBODIMENT = Embodiment(
    name="panel",
    streams=(
        Stream("state", Modality.STATE, (2 + LAMPS,), (
            *channels("column row", "1", 0, SIDE - 1),
            *channels(" ".join(f"lamp_{number}" for number in range(LAMPS)), "1", 0, 1),
        )),
        Stream("instruction", Modality.TEXT),
    ),
    actions=DiscreteActions(KEYS),
    rate_hz=5,
)  # fmt: skip


class Panel(Environment):
    """A finger on a panel of buttons, one of which belongs to the lamp that is lit; a wrong press ends the episode."""

    embodiment = EMBODIMENT
    max_steps = 14

    def __init__(self, task):
        super().__init__()
        self.task = task
        own = np.random.default_rng([int(task.rpartition("/")[2]), 20_221])
        self._button = [divmod(cell, SIDE) for cell in own.permutation(SIDE * SIDE)[:LAMPS].tolist()]
        self._moves = MOVES[own.permutation(len(MOVES))] if int(task[-1]) % 2 else MOVES

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=self.own_seed(seed))
        self._lamp = int(self.np_random.integers(LAMPS))
        self._place = self.np_random.integers(0, SIDE, 2)
        self._steps = 0
        return self._observe(), {"success": False}

    def step(self, action):
        self._steps += 1
        pressed = int(action) == len(MOVES)
        success = pressed and tuple(self._place) == self._button[self._lamp]
        if not pressed:
            self._place = np.clip(self._place + self._moves[int(action)], 0, SIDE - 1)
        return self._observe(), float(success), pressed, self._steps >= self.max_steps, {"success": success}

    def expert_action(self):
        way = np.array(self._button[self._lamp]) - self._place
        good = np.flatnonzero((self._moves * np.sign(way)).sum(1) > 0)
        return len(MOVES) if not way.any() else int(good[self._steps % len(good)])

    def _observe(self):
        lamps = np.eye(LAMPS)[self._lamp]
        state = np.concatenate([self._place, lamps]).astype(np.float32)
        return {"state": state, "instruction": "press the button of the lamp"}


FAMILY = Family(
    EMBODIMENT, tuple(f"panel/{number:04}" for number in range(MEMBERS)), (), Panel, horizon=Horizon(history=8)
)

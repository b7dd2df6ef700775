"""A fleet of robots of one model, each with a camera that is mounted its own way and with motors of its own.

``picker/03-carry`` is the task "carry" on robot 3. Robots differ in where their camera is turned and shifted to, how
large it shows things, and in the gains, signs and zeros of their two motors: what one sees and does means little to
another. See docs/fleet.md and benchmarks/fleet.py.
"""

from dataclasses import dataclass

import numpy as np

from polysoma.embodiment import ContinuousActions, Embodiment, Modality, Stream, channels
from polysoma.simulators.environment import Environment, Family
from polysoma.task import Task

ROBOTS, TASKS = 16, ("touch", "carry", "stack")
SPEED, GRASP, NEAR = 0.08, 0.12, 0.08
SLOWING = 0.16
"""Below this distance the expert slows down."""

EMBODIMENT = Embodiment(
    name="picker",
    streams=(
        Stream(
            "camera",
            Modality.STATE,
            (9,),
            channels("hand_x hand_y grip", group="hand")
            + channels("red_x red_y", group="red")
            + channels("blue_x blue_y", group="blue")
            + channels("goal_x goal_y", group="goal"),
        ),
        Stream("instruction", Modality.TEXT),
    ),
    actions=ContinuousActions(channels("first second grip", "1", -1, 1)),
    rate_hz=10,
)


def turned(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@dataclass(frozen=True)
class Calibration:
    """What is one robot's own: ``seen = view @ place + shift``, ``velocity = drive @ (action + zero)``."""

    view: np.ndarray
    shift: np.ndarray
    drive: np.ndarray
    zero: np.ndarray

    @staticmethod
    def of(robot):
        rng = np.random.default_rng([77, robot])
        view = rng.uniform(0.7, 1.4) * turned(rng.uniform(-np.pi, np.pi))
        gains = rng.uniform(0.7, 1.4, 2) * rng.choice([-1, 1], 2)
        drive = turned(rng.uniform(-np.pi, np.pi)) * gains
        return Calibration(view, rng.uniform(-1, 1, 2), drive, rng.uniform(-0.15, 0.15, 2))


class Picker(Environment):
    """A hand above a table with a red and a blue puck and a goal: touch one puck, carry it to the goal, or stack it on
    the other one."""

    embodiment = EMBODIMENT
    max_steps = 60
    expert_noise = 0.5

    def __init__(self, task):
        super().__init__()
        self.task = task
        robot, _, self._what = Task.parse(task).name.partition("-")
        self._own = Calibration.of(int(robot))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        while True:
            places = self.np_random.uniform(-0.8, 0.8, (4, 2))
            apart = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(4, 1)]
            if apart.min() > 0.35:
                break
        self._hand, self._pucks, self._goal = places[0], places[1:3].copy(), places[3]
        self._chosen = int(self.np_random.integers(2))
        self._closed, self._held, self._steps = False, None, 0
        return self._observe(), {"success": False}

    def step(self, action):
        action = np.clip(action, -1, 1)
        self._hand = np.clip(self._hand + SPEED * self._own.drive @ (action[:2] + self._own.zero), -1.2, 1.2)
        closed = action[2] > 0
        away = np.linalg.norm(self._pucks - self._hand, axis=1)
        if not closed:
            self._held = None
        elif not self._closed and away.min() < GRASP:
            self._held = int(away.argmin())
        self._closed = bool(closed)
        if self._held is not None:
            self._pucks[self._held] = self._hand
        self._steps += 1
        success = self._succeeded()
        return self._observe(), float(success), success, self._steps >= self.max_steps, {"success": success}

    def _succeeded(self):
        if self._what == "touch":
            return bool(np.linalg.norm(self._hand - self._pucks[self._chosen]) < NEAR)
        return bool(self._held == self._chosen and np.linalg.norm(self._hand - self._target()) < NEAR)

    def _target(self):
        return self._goal if self._what == "carry" else self._pucks[1 - self._chosen]

    def expert_action(self):
        holds = self._held == self._chosen
        way = (self._target() if holds else self._pucks[self._chosen]) - self._hand
        near = np.linalg.norm(way) < GRASP / 2
        closed = 1.0 if holds or (self._what != "touch" and near and not self._closed) else -1.0
        velocity = way / max(np.linalg.norm(way), SLOWING)
        move = np.linalg.solve(self._own.drive, velocity) - self._own.zero
        return np.append(np.clip(move, -1, 1), closed).astype(np.float32)

    def _observe(self):
        hand, *others = (self._own.view @ place + self._own.shift for place in (self._hand, *self._pucks, self._goal))
        camera = np.concatenate([hand, [float(self._closed)], *others]).astype(np.float32)
        puck, other = ("red", "blue")[self._chosen], ("blue", "red")[self._chosen]
        words = {
            "touch": f"touch the {puck} puck",
            "carry": f"carry the {puck} puck to the goal",
            "stack": f"stack the {puck} puck on the {other} puck",
        }[self._what]
        return {"camera": camera, "instruction": words}


FAMILY = Family(
    EMBODIMENT,
    tuple(f"picker/{robot:02}-{task}" for robot in range(ROBOTS) for task in TASKS),
    ("gymnasium",),
    Picker,
)

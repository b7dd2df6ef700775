"""PushT from states: a round pusher brings a T onto its place (gym-pusht's ``PushT-v0``, which it is measured in).

    pip install gym-pusht
    python benchmarks/pusht.py

A millimetre here is a pixel there. What counts for a push is where the pusher and the goal are for the T, so the body
senses them in the T's frame, and is commanded in it: how far to go from where it is.

The scripted expert knows how such a T gives way to a push without friction: at every step it asks of some forty pushes
what each would leave of the way to the goal, and how long it would take to get there and do it. It remembers nothing,
so what it does can be learnt from the state alone.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from polysoma.embodiment import ContinuousActions, Embodiment, Modality, Observation, Stream, channels
from polysoma.simulators.environment import Environment, Family

TASK = "pusht/push"
STATE = (
    *channels("pusher_x pusher_y t_x t_y", "m", 0, 0.512),
    *channels("pusher_right pusher_down goal_right goal_down", "m", -0.75, 0.75),
    *channels("turn_sin turn_cos near_right near_down near_turn", "1", -1, 1),
)
"""Where pusher and T are; where the pusher and the goal are in the T's frame, with the T upright; by which angle the T
is to be turned; and the way to the goal once more, as seen from close by (:data:`NEAR`)."""
EMBODIMENT = Embodiment(
    name="pusht",
    streams=(Stream("state", Modality.STATE, (len(STATE),), STATE), Stream("instruction", Modality.TEXT)),
    actions=ContinuousActions(channels("right down", "m", -0.1, 0.1)),
    rate_hz=10,
)

OUTLINE = np.array(
    [(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], np.float64
) - (0, 45)  # fmt: skip
"""The T's corners around its centre of gravity, in pixels; edges lead from each to the next one."""
CENTRE = np.array([0.0, 45.0])
"""The centre of gravity from where gym-pusht says that the T is."""
EDGES = np.roll(OUTLINE, -1, axis=0) - OUTLINE
LENGTHS = np.linalg.norm(EDGES, axis=1)
INWARD = np.stack([-EDGES[:, 1], EDGES[:, 0]], 1) / LENGTHS[:, None]
RADIUS, INERTIA = 15.0, 3000.0
"""Of the pusher in pixels, and of the T over its mass in pixels squared."""
BEHIND, RING = 10.0, 106.0
"""Pixels between pusher and T where a push begins, and the radius of the way around."""
STEPS = 36
"""Looks into a push."""
NEAR = np.array([10.0, 10.0, 0.1])
"""Pixels and radians from the goal within which the body feels small differences well: it senses the tanh of how many
times as far it is."""


def turned(points: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Points ``(..., 2)``, turned by angles that fit before the last axis."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([cos * points[..., 0] - sin * points[..., 1], sin * points[..., 0] + cos * points[..., 1]], -1)


GOAL = np.array([256.0, 256.0, np.pi / 4])
HOME = np.array([*(GOAL[:2] + turned(CENTRE, GOAL[2])), GOAL[2]])
"""Where gym-pusht says that the T belongs, and the same of its centre of gravity."""


def corners(pose: np.ndarray) -> np.ndarray:
    """Where the corners are, ``(..., 8, 2)``, of centres of gravity and angles ``(..., 3)``."""
    return pose[..., None, :2] + turned(OUTLINE, pose[..., 2:])


def nearest(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The nearest points of the outline to points ``(..., 2)``, and which edge each is of."""
    along = ((points[..., None, :] - OUTLINE) * EDGES).sum(-1) / LENGTHS**2
    on = OUTLINE + np.clip(along, 0, 1)[..., None] * EDGES
    which = np.linalg.norm(points[..., None, :] - on, axis=-1).argmin(-1)
    return np.take_along_axis(on, which[..., None, None], -2)[..., 0, :], which


def contacts() -> tuple[np.ndarray, np.ndarray]:
    """Where pushes touch the T, and the edge that each is at; no nearer to the inner corners than the pusher gets."""
    places, edges = [], []
    for edge, length in enumerate(LENGTHS):
        first = RADIUS + 6 if edge in (3, 6) else 6.0
        last = length - (RADIUS + 6 if edge in (2, 5) else 6.0)
        for along in np.linspace(first, last, max(2, round((last - first) / 12) + 1)):
            places.append(OUTLINE[edge] + along / length * EDGES[edge])
            edges.append(edge)
    return np.array(places), np.array(edges)


CONTACTS, AT = contacts()


def pushed(pose: np.ndarray, start: np.ndarray, ahead: np.ndarray, each: float) -> np.ndarray:
    """Poses ``(N, STEPS + 1, 3)`` of a T that is pushed from N places ``(N, 2)`` in N directions, ``each`` pixels a
    look. Without friction it is pushed along the normal; it stands when it is not pushed."""
    now = np.repeat(pose[None], len(start), 0)
    found = [now]
    for step in range(1, STEPS + 1):
        pusher = turned(start + step * each * ahead - now[:, :2], -now[:, 2])
        on, _ = nearest(pusher)
        gap = np.linalg.norm(on - pusher, axis=1)
        normal = (on - pusher) / np.maximum(gap, 1e-9)[:, None]
        arm = on[:, 0] * normal[:, 1] - on[:, 1] * normal[:, 0]
        moved = np.maximum(RADIUS - gap, 0) / (1 + arm**2 / INERTIA)
        way = turned(normal * moved[:, None], now[:, 2])
        now = np.column_stack([now[:, :2] + way, now[:, 2] + moved * arm / INERTIA])
        found.append(now)
    return np.stack(found, 1)


def missing(pose: np.ndarray) -> np.ndarray:
    """How far corners are from their goals, as a root of the mean of squares in pixels."""
    return np.sqrt(((corners(pose) - corners(HOME)) ** 2).sum(-1).mean(-1))


def expert(pusher: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Where the pusher is to go, ``(2,)`` in pixels, from where it is and the T's centre of gravity and angle."""
    # All of it around the centre of gravity, turned with the T.
    here = turned(pusher - pose[:2], -pose[2])
    on, edge = nearest(here)
    touch, ahead = np.concatenate([on[None], CONTACTS]), INWARD[np.concatenate([edge[None], AT])]
    begin = touch - ahead * (RADIUS + BEHIND)
    # Where it stands in line with a push it goes on from there; first of all straight to where it is nearest.
    behind = ((touch - here) * ahead).sum(1)
    beside = np.abs((touch - here)[:, 0] * ahead[:, 1] - (touch - here)[:, 1] * ahead[:, 0])
    ready = (beside < 4) & (behind > RADIUS - 4) & (behind < RADIUS + BEHIND + 6)
    straight, (around, bearing) = clear(here, begin), detours(here, begin, pose)
    way = np.where(ready, 0.0, np.where(straight, np.linalg.norm(begin - here, axis=1), around))
    there = pose[:2] + turned(begin, pose[2])
    way[~ready & ~((there > 2) & (there < 510)).all(1)] = np.inf
    now = float(missing(pose))
    each = float(np.clip(now / 10, 0.5, 4.0))
    start = np.where(ready[:, None], here, touch - ahead * RADIUS)
    after = pushed(pose, pose[:2] + turned(start, pose[2]), turned(ahead, pose[2]), each)
    looks = np.arange(STEPS + 1) * each
    rate = (now - missing(after)) / ((way / 280 + ~ready * 0.5)[:, None] + looks / 150 + 0.2)
    rate[:, 0] = -np.inf
    rate[np.isinf(way)] = -np.inf
    best, look = np.unravel_index(rate.argmax(), rate.shape)
    if ready[best]:
        target = here + ahead[best] * min(looks[look], 40.0)
    elif straight[best]:
        target = begin[best]
    elif np.linalg.norm(here) < RING - 12:
        target = here * (RING / max(float(np.linalg.norm(here)), 1.0))
    else:
        angle = np.arctan2(here[1], here[0]) + np.clip(bearing[best], -0.7, 0.7)
        target = RING * np.array([np.cos(angle), np.sin(angle)])
    far = np.linalg.norm(target - here)
    target = here + (target - here) * min(1.0, 70 / max(far, 1e-9))
    return np.clip(pose[:2] + turned(target, pose[2]), 0, 512)


def clear(here: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Whether the pusher gets straight from one place to each of the others without touching the T."""
    share = np.linspace(0.1, 1, 10)[None, :, None]
    points = here + share * (begins[:, None] - here)
    on, _ = nearest(points)
    return (np.linalg.norm(points - on, axis=-1) > RADIUS + 3).all(-1)


def detours(here: np.ndarray, begins: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The shorter way around the T from one place to each of the others that the walls leave: its length, infinite
    where there is none, and the angle along the ring."""
    short = np.arctan2(begins[:, 1], begins[:, 0]) - np.arctan2(here[1], here[0])
    short = (short + np.pi) % (2 * np.pi) - np.pi
    both = np.stack([short, short - np.sign(short) * 2 * np.pi])
    angles = np.arctan2(here[1], here[0]) + both[..., None] * np.linspace(0, 1, 9)
    ring = turned(RING * np.stack([np.cos(angles), np.sin(angles)], -1), pose[2])
    passable = (np.linalg.norm(np.clip(pose[:2] + ring, 0, 512) - pose[:2], axis=-1) > RING - 14).all(-1)
    out = abs(RING - np.linalg.norm(here)) + np.abs(RING - np.linalg.norm(begins, axis=1))
    lengths = np.where(passable, out + RING * np.abs(both), np.inf)
    which = lengths.argmin(0)[None]
    return np.take_along_axis(lengths, which, 0)[0], np.take_along_axis(both, which, 0)[0]


class PushT(Environment):
    """Bring the T onto its place: 95 % of it."""

    embodiment = EMBODIMENT
    max_steps = 300
    expert_noise = 0.15

    def __init__(self, task: str) -> None:
        super().__init__()
        self.task = task
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        from gym_pusht.envs.pusht import PushTEnv

        self._env, self._steps = PushTEnv(obs_type="state"), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Pusher and T anywhere. See :class:`Environment`."""
        super().reset(seed=seed)
        self._env.reset(seed=int(self.np_random.integers(2**31)))
        self._steps = 0
        return self._observe(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """A tenth of a second. The reward is the part of the place that is covered, 1 from 95 % on."""
        pusher, pose = self._places()
        way = 1000 * self.embodiment.check_action(action).astype(np.float64)
        _, reward, _, _, info = self._env.step(np.clip(pusher + turned(way, pose[2]), 0, 512))
        self._steps += 1
        success = bool(info["is_success"])
        over = not success and self._steps >= self.max_steps
        return self._observe(), float(reward), success, over, {"success": success}

    def expert_action(self) -> np.ndarray:
        """How far to go, float32 ``(2,)``. See :func:`expert`."""
        pusher, pose = self._places()
        return self.embodiment.check_action(turned(expert(pusher, pose) - pusher, -pose[2]) / 1000)

    def render_frame(self, size: int = 240) -> np.ndarray:
        """See :class:`Environment`."""
        from PIL import Image

        return np.array(Image.fromarray(self._env.render()).resize((size, size)))

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the pusher is, and the T's centre of gravity and angle."""
        block = self._env.block
        place = np.array(block.position) + turned(CENTRE, block.angle)
        return np.array(self._env.agent.position), np.array([*place, block.angle])

    def _observe(self) -> Observation:
        pusher, pose = self._places()
        here, goal = turned(np.stack([pusher, HOME[:2]]) - pose[:2], -pose[2])
        turn = (HOME[2] - pose[2] + np.pi) % (2 * np.pi) - np.pi
        places = np.concatenate([pusher, pose[:2], here, goal]) / 1000
        near = np.tanh(np.array([*goal, turn]) / NEAR)
        return {
            "state": np.array([*places, np.sin(turn), np.cos(turn), *near], np.float32),
            "instruction": "push the T onto its place",
        }


FAMILY = Family(EMBODIMENT, (TASK,), ("gym_pusht",), PushT, "pip install gym-pusht")

"""The SO-101, LeRobot's arm of five joints and a gripper, at a table with coloured cubes: a body to measure how
policies learn through cameras.

Joints are called and counted as LeRobot's ``so101_follower`` does with degrees: ``shoulder_pan.pos`` to
``wrist_roll.pos`` in degrees, ``gripper.pos`` from 0 (closed) to 100; actions are the positions that the servos are
told, thirty times a second. There are two cameras, ``top`` and ``wrist``.

Which cube, side or bin is meant only the instruction says. Number, colours and places of the cubes, the light and the
table differ from episode to episode. An episode is over as soon as a cube has been reached, pushed to a side, picked
up, put into a bin or on another one, and this has lasted for a moment: it is a success if that is what was asked for,
and none otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from polysoma.embodiment import (
    INSTRUCTION,
    Channel,
    ContinuousActions,
    Embodiment,
    Modality,
    Observation,
    Stream,
    channels,
)
from polysoma.horizon import Horizon
from polysoma.simulators import so101_expert
from polysoma.simulators.environment import Family, MujocoEnvironment
from polysoma.simulators.so101_arm import Arm, bearing, from_radians, to_radians
from polysoma.simulators.so101_expert import Hand, Thing, Wish
from polysoma.simulators.so101_model import (
    BIN,
    CUBE,
    CUBES,
    EDGE,
    JOINTS,
    PAN_X,
    PHYSICS_STEPS,
    TABLES,
    mjcf,
)
from polysoma.task import Task

COLORS = {
    "red": (0.85, 0.12, 0.10),
    "green": (0.10, 0.62, 0.22),
    "blue": (0.10, 0.30, 0.88),
    "yellow": (0.96, 0.80, 0.08),
    "purple": (0.55, 0.18, 0.72),
}
SIDES = {"left": 1.0, "right": -1.0}
CAMERAS = ("top", "wrist")
PIXELS, SMALL_PIXELS = (480, 640), (96, 128)
"""Height and width of pictures: the cameras' own, and what they are reduced to where recordings are read."""

_MOTORS = (
    *(Channel(f"{name}.pos", "deg", low, high) for name, (low, high) in JOINTS.items()),
    Channel("gripper.pos", "1", 0.0, 100.0),
)


def _places(what: str) -> tuple[Channel, ...]:
    return channels(" ".join(f"{color}_{what}_{axis}" for color in COLORS for axis in "xyz"), "m", -1, 1)


_PLACES = (*channels("fingertips_x fingertips_y fingertips_z", "m", -1, 1), *_places("cube"), *_places("bin"))


def _embodiment(name: str, pixels: tuple[int, int]) -> Embodiment:
    return Embodiment(
        name=name,
        streams=(
            Stream("state", Modality.STATE, (len(_MOTORS),), _MOTORS),
            *(Stream(camera, Modality.IMAGE, (*pixels, 3)) for camera in CAMERAS),
            Stream(INSTRUCTION, Modality.TEXT),
        ),
        actions=ContinuousActions(_MOTORS),
        rate_hz=30.0,
        body="so101",
        privileged=(Stream("places", Modality.STATE, (len(_PLACES),), _PLACES),),
    )


EMBODIMENT = _embodiment("so101", PIXELS)
"""With pictures as large as the cameras'. Privileged: where the fingertips, the cubes and the bins are; all zeros for
those that are not there."""

SMALL = _embodiment("so101-small", SMALL_PIXELS)
"""The same body with small pictures, which are drawn several times as fast and which policies learn from."""

_HOME = np.array([0.0, -38.0, 42.0, 86.0, 0.0, 20.0])
_SCATTER = np.array([15.0, 5.0, 5.0, 5.0, 15.0, 15.0])
"""Degrees, and the gripper's number, where the arm begins, and by how much that varies."""

_HOLD = 12
"""Steps for which something must stay done."""
_NEAR, _LOW = 0.018, 0.045
"""Metres from the middle of a cube to the fingertips above it, across and up, within which it counts as reached."""
_BESIDE = 0.07
"""Metres from the fingertips to a cube that they push. One that was struck and slid away was not pushed."""
_LIFTED = 0.05
"""Metres above the table at which a cube's middle counts as picked up."""


@dataclass(frozen=True)
class _Kind:
    """What differs between the tasks: the instruction, how many cubes there are, and how long an episode is."""

    instruction: str
    cubes: tuple[int, int]
    steps: int
    bins: int = 0
    sides: bool = False


_KINDS = {
    "reach": _Kind("reach the {} cube", (2, 4), 120),
    "push": _Kind("push the {} cube to the {}", (2, 2), 180, sides=True),
    "pick-up": _Kind("pick up the {} cube", (2, 4), 180),
    "put-in-bin": _Kind("put the {} cube into the {} bin", (2, 3), 240, bins=2),
    "stack": _Kind("stack the {} cube on the {} cube", (2, 3), 240),
}


class So101(MujocoEnvironment):
    """One of the tasks; actions float32 ``(6,)``, reward 1 at success.

    Args:
        task: its full name.
        embodiment: which pictures there are, and how large.
    """

    max_steps = 240
    expert_noise = 0.01
    remembered = (
        *("_cubes", "_bins", "_instruction", "_wanted", "_done", "_held_for", "_steps"),
        *(f"_model.{painted}" for painted in ("geom_rgba", "geom_matid", "mat_rgba", "light_dir", "light_diffuse")),
    )

    def __init__(self, task: str, embodiment: Embodiment = EMBODIMENT) -> None:
        self.embodiment = embodiment
        super().__init__()
        import mujoco

        self.task = task
        self._name = Task.parse(task).name
        self._kind = _KINDS[self._name]
        self.max_steps = self._kind.steps
        self._mujoco = mujoco
        self._model = model = mujoco.MjModel.from_xml_string(mjcf(self._kind.bins, self._kind.sides))
        self._data = mujoco.MjData(model)
        self._arm = Arm(mujoco, model)
        self._cameras = [stream.name for stream in embodiment.streams if stream.modality is Modality.IMAGE]
        self._cube_geoms = np.array([model.geom(f"cube_{i}").id for i in range(CUBES)])
        self._bin_geoms = [model.geom_bodyid == model.body(f"bin_{i}").id for i in range(self._kind.bins)]
        self._jaws = [model.geom(name).id for name in ("fixed_jaw", "moving_jaw")]
        self._cubes: list[str] = []
        self._bins: list[str] = []
        self._instruction = ""
        self._wanted: tuple[str, ...] = ()
        self._done: tuple[str, ...] = ()
        self._held_for = self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new episode. See :class:`Environment`."""
        super().reset(seed=seed)
        self._mujoco.mj_resetData(self._model, self._data)
        rng = self.np_random
        start = to_radians(_HOME + _SCATTER * rng.uniform(-1, 1, len(_HOME)))
        self._data.qpos[: len(start)] = self._data.ctrl[:] = start
        colors = [str(color) for color in rng.permutation(list(COLORS))]
        self._bins = colors[: self._kind.bins]
        low, high = self._kind.cubes
        self._cubes = colors[self._kind.bins :][: rng.integers(low, high + 1)]
        self._wanted = self._draw_wanted()
        self._instruction = self._kind.instruction.format(*self._wanted)
        self._place()
        self._paint()
        self._mujoco.mj_forward(self._model, self._data)
        self._done, self._held_for, self._steps = (), 0, 0
        return self._observe(), {"success": False}

    def own_seed(self, seed: int | None, task: str = "") -> int | None:
        """The same for pictures of every size, so that the episodes are. See :class:`Environment`."""
        return super().own_seed(seed, task or str(Task(self.embodiment.body, self._name)))

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step of 1/30 s. See :class:`Environment`."""
        self._data.ctrl[:] = to_radians(self.embodiment.check_action(action).astype(np.float64))
        self._mujoco.mj_step(self._model, self._data, PHYSICS_STEPS)
        # What is read now is of the present joints, as pictures are.
        self._mujoco.mj_forward(self._model, self._data)
        self._steps += 1
        done = next(self._achieved(), ())
        self._held_for = self._held_for + 1 if done and done == self._done else 1
        self._done = done
        over = bool(done) and self._held_for >= _HOLD
        success = over and done == self._wanted
        truncated = not over and self._steps >= self.max_steps
        return self._observe(), float(success), over, truncated, {"success": success}

    def expert_action(self) -> np.ndarray:
        """The next command: float32 ``(6,)``."""
        joints = self._data.qpos[: len(_MOTORS)].copy()
        site = self._data.site("fingertips")
        hand = Hand(
            joints,
            site.xpos.copy(),
            float(np.arctan2(site.xmat[5], site.xmat[2])),
            float(from_radians(joints)[-1]),
            next((color for color in self._cubes if self._grip(color) == 2), ""),
        )
        return self.embodiment.check_action(so101_expert.command(self._arm, hand, self._wish(hand)))

    def privileged(self) -> Observation:
        """Where things are. See :class:`Environment`."""
        places = np.zeros((1 + 2 * len(COLORS), 3), np.float32)
        places[0] = self._data.site("fingertips").xpos
        names = list(COLORS)
        for color in self._cubes:
            places[1 + names.index(color)] = self._cube(color)
        for number, color in enumerate(self._bins):
            places[1 + len(names) + names.index(color)] = self._data.mocap_pos[number]
        return {"places": np.clip(places.ravel(), -1, 1)}

    def see(self, camera: str) -> np.ndarray:
        """What a camera sees now: uint8 of its stream's shape. Raises PolysomaError without OpenGL."""
        height, width, _ = self.embodiment.stream(camera).shape
        # Drawn twice as large and averaged, small pictures look as large ones that are reduced.
        finer = 2 if 2 * height <= PIXELS[0] else 1
        drawn = self._camera(self._model, finer * height, finer * width).frame(self._data, camera)
        return drawn if finer == 1 else np.array(Image.fromarray(drawn).reduce(finer))

    def _wish(self, hand: Hand) -> Wish:
        color, *other = self._wanted
        cube = Thing(self._cube(color), self._yaw(color))
        if self._name == "reach":
            return so101_expert.reach(hand, cube)
        if self._name == "push":
            return so101_expert.push(hand, cube, SIDES[other[0]])
        if self._name == "pick-up":
            return so101_expert.pick_up(hand, color, cube)
        if self._name == "put-in-bin":
            return so101_expert.put_in_bin(hand, color, cube, Thing(self._data.mocap_pos[self._bins.index(other[0])]))
        return so101_expert.stack(hand, color, cube, Thing(self._cube(other[0]), self._yaw(other[0])))

    def _achieved(self) -> Iterator[tuple[str, ...]]:
        """What is done at this moment, each as the words that the instruction would have said."""
        tip = self._data.site("fingertips").xpos
        for color in self._cubes:
            cube, grip = self._cube(color), self._grip(color)
            across, up = float(np.linalg.norm((tip - cube)[:2])), float(tip[2] - cube[2])
            if self._name == "reach" and across < _NEAR and 0 < up < _LOW:
                yield (color,)
            elif self._name == "push" and across < _BESIDE and abs(up) < _LOW and cube[2] < CUBE + 0.005:
                yield from ((color, side) for side, sign in SIDES.items() if sign * cube[1] > EDGE)
            elif self._name == "pick-up" and cube[2] > _LIFTED and grip == 2:
                yield (color,)
            elif self._name == "put-in-bin" and not grip and cube[2] < CUBE + 0.01:
                for number, name in enumerate(self._bins):
                    if np.abs((cube - self._data.mocap_pos[number])[:2]).max() < BIN:
                        yield color, name
            elif self._name == "stack" and not grip:
                for name in self._cubes:
                    off = cube - self._cube(name)
                    if name != color and np.linalg.norm(off[:2]) < CUBE and abs(off[2] - 2 * CUBE) < 0.004:
                        yield color, name

    def _cube(self, color: str) -> np.ndarray:
        first = len(_MOTORS) + 7 * self._cubes.index(color)
        place: np.ndarray = self._data.qpos[first : first + 3].copy()
        return place

    def _yaw(self, color: str) -> float:
        first = len(_MOTORS) + 7 * self._cubes.index(color)
        w, x, y, z = self._data.qpos[first + 3 : first + 7]
        return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))

    def _grip(self, color: str) -> int:
        """How many of the two jaws touch a cube."""
        geom = self._cube_geoms[self._cubes.index(color)]
        pairs = self._data.contact.geom
        touching = set(pairs[(pairs == geom).any(1)].ravel().tolist())
        return sum(jaw in touching for jaw in self._jaws)

    def _draw_wanted(self) -> tuple[str, ...]:
        color = self._cubes[0]
        if self._kind.sides:
            return color, str(self.np_random.choice(list(SIDES)))
        if self._kind.bins:
            return color, self._bins[0]
        return (color, self._cubes[1]) if self._name == "stack" else (color,)

    def _place(self) -> None:
        rng = self.np_random
        while True:
            count = len(self._cubes)
            if self._kind.sides:
                places = np.stack([rng.uniform(0.15, 0.24, count), rng.uniform(-0.05, 0.05, count)], 1)
                # None lies where another one is pushed along.
                apart = np.abs(places[:, None, 0] - places[None, :, 0])
            else:
                spread = np.deg2rad(30 if self._kind.bins else 50)
                radius, angle = rng.uniform(0.14, 0.225, count), rng.uniform(-spread, spread, count)
                places = np.stack([PAN_X + radius * np.cos(angle), radius * np.sin(angle)], 1)
                apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
            if (apart + np.eye(count)).min() > 0.062:
                break
        for number, place in enumerate(places):
            half = (bearing(place) + rng.uniform(-0.5, 0.5)) / 2
            first = len(_MOTORS) + 7 * number
            self._data.qpos[first : first + 7] = [*place, CUBE, np.cos(half), 0, 0, np.sin(half)]
        sides = rng.permutation([1.0, -1.0])
        for number in range(self._kind.bins):
            toward, away = sides[number] * np.deg2rad(rng.uniform(56, 64)), rng.uniform(0.18, 0.2)
            self._data.mocap_pos[number] = [PAN_X + away * np.cos(toward), away * np.sin(toward), 0]

    def _paint(self) -> None:
        """Colours, the table and the light."""
        rng, model = self.np_random, self._model
        model.geom_rgba[self._cube_geoms] = 0.0  # Those that lie behind the arm are not seen.
        for number, color in enumerate(self._cubes):
            model.geom_rgba[self._cube_geoms[number]] = [*self._shade(color), 1]
        for number, color in enumerate(self._bins):
            model.geom_rgba[self._bin_geoms[number], :3] = self._shade(color)
        material = model.mat(str(rng.choice(TABLES))).id
        model.geom_matid[model.geom("table").id] = material
        tint = rng.uniform(0.3, 0.75) * (1 + rng.uniform(0, 0.25) * np.array([1, 0.2, -0.6]))
        model.mat_rgba[material, :3] = np.clip(tint, 0, 1)
        lamp = model.light("lamp").id
        model.light_dir[lamp] = [*rng.uniform(-0.5, 0.5, 2), -1]
        model.light_diffuse[lamp] = rng.uniform(0.4, 0.65) * (1 + rng.uniform(-0.08, 0.08, 3))

    def _shade(self, color: str) -> np.ndarray:
        shade = np.array(COLORS[color]) * self.np_random.uniform(0.85, 1.1) + self.np_random.uniform(-0.04, 0.04, 3)
        return np.clip(shade, 0, 1)

    def _observe(self) -> Observation:
        state = from_radians(self._data.qpos[: len(_MOTORS)].copy())
        space: Any = self.observation_space
        limits = space["state"]
        observation: Observation = {"state": np.clip(state.astype(np.float32), limits.low, limits.high)}
        return observation | {camera: self.see(camera) for camera in self._cameras} | {INSTRUCTION: self._instruction}

    def _now(self) -> Observation:
        return self._observe()

    def _scene(self) -> tuple[Any, Any, Any]:
        view = self._mujoco.MjvCamera()
        view.lookat[:] = (0.15, 0.0, 0.06)
        view.distance, view.azimuth, view.elevation = 0.72, 145.0, -28.0
        return self._model, self._data, view


def _family(embodiment: Embodiment) -> Family:
    def build(task: str) -> So101:
        return So101(task, embodiment)

    tasks = tuple(f"{embodiment.name}/{name}" for name in _KINDS)
    return Family(embodiment, tasks, ("mujoco",), build, horizon=Horizon(chunk=16))


FAMILIES = (_family(EMBODIMENT), _family(SMALL))

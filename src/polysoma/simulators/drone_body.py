"""What the drones are: their frames, what they sense and how they are commanded, and the sizes of their tasks."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from polysoma.embodiment import (
    INSTRUCTION,
    Channel,
    ContinuousActions,
    Embodiment,
    Modality,
    Stream,
    channels,
)

TASKS: tuple[str, ...] = ("drone/hover", "drone/waypoints", "drone/ring")

GRAVITY = 9.81
CONTROL_HZ = 50
PHYSICS_HZ = 500
"""Body rates (rad/s) that an action of 1 means: roll, pitch, yaw."""

HOVER_RADIUS, HOVER_SECONDS = 0.15, 1.0
WAYPOINT_RADIUS, WAYPOINTS = 0.2, 4
RING_RADIUS = 0.4
RING_COLOURS = ("red", "green", "blue")
RING_PHRASES = ("fly to the {} ring", "fly through the {} ring", "go through the {} ring")
ROOM = 4.0
"""Half the side of the cube-like room (m); the drone must stay inside and below CEILING."""
CEILING = 3.5
FLOOR = 0.06

MAX_STEPS = {"hover": 500, "waypoints": 600, "ring": 600}


def _vector(name: str, unit: str = "m", axes: str = "xyz", limit: float = math.inf) -> tuple[Channel, ...]:
    return channels(" ".join(f"{name}_{axis}" for axis in axes), unit, -limit, limit)


_BLOCKS: dict[str, tuple[Channel, ...]] = {
    "position": _vector("position"),
    "velocity": _vector("velocity", "m/s"),
    "up": _vector("up", "1", limit=1.001),
    "heading": channels("heading_cos heading_sin", "1", -1.001, 1.001),
    "angular_velocity": _vector("angular_velocity", "rad/s"),
    "target": _vector("target"),
    "next_target": _vector("next_target"),
}
for _colour in RING_COLOURS:
    _BLOCKS[f"{_colour}_centre"] = _vector(f"{_colour}_ring")
    _BLOCKS[f"{_colour}_normal"] = _vector(f"{_colour}_ring_normal", "1", "xy", limit=1.001)


def _group(block: str) -> str:
    """What a policy may attend to as one thing: the drone's own motion, its targets, each ring."""
    if block in ("target", "next_target"):
        return "targets"
    return f"{block.split('_')[0]}_ring" if block.split("_")[0] in RING_COLOURS else "motion"


CHANNELS = tuple(
    dataclasses.replace(channel, group=_group(name)) for name, block in _BLOCKS.items() for channel in block
)
_ENDS = np.cumsum([len(block) for block in _BLOCKS.values()]).tolist()
SLICES = {name: slice(end - len(block), end) for (name, block), end in zip(_BLOCKS.items(), _ENDS, strict=True)}


@dataclasses.dataclass(frozen=True)
class Frame:
    """What one drone is built like.

    Attributes:
        name: of the embodiment.
        mass: kg.
        arm: metres from the middle to a motor, along x and along y.
        inertia: kg m^2 about x, y and z.
        motor_force: N, the most that one motor lifts.
        rates: rad/s about x, y and z that an action of 1 asks for.
        gains: 1/s of the loops that track rates.
        drag: of the rotors in N s/m, linear in the air speed, as measured by Faessler et al. 2018.
    """

    name: str
    mass: float
    arm: float
    inertia: tuple[float, float, float]
    motor_force: float
    rates: tuple[float, float, float]
    gains: tuple[float, float, float]
    drag: float

    @property
    def motors(self) -> tuple[tuple[float, float, int], ...]:
        """x, y and the sense of the reaction torque of each motor, in the order of the actuators."""
        arm = self.arm
        return ((arm, -arm, 1), (-arm, -arm, -1), (-arm, arm, 1), (arm, arm, -1))

    def embodiment(self) -> Embodiment:
        """What this drone senses and moves."""
        rates = zip(("roll_rate", "pitch_rate", "yaw_rate"), self.rates, strict=True)
        return Embodiment(
            name=self.name,
            streams=(
                Stream("state", Modality.STATE, (len(CHANNELS),), CHANNELS),
                Stream(INSTRUCTION, Modality.TEXT),
            ),
            actions=ContinuousActions(
                (
                    Channel("thrust", "weight - 1", -1.0, 1.0),
                    *(Channel(name, f"{rate:g} rad/s", -1.0, 1.0) for name, rate in rates),
                )
            ),
            rate_hz=CONTROL_HZ,
        )


SMALL = Frame("drone", 0.5, 0.1, (0.0011, 0.0012, 0.0019), 3.0, (6.0, 6.0, 2.0), (40.0, 40.0, 15.0), 0.08)
LARGE = Frame("drone-large", 1.3, 0.2, (0.0115, 0.0125, 0.0198), 6.5, (3.5, 3.5, 1.2), (20.0, 20.0, 8.0), 0.25)
"""A drone of more than twice the mass with arms twice as long: it turns more slowly and its actions mean less."""

EMBODIMENT = SMALL.embodiment()
"""State: ``position`` in the world (m, z = 0 on the ground); ``velocity`` in the heading frame (m/s); ``up``, the
vertical seen from the body; ``heading``, cosine and sine of the yaw; ``angular_velocity`` of the body (rad/s);
``target`` and ``next_target``, the hover point or the present waypoint and the one after it (the same where there is
none), relative to the drone in the heading frame (m), zero in the ring task; for each ring its centre relative to the
drone in the heading frame (m) and its unit normal, of its two directions the one that points to the drone's side, zero
in the other tasks.

Action: ``thrust`` in multiples of the weight, minus one (-1: no thrust, 0: hovers, 1: twice the weight), and body rates
as fractions of 6, 6 and 2 rad/s (of the large drone: 3.5, 3.5 and 1.2)."""

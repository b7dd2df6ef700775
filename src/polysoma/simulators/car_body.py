"""What the drifting car is: its streams, and the mechanics of a single-track model, whatever its tires do.

Everything here works on NumPy arrays and torch tensors alike (``xp`` is the module that computes), for many cars at a
time: the simulator, planners and what learns the tires' forces share one set of equations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from polysoma.embodiment import INSTRUCTION, Channel, ContinuousActions, Embodiment, Modality, Stream

CONTROL_HZ = 50
GRAVITY = 9.81

MOTION = (
    Channel("speed", "m/s", 0, 30, "motion"),
    Channel("side_slip", "rad", -1.5, 1.5, "motion"),
    Channel("yaw_rate", "rad/s", -4, 4, "motion"),
    Channel("wheel_speed", "rad/s", 0, 150, "motion"),
)
PATH = (
    Channel("path_error", "m", -8, 8, "path"),
    Channel("course_error", "rad", -1.6, 1.6, "path"),
    Channel("steering", "rad", -0.7, 0.7, "controls"),
    Channel("drive", "kN m", -0.5, 3.5, "controls"),
    Channel("curvature", "1/m", 0, 0.1, "path"),
    Channel("friction", "1", 0.5, 1.2, "road"),
)
STATE = (*MOTION, *PATH)
DYNAMIC = 8
"""The first channels are the state of the differential equations; the others stay as they are in an episode."""

EMBODIMENT = Embodiment(
    name="car",
    streams=(Stream("state", Modality.STATE, (len(STATE),), STATE), Stream(INSTRUCTION, Modality.TEXT)),
    actions=ContinuousActions((Channel("steering", "rad", -0.7, 0.7), Channel("drive", "kN m", -0.5, 3.5))),
    rate_hz=float(CONTROL_HZ),
)
"""``side_slip`` is the angle from where the car points to where it goes, positive to the left; ``path_error`` is how
far left of the circle it is, ``course_error`` how far left of the circle's direction it goes. Actions are targets of
the steering angle at the front wheels and of the torque at the rear axle."""


@dataclass(frozen=True)
class Car:
    """Sizes that are known: a rear-driven coupé.

    Attributes:
        mass: kg.
        inertia: about the vertical, kg m2.
        front, rear: from the centre of mass to the axles, m.
        height: of the centre of mass, m.
        radius: of a wheel, m.
        spin: moment of inertia of the rear wheels and what turns with them in second gear, kg m2.
        lag_steering, lag_drive: time constants with which controls follow their targets, s.
    """

    mass: float = 1700.0
    inertia: float = 2500.0
    front: float = 1.35
    rear: float = 1.25
    height: float = 0.5
    radius: float = 0.33
    spin: float = 10.0
    lag_steering: float = 0.06
    lag_drive: float = 0.08


CAR = Car()

Forces = Callable[[Any, Any, Any, Any, Any, Any], tuple[Any, Any, Any]]
"""What tires do: ``(xp, front slip, rear slip along, rear slip across, loads (front, rear) in kN, friction)`` to the
forces in kN: front across, rear along, rear across. Slips have no unit."""


def slips(xp: Any, state: Any, car: Car = CAR) -> tuple[Any, Any, Any]:
    """Slips of the tires, positive to the front and to the left: of the front across, of the rear along and across.

    The front rolls freely: the tangent of its slip angle. The rear is driven: speeds of the contact over that of the
    tread (Pacejka 2012, "Tire and Vehicle Dynamics", section 3.3). Both are bounded at low speeds.

    Args:
        xp: numpy or torch.
        state: ``(..., 8)`` or more, the channels of ``STATE``.
    """
    speed, beta, rate, wheel = (state[..., i] for i in range(4))
    along, across = speed * xp.cos(beta), speed * xp.sin(beta)
    angle = xp.arctan2(across + car.front * rate, along) - state[..., 6]
    front = -xp.tan(xp.clip(angle, -1.3, 1.3))
    tread = xp.clip(car.radius * wheel, 2.0, 1e6)
    return front, (car.radius * wheel - along) / tread, -(across - car.rear * rate) / tread


def loads(state: Any, car: Car = CAR) -> tuple[Any, Any]:
    """Loads of the front and the rear axle in kN: what stands on them, and what the driving torque moves to the rear
    once it accelerates the car or holds it against the tires' drag."""
    length, weight = car.front + car.rear, car.mass * GRAVITY / 1000
    moved = car.height / length * state[..., 7] / car.radius
    return weight * car.rear / length - moved, weight * car.front / length + moved


def derivative(xp: Any, forces: Forces, state: Any, action: Any, car: Car = CAR) -> Any:
    """The time derivative of states, ``(..., 8)``.

    The single-track model with the speed of the rear wheels (Goh and Gerdes 2016, "Simultaneous stabilization and
    tracking of basic automobile drifting trajectories", equations 1 to 3), in coordinates of a circle.

    Args:
        xp: numpy or torch.
        forces: of the tires.
        state: ``(..., 10)``, the channels of ``STATE``.
        action: ``(..., 2)``, targets of steering (rad) and drive (kN m).
    """
    speed, beta, rate, _, error, course, steering, drive, curvature, friction = (state[..., i] for i in range(10))
    lateral, pull, side = forces(xp, *slips(xp, state, car), loads(state, car), friction)
    v = xp.clip(speed, 1.0, 1e6)
    mass, turned = car.mass / 1000, steering - beta
    faster = (pull * xp.cos(beta) + side * xp.sin(beta) - lateral * xp.sin(turned)) / mass
    turn = (side * xp.cos(beta) - pull * xp.sin(beta) + lateral * xp.cos(turned)) / (mass * v)
    spin = 1000 * (car.front * lateral * xp.cos(steering) - car.rear * side) / car.inertia
    along = curvature * speed * xp.cos(course) / xp.clip(1 - curvature * error, 0.2, 1e6)
    return xp.stack(
        [
            faster,
            turn - rate,
            spin,
            1000 * (drive - car.radius * pull) / car.spin,
            speed * xp.sin(course),
            turn - along,
            (action[..., 0] - steering) / car.lag_steering,
            (action[..., 1] - drive) / car.lag_drive,
        ],
        -1,
    )


def advance(xp: Any, forces: Forces, state: Any, action: Any, parts: int = 2, car: Car = CAR) -> Any:
    """States ``(..., 10)`` after one control step, by ``parts`` steps of the midpoint method."""
    join = xp.concatenate
    rest, step = state[..., DYNAMIC:], 1 / CONTROL_HZ / parts
    for _ in range(parts):
        half = state[..., :DYNAMIC] + step / 2 * derivative(xp, forces, state, action, car)
        slope = derivative(xp, forces, join([half, rest], -1), action, car)
        state = join([state[..., :DYNAMIC] + step * slope, rest], -1)
    return state


def magic(xp: Any, front: Any, along: Any, across: Any, load: tuple[Any, Any], friction: Any) -> tuple[Any, Any, Any]:
    """The simulator's own tires: the magic formula of combined slip (Pacejka 2012, section 4.3), whose forces fall
    behind their peak, with a friction that falls with the load and tires that are stiffer along than across."""
    usual = CAR.mass * GRAVITY / 2000

    def curve(slip: Any, weight: Any, shape: float) -> Any:
        return friction * (1.08 - 0.08 * weight / usual) * weight * xp.sin(shape * xp.arctan(slip))

    lateral = curve(10.0 * front, load[0], 1.35)
    a, b = 11.0 * along, 8.0 * across
    size = xp.sqrt(a * a + b * b + 1e-9)
    total = curve(size, load[1], 1.5) / size
    return lateral, total * a, total * b

"""A grey box: known mechanics, and forces that are learnt from logs. A planner looks ahead with it.

The mechanics are those of the drifting car (:mod:`polysoma.simulators.car_body`); what its tires do is learnt
(:mod:`polysoma.learning.methods.dynamics`), as curves of a known shape (:mod:`polysoma.nn.curves`) or, to compare with,
by a perceptron that may be anything. Its checkpoint is a folder like any other and drives the car by model-predictive
control (:class:`polysoma.acting.predictive.PredictivePlanner`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from polysoma.config import check
from polysoma.embodiment import Embodiment
from polysoma.errors import PolysomaError
from polysoma.nn.curves import Numbers, as_arrays, new_numbers, value
from polysoma.policy import small
from polysoma.policy.small import SmallPolicy
from polysoma.simulators.car_body import CAR, EMBODIMENT, GRAVITY, Forces

KIND = "dynamics"
"""What ``config.json`` calls such a checkpoint."""

Shape = Literal["brush", "exptanh", "integrated", "perceptron"]

_WIDTH = 16
_LOAD = CAR.mass * GRAVITY / 2000


@dataclass(frozen=True)
class DynamicsConfig:
    """What a grey box is.

    Attributes:
        embodiment: the body, which is the drifting car: the mechanics of no other are known.
        shape: of the forces: the brush model of tires, the two learnt curves, or a perceptron.

    Raises:
        PolysomaError: another body.
    """

    embodiment: Embodiment
    shape: Shape = "exptanh"

    def __post_init__(self) -> None:
        check(self)
        if (self.embodiment.streams, self.embodiment.actions) != (EMBODIMENT.streams, EMBODIMENT.actions):
            raise PolysomaError(
                f"{self.embodiment.name}: expected the body {EMBODIMENT.name}, the only one whose mechanics are known; "
                + "; ".join(self.embodiment.differences(EMBODIMENT))
            )

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` holds it."""
        return {"kind": KIND, "embodiment": self.embodiment.to_json(), "shape": self.shape}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> DynamicsConfig:
        """The inverse of :meth:`to_json`. Raises PolysomaError, in one line."""
        body, stored = small.stored_beside_body(data, _Stored, "a grey box")
        return DynamicsConfig(body, stored.shape)


@dataclass(frozen=True)
class _Stored:
    """A configuration in JSON, without the embodiment."""

    shape: Shape = "exptanh"


class Dynamics(SmallPolicy):
    """The forces of the tires, as they are learnt.

    Attributes:
        config: what it is.
        numbers: the parameters by name.
    """

    config: DynamicsConfig

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.config = config
        found: dict[str, nn.Parameter] = {}
        if config.shape == "perceptron":
            found |= _new_perceptron("front", 3, 1) | _new_perceptron("rear", 4, 2)
        else:
            found |= new_numbers("front", config.shape, 2) | new_numbers("rear", config.shape, 2)
            # How much stiffer the tires are along than across.
            found["rear.along"] = nn.Parameter(torch.zeros(()))
        # Names of parameters of a module have no dots.
        for name, parameter in found.items():
            self.register_parameter(name.replace(".", "_"), parameter)
        self._names = {name: name.replace(".", "_") for name in found}

    @property
    def numbers(self) -> dict[str, nn.Parameter]:
        """The parameters by name."""
        return {name: getattr(self, own) for name, own in self._names.items()}

    def forces(self) -> Forces:
        """The forces for torch, with gradients."""
        return forces_of(self.config.shape, self.numbers)

    def array_forces(self) -> Forces:
        """The forces for NumPy, as they are now."""
        return forces_of(self.config.shape, as_arrays(self.numbers))


def forces_of(shape: Shape, numbers: Numbers) -> Forces:
    """What tires do, as :data:`polysoma.simulators.car_body.Forces` says, with these parameters."""
    if shape == "perceptron":
        return lambda xp, *slip_and_load: _by_perceptron(xp, numbers, *slip_and_load)

    def forces(xp: Any, front: Any, along: Any, across: Any, load: tuple[Any, Any], friction: Any) -> Any:
        near, far = (friction * one for one in load)
        contexts = [xp.stack([one / _LOAD - 1, friction - 1], -1) for one in load]
        amount = xp.sqrt(front * front + 1e-8)
        lateral = near * value(xp, numbers, "front", shape, amount, contexts[0]) * front / amount
        stiffer = xp.exp(numbers["rear.along"]) * along
        amount = xp.sqrt(stiffer * stiffer + across * across + 1e-8)
        total = far * value(xp, numbers, "rear", shape, amount, contexts[1]) / amount
        return lateral, total * stiffer, total * across

    return forces


def _by_perceptron(
    xp: Any, numbers: Numbers, front: Any, along: Any, across: Any, load: tuple[Any, Any], friction: Any
) -> tuple[Any, Any, Any]:
    """Forces in parts of 10 kN by two perceptrons that know of no shape."""

    def run(name: str, parts: list[Any]) -> Any:
        hidden = xp.stack(parts, -1)
        for layer in ("a", "b"):
            hidden = xp.tanh(hidden @ numbers[f"{name}.{layer}"] + numbers[f"{name}.{layer}0"])
        return 10 * (hidden @ numbers[f"{name}.c"] + numbers[f"{name}.c0"])

    near, far = ([one / _LOAD - 1, 3 * (friction - 1)] for one in load)
    lateral = run("front", [3 * front, *near])[..., 0]
    rear = run("rear", [3 * along, 3 * across, *far])
    return lateral, rear[..., 0], rear[..., 1]


def _new_perceptron(name: str, inputs: int, outputs: int) -> dict[str, nn.Parameter]:
    made = {}
    for layer, (size, following) in zip("abc", [(inputs, _WIDTH), (_WIDTH, _WIDTH), (_WIDTH, outputs)], strict=True):
        made[f"{name}.{layer}"] = nn.Parameter(torch.randn(size, following) / size**0.5)
        made[f"{name}.{layer}0"] = nn.Parameter(torch.zeros(following))
    return made


def load(path: str | Path) -> Dynamics:
    """Loads a grey box for use, frozen.

    Raises:
        PolysomaError: there is no checkpoint, it is of another kind, or its weights are damaged or do not fit.
    """
    return small.load(path, KIND, "grey box (polysoma dynamics)", DynamicsConfig.from_json, Dynamics)

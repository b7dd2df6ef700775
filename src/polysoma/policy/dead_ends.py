"""Dead-end values: how likely failure is after each choice, whatever is done later, and how likely success can still be
(Fatemi et al. 2021, "Medical Dead-ends and Learning to Identify High-risk States and Treatments", arXiv 2110.04186).

:mod:`polysoma.learning.dead_ends` learns them from logs, and :class:`polysoma.acting.dead_ends.DeadEndGuard` acts on
them. They are stored as a folder: ``config.json`` and ``values.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from polysoma.config import check, decode, within
from polysoma.embodiment import DiscreteActions, Embodiment, Modality, Stream
from polysoma.errors import PolysomaError
from polysoma.files import reason, write_atomically
from polysoma.nn.perceptrons import Twins
from polysoma.policy import weight_file

KIND = "dead-ends"
"""What ``config.json`` calls such a folder."""
CONFIG, WEIGHTS = "config.json", "values.safetensors"


@dataclass(frozen=True)
class Alarm:
    """When a choice is too risky.

    Attributes:
        threshold: a choice of a higher risk raises an alarm.
        rate: the share of successful episodes with an alarm that was asked for, at most.
        successes: how many episodes the threshold was found with.
    """

    threshold: Annotated[float, within(0, 1)]
    rate: Annotated[float, within(0, 1, above=True, below=True)]
    successes: Annotated[int, within(1, 10**12)]

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class _Stored:
    """What ``config.json`` holds beside the body."""

    width: Annotated[int, within(1, 65_536)]
    depth: Annotated[int, within(1, 64)]
    alarm: Alarm | None = None


class DeadEnds(nn.Module):
    """The values of one body.

    Args:
        body: its actions are choices, and it senses states.
        width, depth: of the perceptrons.
        alarm: None before there is a threshold.

    Raises:
        PolysomaError: the actions are numbers, or there is no state.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, body: Embodiment, width: int = 64, depth: int = 2, alarm: Alarm | None = None) -> None:
        super().__init__()
        if not isinstance(body.actions, DiscreteActions):
            raise PolysomaError(f"dead ends of {body.name}: expected actions that are choices, they are numbers")
        self.streams = states_of(body)
        self.body, self.width, self.depth, self.alarm = body, width, depth, alarm
        inputs = sum(int(np.prod(stream.shape)) for stream in self.streams)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.negative = Twins(inputs, body.actions.size, width, depth)
        self.positive = Twins(inputs, body.actions.size, width, depth)

    def measure(self, states: Tensor) -> None:
        """Takes what the states ``(N, n)`` are scaled by from these. Channels that never change are not scaled."""
        deviation = states.std(0, correction=0)
        self.mean.copy_(states.mean(0))
        self.scale.copy_(torch.where(deviation > 1e-6, deviation, 1))

    def heads(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What is learned of states ``(B, n)``: Q_D and Q_R by both perceptrons, ``(2, B, choices)``, not bounded."""
        seen = (states - self.mean) / self.scale
        return self._of(self.negative, seen), self._of(self.positive, seen)

    def _of(self, twins: Twins, seen: Tensor) -> Tensor:
        values: Tensor = twins(seen)
        return values.reshape(2, len(seen), self.body.actions.size)

    def values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """``Q_D`` from -1 to 0 and ``Q_R`` from 0 to 1 of every choice in states ``(B, n)``, ``(B, choices)`` each.

        ``-Q_D`` is the least chance of failure after the choice, ``Q_R`` the greatest chance of success (definitions in
        section 3 of the paper). Of the two perceptrons the one that sees less good is believed.
        """
        negative, positive = self.heads(states)
        return negative.min(0).values.clamp(-1, 0), positive.min(0).values.clamp(0, 1)

    @torch.no_grad()
    def judge(self, observation: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Q_D and Q_R of every choice after one observation, float32 ``(choices,)`` each."""
        parts = [np.asarray(observation[stream.name], np.float32).reshape(-1) for stream in self.streams]
        negative, positive = self.values(torch.from_numpy(np.concatenate(parts))[None])
        return negative[0].numpy(), positive[0].numpy()

    def with_alarm(self, alarm: Alarm) -> DeadEnds:
        """These values with a threshold."""
        made = DeadEnds(self.body, self.width, self.depth, replace(alarm))
        made.load_state_dict(self.state_dict())
        return made.requires_grad_(False).eval()

    def save(self, folder: Path) -> None:
        """Writes the folder, the weights first and then the configuration that says their SHA-256."""
        content = safetensors.torch.save({name: value.contiguous() for name, value in self.state_dict().items()})
        write_atomically(folder / WEIGHTS, content)
        told = {
            "kind": KIND,
            "embodiment": self.body.to_json(),
            "width": self.width,
            "depth": self.depth,
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "weights_sha256": hashlib.sha256(content).hexdigest(),
        }
        write_atomically(folder / CONFIG, (json.dumps(told, indent=1) + "\n").encode())

    @staticmethod
    def load(folder: Path) -> DeadEnds:
        """Reads a folder, for use. Raises PolysomaError that names the file where it is none of these or damaged."""
        file = folder / CONFIG
        try:
            told: Any = json.loads(file.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise PolysomaError(f"cannot read {file} ({reason(error)}): expected the folder of a guard") from error
        if not isinstance(told, Mapping) or told.get("kind") != KIND:
            raise PolysomaError(f"{file}: expected a guard of kind {KIND!r}")
        try:
            body = Embodiment.from_json(told.get("embodiment", {}))
            beside = ("kind", "embodiment", "weights_sha256")
            rest = {key: value for key, value in told.items() if key not in beside and value is not None}
            stored = decode(_Stored, rest, "not the configuration of a guard")
            with torch.device("meta"):
                asked = DeadEnds(body, stored.width, stored.depth).state_dict()
        except PolysomaError as error:
            raise PolysomaError(f"{file}: {error}") from error
        weight_file.check_tensors(folder / WEIGHTS, asked)
        weight_file.check_sum(folder / WEIGHTS, told)
        made = DeadEnds(body, stored.width, stored.depth, stored.alarm)
        made.load_state_dict(weight_file.read(folder / WEIGHTS))
        return made.requires_grad_(False).eval()


def states_of(body: Embodiment) -> tuple[Stream, ...]:
    """The streams that dead ends are seen by: states alone. Raises PolysomaError where there is none."""
    streams = tuple(stream for stream in body.streams if stream.modality is Modality.STATE)
    if not streams:
        raise PolysomaError(f"dead ends of {body.name}: expected a body that senses a state, it has {body.arrays}")
    return streams

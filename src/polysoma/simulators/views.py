"""Bodies seen through their cameras: the same tasks, pictures and proprioception instead of the simulator's state."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from polysoma.embodiment import INSTRUCTION, Embodiment, Modality, Observation, Stream
from polysoma.errors import PolysomaError
from polysoma.simulators.environment import Environment, Family, Saved
from polysoma.task import Task

PIXELS = 96
PROPRIOCEPTION = "proprioception"


class PixelView(Environment):
    """A task of which a policy gets pictures and a few channels of the state. The expert still knows the whole state.

    Observations have one square uint8 stream for each camera, the other streams of the embodiment as the task gives
    them, and, where some channels are kept, ``proprioception``.

    Args:
        embodiment: what is observed.
        inner: the task, observed by its state.
    """

    def __init__(self, embodiment: Embodiment, inner: Environment) -> None:
        self.embodiment = embodiment
        super().__init__()
        self._inner = inner
        self.task = embodiment.name + inner.task[inner.task.index("/") :]
        self.max_steps, self.expert_noise = inner.max_steps, inner.expert_noise
        self.reward_kind = inner.reward_kind
        self._sizes = {s.name: s.shape[0] for s in embodiment.streams if s.modality is Modality.IMAGE}
        self._last: Observation = {}
        self._kept = np.array([], np.int64)
        if PROPRIOCEPTION in self.observation_space.spaces:  # type: ignore[attr-defined]
            names = [channel.name for channel in inner.embodiment.stream("state").channels]
            self._kept = np.array([names.index(c.name) for c in embodiment.stream(PROPRIOCEPTION).channels])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """The episode that the same seed gives where the state is observed. See :class:`Environment`."""
        super().reset(seed=seed)
        observation, info = self._inner.reset(seed=seed, options=options)
        self.max_steps = self._inner.max_steps
        return self._see(observation), info

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One step. See :class:`Environment`."""
        observation, reward, terminated, truncated, info = self._inner.step(action)
        return self._see(observation), float(reward), terminated, truncated, info

    def new_goal(self) -> Observation | None:
        """That of the task. See :class:`Environment`."""
        seen = self._inner.new_goal()
        return None if seen is None else self._see(seen)

    def remaining(self) -> float | None:
        """That of the task. See :class:`Environment`."""
        return self._inner.remaining()

    def get_state(self) -> Saved:
        """That of the task. See :class:`Environment`."""
        return self._inner.get_state()

    def set_state(self, saved: Saved) -> Observation:
        """That of the task. See :class:`Environment`."""
        observation = self._inner.set_state(saved)
        self.max_steps = self._inner.max_steps
        return self._see(observation)

    def expert_action(self) -> np.ndarray | int:
        """That of the task. See :class:`Environment`."""
        return self._inner.expert_action()

    def privileged(self) -> Observation:
        """The states of the task that the cameras stand for. See :class:`Environment`."""
        return {stream.name: self._last[stream.name] for stream in self.embodiment.privileged}

    def render_frame(self, size: int = 240) -> np.ndarray:
        """The task's picture, and what the cameras see along its lower edge. See :class:`Environment`."""
        picture = self._inner.render_frame(size)
        side = size // max(3, len(self._sizes))
        for number, (camera, pixels) in enumerate(self._sizes.items()):
            seen = self._inner.camera_frame(camera, pixels)
            nearest = np.arange(side) * pixels // side
            picture[size - side :, number * side : (number + 1) * side] = seen[nearest[:, None], nearest]
        return picture

    def push(self, place: tuple[float, float] | None, force: tuple[float, float]) -> str | None:
        """That of the task. See :class:`Environment`."""
        return self._inner.push(place, force)

    def close(self) -> None:
        self._inner.close()

    def _see(self, observation: Observation) -> Observation:
        self._last = observation
        seen = {name: value for name, value in observation.items() if name in self.observation_space.spaces}  # type: ignore[attr-defined]
        seen |= {camera: self._inner.camera_frame(camera, pixels) for camera, pixels in self._sizes.items()}
        if len(self._kept):
            seen[PROPRIOCEPTION] = observation["state"][self._kept]
        return seen


def pixel_view(
    family: Family,
    cameras: Sequence[str],
    kept: Sequence[str] = (),
    streams: Sequence[str] = (),
    name: str = "pixels",
    pixels: int = PIXELS,
) -> Family:
    """The same tasks through cameras, by an embodiment of the same body.

    States that are not observed any more are privileged.

    Args:
        family: the tasks, observed by their state.
        cameras: names that the environments' ``camera_frame`` knows; streams of the same names.
        kept: names of state channels that stay observed, as ``proprioception``.
        streams: streams that stay as they are.
        name: what the embodiment is called after the family's own name and a hyphen.
        pixels: a side of each camera's pictures.

    Raises:
        PolysomaError: no such channel or stream.
    """
    body = family.embodiment
    there = [channel.name for channel in _state(body)]
    if unknown := [one for one in kept if one not in there]:
        raise PolysomaError(f"kept: {body.name} has no state channels {unknown}; it has {there}")
    channels = tuple(channel for channel in _state(body) if channel.name in kept)
    own = (Stream(PROPRIOCEPTION, Modality.STATE, (len(channels),), channels),) if channels else ()
    embodiment = dataclasses.replace(
        body,
        name=f"{body.name}-{name}",
        streams=(
            *own,
            *(body.stream(name) for name in streams),
            *(Stream(camera, Modality.IMAGE, (pixels, pixels, 3)) for camera in cameras),
            body.stream(INSTRUCTION),
        ),
        privileged=tuple(s for s in body.streams if s.modality is Modality.STATE and s.name not in streams),
    )

    def build(task: str, **options: Any) -> Environment:
        return PixelView(embodiment, family.make(str(Task(body.name, Task.parse(task).name)), **options))

    return dataclasses.replace(
        family,
        embodiment=embodiment,
        tasks=tuple(str(Task(embodiment.name, Task.parse(task).name)) for task in family.tasks),
        build=build,
    )


def _state(body: Embodiment) -> tuple[Any, ...]:
    return next((stream.channels for stream in body.streams if stream.name == "state"), ())

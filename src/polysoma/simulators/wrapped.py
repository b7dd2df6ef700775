"""Any Gymnasium environment as a body: its spaces become streams and actions, a sentence becomes its task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from PIL import Image

from polysoma.embodiment import (
    INSTRUCTION,
    Channel,
    ContinuousActions,
    DiscreteActions,
    Embodiment,
    Modality,
    Observation,
    Stream,
)
from polysoma.errors import PolysomaError
from polysoma.horizon import Horizon
from polysoma.simulators.environment import Environment, Family, Saved

Expert = Callable[[Any], Any]
"""The environment's own observation to the action of an expert."""
Success = Callable[[Any, float, dict[str, Any]], bool]
"""Observation, reward and info after a step, to whether the task is solved."""


def wrapped(
    environment: str | Callable[[], gymnasium.Env[Any, Any]],
    body: str,
    instruction: str,
    success: Success | None = None,
    expert: Expert | None = None,
    channels: Sequence[str] = (),
    actions: Sequence[str] = (),
    rate_hz: float | None = None,
    horizon: Horizon | None = None,
    max_steps: int | None = None,
) -> Family:
    """The family of one Gymnasium environment, with one task, ``BODY/task``.

    One-dimensional boxes are states, boxes ``(height, width, 3)`` of bytes are pictures, dictionaries are several
    streams; actions are a one-dimensional box of finite limits, or discrete.

    Args:
        environment: the name of a registered environment, or a function that makes one.
        body: what to call the embodiment.
        instruction: what to do, in words.
        success: says when the task is solved; None takes ``info["success"]`` or ``info["is_success"]``.
        expert: what demonstrations are recorded from; None for bodies that only evaluate.
        channels: names of the values of a single state; ``value_0`` and so on by default.
        actions: names of the actions; ``action_0`` and so on by default.
        rate_hz: actions a second; the environment's ``render_fps``, or 20, by default.
        horizon: how a policy is recommended to look at it; :meth:`Horizon.default` where it is left out.
        max_steps: where an episode is cut; the environment's own limit, or 1000, by default.

    Raises:
        PolysomaError: a space that has no counterpart here; the message says which.
    """

    def make() -> gymnasium.Env[Any, Any]:
        if callable(environment):
            return environment()
        # Its own limit would cut an episode that may be longer.
        return gymnasium.make(
            environment, max_episode_steps=max_steps, render_mode="rgb_array", disable_env_checker=True
        )

    first = make()
    rate = rate_hz or float(first.metadata.get("render_fps") or 20.0)
    limit = max_steps or (first.spec.max_episode_steps if first.spec is not None else None) or 1000
    described = Embodiment(
        name=body,
        streams=(*_streams(first.observation_space, channels), Stream(INSTRUCTION, Modality.TEXT)),
        actions=_actions(first.action_space, actions),
        rate_hz=rate,
    )
    looks = horizon or Horizon.default(rate, isinstance(described.actions, DiscreteActions))
    first.close()

    def build(task: str) -> Environment:
        return _Wrapped(described, task, make(), instruction, success, expert, limit)

    return Family(described, (f"{body}/task",), ("gymnasium",), build, horizon=looks)


class _Wrapped(Environment):
    reward_kind = "dense"
    remembered = ("_inner", "_raw", "_steps")

    def __init__(
        self,
        embodiment: Embodiment,
        task: str,
        inner: gymnasium.Env[Any, Any],
        instruction: str,
        success: Success | None,
        expert: Expert | None,
        max_steps: int,
    ) -> None:
        self.embodiment = embodiment
        super().__init__()
        self.task, self.max_steps = task, max_steps
        self._inner, self._instruction, self._success, self._expert = inner, instruction, success, expert
        self._raw: Any = None
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """See :class:`Environment`."""
        super().reset(seed=seed)
        self._raw, _ = self._inner.reset(seed=self.own_seed(seed), options=options)
        self._steps = 0
        return self._observation(), {"success": False}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """See :class:`Environment`."""
        action = self.embodiment.check_action(action)
        if isinstance(self.embodiment.actions, DiscreteActions):
            action = int(action) + self._inner.action_space.start  # type: ignore[attr-defined]
        self._raw, reward, terminated, truncated, info = self._inner.step(action)
        self._steps += 1
        if self._success is None:
            success = bool(info.get("success", info.get("is_success", False)))
        else:
            success = bool(self._success(self._raw, float(reward), info))
        truncated = truncated or self._steps >= self.max_steps
        return self._observation(), float(reward), terminated or success, truncated, {**info, "success": success}

    def expert_action(self) -> np.ndarray | int:
        """See :class:`Environment`."""
        if self._expert is None:
            return super().expert_action()
        action = self._expert(self._raw)
        if isinstance(self.embodiment.actions, DiscreteActions):
            return int(action) - int(self._inner.action_space.start)  # type: ignore[attr-defined]
        return self.embodiment.check_action(np.asarray(action))

    def get_state(self) -> Saved:
        """See :class:`Environment`: a copy of all that the environment holds. Raises PolysomaError where it holds what
        Python cannot copy, as those of Box2D do, and others once they have drawn a picture."""
        try:
            return super().get_state()
        except Exception as error:
            raise PolysomaError(f"{self.task}: what cannot be copied cannot be saved ({error})") from error

    def _now(self) -> Observation:
        return self._observation()

    def render_frame(self, size: int = 240) -> np.ndarray:
        """See :class:`Environment`."""
        picture: Any = self._inner.render()
        if not isinstance(picture, np.ndarray):
            raise PolysomaError(f"{self.task} draws no pictures: make it with render_mode='rgb_array'")
        return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR))

    def close(self) -> None:
        self._inner.close()

    def _observation(self) -> Observation:
        streams = self.embodiment.arrays
        parts = self._raw if isinstance(self._raw, dict) else {streams[0].name: self._raw}
        # Copies: many environments fill one array again at every step. Pictures are looked at before they become bytes.
        held = {
            s.name: np.array(parts[s.name], None if s.modality is Modality.IMAGE else s.dtype)
            for s in streams
            if s.name in parts
        }
        return self.embodiment.check_observation(held | {INSTRUCTION: self._instruction})


def _streams(space: spaces.Space[Any], names: Sequence[str]) -> list[Stream]:
    if isinstance(space, spaces.Dict):
        return [_stream(name, part, ()) for name, part in space.spaces.items()]
    return [_stream("", space, names)]


def _stream(name: str, space: spaces.Space[Any], names: Sequence[str]) -> Stream:
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype is not None and space.dtype.kind == "f":
        return Stream(name or "state", Modality.STATE, space.shape, _channels(space, names, "value"))
    if isinstance(space, spaces.Box) and len(space.shape) == 3 and space.shape[2] == 3 and space.dtype == np.uint8:
        return Stream(name or "camera", Modality.IMAGE, space.shape)
    raise PolysomaError(
        f"observation {name!r}: expected a one-dimensional box of floats or bytes of shape (height, width, 3), "
        f"got {space}; write an Environment of your own for it (docs/add-a-body.md)"
    )


def _actions(space: spaces.Space[Any], names: Sequence[str]) -> ContinuousActions | DiscreteActions:
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(_names(names, int(space.n), "action"))
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and np.isfinite([space.low, space.high]).all():
        return ContinuousActions(_channels(space, names, "action"))
    raise PolysomaError(f"actions: expected a one-dimensional box of finite limits, or discrete ones, got {space}")


def _channels(space: spaces.Box, names: Sequence[str], default: str) -> tuple[Channel, ...]:
    limits = zip(space.low.tolist(), space.high.tolist(), strict=True)
    called = _names(names, space.shape[0], default)
    return tuple(Channel(name, "1", low, high) for name, (low, high) in zip(called, limits, strict=True))


def _names(names: Sequence[str], count: int, default: str) -> tuple[str, ...]:
    if names and len(names) != count:
        raise PolysomaError(f"expected {count} names, got {list(names)}")
    return tuple(names) or tuple(f"{default}_{number}" for number in range(count))

"""One trajectory of one embodiment: what was sensed, what the expert would do and what was done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polysoma.embodiment import ContinuousActions, DiscreteActions, Embodiment, Modality
from polysoma.errors import PolysomaError


@dataclass(frozen=True)
class Episode:
    """One checked trajectory of T steps.

    Attributes:
        embodiment: the body.
        task: the task's name, e.g. ``"babyai/GoToLocal"``.
        instruction: what to do, in words.
        seed: of the reset; (task, seed) says which start this was.
        success: whether the task was solved.
        observations: array streams by name, privileged ones too (text is left out), each ``(T, *stream.shape)`` of
            the stream's dtype.
        actions: the expert's labels, float32 ``(T, A)`` in the units of the channels, or int64 indices ``(T,)``.
        executed: the actions that were executed, as ``actions``; they differ from the labels when noise is injected
            or a policy drives.

    Raises:
        PolysomaError: a stream is missing or unknown, or a shape, dtype, length, id or number is not as the
            embodiment says. The message lists what was expected and what came.
    """

    embodiment: Embodiment
    task: str
    instruction: str
    seed: int
    success: bool
    observations: dict[str, np.ndarray]
    actions: np.ndarray
    executed: np.ndarray

    def __post_init__(self) -> None:
        body = self.embodiment
        where = f"episode of {body.name}, {self.task} seed {self.seed}"
        expected = sorted(stream.name for stream in body.recorded)
        if sorted(self.observations) != expected:
            raise PolysomaError(f"{where}: expected the array streams {expected}, got {sorted(self.observations)}")
        steps = len(np.atleast_1d(self.actions))
        if steps == 0:
            raise PolysomaError(f"{where}: expected at least one step, got none")
        for stream in body.recorded:
            array = self.observations[stream.name]
            names = tuple(channel.name for channel in stream.channels)
            _check(f"{where}, stream {stream.name!r}", array, np.dtype(stream.dtype), (steps, *stream.shape), names)
            if stream.modality is Modality.SYMBOL and (array >= np.array(stream.cardinalities)).any():
                highest = array.reshape(-1, array.shape[-1]).max(axis=0).tolist()
                raise PolysomaError(
                    f"{where}, stream {stream.name!r}: expected ids below {stream.cardinalities}, got up to {highest}"
                )
        for name, array in (("actions", self.actions), ("executed", self.executed)):
            _check_actions(f"{where}, {name}", array, body.actions, steps)

    def __len__(self) -> int:
        """The number of steps T."""
        return len(self.actions)


def _check(where: str, array: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        named = f" ({', '.join(names)})" if names else ""
        raise PolysomaError(f"{where}: expected {dtype} of shape {shape}{named}, got {got}")
    if dtype.kind == "f" and not np.isfinite(array).all():
        step, channel = np.argwhere(~np.isfinite(array))[0]
        raise PolysomaError(
            f"{where}: expected finite numbers, got {array[step, channel]} at step {step} in {names[channel]}"
        )


def _check_actions(where: str, array: np.ndarray, actions: ContinuousActions | DiscreteActions, steps: int) -> None:
    if isinstance(actions, ContinuousActions):
        names = tuple(channel.name for channel in actions.channels)
        _check(where, array, np.dtype(np.float32), (steps, actions.size), names)
        return
    _check(where, array, np.dtype(np.int64), (steps,), ())
    if array.min() < 0 or array.max() >= actions.size:
        raise PolysomaError(
            f"{where}: expected indices 0..{actions.size - 1} ({', '.join(actions.names)}), "
            f"got {array.min()}..{array.max()}"
        )

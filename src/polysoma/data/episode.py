"""One trajectory of one embodiment: what was sensed, what the expert would do, what was done, and what came of it."""

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
        rewards: what each executed action earned, float32 ``(T,)``, finite; None where the source has no rewards.
        terminated: whether the task itself ended the episode (solved, or no longer solvable): nothing follows, so
            nothing is to be expected after the last step.
        truncated: whether something else ended it: a step limit, or an expert or a person who gave up. Both are False
            where the source does not say. Both may be True, as in Gymnasium, where a step limit does not look whether
            the task ended in the same step; ``terminated`` then decides.
        final: what was observed after the last action, each stream of ``observations`` by name, ``(*stream.shape)``;
            None where the source does not have it.

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
    rewards: np.ndarray | None = None
    terminated: bool = False
    truncated: bool = False
    final: dict[str, np.ndarray] | None = None

    def __post_init__(self) -> None:
        body = self.embodiment
        where = f"episode of {body.name}, {self.task} seed {self.seed}"
        steps = len(np.atleast_1d(self.actions))
        if steps == 0:
            raise PolysomaError(f"{where}: expected at least one step, got none")
        _check_streams(where, self.observations, body, (steps,))
        for name, array in (("actions", self.actions), ("executed", self.executed)):
            _check_actions(f"{where}, {name}", array, body.actions, steps)
        if self.rewards is not None:
            _check(f"{where}, rewards", self.rewards, np.dtype(np.float32), (steps,), ())
        for name in ("success", "terminated", "truncated"):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise PolysomaError(f"{where}: {name} must be True or False, got {getattr(self, name)!r}")
        if self.final is not None:
            _check_streams(f"{where}, final", self.final, body, ())

    def __len__(self) -> int:
        """The number of steps T."""
        return len(self.actions)


def _check_streams(where: str, arrays: dict[str, np.ndarray], body: Embodiment, leading: tuple[int, ...]) -> None:
    expected = sorted(stream.name for stream in body.recorded)
    if sorted(arrays) != expected:
        raise PolysomaError(f"{where}: expected the array streams {expected}, got {sorted(arrays)}")
    for stream in body.recorded:
        array, here = arrays[stream.name], f"{where}, stream {stream.name!r}"
        names = tuple(channel.name for channel in stream.channels)
        _check(here, array, np.dtype(stream.dtype), (*leading, *stream.shape), names)
        if stream.modality is Modality.SYMBOL and (array >= np.array(stream.cardinalities)).any():
            highest = array.reshape(-1, array.shape[-1]).max(axis=0).tolist()
            raise PolysomaError(f"{here}: expected ids below {stream.cardinalities}, got up to {highest}")


def _check(where: str, array: np.ndarray, dtype: np.dtype, shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        named = f" ({', '.join(names)})" if names else ""
        raise PolysomaError(f"{where}: expected {dtype} of shape {shape}{named}, got {got}")
    if dtype.kind == "f" and not np.isfinite(array).all():
        place = tuple(np.argwhere(~np.isfinite(array))[0])
        # Steps come first and channels last; a reward has no channels, and a last observation no steps.
        at = f" in {names[place[-1]]}" if names else ""
        if len(place) > bool(names):
            at = f" at step {place[0]}{at}"
        raise PolysomaError(f"{where}: expected finite numbers, got {array[place]}{at}")


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

"""What a policy reads, as tensors on its device: each distinct task once, and the frames of windows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polysoma.data.windows import Demonstrations, Windows


@dataclass(frozen=True)
class TaskInputs:
    """I distinct tasks.

    Attributes:
        words: ids, int64 ``(I, W)``, padded with 0.
        goals: camera stream to what it is to see in the end, uint8 ``(I, *shape)``; or None.
        shown: frames of other episodes, I rows of them; or None.
        rows: int64 ``(B,)``, the task of each window; None where window b has task b.
    """

    words: Tensor
    goals: Mapping[str, Tensor] | None = None
    shown: DemonstrationInputs | None = None
    rows: Tensor | None = None


@dataclass(frozen=True)
class DemonstrationInputs:
    """Frames of other episodes: :class:`~polysoma.data.windows.Demonstrations` as tensors."""

    observations: Mapping[str, Tensor]
    actions: Tensor
    places: Tensor
    valid: Tensor


@dataclass(frozen=True)
class FrameInputs:
    """T frames of B windows; see :class:`~polysoma.data.windows.Windows`.

    Attributes:
        observations: stream name to ``(B, T, *shape)``.
        previous: float32 ``(B, T, A)`` or int64 ``(B, T)``.
        previous_valid: bool ``(B, T)``.
    """

    observations: Mapping[str, Tensor]
    previous: Tensor
    previous_valid: Tensor


def frames_of(windows: Windows, device: torch.device) -> FrameInputs:
    """The frames of windows."""
    observations = {name: _tensor(array, device) for name, array in windows.observations.items()}
    return FrameInputs(observations, _tensor(windows.previous, device), _tensor(windows.previous_valid, device))


def task_of(
    encode: Callable[[Sequence[str]], Tensor],
    device: torch.device,
    instructions: Sequence[str],
    goals: Mapping[str, np.ndarray] | None = None,
    shown: Demonstrations | None = None,
) -> TaskInputs:
    """The distinct tasks of windows.

    Args:
        encode: texts to ids of words.
        device: of the tensors.
        instructions: of B windows.
        goals: camera stream to uint8 ``(B, *shape)``; or None.
        shown: to B windows; or None.
    """
    arrays = [] if goals is None else list(goals.values())
    if shown is not None:
        arrays += [*shown.observations.values(), shown.actions, shown.places, shown.valid]
    number: dict[Hashable, int] = {}
    first: list[int] = []
    rows: list[int] = []
    for row, text in enumerate(instructions):
        key = (text, *(array[row].tobytes() for array in arrays))
        if key not in number:
            number[key] = len(first)
            first.append(row)
        rows.append(number[key])
    if len(first) == len(instructions):
        return _task(encode, device, instructions, goals, shown)
    few = np.array(first)
    some = None if goals is None else {name: array[few] for name, array in goals.items()}
    texts = [instructions[row] for row in first]
    index = torch.tensor(rows, device=device)
    return _task(encode, device, texts, some, None if shown is None else shown.take(few), index)


def _task(
    encode: Callable[[Sequence[str]], Tensor],
    device: torch.device,
    instructions: Sequence[str],
    goals: Mapping[str, np.ndarray] | None,
    shown: Demonstrations | None,
    rows: Tensor | None = None,
) -> TaskInputs:
    pictures = None if goals is None else {name: _tensor(array, device) for name, array in goals.items()}
    seen = None
    if shown is not None:
        observations = {name: _tensor(array, device) for name, array in shown.observations.items()}
        others = (_tensor(array, device) for array in (shown.actions, shown.places, shown.valid))
        seen = DemonstrationInputs(observations, *others)
    return TaskInputs(encode(instructions).to(device), pictures, seen, rows)


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)

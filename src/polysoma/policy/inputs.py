"""What a policy's network reads: tensors on its device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from polysoma.data.batch import Batch, Demonstrations
from polysoma.embodiment import Embodiment
from polysoma.nn.words import TextTokenizer


@dataclass(frozen=True)
class TaskInputs:
    """I distinct tasks.

    Attributes:
        words: ids, int64 ``(I, W)``, padded with 0.
        goals: camera stream to what it is to see in the end, uint8 ``(I, *shape)``; or None.
        demonstrations: of the tasks; or None.
        rows: int64 ``(B,)``, the task of each window; None where window b has task b.
    """

    words: Tensor
    goals: Mapping[str, Tensor] | None = None
    demonstrations: Demonstrations | None = None
    rows: Tensor | None = None


class Frames(Protocol):
    """T frames of B windows: a :class:`~polysoma.data.batch.Batch`, or what graphs are traced with."""

    @property
    def observations(self) -> dict[str, Tensor]:
        """Stream name to ``(B, T, *shape)``."""
        ...

    @property
    def previous(self) -> Tensor:
        """Float32 ``(B, T, A)`` or int64 ``(B, T)``."""
        ...

    @property
    def previous_valid(self) -> Tensor:
        """Bool ``(B, T)``."""
        ...


@dataclass(frozen=True)
class FrameInputs:
    """See :class:`Frames`."""

    observations: dict[str, Tensor]
    previous: Tensor
    previous_valid: Tensor


def blank(body: Embodiment, frames: int) -> Batch:
    """One window of so many frames of zeros, before anything was done: what graphs are traced with."""
    none = torch.from_numpy(body.actions.none())
    streams = {s.name: torch.from_numpy(np.zeros((1, frames, *s.shape), s.dtype)) for s in body.arrays}
    never, lengths = torch.zeros(1, frames, dtype=torch.bool), torch.full((1,), frames)
    return Batch(body, ("go on",), streams, none.expand(1, frames, *none.shape), never, lengths)


def task_of(batch: Batch, text: TextTokenizer) -> TaskInputs:
    """The tasks of a batch, their words as ids."""
    words = text.encode(batch.instructions).to(batch.lengths.device)
    return TaskInputs(words, batch.goals, batch.demonstrations, batch.task_of)

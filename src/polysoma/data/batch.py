"""Batches: what a policy sees of a few windows of one body, as tensors. Training and acting share them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from polysoma.embodiment import Embodiment


@dataclass(frozen=True)
class Demonstrations:
    """Frames of other episodes that a policy is shown before it acts, F of them for each of I tasks.

    Attributes:
        observations: stream name to ``(I, F, *shape)``.
        actions: what was executed in each frame, int64 ``(I, F)`` or float32 ``(I, F, A)``; what the action space's
            ``none()`` gives where that is not told.
        places: int64 ``(I, F)``, which of the frames of its episode each one is.
        valid: bool ``(I, F)``, False for padding.
    """

    observations: dict[str, Tensor]
    actions: Tensor
    places: Tensor
    valid: Tensor

    def take(self, rows: Tensor) -> Demonstrations:
        """Those of the tasks of these rows."""
        return Demonstrations(_rows(self.observations, rows), self.actions[rows], self.places[rows], self.valid[rows])

    def to(self, device: torch.device) -> Demonstrations:
        """The same on another device."""
        observations = {name: value.to(device) for name, value in self.observations.items()}
        return Demonstrations(observations, self.actions.to(device), self.places.to(device), self.valid.to(device))


@dataclass(frozen=True)
class Batch:
    """B windows of one embodiment, T frames long (shorter ones are padded at their end), that follow I distinct tasks.

    Attributes:
        embodiment: the one body that all windows come from.
        instructions: I strings.
        observations: stream name to ``(B, T, *shape)``; those of data hold the privileged streams too.
        previous: the action executed before each frame, int64 ``(B, T)`` or float32 ``(B, T, A)``; what the action
            space's ``none()`` gives where there was none.
        previous_valid: bool ``(B, T)``, whether there was one.
        lengths: int64 ``(B,)``, the number of true frames of each window.
        task_of: int64 ``(B,)``, which of the I tasks each window follows; None where window b follows task b.
        actions: targets, int64 ``(B, T, chunk)`` or float32 ``(B, T, chunk, A)``; None when acting.
        action_valid: bool ``(B, T, chunk)``, False for padding; None when acting.
        goals: camera stream to what it is to see in the end, uint8 ``(I, *shape)``; None where words say what to do.
        task_std: privileged stream to the standard deviation of its channels within each window's task, float32
            ``(B, size)``; None when acting.
        demonstrations: of the tasks; None where none are shown.
    """

    embodiment: Embodiment
    instructions: Sequence[str]
    observations: dict[str, Tensor]
    previous: Tensor
    previous_valid: Tensor
    lengths: Tensor
    task_of: Tensor | None = None
    actions: Tensor | None = None
    action_valid: Tensor | None = None
    goals: dict[str, Tensor] | None = None
    task_std: dict[str, Tensor] | None = None
    demonstrations: Demonstrations | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tasks(self) -> Tensor:
        """Which task each window follows, int64 ``(B,)``."""
        return torch.arange(len(self), device=self.lengths.device) if self.task_of is None else self.task_of

    @property
    def texts(self) -> list[str]:
        """The instruction of every window."""
        return [self.instructions[task] for task in self.tasks.tolist()]

    def with_texts(self, texts: Sequence[str]) -> Batch:
        """The same windows told in these words, one text for each. Goals and demonstrations stay theirs."""
        apart = self.goals is not None or self.demonstrations is not None
        keys = [(text, task if apart else 0) for text, task in zip(texts, self.tasks.tolist(), strict=True)]
        number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
        index = torch.tensor([number[key] for key in keys], dtype=torch.int64, device=self.lengths.device)
        was = torch.tensor([task for _, task in number], dtype=torch.int64, device=self.lengths.device)
        return dataclasses.replace(
            self,
            instructions=tuple(text for text, _ in number),
            task_of=index,
            goals=None if self.goals is None else _rows(self.goals, was),
            demonstrations=None if self.demonstrations is None else self.demonstrations.take(was),
        )

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        if self.lengths.device == device:
            return self

        def moved(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        def every(values: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
            return None if values is None else {name: value.to(device) for name, value in values.items()}

        return Batch(
            self.embodiment,
            self.instructions,
            {name: value.to(device) for name, value in self.observations.items()},
            self.previous.to(device),
            self.previous_valid.to(device),
            self.lengths.to(device),
            moved(self.task_of),
            moved(self.actions),
            moved(self.action_valid),
            every(self.goals),
            every(self.task_std),
            None if self.demonstrations is None else self.demonstrations.to(device),
        )

    def take(self, rows: Sequence[int] | np.ndarray | Tensor) -> Batch:
        """The windows of these rows, cut to the longest of them, and the tasks that they follow."""
        rows = torch.as_tensor(rows)
        longest = int(self.lengths[rows].max())
        used, index = torch.unique(self.tasks[rows], return_inverse=True)

        def pick(value: Tensor | None) -> Tensor | None:
            return None if value is None else value[rows, :longest]

        return Batch(
            self.embodiment,
            tuple(self.instructions[task] for task in used.tolist()),
            {name: value[rows, :longest] for name, value in self.observations.items()},
            self.previous[rows, :longest],
            self.previous_valid[rows, :longest],
            self.lengths[rows],
            index,
            pick(self.actions),
            pick(self.action_valid),
            None if self.goals is None else _rows(self.goals, used),
            None if self.task_std is None else _rows(self.task_std, rows),
            None if self.demonstrations is None else self.demonstrations.take(used),
        )

    def frames(self, some: slice) -> Batch:
        """These frames of all windows, without targets; as they come to somebody who acts."""
        count = len(range(*some.indices(self.previous.shape[1])))
        return dataclasses.replace(
            self,
            observations={name: value[:, some] for name, value in self.observations.items()},
            previous=self.previous[:, some],
            previous_valid=self.previous_valid[:, some],
            lengths=torch.full_like(self.lengths, count),
            actions=None,
            action_valid=None,
        )


def concatenate(parts: Sequence[Batch]) -> Batch:
    """Joins batches of one embodiment, padding to the longest. Tasks of equal words are one where words are all."""
    if len(parts) == 1:
        return parts[0]
    longest = max(part.previous.shape[1] for part in parts)

    def join(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([_padded(value, longest) for value in values])

    def targets(values: Sequence[Tensor | None]) -> Tensor | None:
        known = [value for value in values if value is not None]
        return join(known) if known else None

    def together(values: Sequence[Mapping[str, Tensor] | None]) -> dict[str, Tensor] | None:
        known = [value for value in values if value is not None]
        return {name: torch.cat([value[name] for value in known]) for name in known[0]} if known else None

    first, before, tasks = parts[0], 0, []
    for part in parts:
        tasks.append(part.tasks + before)
        before += len(part.instructions)
    shown = [part.demonstrations for part in parts if part.demonstrations is not None]
    batch = Batch(
        first.embodiment,
        tuple(text for part in parts for text in part.instructions),
        {name: join([part.observations[name] for part in parts]) for name in first.observations},
        join([part.previous for part in parts]),
        join([part.previous_valid for part in parts]),
        torch.cat([part.lengths for part in parts]),
        torch.cat(tasks),
        targets([part.actions for part in parts]),
        targets([part.action_valid for part in parts]),
        together([part.goals for part in parts]),
        together([part.task_std for part in parts]),
        None if not shown else Demonstrations(
            {name: torch.cat([one.observations[name] for one in shown]) for name in shown[0].observations},
            torch.cat([one.actions for one in shown]),
            torch.cat([one.places for one in shown]),
            torch.cat([one.valid for one in shown]),
        ),
    )  # fmt: skip
    return batch.with_texts(batch.texts) if batch.goals is None and not shown else batch


def _padded(value: Tensor, longest: int) -> Tensor:
    lacking = longest - value.shape[1]
    return value if not lacking else torch.cat([value, value.new_zeros(len(value), lacking, *value.shape[2:])], 1)


def _rows(values: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in values.items()}

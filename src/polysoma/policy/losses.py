"""Losses of windows of several bodies at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from polysoma.data.batch import Batch
from polysoma.errors import PolysomaError
from polysoma.policy.inputs import TaskInputs, task_of
from polysoma.policy.network import ACTION, Embedded, Network


def losses_of(network: Network, batches: Sequence[Batch], estimate: Sequence[bool] = ()) -> list[tuple[Tensor, Tensor]]:
    """The sums of the losses of all true targets of windows of several bodies, which are computed together as far as
    that saves time, and the mean losses of estimating the bodies' privileged states: float32 scalars.

    Args:
        batches: of one body each.
        estimate: for which of them privileged states are estimated; the second loss of others is 0. None by
            default.

    Raises:
        PolysomaError: a body that the policy does not know like that, windows without targets or with chunks of another
            length, or privileged states to estimate that it does not have.
    """
    estimates = estimate or [False] * len(batches)
    batches = [batch.to(network.device) for batch in batches]
    for batch in batches:
        network.check_same(batch.embodiment)
    tasks = [task_of(batch, network.text) for batch in batches]
    parts, estimated = [], []
    for batch, task, words, wanted in zip(batches, tasks, _read(network, tasks), estimates, strict=True):
        name = batch.embodiment.name
        embedded = network.embed(name, task, batch, words)
        estimated.append(_missed(network, batch, embedded) if wanted else words.new_zeros(()))
        windows = network.windows(name, embedded, embedded.times, (ACTION,))
        true = embedded.times < batch.lengths[:, None]
        per_frame = embedded.frames.shape[2]
        parts.append(windows._replace(true=true.repeat_interleave(per_frame, 1) if true.shape[1] > 1 else None))
    answers = network.trunk.together(parts)
    losses = [_action_loss(network, batch, readouts) for batch, readouts in zip(batches, answers, strict=True)]
    return list(zip(losses, estimated, strict=True))


def _read(network: Network, tasks: Sequence[TaskInputs]) -> list[Tensor]:
    """Tokens of the words of several bodies' tasks, which are read at once."""
    longest = max(task.words.shape[1] for task in tasks)
    ids = torch.cat([F.pad(task.words, (0, longest - task.words.shape[1])) for task in tasks])
    read = network.text(ids).split([len(task.words) for task in tasks])
    return [tokens[:, : task.words.shape[1]] for tokens, task in zip(read, tasks, strict=True)]


def _missed(network: Network, batch: Batch, embedded: Embedded) -> Tensor:
    """The mean loss of estimating privileged states."""
    estimator = network.estimator(batch.embodiment.name)
    missing = sorted(estimator.streams.keys() - batch.observations.keys())
    if missing or batch.task_std is None:
        raise PolysomaError(f"windows of {batch.embodiment.name} hold no privileged {missing} to estimate")
    missed = estimator.losses(embedded.frames, embedded.summary(), batch.observations, batch.task_std)
    return missed[embedded.times < batch.lengths[:, None]].mean()


def _action_loss(network: Network, batch: Batch, readouts: Tensor) -> Tensor:
    """The sum of the losses of all true targets, by readouts ``(B, T, width)``."""
    body, name = batch.embodiment, batch.embodiment.name
    if batch.actions is None or batch.action_valid is None:
        raise PolysomaError("a loss needs windows with targets")
    expected = network.config.horizons[name].chunk
    if batch.actions.shape[2] != expected:
        raise PolysomaError(
            f"{name}: this policy predicts chunks of {expected} actions, the windows have "
            f"targets of {batch.actions.shape[2]}: draw them with its horizon"
        )
    targets, reference = batch.actions, network.reference(name, batch)
    if reference is not None:
        targets = targets - reference[:, :, None]
    losses = network.heads[body.body].losses(readouts, targets, network.last_command(name, batch))
    return losses[batch.action_valid].sum()

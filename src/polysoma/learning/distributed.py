"""Several processes: gradients averaged among them, and the trunk's parameters split between them on demand.

Every process holds all parameters, and one message a step averages all gradients. With sharding, each holds a part of
every block of the trunk instead (FSDP, Zhao et al. 2023, arXiv 2304.11277; ZeRO stage 3), which is gathered while the
block computes: the trunk is what grows when policies do. Files hold whole tensors whatever the sharding.
"""

from __future__ import annotations

import atexit
import functools
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from polysoma.errors import PolysomaError
from polysoma.policy.policy import Policy

_LEAVING = 0.5
"""Seconds that a process with a sharded policy waits before it ends."""

if TYPE_CHECKING:
    import accelerate  # an extra, of which those that only read what was trained have no need


def accelerator_here() -> accelerate.Accelerator:
    """Accelerate's view of this process: its device, and the others. Raises PolysomaError where it is missing."""
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise PolysomaError(
            "training needs accelerate, not installed here: run `pip install 'polysoma[train]'`"
        ) from error
    return Accelerator()


def learn_on(device: str) -> None:
    """Says where this process learns, before anything does. Accelerate reads that from the environment, once.

    Args:
        device: as :mod:`polysoma.nn.device` has it. ``"auto"`` leaves it to accelerate, which takes a GPU where there
            is one, and with several processes one each.

    Raises:
        PolysomaError: one device by its number for several processes.
    """
    if device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif ":" in device:
        if int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise PolysomaError(f"device: {device} is one, and there are several processes; leave out its number")
        os.environ["ACCELERATE_TORCH_DEVICE"] = device


def shard(policy: Policy, accelerator: accelerate.Accelerator) -> None:
    """Splits the parameters of each block of the trunk between all processes; with one process, does nothing.

    Raises:
        PolysomaError: the policy shares weights with a base, which would be split, too.
    """
    if accelerator.num_processes == 1:
        return
    if policy.shared:
        raise PolysomaError("sharding: an adaptation has few parameters of its own; train it with sharding = 'none'")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # Blocks return keys and values that are views; nothing is ever written into them.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    _leave_slowly()
    for block in policy.trunk.get_submodule("blocks").children():
        fully_shard(block, mesh=mesh)
        # Tokens that are only looked at do not go through all of the last block.
        register_fsdp_forward_method(block, "keys_values")


@functools.cache
def _leave_slowly() -> None:
    """Lets gloo's threads finish before the interpreter ends.

    PyTorch's caches keep a mesh, and with it the group of processes, which therefore outlives its destruction. A
    thread of it that is only then done with the last message asks for the interpreter, is ended by it, and takes the
    process with it ("terminate called without an active exception"). While the main thread sleeps it is let in.
    """
    atexit.register(time.sleep, _LEAVING)


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that lies in this process: itself unless it is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from all processes, which must all ask for it, where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def set_whole(target: Tensor, value: Tensor) -> None:
    """Copies all of a tensor into one that may be sharded."""
    target.copy_(like(target, value))


def like(target: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, sharded as another one of its shape is; one of another shape stays as it is."""
    if not isinstance(target, DTensor) or value.shape != target.shape:
        return value
    return cast(Tensor, distribute_tensor(value.to(target.device), target.device_mesh, target.placements))


def by_sharding(parameters: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Those that are sharded, and those that are not: few operations take both."""
    every = list(parameters)
    return [p for p in every if isinstance(p, DTensor)], [p for p in every if not isinstance(p, DTensor)]


@torch.no_grad()
def reduce_gradients(
    parameters: Sequence[Tensor],
    accelerator: accelerate.Accelerator,
    running: Sequence[Tensor] = (),
    before: Sequence[Tensor] = (),
) -> None:
    """Averages the gradients over all processes, in one message; those of sharded parameters are averaged already.

    What no process added a gradient to has none afterwards, as with one process: momentum and decay leave it alone.

    Args:
        parameters: that learn.
        accelerator: of this process.
        running: buffers that a step moves, such as statistics of its windows. Each becomes the mean over the processes
            that moved it: of a body that is one process's alone, the others have none.
        before: their values before the step.
    """
    if accelerator.num_processes == 1:
        return
    _, replicated = by_sharding(parameters)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in replicated]
    moved = [not torch.equal(now, was) for now, was in zip(running, before, strict=True)]
    told = [*(p.grad is not None for p in replicated), *moved]
    values = [*gradients, *(now if by else torch.zeros_like(now) for now, by in zip(running, moved, strict=True))]
    held = torch.tensor(told, dtype=gradients[0].dtype, device=gradients[0].device)
    flat = torch.cat([*(value.flatten().to(held.dtype) for value in values), held])
    *means, held = cast(Tensor, accelerator.reduce(flat, "mean")).split([*(v.numel() for v in values), len(told)])
    shares = held.tolist()
    for parameter, mean, share in zip(replicated, means, shares, strict=False):
        parameter.grad = mean.view_as(parameter) if share else None
    for buffer, mean, share in zip(running, means[len(replicated) :], shares[len(replicated) :], strict=True):
        if share:
            buffer.copy_((mean / share).view_as(buffer))


def summed(metrics: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Numbers that every process has by the same names, added up over the processes."""
    values = torch.tensor(list(metrics.values()), dtype=torch.float32, device=device)
    torch.distributed.all_reduce(values)
    return dict(zip(metrics, values.tolist(), strict=True))


def clip_gradients(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """Scales all gradients so that their norm together is at most ``limit``; returns the norm before."""
    groups = [group for group in by_sharding(parameters) if any(p.grad is not None for p in group)]
    norms = []
    for group in groups:
        norms.append(whole(torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])))
    norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    for group in groups:
        torch.nn.utils.clip_grads_with_norm_(group, limit, norm)
    return norm

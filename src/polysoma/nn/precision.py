"""Precision: in what numbers products of matrices are computed, chosen by what the processor has.

bfloat16 is several times faster than float32 where there are units for it, and many times slower where there are none
(24 times, measured for a training step with AVX2). Sums, normalisations and what is stored of a training are float32
either way, so checkpoints do not depend on it. Equal bits can be expected for equal precision, machine and threads.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from polysoma.errors import PolysomaError

if TYPE_CHECKING:
    import torch  # slow to import, and the command line asks this module for names alone

Precision = Literal["float32", "bfloat16"]
Wanted = Literal["auto", "float32", "bfloat16"]
"""A precision, or ``"auto"`` for the one that suits the processor."""

VARIABLE = "POLYSOMA_PRECISION"
"""The environment variable that chooses where nobody else does."""

_BEFORE_IT_WAS_RECORDED: Precision = "bfloat16"


def chosen(device: str | torch.device, wanted: str | None = None) -> Precision:
    """The precision to compute in.

    Args:
        device: on which.
        wanted: a precision; or None or ``"auto"``, for that of the variable :data:`VARIABLE` if it is set, else
            bfloat16 where the device has units for it and float32 where it has none.

    Raises:
        PolysomaError: neither a precision nor ``"auto"``.
    """
    return asked(wanted) or ("bfloat16" if _has_bfloat16(str(device).partition(":")[0]) else "float32")


def asked(wanted: str | None = None) -> Precision | None:
    """The precision that somebody asks for: the caller, or else the variable :data:`VARIABLE`; None where nobody does.
    Raises PolysomaError as :func:`chosen`."""
    for said, where in ((wanted, "precision"), (os.environ.get(VARIABLE), VARIABLE)):
        if said not in (None, "", *get_args(Wanted)):
            raise PolysomaError(f"{where}: expected one of {', '.join(get_args(Wanted))}, got {said!r}")
        if said in get_args(Precision):
            return cast(Precision, said)
    return None


def resumed(recorded: str | None, wanted: str | None, run: str) -> Precision:
    """The precision in which a run continues: its own.

    Args:
        recorded: what the run was computed in; None where it is from a time when that was not recorded.
        wanted: as for :func:`chosen`.
        run: what errors call it.

    Raises:
        PolysomaError: another precision is asked for.
    """
    explicit = None if wanted in (None, "", "auto") else chosen("cpu", wanted)
    if recorded is None:
        return explicit or _BEFORE_IT_WAS_RECORDED
    if explicit not in (None, recorded):
        raise PolysomaError(f"{run} was computed in {recorded} so far and cannot be resumed in {explicit}")
    return chosen("cpu", recorded)


def autocast(device: str | torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Products of matrices in this precision, all else in float32, whatever is set outside."""
    import torch

    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")


def dtype(precision: Precision) -> torch.dtype:
    """That of matrices that are only multiplied by."""
    import torch

    return torch.bfloat16 if precision == "bfloat16" else torch.float32


@functools.cache
def instruction_set() -> str:
    """The best instructions for products that torch uses on this processor: ``"AMX"``, ``"AVX-512 bfloat16"``,
    ``"AVX-512"``, ``"AVX2"``, or what else torch calls them."""
    import torch

    used = str(torch.backends.cpu.get_cpu_capability())
    if used != "AVX512":
        return {"DEFAULT": platform.machine()}.get(used, used)
    if _has("_is_amx_tile_supported"):
        return "AMX"
    return "AVX-512 bfloat16" if _has("_is_avx512_bf16_supported") else "AVX-512"


@functools.cache
def _has_bfloat16(device: str) -> bool:
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    return device == "cpu" and instruction_set() in ("AMX", "AVX-512 bfloat16")


def _has(question: str) -> bool:
    import torch

    # Private, so it may be gone tomorrow.
    ask: Callable[[], bool] | None = getattr(torch.cpu, question, None)
    return ask is not None and bool(ask())

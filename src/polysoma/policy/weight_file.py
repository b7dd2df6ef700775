"""Weights as they lie in a file. What the file says of itself is compared with what its configuration asks for before
anything is made, so that a checkpoint of somebody else can ask for no more memory than it has bytes."""

from __future__ import annotations

import functools
import hashlib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from polysoma.errors import PolysomaError
from polysoma.files import reason
from polysoma.policy.adaptation import shared_names
from polysoma.policy.config import PolicyConfig
from polysoma.policy.network import Network

_HEADER = 2**24
"""Bytes of the longest header: some hundred thousand tensors."""
_DTYPES = frozenset({"F64", "F32", "BF16", "F16"})
_NAMED = 3


class Stored(NamedTuple):
    """A tensor in a file, as safetensors says it."""

    dtype: str
    shape: tuple[int, ...]


def header(file: Path) -> dict[str, Stored]:
    """What a file of weights holds, by name. Raises PolysomaError where it is missing or damaged."""
    try:
        size = regular(file).st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(_HEADER, size - 8):
            raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
        with safetensors.safe_open(file, "pt") as opened_tensors:
            slices = {name: opened_tensors.get_slice(name) for name in opened_tensors.keys()}  # noqa: SIM118
            return {name: Stored(s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except (OSError, ValueError, OverflowError, safetensors.SafetensorError) as error:
        raise PolysomaError(
            f"cannot read {file} ({reason(error)}): it is missing or damaged, fetch it again"
        ) from error


def regular(file: Path) -> Any:
    """The ``stat`` of a file, links followed: those of the Hub's cache are some. Raises OSError where it is none that
    can be read to an end."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    return status


def check(file: Path, config: PolicyConfig, base: Network | None) -> None:
    """Whether a file holds what a configuration asks for.

    Args:
        file: of weights.
        config: of the policy.
        base: whose weights it adapts; None where it stands alone.

    Raises:
        PolysomaError: the file is damaged, tensors are missing, unknown, of another shape or no real numbers, or the
            configuration is of a policy that cannot be.
    """
    held = header(file)
    try:
        with _Sizes():
            policy = Network(config)
    except PolysomaError as error:
        raise PolysomaError(f"{file.parent}: {error}") from error
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # Sizes beyond what can be counted, and names that no module can have.
        raise PolysomaError(f"{file.parent}: a policy of this configuration cannot be ({reason(error)})") from error
    shared: set[str] = set()
    if base is not None and config.adaptation is not None:
        shared = shared_names(policy, base, config.adaptation)
    check_tensors(file, {name: value for name, value in policy.state_dict().items() if name not in shared}, held)


def check_tensors(file: Path, tensors: Mapping[str, Tensor], held: Mapping[str, Stored] | None = None) -> None:
    """Whether a file holds tensors of these names and shapes, and no others.

    Args:
        file: of weights.
        tensors: by name; their values do not count.
        held: the file's :func:`header` where it has been read.

    Raises:
        PolysomaError: the file is damaged, or tensors are missing, unknown, of another shape or no real numbers.
    """
    held = header(file) if held is None else held
    asked = {name: tuple(value.shape) for name, value in tensors.items()}
    problems = [f"{name} is missing" for name in sorted(asked.keys() - held.keys())]
    problems += [f"{name} is unknown" for name in sorted(held.keys() - asked.keys())]
    for name in asked.keys() & held.keys():
        dtype, shape = held[name]
        if shape != asked[name]:
            problems.append(f"{name} is of shape {shape} instead of {asked[name]}")
        elif dtype not in _DTYPES:
            problems.append(f"{name} is {dtype}, not real numbers")
    if problems:
        more = f" and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise PolysomaError(f"{file} does not fit its config.json: {'; '.join(problems[:_NAMED])}{more}")


class _Sizes(TorchFunctionMode):
    """Parameters that have a shape alone, on torch's device for that. They are neither filled nor scaled, which would
    load the half of torch that compiles: a second and a hundred megabytes."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, options = getattr(func, "__name__", ""), kwargs or {}
        if func in (torch.empty, torch.randn, torch.zeros, torch.ones) and args != ((),):
            return torch.empty(*args, **{**options, "device": "meta"})
        if name.endswith("_") and not name.endswith("__"):
            return args[0] if args else options["tensor"]
        if name in ("mul", "__mul__", "__rmul__", "div", "__truediv__") and isinstance(args[1], float):
            return args[0]
        return func(*args, **options)


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file that :func:`check` has found right, float32. Raises PolysomaError where there are others
    than finite numbers."""
    try:
        tensors = {name: tensor.float() for name, tensor in safetensors.torch.load_file(file).items()}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise PolysomaError(f"cannot read {file} ({reason(error)}): it is damaged, fetch it again") from error
    if bad := sorted(name for name, value in tensors.items() if not value.isfinite().all()):
        raise PolysomaError(f"{file} holds numbers that are not finite, in {', '.join(bad[:_NAMED])}")
    return tensors


def check_sum(file: Path, told: Mapping[str, Any]) -> str:
    """The SHA-256 of a file of weights, compared with what its ``config.json`` says; older ones say nothing, and while
    weights are replaced there are two.

    Raises:
        PolysomaError: they differ.
    """
    found, said = _sha256(file), told.get("weights_sha256")
    if said is not None and found not in (said if isinstance(said, list) else [said]):
        raise PolysomaError(
            f"{file} has the SHA-256 {found[:12]}..., its config.json says {str(said)[:12]}...: it is damaged or of "
            "another checkpoint, fetch it again"
        )
    return found


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal; computed once for each version of it. Raises OSError."""
    status = regular(file)
    return _remembered(file, status.st_mtime_ns, status.st_size, status.st_ino)


@functools.lru_cache(maxsize=1024)
def _remembered(file: Path, *_: int) -> str:
    return _sha256(file)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

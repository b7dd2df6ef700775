"""Backend: what computes the decisions of a policy that acts, torch or ONNX Runtime."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Literal

from polysoma.errors import PolysomaError
from polysoma.nn import precision
from polysoma.nn.precision import Precision

if TYPE_CHECKING:
    import torch  # slow to import, and the command line asks this module for names alone

Backend = Literal["torch", "onnx"]
Wanted = Literal["auto", "torch", "onnx"]
"""A backend, or ``"auto"`` for ONNX Runtime where it is installed and the policy acts on a CPU."""

VARIABLE = "POLYSOMA_BACKEND"
"""The environment variable that chooses where nobody else does."""
INSTALL = "pip install 'polysoma[export]'"


def chosen(
    device: str | torch.device, wanted: str | None = None, computed_in: str | None = None, transformer: bool = True
) -> tuple[Backend, Precision]:
    """What decisions are computed by, and in which precision. ONNX Runtime computes in float32, which is the faster of
    the two for one robot even where the processor has units for bfloat16.

    Args:
        device: where the policy acts.
        wanted: a backend; or None or ``"auto"``, for that of the variable :data:`VARIABLE` if it is set, else ONNX
            Runtime where onnx and onnxruntime are installed, the device is a CPU and nobody asks for bfloat16.
        computed_in: a precision that is asked for, as for :func:`polysoma.nn.precision.chosen`.
        transformer: whether the policy's trunk is one; ONNX Runtime computes no others.

    Raises:
        PolysomaError: not a backend, or ``"onnx"`` where it is not installed, for another device, another trunk or in
            bfloat16.
    """
    for asked, where in ((wanted, "backend"), (os.environ.get(VARIABLE), VARIABLE)):
        if asked not in (None, "", "auto", "torch", "onnx"):
            raise PolysomaError(f"{where}: expected auto, torch or onnx, got {asked!r}")
    backend = next((b for b in (wanted, os.environ.get(VARIABLE)) if b not in (None, "", "auto")), "auto")
    asked_for = precision.asked(computed_in)
    if backend == "torch":
        return "torch", precision.chosen(device, computed_in)
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    problem = ""
    if missing:
        problem = f"needs {', '.join(missing)}, not installed here: run `{INSTALL}`"
    elif str(device).partition(":")[0] != "cpu":
        problem = f"acts on a CPU; this policy is on {device}"
    elif not transformer:
        problem = "computes transformers, and the trunk of this policy is none"
    elif asked_for == "bfloat16":
        problem = "computes in float32, and bfloat16 was asked for"
    if not problem:
        return "onnx", "float32"
    if backend == "onnx":
        raise PolysomaError(f"the backend onnx {problem}")
    return "torch", precision.chosen(device, computed_in)

"""Device: where tensors are computed, and whether that can be had here."""

from __future__ import annotations

from pydantic_core import PydanticCustomError

from polysoma.errors import PolysomaError

AUTO = "auto"
"""Leaves it to what is done: learning takes a GPU where there is one, acting the processor."""


def here() -> list[str]:
    """The devices of this machine, the processor first: ``["cpu", "cuda:0"]``."""
    import torch  # slow to import, and the command line asks this module for names alone

    if not torch.accelerator.is_available():
        return ["cpu"]
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    return ["cpu", *(f"{kind.type}:{number}" for number in range(torch.accelerator.device_count()))]


def checked(device: str) -> str:
    """The device, for annotations of settings. Raises pydantic's error where it cannot be had."""
    if device in (AUTO, "cpu"):
        return device
    there = here()
    if device in there or f"{device}:0" in there:
        return device
    raise PydanticCustomError("device", "auto or a device of this machine ({there})", {"there": ", ".join(there)})


def accelerator(device: str = "") -> str:
    """The name of a GPU, for people: that of ``device``, or without one of all on which this process has computed.
    Empty where that was the processor."""
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return ""
    if device:
        return str(torch.cuda.get_device_name(device))
    # Asking a GPU that nobody has used would begin to use it.
    here = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    used = [torch.cuda.get_device_name(number) for number in here if torch.cuda.max_memory_allocated(number)]
    return ", ".join(dict.fromkeys(used))


def acting_on(device: str) -> str:
    """The device on which a policy acts. Raises PolysomaError where it cannot be had."""
    try:
        return "cpu" if device == AUTO else checked(device)
    except PydanticCustomError as error:
        raise PolysomaError(f"device: expected {error.message()}, got {device!r}") from error

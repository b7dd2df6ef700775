"""A checkpoint is a folder: ``model.safetensors`` and ``config.json``. Nothing in it is ever executed or unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from polysoma import hub
from polysoma.errors import PolysomaError
from polysoma.files import write_atomically
from polysoma.policy.policy import Policy, PolicyConfig

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"
FILES = (CONFIG, WEIGHTS)
SHIPPED = "generalist"
"""The name that stands for the weights shipped with the package, wherever a checkpoint is asked for."""


def save(
    policy: Policy, folder: Path, dtype: torch.dtype = torch.float32, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Writes a checkpoint.

    Args:
        policy: whose configuration, and weights unless given, are written.
        folder: created when missing.
        dtype: of the stored weights; bfloat16 for shipping.
        weights: other weights of the same names, e.g. a moving average.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = dict(policy.state_dict() if weights is None else weights)
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()}
    config = {"format_version": FORMAT_VERSION, **policy.config.to_json()}
    write_atomically(folder / "model.safetensors", safetensors.torch.save(tensors, {"format": "pt"}))
    write_atomically(folder / "config.json", (json.dumps(config, indent=1) + "\n").encode())


def resolve(path: str | Path) -> Path:
    """The folder of a checkpoint.

    Args:
        path: a folder; ``"generalist"`` for the shipped weights; or ``"user/name"`` of the Hugging Face Hub, which is
            fetched unless a folder is called so or it was fetched before.

    Raises:
        PolysomaError: there is none.
    """
    if str(path) == SHIPPED and not Path(path).is_dir():
        folder = Path(str(resources.files("polysoma"))) / "weights" / SHIPPED
    elif isinstance(path, str) and hub.is_name(path):
        folder = hub.fetched(path, "checkpoint", list(FILES))
    else:
        folder = Path(path)
    if not (folder / "config.json").is_file():
        raise PolysomaError(
            f"no checkpoint at {folder}: expected a folder with config.json and model.safetensors, or the name "
            f"{SHIPPED!r} for the shipped weights"
        )
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed ``config.json`` of a checkpoint, its format version checked."""
    try:
        config = json.loads((folder / "config.json").read_text())
        version = int(config["format_version"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolysomaError(f"{folder / 'config.json'} is not the configuration of a checkpoint ({error})") from error
    if version > FORMAT_VERSION:
        raise PolysomaError(
            f"{folder} has checkpoint format {version}, this polysoma reads up to {FORMAT_VERSION}: "
            "upgrade with `pip install --upgrade polysoma`"
        )
    return config


def bodies(path: str | Path) -> list[str]:
    """The names of the bodies that a checkpoint knows. Raises PolysomaError as :func:`load` does."""
    return [body.name for body in PolicyConfig.from_json(read_config(resolve(path))).embodiments]


def load(path: str | Path = SHIPPED, device: str | torch.device = "cpu") -> Policy:
    """Loads a policy for use: frozen, matrices in bfloat16.

    Args:
        path: the folder of a checkpoint, or ``"generalist"`` for the weights shipped with the package.
        device: e.g. ``"cpu"``, ``"cuda"``.

    Raises:
        PolysomaError: no checkpoint there, a newer format, or weights that are damaged or do not fit.
    """
    return load_for_training(path).for_inference().to(device)


def load_for_training(path: str | Path) -> Policy:
    """As :func:`load`, with float32 weights that take gradients."""
    folder = resolve(path)
    config = read_config(folder)
    policy = Policy(PolicyConfig.from_json(config))
    file = folder / "model.safetensors"
    try:
        tensors = safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise PolysomaError(f"cannot read {file} ({error}): it is missing or damaged, fetch it again") from error
    try:
        policy.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        problems = " ".join(str(error).split())
        raise PolysomaError(f"{file} does not fit its config.json: {problems}") from error
    return policy

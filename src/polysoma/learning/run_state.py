"""The state of a run on disk, in ``training/``: all that a resumed run needs, in a folder that is swapped in whole.

Format 2 names tensors ``modules.MODULE.NAME`` (parameters and buffers), ``average.MODULE.NAME``,
``optimizer.MODULE.NAME.FIELD`` and ``method.NAME``. Format 1 knew a policy alone; it is read as that module.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from polysoma.errors import PolysomaError
from polysoma.files import write_atomically
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy

FOLDER = "training"
STATE_FILE, POLICY_FILE, RECIPE_FILE = "training.safetensors", "policy.json", "recipe.json"
FORMAT = 2


def tensors_of(modules: nn.ModuleDict) -> dict[str, Tensor]:
    """Parameters and buffers as ``MODULE.NAME``, those excepted that a policy shares with its base."""
    return {
        f"{module}.{name}": value
        for module, held in modules.items()
        for name, value in (held.own() if isinstance(held, Policy) else held.state_dict()).items()
    }


def as_json(settings: Any) -> dict[str, Any]:
    """Settings as JSON."""
    return dataclasses.asdict(settings)


def check_folder(out: Path, resume: bool) -> None:
    """Raises PolysomaError where there is no run to resume, or one is in the way."""
    state = out / FOLDER / STATE_FILE
    if resume and not state.is_file():
        raise PolysomaError(f"nothing to resume in {out}: no {state}; start it without --resume")
    if not resume and (out / FOLDER).exists():
        raise PolysomaError(f"{out} already holds a run: continue it with --resume or choose another folder")


def save(
    folder: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any], config: PolicyConfig, settings: Any
) -> None:
    """Writes everything that a resumed run needs.

    Args:
        folder: swapped in whole.
        tensors: by name.
        about: numbers and lists of them, by name.
        config: of the policy.
        settings: of the run: a recipe, or those of an engine.
    """
    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    cpu: dict[str, Tensor] = {}
    places = set()
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        # Modules may share parameters; a file of safetensors may not.
        cpu[name] = value.clone() if value.data_ptr() in places else value
        places.add(value.data_ptr())
    metadata = {name: value if name == "precision" else json.dumps(value) for name, value in about.items()}
    metadata["format"] = str(FORMAT)
    write_atomically(fresh / STATE_FILE, safetensors.torch.save(cpu, metadata))
    write_atomically(fresh / POLICY_FILE, json.dumps(config.to_json()).encode())
    write_atomically(fresh / RECIPE_FILE, json.dumps(as_json(settings), indent=1).encode())
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name in today's format, and what :func:`save` was told about them.

    Raises:
        PolysomaError: a newer format, or a file that is damaged.
    """
    path = folder / STATE_FILE
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
        tensors = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise PolysomaError(f"cannot read {path} ({error}): it is missing or damaged") from error
    # The precision is a bare word, as runs had it before there was a format.
    about = {name: value if name == "precision" else json.loads(value) for name, value in metadata.items()}
    version = about.pop("format", 1)
    if version > FORMAT:
        raise PolysomaError(
            f"{folder} is of format {version}, this polysoma reads up to {FORMAT}: upgrade with "
            "`pip install --upgrade polysoma`"
        )
    return ({_renamed(name): value for name, value in tensors.items()} if version == 1 else tensors), about


def _renamed(name: str) -> str:
    """The name in format 2 of a tensor of format 1."""
    kind, _, rest = name.partition(".")
    return f"modules.policy.{rest}" if kind == "policy" else f"{kind}.policy.{rest}"

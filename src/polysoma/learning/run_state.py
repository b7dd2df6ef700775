"""The state of a run on disk (:mod:`polysoma.learning.states`): all that a resumed run needs.

Format 2 names tensors ``modules.MODULE.NAME`` (parameters and buffers), ``average.MODULE.NAME``,
``optimizer.MODULE.NAME.FIELD`` and ``method.NAME``. Format 1 knew a policy alone; it is read as that module.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from polysoma.errors import PolysomaError
from polysoma.files import reason
from polysoma.learning import states
from polysoma.policy.config import PolicyConfig
from polysoma.policy.policy import Policy
from polysoma.policy.small import Stored

STATE_FILE, POLICY_FILE, RECIPE_FILE = "training.safetensors", "policy.json", "recipe.json"
FORMAT = 2

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


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
    if resume:
        states.find(out, STATE_FILE)
    elif states.exists(out):
        raise PolysomaError(
            f"{out} already holds a run: continue it with --resume where the command has it, or choose another folder"
        )


def check_kept(had: Any, now: Any, folder: Path) -> None:
    """Raises PolysomaError where a run is to be resumed as another one.

    Args:
        had: what the run keeps to, as can be written as JSON.
        now: what is asked for, likewise. Keys that one of both lacks are of another version.
        folder: with the state of the run.
    """
    if strange := list(_differences(*(json.loads(json.dumps(one)) for one in (had, now)))):
        more = f", and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise PolysomaError(
            f"{folder.parent}: a resumed run keeps what it began with: {'; '.join(strange[:3])}{more}; begin another "
            "one, or ask for the same"
        )


def _differences(had: Any, now: Any, key: str = "") -> Iterator[str]:
    if isinstance(had, dict) and isinstance(now, dict):
        for name in (name for name in now if name in had):
            yield from _differences(had[name], now[name], f"{key}.{name}" if key else name)
    elif isinstance(had, list) and isinstance(now, list) and len(had) == len(now):
        for number, (one, other) in enumerate(zip(had, now, strict=True)):
            yield from _differences(one, other, f"{key}.{number}")
    elif had != now:
        yield f"{key} {_short.repr(had)}, not {_short.repr(now)}"


def save(
    out: Path,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
    config: PolicyConfig | Stored,
    settings: Any,
) -> None:
    """Writes everything that a resumed run needs.

    Args:
        out: folder of the run, which the caller holds.
        tensors: by name.
        about: numbers and lists of them, by name.
        config: of the policy.
        settings: of the run: a recipe, or those of an engine.
    """
    cpu: dict[str, Tensor] = {}
    places = set()
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        # Modules may share parameters; a file of safetensors may not.
        cpu[name] = value.clone() if value.data_ptr() in places else value
        places.add(value.data_ptr())
    metadata = {name: value if name == "precision" else json.dumps(value) for name, value in about.items()}
    metadata["format"] = str(FORMAT)
    files = {
        STATE_FILE: safetensors.torch.save(cpu, metadata),
        POLICY_FILE: json.dumps(config.to_json()).encode(),
        RECIPE_FILE: json.dumps(as_json(settings), indent=1).encode(),
    }
    states.write(out, files)


def policy_config(folder: Path) -> PolicyConfig:
    """The configuration of a run's policy. Raises PolysomaError where it is missing or damaged."""
    return PolicyConfig.from_json(read_table(folder / POLICY_FILE))


def read_table(path: Path) -> dict[str, Any]:
    """A table of a run's state. Raises PolysomaError where it is missing or damaged."""
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise PolysomaError(f"cannot read {path} ({reason(error)}): it is missing or damaged") from error
    if not isinstance(table, dict):
        raise PolysomaError(f"cannot read {path}: expected a table, got {type(table).__name__}")
    return table


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
        # The precision is a bare word, as runs had it before there was a format.
        about = {name: value if name == "precision" else json.loads(value) for name, value in metadata.items()}
        version = int(about.pop("format", 1))
    except (OSError, ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise PolysomaError(f"cannot read {path} ({reason(error)}): it is missing or damaged") from error
    if version > FORMAT:
        raise PolysomaError(f"{folder} is of format {version}, this polysoma reads up to {FORMAT}: upgrade Polysoma")
    return ({_renamed(name): value for name, value in tensors.items()} if version == 1 else tensors), about


def with_new_words(tensors: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A run's tensors for a policy that knows more words by now: these begin as it has them, and move about as far as
    the others did.

    Args:
        tensors: as :func:`load` gives them.
        held: parameters and buffers as :func:`tensors_of`, with the words that came since behind the others.
    """
    table, found = "policy.text.words.weight", dict(tensors)
    known = tensors.get(f"modules.{table}")
    if known is None or table not in held or len(held[table]) <= len(known):
        return found
    fresh = held[table].detach()[len(known) :].to(known)
    more = {"exp_avg": torch.zeros_like(fresh)}
    if (squares := tensors.get(f"optimizer.{table}.exp_avg_sq")) is not None:
        more["exp_avg_sq"] = squares.mean(0).expand_as(fresh)
    for name, value in tensors.items():
        if table in name and value.shape == known.shape:
            found[name] = torch.cat([value, more.get(name.rpartition(".")[2], fresh)])
    return found


def learnt(out: Path) -> tuple[int, float]:
    """Steps of the run in this folder, and the seconds that they took. Raises PolysomaError where there is none."""
    about = load(states.find(out, STATE_FILE)[0])[1]
    return int(about["step"]), float(about.get("seconds", 0.0))


def _renamed(name: str) -> str:
    """The name in format 2 of a tensor of format 1."""
    kind, _, rest = name.partition(".")
    return f"modules.policy.{rest}" if kind == "policy" else f"{kind}.policy.{rest}"

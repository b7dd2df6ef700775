"""A checkpoint is a folder: ``model.safetensors`` and ``config.json``. Nothing in it is ever executed or unpickled.

That of an adaptation (:mod:`polysoma.policy.adaptation`) holds what differs from its base, and says which base that is.
Adaptations may be attached to their base, each as a checkpoint in a folder below ``adaptations/``, to drive their
bodies.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from polysoma import hub
from polysoma.errors import PolysomaError
from polysoma.files import explain_writing, reason, write_atomically
from polysoma.nn.backend import chosen
from polysoma.nn.device import acting_on
from polysoma.nn.trunk import TransformerTrunk
from polysoma.policy import dynamics, rewards, search, skills, small, values, weight_file, world
from polysoma.policy.adaptation import Adaptation, share
from polysoma.policy.config import PolicyConfig
from polysoma.policy.edits import with_base
from polysoma.policy.policy import Policy
from polysoma.policy.small import SmallPolicy, Stored

FORMAT_VERSION = 2
_LARGEST_CONFIG = 2**23
"""Bytes: forty times those of the shipped weights."""
WEIGHTS, CONFIG = "model.safetensors", "config.json"
FILES = (CONFIG, WEIGHTS)
ATTACHED = "adaptations"
"""The folder of adaptations that are attached to a checkpoint."""
ALONE = {
    skills.KIND: "skill policy",
    dynamics.KIND: "grey box",
    values.KIND: "values of choices",
    world.KIND: "world model",
    search.KIND: "model to search in",
}
"""What drives one body alone and is no transformer policy: its kind in ``config.json``, and what to call it."""
_SMALL: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    skills.KIND: skills.SkillConfig.from_json,
    dynamics.KIND: dynamics.DynamicsConfig.from_json,
    values.KIND: values.ValueConfig.from_json,
    world.KIND: world.WorldConfig.from_json,
    search.KIND: search.SearchConfig.from_json,
    rewards.KIND: rewards.RewardConfig.from_json,
}
"""How the configuration of a small network is decoded, by its kind."""
SHIPPED = "generalist"
"""The name that stands for the weights shipped with the package, wherever a checkpoint is asked for."""


def save(
    policy: Policy | SmallPolicy,
    folder: Path,
    dtype: torch.dtype = torch.float32,
    weights: Mapping[str, torch.Tensor] | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> None:
    """Writes a checkpoint, with the adaptations that are attached.

    Args:
        policy: whose configuration, and weights unless given, are written; of an adaptation, its own alone.
        folder: created when missing.
        dtype: of the stored weights; bfloat16 for shipping.
        weights: other weights of the same names, e.g. a moving average.
        lineage: where the weights come from (:mod:`polysoma.learning.lineage`), kept in ``config.json``.

    Raises:
        PolysomaError: as :func:`check_place`, or the folder cannot be written.
    """
    check_place(folder, policy.adaptations)
    sha256 = _write(policy, policy.config, folder, dtype, weights, lineage)
    for name, attached_one in policy.adaptations.items():
        adaptation = attached_one.config.adaptation
        assert adaptation is not None
        named = dataclasses.replace(adaptation, base=str(folder.resolve()), base_sha256=sha256)
        config = dataclasses.replace(attached_one.config, adaptation=named)
        _write(attached_one, config, folder / ATTACHED / name, dtype, None, None)


def _write(
    policy: Policy | SmallPolicy,
    config: PolicyConfig | Stored,
    folder: Path,
    dtype: torch.dtype,
    weights: Mapping[str, torch.Tensor] | None,
    lineage: Mapping[str, Any] | None,
) -> str:
    """Returns the SHA-256 of the file of weights."""
    with explain_writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    state = dict(policy.state_dict() if weights is None else weights)
    own = {name: tensor for name, tensor in state.items() if name not in policy.shared}
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in own.items()}
    told = {"format_version": FORMAT_VERSION, **config.to_json()}
    if lineage is not None:
        told["lineage"] = dict(lineage)
    content = safetensors.torch.save(tensors, {"format": "pt"})
    sha256 = hashlib.sha256(content).hexdigest()
    if (folder / WEIGHTS).is_file():
        # Whoever is killed between the two files leaves a checkpoint of either weights.
        _write_config(folder, told, [sha256, weight_file.sha256(folder / WEIGHTS)])
    write_atomically(folder / WEIGHTS, content)
    _write_config(folder, told, sha256)
    return sha256


def _write_config(folder: Path, told: Mapping[str, Any], sums: str | list[str]) -> None:
    write_atomically(folder / CONFIG, (json.dumps({**told, "weights_sha256": sums}, indent=1) + "\n").encode())


def resolve(path: str | Path) -> Path:
    """The folder of a checkpoint.

    Args:
        path: a folder; ``"generalist"`` for the shipped weights; or ``"hf://user/name"`` of the Hugging Face Hub,
            ``"hf://user/name@revision"`` for one version of it.

    Raises:
        PolysomaError: there is none.
    """
    name = str(path)
    if name == SHIPPED and not Path(path).is_dir():
        folder = Path(str(resources.files("polysoma"))) / "weights" / SHIPPED
    elif hub.is_name(name):
        folder = hub.fetched(name, "checkpoint", [*FILES, f"{ATTACHED}/*"])
    else:
        folder = Path(path)
    if not (folder / CONFIG).is_file():
        raise PolysomaError(
            f"no checkpoint at {folder}: expected a folder with {CONFIG} and {WEIGHTS}, or the name "
            f"{SHIPPED} for the shipped weights{hub.advice(name)}"
        )
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed ``config.json`` of a checkpoint, its format version checked.

    Raises:
        PolysomaError: it is missing, no regular file, too large, no JSON or of a newer format.
    """
    file = folder / CONFIG
    try:
        if (size := weight_file.regular(file).st_size) > _LARGEST_CONFIG:
            raise ValueError(f"{size:,} bytes")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PolysomaError(f"{file} is not the configuration of a checkpoint ({reason(error)})") from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if type(version) is not int or version < 1:
        raise PolysomaError(f"{file} is not the configuration of a checkpoint (format_version is {version!r})")
    if version > FORMAT_VERSION:
        raise PolysomaError(
            f"{folder} has checkpoint format {version}, this polysoma reads up to {FORMAT_VERSION}: upgrade Polysoma"
        )
    _check_lineage(file, config.get("lineage"))
    return config


def _check_lineage(file: Path, lineage: Any) -> None:
    """Whether a chain of trainings can be followed to its beginning."""
    known: Any = {"lineage": lineage}
    while known.get("lineage") is not None:
        training = known["lineage"]
        known = training.get("parent") or {} if isinstance(training, dict) else None
        named = isinstance(known, dict) and all(isinstance(known.get(key, ""), str) for key in ("name", "sha256"))
        if not named or (known and not {"name", "sha256", "lineage"} <= known.keys()):
            raise PolysomaError(f"{file}: lineage: expected a training with method, data and parent in each step")


def config_of(path: str | Path) -> PolicyConfig:
    """What a checkpoint's policy is built from. Raises PolysomaError as :func:`load` does."""
    folder = resolve(path)
    return _config(folder, read_config(folder))


def trunk_of(config: PolicyConfig) -> PolicyConfig:
    """That of the base, where the policy adapts one; itself otherwise. Raises PolysomaError as :func:`load` does."""
    return config if config.adaptation is None else config_of(config.adaptation.base)


def _config(folder: Path, told: Mapping[str, Any]) -> PolicyConfig:
    kind = str(told.get("kind"))
    if kind in ALONE:
        raise PolysomaError(f"{folder} holds a {ALONE[kind]}, which evaluate, record, serve and play drive alone")
    if kind == rewards.KIND:
        raise PolysomaError(f"{folder} holds a reward, which drives nothing: polysoma improve --reward plays for it")
    try:
        return PolicyConfig.from_json(told)
    except PolysomaError as error:
        raise PolysomaError(f"{folder / CONFIG}: {error}") from error


def bodies(path: str | Path) -> list[str]:
    """The names of the bodies that a checkpoint knows. Raises PolysomaError as :func:`load` does."""
    folder = resolve(path)
    told = read_config(folder)
    if (decoded := _SMALL.get(str(told.get("kind")))) is not None:
        return [small.config_in(folder, told, decoded).embodiment.name]
    return [body.name for body in _config(folder, told).embodiments]


def kind(path: str | Path) -> str:
    """What a checkpoint holds: a key of :data:`ALONE`, or ``""`` for a transformer policy. Raises PolysomaError as
    :func:`load` does."""
    found = str(read_config(resolve(path)).get("kind"))
    return found if found in ALONE else ""


def load(
    path: str | Path = SHIPPED,
    device: str | torch.device = "cpu",
    precision: str | None = None,
    backend: str | None = None,
) -> Policy:
    """Loads a policy for use: frozen, matrices in the precision that it computes in.

    Args:
        path: the folder of a checkpoint, or ``"generalist"`` for the weights shipped with the package.
        device: e.g. ``"cpu"``, ``"cuda:1"``; ``"auto"`` is the processor.
        precision: ``"float32"`` or ``"bfloat16"``; None or ``"auto"`` for what suits the device
            (:func:`polysoma.nn.precision.chosen`).
        backend: what computes decisions, ``"torch"`` or ``"onnx"``; None or ``"auto"`` for what is faster
            (:func:`polysoma.nn.backend.chosen`).

    Raises:
        PolysomaError: no checkpoint there, a newer format, weights that are damaged or do not fit, or a device,
            precision or backend that does not exist or cannot be had.
    """
    return load_all([path], device, precision, backend)[0]


def load_all(
    paths: Sequence[str | Path],
    device: str | torch.device = "cpu",
    precision: str | None = None,
    backend: str | None = None,
) -> list[Policy]:
    """As :func:`load`, several: bases and their adaptations have one copy of the weights that they share."""
    loaded = _Loaded()
    device = acting_on(str(device))
    chosen(device, backend, precision)  # what cannot be had is said before anything is read
    policies = [_load(path, loaded) for path in paths]
    # Bases last: adaptations that came with them are multiplied out of matrices that have all their digits.
    for policy in sorted(policies, key=lambda one: one.config.adaptation is None):
        by, used = chosen(device, backend, precision, isinstance(policy.trunk, TransformerTrunk))
        policy.to(device).for_inference(used).act_by(by)
    return policies


def load_for_training(path: str | Path) -> Policy:
    """As :func:`load`, with float32 weights that take gradients, those of a base excepted."""
    return _load(path, _Loaded()).freeze_shared()


@dataclass
class _Loaded:
    """What was loaded together.

    Attributes:
        folders: by the folder that they were read from.
        bases: by the SHA-256 of their weights, those that stand alone.
    """

    folders: dict[Path, Policy] = field(default_factory=dict)
    bases: dict[str, Policy] = field(default_factory=dict)


def _load(path: str | Path, loaded: _Loaded) -> Policy:
    """Args: path, and what stands loaded already, to which this one is added."""
    folder = resolve(path)
    if (known := loaded.folders.get(folder.resolve())) is not None:
        return known
    told = read_config(folder)
    config, file = _config(folder, told), folder / WEIGHTS
    base = None if config.adaptation is None else _base(folder, config.adaptation, loaded)
    weight_file.check(file, config, base)
    own = weight_file.check_sum(file, told)
    policy = Policy(config) if base is None else with_base(base, config)
    if base is None and own in loaded.bases:
        # Other adaptations of the same weights.
        share(policy, loaded.bases[own], policy.state_dict())
    else:
        policy.load_own(weight_file.read(file))
    loaded.folders[folder.resolve()] = policy
    if base is None:
        loaded.bases.setdefault(own, policy)
        for place in attached(folder):
            _check_base(place, config_of(place), folder)
            policy.attach(place.name, _load(place, loaded))
    return policy


def attached(folder: Path) -> list[Path]:
    """The folders of the adaptations that are attached to the checkpoint in this one."""
    return sorted(file.parent for file in folder.glob(f"{ATTACHED}/*/{CONFIG}"))


def check_place(folder: Path, names: Collection[str] = ()) -> None:
    """Raises PolysomaError where adaptations lie in a folder that a checkpoint with these attached ones alone is to be
    written into: the others would be taken for its own."""
    if strange := [place.name for place in attached(folder) if place.name not in names]:
        raise PolysomaError(
            f"{folder} holds a checkpoint with adaptations that do not belong to the new one ({', '.join(strange)}): "
            "choose another folder"
        )


def attach(base: str | Path, adaptations: Mapping[str, str | Path], out: Path) -> None:
    """Writes a checkpoint of a base with adaptations of it, which drive their bodies from then on. Those that are
    attached to it already stay, unless they are of the same name.

    Args:
        base: a checkpoint that stands alone.
        adaptations: of these weights, by names for their folders.
        out: folder of the new checkpoint.

    Raises:
        PolysomaError: something is no adaptation, adapts other weights or a body that the base does not know, two of
            them drive the same body, or as :func:`check_place`.
    """
    source = resolve(base)
    known = set(bodies(source))
    places = {place.name: place for place in attached(source)} | {name: resolve(p) for name, p in adaptations.items()}
    drivers: dict[str, str] = {}
    for name, place in places.items():
        _check_base(place, config_of(place), source)
        for body in bodies(place):
            if body not in known:
                raise PolysomaError(f"{base} does not know {body}, which {place} adds: serve both with --adapters")
            if other := drivers.get(body):
                raise PolysomaError(
                    f"{body} has two adaptations, {other} and {name}, expected one; {other}={place} replaces {other}"
                )
            drivers[body] = name
    check_place(out, places)
    copy([(source, out), *((place, out / ATTACHED / name) for name, place in places.items())])


def copy(copies: Iterable[tuple[Path, Path]]) -> None:
    """Copies the files of checkpoints, from folder to folder. Raises PolysomaError where that fails."""
    for start, target in copies:
        if start.resolve() == target.resolve():
            continue
        for file in FILES:
            try:
                weight_file.regular(start / file)
                content = (start / file).read_bytes()
            except OSError as error:
                raise PolysomaError(f"cannot read {start / file}: {reason(error)}") from error
            write_atomically(target / file, content)


def _check_base(place: Path, config: PolicyConfig, base: Path) -> None:
    if config.adaptation is None:
        raise PolysomaError(f"{place} is no adaptation: it stands alone, as checkpoints of --method full and small do")
    theirs, ours = config.adaptation.base_sha256, weights_sha256(base)
    if theirs != ours:
        raise PolysomaError(f"{place} adapts the weights {theirs[:12]}..., not those of {base}, {ours[:12]}...")


def untrained(config: PolicyConfig, folder: Path) -> Policy:
    """A policy to be trained whose own weights are random; an adaptation's others are those of its base, which is read.
    Errors name ``folder``.

    Raises:
        PolysomaError: the base is missing, damaged or not the one that the configuration names.
    """
    if config.adaptation is None:
        return Policy(config)
    return with_base(_base(folder, config.adaptation, _Loaded()), config).freeze_shared()


def _base(folder: Path, adaptation: Adaptation, loaded: _Loaded) -> Policy:
    """The policy that the adaptation in a folder adapts."""
    if (known := loaded.bases.get(adaptation.base_sha256)) is not None:
        return known
    # What is attached to a checkpoint goes where that one goes.
    around = folder.parent.parent
    beside = folder.parent.name == ATTACHED and (around / WEIGHTS).is_file()
    beside = beside and weights_sha256(around) == adaptation.base_sha256
    try:
        place = around if beside else resolve(adaptation.base)
    except PolysomaError as error:
        raise PolysomaError(f"{folder / CONFIG}: adaptation.base: {error}") from error
    if (found := weights_sha256(place)) != adaptation.base_sha256:
        raise PolysomaError(
            f"{folder} adapts the weights {adaptation.base_sha256[:12]}..., and {adaptation.base} has {found[:12]}... "
            "now: get the weights that it was made from, or adapt anew with `polysoma finetune`"
        )
    if config_of(place).adaptation is not None:
        raise PolysomaError(f"{folder} adapts {place}, which adapts another one itself: expected one that stands alone")
    return _load(place, loaded)


def weights_sha256(path: str | Path) -> str:
    """SHA-256 of a checkpoint's file of weights, in hexadecimal. Raises PolysomaError as :func:`resolve` does."""
    file = resolve(path) / WEIGHTS
    try:
        return weight_file.sha256(file)
    except OSError as error:
        raise PolysomaError(f"cannot read {file} ({reason(error)}): it is missing, fetch it again") from error

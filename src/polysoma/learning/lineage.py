"""Lineage: where weights come from. Each checkpoint holds the whole chain of trainings that led to it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from polysoma.data.dataset import Dataset
from polysoma.data.mixture import Source
from polysoma.errors import PolysomaError
from polysoma.files import reason
from polysoma.learning.methods.meta import MetaLearning
from polysoma.learning.recipe import Recipe
from polysoma.policy import checkpoint
from polysoma.text import counted


def describe(recipe: Recipe, sources: Sequence[Source]) -> dict[str, Any]:
    """One training, as JSON: ``method``, ``demonstrations`` and ``held_out`` where some data was left out (see
    :meth:`~polysoma.data.mixture.Source.split`), ``data`` (name, bodies, episodes, frames and a fingerprint of each
    data set), ``parent`` (name, SHA-256 of its weights, and its own lineage; None without), and ``meta`` where it
    learnt what such an adaptation starts from."""
    method = "full" if recipe.adaptation is None else recipe.adaptation.method
    data = [of(dataset) for source in sources for dataset in source.datasets]
    split = {"demonstrations": recipe.demonstrations, "held_out": recipe.held_out}
    used = {name: value for name, value in split.items() if value}
    meta = _meta(recipe)
    return {"method": method, **used, **meta, "data": data, "parent": parent(recipe.init) if recipe.init else None}


def from_nothing(method: str, datasets: Sequence[Dataset]) -> dict[str, Any]:
    """One training that began with no checkpoint, as :func:`describe` says it."""
    return {"method": method, "data": [of(dataset) for dataset in datasets], "parent": None}


def of(dataset: Dataset) -> dict[str, Any]:
    """What a lineage says of a data set: name, body, episodes, frames and a fingerprint."""
    return {
        "name": dataset.root.name,
        "body": dataset.embodiment.name,
        "episodes": len(dataset.episode_length),
        "frames": len(dataset),
        "fingerprint": fingerprint(dataset),
    }


def parent(path: str) -> dict[str, Any]:
    """What a checkpoint's lineage says of the one that its training began with: its ``name``, the ``sha256`` of its
    weights, and its own ``lineage``."""
    known = checkpoint.read_config(checkpoint.resolve(path)).get("lineage")
    return {"name": path, "sha256": checkpoint.weights_sha256(path), "lineage": known}


def learnt_from(path: str | Path, dataset: Dataset) -> dict[str, Any] | None:
    """The last training, as :func:`describe` says it, that a checkpoint had on a data set; None where it had none.

    Raises PolysomaError where there is no checkpoint.
    """
    key = (fingerprint(dataset), dataset.embodiment.name)
    known = checkpoint.read_config(checkpoint.resolve(path)).get("lineage")
    while known:
        # Rounds of a fleet name no data.
        if any((data["fingerprint"], data["body"]) == key for data in known.get("data", ())):
            return dict(known)
        known = (known.get("parent") or {}).get("lineage")
    return None


def _meta(recipe: Recipe) -> dict[str, Any]:
    if not isinstance(recipe.method, MetaLearning):
        return {}
    return {"meta": {name: value for name, value in dataclasses.asdict(recipe.method).items() if name != "kind"}}


def fingerprint(dataset: Dataset) -> str:
    """What tells a data set from others: the SHA-256 of its episodes' lengths and seeds."""
    return hashlib.sha256(dataset.episode_length.tobytes() + dataset.episode_seed.tobytes()).hexdigest()


def _training(known: dict[str, Any]) -> str:
    bodies = sorted({data["body"] for data in known["data"]})
    episodes = sum(data["episodes"] for data in known["data"])
    each = f", {known['demonstrations']} of each task used" if "demonstrations" in known else ""
    method = known["method"]
    if "meta" in known:
        meta = known["meta"]
        method = f"the start of {method} by {meta['algorithm']} for {meta['inner_steps']} inner steps"
    numbers = f", in {known['precision']}" if "precision" in known else ""
    if "tasks" in known:
        reward = f"the learnt reward {known['reward']['name']} in" if "reward" in known else "the reward of"
        return f"{method}, {counted(known['steps'], 'step')} by {reward} {', '.join(known['tasks'])}{numbers}"
    return (
        f"{method}, {counted(known['steps'], 'step')} on {counted(episodes, 'episode')} of {', '.join(bodies)} "
        f"({', '.join(dict.fromkeys(data['name'] for data in known['data']))}){each}{numbers}"
    )


def tell(path: str | Path, name: str = "") -> list[str]:
    """The lineage of a checkpoint in words: a line for each training, the last one first; and whether it has a checksum
    of its weights. Raises PolysomaError where there is no checkpoint, or its lineage is malformed.

    Args:
        path: of the checkpoint.
        name: what it is called; its path by default.
    """
    folder = checkpoint.resolve(path)
    name, sha256 = name or str(path), checkpoint.weights_sha256(path)
    told = checkpoint.read_config(folder)
    try:
        return _told(told.get("lineage"), name, sha256, "" if "weights_sha256" in told else ", no checksum")
    except (KeyError, TypeError, ValueError) as error:
        raise PolysomaError(f"{folder}: its lineage is malformed ({reason(error)})") from error


def _told(known: dict[str, Any] | None, name: str, sha256: str, remark: str) -> list[str]:
    lines: list[str] = []
    while True:
        here = f"{name} ({sha256[:12]}{remark})"
        if known is None:
            return [*lines, f"{here}: no more is known"]
        if known["method"] == "fleet":
            rounds, robots = counted(known["steps"], "round"), counted(known["robots"], "robot")
            lines.append(f"{here}: {rounds} of a fleet, {robots} each, data unseen")
        else:
            lines.append(f"{here}: {_training(known)}")
        if known["parent"] is None:
            return lines
        name, sha256, known, remark = *(known["parent"][key] for key in ("name", "sha256", "lineage")), ""
